// Messages between the memories of devices.
#pragma once

namespace revode {

/// Whether MPI takes memory of CUDA devices for messages: as REVODE_DEVICE_MESSAGES in the
/// environment says (1 or 0; an input error where it is neither), else as the library says itself.
bool takes_device_memory();

}  // namespace revode
