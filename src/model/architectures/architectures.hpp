// The registered architectures. Private to the model module.
#pragma once

#include "revode/model/architecture.hpp"

namespace revode::architectures {

extern const ArchitectureRule hamiltonian;
extern const ArchitectureRule leapfrog;
extern const ArchitectureRule midpoint;

}  // namespace revode::architectures
