// How evenly the ranks of a run share its work, as measured while it went: who works, who waits,
// and who holds the others up.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "revode/comm/communicator.hpp"

namespace revode {

/// Sums over the steps of a run, by rank.
struct WorkBalance {
  std::int64_t num_steps = 0;
  double step_seconds = 0;              ///< of all steps, on the rank that took longest
  std::vector<double> work_seconds;     ///< slices taken forward and back
  std::vector<double> waiting_seconds;  ///< for messages

  /// 1 - work / (ranks * step): what the ranks do beside going forward and back counts as idle. 0
  /// where there was no step.
  double bubble() const;

  struct Slowest {
    int rank;
    double excess;  ///< 0.5: its work took half as long again as the others' on average
  };
  /// The rank whose work took longest, where it exceeds the mean of the others by more than a
  /// tenth.
  std::optional<Slowest> slowest() const;
};

/// Collective.
WorkBalance gather_balance(std::int64_t num_steps, double step_seconds, double work_seconds,
                           double waiting_seconds, const Communicator& world);

/// What the simulation of a step says.
struct PredictedStep {
  double bubble = 0;
  std::optional<double> seconds = {};  ///< none where costs are no times
};

/// Lines of the summary at the end of a run. hosts: by rank.
std::string balance_lines(const WorkBalance& balance, const PredictedStep& predicted,
                          const std::vector<std::string>& hosts);

}  // namespace revode
