// What one rank did in the last steps, and when; where it computes on a device, what that did, too.
// Kept where a run is traced; everything else is handed a pointer that is usually null, and then no
// clock is read. How it is written, and whose clock the times are by, is trace_file.hpp's business.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string_view>
#include <vector>

#include "revode/core/phase_timer.hpp"

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
  copy_in,         ///< from the host to a device
  copy_out,        ///< and back
};
inline constexpr int num_trace_actions = 13;

constexpr std::string_view to_string(TraceAction action) {
  constexpr std::string_view names[num_trace_actions] = {
      "forward",    "backward", "data",    "wait",  "allreduce", "regularization", "optimizer",
      "checkpoint", "send",     "receive", "write", "copy_in",   "copy_out"};
  return names[static_cast<int>(action)];
}

/// Messages are under way while the rank does something else.
constexpr bool is_message(TraceAction action) {
  return action == TraceAction::send || action == TraceAction::receive;
}

/// Work that a device does, where there is one, some time after the host has asked for it.
constexpr bool is_device_work(TraceAction action) {
  switch (action) {
    case TraceAction::forward:
    case TraceAction::backward:
    case TraceAction::data:
    case TraceAction::regularization:
    case TraceAction::optimizer:
      return true;
    default:
      return false;
  }
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
  bool on_device = false;   ///< done there; else by the host, or asked for by it
};

/// Events of the last `num_steps` steps, at least 1; those of earlier ones are dropped. What a
/// device did is known after read_device() alone.
class TraceRecorder {
 public:
  struct Step {
    std::int64_t number;
    std::vector<TraceEvent> events;
  };

  explicit TraceRecorder(int num_steps) : num_steps_(num_steps) {}
  /// `work_clock`, of the work that is traced, must outlive this object.
  TraceRecorder(int num_steps, WorkClock& work_clock) : num_steps_(num_steps) {
    if (!work_clock.is_beside_host()) return;
    device_ = &work_clock;
    device_->stamp_copies();
  }

  /// What is added from now on belongs to this step. Nothing is recorded before the first.
  void begin_step(std::int64_t number);
  /// The copies between host and device since the last call, or since begin_step(), are of the
  /// step.
  void note_copies();
  void add(const TraceEvent& event) {
    if (!steps_.empty()) steps_.back().events.push_back(event);
  }

  /// For stamps of what a device does; null where there is none, or nothing is recorded yet.
  WorkClock* device() const { return steps_.empty() ? nullptr : device_; }
  /// The device's side of an event that the host has added.
  void add_on_device(const TraceEvent& event, Stamp begin, Stamp end) {
    pending_.push_back({steps_.back().number, event, begin, end});
  }
  /// Waits for what the device has been given, and adds when it did what.
  void read_device();

  /// The oldest first.
  const std::deque<Step>& steps() const { return steps_; }

 private:
  /// What the device has been given, or has done without being asked when.
  struct Pending {
    std::int64_t step;
    TraceEvent event;
    Stamp begin, end;
  };
  static constexpr std::int64_t no_step = -1;
  void take_copies(std::int64_t step);

  int num_steps_;
  std::deque<Step> steps_;
  WorkClock* device_ = nullptr;
  std::vector<Pending> pending_;
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
    if (is_device_work(action)) device_ = recorder_->device();
    if (device_ != nullptr) begin_on_device_ = device_->stamp();
  }
  ~TraceScope() {
    if (recorder_ == nullptr) return;
    if (device_ != nullptr) recorder_->add_on_device(event_, begin_on_device_, device_->stamp());
    event_.end = TraceEvent::Clock::now();
    recorder_->add(event_);
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  TraceRecorder* recorder_;
  TraceEvent event_{};
  WorkClock* device_ = nullptr;
  Stamp begin_on_device_ = 0;
};

}  // namespace revode
