// Eigenvalues and norms of matrices that are known by their products: Arnoldi and Lanczos
// iterations of the Spectra library, and Eigen's dense solver for small ones. The same bits for the
// same products: iterations start from a fixed vector.
#pragma once

#include <complex>
#include <cstddef>
#include <optional>
#include <vector>

#include "revode/analysis/linear_operator.hpp"

namespace revode {

/// All eigenvalues take size() products and some 25 size()^3 operations: not more than this.
inline constexpr std::size_t largest_dense_size = 4096;

/// The `count` eigenvalues of largest magnitude, largest first: to about 1e-5 of the largest, which
/// is what products in float32 allow. Fewer where the iteration did not find so many (clusters).
std::vector<std::complex<double>> largest_eigenvalues(LinearOperator& matrix, int count);

/// Every eigenvalue, largest magnitude first. matrix.size() <= largest_dense_size.
std::vector<std::complex<double>> all_eigenvalues(LinearOperator& matrix);

/// The largest singular value: the most that |A v| / |v| can be. To about 1e-3; none where the
/// iteration did not find it.
std::optional<double> largest_singular_value(LinearOperator& matrix);

/// The largest eigenvalue of (A + A^T) / 2: at first, the norm of a solution of dv/dt = A v grows
/// by no more than this, and by as much from some v. A normal matrix has it on its spectrum; a
/// non-normal one whose eigenvalues are imaginary has it above 0. To about 1e-3; none
/// where the iteration did not find it.
std::optional<double> numerical_abscissa(LinearOperator& matrix);

}  // namespace revode
