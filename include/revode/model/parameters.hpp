// The network's arrays by name, in the order of the checkpoint, and which rows of each a time slice
// holds. Values, gradients and momentum are flat buffers that share one map.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "revode/core/buffer.hpp"
#include "revode/model/architecture.hpp"

namespace revode {

/// One named array, and this slice's rows of it in a flat buffer: [offset, offset + size()).
struct ParameterEntry {
  std::string name;                 ///< e.g. "stage_1/kernel"
  std::vector<std::int64_t> shape;  ///< of the whole array
  std::int64_t first_row = 0;       ///< rows (first index) held here
  std::int64_t num_rows = 0;
  std::size_t offset = 0;
  bool trainable = true;
  bool decayed = false;  ///< kernels and the fully connected weight

  std::size_t row_size() const;
  std::size_t size() const { return num_rows * row_size(); }
};

struct NormEntries {
  ParameterEntry scale, shift, mean,
      variance;  ///< the last two are running statistics: not trainable
};

/// All arrays of the network, with the rows that the blocks of `range` need: the first slice holds
/// the opening and the input statistics, the last the closing.
class ParameterMap {
 public:
  ParameterMap(const Architecture& architecture, BlockRange range);

  ParameterEntry input_mean, input_std;
  ParameterEntry opening_kernel;
  NormEntries opening_norm;
  struct StageEntries {
    ParameterEntry kernel, bias;
  };
  std::vector<StageEntries> stages;
  NormEntries closing_norm;
  ParameterEntry closing_weight, closing_bias;

  /// In the order of the checkpoint.
  std::vector<const ParameterEntry*> entries() const;
  /// Elements of a flat buffer.
  std::size_t size() const { return size_; }
  /// Those of them that are trained.
  std::size_t num_trainable() const;

 private:
  std::size_t size_ = 0;
};

/// Initial values, each from its own stream of `seed` (docs/model.md), so that every slice draws
/// the same network: kernels normal truncated at 2 sigma with sigma = sqrt(2 / (9 out)), biases 0,
/// norms 1 and 0, fully connected uniform
/// +-1/sqrt(features). Input statistics are set to 0 and 1.
template <typename Real>
void initialise(const Architecture& architecture, const ParameterMap& map, std::uint64_t seed,
                Real* values);

}  // namespace revode
