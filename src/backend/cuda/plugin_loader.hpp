// Finds the plug-in for GPUs and loads it: once a process, and where there is none at the price of
// looking for a file. That no GPU can be had is no error here but a sentence.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/cuda/plugin.hpp"

namespace revode::cuda {

/// Where the plug-in may lie: in the file that `named`, the value of REVODE_CUDA_PLUGIN, names, or
/// beside the program or in its folder of libraries.
std::vector<std::filesystem::path> plugin_files(const std::filesystem::path& program,
                                                std::string_view named);

struct LoadedPlugin {
  const Plugin* plugin = nullptr;
  std::string why_not = {};  ///< one clause, where there is none
  bool found = false;        ///< there is a file
};

/// The first of `files` that there is. It stays loaded to the end of the process.
LoadedPlugin load_plugin(const std::vector<std::filesystem::path>& files);

/// This program's version of the plug-in.
std::string_view plugin_version();

/// One clause; empty where a GPU is usable.
std::string why_unusable(const GpuSurvey& survey);

/// The number of this process among those of its host, from the variables that launchers set; 0
/// where there is none. `variable` is std::getenv.
int local_rank(const char* (*variable)(const char* name));

/// Why this machine has no GPU for us; asked once a process.
const NoGpu& find_gpu();

/// On the GPU that falls to this process. Throws an input error where there is none.
std::unique_ptr<Backend<float>> make_plugin_backend();

}  // namespace revode::cuda
