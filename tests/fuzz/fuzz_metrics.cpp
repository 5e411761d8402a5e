// metrics.jsonl, as a run that goes on reads and cuts it, and as others look into it. The input: a
// byte for the step that the run goes on from, then the file.
#include <sstream>
#include <vector>

#include <nlohmann/json.hpp>

#include "revode/files/json_text.hpp"
#include "revode/run/metrics.hpp"
#include "revode/run/write_permission.hpp"
#include "revode/train/provenance.hpp"

#include "fuzz/fuzz_support.hpp"

namespace revode {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::string content_of_file(const fs::path& file) {
  const std::vector<unsigned char> bytes = read_bytes(file);
  return {bytes.begin(), bytes.end()};
}

/// A record up to `last_step`, of no rewind: all that may stay.
bool may_stay(const std::string& line, std::int64_t last_step) {
  const nlohmann::json record = parse_json(line);
  if (!record.is_object()) return false;
  const auto kind = record.find("kind"), step = record.find("step");
  if (kind != record.end() && kind->is_string()) {
    if (kind->get_ref<const std::string&>() == "end") return false;
    if (kind->get_ref<const std::string&>() == "rewind") {  // there were none, so count <= 0
      const auto count = record.find("count");
      const bool is_none = count != record.end() && count->is_number_integer() &&
                           !(count->is_number_unsigned() && count->get<std::uint64_t>() > 0) &&
                           (count->is_number_unsigned() || count->get<std::int64_t>() <= 0);
      if (!is_none) return false;
    }
  }
  if (step == record.end()) return last_step >= 0;
  if (step->is_number_unsigned())
    return last_step >= 0 && step->get<std::uint64_t>() <= static_cast<std::uint64_t>(last_step);
  return step->is_number_integer() && step->get<std::int64_t>() <= last_step;
}

/// Every line stays in its place or is left behind in its order, and nothing else is written.
void check_cut(const std::string& before, std::int64_t last_step, const std::string& kept,
               const std::string& cut) {
  std::string stays, goes;
  for (const std::string& line : lines_of(before))
    (may_stay(line, last_step) ? stays : goes) += line + '\n';
  require(kept == stays, "other lines stay", kept);
  require(cut == goes, "other lines are left behind", cut);
}

}  // namespace
}  // namespace revode

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace revode;
  if (size == 0) return 0;
  const std::int64_t last_step = static_cast<std::int8_t>(data[0]);
  const std::string text(as_text(data + 1, size - 1));
  const fs::path folder = scratch() / "run";
  fs::remove_all(folder);
  fs::create_directory(folder);
  const fs::path log = folder / "metrics.jsonl";
  std::ofstream(log, std::ios::binary) << text;
  accepts("", [&] {
    is_log_of_run(log);
    holds_results(folder);
    const nlohmann::ordered_json start = start_record_of(folder / "latest.h5", last_step);
    require(start.is_null() || (start.is_object() && start["kind"] == "start"), "no start record");
    const MetricsFile metrics(log, last_step);
    const std::string cut =
        metrics.left_behind().empty() ? "" : content_of_file(metrics.left_behind());
    check_cut(text, last_step, content_of_file(log), cut);
    require(metrics.num_left_behind() == static_cast<std::int64_t>(lines_of(cut).size()),
            "a wrong count");
  });
  return 0;
}
