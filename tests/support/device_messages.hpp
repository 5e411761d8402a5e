// The way that messages take where slices compute on devices, chosen for a test.
#pragma once

#include <cstdlib>

namespace revode {

/// As long as it lives, messages of networks that are made leave from and arrive in the memory of
/// devices: that of a device in host memory is memory that any MPI takes.
class DeviceMessages {
 public:
  DeviceMessages() { setenv(variable, "1", 1); }
  DeviceMessages(const DeviceMessages&) = delete;
  DeviceMessages& operator=(const DeviceMessages&) = delete;
  ~DeviceMessages() { unsetenv(variable); }

 private:
  static constexpr const char* variable = "REVODE_DEVICE_MESSAGES";
};

}  // namespace revode
