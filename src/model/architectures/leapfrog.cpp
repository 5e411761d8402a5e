// Leapfrog for a second-order system, started from Y_{-1} = 0 (Chang et al., arXiv 1709.03698):
//   (P, Q) <- (Q, 2 Q - P - h^2 F(Q)),   P = Y_{j-1}, Q = Y_j
// The older state is overwritten where it stands, so that the two slots take turns.
#include "model/architectures/architectures.hpp"

namespace revode::architectures {

const ArchitectureRule leapfrog{
    .name = "leapfrog",
    .block = "(P, Q) <- (Q, 2 Q - P - h^2 F(Q))",
    .equation = Equation::second_order,
    .stability_bound = 2,
    .force = Force::symmetric,
    .couplings_per_block = 1,
    .convolutions_per_block = 2,
    .halves = false,
    .gamma = -1,
    .beta = 2,
    .scale =
        [](double h) {
          return std::array{-h * h, -h * h};
        },
};

}  // namespace revode::architectures
