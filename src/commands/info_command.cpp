// revode info: what a checkpoint holds. Needs no MPI.
#include <cstdio>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "revode/io/checkpoint.hpp"
#include "revode/io/metrics.hpp"

#include "commands/commands.hpp"

namespace revode {

ExitStatus info_command(const Config& config) {
  const CheckpointReader reader(config.checkpoint, config.check
                                                       ? CheckpointReader::Checksums::verify
                                                       : CheckpointReader::Checksums::ignore);
  std::int64_t parameters = 0, bytes = 0;
  nlohmann::ordered_json arrays = nlohmann::ordered_json::array();
  for (const CheckpointReader::ArrayInfo& array : reader.arrays()) {
    std::int64_t size = 1;
    for (const std::int64_t extent : array.shape) size *= extent;
    bytes += size * static_cast<std::int64_t>(sizeof(float));
    const bool running =
        array.path.ends_with("/norm/mean") || array.path.ends_with("/norm/variance");
    if (array.path.starts_with("/model/") && !array.path.starts_with("/model/input/") && !running)
      parameters += size;
    arrays.push_back({{"path", array.path}, {"shape", array.shape}});
  }

  if (config.json != "-") {
    fmt::print("{}: {} parameters, {} of arrays\n", config.checkpoint, format_count(parameters),
               format_bytes(static_cast<double>(bytes)));
    fmt::print("checksums: {}\n", !reader.has_checksums() ? "none, so damage would not be seen"
                                  : config.check          ? "every byte is as it was written"
                                                 : "there; --check holds the file against them");
    fmt::print("\nconfig\n");
    for (const auto& [key, value] : reader.config().items())
      fmt::print("  {:<18}{}\n", key, value.dump());
    fmt::print("\nprogress{}\n", reader.progress().empty() ? ": none (a model alone)" : "");
    for (const auto& [key, value] : reader.progress().items())
      fmt::print("  {:<26}{}\n", key, value.dump());
    fmt::print("\narrays\n");
    for (const CheckpointReader::ArrayInfo& array : reader.arrays())
      fmt::print("  {:<44}[{}]\n", array.path, fmt::join(array.shape, ", "));
  }
  if (!config.json.empty())
    write_json(config.json, {{"file", config.checkpoint},
                             {"parameters", parameters},
                             {"array_bytes", bytes},
                             {"has_checksums", reader.has_checksums()},
                             {"checked", config.check && reader.has_checksums()},
                             {"config", reader.config()},
                             {"progress", reader.progress()},
                             {"arrays", arrays}});
  return ExitStatus::success;
}

}  // namespace revode
