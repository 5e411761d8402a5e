#include "revode/pipeline/placement.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace revode {

Placement::Placement(std::vector<int> rank_of_slice) : rank_of_slice_(std::move(rank_of_slice)) {
  if (rank_of_slice_.empty() || std::ranges::min(rank_of_slice_) < 0)
    throw std::logic_error("a placement needs slices, and ranks from 0 on");
  slices_of_rank_.resize(std::ranges::max(rank_of_slice_) + 1);
  for (int slice = 0; slice < num_slices(); ++slice)
    slices_of_rank_[rank_of(slice)].push_back(slice);
  for (const std::vector<int>& slices : slices_of_rank_)
    if (slices.empty()) throw std::logic_error("a rank without a slice");
}

Placement Placement::round_robin(int num_slices, int num_ranks) {
  std::vector<int> rank_of_slice(num_slices);
  for (int slice = 0; slice < num_slices; ++slice) rank_of_slice[slice] = slice % num_ranks;
  return Placement(std::move(rank_of_slice));
}

bool Placement::goes_round() const {
  return num_slices() % num_ranks() == 0 &&
         rank_of_slice_ == round_robin(num_slices(), num_ranks()).rank_of_slice_;
}

}  // namespace revode
