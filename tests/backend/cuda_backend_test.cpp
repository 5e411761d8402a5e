// The CUDA backend on a device in host memory, in the tests of any backend; and what is its own.
#include "backend/cuda/cuda_backend.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "revode/core/buffer.hpp"

#include "backend/backend_sweep.hpp"
#include "backend/backend_under_test.hpp"
#include "backend/cuda/engine.hpp"
#include "backend/cuda/host_device.hpp"
#include "backend/cuda/whole_segment.hpp"
#include "support/staged_backend.hpp"

namespace revode {
namespace {

std::unique_ptr<Backend<float>> make_on_host(cuda::RunOrder order,
                                             const cuda::ClusterLimits& limits = {},
                                             std::uint32_t seed = 0) {
  auto device = std::make_unique<cuda::HostDevice>(order, seed);
  device->set_cluster_limits(limits);
  return cuda::make_cuda_backend(std::move(device));
}

constexpr cuda::RunOrder all_orders[] = {cuda::RunOrder::eager, cuda::RunOrder::lazy,
                                         cuda::RunOrder::random};

struct OrderOfRuns {
  std::string name;
  cuda::RunOrder order;
  std::uint32_t seed;
};

bool has_all_cases() { return std::getenv("REVODE_ALL_CASES") != nullptr; }

// The address sanitizer, under which each takes minutes, sees the same memory in any order.
#ifdef __SANITIZE_ADDRESS__
constexpr std::uint32_t num_random_orders = 1;
#else
constexpr std::uint32_t num_random_orders = 20;
#endif

/// One at random; with all cases the earliest, the latest, and several.
std::vector<OrderOfRuns> orders_of_runs() {
  if (!has_all_cases()) return {{"", cuda::RunOrder::random, 0}};
  std::vector<OrderOfRuns> orders{{"_early", cuda::RunOrder::eager, 0},
                                  {"_late", cuda::RunOrder::lazy, 0}};
  for (std::uint32_t seed = 1; seed <= num_random_orders; ++seed)
    orders.push_back({fmt::format("_seed_{}", seed), cuda::RunOrder::random, seed});
  return orders;
}

}  // namespace

// Segments call by call; in one launch, with so little memory that larger images need several
// blocks; and with all cases, with less of it, so that the largest do not fit, and with as much as
// an image a block takes.
std::vector<BackendUnderTest> backends_under_test() {
  struct Layout {
    const char* name;
    cuda::ClusterLimits limits;
  };
  std::vector<Layout> layouts{{"cuda_on_host", {}},
                              {"clusters_on_host", {std::size_t{72} << 10, 8, 12}}};
  if (has_all_cases()) {
    layouts.push_back({"small_clusters_on_host", {std::size_t{24} << 10, 8}});
    layouts.push_back({"blocks_on_host", {std::size_t{227} << 10, 1}});
  }
  std::vector<BackendUnderTest> backends;
  for (const OrderOfRuns& runs : orders_of_runs())
    for (const Layout& layout : layouts)
      backends.push_back({layout.name + runs.name, [runs, limits = layout.limits](int) {
                            return std::make_unique<StagedBackend>(
                                make_on_host(runs.order, limits, runs.seed));
                          }});
  return backends;
}

INSTANTIATE_TEST_SUITE_P(Device, AnyBackend, testing::ValuesIn(backends_under_test()),
                         backend_name);

namespace {

TEST(CudaBackend, ArraysMayBeGivenBackWhileCopiesUseThem) {
  for (const cuda::RunOrder order : all_orders) {
    const auto backend = make_on_host(order);
    const std::vector<float> values(100, 1.5f);
    std::vector<float> result(100);
    {
      Buffer<float> array(100, Memory::workspace, backend->space());
      backend->copy_in(array.data(), values.data(), array.bytes());
      backend->copy_out(result.data(), array.data(), array.bytes());
    }
    backend->wait(backend->mark());

    EXPECT_EQ(result, values);
  }
}

// The device tells where nothing orders them.
TEST(Engine, CopiesWaitForTheGraphsOfTheirArrays) {
  for (const cuda::RunOrder order : all_orders) {
    cuda::Engine engine(std::make_unique<cuda::HostDevice>(order));
    const std::vector<float> ones(100, 1.0f);
    std::vector<float> result(100);
    Buffer<float> from(100, Memory::workspace, engine.space()),
        to(100, Memory::workspace, engine.space());
    for (int time = 0; time < 3; ++time) {
      engine.copy_in(from.data(), ones.data(), from.bytes());
      for (const float factor : {1.0f, 2.0f, 3.0f})
        engine.launch(cuda::AddScaled{std::ssize(ones), factor, from.data(), to.data()});
      engine.copy_out(result.data(), to.data(), to.bytes());
    }
    engine.wait(engine.mark());
    EXPECT_EQ(result, std::vector<float>(100, 18.0f));
    EXPECT_EQ(engine.counts().num_replays, 2);
  }
}

TEST(Engine, ArraysMayBeGivenBackWhileKernelsUseThem) {
  for (const cuda::RunOrder order : all_orders) {
    cuda::Engine engine(std::make_unique<cuda::HostDevice>(order));
    std::vector<float> result(100);
    Buffer<float> to(100, Memory::workspace, engine.space());
    {
      Buffer<float> from(100, Memory::workspace, engine.space());
      engine.launch(cuda::AddScaled{100, 1, from.data(), to.data()});
    }
    engine.copy_out(result.data(), to.data(), to.bytes());
    engine.wait(engine.mark());
    EXPECT_EQ(result, std::vector<float>(100));
  }
}

// Messages that move meanwhile ask whether copies are done: what is told to be there must be.
TEST(CudaBackend, ProgressMayAskForMarks) {
  for (const cuda::RunOrder order : all_orders) {
    const auto backend = make_on_host(order);
    const std::vector<float> values(100, 1.5f);
    std::vector<float> first(100), second(100);
    Buffer<float> array(100, Memory::workspace, backend->space());
    backend->copy_in(array.data(), values.data(), array.bytes());
    backend->copy_out(first.data(), array.data(), array.bytes());
    const Mark behind_first = backend->mark();
    backend->copy_out(second.data(), array.data(), array.bytes());
    const Mark behind_second = backend->mark();
    backend->set_progress([&] { backend->reached(behind_first); });

    backend->wait(behind_first);
    EXPECT_EQ(first, values);
    if (backend->reached(behind_second)) {
      EXPECT_EQ(second, values);
    }
    backend->wait(behind_second);
    EXPECT_EQ(second, values);
  }
}

// A time by the host's clock is off by no more than it took to ask for it.
TEST(CudaBackend, TellsByTheHostsClockWhenItsWorkWasDone) {
  using Clock = std::chrono::steady_clock;
  for (const cuda::RunOrder order : all_orders) {
    const auto backend = make_on_host(order);
    Buffer<float> array(8, Memory::workspace, backend->space());
    std::vector<float> fetched(8);
    backend->stamp_copies();
    const Clock::time_point start = Clock::now();
    const Stamp begin = backend->stamp();
    backend->zero(array.data(), array.bytes());
    const Stamp end = backend->stamp();
    backend->copy_out(fetched.data(), array.data(), array.bytes());
    backend->wait(backend->mark());
    const std::vector<WorkClock::StampedCopy> copies = backend->take_copies();
    ASSERT_EQ(copies.size(), 1u);
    EXPECT_TRUE(copies.front().to_host);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));

    const Clock::time_point before = Clock::now();
    const std::vector<Clock::time_point> times = backend->host_times(
        std::vector<Stamp>{begin, end, copies.front().begin, copies.front().end});
    const Clock::duration error = Clock::now() - before;

    ASSERT_EQ(times.size(), 4u);
    EXPECT_TRUE(std::ranges::is_sorted(times));
    EXPECT_GE(times.front(), start - error);
    EXPECT_LE(times.back(), before + error);
    EXPECT_TRUE(backend->take_copies().empty());
  }
}

TEST(CudaBackend, StampsNoCopiesUnlessItIsToldTo) {
  const auto backend = make_on_host(cuda::RunOrder::eager);
  Buffer<float> array(8, Memory::workspace, backend->space());
  std::vector<float> fetched(8);

  backend->copy_out(fetched.data(), array.data(), array.bytes());
  backend->wait(backend->mark());

  EXPECT_TRUE(backend->take_copies().empty());
}

// The table in docs/gpu.md: blocks of a cluster there and back, 0 where an image does not fit.
TEST(WholeSegment, StagesOfTheNetworksFitTheirDevices) {
  constexpr cuda::ClusterLimits of_8_0{std::size_t{163} << 10, 1, 108},
      of_9_0{std::size_t{227} << 10, 8, 132};
  const auto blocks = [](Force force, int channels, int side, const cuda::ClusterLimits& limits,
                         Precision precision = Precision::fp32, int batch = 100) {
    SegmentShape shape;
    shape.precision = precision;
    shape.force = force;
    shape.num_couplings = 1;
    shape.channels = channels;
    shape.height = shape.width = side;
    return cuda::blocks_an_image(shape, batch, limits).value_or(cuda::BlocksAnImage{});
  };
  using Blocks = cuda::BlocksAnImage;

  EXPECT_EQ(blocks(Force::symmetric, 16, 32, of_9_0), Blocks(1, 2));
  EXPECT_EQ(blocks(Force::symmetric, 32, 16, of_9_0), Blocks(1, 1));
  EXPECT_EQ(blocks(Force::symmetric, 56, 8, of_9_0), Blocks(1, 1));
  EXPECT_EQ(blocks(Force::symmetric, 64, 8, of_9_0), Blocks(1, 1));
  EXPECT_EQ(blocks(Force::symmetric, 32, 32, of_9_0), Blocks(2, 4));
  EXPECT_EQ(blocks(Force::symmetric, 64, 16, of_9_0), Blocks(1, 2));
  EXPECT_EQ(blocks(Force::symmetric, 112, 8, of_9_0), Blocks(1, 1));
  EXPECT_EQ(blocks(Force::antisymmetric, 32, 32, of_9_0), Blocks(2, 4));
  EXPECT_EQ(blocks(Force::symmetric, 16, 96, of_9_0), Blocks(0, 0));
  EXPECT_EQ(blocks(Force::symmetric, 16, 32, of_8_0), Blocks(0, 0));
  EXPECT_EQ(blocks(Force::symmetric, 32, 16, of_8_0), Blocks(0, 0));
  EXPECT_EQ(blocks(Force::symmetric, 56, 8, of_8_0), Blocks(1, 1));

  const auto on_tensor_cores = [&](int channels, int side, Precision precision) {
    return blocks(Force::symmetric, channels, side, of_9_0, precision);
  };
  for (const Precision precision : {Precision::tf32, Precision::bf16}) {
    EXPECT_EQ(on_tensor_cores(16, 32, precision), Blocks(2, 2));
    EXPECT_EQ(on_tensor_cores(32, 16, precision), Blocks(1, 1));
    EXPECT_EQ(on_tensor_cores(56, 8, precision), Blocks(1, 1));
    EXPECT_EQ(on_tensor_cores(64, 8, precision), Blocks(1, 1));
    EXPECT_EQ(on_tensor_cores(32, 32, precision), Blocks(4, 4));
    EXPECT_EQ(on_tensor_cores(16, 12, precision), Blocks(0, 0));
  }
  EXPECT_EQ(on_tensor_cores(64, 16, Precision::tf32), Blocks(2, 4));
  EXPECT_EQ(on_tensor_cores(64, 16, Precision::bf16), Blocks(2, 2));
  EXPECT_EQ(on_tensor_cores(112, 8, Precision::tf32), Blocks(1, 2));
  EXPECT_EQ(on_tensor_cores(112, 8, Precision::bf16), Blocks(1, 1));

  // Fewer images than multiprocessors: several of these take one.
  const auto with_batch = [&](int channels, int side, Precision precision, int batch) {
    return blocks(Force::symmetric, channels, side, of_9_0, precision, batch);
  };
  EXPECT_EQ(with_batch(16, 32, Precision::fp32, 32), Blocks(4, 4));
  EXPECT_EQ(with_batch(64, 8, Precision::fp32, 32), Blocks(2, 2));
  EXPECT_EQ(with_batch(16, 32, Precision::tf32, 16), Blocks(8, 8));
  EXPECT_EQ(with_batch(64, 8, Precision::bf16, 16), Blocks(2, 2));
  EXPECT_EQ(with_batch(16, 32, Precision::fp32, 1000), Blocks(1, 2));
}

template <typename T>
StagedBuffer<T> place(Backend<float>& backend, const std::vector<T>& values) {
  StagedBuffer<T> array(values.size(), Memory::workspace, backend);
  std::ranges::copy(values, array.host().begin());
  array.store();
  return array;
}

template <typename T>
std::vector<T> read(StagedBuffer<T>& array) {
  const std::span<const T> values = array.read();
  return {values.begin(), values.end()};
}

/// There and back through all of `segment`; states, adjoints and counts of `sweep` become what
/// they are at the end.
void sweep_there_and_back(Backend<float>& backend, Segment<float>& segment, Sweep& sweep) {
  StagedBuffer<float> state[2], adjoint[2];
  for (int slot = 0; slot < 2; ++slot) {
    state[slot] = place(backend, sweep.state[slot]);
    adjoint[slot] = place(backend, sweep.adjoint[slot]);
  }
  StagedBuffer<StateNotes> counts(1, Memory::workspace, backend);
  StagedBuffer<int> overflow(1, Memory::workspace, backend);
  const StateView<float> view{{state[0].data(), state[1].data()}, sweep.batch};
  segment.advance(all(segment.shape()), view, counts.data(), nullptr);
  segment.retreat(all(segment.shape()), view, {{adjoint[0].data(), adjoint[1].data()}, sweep.batch},
                  nullptr, {.highest = overflow.data(), .first = 7});
  for (int slot = 0; slot < 2; ++slot) {
    sweep.state[slot] = read(state[slot]);
    sweep.adjoint[slot] = read(adjoint[slot]);
  }
  sweep.counts = counts.read()[0];
  sweep.overflow = overflow.read()[0];
}

// A larger batch in between moves the arrays that all work in.
TEST(CudaBackend, ReplayedSweepsGiveTheSameBits) {
  for (const cuda::RunOrder order : all_orders)
    for (const Dynamics& line : dynamics) {
      SCOPED_TRACE(line.name);
      const auto backend = make_on_host(order);
      const SegmentShape shape = make_shape({3, 4, 5, 2}, line, 3, 16);
      Sweep start = make_sweep(shape, 2);
      start.state[0][0] = 300;     // is counted
      start.adjoint[1][3] = 1e6f;  // makes the sums overflow
      auto kernel = place(*backend, start.kernel), bias = place(*backend, start.bias);
      auto kernel_sums = place(*backend, start.kernel_sums);
      auto bias_sums = place(*backend, start.bias_sums);
      const auto segment = backend->make_segment(shape);
      segment->bind({kernel.data(), bias.data()});
      segment->bind_gradient({kernel_sums.data(), bias_sums.data()});
      segment->load_weights();

      Sweep first = start;
      sweep_there_and_back(*backend, *segment, first);
      const std::vector<ExactSum> sums = read(kernel_sums), sums_of_bias = read(bias_sums);
      EXPECT_GT(first.counts.out_of_range, 0);
      EXPECT_GE(first.overflow, 7);
      for (const int batch : {2, 2, 5, 2, 5, 2}) {
        Sweep again = batch == 2 ? start : make_sweep(shape, batch);
        for (auto* array : {&kernel_sums, &bias_sums}) {
          const auto& from = array == &kernel_sums ? start.kernel_sums : start.bias_sums;
          std::ranges::copy(from, array->host().begin());
          array->store();
        }
        sweep_there_and_back(*backend, *segment, again);
        if (batch != 2) continue;
        for (int slot = 0; slot < 2; ++slot) {
          EXPECT_EQ(bits(again.state[slot]), bits(first.state[slot]));
          EXPECT_EQ(bits(again.adjoint[slot]), bits(first.adjoint[slot]));
        }
        EXPECT_EQ(read(kernel_sums), sums);
        EXPECT_EQ(read(bias_sums), sums_of_bias);
        EXPECT_EQ(again.counts.out_of_range, first.counts.out_of_range);
        EXPECT_EQ(again.counts.rounded_to_zero, first.counts.rounded_to_zero);
        EXPECT_EQ(again.counts.largest, first.counts.largest);
        EXPECT_EQ(again.overflow, first.overflow);
      }
    }
}

}  // namespace
}  // namespace revode
