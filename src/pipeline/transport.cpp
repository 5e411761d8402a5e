#include "revode/pipeline/transport.hpp"

#include <utility>

namespace revode {
namespace {

class MpiTransfer final : public Transfer {
 public:
  explicit MpiTransfer(Request request) : request_(std::move(request)) {}
  bool done() override { return request_.done(); }

 private:
  Request request_;
};

}  // namespace

std::unique_ptr<Transfer> MpiTransport::send(std::span<const float> values, int to,
                                             const MessageTag& tag) {
  return std::make_unique<MpiTransfer>(communicator_.send(values, to, tag));
}

std::unique_ptr<Transfer> MpiTransport::receive(std::span<float> values, int from,
                                                const MessageTag& tag) {
  return std::make_unique<MpiTransfer>(communicator_.receive(values, from, tag));
}

}  // namespace revode
