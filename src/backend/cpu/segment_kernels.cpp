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
#include "backend/cpu/winograd_coupling-inl.hpp"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

/// F and the way back through it by direct convolutions.
class DirectForm {
 public:
  DirectForm(const SegmentPlan& plan, int num_images, float*)
      : plan_(plan), num_images_(num_images) {}

  /// F(other) of coupling j into `epilogue`, sigma(...) into line.hidden: one code path for all
  /// callers, so that the way back meets the bits of the way forward.
  template <Force force, typename Epilogue>
  void evaluate_force(int j, const Line& line, Epilogue& epilogue) const {
    if constexpr (force == Force::symmetric) {
      // z = sigma(K x + b);  F = K^T z
      StoreHidden store_hidden{line.bias, line.hidden};
      convolve(plan_.planes, num_images_, line.other, plan_.kernel_of(j), store_hidden);
      convolve(plan_.planes, num_images_, line.hidden, plan_.adjoint_kernel_of(j), epilogue);
    } else {
      // F = sigma((K - K^T) x + b)
      convolve(plan_.planes, num_images_, line.other, plan_.kernel_of(j), epilogue);
    }
  }

  /// F(other) into `invert`, unless that is null: line.hidden is there already then. And
  /// adjoint_other += F'(other)^T g and the gradients of K and b:
  ///   symmetric      gz = sigma' (K g);  K^T gz;  dK from (z, g) and (gz, x)
  ///   antisymmetric  gu = sigma' g;  A^T gu = -A gu;  dA from (gu, x), where A = K - K^T
  template <Force force, typename Invert>
  void retreat(int j, const Line& line, Invert* invert, const Linearisation& at) const {
    const Planes& planes = plan_.planes;
    if (invert != nullptr) evaluate_force<force>(j, line, *invert);
    if constexpr (force == Force::symmetric) {
      StoreMasked store_masked{line.hidden, at.grad_hidden};
      convolve(planes, num_images_, at.g, plan_.kernel_of(j), store_masked);
      AddTo add{at.adjoint_other};
      convolve(planes, num_images_, at.grad_hidden, plan_.adjoint_kernel_of(j), add);
      const GradientPair pairs[] = {{line.hidden, at.g}, {at.grad_hidden, line.other}};
      add_kernel_gradient(planes, num_images_, pairs, 2, at.grad_kernel);
      add_bias_gradient(planes, num_images_, at.grad_hidden, at.grad_bias);
    } else {
      mask(num_images_ * planes.image_size(), line.hidden, at.g);
      SubtractFrom subtract{at.adjoint_other};
      convolve(planes, num_images_, at.g, plan_.kernel_of(j), subtract);
      const GradientPair pair{at.g, line.other};
      add_kernel_gradient(planes, num_images_, &pair, 1, at.grad_kernel);
      add_bias_gradient(planes, num_images_, at.g, at.grad_bias);
    }
  }

 private:
  const SegmentPlan& plan_;
  int num_images_;
};

template <typename FormOfForce, Force force, bool on_grid, Keep keep>
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
  const FormOfForce form(plan, num_images, scratch + 3 * size);

  RangeCounts counts;
  if (record) {
    store_bare(planes, num_images, state[plan.target(range.first)],
               record.state + range.first * record.stride);
  }
  for (int j = range.first; j < range.last; ++j) {
    const Line line(plan, j, state, hidden);
    Advance<force, on_grid, keep> advance(plan, line);
    form.template evaluate_force<force>(j, line, advance);
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

template <typename FormOfForce, Force force, bool on_grid, Keep keep>
void retreat_group_as(const SegmentPlan& plan, CouplingRange range, const ImageGroup& group,
                      const ImageGroup& adjoint_group, PackedGradient gradient,
                      RecordedGroup record, float* scratch) {
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
  const FormOfForce form(plan, num_images, scratch + 7 * size);

  for (int j = range.last - 1; j >= range.first; --j) {
    const int target = plan.target(j);
    const Line line(plan, j, state, hidden);
    if (record) {
      load_bare(planes, num_images, record.state + (j + 1) * record.stride, state[1 - target]);
      load_bare(planes, num_images, record.hidden + j * record.stride, hidden);
    }
    retreat_line(plan, line, num_images * planes.image_size(), adjoint[target], adjoint[1 - target],
                 g);
    Invert<force, on_grid, keep> invert{line};
    form.template retreat<force>(
        j, line, record ? nullptr : &invert,
        {g, grad_hidden, adjoint[1 - target],
         gradient.kernel + (j - gradient.first) * planes.packed_kernel_size(),
         gradient.bias + (j - gradient.first) * planes.packed_bias_size()});
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

/// Calls run<form, force, on_grid, keep>() for what the plan says.
template <typename Run>
auto with_plan(const SegmentPlan& plan, Run&& run) {
  const auto with_form = [&]<typename FormOfForce>() {
    const auto with_force = [&]<Force force>() {
      const auto with_grid = [&]<bool on_grid>() {
        return keep_of(plan) == Keep::target
                   ? run.template operator()<FormOfForce, force, on_grid, Keep::target>()
                   : run.template operator()<FormOfForce, force, on_grid, Keep::combination>();
      };
      return plan.grid_bits > 0 ? with_grid.template operator()<true>()
                                : with_grid.template operator()<false>();
    };
    return plan.force == Force::symmetric ? with_force.template operator()<Force::symmetric>()
                                          : with_force.template operator()<Force::antisymmetric>();
  };
  return plan.form == Form::direct ? with_form.template operator()<DirectForm>()
                                   : with_form.template operator()<WinogradForm>();
}

// Not templates, as the tables of instruction sets hold plain functions.
RangeCounts advance_images(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                           GroupRecord record, float* scratch) {
  return with_plan(plan, [&]<typename FormOfForce, Force force, bool on_grid, Keep keep>() {
    return advance_group_as<FormOfForce, force, on_grid, keep>(plan, range, state, record, scratch);
  });
}

void retreat_images(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                    const ImageGroup& adjoint, PackedGradient gradient, RecordedGroup record,
                    float* scratch) {
  with_plan(plan, [&]<typename FormOfForce, Force force, bool on_grid, Keep keep>() {
    retreat_group_as<FormOfForce, force, on_grid, keep>(plan, range, state, adjoint, gradient,
                                                        record, scratch);
  });
}

/// A tile costs Winograd 36 multiply-adds an input channel, and transforms that cost as much as
/// some 5 channels more, where the direct form takes 9 an output pixel, at most 144. So Winograd
/// pays with some channels, and where not too much of the tiles hangs over the edge: from a third
/// on, as was measured. Without vectors the transforms cost too much.
Form form_for(const Planes& planes) {
  constexpr int fewest_channels = 8;
  const Winograd winograd(planes);
  const int pixels = planes.height * planes.width;
  const int tile_pixels = Winograd::outputs * Winograd::outputs * winograd.tiles_an_image();
  const bool pays =
      HWY_TARGET != HWY_SCALAR && planes.channels >= fewest_channels && 3 * pixels >= tile_pixels;
  return pays ? Form::winograd : Form::direct;
}

void transform_packed(const Planes& planes, const float* packed, float* transformed) {
  transform_kernel(Winograd(planes), packed, transformed);
}

InstructionSet instruction_set() { return {hwy::TargetName(HWY_TARGET), lanes}; }

void add_arrays(float* HWY_RESTRICT total, const float* HWY_RESTRICT more, std::size_t size) {
  const FloatTag d;
  std::size_t k = 0;
  for (; k + lanes <= size; k += lanes)
    hn::Store(hn::Add(hn::Load(d, total + k), hn::Load(d, more + k)), d, total + k);
  for (; k < size; ++k) total[k] += more[k];
}

/// x 2^40 rounded to the nearest integer, ties to even, for |x| < 2^11: adding 1.5 2^52 leaves the
/// integer in the low bits of the sum.
bool add_exactly(const float* values, std::size_t size, ExactSum* sums) {
  std::size_t i = 0;
  bool all_in_range = true;
#if HWY_HAVE_FLOAT64 && HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<double> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<float, decltype(d)> df;
  constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52
  const auto scale = hn::Set(d, exact_sum_scale), to_integer = hn::Set(d, shift);
  const auto limit = hn::Set(d, contribution_limit);
  auto all = hn::Eq(limit, limit);
  for (; i + hn::Lanes(d) <= size; i += hn::Lanes(d)) {
    const auto value = hn::PromoteTo(d, hn::LoadU(df, values + i));
    const auto in_range = hn::Lt(hn::Abs(value), limit);  // not for a NaN
    all = hn::And(all, in_range);
    const auto integer = hn::Sub(hn::BitCast(di, hn::Add(hn::Mul(value, scale), to_integer)),
                                 hn::BitCast(di, to_integer));
    const auto term = hn::IfThenElseZero(hn::RebindMask(di, in_range), integer);
    hn::StoreU(hn::Add(hn::LoadU(di, sums + i), term), di, sums + i);
  }
  all_in_range = hn::AllTrue(d, all);
#endif
  return add_contributions(values + i, size - i, sums + i) && all_in_range;
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace revode::cpu {

HWY_EXPORT(advance_images);
HWY_EXPORT(retreat_images);
HWY_EXPORT(form_for);
HWY_EXPORT(transform_packed);
HWY_EXPORT(instruction_set);
HWY_EXPORT(add_arrays);
HWY_EXPORT(add_exactly);

std::size_t advance_scratch_size(const SegmentPlan& plan, int num_images) {
  const std::size_t workspace =
      plan.form == Form::direct ? 0 : Winograd(plan.planes).advance_workspace_size();
  return 3 * plan.planes.tensor_size(num_images) + workspace;  // two slots, hidden
}

std::size_t retreat_scratch_size(const SegmentPlan& plan, int num_images) {
  const std::size_t workspace =
      plan.form == Form::direct ? 0 : Winograd(plan.planes).retreat_workspace_size();
  // two slots of the state and of the adjoint; hidden, gradient of F, gradient of hidden
  return 7 * plan.planes.tensor_size(num_images) + workspace;
}

Form best_form(const Planes& planes) { return HWY_DYNAMIC_DISPATCH(form_for)(planes); }

void transform_packed_kernel(const Planes& planes, const float* packed, float* transformed) {
  HWY_DYNAMIC_DISPATCH(transform_packed)(planes, packed, transformed);
}

RangeCounts advance_group(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                          GroupRecord record, float* scratch) {
  return HWY_DYNAMIC_DISPATCH(advance_images)(plan, range, state, record, scratch);
}

void retreat_group(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                   const ImageGroup& adjoint, PackedGradient gradient, RecordedGroup record,
                   float* scratch) {
  HWY_DYNAMIC_DISPATCH(retreat_images)(plan, range, state, adjoint, gradient, record, scratch);
}

InstructionSet instruction_set() { return HWY_DYNAMIC_DISPATCH(instruction_set)(); }

void add_arrays(float* total, const float* more, std::size_t size) {
  HWY_DYNAMIC_DISPATCH(add_arrays)(total, more, size);
}

bool add_to_exact_sums(const float* values, std::size_t size, ExactSum* sums) {
  return HWY_DYNAMIC_DISPATCH(add_exactly)(values, size, sums);
}

}  // namespace revode::cpu
#endif  // HWY_ONCE
