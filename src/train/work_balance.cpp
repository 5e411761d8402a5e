#include "revode/train/work_balance.hpp"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace revode {
namespace {

/// Work of equal slices varies by less from rank to rank.
constexpr double notable_excess = 0.1;
/// Hundreds of ranks would bury the rest: of more the line tells the extremes.
constexpr std::size_t most_shown = 8;

double sum_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

std::string waiting_text(const std::vector<double>& seconds) {
  if (seconds.size() <= most_shown) return fmt::format("{:.2f} s", fmt::join(seconds, ", "));
  const auto [least, most] = std::ranges::minmax_element(seconds);
  return fmt::format("{:.2f} s (rank {}) to {:.2f} s (rank {})", *least, least - seconds.begin(),
                     *most, most - seconds.begin());
}

}  // namespace

double WorkBalance::bubble() const {
  const double available = step_seconds * static_cast<double>(work_seconds.size());
  return available > 0 ? 1 - sum_of(work_seconds) / available : 0;
}

std::optional<WorkBalance::Slowest> WorkBalance::slowest() const {
  if (work_seconds.size() < 2) return std::nullopt;
  const auto most = std::ranges::max_element(work_seconds);
  const double others =
      (sum_of(work_seconds) - *most) / static_cast<double>(work_seconds.size() - 1);
  if (others <= 0 || *most <= (1 + notable_excess) * others) return std::nullopt;
  return Slowest{static_cast<int>(most - work_seconds.begin()), *most / others - 1};
}

WorkBalance gather_balance(std::int64_t num_steps, double step_seconds, double work_seconds,
                           double waiting_seconds, const Communicator& world) {
  const double mine[] = {step_seconds, work_seconds, waiting_seconds};
  const std::vector<double> all = world.all_gather(std::span<const double>(mine));
  WorkBalance balance;
  balance.num_steps = num_steps;
  for (std::size_t i = 0; i < all.size(); i += std::size(mine)) {
    balance.step_seconds = std::max(balance.step_seconds, all[i]);
    balance.work_seconds.push_back(all[i + 1]);
    balance.waiting_seconds.push_back(all[i + 2]);
  }
  return balance;
}

std::string balance_lines(const WorkBalance& balance, const PredictedStep& predicted,
                          const std::vector<std::string>& hosts) {
  std::string text;
  if (predicted.seconds && balance.num_steps > 0)
    text += fmt::format("{:<20}{:.1f} ms on average; the simulation predicts {:.1f} ms\n", "step",
                        1e3 * balance.step_seconds / static_cast<double>(balance.num_steps),
                        1e3 * *predicted.seconds);
  text += fmt::format("{:<20}{:.1f}% of the ranks' time; the simulation predicts {:.1f}%\n",
                      "bubble", 100 * balance.bubble(), 100 * predicted.bubble);
  text += fmt::format("{:<20}{}\n", "waiting a rank", waiting_text(balance.waiting_seconds));
  if (const auto slowest = balance.slowest())
    text += fmt::format("{:<20}rank {} on {}: works {:.0f}% longer than the others\n", "slowest",
                        slowest->rank, hosts[slowest->rank], 100 * slowest->excess);
  return text;
}

}  // namespace revode
