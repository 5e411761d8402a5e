#include "revode/analysis/depth_record.hpp"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "revode/core/error.hpp"

namespace revode {
namespace {

/// The values of one image in slots [2][batch, ...].
template <typename Visit>
void visit_image(std::span<const float> values, int batch, int image, const Visit& visit) {
  const std::size_t slot = values.size() / 2, size = slot / batch;
  for (std::size_t first : {image * size, slot + image * size})
    for (const float value : values.subspan(first, size)) visit(value);
}

Comparison compare(std::span<const float> values, std::span<const float> expected) {
  Comparison comparison{.num_values = static_cast<std::int64_t>(values.size())};
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double error = double{values[i]} - expected[i];
    comparison.num_differing +=
        std::bit_cast<std::uint32_t>(values[i]) != std::bit_cast<std::uint32_t>(expected[i]);
    comparison.squared_error += error * error;
    comparison.squared_norm += double{expected[i]} * expected[i];
  }
  return comparison;
}

}  // namespace

void DepthRecord::see_state(int micro_batch, BlockEdge edge, std::span<const float> state) {
  REVODE_CHECK(micro_batch == 0, "a record is of one micro-batch, not of micro-batch {}",
               micro_batch);
  edges_[edge].state = fetch(state);
}

void DepthRecord::see_adjoint(int /*micro_batch*/, BlockEdge edge, std::span<const float> state,
                              std::span<const float> adjoint) {
  Edge& seen = edges_.at(edge);
  seen.reversal = compare(fetch(state), seen.state);
  const std::vector<float> values = fetch(adjoint);
  seen.adjoint_norms.clear();
  for (int image = 0; image < batch_; ++image) {
    double squares = 0;
    visit_image(values, batch_, image, [&](double value) { squares += value * value; });
    seen.adjoint_norms.push_back(std::sqrt(squares));
  }
}

std::vector<float> DepthRecord::state(BlockEdge edge, int image) const {
  const std::vector<float>& all = edges_.at(edge).state;
  std::vector<float> of_image;
  of_image.reserve(all.size() / batch_);
  visit_image(all, batch_, image, [&](float value) { of_image.push_back(value); });
  return of_image;
}

double DepthRecord::adjoint_norm(BlockEdge edge, int image) const {
  return edges_.at(edge).adjoint_norms.at(image);
}

std::vector<float> DepthRecord::fetch(std::span<const float> values) {
  std::vector<float> copy(values.size());
  queue_.copy_out(copy.data(), values.data(), values.size_bytes());
  queue_.wait(queue_.mark());
  return copy;
}

}  // namespace revode
