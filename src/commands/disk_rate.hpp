// How fast checkpoints reach the disk.
#pragma once

#include <filesystem>

namespace revode {

/// Bytes a second that are written beside `file` until they are on the disk: of 64 MiB, which are
/// removed again. Throws a run error.
double measure_disk_rate(const std::filesystem::path& file);

}  // namespace revode
