#include "revode/model/gradient_sums.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace revode {

void GradientSums::clear() { std::ranges::fill(sums_, ExactSum{0}); }

// Block by block, front to back: value i lies in front of sum i, so none is overwritten unread.
std::optional<std::size_t> GradientSums::finish() {
  constexpr std::size_t block_size = 512;
  std::array<ExactSum, block_size> sums;
  std::array<float, block_size> values;
  auto* const bytes = reinterpret_cast<std::byte*>(sums_.data());
  std::optional<std::size_t> last_out_of_range;
  for (std::size_t first = 0; first < sums_.size(); first += block_size) {
    const std::size_t count = std::min(block_size, sums_.size() - first);
    std::memcpy(sums.data(), bytes + first * sizeof(ExactSum), count * sizeof(ExactSum));
    bool in_range = true;
    for (std::size_t i = 0; i < count; ++i) {
      values[i] = from_exact<float>(sums[i]);
      in_range &= is_in_range(sums[i]);
    }
    std::memcpy(bytes + first * sizeof(float), values.data(), count * sizeof(float));
    if (in_range) continue;
    for (std::size_t i = 0; i < count; ++i)
      if (!is_in_range(sums[i])) last_out_of_range = first + i;
  }
  return last_out_of_range;
}

}  // namespace revode
