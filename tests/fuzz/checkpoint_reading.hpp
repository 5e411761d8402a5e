// Reads a checkpoint as info, eval and resume do, as far as they go without ranks and a network.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "revode/checkpoint/file_content.hpp"
#include "revode/config/run_plan.hpp"
#include "revode/run/run_progress.hpp"
#include "revode/train/model_file.hpp"
#include "revode/train/stored_options.hpp"

#include "commands/commands.hpp"
#include "fuzz/fuzz_support.hpp"

namespace revode {

inline void read_arrays(const CheckpointReader& reader, const Architecture& architecture) {
  const ParameterMap map(architecture, {0, architecture.num_blocks()});
  std::vector<float> values(map.size());
  for (const ArraySlice& slice : array_slices(map, ArraySet::all, "/model", values.data()))
    reader.read(slice);
}

inline void start_from(const std::string& file, StoredUse use) {
  Config config;
  config.command = Command::train;
  (use == StoredUse::resume ? config.resume : config.checkpoint) = file;
  fill_from_checkpoint(config, use, file);
  const Architecture architecture = resolve(config);
  const CheckpointReader reader(file, CheckpointReader::Checksums::ignore);
  training_data_of(reader.config(), file);
  check_arrays(reader, architecture,
               use == StoredUse::resume ? StoredArrays::model_and_momentum : StoredArrays::model);
  if (use == StoredUse::resume) from_attributes(reader.progress(), file);
  read_arrays(reader, architecture);
}

/// `input`: what the file was made of.
inline void read_checkpoint(const std::string& file, std::string_view input) {
  content_of(file);
  accepts(input, [&] {
    Config config;
    config.command = Command::info;
    config.checkpoint = file;
    info_command(config);
  });
  accepts(input, [&] { start_from(file, StoredUse::model); });
  accepts(input, [&] { start_from(file, StoredUse::resume); });
  accepts(input, [&] { first_non_finite(CheckpointReader(file)); });
}

}  // namespace revode
