// What one rank did in the last steps, and when. Kept where a run is traced; everything else is
// handed a pointer that is usually null, and then no clock is read. How it is written, and whose
// clock the times are by, is trace_file.hpp's business.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string_view>
#include <utility>
#include <vector>

namespace revode {

enum class TraceAction {
  forward,         ///< a micro-batch through a slice
  backward,        ///< and back
  data,            ///< images of a micro-batch
  wait,            ///< for messages and sums of other ranks
  allreduce,       ///< gradients and statistics over the replicas
  regularization,  ///< weight decay and smoothness
  optimizer,       ///< gradients cleared and rounded, weights updated
  checkpoint,      ///< checks and files
  send,            ///< a message on its way, from when it leaves until its memory is free
  receive,         ///< from when it is asked for until it has arrived
  write,           ///< bytes of a checkpoint, by a thread of its own
};
inline constexpr int num_trace_actions = 11;

constexpr std::string_view to_string(TraceAction action) {
  constexpr std::string_view names[num_trace_actions] = {
      "forward",   "backward",   "data", "wait",    "allreduce", "regularization",
      "optimizer", "checkpoint", "send", "receive", "write"};
  return names[static_cast<int>(action)];
}

/// Messages are under way while the rank does something else.
constexpr bool is_message(TraceAction action) {
  return action == TraceAction::send || action == TraceAction::receive;
}

struct TraceEvent {
  using Clock = std::chrono::steady_clock;
  static constexpr int none = -1;

  TraceAction action;
  Clock::time_point begin;
  Clock::time_point end;
  int micro_batch = none;   ///< of the mini-batch
  int slice = none;         ///< of a message: the one that it enters
  int peer = none;          ///< of a message: the other rank, as its Placement counts
  int message_kind = none;  ///< of a message: a MessageKind
};

/// Events of the last `num_steps` steps, at least 1; those of earlier ones are dropped.
class TraceRecorder {
 public:
  struct Step {
    std::int64_t number;
    std::vector<TraceEvent> events;
  };

  explicit TraceRecorder(int num_steps) : num_steps_(num_steps) {}

  /// What is added from now on belongs to this step. Nothing is recorded before the first.
  void begin_step(std::int64_t number) {
    Step step{number, {}};
    if (steps_.size() == static_cast<std::size_t>(num_steps_)) {
      step.events = std::move(steps_.front().events);  // its memory
      step.events.clear();
      steps_.pop_front();
    }
    steps_.push_back(std::move(step));
  }
  void add(const TraceEvent& event) {
    if (!steps_.empty()) steps_.back().events.push_back(event);
  }

  /// The oldest first.
  const std::deque<Step>& steps() const { return steps_; }

 private:
  int num_steps_;
  std::deque<Step> steps_;
};

/// Records its scope; does nothing with a null recorder.
class TraceScope {
 public:
  explicit TraceScope(TraceRecorder* recorder, TraceAction action,
                      int micro_batch = TraceEvent::none, int slice = TraceEvent::none)
      : recorder_(recorder) {
    if (recorder_ == nullptr) return;
    event_ = {.action = action,
              .begin = TraceEvent::Clock::now(),
              .end = {},
              .micro_batch = micro_batch,
              .slice = slice};
  }
  ~TraceScope() {
    if (recorder_ == nullptr) return;
    event_.end = TraceEvent::Clock::now();
    recorder_->add(event_);
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  TraceRecorder* recorder_;
  TraceEvent event_{};
};

}  // namespace revode
