#include "revode/model/gradient_sums.hpp"

namespace revode {

template <typename Real>
void GradientSums<Real>::finish() {
  backend_.zero(last_out_of_range_.data(), last_out_of_range_.bytes());
  backend_.finish_sums(size(), sums(), values(), last_out_of_range_.data());
  last_out_of_range_.fetch();
}

template <typename Real>
std::optional<std::size_t> GradientSums<Real>::out_of_range() {
  const std::int64_t found = last_out_of_range_.host().front();
  return found > 0 ? std::optional<std::size_t>(found - 1) : std::nullopt;
}

template <typename Real>
std::span<Real> GradientSums<Real>::read_values() {
  sums_.fetch((size() * sizeof(Real) + sizeof(ExactSum) - 1) / sizeof(ExactSum));
  return {reinterpret_cast<Real*>(sums_.host().data()), size()};
}

template class GradientSums<float>;
template class GradientSums<double>;

}  // namespace revode
