// How messages of states travel between ranks: over MPI, or within a process for tests and the
// simulation.
#pragma once

#include <memory>
#include <span>

#include "revode/comm/communicator.hpp"

namespace revode {

/// A message under way; its memory must live until done(). Destroying it earlier is a bug.
class Transfer {
 public:
  virtual ~Transfer() = default;
  /// Lets messages move along; true from when this one is complete.
  virtual bool done() = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  /// Both return at once. A message is matched by its sender and its tag.
  virtual std::unique_ptr<Transfer> send(std::span<const float> values, int to,
                                         const MessageTag& tag) = 0;
  virtual std::unique_ptr<Transfer> receive(std::span<float> values, int from,
                                            const MessageTag& tag) = 0;
};

class MpiTransport final : public Transport {
 public:
  explicit MpiTransport(const Communicator& communicator) : communicator_(communicator) {}
  std::unique_ptr<Transfer> send(std::span<const float> values, int to,
                                 const MessageTag& tag) override;
  std::unique_ptr<Transfer> receive(std::span<float> values, int from,
                                    const MessageTag& tag) override;

 private:
  const Communicator& communicator_;
};

}  // namespace revode
