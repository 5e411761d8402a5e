// Messages between ranks of this host: exchanged where that is possible, else copied.
#include <algorithm>
#include <cstdlib>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "revode/core/buffer.hpp"
#include "revode/pipeline/transport.hpp"

namespace revode {
namespace {

constexpr std::size_t size = 5000, part = 3000;

/// Sends arrays around the ring of all ranks.
class Ring {
 public:
  Ring(const Communicator& world, MpiTransport& transport)
      : world_(world),
        transport_(transport),
        here_(size, Memory::state, transport.memory()),
        free_(size, Memory::state, transport.memory()) {
    transport.publish();
  }

  /// Passes the first part of an array of `value` on; whether arrays were exchanged. They must
  /// have been on both sides or on neither, and the values have come.
  bool pass_on(float value) {
    std::ranges::fill(here_.span(), value);
    const int next = (world_.rank() + 1) % world_.size();
    const int before = (world_.rank() + world_.size() - 1) % world_.size();
    const auto receive =
        transport_.receive(free_.span().first(part), before, {MessageKind::state, world_.rank()});
    const auto send = transport_.send(here_.span().first(part), next, {MessageKind::state, next});
    bool sent = false, received = false;
    while (!sent || !received) {
      sent = sent || send->done();
      received = received || receive->done();
    }
    EXPECT_EQ(send->exchanged() != nullptr, receive->exchanged() != nullptr);
    const bool exchanged = send->exchanged() != nullptr;
    if (exchanged) {
      here_.exchange(static_cast<float*>(send->exchanged()));
      free_.exchange(static_cast<float*>(receive->exchanged()));
    }
    here_.swap(free_);
    return exchanged;
  }
  /// What came last.
  std::vector<float> last() const { return {here_.begin(), here_.begin() + part}; }
  std::set<const float*> arrays() const { return {here_.data(), free_.data()}; }

 private:
  const Communicator& world_;
  MpiTransport& transport_;
  Buffer<float> here_, free_;
};

class TransportOfRanks : public testing::Test {
 protected:
  int before() const { return (world_.rank() + world_.size() - 1) % world_.size(); }

  Communicator world_{MPI_COMM_WORLD};
};

TEST_F(TransportOfRanks, ArraysOfOneSizeChangeHands) {
  MpiTransport transport(world_, size, size);
  Ring ring(world_, transport);
  std::set<const float*> seen;
  for (int round = 0; round < 20; ++round) {
    EXPECT_TRUE(ring.pass_on(static_cast<float>(100 * round + world_.rank())));
    EXPECT_EQ(ring.last(), std::vector<float>(part, static_cast<float>(100 * round + before())));
    EXPECT_EQ(ring.arrays().size(), 2u);
    seen.merge(ring.arrays());
  }
  EXPECT_GT(seen.size(), 2u);  // others' too
}

TEST_F(TransportOfRanks, ArraysOfOtherSizesAreCopied) {
  MpiTransport transport(world_, size + world_.rank(), size);
  Ring ring(world_, transport);

  EXPECT_FALSE(ring.pass_on(static_cast<float>(world_.rank())));
  EXPECT_EQ(ring.last(), std::vector<float>(part, static_cast<float>(before())));
}

TEST_F(TransportOfRanks, TheEnvironmentCanAskForCopies) {
  setenv("REVODE_COPY_MESSAGES", "1", 1);
  MpiTransport transport(world_, size, size);
  unsetenv("REVODE_COPY_MESSAGES");
  Ring ring(world_, transport);

  EXPECT_EQ(&transport.memory(), &host_memory());
  EXPECT_FALSE(ring.pass_on(static_cast<float>(world_.rank())));
  EXPECT_EQ(ring.last(), std::vector<float>(part, static_cast<float>(before())));
}

}  // namespace
}  // namespace revode
