// Sweeps through segments: shapes, data and calls that the tests of backends share.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "backend/backend_under_test.hpp"
#include "support/backend_calls.hpp"
#include "support/exact_values.hpp"

namespace revode {

struct Size {
  int channels, height, width, batch;
};

// Blocks of 16 channels with and without spare ones; planes smaller than, equal to and no multiple
// of a tile; the last four are, with several channels, for the direct form, the ones before mostly
// for Winograd's.
inline const std::vector<Size> sizes = {
    {1, 1, 1, 1},    {3, 3, 5, 2},  {4, 2, 2, 19},  {5, 12, 12, 3},  {8, 4, 4, 17}, {16, 8, 8, 5},
    {16, 32, 32, 1}, {20, 7, 9, 2}, {28, 6, 3, 3},  {32, 16, 16, 2}, {56, 8, 8, 2}, {100, 3, 5, 2},
    {40, 2, 2, 19},  {48, 2, 5, 3}, {56, 1, 33, 2}, {33, 5, 1, 2}};

struct Dynamics {
  const char* name;
  Force force;
  double gamma, beta, scale0, scale1;
};
// The three architectures' lines, with steps that are powers of two; midpoint's and leapfrog's
// coupling i changes the older slot.
inline const std::vector<Dynamics> dynamics = {
    {"hamiltonian", Force::symmetric, 1, 0, 0.125, -0.125},
    {"leapfrog", Force::symmetric, -1, 2, -0.03125, -0.03125},
    {"midpoint", Force::antisymmetric, 1, 0, 0.25, 0.25},
    {"mixed", Force::antisymmetric, -1, 0.5, -0.25, 0.5}};

/// The lines to be swept at sizes[k]: all of them, or each in turn.
inline std::vector<Dynamics> lines_at(std::size_t k) {
  if (all_cases()) return dynamics;
  return {dynamics[k % dynamics.size()]};
}

/// Likewise the grids that results are held against the reference with.
inline std::vector<int> grids_at(std::size_t k) {
  if (all_cases()) return {0, 16};
  return {k / 4 % 2 == 0 ? 0 : 16};
}

inline SegmentShape make_shape(const Size& size, const Dynamics& line, int couplings, int grid_bits,
                               int first_target = 0) {
  SegmentShape shape;
  shape.force = line.force;
  shape.num_couplings = couplings;
  shape.channels = size.channels;
  shape.height = size.height;
  shape.width = size.width;
  shape.first_target = first_target;
  shape.gamma = line.gamma;
  shape.beta = line.beta;
  shape.scale = {line.scale0, line.scale1};
  shape.grid_bits = grid_bits;
  return shape;
}

inline std::string describe(const SegmentShape& shape, const Dynamics& line, int batch) {
  return fmt::format("{}, {} x [{}, {}, {}], {} couplings from slot {}, grid {}", line.name, batch,
                     shape.channels, shape.height, shape.width, shape.num_couplings,
                     shape.first_target, shape.grid_bits);
}

/// Everything a sweep reads and writes.
struct Sweep {
  std::vector<float> kernel, bias;
  std::vector<float> state[2], adjoint[2];
  std::vector<ExactSum> kernel_sums, bias_sums;
  std::vector<float> grad_kernel, grad_bias;  ///< their values
  StateNotes counts;
  int overflow = 0;
  int batch = 0;

  StateView<float> state_view() { return {{state[0].data(), state[1].data()}, batch}; }
  StateView<float> adjoint_view() { return {{adjoint[0].data(), adjoint[1].data()}, batch}; }
};

/// Weights of the size that keeps activations' scale; states on the grid 2^-16.
inline Sweep make_sweep(const SegmentShape& shape, int batch) {
  Sweep sweep;
  const double weight = 1 / std::sqrt(3.0 * shape.channels), fine = std::ldexp(1.0, -16);
  const std::size_t size = batch * shape.image_size();
  sweep.kernel = random_multiples(shape.num_couplings * shape.kernel_size(), 1e-6, weight, 1);
  sweep.bias = random_multiples(shape.num_couplings * shape.channels, 1e-6, 0.1, 2);
  for (int slot = 0; slot < 2; ++slot) {
    sweep.state[slot] = random_multiples(size, fine, 1, 3 + slot);
    sweep.adjoint[slot] = random_multiples(size, 1e-6, 1, 5 + slot);
  }
  sweep.grad_kernel = random_multiples(sweep.kernel.size(), 0.25, 1, 7);  // += is to be seen
  sweep.grad_bias = random_multiples(sweep.bias.size(), 0.25, 1, 8);
  sweep.kernel_sums = exact_sums(sweep.grad_kernel);
  sweep.bias_sums = exact_sums(sweep.grad_bias);
  sweep.batch = batch;
  return sweep;
}

/// Multiples of such units that every product and every sum of one coupling, forward and back, is
/// exact in float: the order of summation leaves no trace.
inline Sweep make_exact_sweep(const SegmentShape& shape, int batch) {
  Sweep sweep = make_sweep(shape, batch);
  const double weight = shape.channels > 16 ? 0.25 : 0.5;
  sweep.kernel = random_multiples(sweep.kernel.size(), 0.25, weight, 1);
  sweep.bias = random_multiples(sweep.bias.size(), 0.25, 0.5, 2);
  for (int slot = 0; slot < 2; ++slot) {
    sweep.state[slot] = random_multiples(sweep.state[slot].size(), 1.0 / 8, 2, 3 + slot);
    sweep.adjoint[slot] = random_multiples(sweep.adjoint[slot].size(), 0.25, 1, 5 + slot);
  }
  return sweep;
}

inline std::unique_ptr<Segment<float>> load(Backend<float>& backend, const SegmentShape& shape,
                                            const Sweep& sweep) {
  auto segment = backend.make_segment(shape);
  load_weights(*segment, sweep.kernel, sweep.bias);
  return segment;
}

inline void advance(Segment<float>& segment, CouplingRange range, Sweep& sweep,
                    Recording* recording = nullptr) {
  segment.advance(range, sweep.state_view(), &sweep.counts, recording);
}
inline void retreat(Segment<float>& segment, CouplingRange range, Sweep& sweep,
                    const Recording* recording = nullptr) {
  segment.bind_gradient({sweep.kernel_sums.data(), sweep.bias_sums.data()});
  segment.retreat(range, sweep.state_view(), sweep.adjoint_view(), recording, {&sweep.overflow});
  sweep.grad_kernel = real_values<float>(sweep.kernel_sums);
  sweep.grad_bias = real_values<float>(sweep.bias_sums);
}
inline CouplingRange all(const SegmentShape& shape) { return {0, shape.num_couplings}; }

}  // namespace revode
