#include "revode/run/run_progress.hpp"

#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "revode/config/config.hpp"
#include "revode/core/error.hpp"
#include "revode/files/json_text.hpp"

namespace revode {

double RunProgress::rate_factor() const {
  return step < slow_until ? std::ldexp(1.0, -static_cast<int>(rewound_to.size())) : 1.0;
}

Attributes to_attributes(const RunProgress& progress, std::uint64_t seed) {
  Attributes attributes{{"epoch", progress.epoch},
                        {"step", progress.step},
                        {"samples_seen", progress.samples_seen},
                        {"seed", static_cast<std::int64_t>(seed)},
                        {"learning_rate", progress.learning_rate},
                        {"best_accuracy", progress.best_accuracy},
                        {"epoch_loss_sum", progress.epoch_loss_sum},
                        {"epoch_correct", progress.epoch_correct},
                        {"epoch_samples", progress.epoch_samples},
                        {"epoch_regularization_sum", progress.epoch_regularization_sum},
                        {"out_of_range", progress.range.out_of_range},
                        {"rounded_to_zero", progress.range.rounded_to_zero}};
  if (progress.skipped > 0) {
    attributes["skipped_steps"] = progress.skipped;
    attributes["skipped_in_a_row"] = progress.skipped_in_a_row;
  }
  if (!progress.rewound_to.empty()) {
    attributes["rewound_to"] = fmt::format("{}", fmt::join(progress.rewound_to, ","));
    attributes["slow_until"] = progress.slow_until;
  }
  return attributes;
}

namespace {

/// The numbers of /progress, each refused in a sentence where it cannot be what a run had counted.
class ProgressNumbers {
 public:
  ProgressNumbers(const Attributes& attributes, const std::string& file)
      : attributes_(attributes), file_(file) {}

  /// A whole number from 0 to 2^53, up to where every whole number is a double too: no sum of two
  /// overflows, and no run gets there.
  std::int64_t count(const char* name) const {
    constexpr std::int64_t largest = std::int64_t{1} << 53;
    const nlohmann::json& value = find(name);
    const bool fits = value.is_number_unsigned()
                          ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(largest)
                          : value.is_number_integer() && value.get<std::int64_t>() >= 0 &&
                                value.get<std::int64_t>() <= largest;
    if (!fits) refuse(name, "a whole number from 0 to 2^53");
    return value.get<std::int64_t>();
  }

  /// 0 where there is none.
  std::int64_t count_if_any(const char* name) const {
    return attributes_.contains(name) ? count(name) : 0;
  }

  /// Steps up to `last`, none below the one before, as text with commas; none where there is no
  /// such text.
  std::vector<std::int64_t> steps_if_any(const char* name, std::int64_t last) const {
    std::vector<std::int64_t> steps;
    if (!attributes_.contains(name)) return steps;
    const nlohmann::json& value = find(name);
    const std::string text = value.is_string() ? value.get<std::string>() : "";
    const char* place = text.data();
    const char* const end = place + text.size();
    for (bool more = true; more; ++place) {
      std::int64_t step = -1;
      const auto [behind, failure] = std::from_chars(place, end, step);
      const bool fits = failure == std::errc() && step <= last &&
                        step >= (steps.empty() ? 0 : steps.back()) && steps.size() < most_rewinds;
      more = fits && behind != end;
      if (!fits || (more && *behind != ','))
        refuse(name, fmt::format("1 to {} steps up to {}, in order, with commas between them",
                                 most_rewinds, last));
      steps.push_back(step);
      place = behind;
    }
    return steps;
  }

  double number(const char* name, double least, double most, std::string_view expected) const {
    const nlohmann::json& value = find(name);
    if (!value.is_number()) refuse(name, expected);
    const double number = value.get<double>();
    if (!std::isfinite(number) || number < least || number > most) refuse(name, expected);
    return number;
  }

  void require(bool holds, const char* name, std::string_view expected) const {
    if (!holds) refuse(name, expected);
  }

 private:
  const nlohmann::json& find(const char* name) const {
    const auto found = attributes_.find(name);
    REVODE_REQUIRE(found != attributes_.end() && !found->is_null(),
                   "{}: /progress has no number '{}', so this file can't be resumed; start from "
                   "its weights with --checkpoint",
                   file_, name);
    return *found;
  }

  [[noreturn]] void refuse(const char* name, std::string_view expected) const {
    const nlohmann::json& value = attributes_.at(name);
    throw input_error(
        "{}: /progress holds '{}' = {}, expected {}, so this file can't be resumed; start from its "
        "weights with --checkpoint",
        file_, name,
        value.is_number_float()
            ? fmt::format("{}", value.get<double>())  // JSON has no word for nan
            : to_printable_text(value),
        expected);
  }

  const Attributes& attributes_;
  const std::string& file_;
};

}  // namespace

RunProgress from_attributes(const Attributes& attributes, const std::string& file) {
  constexpr double largest = std::numeric_limits<double>::max();
  const ProgressNumbers numbers(attributes, file);
  RunProgress progress;
  progress.epoch = numbers.count("epoch");
  progress.step = numbers.count("step");
  progress.samples_seen = numbers.count("samples_seen");
  progress.learning_rate =
      numbers.number("learning_rate", 0, largest, "a finite number of at least 0");
  progress.best_accuracy = numbers.number("best_accuracy", 0, 1, "a number from 0 to 1");
  progress.epoch_loss_sum = numbers.number("epoch_loss_sum", -largest, largest, "a finite number");
  progress.epoch_correct = numbers.count("epoch_correct");
  progress.epoch_samples = numbers.count("epoch_samples");
  progress.epoch_regularization_sum =
      numbers.number("epoch_regularization_sum", -largest, largest, "a finite number");
  progress.range.out_of_range = numbers.count("out_of_range");
  progress.range.rounded_to_zero = numbers.count("rounded_to_zero");
  progress.skipped = numbers.count_if_any("skipped_steps");
  progress.skipped_in_a_row = numbers.count_if_any("skipped_in_a_row");
  progress.rewound_to = numbers.steps_if_any("rewound_to", progress.step);
  progress.slow_until = numbers.count_if_any("slow_until");
  numbers.require(progress.skipped <= progress.step, "skipped_steps",
                  fmt::format("at most step = {}", progress.step));
  numbers.require(progress.skipped_in_a_row <= progress.skipped, "skipped_in_a_row",
                  fmt::format("at most skipped_steps = {}", progress.skipped));
  numbers.require(progress.epoch_correct <= progress.epoch_samples, "epoch_correct",
                  fmt::format("at most epoch_samples = {}", progress.epoch_samples));
  numbers.require(progress.samples_seen >= progress.epoch_samples, "samples_seen",
                  fmt::format("at least epoch_samples = {}", progress.epoch_samples));
  numbers.require(progress.samples_seen >= progress.step, "samples_seen",
                  fmt::format("at least step = {}, one sample for each", progress.step));
  numbers.require(progress.epoch <= progress.step, "epoch",
                  fmt::format("at most step = {}, one step for each", progress.step));
  return progress;
}

}  // namespace revode
