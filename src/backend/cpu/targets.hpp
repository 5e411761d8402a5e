// Which instruction sets the kernels are compiled for. To be included before any highway header, by
// every file that holds kernels, so that all of them are compiled for the same sets.
//
// SSSE3 alone is too old to matter; vectors of unknown length (SVE, RVV) cannot be kept in arrays,
// as the register tiles are. Processors that have only these use the next set below.
#pragma once

#ifdef REVODE_FEW_INSTRUCTION_SETS
// Better targets have lower bits.
#define REVODE_LEFT_OUT (HWY_SSE4 | (HWY_AVX2 - 1))
#else
#define REVODE_LEFT_OUT 0
#endif

#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV | REVODE_LEFT_OUT)
