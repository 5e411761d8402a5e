#include "revode/model/slice_sizes.hpp"

#include <algorithm>

namespace revode {

SliceSizes slice_sizes(const Architecture& architecture, BlockRange slice) {
  const bool is_first = slice.first == 0, is_last = slice.last == architecture.num_blocks();
  const auto state_of = [&](const Stage& stage) {
    return std::size_t{2} * stage.channels * stage.plane_size();
  };
  const auto& stages = architecture.stages();
  SliceSizes sizes;
  sizes.input = state_of(stages[architecture.stage_of_block(slice.first)]);
  sizes.output =
      state_of(is_last ? stages.back() : stages[architecture.stage_of_block(slice.last)]);
  sizes.message = std::max(is_first ? 0 : sizes.input, is_last ? 0 : sizes.output);
  sizes.adjoint = sizes.output;
  if (is_first) sizes.stash += architecture.image_channels() * stages.front().plane_size();
  bool has_transition = false;
  int begin_of_stage = 0;
  for (std::size_t k = 0; k < stages.size(); ++k) {
    const int end_of_stage = begin_of_stage + stages[k].blocks;
    if (begin_of_stage < slice.last && slice.first < end_of_stage) {
      sizes.adjoint = std::max(sizes.adjoint, state_of(stages[k]));
      if (end_of_stage <= slice.last) {
        sizes.stash += state_of(stages[k]);
        has_transition = has_transition || k + 1 < stages.size();
      }
    }
    begin_of_stage = end_of_stage;
  }
  if (has_transition) sizes.scratch = sizes.adjoint;
  return sizes;
}

}  // namespace revode
