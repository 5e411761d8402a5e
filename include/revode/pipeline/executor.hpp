// Plays a schedule on one rank: messages, buffers, overlap. Knows nothing of what a slice computes
// or where images come from.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/comm/communicator.hpp"
#include "revode/core/phase_timer.hpp"
#include "revode/model/time_slice.hpp"
#include "revode/pipeline/schedule.hpp"

namespace revode {

/// Where a mini-batch comes from. `images` is called on the first rank, `labels` on the last.
struct MiniBatchSource {
  std::vector<int> micro_batches;  ///< their sizes
  /// Fills [batch, channels, height, width] of a micro-batch.
  std::function<void(int micro_batch, float* images)> images;
  std::function<std::span<const std::uint8_t>(int micro_batch)> labels;

  int size() const;
};

/// What the closing made of each micro-batch, by its number; empty but on the last rank.
struct SweepResult {
  std::vector<MicroBatchResult> micro_batches;

  /// Added up in micro-batch order.
  MicroBatchResult total() const;
};

class Executor {
 public:
  /// largest_micro_batch sizes the buffers.
  Executor(const Communicator& communicator, TimeSlice<float>& slice, Backend<float>& backend,
           int largest_micro_batch);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// Forward and backward sweep of a mini-batch by `schedule`; gradient (flat, as the slice's map)
  /// += one contribution an entry for each micro-batch. Collective. on_logits: called on the last
  /// rank after each forward; may be empty.
  using OnLogits = std::function<void(int micro_batch, std::span<const float> logits)>;
  SweepResult train(const ScheduleRule& schedule, const MiniBatchSource& source, ExactSum* gradient,
                    const OnLogits& on_logits = {});

  /// Forward sweep alone with running statistics. Collective.
  SweepResult evaluate(const MiniBatchSource& source, const OnLogits& on_logits = {});

  /// Forward sweep that looks at every layer: the first of this rank's whose output was not finite,
  /// in the first micro-batch that has one. Collective.
  struct Finding {
    int micro_batch = 0;
    int layer = 0;  ///< Architecture::layer_name
  };
  std::optional<Finding> inspect(const MiniBatchSource& source);

  /// Seconds this rank has waited for messages since the last call.
  double take_waiting_seconds();

  /// From now on the time that images and messages take goes there too (null: nowhere).
  void set_phase_timer(PhaseTimer* timer) { timer_ = timer; }

  /// Bytes of the message buffers.
  std::size_t buffer_bytes() const;

 private:
  // One state, or a state and its adjoint: received into, computed in, sent from.
  struct Slot {
    Buffer<float> state;
    Buffer<float> adjoint;  // backward direction only
    std::vector<Request> requests;

    /// Nothing of this slot is under way any more.
    bool settled();
  };
  // The buffers of one direction and the receives still to be posted.
  struct Direction {
    std::vector<Slot> slots;
    std::vector<int> expected;      // micro-batches to receive, in order
    std::size_t next_expected = 0;  // first whose receive is not posted
    std::deque<Slot*> arriving;     // posted, in order
    Slot* current = nullptr;        // being computed in
  };

  void play(const Program& program, const MiniBatchSource& source, Mode mode, ExactSum* gradient,
            const OnLogits& on_logits);
  void begin(const Program& program);
  void execute(const Instruction& instruction, const MiniBatchSource& source, Mode mode,
               ExactSum* gradient, const OnLogits& on_logits);
  void forward(int micro_batch, const MiniBatchSource& source, Mode mode,
               const OnLogits& on_logits);
  void backward(int micro_batch, const MiniBatchSource& source, ExactSum* gradient);
  void take_arrived(Direction& direction, const MiniBatchSource& source);
  void post_receives(const MiniBatchSource& source);
  void post_next_receive(Direction& direction, const MiniBatchSource& source);
  Slot* find_free(Direction& direction);
  Slot& wait_for_free(Direction& direction, const MiniBatchSource& source);
  void wait_until(const MiniBatchSource& source, const std::function<bool()>& condition);
  void finish_sends(const MiniBatchSource& source);

  const Communicator& communicator_;
  TimeSlice<float>& slice_;
  Backend<float>& backend_;
  Direction forward_, backward_;
  const MiniBatchSource* source_ = nullptr;  // of the program being played, for progress
  SweepResult result_;
  std::optional<Finding> finding_;
  double waiting_seconds_ = 0;
  PhaseTimer* timer_ = nullptr;
};

}  // namespace revode
