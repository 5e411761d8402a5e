// What the plug-in librevode_cuda.so shows of itself: one symbol. The program links no CUDA and
// loads the plug-in where there is one (plugin_loader.hpp).
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "revode/backend/backend.hpp"
#include "revode/core/buffer.hpp"

namespace revode::cuda {

/// Capabilities are 10 major + minor, and those from here on will do.
inline constexpr int least_capability = 80;

enum class GpuStatus {
  usable,
  no_driver,
  driver_too_old,
  no_device,
  device_too_old,
  no_code,  ///< the plug-in was built for other devices
  failed,
};

/// What a look at the devices of this machine found; more than `status` only where it says so.
struct GpuSurvey {
  GpuStatus status = GpuStatus::failed;
  int num_usable = 0;
  int driver_version = 0;          ///< driver_too_old: CUDA's, 1000 major + 10 minor
  int expected_version = 0;        ///< driver_too_old
  std::string device = {};         ///< device_too_old, no_code: the first one
  int capability = 0;              ///< device_too_old, no_code
  std::string architectures = {};  ///< no_code: what the plug-in was built for
  std::string error = {};          ///< failed
};

struct Plugin {
  /// To be looked at first: nothing else has a meaning where it is not the program's own.
  const char* version;
  /// To be called before the rest: what the plug-in holds counts with what the program holds.
  void (*count_memory_in)(MemoryCounters& counters);
  GpuSurvey (*survey)();
  /// For a usable device, 0 <= index < num_usable. Throws std::runtime_error.
  std::unique_ptr<Backend<float>> (*make_backend)(int index);
};

inline constexpr const char* plugin_symbol = "revode_cuda_plugin";

/// Whether kernels built for `architectures` ("80-real,90-virtual", in CMake's words) run on a
/// device: machine code does within its major capability, virtual code on all later devices.
bool has_code_for(int capability, std::string_view architectures);

}  // namespace revode::cuda
