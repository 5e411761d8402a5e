#include "revode/pipeline/transport.hpp"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

#include "revode/comm/shared_memory.hpp"

namespace revode {
namespace {

class MpiTransfer final : public Transfer {
 public:
  explicit MpiTransfer(Request request) : request_(std::move(request)) {}
  bool done() override { return request_.done(); }

 private:
  Request request_;
};

/// Sends the name of one array and receives that of another. The receiver of a message does so as
/// soon as it has an array for it, the sender once the message is in its own.
class Exchange final : public Transfer {
 public:
  /// give, take: the same ranks, but other communicators.
  Exchange(const void* array, int peer, const MessageTag& tag, const SharedMemory& memory,
           const Communicator& give, const Communicator& take)
      : memory_(memory),
        given_{memory.name_of(array)},
        requests_{take.receive(std::span(taken_), peer, tag),
                  give.send(std::span<const std::int64_t>(given_), peer, tag)} {}

  bool done() override { return requests_[0].done() && requests_[1].done(); }
  void* exchanged() const override { return memory_.find(taken_[0]); }

 private:
  const SharedMemory& memory_;
  std::array<std::int64_t, 1> given_, taken_{};
  std::array<Request, 2> requests_;
};

}  // namespace

struct MpiTransport::Shared {
  explicit Shared(const Communicator& communicator)
      : memory(communicator), back(communicator.handle()) {}

  SharedMemory memory;
  Communicator back;  // for what receivers give
  bool makes_arrays = false;
  std::vector<bool> same_state_size, same_adjoint_size;  // by rank
};

MpiTransport::MpiTransport(const Communicator& communicator, std::size_t state_size,
                           std::size_t adjoint_size)
    : communicator_(communicator) {
  if (communicator.size() == 1) return;
  shared_ = std::make_unique<Shared>(communicator);
  const std::array<std::int64_t, 2> mine{static_cast<std::int64_t>(state_size),
                                         static_cast<std::int64_t>(adjoint_size)};
  for (const std::vector<std::int64_t>& theirs : communicator.all_gather_each(mine)) {
    shared_->same_state_size.push_back(theirs[0] == mine[0]);
    shared_->same_adjoint_size.push_back(theirs[1] == mine[1]);
  }
  // Arrays that are never exchanged are better where they may have large pages.
  if (std::getenv("REVODE_COPY_MESSAGES") != nullptr) return;
  for (const int rank : communicator.ranks_of_host())
    if (rank != communicator.rank() &&
        (shared_->same_state_size[rank] || shared_->same_adjoint_size[rank]))
      shared_->makes_arrays = true;
}

MpiTransport::~MpiTransport() = default;

MemorySpace& MpiTransport::memory() {
  if (!shared_ || !shared_->makes_arrays) return host_memory();
  return shared_->memory;
}

void MpiTransport::publish() {
  if (shared_) shared_->memory.publish();
}

bool MpiTransport::exchanges(int peer, const MessageTag& tag) const {
  if (!shared_ || !shared_->memory.shares_with(peer)) return false;
  return tag.kind == MessageKind::adjoint ? shared_->same_adjoint_size[peer]
                                          : shared_->same_state_size[peer];
}

std::unique_ptr<Transfer> MpiTransport::send(std::span<float> values, int to,
                                             const MessageTag& tag) {
  sent_bytes_ += static_cast<std::int64_t>(values.size_bytes());
  if (!exchanges(to, tag))
    return std::make_unique<MpiTransfer>(communicator_.send(values, to, tag));
  return std::make_unique<Exchange>(values.data(), to, tag, shared_->memory, communicator_,
                                    shared_->back);
}

std::unique_ptr<Transfer> MpiTransport::receive(std::span<float> values, int from,
                                                const MessageTag& tag) {
  if (!exchanges(from, tag))
    return std::make_unique<MpiTransfer>(communicator_.receive(values, from, tag));
  return std::make_unique<Exchange>(values.data(), from, tag, shared_->memory, shared_->back,
                                    communicator_);
}

}  // namespace revode
