// An array that slices compute in and that messages leave from and arrive in, with their digest
// behind the values. On a device the array itself travels, lent to the message, where the library
// of messages takes memory of devices; else it has a side in the host's memory, to which and from
// which it is copied. Only this file knows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "revode/backend/memory.hpp"

namespace revode {

class MessageArray {
 public:
  MessageArray() = default;
  /// Room for so many values and a digest; for none of both where there are no values, as in a
  /// simulation that stores nothing. host_memory: for what the host may touch. lendable: what
  /// messages take of the queue's memory; null: none.
  MessageArray(std::size_t size, CallQueue& queue, MemorySpace& host_memory, MemorySpace* lendable);

  /// For the backend's calls, but from leave() or enter() to over().
  float* data() { return values_.data(); }
  std::size_t bytes() const { return values_.bytes(); }

  /// The first `size` values, as the calls made so far leave them, are to be sent. Queued.
  void seal(std::size_t size);
  /// Whether that is done; does not wait.
  bool can_leave();
  /// What travels now: the values and their digest.
  std::span<float> leave();

  /// No call that was made so far is of interest any more.
  void give_up();
  /// Whether it may be received into: nothing made before give_up() still uses it.
  bool can_enter();
  /// What is to be received into, for `size` values.
  std::span<float> enter(std::size_t size);

  /// What travelled is there. exchanged: the array that came in place of this one; null: none did.
  void over(void* exchanged);
  /// After that, of what was received: hands it to the backend, and asks whether it is intact.
  void take();
  /// Whether the answer is there; does not wait.
  bool is_checked();
  /// Whether it has the bits that it was sent with.
  bool is_intact();

 private:
  bool is_lent() const { return digests_.size() > 0; }
  std::span<float> floats();
  std::span<float> lend();

  CallQueue* queue_ = nullptr;
  StagedBuffer<float> values_;
  std::size_t size_ = 0;  // of the message
  bool is_intact_ = true;
  // Of one that is lent:
  StagedBuffer<std::uint64_t> digests_;  // of the values as they are, and as they were sent
  Mark last_call_ = 0;
  std::unique_ptr<Loan> loan_;
};

}  // namespace revode
