#include "revode/train/stored_options.hpp"

#include <nlohmann/json.hpp>

#include "revode/files/json_text.hpp"
#include "revode/train/model_file.hpp"

namespace revode {

void fill_from_checkpoint(Config& config, StoredUse use, const std::string& file) {
  apply_stored(config, CheckpointReader(file).config(), use, file);
}

void fill_from_checkpoint(Config& config, StoredUse use, const std::string& file,
                          CheckpointReader::Checksums checksums, const Communicator& communicator) {
  std::string stored;
  communicator.agree([&] {
    if (!communicator.is_root()) return;
    const CheckpointReader reader(file, checksums);
    note_missing_checksums(reader, file);
    stored = to_text(reader.config());
  });
  stored = communicator.broadcast(stored, 0);
  communicator.agree([&] { apply_stored(config, parse_json(stored), use, file); });
}

}  // namespace revode
