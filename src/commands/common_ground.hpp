// What all ranks have to have in common before they do anything together: options, program,
// libraries, instruction set.
#pragma once

#include "revode/comm/communicator.hpp"
#include "revode/config/config.hpp"

namespace revode {

/// Collective. Throws an input error that all ranks share where they do not agree, naming the first
/// thing in which one differs from rank 0. Settles on the best instruction set that all of them
/// have, with a note where some have a better one.
void find_common_ground(const Config& config, const Communicator& communicator);

}  // namespace revode
