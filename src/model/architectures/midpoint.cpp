// The midpoint recurrence for a first-order system with an antisymmetric force, started from Y_{-1}
// = 0 (Chang et al., arXiv 1709.03698):
//   (P, Q) <- (Q, P + 2 h F(Q)),   P = Y_{j-1}, Q = Y_j
// The older state is overwritten where it stands, so that the two slots take turns.
#include "model/architectures/architectures.hpp"

namespace revode::architectures {

const ArchitectureRule midpoint{
    .name = "midpoint",
    .block = "(P, Q) <- (Q, P + 2 h F(Q))",
    .equation = Equation::first_order,
    .stability_bound = 1,
    .force = Force::antisymmetric,
    .couplings_per_block = 1,
    .convolutions_per_block = 2,
    .halves = false,
    .gamma = 1,
    .beta = 0,
    .scale =
        [](double h) {
          return std::array{2 * h, 2 * h};
        },
};

}  // namespace revode::architectures
