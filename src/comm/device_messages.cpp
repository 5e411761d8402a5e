#include "revode/comm/device_messages.hpp"

#include <cstdlib>
#include <string_view>

#include <mpi.h>

#include "revode/core/error.hpp"

// Open MPI tells in a header of its own, MPICH in mpi.h.
#if defined(OPEN_MPI) && __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif

namespace revode {
namespace {

bool library_takes_device_memory() {
#if defined(MPIX_CUDA_AWARE_SUPPORT)
  return MPIX_Query_cuda_support() == 1;
#elif defined(MPIX_GPU_SUPPORT_CUDA)
  int is_supported = 0;
  return MPIX_GPU_query_support(MPIX_GPU_SUPPORT_CUDA, &is_supported) == MPI_SUCCESS &&
         is_supported != 0;
#else
  return false;
#endif
}

}  // namespace

bool takes_device_memory() {
  const char* variable = std::getenv("REVODE_DEVICE_MESSAGES");
  if (variable == nullptr) return library_takes_device_memory();
  const std::string_view value = variable;
  REVODE_REQUIRE(value == "0" || value == "1",
                 "the environment variable REVODE_DEVICE_MESSAGES is '{}'; expected 1 or 0", value);
  return value == "1";
}

}  // namespace revode
