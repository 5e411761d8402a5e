#include "revode/analysis/spectrum.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <utility>

#include <Eigen/Eigenvalues>
#include <Spectra/GenEigsSolver.h>
#include <Spectra/SymEigsSolver.h>

#include "revode/core/error.hpp"

namespace revode {
namespace {

// Products are float32's: residuals of 2^-24 |A| are their noise, and some of it adds up.
constexpr double eigenvalue_tolerance = 1e-5;
// Norms are read off tables and pictures, to three digits; each further digit takes more products.
constexpr double norm_tolerance = 1e-3;
/// Of a value beside the matrix's own size.
constexpr double noise = 1e-7;
constexpr int most_restarts = 300;
/// Matrices up to this size are small enough to be made whole, whatever is asked of them.
constexpr std::size_t always_dense_size = 64;

using Vector = std::span<const double>;
using Image = std::span<double>;

/// What Spectra asks of a matrix. Of one type for all, so that the iterations are compiled once.
class Products {
 public:
  using Scalar = double;
  using Apply = std::function<void(Vector, Image)>;
  Products(std::size_t size, Apply apply) : size_(size), apply_(std::move(apply)) {}
  Eigen::Index rows() const { return static_cast<Eigen::Index>(size_); }
  Eigen::Index cols() const { return rows(); }
  void perform_op(const double* in, double* out) const { apply_({in, size_}, {out, size_}); }

 private:
  std::size_t size_;
  Apply apply_;
};

Eigen::MatrixXd dense(LinearOperator& matrix) {
  const auto size = static_cast<Eigen::Index>(matrix.size());
  Eigen::MatrixXd whole(size, size);
  Eigen::VectorXd unit = Eigen::VectorXd::Zero(size);
  for (Eigen::Index j = 0; j < size; ++j) {
    unit[j] = 1;
    matrix.apply({unit.data(), matrix.size()}, {whole.col(j).data(), matrix.size()});
    unit[j] = 0;
  }
  return whole;
}

/// |A v| / |v| of a vector that no matrix of ours is blind to: 0 for none but zero.
double typical_growth(const Products& products) {
  Eigen::VectorXd v = Eigen::VectorXd::Ones(products.rows()), image(products.rows());
  for (Eigen::Index i = 0; i < v.size(); ++i) v[i] += std::sin(static_cast<double>(i));
  products.perform_op(v.data(), image.data());
  return image.norm() / v.norm();
}

/// The largest eigenvalue of a symmetric matrix, to norm_tolerance; none where it is not found.
std::optional<double> largest_of_symmetric(Products products) {
  constexpr int wanted = 1, basis = 16;
  if (typical_growth(products) == 0) return 0;
  Spectra::SymEigsSolver<Products> solver(products, wanted, basis);
  solver.init();
  if (solver.compute(Spectra::SortRule::LargestAlge, most_restarts, norm_tolerance) < wanted)
    return std::nullopt;
  return solver.eigenvalues()[0];
}

std::vector<std::complex<double>> sorted(const Eigen::VectorXcd& eigenvalues) {
  std::vector<std::complex<double>> values(eigenvalues.begin(), eigenvalues.end());
  std::ranges::stable_sort(values, std::greater<>(),
                           [](const std::complex<double>& value) { return std::norm(value); });
  return values;
}

}  // namespace

std::vector<std::complex<double>> all_eigenvalues(LinearOperator& matrix) {
  REVODE_CHECK(matrix.size() <= largest_dense_size, "a matrix of {} rows is too large for a list",
               matrix.size());
  return sorted(Eigen::EigenSolver<Eigen::MatrixXd>(dense(matrix), false).eigenvalues());
}

std::vector<std::complex<double>> largest_eigenvalues(LinearOperator& matrix, int count) {
  Products products(matrix.size(), [&](Vector in, Image out) { matrix.apply(in, out); });
  const double growth = typical_growth(products);
  if (growth == 0) return std::vector<std::complex<double>>(count);
  if (matrix.size() <= always_dense_size) {
    std::vector<std::complex<double>> values = all_eigenvalues(matrix);
    values.resize(std::min<std::size_t>(values.size(), count));
    return values;
  }
  // A basis of a few times as many vectors as are wanted keeps restarts few.
  const auto basis = std::min<Eigen::Index>(products.rows(), std::max(24, 4 * count));
  Spectra::GenEigsSolver solver(products, count, basis);
  solver.init();
  solver.compute(Spectra::SortRule::LargestMagn, most_restarts, eigenvalue_tolerance);
  std::vector<std::complex<double>> values = sorted(solver.eigenvalues());
  // Of a nilpotent matrix (a force whose units are all at rest makes one) noise is left.
  for (std::complex<double>& value : values)
    if (std::abs(value) < noise * growth) value = 0;
  return values;
}

std::optional<double> largest_singular_value(LinearOperator& matrix) {
  std::vector<double> image(matrix.size());
  // |A v|^2 = v . A^T A v
  const auto squared = largest_of_symmetric(Products(matrix.size(), [&](Vector in, Image out) {
    matrix.apply(in, image);
    matrix.apply_transposed(image, out);
  }));
  return squared ? std::optional(std::sqrt(std::max(*squared, 0.0))) : std::nullopt;
}

std::optional<double> numerical_abscissa(LinearOperator& matrix) {
  std::vector<double> transposed(matrix.size());
  return largest_of_symmetric(Products(matrix.size(), [&](Vector in, Image out) {
    matrix.apply(in, out);
    matrix.apply_transposed(in, transposed);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = (out[i] + transposed[i]) / 2;
  }));
}

}  // namespace revode
