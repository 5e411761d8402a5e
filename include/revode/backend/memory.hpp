// The memory that a backend computes in, and the order of its calls.
//
// Calls of a backend take effect in the order in which they are made, but perhaps later than they
// return. The host may touch what a call reads or writes in host memory only after it has waited
// for a mark set behind that call. On a CPU a call returns when its work is done, and a mark is
// free.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "revode/core/buffer.hpp"
#include "revode/core/digest.hpp"
#include "revode/core/memory_space.hpp"
#include "revode/core/phase_timer.hpp"

namespace revode {

/// A place in the order of a backend's calls; later marks compare greater. 0 is in front of all.
using Mark = std::int64_t;

class CallQueue : public WorkClock {
 public:
  /// Where arrays that are handed to the calls live, unless they say "host".
  virtual MemorySpace& space() = 0;
  /// Memory of the host that is copied to and from fastest. To be given back when copies are done.
  virtual MemorySpace& staging() { return host_memory(); }
  /// Memory for arrays of the space that may be lent to messages; null where there is none.
  virtual MemorySpace* lendable() { return nullptr; }

  /// Behind all calls made so far.
  virtual Mark mark() = 0;
  /// Whether all calls in front of `mark` are done; does not wait.
  virtual bool reached(Mark mark) = 0;
  virtual void wait(Mark mark) = 0;

  /// `bytes` become 0.
  virtual void zero(void* to, std::size_t bytes) = 0;
  /// Within the space; must not overlap.
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  /// Into the space from the host's memory, and back.
  virtual void copy_in(void* to, const void* host, std::size_t bytes) = 0;
  virtual void copy_out(void* host, const void* from, std::size_t bytes) = 0;

  /// digests [arrays] (overwritten) <- digest_of() each array. All within the space; each array
  /// begins at a multiple of 4 bytes.
  virtual void digest(const std::vector<std::span<const std::byte>>& arrays,
                      std::uint64_t* digests) = 0;

 protected:
  friend class Loan;
  /// See Loan.
  virtual void lend(void*, std::size_t) {}
  virtual void take_back(void*, std::size_t) noexcept {}
};

/// As long as it lives, bytes of lendable memory are a message's: whoever carries that reads and
/// writes them, and no call may touch their array. All calls that do must be known to be done.
class Loan {
 public:
  Loan(CallQueue& queue, void* memory, std::size_t bytes)
      : queue_(queue), memory_(memory), bytes_(bytes) {
    queue_.lend(memory_, bytes_);
  }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;
  ~Loan() { queue_.take_back(memory_, bytes_); }

 private:
  CallQueue& queue_;
  void* memory_;
  std::size_t bytes_;
};

/// For arrays in host memory: every call is done when it returns. Lives as long as the program.
CallQueue& host_queue();

/// An array in a backend's memory, with a side for the host: the array itself where the host may
/// touch it, else a copy of its own, made when it is first asked for.
template <typename T>
class StagedBuffer {
 public:
  StagedBuffer() = default;
  /// `queue` must outlive the array.
  StagedBuffer(std::size_t size, Memory category, CallQueue& queue)
      : queue_(&queue), category_(category), array_(size, category, queue.space()) {}
  /// In `memory`, which the host may touch where it may touch the queue's space.
  StagedBuffer(std::size_t size, Memory category, CallQueue& queue, MemorySpace& memory)
      : queue_(&queue), category_(category), array_(size, category, memory) {}
  StagedBuffer(StagedBuffer&& other) noexcept { swap(other); }
  StagedBuffer& operator=(StagedBuffer&& other) noexcept {
    StagedBuffer(std::move(other)).swap(*this);
    return *this;
  }
  ~StagedBuffer() {
    if (queue_ == nullptr) return;
    try {
      queue_->wait(last_copy_);
    } catch (const std::runtime_error&) {  // of a device that has failed, which other calls tell
    }
  }

  std::size_t size() const { return array_.size(); }
  std::size_t bytes() const { return array_.bytes(); }
  /// For the backend's calls.
  T* data() { return array_.data(); }

  /// At least `size` elements; a larger array keeps nothing.
  void ensure(std::size_t size, Memory category, CallQueue& queue) {
    if (this->size() >= size) return;
    *this = StagedBuffer();
    *this = StagedBuffer(size, category, queue);
  }

  /// The first `count` elements of the array go to the host side, or come from there. Queued.
  void fetch(std::size_t count) {
    if (is_shared()) return;
    queue_->copy_out(side().data(), data(), count * sizeof(T));
    last_copy_ = queue_->mark();
  }
  void fetch() { fetch(size()); }
  void store(std::size_t count) {
    if (is_shared()) return;
    queue_->copy_in(data(), side().data(), count * sizeof(T));
    last_copy_ = queue_->mark();
  }
  void store() { store(size()); }

  /// The host side is another array from now on, of the same size and memory space, whose owner
  /// takes the one that it was.
  void exchange(T* array) { (is_shared() ? array_ : side_).exchange(array); }

  /// Whether the last fetch() or store() is done.
  bool settled() { return queue_ == nullptr || is_shared() || queue_->reached(last_copy_); }
  /// The host side, to be read after fetch() and written before store(); waits until it is settled.
  std::span<T> host() {
    if (is_shared()) return array_.span();
    queue_->wait(last_copy_);
    return side().span();
  }
  /// What the array holds now.
  std::span<const T> read() {
    fetch();
    return host();
  }

  void swap(StagedBuffer& other) noexcept {
    std::swap(queue_, other.queue_);
    std::swap(category_, other.category_);
    array_.swap(other.array_);
    side_.swap(other.side_);
    std::swap(last_copy_, other.last_copy_);
  }

 private:
  bool is_shared() const { return size() == 0 || queue_->space().host_accessible(); }
  Buffer<T>& side() {
    side_.ensure(size(), category_, queue_->staging());
    return side_;
  }

  CallQueue* queue_ = nullptr;
  Memory category_ = Memory::workspace;
  Buffer<T> array_, side_;
  Mark last_copy_ = 0;
};

/// Tells of the first `count` elements, wherever they lie; what those who are told make of them is
/// there when this returns.
template <typename T>
void tell_guarded(std::string_view what, StagedBuffer<T>& array, std::size_t count) {
  if (on_guarded_array == nullptr) return;
  array.fetch(count);
  tell_guarded(what, array.host().first(count));
  array.store(count);
  array.host();
}

/// Arrays that the host hands to calls, one after the other: none is filled again while a call that
/// was made before may still read it, so that neither the host nor a copy waits for such a call.
template <typename T>
class SentArrays {
 public:
  class Sent {
   public:
    T* data() { return array_.data(); }

   private:
    friend class SentArrays;
    StagedBuffer<T> array_;
    bool is_in_use_ = false;
    Mark last_use_ = 0;
  };

  /// `values` in the backend's memory, for calls that are made until release(). Queued.
  Sent& send(std::span<const T> values, CallQueue& queue) {
    Sent& sent = unused(queue);
    sent.array_.ensure(values.size(), Memory::workspace, queue);
    std::ranges::copy(values, sent.array_.host().begin());
    sent.array_.store(values.size());
    sent.is_in_use_ = true;
    return sent;
  }
  /// No call that is made from now on reads it.
  void release(Sent& sent, CallQueue& queue) {
    sent.is_in_use_ = false;
    sent.last_use_ = queue.mark();
  }

 private:
  Sent& unused(CallQueue& queue) {
    for (Sent& sent : arrays_)
      if (!sent.is_in_use_ && queue.reached(sent.last_use_)) return sent;
    return arrays_.emplace_back();
  }

  std::deque<Sent> arrays_;
};

}  // namespace revode
