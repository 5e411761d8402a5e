// Symplectic (Verlet) steps of a two-layer Hamiltonian system (Chang et al., arXiv 1709.03698):
//   P <- P + h F1(Q);   Q <- Q - h F2(P)
#include "model/architectures/architectures.hpp"

namespace revode::architectures {

const ArchitectureRule hamiltonian{
    .name = "hamiltonian",
    .block = "P <- P + h F1(Q); Q <- Q - h F2(P)",
    .equation = Equation::pair,
    .stability_bound = 2,
    .force = Force::symmetric,
    .couplings_per_block = 2,
    .convolutions_per_block = 4,
    .halves = true,
    .gamma = 1,
    .beta = 0,
    .scale =
        [](double h) {
          return std::array{h, -h};
        },
};

}  // namespace revode::architectures
