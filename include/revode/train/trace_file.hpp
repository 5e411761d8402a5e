// The file of --trace: what every rank did in the last steps, in Chrome's trace event format, which
// Perfetto (https://ui.perfetto.dev) opens. A process a rank; the first of its threads is what the
// rank does, the others are messages under way, files, and what its device does.
#pragma once

#include "revode/comm/clock_offset.hpp"
#include "revode/train/network.hpp"

namespace revode {

/// What a rank does in a step that is planned.
struct PlannedWork {
  int rank;
  TraceAction action;
  double begin, end;  ///< seconds
  int micro_batch = TraceEvent::none;
  int slice = TraceEvent::none;
};
/// The same file for one step of a plan: its number is 1, and no message is in it. Throws errors of
/// writing.
void write_planned_trace(const Config& config, const std::vector<PlannedWork>& step);

class TraceFile {
 public:
  /// What is to happen where the file cannot be written.
  enum class Failure {
    note,   ///< rank 0 says so, and the run goes on
    error,  ///< thrown, an error that all ranks share
  };

  /// Of what `network` does from now on, which must outlive this object and whose plan has a trace.
  /// Collective: the clocks of the ranks are compared.
  explicit TraceFile(Network& network);

  /// Puts what is recorded in the place of what was written before. Collective.
  void write(Failure failure);

 private:
  Network& network_;
  ClockOffset first_offset_;
};

}  // namespace revode
