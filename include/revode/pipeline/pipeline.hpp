// The sweeps of a mini-batch through the slices of all ranks: schedules become programs, programs
// are played over MPI, results are kept by micro-batch.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/comm/grid.hpp"
#include "revode/core/phase_timer.hpp"
#include "revode/core/trace.hpp"
#include "revode/model/time_slice.hpp"
#include "revode/pipeline/executor.hpp"
#include "revode/pipeline/network_work.hpp"
#include "revode/pipeline/placement.hpp"
#include "revode/pipeline/schedule.hpp"
#include "revode/pipeline/transport.hpp"

namespace revode {

class Pipeline {
 public:
  /// slices: this rank's, ascending; they and the grid must outlive the pipeline.
  /// largest_micro_batch sizes the buffers.
  Pipeline(const Grid& grid, const Placement& placement, std::vector<TimeSlice<float>*> slices,
           Backend<float>& backend, int largest_micro_batch);
  ~Pipeline();
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  const Placement& placement() const { return placement_; }

  /// Makes the buffers that `rule` takes with so many micro-batches, of all replicas.
  void prepare(const ScheduleRule& rule, int num_micro_batches);

  /// Forward and backward sweep of a mini-batch, of which each replica takes its micro-batches; the
  /// gradients of the slices += one contribution an entry for each of those. Collective. on_logits:
  /// called on the last rank of a replica after each forward; may be empty. gradients: told of
  /// those of this rank's slices; may be null. Returns when all calls are made and all messages
  /// have left.
  void train(const ScheduleRule& rule, const MiniBatchSource& source,
             const OnLogits& on_logits = {}, GradientListener* gradients = nullptr);
  /// After train(): waits for what the slices found. Collective.
  SweepResult result();

  /// Forward sweep alone with running statistics. Collective.
  SweepResult evaluate(const MiniBatchSource& source, const OnLogits& on_logits = {});

  /// Forward sweep that looks at every layer: the first of this rank's whose output was not finite,
  /// in the first micro-batch that has one. Collective.
  std::optional<NonFiniteLayer> inspect(const MiniBatchSource& source);

  /// Of the last sweep: messages that arrived at this rank with other bits than they left with.
  const std::vector<MessageTag>& damaged_messages() const { return damaged_; }

  /// Seconds of train() in which this rank has waited for messages, since the last call.
  double take_waiting_seconds();
  /// Seconds of train() in which this rank's slices went forward or back, since the last call.
  double take_work_seconds();

  /// From now on the time that images and messages take goes there too (null: nowhere).
  void set_phase_timer(PhaseTimer* timer) { timer_ = timer; }
  /// From now on what train() does is noted there (null: nowhere).
  void set_trace(TraceRecorder* trace) { trace_ = trace; }

  /// Whether messages leave from and arrive in the memory of a device.
  bool messages_stay_on_device() const { return lendable_ != nullptr; }
  /// Bytes of states, adjoints and their digests that this rank has sent so far.
  std::int64_t sent_bytes() const { return transport_.sent_bytes(); }
  /// Bytes of the message buffers.
  std::size_t buffer_bytes() const { return mailbox_.bytes(); }

 private:
  std::vector<int> own_micro_batches(int num_micro_batches) const;
  const Program& program_of(const ScheduleRule* rule, int num_micro_batches);
  /// micro_batches: own ones, as the mini-batch numbers them.
  Activity activity_of(const Instruction& instruction, const std::vector<int>& micro_batches) const;
  void sweep(const ScheduleRule* rule, const MiniBatchSource& source, Mode mode,
             SweepObservers observers);

  const Grid& grid_;
  Placement placement_;
  int rank_;
  std::vector<TimeSlice<float>*> slices_;
  Backend<float>& backend_;
  Mailbox::SlotSize slot_size_;
  MpiTransport transport_;
  MemorySpace* lendable_;
  Mailbox mailbox_;
  Executor executor_;

  // The last program of a schedule and of a forward sweep: they change with the number of
  // micro-batches alone.
  struct Made {
    const ScheduleRule* rule = nullptr;
    int num_micro_batches = 0;
    Program program;
  };
  Made trained_, evaluated_;
  std::optional<NetworkWork> work_;  // of the last sweep
  bool playing_ = false;
  GradientListener* gradients_ = nullptr;  // of the sweep that is played
  std::vector<MessageTag> damaged_;        // of the last sweep
  double waiting_seconds_ = 0, work_seconds_ = 0;
  PhaseTimer* timer_ = nullptr;
  TraceRecorder* trace_ = nullptr;
};

}  // namespace revode
