// Functions that are compiled for CUDA devices too, where a compiler for these reads them.
#pragma once

#ifdef __CUDACC__
#define REVODE_ON_DEVICE __host__ __device__
#else
#define REVODE_ON_DEVICE
#endif
