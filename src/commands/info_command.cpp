// revode info: what a checkpoint holds. Needs no MPI.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "revode/checkpoint/checkpoint_reader.hpp"
#include "revode/core/console.hpp"
#include "revode/files/json_text.hpp"
#include "revode/run/run_log.hpp"
#include "revode/run/write_permission.hpp"
#include "revode/train/provenance.hpp"

#include "commands/commands.hpp"

namespace revode {

ExitStatus info_command(const Config& config) {
  check_result_files(config);
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

  const auto step = reader.progress().value("step", nlohmann::json());
  const nlohmann::ordered_json run =
      step.is_number_integer() ? start_record_of(config.checkpoint, step.get<std::int64_t>())
                               : nullptr;

  if (!config.json_to_stdout()) {
    std::string text =
        fmt::format("{}: {} parameters, {} of arrays\n", config.checkpoint,
                    format_count(parameters), format_bytes(static_cast<double>(bytes)));
    text += fmt::format("checksums: {}\n",
                        !reader.has_checksums() ? "none, so damage would not be seen"
                        : config.check          ? "every byte is as it was written"
                                                : "there; --check holds the file against them");
    text += "\nconfig\n";
    for (const auto& [key, value] : reader.config().items())
      text += fmt::format("  {:<18}{}\n", key, to_text(value));
    text +=
        fmt::format("\nprogress{}\n", reader.progress().empty() ? ": none (a model alone)" : "");
    for (const auto& [key, value] : reader.progress().items())
      text += fmt::format("  {:<26}{}\n", key, to_text(value));
    if (!run.is_null()) {
      text += "\nrun that the file lies in\n";
      for (const auto& [key, value] : run.items())
        if (!value.is_object())
          text += fmt::format("  {:<18}{}\n", key,
                              value.is_string() ? value.get<std::string>() : to_text(value));
    }
    text += "\narrays\n";
    for (const CheckpointReader::ArrayInfo& array : reader.arrays())
      text += fmt::format("  {:<44}[{}]\n", array.path, fmt::join(array.shape, ", "));
    print_result(text);
  }
  write_json_result(config, {{"file", config.checkpoint},
                             {"parameters", parameters},
                             {"array_bytes", bytes},
                             {"has_checksums", reader.has_checksums()},
                             {"checked", config.check && reader.has_checksums()},
                             {"config", reader.config()},
                             {"progress", reader.progress()},
                             {"run", run},
                             {"arrays", arrays}});
  return ExitStatus::success;
}

}  // namespace revode
