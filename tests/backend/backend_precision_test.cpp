// Products of rounded operands, in the backends that have them.
#include "revode/backend/precision.hpp"

#include "backend/backend_sweep.hpp"

namespace revode {
namespace {

constexpr Precision rounded_precisions[] = {Precision::tf32, Precision::bf16};

// Planes whose width is a multiple of eight go to tensor cores image by image: an even number of
// eights in a row and an odd one, rows that no tile divides, blocks of channels with and without
// spare ones.
const std::vector<Size> rounded_sizes = {{3, 3, 5, 2},    {8, 4, 4, 3},   {16, 8, 8, 2},
                                         {16, 16, 16, 1}, {20, 5, 24, 1}, {33, 6, 16, 1},
                                         {56, 8, 8, 1}};

/// Every product and sum of one coupling is exact in float however operands are rounded, as in
/// make_exact_sweep(), but many operands have more bits than bf16 has, and some more than tf32.
Sweep make_fine_sweep(const SegmentShape& shape, int batch) {
  Sweep sweep = make_exact_sweep(shape, batch);
  for (int slot = 0; slot < 2; ++slot)
    sweep.state[slot] = random_multiples(sweep.state[slot].size(), 1.0 / 2048, 2, 3 + slot);
  return sweep;
}

TEST(EachBackend, RoundsOperandsAsTheReferenceDoes) {
  const auto reference = make_reference_backend<float>();
  bool is_seen = false;
  for (const Size& size : rounded_sizes)
    for (const Dynamics& line : dynamics) {
      SegmentShape shape = make_shape(size, line, 1, 16);
      const Sweep start = make_fine_sweep(shape, size.batch);
      Sweep unrounded = start;
      advance(*load(*reference, shape, unrounded), {0, 1}, unrounded);
      for (const Precision precision : rounded_precisions) {
        SCOPED_TRACE(describe(shape, line, size.batch) + ", " + std::string(to_string(precision)));
        shape.precision = precision;
        Sweep advanced = start;
        const auto expected_segment = load(*reference, shape, advanced);
        advance(*expected_segment, {0, 1}, advanced);
        EXPECT_NE(advanced.state[0], unrounded.state[0]);
        Sweep retreated = advanced;
        retreat(*expected_segment, {0, 1}, retreated);

        with_each_backend(2, [&](Backend<float>& backend) {
          if (!backend.multiplies_in(precision)) return;
          is_seen = true;
          Sweep got = start;
          const auto segment = load(backend, shape, got);
          advance(*segment, {0, 1}, got);
          EXPECT_EQ(got.state[0], advanced.state[0]);
          retreat(*segment, {0, 1}, got);
          for (int slot = 0; slot < 2; ++slot) {
            EXPECT_EQ(got.state[slot], retreated.state[slot]);
            EXPECT_EQ(got.adjoint[slot], retreated.adjoint[slot]);
          }
          EXPECT_EQ(got.grad_kernel, retreated.grad_kernel);
          EXPECT_EQ(got.grad_bias, retreated.grad_bias);
        });
      }
    }
  if (!is_seen) GTEST_SKIP() << "no backend that rounds operands";
}

TEST_P(AnyBackend, RetreatRestoresEveryBitInEachPrecision) {
  const auto tested = make(2);
  for (const Precision precision : rounded_precisions) {
    if (!tested->multiplies_in(precision)) GTEST_SKIP() << "multiplies in fp32 alone";
    for (std::size_t k = 0; k < rounded_sizes.size(); ++k)
      for (const Dynamics& line : lines_at(k)) {
        const Size& size = rounded_sizes[k];
        SegmentShape shape = make_shape(size, line, 3, 16);
        shape.precision = precision;
        SCOPED_TRACE(describe(shape, line, size.batch) + ", " + std::string(to_string(precision)));
        Sweep sweep = make_sweep(shape, size.batch);
        const Sweep before = sweep;
        const auto segment = load(*tested, shape, sweep);

        advance(*segment, all(shape), sweep);
        retreat(*segment, all(shape), sweep);

        EXPECT_EQ(bits(sweep.state[0]), bits(before.state[0]));
        EXPECT_EQ(bits(sweep.state[1]), bits(before.state[1]));
      }
  }
}

}  // namespace
}  // namespace revode
