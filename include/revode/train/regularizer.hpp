// Weight decay and smoothness of the weights in time, across rank edges; sums over couplings that
// do not depend on the cut.
#pragma once

#include <cstdint>
#include <vector>

#include "revode/backend/backend.hpp"
#include "revode/comm/communicator.hpp"
#include "revode/model/architecture.hpp"
#include "revode/model/parameters.hpp"
#include "revode/pipeline/placement.hpp"

namespace revode {

/// One double a row (coupling, or whole array for the ends) that a slice contributes to a sum over
/// the network.
struct RowSums {
  std::vector<double> decay;       ///< |W|^2 of kernels and the fully connected weight
  std::vector<double> smoothness;  ///< |theta_j - theta_{j-1}|^2 against the block before, 0 for
                                   ///< the first of a stage
  std::vector<double> gradient;    ///< |g|^2 of the whole gradient, regularisation included
};

/// The row sums of all slices, one slice behind the other, from those of this rank's (ascending).
/// Collective.
RowSums gather_row_sums(const Communicator& communicator, const Placement& placement,
                        const std::vector<RowSums>& mine);

/// (Chang et al., arXiv 1709.03698, section "Regularization"; exact form in docs/model.md)
///   R = weight_decay/2 * sum |W|^2 + smoothness/(2h) * sum_j |theta_j - theta_{j-1}|^2
class Regularizer {
 public:
  /// Of slice `slice` of `placement`, the blocks `range`.
  Regularizer(const Architecture& architecture, BlockRange range, const ParameterMap& map,
              double weight_decay, double smoothness, Backend<float>& backend,
              const Communicator& communicator, const Placement& placement, int slice);

  /// Neighbouring slices exchange their edge blocks: all of a rank's slices fetch theirs (queued),
  /// post them, then wait for those of others. Collective; before each add().
  void fetch_edges(const float* values);
  void post_edges();
  /// Whether they arrived with the bits that they left with.
  bool wait_for_edges();
  /// gradient += dR/dvalues. Arrays are in the backend's memory. Queued.
  void add(const float* values, float* gradient);
  /// After add(): waits for the slice's row sums.
  RowSums row_sums();

  /// R from the row sums of all slices, in their order.
  double value(const RowSums& all) const;

 private:
  RegularizedRows<float> rows_of(const ParameterEntry& entry, const float* values,
                                 float* gradient) const;
  RegularizedRows<float> rows_of_stage(int stage, const ParameterEntry& entry,
                                       std::size_t place_in_block, const float* values,
                                       float* gradient);

  const ParameterMap& map_;
  Backend<float>& backend_;
  const Communicator& communicator_;
  const Placement& placement_;
  int slice_;
  double weight_decay_;
  double smoothness_over_h_;
  int couplings_per_block_;
  bool joined_before_ = false;  ///< the block before this slice is of the same stage as its first
  bool joined_after_ = false;
  int first_stage_ = 0;
  int last_stage_ = 0;
  /// Edge blocks of the neighbours, and copies of this slice's, to send: kernels, biases, a digest.
  StagedBuffer<float> before_, after_, first_block_, last_block_;
  StagedBuffer<RowSum> sums_;  ///< by array in the order of the map, by row
  std::vector<Request> requests_;
};

}  // namespace revode
