// Segments of any backend: against the reference, and what must hold bit for bit. Opening,
// transition and closing are in backend_ends_test.cpp.
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "revode/core/buffer.hpp"

#include "backend/backend_sweep.hpp"
#include "support/error_text.hpp"

namespace revode {

namespace {

/// Equal values, -0 being 0, and equal counts.
void expect_same_values(const Sweep& a, const Sweep& b) {
  for (int slot = 0; slot < 2; ++slot) {
    EXPECT_EQ(a.state[slot], b.state[slot]) << "state " << slot;
    EXPECT_EQ(a.adjoint[slot], b.adjoint[slot]) << "adjoint " << slot;
  }
  EXPECT_EQ(a.grad_kernel, b.grad_kernel);
  EXPECT_EQ(a.grad_bias, b.grad_bias);
  EXPECT_EQ(a.counts.out_of_range, b.counts.out_of_range);
  EXPECT_EQ(a.counts.rounded_to_zero, b.counts.rounded_to_zero);
  EXPECT_EQ(a.counts.largest, b.counts.largest);
}

void expect_same_bits(const Sweep& a, const Sweep& b) {
  expect_same_values(a, b);
  for (int slot = 0; slot < 2; ++slot) {
    EXPECT_EQ(bits(a.state[slot]), bits(b.state[slot])) << "state " << slot;
    EXPECT_EQ(bits(a.adjoint[slot]), bits(b.adjoint[slot])) << "adjoint " << slot;
  }
  EXPECT_EQ(bits(a.grad_kernel), bits(b.grad_kernel));
  EXPECT_EQ(bits(a.grad_bias), bits(b.grad_bias));
}

// Both of the following compare all backends with one sweep of the reference.
TEST(EachBackend, EqualsReferenceWhereSumsAreExact) {
  if (backends_under_test().empty()) GTEST_SKIP() << "no backend to test";
  const auto reference = make_reference_backend<float>();
  StateNotes seen;
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    const Size& size = sizes[k];
    for (const Dynamics& line : lines_at(k)) {
      // grid 22: magnitudes from 4 on are out of range; grid 8 and a small step: ties, and zeros
      for (const auto& [grid_bits, shrink] : {std::pair{0, 1.0}, {22, 1.0}, {8, 1.0 / 64}}) {
        SegmentShape shape = make_shape(size, line, 1, grid_bits, grid_bits == 8);
        for (double& scale : shape.scale) scale *= shrink;
        SCOPED_TRACE(describe(shape, line, size.batch));
        const Sweep start = make_exact_sweep(shape, size.batch);
        Sweep advanced = start;
        const auto expected_segment = load(*reference, shape, advanced);
        advance(*expected_segment, {0, 1}, advanced);
        Sweep retreated = advanced;
        retreat(*expected_segment, {0, 1}, retreated);

        with_each_backend(2, [&](Backend<float>& backend) {
          Sweep got = start;
          const auto segment = load(backend, shape, got);
          if (segment->description().starts_with("winograd")) return;  // has roundings of its own
          advance(*segment, {0, 1}, got);
          expect_same_values(got, advanced);
          retreat(*segment, {0, 1}, got);
          expect_same_values(got, retreated);
          seen += got.counts;
        });
      }
    }
  }
  EXPECT_GT(seen.out_of_range, 0);  // or the counts were compared in vain
  EXPECT_GT(seen.rounded_to_zero, 0);
  EXPECT_GT(seen.largest, 0);
}

TEST(EachBackend, SweepsAreCloseToReference) {
  if (backends_under_test().empty()) GTEST_SKIP() << "no backend to test";
  const auto reference = make_reference_backend<float>();
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    const Size& size = sizes[k];
    for (const Dynamics& line : lines_at(k)) {
      for (const int grid_bits : grids_at(k)) {
        const SegmentShape shape = make_shape(size, line, 3, grid_bits, 1);
        SCOPED_TRACE(describe(shape, line, size.batch));
        const Sweep start = make_sweep(shape, size.batch);
        Sweep advanced = start;
        const auto expected_segment = load(*reference, shape, advanced);
        advance(*expected_segment, all(shape), advanced);
        Sweep retreated = advanced;
        retreat(*expected_segment, all(shape), retreated);

        with_each_backend(2, [&](Backend<float>& backend) {
          Sweep got = start;
          const auto segment = load(backend, shape, got);
          advance(*segment, all(shape), got);
          for (int slot = 0; slot < 2; ++slot)
            EXPECT_LT(relative_error(got.state[slot], advanced.state[slot]), sum_tolerance);
          retreat(*segment, all(shape), got);
          for (int slot = 0; slot < 2; ++slot) {
            EXPECT_LT(relative_error(got.state[slot], retreated.state[slot]), sum_tolerance);
            EXPECT_LT(relative_error(got.adjoint[slot], retreated.adjoint[slot]), sum_tolerance);
          }
          EXPECT_LT(relative_error(got.grad_kernel, retreated.grad_kernel), sum_tolerance);
          EXPECT_LT(relative_error(got.grad_bias, retreated.grad_bias), sum_tolerance);
        });
      }
    }
  }
}

TEST_P(AnyBackend, RetreatRestoresEveryBitOnTheGrid) {
  const auto tested = make(2);
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    const Size& size = sizes[k];
    for (const Dynamics& line : lines_at(k)) {
      const SegmentShape shape = make_shape(size, line, 6, 16);
      SCOPED_TRACE(describe(shape, line, size.batch));
      Sweep sweep = make_sweep(shape, size.batch);
      // zeros, as the opening's ReLU makes them: they must not come back as -0
      for (std::size_t i = 0; i < sweep.state[0].size(); i += 3) sweep.state[0][i] = 0;
      const Sweep before = sweep;
      const auto segment = load(*tested, shape, sweep);

      advance(*segment, all(shape), sweep);
      ASSERT_EQ(sweep.counts.out_of_range, 0);
      EXPECT_NE(sweep.state[0], before.state[0]);
      retreat(*segment, all(shape), sweep);

      EXPECT_EQ(bits(sweep.state[0]), bits(before.state[0]));
      EXPECT_EQ(bits(sweep.state[1]), bits(before.state[1]));
    }
  }
}

TEST_P(AnyBackend, ResultsDoNotDependOnTheNumberOfThreads) {
  for (const Size& size : {Size{5, 6, 7, 21}, Size{16, 4, 4, 35}, Size{40, 3, 2, 3}}) {
    for (const Dynamics& line : dynamics) {
      const SegmentShape shape = make_shape(size, line, 4, 0);
      SCOPED_TRACE(describe(shape, line, size.batch));
      const Sweep before = make_sweep(shape, size.batch);
      std::vector<Sweep> after;
      for (const int num_threads : {1, 2, 3}) {
        const auto tested = make(num_threads);
        Sweep sweep = before;
        const auto segment = load(*tested, shape, sweep);
        advance(*segment, all(shape), sweep);
        retreat(*segment, all(shape), sweep);
        after.push_back(std::move(sweep));
      }

      expect_same_bits(after[1], after[0]);
      expect_same_bits(after[2], after[0]);
    }
  }
}

TEST_P(AnyBackend, ImagesDoNotInfluenceEachOther) {
  if (!GetParam().images_are_apart) GTEST_SKIP() << "bits depend on the size of the batch";
  const auto tested = make(2);
  const Size size{16, 4, 4, 11};
  const SegmentShape shape = make_shape(size, dynamics[0], 3, 16);
  Sweep whole = make_sweep(shape, size.batch);
  Sweep single = whole;
  const auto segment = load(*tested, shape, whole);
  advance(*segment, all(shape), whole);

  for (int n = 0; n < size.batch; ++n) {
    const std::size_t offset = n * shape.image_size();
    segment->advance(all(shape),
                     {{single.state[0].data() + offset, single.state[1].data() + offset}, 1},
                     &single.counts, nullptr);
  }

  expect_same_bits(single, whole);
}

TEST_P(AnyBackend, NotANumberIsNotLost) {
  const auto tested = make(1);
  for (const Dynamics& line : dynamics) {
    const SegmentShape shape = make_shape({3, 3, 3, 1}, line, 1, 16);
    Sweep sweep = make_sweep(shape, 1);
    const auto segment = load(*tested, shape, sweep);
    sweep.state[1] = poison(sweep.state[1].size());

    advance(*segment, {0, 1}, sweep);

    for (const float value : sweep.state[0]) EXPECT_TRUE(std::isnan(value));
  }
}

TEST_P(AnyBackend, StoreEqualsReverseBitForBit) {
  const auto tested = make(2);
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    const Size& size = sizes[k];
    for (const Dynamics& line : lines_at(k)) {
      const SegmentShape shape = make_shape(size, line, 5, 16);
      SCOPED_TRACE(describe(shape, line, size.batch));
      Sweep reversed = make_sweep(shape, size.batch);
      Sweep stored = reversed;
      const auto segment = load(*tested, shape, reversed);
      advance(*segment, all(shape), reversed);
      retreat(*segment, all(shape), reversed);

      // in parts, into a recording with room to spare, from states that are of no use
      const auto recording = segment->make_recording(size.batch + 1);
      advance(*segment, {0, 2}, stored, recording.get());
      const std::vector<float> middle = stored.state[0];
      advance(*segment, {2, 5}, stored, recording.get());
      for (auto& slot : stored.state) slot = poison(slot.size());
      retreat(*segment, {2, 5}, stored, recording.get());
      EXPECT_EQ(stored.state[0], middle);
      for (auto& slot : stored.state) slot = poison(slot.size());
      retreat(*segment, {0, 2}, stored, recording.get());

      expect_same_bits(stored, reversed);
    }
  }
}

TEST_P(AnyBackend, ALongRangeEqualsItsCouplingsOneByOne) {
  const auto tested = make(2);
  for (const Size& size : {Size{16, 2, 2, 3}, Size{40, 2, 1, 2}}) {
    const SegmentShape shape = make_shape(size, dynamics[0], 41, 16, 1);
    Sweep whole = make_sweep(shape, size.batch);
    Sweep parts = whole;
    const auto segment = load(*tested, shape, whole);

    advance(*segment, all(shape), whole);
    retreat(*segment, all(shape), whole);
    for (int j = 0; j < shape.num_couplings; ++j) advance(*segment, {j, j + 1}, parts);
    for (int j = shape.num_couplings; j-- > 0;) retreat(*segment, {j, j + 1}, parts);

    expect_same_bits(parts, whole);
  }
}

TEST_P(AnyBackend, RetreatTouchesGradientsOfItsRangeOnly) {
  const auto tested = make(1);
  const SegmentShape shape = make_shape({5, 3, 3, 2}, dynamics[2], 3, 16);
  Sweep sweep = make_sweep(shape, 2);
  const auto segment = load(*tested, shape, sweep);
  advance(*segment, {1, 2}, sweep);
  const Sweep before = sweep;

  retreat(*segment, {1, 2}, sweep);
  retreat(*segment, {1, 1}, sweep);

  for (std::size_t k = 0; k < sweep.grad_kernel.size(); ++k)
    if (k / shape.kernel_size() != 1) {
      EXPECT_EQ(sweep.grad_kernel[k], before.grad_kernel[k]);
    }
  for (std::size_t k = 0; k < sweep.grad_bias.size(); ++k)
    if (k / shape.channels != 1) {
      EXPECT_EQ(sweep.grad_bias[k], before.grad_bias[k]);
    }
  EXPECT_NE(sweep.grad_kernel, before.grad_kernel);
}

// g = s * adjoint[target]: with a large adjoint of the slot that coupling 1 changes, coupling 2 is
// still in range.
TEST_P(AnyBackend, RetreatTellsTheLastCouplingWhoseGradientLeftTheRange) {
  const auto tested = make(2), reference = make_reference_backend<float>();
  for (const Dynamics& line : {dynamics[0], dynamics[2]}) {
    const SegmentShape shape = make_shape({5, 3, 3, 4}, line, 3, 16);
    for (const int large : {-1, 2, 1}) {
      for (Backend<float>* backend : {tested.get(), reference.get()}) {
        SCOPED_TRACE(fmt::format("{}, {}, coupling {}", line.name, backend->name(), large));
        Sweep sweep = make_sweep(shape, 4);
        const auto segment = load(*backend, shape, sweep);
        advance(*segment, all(shape), sweep);
        for (float& value : sweep.adjoint[std::max(large, 0) % 2])
          if (large >= 0) value = 1e6f;

        retreat(*segment, all(shape), sweep);

        EXPECT_EQ(sweep.overflow, large + 1);
      }
    }
  }
}

/// On the host and on a device.
std::int64_t held(Memory category) {
  return memory_use().current(category) + device_memory_use().current(category);
}

TEST_P(AnyBackend, ARecordingTakesTheBytesThatItSays) {
  const auto tested = make(2);
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    for (const Dynamics& line : lines_at(k)) {
      const SegmentShape shape = make_shape(sizes[k], line, 5, 16);
      SCOPED_TRACE(describe(shape, line, sizes[k].batch));
      const auto segment = tested->make_segment(shape);
      const std::int64_t before = held(Memory::stash);

      const auto recording = segment->make_recording(sizes[k].batch);

      EXPECT_EQ(held(Memory::stash) - before,
                static_cast<std::int64_t>(segment->recording_bytes(sizes[k].batch)));
    }
  }
}

TEST_P(AnyBackend, WorkspaceDoesNotGrowWithDepth) {
  const auto workspace_of = [](int couplings) {
    const auto tested = make(2);
    const SegmentShape shape = make_shape({32, 2, 2, 4}, dynamics[0], couplings, 16);
    Sweep sweep = make_sweep(shape, 4);
    const auto segment = load(*tested, shape, sweep);
    advance(*segment, all(shape), sweep);
    retreat(*segment, all(shape), sweep);
    EXPECT_GT(held(Memory::packed_weights), 0);
    return held(Memory::workspace);
  };

  EXPECT_EQ(workspace_of(80), workspace_of(20));
  EXPECT_EQ(held(Memory::workspace), 0);
  EXPECT_EQ(held(Memory::packed_weights), 0);
}

TEST_P(AnyBackend, RefusesShapesOfNoSense) {
  const auto tested = make(1);
  const auto refusal = [&](auto&& change) {
    SegmentShape shape = make_shape({4, 2, 2, 1}, dynamics[0], 1, 16);
    change(shape);
    return mistake_text([&] { tested->make_segment(shape); });
  };

  EXPECT_EQ(refusal([](SegmentShape&) {}), "");
  EXPECT_NE(refusal([](SegmentShape& shape) { shape.channels = 0; }).find("0 x 2 x 2"),
            std::string::npos);
  EXPECT_NE(refusal([](SegmentShape& shape) { shape.gamma = 0.5; }).find("0.5"), std::string::npos);
  EXPECT_NE(refusal([](SegmentShape& shape) { shape.grid_bits = 30; }).find("30"),
            std::string::npos);
}

}  // namespace
}  // namespace revode
