// The MPI wrapper on one and several ranks: messages, collectives, errors that all ranks share.
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "revode/comm/agreement.hpp"
#include "revode/comm/communicator.hpp"
#include "revode/core/error.hpp"

namespace revode {
namespace {

class CommunicatorTest : public testing::Test {
 protected:
  int rank() const { return world_.rank(); }
  int size() const { return world_.size(); }
  int next() const { return (rank() + 1) % size(); }
  int previous() const { return (rank() + size() - 1) % size(); }

  Communicator world_{MPI_COMM_WORLD};
};

using Floats = std::vector<float>;

TEST_F(CommunicatorTest, MessagesGoRoundTheRing) {
  // small enough to be sent at once, and large enough to need its receive first
  for (const std::size_t length : {1, 1'000'000}) {
    const Floats mine(length, static_cast<float>(rank()));
    Floats theirs(length, -1.0f);

    Request receive = world_.receive(theirs, previous(), {MessageKind::state, 2, 3});
    Request send = world_.send(mine, next(), {MessageKind::state, 2, 3});
    while (!receive.done()) send.done();
    send.wait();

    EXPECT_FALSE(receive.active() || send.active());
    EXPECT_EQ(theirs, Floats(length, static_cast<float>(previous())));
  }
}

TEST_F(CommunicatorTest, MessagesAreMatchedByKindSliceAndMicroBatch) {
  const std::vector<MessageTag> messages{
      {MessageKind::state, 0, 0},    {MessageKind::state, 0, 1},
      {MessageKind::state, 1, 1},    {MessageKind::rebuilt_state, 0, 1},
      {MessageKind::adjoint, 15},    {MessageKind::first_block},
      {MessageKind::last_block},     {MessageKind::adjoint, 1},
      {MessageKind::adjoint, 0, 255}};
  std::vector<Floats> sent, received(messages.size(), Floats{-1});
  for (std::size_t i = 0; i < messages.size(); ++i)
    sent.push_back({static_cast<float>(100 * rank() + static_cast<int>(i))});
  std::vector<Request> requests;

  // sent in one order, received in the other
  for (std::size_t i = 0; i < messages.size(); ++i)
    requests.push_back(world_.send(sent[i], next(), messages[i]));
  for (std::size_t i = messages.size(); i-- > 0;)
    requests.push_back(world_.receive(received[i], previous(), messages[i]));
  for (Request& request : requests) request.wait();

  for (std::size_t i = 0; i < messages.size(); ++i)
    EXPECT_EQ(received[i][0], static_cast<float>(100 * previous() + static_cast<int>(i))) << i;
}

TEST_F(CommunicatorTest, ARequestMovesWithItsMessage) {
  const Floats mine{7};
  Floats theirs{0};
  Request receive = world_.receive(theirs, previous(), {MessageKind::state});
  Request send = world_.send(mine, next(), {MessageKind::state});

  Request moved = std::move(receive);
  Request assigned;
  assigned = std::move(send);
  moved.wait();
  assigned.wait();

  EXPECT_EQ(theirs, mine);
  EXPECT_TRUE(Request().done());
}

TEST_F(CommunicatorTest, AllGatherTakesDifferentLengths) {
  const std::vector<double> mine(rank(), 10.0 * rank());  // rank 0 has none
  std::vector<double> expected;
  for (int r = 0; r < size(); ++r) expected.insert(expected.end(), r, 10.0 * r);

  EXPECT_EQ(world_.all_gather(mine), expected);
}

TEST_F(CommunicatorTest, AllGatherOfOneNumberIsInRankOrder) {
  std::vector<std::int64_t> expected;
  for (int r = 0; r < size(); ++r) expected.push_back((std::int64_t{1} << 40) + r);

  EXPECT_EQ(world_.all_gather((std::int64_t{1} << 40) + rank()), expected);
}

TEST_F(CommunicatorTest, AllGatherOfTextsTakesDifferentLengths) {
  std::vector<std::string> expected;
  for (int r = 0; r < size(); ++r) expected.emplace_back(r, 'x');  // rank 0 has none

  EXPECT_EQ(world_.all_gather(std::string(rank(), 'x')), expected);
}

TEST_F(CommunicatorTest, BroadcastGivesTheRootsValues) {
  for (int root = 0; root < size(); ++root) {
    std::vector<double> doubles{static_cast<double>(rank()), 0.5};
    Floats floats{static_cast<float>(rank())};
    const std::string text(10 * rank(), 'x');

    world_.broadcast(doubles, root);
    world_.broadcast(floats, root);

    EXPECT_EQ(doubles, (std::vector<double>{static_cast<double>(root), 0.5}));
    EXPECT_EQ(floats, Floats{static_cast<float>(root)});
    EXPECT_EQ(world_.broadcast(text, root), std::string(10 * root, 'x'));
  }
}

/// What agree() throws here; an empty message where nothing.
Error agreed_error(const Communicator& world, const std::function<void()>& action) {
  try {
    world.agree(action);
  } catch (const Error& error) {
    return error;
  }
  return Error(ExitStatus::success, "");
}

TEST_F(CommunicatorTest, AgreeIsSilentWhereNobodyFails) {
  int runs = 0;

  EXPECT_STREQ(agreed_error(world_, [&] { ++runs; }).what(), "");
  EXPECT_EQ(runs, 1);
}

TEST_F(CommunicatorTest, AnErrorOfOneRankBecomesEverybodys) {
  for (int failing = 0; failing < size(); ++failing) {
    const Error error = agreed_error(world_, [&] {
      if (rank() == failing) throw input_error("rank {} can't read F", failing);
    });

    const std::string where = failing == 0 ? "" : " (rank " + std::to_string(failing) + ")";
    EXPECT_EQ(error.what(), "rank " + std::to_string(failing) + " can't read F" + where);
    EXPECT_EQ(error.status(), ExitStatus::bad_input);
    EXPECT_EQ(error.scope(), ErrorScope::all_ranks);
  }
}

TEST_F(CommunicatorTest, OfSeveralErrorsTheLowestRanksCounts) {
  const int lowest = size() > 2 ? 1 : 0;
  const Error error = agreed_error(world_, [&] {
    if (rank() == lowest) throw run_error("the lowest");
    if (rank() > lowest) throw input_error("another");
  });

  EXPECT_STREQ(error.what(), lowest == 0 ? "the lowest" : "the lowest (rank 1)");
  EXPECT_EQ(error.status(), ExitStatus::failure);
}

TEST_F(CommunicatorTest, AgreeTakesForeignExceptionsToo) {
  const Error error = agreed_error(world_, [&] {
    if (rank() == size() - 1) throw std::runtime_error("foreign");
  });

  EXPECT_TRUE(std::string(error.what()).starts_with("internal error: foreign")) << error.what();
  EXPECT_EQ(error.status(), ExitStatus::failure);
}

TEST_F(CommunicatorTest, AgreementsOfSeveralRanksDoNotNest) {
  const Error error = agreed_error(world_, [&] { world_.agree([] {}); });

  if (size() == 1) {
    EXPECT_STREQ(error.what(), "");
  } else {
    EXPECT_STREQ(error.what(), "internal error: an agreement was begun within another");
  }
}

TEST_F(CommunicatorTest, NothingIsAgreedOnAfterAnErrorOfMpi) {
  EXPECT_THROW(world_.agree([] { throw MpiError("MPI_Send failed"); }), MpiError);
}

/// What require_same() throws here; an empty message where nothing.
Error difference(const Communicator& world, const std::vector<Communicator::Fact>& facts) {
  try {
    world.require_same(facts, "use one");
  } catch (const Error& error) {
    return error;
  }
  return Error(ExitStatus::success, "");
}

TEST_F(CommunicatorTest, FactsThatAllShareAreNoError) {
  EXPECT_STREQ(difference(world_, {}).what(), "");
  EXPECT_STREQ(difference(world_, {{"a", "1"}, {"b", ""}}).what(), "");
}

TEST_F(CommunicatorTest, TheFirstFactThatDiffersIsNamedWithItsRank) {
  const int other = size() - 1;
  const std::string mine = rank() == other ? "2" : "1";

  const Error error = difference(world_, {{"a", "0"}, {"--seed", mine}, {"--steps", mine}});

  if (size() == 1) {
    EXPECT_STREQ(error.what(), "");
  } else {
    EXPECT_EQ(error.what(), "ranks disagree on --seed: '1' on rank 0, '2' on rank " +
                                std::to_string(other) + "; use one");
    EXPECT_EQ(error.status(), ExitStatus::bad_input);
    EXPECT_EQ(error.scope(), ErrorScope::all_ranks);
  }
}

TEST_F(CommunicatorTest, HostShareCountsTheRanksOfThisHost) {
  const Communicator::HostShare share = world_.host_share();

  // the tests' environment binds no rank, so that all of them share all processors
  EXPECT_EQ(share.num_sharing, size());
  EXPECT_GE(share.num_processors, 1);
}

TEST_F(CommunicatorTest, MpiErrorsComeAsExceptions) {
  const Floats values{1};

  try {
    world_.send(values, size() + 3, {MessageKind::state});
    FAIL() << "there is no such rank";
  } catch (const Error& error) {
    const std::string peer = "MPI_Isend of 1 values to rank " + std::to_string(size() + 3);
    EXPECT_NE(std::string(error.what()).find(peer), std::string::npos) << error.what();
  }
}

TEST_F(CommunicatorTest, DuplicatesKeepTheirMessagesApart) {
  const Communicator other(MPI_COMM_WORLD);
  const Floats one{1}, two{2};
  Floats from_world{0}, from_other{0};

  Request sends[] = {other.send(two, next(), {MessageKind::state}),
                     world_.send(one, next(), {MessageKind::state})};
  Request receives[] = {world_.receive(from_world, previous(), {MessageKind::state}),
                        other.receive(from_other, previous(), {MessageKind::state})};
  for (Request& request : receives) request.wait();
  for (Request& request : sends) request.wait();

  EXPECT_EQ(from_world, one);
  EXPECT_EQ(from_other, two);
}

}  // namespace
}  // namespace revode
