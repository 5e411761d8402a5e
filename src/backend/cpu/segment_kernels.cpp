// A group of images through a range of couplings, forward and back. Each instruction set compiles
// this file once; see segment_kernels.hpp for what the calls do.
#include "backend/cpu/segment_kernels.hpp"

#include "backend/cpu/targets.hpp"

// foreach_target.h must come first: it includes this file once an instruction set.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/segment_kernels.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/coupling-inl.hpp"
#include "backend/cpu/direct_convolution-inl.hpp"
#include "backend/cpu/pack-inl.hpp"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

/// F(other) of coupling j into `epilogue`, sigma(...) into line.hidden: one code path for all
/// callers, so that the way back meets the bits of the way forward.
template <Force force, typename Epilogue>
void evaluate_force(const SegmentPlan& plan, int j, int num_images, const Line& line,
                    Epilogue& epilogue) {
  if constexpr (force == Force::symmetric) {
    // z = sigma(K x + b);  F = K^T z
    StoreHidden store_hidden{line.bias, line.hidden};
    convolve(plan.planes, num_images, line.other, plan.kernel_of(j), store_hidden);
    convolve(plan.planes, num_images, line.hidden, plan.adjoint_kernel_of(j), epilogue);
  } else {
    // F = sigma((K - K^T) x + b)
    convolve(plan.planes, num_images, line.other, plan.kernel_of(j), epilogue);
  }
}

/// adjoint_other += F'(x)^T g and the gradients of K and b; g is used up.
///   symmetric      gz = sigma' (K g);  K^T gz;  dK from (z, g) and (gz, x)
///   antisymmetric  gu = sigma' g;  A^T gu = -A gu;  dA from (gu, x), where A = K - K^T
template <Force force>
void linearise(const SegmentPlan& plan, int j, int num_images, const Line& line, float* g,
               float* grad_hidden, float* adjoint_other, float* grad_kernel, float* grad_bias) {
  const Planes& planes = plan.planes;
  if constexpr (force == Force::symmetric) {
    StoreMasked store_masked{line.hidden, grad_hidden};
    convolve(planes, num_images, g, plan.kernel_of(j), store_masked);
    AddTo add{adjoint_other};
    convolve(planes, num_images, grad_hidden, plan.adjoint_kernel_of(j), add);
    const GradientPair pairs[] = {{line.hidden, g}, {grad_hidden, line.other}};
    add_kernel_gradient(planes, num_images, pairs, 2, grad_kernel);
    add_bias_gradient(planes, num_images, grad_hidden, grad_bias);
  } else {
    mask(num_images * planes.image_size(), line.hidden, g);
    SubtractFrom subtract{adjoint_other};
    convolve(planes, num_images, g, plan.kernel_of(j), subtract);
    const GradientPair pair{g, line.other};
    add_kernel_gradient(planes, num_images, &pair, 1, grad_kernel);
    add_bias_gradient(planes, num_images, g, grad_bias);
  }
}

template <Force force, bool on_grid>
RangeCounts advance_group_as(const SegmentPlan& plan, CouplingRange range, const ImageGroup& group,
                             GroupRecord record, float* scratch) {
  const Planes& planes = plan.planes;
  const int num_images = group.num_images;
  const std::size_t size = planes.tensor_size(num_images);
  float* const state[2] = {scratch, scratch + size};
  float* const hidden = scratch + 2 * size;
  for (int slot = 0; slot < 2; ++slot)
    pack_images(planes, num_images, group.slot[slot], state[slot]);
  clear_border(planes, num_images, hidden);

  RangeCounts counts;
  if (record) {
    store_bare(planes, num_images, state[plan.target(range.first)],
               record.state + range.first * record.stride);
  }
  for (int j = range.first; j < range.last; ++j) {
    const Line line(plan, j, state, hidden);
    Advance<force, on_grid> advance(plan, line);
    evaluate_force<force>(plan, j, num_images, line, advance);
    counts += {static_cast<std::int64_t>(advance.out_of_range),
               static_cast<std::int64_t>(advance.rounded_to_zero)};
    if (record) {
      store_bare(planes, num_images, line.other, record.state + (j + 1) * record.stride);
      store_bare(planes, num_images, hidden, record.hidden + j * record.stride);
    }
  }
  for (int slot = 0; slot < 2; ++slot)
    unpack_images(planes, num_images, state[slot], group.slot[slot]);
  return counts;
}

template <Force force, bool on_grid>
void retreat_group_as(const SegmentPlan& plan, CouplingRange range, const ImageGroup& group,
                      const ImageGroup& adjoint_group, PackedGradient gradient, GroupRecord record,
                      float* scratch) {
  const Planes& planes = plan.planes;
  const int num_images = group.num_images;
  const std::size_t size = planes.tensor_size(num_images);
  float* const state[2] = {scratch, scratch + size};
  float* const adjoint[2] = {scratch + 2 * size, scratch + 3 * size};
  float* const hidden = scratch + 4 * size;
  float* const g = scratch + 5 * size;
  float* const grad_hidden = scratch + 6 * size;
  for (int slot = 0; slot < 2; ++slot) {
    if (record) {
      clear_border(planes, num_images, state[slot]);
    } else {
      pack_images(planes, num_images, group.slot[slot], state[slot]);
    }
    pack_images(planes, num_images, adjoint_group.slot[slot], adjoint[slot]);
  }
  clear_border(planes, num_images, hidden);
  clear_border(planes, num_images, grad_hidden);

  for (int j = range.last - 1; j >= range.first; --j) {
    const int target = plan.target(j);
    const Line line(plan, j, state, hidden);
    if (record) {
      load_bare(planes, num_images, record.state + (j + 1) * record.stride, state[1 - target]);
      load_bare(planes, num_images, record.hidden + j * record.stride, hidden);
    } else {
      Invert<force, on_grid> invert{line};
      evaluate_force<force>(plan, j, num_images, line, invert);
    }
    retreat_line(line, num_images * planes.image_size(), adjoint[target], adjoint[1 - target], g);
    linearise<force>(plan, j, num_images, line, g, grad_hidden, adjoint[1 - target],
                     gradient.kernel + (j - gradient.first) * planes.packed_kernel_size(),
                     gradient.bias + (j - gradient.first) * planes.packed_bias_size());
  }
  if (record) {
    load_bare(planes, num_images, record.state + range.first * record.stride,
              state[plan.target(range.first)]);
  }
  for (int slot = 0; slot < 2; ++slot) {
    unpack_images(planes, num_images, state[slot], group.slot[slot]);
    unpack_images(planes, num_images, adjoint[slot], adjoint_group.slot[slot]);
  }
}

// Not templates, as the tables of instruction sets hold plain functions.
RangeCounts advance_images(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                           GroupRecord record, float* scratch) {
  const auto run = [&]<Force force>() {
    return plan.grid_bits > 0 ? advance_group_as<force, true>(plan, range, state, record, scratch)
                              : advance_group_as<force, false>(plan, range, state, record, scratch);
  };
  return plan.force == Force::symmetric ? run.template operator()<Force::symmetric>()
                                        : run.template operator()<Force::antisymmetric>();
}

void retreat_images(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                    const ImageGroup& adjoint, PackedGradient gradient, GroupRecord record,
                    float* scratch) {
  const auto run = [&]<Force force>() {
    plan.grid_bits > 0
        ? retreat_group_as<force, true>(plan, range, state, adjoint, gradient, record, scratch)
        : retreat_group_as<force, false>(plan, range, state, adjoint, gradient, record, scratch);
  };
  plan.force == Force::symmetric ? run.template operator()<Force::symmetric>()
                                 : run.template operator()<Force::antisymmetric>();
}

InstructionSet instruction_set() { return {hwy::TargetName(HWY_TARGET), lanes}; }

void add_arrays(float* HWY_RESTRICT total, const float* HWY_RESTRICT more, std::size_t size) {
  const FloatTag d;
  std::size_t k = 0;
  for (; k + lanes <= size; k += lanes)
    hn::Store(hn::Add(hn::Load(d, total + k), hn::Load(d, more + k)), d, total + k);
  for (; k < size; ++k) total[k] += more[k];
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace revode::cpu {

HWY_EXPORT(advance_images);
HWY_EXPORT(retreat_images);
HWY_EXPORT(instruction_set);
HWY_EXPORT(add_arrays);

std::size_t advance_scratch_size(const Planes& planes, int num_images) {
  return 3 * planes.tensor_size(num_images);  // two slots, hidden
}

std::size_t retreat_scratch_size(const Planes& planes, int num_images) {
  // two slots of the state and of the adjoint; hidden, gradient of F, gradient of hidden
  return 7 * planes.tensor_size(num_images);
}

RangeCounts advance_group(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                          GroupRecord record, float* scratch) {
  return HWY_DYNAMIC_DISPATCH(advance_images)(plan, range, state, record, scratch);
}

void retreat_group(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                   const ImageGroup& adjoint, PackedGradient gradient, GroupRecord record,
                   float* scratch) {
  HWY_DYNAMIC_DISPATCH(retreat_images)(plan, range, state, adjoint, gradient, record, scratch);
}

InstructionSet instruction_set() { return HWY_DYNAMIC_DISPATCH(instruction_set)(); }

void add_arrays(float* total, const float* more, std::size_t size) {
  HWY_DYNAMIC_DISPATCH(add_arrays)(total, more, size);
}

}  // namespace revode::cpu
#endif  // HWY_ONCE
