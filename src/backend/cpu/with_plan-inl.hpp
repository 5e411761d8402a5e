// From what a segment's plan says at run time to the code that was compiled for it. Compiled once
// an instruction set.
#if defined(REVODE_CPU_WITH_PLAN_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef REVODE_CPU_WITH_PLAN_INL_HPP_
#undef REVODE_CPU_WITH_PLAN_INL_HPP_
#else
#define REVODE_CPU_WITH_PLAN_INL_HPP_
#endif

#include "backend/cpu/coupling-inl.hpp"
#include "backend/cpu/direct_coupling-inl.hpp"
#include "backend/cpu/winograd_coupling-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

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
  if constexpr (has_winograd) {
    if (plan.form == Form::winograd) return with_form.template operator()<WinogradForm>();
  }
  return with_form.template operator()<DirectForm>();
}

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once an instruction set
