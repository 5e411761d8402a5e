// Which rank owns which time slice. The only place that knows: everything else asks for the rank of
// a slice, and never counts ranks up or down.
#pragma once

#include <vector>

namespace revode {

class Placement {
 public:
  /// rank_of_slice[s] owns slice s; slices are in the order of the layers. Every rank from 0 to the
  /// largest must own one: throws std::logic_error otherwise.
  explicit Placement(std::vector<int> rank_of_slice);
  /// Slice s to rank s % num_ranks.
  static Placement round_robin(int num_slices, int num_ranks);

  int num_slices() const { return static_cast<int>(rank_of_slice_.size()); }
  int num_ranks() const { return static_cast<int>(slices_of_rank_.size()); }
  int rank_of(int slice) const { return rank_of_slice_[slice]; }
  /// Ascending.
  const std::vector<int>& slices_of(int rank) const { return slices_of_rank_[rank]; }

  bool is_first(int slice) const { return slice == 0; }
  bool is_last(int slice) const { return slice + 1 == num_slices(); }
  /// The ranks of the opening and of the closing.
  int first_rank() const { return rank_of_slice_.front(); }
  int last_rank() const { return rank_of_slice_.back(); }
  /// Each rank owns as many slices, dealt out in turn.
  bool goes_round() const;

 private:
  std::vector<int> rank_of_slice_;
  std::vector<std::vector<int>> slices_of_rank_;
};

}  // namespace revode
