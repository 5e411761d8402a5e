#include "revode/analysis/depth_jacobians.hpp"

#include <algorithm>
#include <cstddef>

#include "revode/core/error.hpp"

namespace revode {
namespace {

std::vector<float> to_float(std::span<const double> values) {
  return {values.begin(), values.end()};
}

/// One slot of a state [2][size].
std::vector<float> slot_of(const std::vector<float>& state, int slot) {
  const auto size = static_cast<std::ptrdiff_t>(state.size() / 2);
  return {state.begin() + slot * size, state.begin() + (slot + 1) * size};
}

struct Place {
  const Stage* stage;
  int first_coupling;  ///< of the block, within the stage
  SegmentShape shape;  ///< of the whole stage
  bool ends_stage;

  int target(int coupling) const { return (shape.first_target + coupling) % 2; }
};

Place place_of(const Architecture& architecture, int block) {
  const int k = architecture.stage_of_block(block);
  const Stage& stage = architecture.stages()[k];
  const int couplings = architecture.rule().couplings_per_block;
  const int first = block * couplings - stage.first_coupling;
  return {&stage, first, architecture.segment(k, 0, stage.couplings),
          first + couplings == stage.couplings};
}

}  // namespace

RightHandSideJacobian::RightHandSideJacobian(const Architecture& architecture, int block,
                                             const DepthRecord& record, int image,
                                             ForceDerivatives& forces)
    : forces_(forces), num_slots_(architecture.rule().equation == Equation::pair ? 2 : 1) {
  const Place place = place_of(architecture, block);
  const std::vector<float> state = record.state({block}, image);
  for (int i = 0; i < num_slots_; ++i) {
    const int coupling = place.first_coupling + i, target = place.target(coupling);
    const int other = 1 - target;
    const bool is_pair = num_slots_ == 2;
    parts_.push_back({.coupling = coupling,
                      .from = is_pair ? other : 0,
                      .to = is_pair ? target : 0,
                      .sign = is_pair && place.shape.scale[target] < 0 ? -1.0f : 1.0f,
                      .state = slot_of(state, other)});
  }
}

std::size_t RightHandSideJacobian::size() const { return num_slots_ * forces_.size(); }

void RightHandSideJacobian::apply(std::span<const double> v, std::span<double> out) {
  std::ranges::fill(out, 0);
  // rows `to` += sign * F'(x) v[from]
  for (const Part& part : parts_)
    add_product(&ForceDerivatives::derivative, part, v, part.from, out, part.to);
}

void RightHandSideJacobian::apply_transposed(std::span<const double> v, std::span<double> out) {
  std::ranges::fill(out, 0);
  // rows `from` += sign * F'(x)^T v[to]
  for (const Part& part : parts_)
    add_product(&ForceDerivatives::transposed, part, v, part.to, out, part.from);
}

void RightHandSideJacobian::add_product(Product product, const Part& part,
                                        std::span<const double> v, int from, std::span<double> out,
                                        int to) {
  const std::size_t size = forces_.size();
  std::vector<float> values(size);
  (forces_.*product)(part.coupling, part.state, to_float(v.subspan(from * size, size)), values);
  for (std::size_t i = 0; i < size; ++i) out[to * size + i] += double{part.sign} * values[i];
}

std::vector<std::complex<double>> eigenvalues_of(Equation equation,
                                                 std::vector<std::complex<double>> of_jacobian) {
  if (equation != Equation::second_order) return of_jacobian;
  std::vector<std::complex<double>> both;
  for (const std::complex<double> mu : of_jacobian) {
    const std::complex<double> root = std::sqrt(-mu);
    both.push_back(root);
    both.push_back(-root);
  }
  return both;
}

DepthMapJacobian::DepthMapJacobian(const Architecture& architecture, BlockRange blocks,
                                   const DepthRecord& record, int image, ForceDerivatives& forces)
    : forces_(forces) {
  const int couplings = architecture.rule().couplings_per_block;
  // What a coupling leaves alone is in front of it as behind it: in a block of two, the first one's
  // is in front of the block, the second one's behind.
  REVODE_CHECK(couplings <= 2, "blocks of {} couplings have states that no edge shows", couplings);
  for (int block = blocks.first; block < blocks.last; ++block) {
    const Place place = place_of(architecture, block);
    const BlockEdge behind = place.ends_stage ? BlockEdge{block, true} : BlockEdge{block + 1};
    gamma_ = place.shape.gamma;
    beta_ = place.shape.beta;
    for (int i = 0; i < couplings; ++i) {
      const int coupling = place.first_coupling + i, target = place.target(coupling);
      const std::vector<float> state = record.state(i == 0 ? BlockEdge{block} : behind, image);
      steps_.push_back({.coupling = coupling,
                        .target = target,
                        .scale = place.shape.scale[target],
                        .state = slot_of(state, 1 - target)});
    }
  }
}

void DepthMapJacobian::apply(std::span<const double> v, std::span<double> out) {
  const std::size_t size = forces_.size();
  std::ranges::copy(v, out.begin());
  std::vector<float> product(size);
  for (const Step& step : steps_) {
    // target <- gamma target + beta other + s F'(x) other
    double* const target = out.data() + step.target * size;
    const std::span<const double> other = out.subspan((1 - step.target) * size, size);
    forces_.derivative(step.coupling, step.state, to_float(other), product);
    for (std::size_t i = 0; i < size; ++i)
      target[i] = gamma_ * target[i] + beta_ * other[i] + step.scale * product[i];
  }
}

void DepthMapJacobian::apply_transposed(std::span<const double> v, std::span<double> out) {
  const std::size_t size = forces_.size();
  std::ranges::copy(v, out.begin());
  std::vector<float> product(size);
  for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
    // other <- other + beta target + s F'(x)^T target;  target <- gamma target
    double* const target = out.data() + step->target * size;
    double* const other = out.data() + (1 - step->target) * size;
    forces_.transposed(step->coupling, step->state, to_float({target, size}), product);
    for (std::size_t i = 0; i < size; ++i) {
      other[i] += beta_ * target[i] + step->scale * product[i];
      target[i] *= gamma_;
    }
  }
}

}  // namespace revode
