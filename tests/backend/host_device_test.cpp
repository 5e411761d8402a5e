// The device in host memory: it runs what CUDA would run, and finds what CUDA would not forgive,
// whatever order work happens to run in.
#include "backend/cuda/host_device.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/reference/reference_backend.hpp"

namespace revode::cuda {
namespace {

using testing::HasSubstr;

struct OrderOfRuns {
  RunOrder order;
  std::uint32_t seed;
};

std::vector<OrderOfRuns> all_orders() {
  std::vector<OrderOfRuns> orders{{RunOrder::eager, 0}, {RunOrder::lazy, 0}};
  for (std::uint32_t seed = 1; seed <= 20; ++seed) orders.push_back({RunOrder::random, seed});
  return orders;
}

std::string name_of(const testing::TestParamInfo<OrderOfRuns>& info) {
  switch (info.param.order) {
    case RunOrder::eager:
      return "eager";
    case RunOrder::lazy:
      return "lazy";
    case RunOrder::random:
      return fmt::format("random_seed_{}", info.param.seed);
  }
  return "";
}

/// Two streams, three arrays of 100 values, and a step that takes one to another.
class HostDeviceOfAnyOrder : public testing::TestWithParam<OrderOfRuns> {
 protected:
  static constexpr std::int64_t size = 100;

  /// Copies still read `host`.
  void TearDown() override {
    synchronize(first);
    synchronize(second);
  }
  void double_values(const float* from, float* to, Stream stream, std::int64_t count = size) {
    device.zero(to, count * sizeof(float), stream);
    device.launch(AddScaled{count, 2, from, to}, stream);
  }
  float* array(Stream stream) {
    return static_cast<float*>(device.allocate(size * sizeof(float), stream));
  }
  void synchronize(Stream stream) {
    const Event end = device.make_event();
    device.record(end, stream);
    device.synchronize(end);
  }
  /// What the device says of it, at the latest when the host waits for both streams.
  template <typename Action>
  std::string fault_of(Action&& action) {
    try {
      action();
      synchronize(first);
      synchronize(second);
    } catch (const std::logic_error& error) {
      return error.what();
    }
    return "";
  }

  HostDevice device{GetParam().order, GetParam().seed};
  Stream first = device.make_stream(), second = device.make_stream();
  Event event = device.make_event();
  float *a = array(first), *b = array(first), *c = array(second);
  std::vector<float> host = std::vector<float>(size, 1.5f), result = std::vector<float>(size);
};

INSTANTIATE_TEST_SUITE_P(Order, HostDeviceOfAnyOrder, testing::ValuesIn(all_orders()), name_of);

TEST_P(HostDeviceOfAnyOrder, RunsWhatEventsOrder) {
  device.copy_in(a, host.data(), size * sizeof(float), first);
  double_values(a, b, first);
  device.record(event, first);
  device.wait(second, event);
  double_values(b, c, second);
  device.copy_out(result.data(), c, size * sizeof(float), second);
  synchronize(second);

  EXPECT_EQ(result, std::vector<float>(size, 6.0f));
}

TEST_P(HostDeviceOfAnyOrder, TheHostOrdersWhatItHasWaitedFor) {
  device.copy_in(a, host.data(), size * sizeof(float), first);
  device.record(event, first);
  while (!device.reached(event)) {
  }
  double_values(a, c, second);
  device.copy_out(result.data(), c, size * sizeof(float), second);
  synchronize(second);

  EXPECT_EQ(result, std::vector<float>(size, 3.0f));
}

// An event binds to its last record before the wait.
TEST_P(HostDeviceOfAnyOrder, AnEventMayBeRecordedAgain) {
  device.copy_in(a, host.data(), size * sizeof(float), first);
  device.record(event, first);
  double_values(a, b, first);
  device.record(event, first);
  device.wait(second, event);
  double_values(b, c, second);
  device.copy_out(result.data(), c, size * sizeof(float), second);
  synchronize(second);

  EXPECT_EQ(result.front(), 6.0f);
}

TEST_P(HostDeviceOfAnyOrder, AdditionsOfIntegersNeedNoOrder) {
  auto* const any = static_cast<int*>(device.allocate(sizeof(int), first));
  device.zero(any, sizeof(int), first);
  device.copy_in(a, host.data(), size * sizeof(float), first);
  device.record(event, first);
  device.wait(second, event);

  EXPECT_EQ(fault_of([&] {
              device.launch(FindNonFinite{size, a, any}, first);
              device.launch(FindNonFinite{size, a, any}, second);
            }),
            "");
}

TEST_P(HostDeviceOfAnyOrder, FindsAMissingEvent) {
  device.copy_in(a, host.data(), size * sizeof(float), first);

  const std::string fault = fault_of([&] { double_values(a, c, second); });

  EXPECT_NE(fault.find("nothing orders copy in on stream 0 and add_scaled on stream 1"),
            std::string::npos)
      << fault;
}

// A wait for an event that was never recorded passes at once.
TEST_P(HostDeviceOfAnyOrder, FindsAWaitBeforeTheRecord) {
  device.wait(second, event);
  device.copy_in(a, host.data(), size * sizeof(float), first);
  device.record(event, first);

  EXPECT_NE(fault_of([&] { double_values(a, c, second); }).find("nothing orders"),
            std::string::npos);
}

// A record that is taken before the work binds to nothing behind it.
TEST_P(HostDeviceOfAnyOrder, FindsARecordThatIsTooEarly) {
  device.record(event, first);
  device.copy_in(a, host.data(), size * sizeof(float), first);
  device.wait(second, event);

  EXPECT_NE(fault_of([&] { double_values(a, c, second); }).find("nothing orders"),
            std::string::npos);
}

TEST_P(HostDeviceOfAnyOrder, FindsMemoryThatIsGivenBackTooEarly) {
  device.copy_in(a, host.data(), size * sizeof(float), first);
  device.record(event, first);
  device.wait(second, event);
  double_values(a, c, second);

  const std::string fault = fault_of([&] { device.release(a, size * sizeof(float), first); });

  EXPECT_NE(fault.find("add_scaled on stream 1 and release on stream 0"), std::string::npos)
      << fault;
}

TEST_P(HostDeviceOfAnyOrder, FindsMemoryThatIsUsedAgain) {
  device.copy_in(a, host.data(), size * sizeof(float), first);
  device.release(a, size * sizeof(float), first);

  EXPECT_NE(fault_of([&] { double_values(a, b, first); }).find("given back"), std::string::npos);
}

// Of two that use one array in turn, the second must wait for the first to have read it.
TEST_P(HostDeviceOfAnyOrder, FindsAnArrayThatIsFilledAgainTooEarly) {
  device.copy_in(a, host.data(), size * sizeof(float), first);
  device.record(event, first);
  device.wait(second, event);
  double_values(a, c, second);

  EXPECT_NE(fault_of([&] {
              device.copy_in(a, host.data(), size * sizeof(float), first);
            }).find("nothing orders add_scaled on stream 1 and copy in on stream 0"),
            std::string::npos);
}

TEST_P(HostDeviceOfAnyOrder, FindsALaunchBeyondItsArray) {
  device.copy_in(a, host.data(), size * sizeof(float), first);

  EXPECT_NE(fault_of([&] { double_values(a, b, first, size + 1); }).find("beyond its array"),
            std::string::npos);
}

TEST_P(HostDeviceOfAnyOrder, FindsMemoryOfTheHostInAKernel) {
  EXPECT_NE(fault_of([&] { double_values(host.data(), b, first); }).find("memory of the host"),
            std::string::npos);
  EXPECT_NE(fault_of([&] {
              device.copy(a, host.data(), size * sizeof(float), first);
            }).find("memory of the host"),
            std::string::npos);
}

TEST_P(HostDeviceOfAnyOrder, AGraphRunsWhatWasRecorded) {
  device.copy_in(a, host.data(), size * sizeof(float), first);
  device.begin_recording(first);
  double_values(a, b, first);
  const Graph graph = device.end_recording(first);
  device.zero(b, size * sizeof(float), first);
  device.copy_out(result.data(), b, size * sizeof(float), first);
  synchronize(first);
  EXPECT_EQ(result, std::vector<float>(size, 0.0f));

  for (float& value : host) value += 1;
  device.copy_in(a, host.data(), size * sizeof(float), first);
  for (int run = 0; run < 2; ++run) device.run(graph, first);
  device.release(graph);
  device.copy_out(result.data(), b, size * sizeof(float), first);
  synchronize(first);
  EXPECT_EQ(result, std::vector<float>(size, 5.0f));
}

TEST_P(HostDeviceOfAnyOrder, AGraphIsOrderedLikeItsWork) {
  device.begin_recording(second);
  double_values(a, c, second);
  const Graph graph = device.end_recording(second);
  device.copy_in(a, host.data(), size * sizeof(float), first);

  EXPECT_NE(fault_of([&] { device.run(graph, second); }).find("nothing orders copy in on stream 0"),
            std::string::npos);
}

TEST_P(HostDeviceOfAnyOrder, FindsWhatCannotBeRecorded) {
  device.begin_recording(first);

  EXPECT_NE(
      fault_of([&] { device.record(event, first); }).find("record on stream 0, which records"),
      std::string::npos);
  EXPECT_NE(fault_of([&] { device.wait(first, event); }).find("wait on"), std::string::npos);
  EXPECT_NE(fault_of([&] { array(first); }).find("allocate on"), std::string::npos);
  EXPECT_NE(fault_of([&] {
              device.copy_in(a, host.data(), size * sizeof(float), first);
            }).find("copy in on"),
            std::string::npos);
  device.end_recording(first);
}

TEST_P(HostDeviceOfAnyOrder, FindsAGraphOfMemoryThatWasGivenBack) {
  device.begin_recording(first);
  double_values(a, b, first);
  const Graph graph = device.end_recording(first);
  device.release(b, size * sizeof(float), first);

  EXPECT_NE(fault_of([&] { device.run(graph, first); }).find("uses memory that was given back"),
            std::string::npos);
}

// A library's workspace moves when a larger convolution comes.
TEST_P(HostDeviceOfAnyOrder, FindsAGraphOfAWorkspaceThatMoved) {
  const Convolution small{1, 1, 1, 1, 1, a, a + 16, b}, large{4, 1, 1, 1, 1, a, a + 16, b};
  device.copy_in(a, host.data(), size * sizeof(float), first);
  device.convolve(small, first);
  device.begin_recording(first);
  device.convolve(small, first);
  const Graph graph = device.end_recording(first);
  const int generation = device.generation();
  device.run(graph, first);
  EXPECT_EQ(device.generation(), generation);
  device.convolve(large, first);

  EXPECT_GT(device.generation(), generation);
  EXPECT_NE(fault_of([&] { device.run(graph, first); }).find("uses memory that was given back"),
            std::string::npos);
}

// It may be done early, but never looks done without a wait where it runs late.
TEST_P(HostDeviceOfAnyOrder, AResultIsPoisonUntilItIsThere) {
  device.copy_in(a, host.data(), size * sizeof(float), first);
  device.copy_out(result.data(), a, size * sizeof(float), first);

  if (GetParam().order == RunOrder::lazy) {
    EXPECT_TRUE(std::isnan(result.front()));
  }
  for (const float value : result) EXPECT_TRUE(std::isnan(value) || value == 1.5f) << value;
  synchronize(first);
  EXPECT_EQ(result, host);
}

TEST_P(HostDeviceOfAnyOrder, FreshMemoryHoldsNoNumbers) {
  device.launch(AddScaled{size, 1, a, b}, first);
  device.copy_out(result.data(), b, size * sizeof(float), first);
  synchronize(first);

  for (const float value : result) EXPECT_TRUE(std::isnan(value));
}

/// Lent memory is the host's to read and to write, as long as it is lent.
TEST_P(HostDeviceOfAnyOrder, AMessageLeavesFromAndArrivesInMemoryThatIsLent) {
  const std::size_t bytes = size * sizeof(float);
  auto* const lent = static_cast<float*>(device.allocate_lendable(bytes));
  device.copy_in(a, host.data(), bytes, first);
  double_values(a, lent, first);
  synchronize(first);
  device.lend(lent, bytes);
  for (std::int64_t i = 0; i < size; ++i) lent[i] += 1;
  device.take_back(lent, bytes);
  double_values(lent, c, second);
  device.copy_out(result.data(), c, bytes, second);
  synchronize(second);
  device.release_lendable(lent);

  EXPECT_EQ(result, std::vector<float>(size, 8.0f));
}

TEST_P(HostDeviceOfAnyOrder, FindsAMessageThatIsTooEarly) {
  const std::size_t bytes = size * sizeof(float);
  auto* const lent = static_cast<float*>(device.allocate_lendable(bytes));
  device.zero(lent, bytes, first);
  device.record(event, first);
  device.wait(second, event);
  EXPECT_THAT(fault_of([&] { device.lend(lent, bytes); }),
              HasSubstr("nothing orders zero on stream 0 and a message"));
}

TEST_P(HostDeviceOfAnyOrder, FindsWorkOnMemoryThatAMessageHas) {
  const std::size_t bytes = size * sizeof(float);
  auto* const lent = static_cast<float*>(device.allocate_lendable(bytes));
  device.lend(lent, bytes / 2);
  EXPECT_THAT(fault_of([&] { device.zero(lent + size / 2, bytes / 2, first); }),
              HasSubstr("zero touches memory that a message has"));
  device.take_back(lent, bytes / 2);
  EXPECT_EQ(fault_of([&] { device.zero(lent, bytes, first); }), "");
}

TEST_P(HostDeviceOfAnyOrder, FindsAMessageInMemoryOfAStream) {
  EXPECT_THAT(fault_of([&] {
                synchronize(first);
                device.lend(a, size * sizeof(float));
              }),
              HasSubstr("a message is given memory of a stream"));
}

TEST_P(HostDeviceOfAnyOrder, FindsMemoryForMessagesThatIsGivenBackTooEarly) {
  auto* const lent = static_cast<float*>(device.allocate_lendable(size * sizeof(float)));
  device.zero(lent, size * sizeof(float), first);
  EXPECT_THAT(fault_of([&] {
                synchronize(second);
                device.release_lendable(lent);
              }),
              HasSubstr("memory is given back that zero uses"));
}

using HostDeviceDeathTest = HostDeviceOfAnyOrder;
INSTANTIATE_TEST_SUITE_P(Order, HostDeviceDeathTest, testing::ValuesIn(all_orders()), name_of);

TEST_P(HostDeviceDeathTest, TheHostCannotReadMemoryOfTheDevice) {
  synchronize(first);
  EXPECT_DEATH(std::printf("%f", static_cast<double>(*a)), "");
}

// Of floats of all magnitudes and signs, the smallest among them.
TEST(RoundMantissa, EqualsTheReference) {
  std::mt19937 random(1);
  for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16})
    for (int draw = 0; draw < 100'000; ++draw) {
      const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
      const float got = round_mantissa(value, 23 - mantissa_bits(precision));
      const float expected = reference::round_operand(value, precision);
      ASSERT_TRUE(std::bit_cast<std::uint32_t>(got) == std::bit_cast<std::uint32_t>(expected) ||
                  (std::isnan(value) && std::isnan(got)))
          << value << " became " << got << ", not " << expected;
    }
}

// Small numbers and large ones, by powers of two and their neighbours among others; numbers beside
// multiples of the divisor, where a quotient off by one would show.
TEST(Divisor, DividesAsIntegersDo) {
  constexpr int largest = std::numeric_limits<int>::max();
  std::mt19937 random(1);
  std::vector<int> divisors = {largest, largest - 1};
  for (int value = 1; value <= 300; ++value) divisors.push_back(value);
  for (int bit = 9; bit < 31; ++bit)
    for (const int beside : {-1, 0, 1}) divisors.push_back((1 << bit) + beside);
  for (const int divisor : divisors) {
    const Divisor by(divisor);
    const auto check = [&](std::int64_t number) {
      if (number < 0 || number > largest) return;
      const int n = static_cast<int>(number);
      ASSERT_EQ(n / by, n / divisor) << n << " by " << divisor;
      ASSERT_EQ(n % by, n % divisor) << n << " by " << divisor;
    };
    for (int draw = 0; draw < 100; ++draw) {
      const int drawn = std::uniform_int_distribution<int>(0, largest)(random);
      check(drawn);
      for (const int beside : {-1, 0, 1}) check(std::int64_t{drawn / divisor} * divisor + beside);
    }
    check(largest);
  }
}

TEST(InverseOfPower, IsExact) {
  for (int exponent = -60; exponent <= 60; ++exponent)
    EXPECT_EQ(inverse_of_power(std::ldexp(1.0f, exponent)), std::ldexp(1.0f, -exponent));
}

}  // namespace
}  // namespace revode::cuda
