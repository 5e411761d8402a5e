// How messages of states travel between ranks: over MPI, or within a process for tests and the
// simulation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "revode/comm/communicator.hpp"
#include "revode/core/memory_space.hpp"

namespace revode {

/// A message under way; its memory must live until done(). Destroying it earlier is a bug.
class Transfer {
 public:
  virtual ~Transfer() = default;
  /// Lets messages move along; true from when this one is complete.
  virtual bool done() = 0;
  /// Once done(), where an array was handed over in place of its values: the array that is this
  /// rank's now, with what was received or free for use, for the one that the message was made of.
  virtual void* exchanged() const { return nullptr; }
};

class Transport {
 public:
  virtual ~Transport() = default;
  /// Where the host's arrays for messages are to be made.
  virtual MemorySpace& memory() { return host_memory(); }
  /// To be called on all ranks after they have made arrays there.
  virtual void publish() {}
  /// Both return at once. A message is matched by its sender and its tag; `values` begin where
  /// their array does.
  virtual std::unique_ptr<Transfer> send(std::span<float> values, int to,
                                         const MessageTag& tag) = 0;
  virtual std::unique_ptr<Transfer> receive(std::span<float> values, int from,
                                            const MessageTag& tag) = 0;
};

/// Over MPI. Ranks that share a host's memory, and whose arrays are of one size, exchange arrays in
/// place of copying them: the one with the message for one that is free. Not where the environment
/// sets REVODE_COPY_MESSAGES.
class MpiTransport final : public Transport {
 public:
  /// Elements of this rank's arrays, by what they are for. Collective.
  MpiTransport(const Communicator& communicator, std::size_t state_size, std::size_t adjoint_size);
  ~MpiTransport() override;

  MemorySpace& memory() override;
  /// Collective.
  void publish() override;
  std::unique_ptr<Transfer> send(std::span<float> values, int to, const MessageTag& tag) override;
  std::unique_ptr<Transfer> receive(std::span<float> values, int from,
                                    const MessageTag& tag) override;

  /// Of all values sent so far, whether MPI copied them or their array was handed over.
  std::int64_t sent_bytes() const { return sent_bytes_; }

 private:
  struct Shared;
  bool exchanges(int peer, const MessageTag& tag) const;

  const Communicator& communicator_;
  std::unique_ptr<Shared> shared_;  // null: of a single rank
  std::int64_t sent_bytes_ = 0;
};

}  // namespace revode
