#include "revode/train/provenance.hpp"

#include <fstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "revode/checkpoint/checkpoint_reader.hpp"
#include "revode/files/host.hpp"
#include "revode/files/json_text.hpp"

namespace revode {

using Json = nlohmann::ordered_json;

Json start_record(Network& network, std::int64_t step, std::int64_t epoch) {
  Json options = Json::object();
  for (const OptionText& option : option_texts(network.plan().config))
    if (option.name != "command" && !option.text.empty()) options[option.name] = option.text;
  return {{"kind", "start"},
          {"epoch", epoch},
          {"step", step},
          {"version", version_text()},
          {"revision", source_revision()},
          {"date", utc_time()},
          {"host", host_name()},
          {"ranks", network.grid().world().size()},
          {"time_ranks", network.grid().time().size()},
          {"data_ranks", network.grid().num_replicas()},
          {"schedule", network.plan().schedule->name},
          {"slices_per_rank", network.placement().num_slices() / network.placement().num_ranks()},
          {"choice", network.plan().choice},
          {"threads", network.num_threads()},
          {"backend", network.backend().description()},
          {"mpi", Communicator::library_version()},
          {"hdf5", hdf5_version()},
          {"options", options}};
}

std::string provenance_line(const Json& record) {
  const auto text = [&](const char* key) { return record.value(key, std::string("unknown")); };
  return fmt::format("{}, revision {}, on {} at {}\n{}, HDF5 {}", text("version"), text("revision"),
                     text("host"), text("date"), text("mpi"), text("hdf5"));
}

Json start_record_of(const std::filesystem::path& checkpoint, std::int64_t step) {
  std::error_code ignored;
  const std::filesystem::path folder =
      std::filesystem::weakly_canonical(checkpoint, ignored).parent_path();
  Json latest = nullptr;
  if (!std::filesystem::is_regular_file(folder / "metrics.jsonl", ignored)) return latest;
  std::ifstream metrics(folder / "metrics.jsonl");
  for (std::string line; std::getline(metrics, line);) {
    Json record = parse_ordered_json(line);
    if (!record.is_object() || !record.contains("kind") || record["kind"] != "start") continue;
    const Json begun = record.value("step", Json());
    // A part of a run writes no checkpoint of the step that it begins at, unless the run begins
    // there.
    if (begun.is_number_integer() && (begun.get<std::int64_t>() < step || latest.is_null()))
      latest = std::move(record);
  }
  return latest;
}

}  // namespace revode
