// A group of images back through a range of couplings. Each instruction set compiles this file
// once; see segment_kernels.hpp for what the calls do.
#include "backend/cpu/segment_kernels.hpp"
#include "backend/cpu/targets.hpp"

// foreach_target.h must come first: it includes this file once an instruction set.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/retreat_kernels.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/coupling-inl.hpp"
#include "backend/cpu/pack-inl.hpp"
#include "backend/cpu/with_plan-inl.hpp"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

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

// Not a template, as the table of instruction sets holds plain functions.
void retreat_images(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                    const ImageGroup& adjoint, PackedGradient gradient, RecordedGroup record,
                    float* scratch) {
  with_plan(plan, [&]<typename FormOfForce, Force force, bool on_grid, Keep keep>() {
    retreat_group_as<FormOfForce, force, on_grid, keep>(plan, range, state, adjoint, gradient,
                                                        record, scratch);
  });
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace revode::cpu {

HWY_EXPORT(retreat_images);

std::size_t retreat_scratch_size(const SegmentPlan& plan, int num_images) {
  const std::size_t workspace =
      plan.form == Form::direct ? 0 : Winograd(plan.planes).retreat_workspace_size();
  // two slots of the state and of the adjoint; hidden, gradient of F, gradient of hidden
  return 7 * plan.planes.tensor_size(num_images) + workspace;
}

void retreat_group(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                   const ImageGroup& adjoint, PackedGradient gradient, RecordedGroup record,
                   float* scratch) {
  HWY_DYNAMIC_DISPATCH(retreat_images)(plan, range, state, adjoint, gradient, record, scratch);
}

}  // namespace revode::cpu
#endif  // HWY_ONCE
