// A plug-in of another version, which must be told from our own by that alone.
#include "backend/cuda/plugin.hpp"

extern "C" __attribute__((visibility("default"))) const revode::cuda::Plugin revode_cuda_plugin;
const revode::cuda::Plugin revode_cuda_plugin = {"0.0.1-of-old", nullptr, nullptr, nullptr};
