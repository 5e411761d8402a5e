#include "commands/bench_report.hpp"

#include <algorithm>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "revode/run/metrics.hpp"
#include "revode/run/run_log.hpp"

namespace revode {
namespace {

using Json = nlohmann::ordered_json;

double number(const Json& object, const std::string& key) { return object[key].get<double>(); }

std::string milliseconds(double seconds) { return fmt::format("{:.1f}", 1e3 * seconds); }
std::string percent(double share) { return fmt::format("{:.1f}%", 100 * share); }

std::string sweep_line(const Json& result, const std::string& title, const std::string& seconds,
                       const std::string& images, const std::string& gflops,
                       const std::string& share) {
  return fmt::format("{:<15}{:>9} {:>9} {:>9} {:>12.1f} {:>11.1f} {:>9}\n", title,
                     milliseconds(number(result, seconds)),
                     milliseconds(number(result, seconds + "_lowest")),
                     milliseconds(number(result, seconds + "_highest")), number(result, images),
                     number(result, gflops), percent(number(result, share)));
}

std::string summary(const Json& result) {
  std::string text = fmt::format("{:<15}{:>9} {:>9} {:>9} {:>12} {:>11} {:>9}\n", "", "median ms",
                                 "least ms", "most ms", "images/s", "eff.GFLOP/s", "eff./peak");
  text += sweep_line(result, "training step", "step_seconds", "images_per_second",
                     "effective_gflops", "peak_share");
  text += sweep_line(result, "forward only", "forward_seconds", "forward_images_per_second",
                     "forward_gflops", "forward_share");
  text += fmt::format("{:<15}{:>9} {:>9} {:>9} {:>12} {:>11.1f} {:>9}\n", "stages alone", "", "",
                      "", "", number(result, "body_gflops"), percent(number(result, "body_share")));
  text += fmt::format("{:<15}{:>9} {:>9} {:>9} {:>12} {:>11.1f} {:>9}\n", "FMA peak", "", "", "",
                      "", number(result, "peak_gflops"), "100.0%");
  text += fmt::format(
      "eff.: effective, counting direct convolutions. Winograd kernels do with fewer operations,\n"
      "so that more than 100% of the peak is possible; the peak is that of multiply-adds{}.\n"
      "{},\n{}, revision {}\n",
      result.contains("device_work") ? " that the\ndevice has by its data"
                                     : " on\nregisters, measured between the steps",
      result["processor"].get<std::string>(), result["version"].get<std::string>(),
      result["revision"].get<std::string>());
  return text;
}

std::string stage_table(const Json& stages) {
  std::string text =
      fmt::format("\n{:>4} {:>5} {:>9} {:>12}  {:>8} {:>8} {:>7}  {:>8} {:>8} {:>7}  {}\n", "rank",
                  "stage", "couplings", "c x h x w", "forw. ms", "eff.GF/s", "/peak", "back ms",
                  "eff.GF/s", "/peak", "kernels");
  for (const Json& stage : stages)
    text += fmt::format(
        "{:>4} {:>5} {:>9} {:>12}  {:>8} {:>8.1f} {:>7}  {:>8} {:>8.1f} {:>7}  {}\n",
        stage["rank"].get<int>(), stage["stage"].get<int>(), stage["couplings"].get<int>(),
        fmt::format("{}x{}x{}", stage["channels"].get<int>(), stage["height"].get<int>(),
                    stage["width"].get<int>()),
        milliseconds(number(stage, "forward_seconds")), number(stage, "forward_gflops"),
        percent(number(stage, "forward_share")), milliseconds(number(stage, "back_seconds")),
        number(stage, "back_gflops"), percent(number(stage, "back_share")),
        stage["kernel"].get<std::string>());
  return text;
}

std::string phase_table(const Json& phases) {
  std::string text = fmt::format("\n{:>4} {:<18}{:>10} {:>10} {:>10} {:>9}\n", "rank", "phase",
                                 "median ms", "least ms", "most ms", "of step");
  for (const Json& phase : phases)
    text += fmt::format("{:>4} {:<18}{:>10} {:>10} {:>10} {:>9}\n", phase["rank"].get<int>(),
                        phase["phase"].get<std::string>(), milliseconds(number(phase, "seconds")),
                        milliseconds(number(phase, "seconds_lowest")),
                        milliseconds(number(phase, "seconds_highest")),
                        percent(number(phase, "share")));
  return text;
}

/// " state 1 MiB, stash 2 MiB, ..." of one rank.
std::string uses_in_words(const Json& bytes_by_use, std::size_t rank) {
  std::string text, separator = " ";
  for (const auto& [name, bytes] : bytes_by_use.items()) {
    const std::string use = name == "packed_weights" ? "kernel-layout copies" : name;
    text += fmt::format("{}{} {}", separator, use, format_bytes(bytes[rank].get<double>()));
    separator = ", ";
  }
  return text;
}

/// Memory of the rank that took most.
std::string memory_lines(const Json& result) {
  const auto peaks = result["peak_memory_bytes"].get<std::vector<double>>();
  const auto rank = static_cast<std::size_t>(std::ranges::max_element(peaks) - peaks.begin());
  return fmt::format(
             "\npeak memory of rank {}: {}; apart from weights, gradients, momentum and\n"
             "kernel-layout copies {}. Arrays at their largest:\n ",
             rank, format_bytes(peaks[rank]),
             format_bytes(result["peak_bytes_apart_from_parameters"][rank].get<double>())) +
         uses_in_words(result["peak_bytes_by_use"], rank) + "\n";
}

/// Of the rank that sends most.
std::string message_line(const Json& result) {
  const auto sent = result["message_bytes"].get<std::vector<double>>();
  const auto most = std::ranges::max_element(sent);
  if (*most == 0) return "";
  return fmt::format("messages of rank {}: {} a step\n", most - sent.begin(), format_bytes(*most));
}

/// Of the rank whose device holds most: what a step is for it, and what it holds.
std::string device_lines(const Json& result) {
  if (!result.contains("device_work")) return "";
  const auto peaks = result["device_memory_bytes"].get<std::vector<double>>();
  const auto rank = static_cast<std::size_t>(std::ranges::max_element(peaks) - peaks.begin());
  const Json& work = result["device_work"][rank];
  std::string text = fmt::format(
      "\ndevice of rank {}: a step is {} launches and {} replays of graphs with {} more; {} "
      "graphs;\n"
      "the host waits for it {} times, and fetches {} arrays. Memory {}. Arrays at their "
      "largest:\n ",
      rank, work["launches"].get<int>(), work["replays"].get<int>(),
      work["replayed_launches"].get<int>(), work["graphs"].get<int>(),
      work["host_waits"].get<int>(), work["copies_to_host"].get<int>(), format_bytes(peaks[rank]));
  return text + uses_in_words(result["device_bytes_by_use"], rank) + "\n";
}

/// The first ranks' items: hundreds of ranks would bury the rest, which --json holds.
Json of_first_ranks(const Json& list) {
  constexpr int most_ranks = 8;
  Json shown = Json::array();
  for (const Json& item : list)
    if (item["rank"].get<int>() < most_ranks) shown.push_back(item);
  return shown;
}

}  // namespace

std::string bench_tables(const Json& result) {
  return summary(result) + stage_table(of_first_ranks(result["stages"])) +
         phase_table(of_first_ranks(result["phases"])) + memory_lines(result) +
         message_line(result) + device_lines(result);
}

}  // namespace revode
