// The states of a rank that are on their way: received ahead, waiting for their turn, computed in,
// handed over, sent. A message carries its digest, so that one that arrives with other bits is
// found. Knows nothing of what a slice computes, nor of how messages travel.
#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "revode/backend/memory.hpp"
#include "revode/core/trace.hpp"
#include "revode/pipeline/message_array.hpp"
#include "revode/pipeline/program.hpp"
#include "revode/pipeline/slice_work.hpp"
#include "revode/pipeline/transport.hpp"

namespace revode {

class Mailbox {
 public:
  /// Elements that a slot has room for, beside digests; 0 in a simulation, where nothing is stored.
  /// Where no state travels, no message does.
  struct SlotSize {
    std::size_t state = 0;
    std::size_t adjoint = 0;  ///< backward sweeps only
  };

  /// queue: of the backend that computes in the slots; lendable: its memory that the transport
  /// takes, null where messages are to go through the host's.
  Mailbox(int rank, const Placement& placement, Transport& transport, SlotSize slot_size,
          CallQueue& queue, MemorySpace* lendable = nullptr);

  /// Makes the slots that `program` takes. To be called on all ranks, each with its own program.
  void reserve(const Program& program);
  /// Makes ready to play `program`, whose slots are there and whose messages have the sizes of
  /// `sizes`; both must live until it is played.
  void begin(const Program& program, const SliceWork& sizes);
  /// From now on messages are noted there while they are under way (null: nowhere).
  void set_trace(TraceRecorder* trace) { trace_ = trace; }
  /// Posts receives into free slots and looks after messages under way. To be called often: the
  /// library moves messages only inside its calls.
  void progress();

  /// True from when the input of `work` has arrived.
  bool receive(const Work& work);
  struct Slot;
  /// Where `work` is to be computed: its input, or a free slot where a sweep begins; null while
  /// there is none.
  Slot* open(const Work& work);
  /// After open() and the computing: the output is to be sent, goes to the next slice of this rank
  /// in place, or is of no more use.
  void close(const Work& work);
  /// Sends the output of `work`, after close().
  void send(const Work& work);

  /// No message is under way and every slot is free.
  bool idle();
  /// Messages under way and states that wait, in words; empty where there are none.
  std::vector<std::string> leftovers() const;
  /// Of the program that begin() was called for last: messages that arrived with other bits than
  /// they left with. Their micro-batches have the numbers of the mini-batch; `sizes` of begin()
  /// must be there still.
  std::vector<MessageTag> damaged_messages() const;
  /// Pools of the program in which a receive or a sweep that begins finds no free slot.
  std::vector<std::size_t> exhausted_pools();

  /// Bytes of all slots.
  std::size_t bytes() const;

 private:
  struct Pool {
    std::vector<std::unique_ptr<Slot>> slots;
    const SlotPool* plan = nullptr;                  // of the program
    std::size_t next_expected = 0;                   // first whose receive is not posted
    std::deque<std::pair<Work, Slot*>> receiving{};  // posted, in order
  };

  Slot* find_free(Pool& pool);
  bool is_free(Slot& slot);
  bool settled(Slot& slot);
  void post_receive(Pool& pool, Slot& slot);
  TraceEvent event_of(TraceAction action, const Work& entered, int peer, MessageKind kind) const;

  int rank_;
  const Placement& placement_;
  Transport& transport_;
  SlotSize slot_size_;
  CallQueue& queue_;
  MemorySpace* lendable_;
  const SliceWork* sizes_ = nullptr;
  TraceRecorder* trace_ = nullptr;
  std::map<std::pair<Sweep, int>, Pool> pools_;  // by direction and sender
  std::map<Work, Slot*> inputs_;                 // arrived or handed over: what enters, by its work
  std::map<Work, Slot*> outputs_;                // computed, to be sent
  std::vector<MessageTag> damaged_;              // as the program numbers micro-batches
};

/// Where a slice computes.
struct Mailbox::Slot {
  /// A message that this slot holds, in one of its arrays.
  struct Message {
    MessageArray* array;
    int peer;
    MessageTag tag;
    std::unique_ptr<Transfer> transfer;  // none: not yet on its way
    TraceEvent event{};                  // where it is traced
  };

  MessageArray state, adjoint;
  bool in_use = false;           // computed in, waiting, or received into
  std::vector<Message> sending;  // first sealed, or copied to the host
  std::vector<Message> receiving;
  std::vector<std::pair<MessageArray*, MessageTag>> checking;  // received

  /// Moves messages along; true from when none is under way. What has arrived is handed to the
  /// backend by then. Those that are over are noted in `trace`, unless that is null, and those that
  /// were found to have arrived with other bits than they left with in `damaged`.
  bool settled(Transport& transport, TraceRecorder* trace, std::vector<MessageTag>& damaged);
};

}  // namespace revode
