// A group of images through a range of couplings. Each instruction set compiles this file once; see
// segment_kernels.hpp for what the calls do.
#include "backend/cpu/segment_kernels.hpp"
#include "backend/cpu/targets.hpp"

// foreach_target.h must come first: it includes this file once an instruction set.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/advance_kernels.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/coupling-inl.hpp"
#include "backend/cpu/pack-inl.hpp"
#include "backend/cpu/with_plan-inl.hpp"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

template <typename FormOfForce, Force force, bool on_grid, Keep keep>
StateNotes advance_group_as(const SegmentPlan& plan, CouplingRange range, const ImageGroup& group,
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

  StateNotes notes;
  if (record) {
    store_bare(planes, num_images, state[plan.target(range.first)],
               record.state + range.first * record.stride);
  }
  for (int j = range.first; j < range.last; ++j) {
    const Line line(plan, j, state, hidden);
    Advance<force, on_grid, keep> advance(plan, line);
    form.template evaluate_force<force>(j, line, advance);
    notes += advance.notes();
    if (record) {
      store_bare(planes, num_images, line.other, record.state + (j + 1) * record.stride);
      store_bare(planes, num_images, hidden, record.hidden + j * record.stride);
    }
  }
  for (int slot = 0; slot < 2; ++slot)
    unpack_images(planes, num_images, state[slot], group.slot[slot]);
  return notes;
}

// Not a template, as the table of instruction sets holds plain functions.
StateNotes advance_images(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                          GroupRecord record, float* scratch) {
  return with_plan(plan, [&]<typename FormOfForce, Force force, bool on_grid, Keep keep>() {
    return advance_group_as<FormOfForce, force, on_grid, keep>(plan, range, state, record, scratch);
  });
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace revode::cpu {

HWY_EXPORT(advance_images);

std::size_t advance_scratch_size(const SegmentPlan& plan, int num_images) {
  const std::size_t workspace =
      plan.form == Form::direct ? 0 : Winograd(plan.planes).advance_workspace_size();
  return 3 * plan.planes.tensor_size(num_images) + workspace;  // two slots, hidden
}

StateNotes advance_group(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                         GroupRecord record, float* scratch) {
  return HWY_DYNAMIC_DISPATCH(advance_images)(plan, range, state, record, scratch);
}

}  // namespace revode::cpu
#endif  // HWY_ONCE
