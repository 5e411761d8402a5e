// The pooling of a transition and its adjoint: one plane each, in one thread; the instruction set
// is chosen when they are called.
#pragma once

namespace revode::cpu {

/// out [height/2, width/2] <- round(mean of each 2x2 square of in)
void pool_plane(const float* in, int height, int width, int grid_bits, float* out);
/// Its adjoint: out [height, width] <- each value of in [height/2, width/2], a quarter to each.
void unpool_plane(const float* in, int height, int width, float* out);

}  // namespace revode::cpu
