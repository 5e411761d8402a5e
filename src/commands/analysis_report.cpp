#include "commands/analysis_report.hpp"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <optional>
#include <vector>

#include <fmt/format.h>

namespace revode {
namespace {

using nlohmann::ordered_json;

/// Lines of the table by depth; of a deeper network some blocks, evenly spaced.
constexpr std::size_t most_lines = 24;

/// The largest of a list, or the number itself; none where there is none.
std::optional<double> largest(const ordered_json& values) {
  if (values.is_number()) return values.get<double>();
  std::optional<double> found;
  if (values.is_array())
    for (const ordered_json& value : values)
      if (value.is_number()) found = std::max(found.value_or(value), value.get<double>());
  return found;
}

std::optional<double> largest_of_blocks(const ordered_json& result, const char* key) {
  std::optional<double> found;
  for (const ordered_json& block : result["blocks"])
    if (const std::optional<double> value = largest(block[key]))
      found = std::max(found.value_or(*value), *value);
  return found;
}

std::string text_of(std::optional<double> value) {
  if (!value) return "-";
  return *value == 0 ? "0" : fmt::format("{:.3g}", *value);
}

std::vector<std::size_t> lines_of(std::size_t blocks) {
  std::vector<std::size_t> lines;
  const std::size_t count = std::min(blocks, most_lines);
  for (std::size_t i = 0; i < count; ++i)
    lines.push_back(count == 1 ? 0 : (blocks - 1) * i / (count - 1));
  return lines;
}

}  // namespace

std::string analysis_report(const ordered_json& result) {
  std::string text;
  const auto out = std::back_inserter(text);
  fmt::format_to(out, "{}-{}, h = {}, samples {} of the {} split of {}{}\n\n",
                 result["arch"].get<std::string>(), result["depth"].get<int>(),
                 result["step_size"].get<double>(), result["samples"].get<std::string>(),
                 result["split"].get<std::string>(), result["dataset"].get<std::string>(),
                 result["checkpoint"] == ""
                     ? ", initial weights"
                     : ", weights of " + result["checkpoint"].get<std::string>());
  const ordered_json& blocks = result["blocks"];
  fmt::format_to(out,
                 "largest over the images; growth from where the stage begins, of adjoints "
                 "from where it ends\n");
  fmt::format_to(out, "{:>5} {:>5} {:>10} {:>10} {:>10} {:>12} {:>8} {:>9} {:>9} {:>9} {:>9}\n",
                 "block", "stage", "h |lambda|", "Re share", "h abscissa", "perturbation",
                 "adjoint", "error", "no grid", "|state|", "change");
  for (const std::size_t b : lines_of(blocks.size())) {
    const ordered_json& block = blocks[b];
    const auto cell = [&](const char* key) { return text_of(largest(block[key])); };
    fmt::format_to(out, "{:>5} {:>5} {:>10} {:>10} {:>10} {:>12} {:>8} {:>9} {:>9} {:>9} {:>9}\n",
                   block["block"].get<int>(), block["stage"].get<int>(), cell("h_spectral_radius"),
                   cell("real_share"), cell("h_numerical_abscissa"), cell("perturbation_growth"),
                   cell("adjoint_growth"), cell("reversal_error"),
                   cell("reversal_error_without_grid"), cell("state_rms"), cell("weight_change"));
  }
  if (blocks.size() > most_lines)
    fmt::format_to(out, "({} of {} blocks; --json has them all)\n", most_lines, blocks.size());

  fmt::format_to(out, "\nmost that the blocks from where a stage begins magnify a perturbation\n");
  for (const ordered_json& run : result["growth"])
    fmt::format_to(out, "  stage {}, blocks {:>4} .. {:<4} {:>8}\n", run["stage"].get<int>(),
                   run["first_block"].get<int>(), run["last_block"].get<int>(),
                   text_of(largest(run["largest_singular_value"])));

  const std::optional<double> radius = largest_of_blocks(result, "h_spectral_radius");
  const double bound = result["stability_bound"].get<double>();
  fmt::format_to(out,
                 "\nlargest h |eigenvalue| {}, {} the bound of {}; real parts up to {} of the "
                 "largest eigenvalue\n",
                 text_of(radius), radius.value_or(0) <= bound ? "within" : "BEYOND", bound,
                 text_of(largest_of_blocks(result, "real_share")));
  const std::optional<double> error = largest_of_blocks(result, "reversal_error");
  if (error)
    fmt::format_to(out, "states rebuilt {}; without the grid to {} of their norm\n",
                   *error == 0 ? std::string("bit for bit")
                               : fmt::format("to {} of their norm", text_of(error)),
                   text_of(largest_of_blocks(result, "reversal_error_without_grid")));
  else
    fmt::format_to(out, "states rebuilt to {} of their norm\n",
                   text_of(largest_of_blocks(result, "reversal_error_without_grid")));
  return text;
}

}  // namespace revode
