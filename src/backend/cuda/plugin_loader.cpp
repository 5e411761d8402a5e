#include "backend/cuda/plugin_loader.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include <dlfcn.h>
#include <fmt/ranges.h>

#include "revode/core/error.hpp"

namespace revode::cuda {
namespace {

constexpr const char* file_name = "librevode_cuda.so";
constexpr const char* naming_variable = "REVODE_CUDA_PLUGIN";

const char* get_variable(const char* name) { return std::getenv(name); }

std::string cuda_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}
std::string capability_text(int capability) {
  return fmt::format("{}.{}", capability / 10, capability % 10);
}

/// What dlopen() says, without the file's name in front.
std::string loader_error(const std::string& file) {
  const char* text = dlerror();
  std::string error = text != nullptr ? text : "no reason is given";
  if (error.starts_with(file + ": ")) error.erase(0, file.size() + 2);
  return error;
}

/// Asked of the loader, so that a rank without a GPU holds no library of CUDA.
bool has_driver() {
  void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver != nullptr) dlclose(driver);
  return driver != nullptr;
}

/// What is known of this machine.
struct Gpus {
  const Plugin* plugin = nullptr;
  int num_usable = 0;
  NoGpu absence = {};
};

Gpus look_for_gpus() {
  std::error_code ignored;
  const char* named = get_variable(naming_variable);
  const std::vector<std::filesystem::path> files = plugin_files(
      std::filesystem::read_symlink("/proc/self/exe", ignored), named != nullptr ? named : "");
  const bool is_installed = std::ranges::any_of(
      files, [&](const auto& file) { return std::filesystem::exists(file, ignored); });
  // A file that is named is taken for what it says itself.
  if (is_installed && named == nullptr && !has_driver())
    return {.absence = {why_unusable({.status = GpuStatus::no_driver}), true}};
  const LoadedPlugin loaded = load_plugin(files);
  if (loaded.plugin == nullptr)
    return {.absence = {loaded.why_not, loaded.found || named != nullptr}};
  const GpuSurvey survey = loaded.plugin->survey();
  return {.plugin = loaded.plugin,
          .num_usable = survey.num_usable,
          .absence = {why_unusable(survey), survey.status != GpuStatus::usable}};
}

const Gpus& gpus() {
  static const Gpus found = look_for_gpus();
  return found;
}

}  // namespace

std::vector<std::filesystem::path> plugin_files(const std::filesystem::path& program,
                                                std::string_view named) {
  if (!named.empty()) return {named};
  const std::filesystem::path folder = program.parent_path();
  return {folder / file_name, (folder / REVODE_PLUGIN_FOLDER / file_name).lexically_normal(),
          (folder / "../lib" / file_name).lexically_normal()};
}

LoadedPlugin load_plugin(const std::vector<std::filesystem::path>& files) {
  for (const std::filesystem::path& file : files) {
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored)) continue;
    const auto refuse = [&](std::string why_not) {
      return LoadedPlugin{.why_not = std::move(why_not), .found = true};
    };

    // A name without a slash would be looked for elsewhere.
    const std::string path = std::filesystem::absolute(file).native();
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
      return refuse(fmt::format("{} cannot be loaded: {}", file.native(), loader_error(path)));
    const auto* plugin = static_cast<const Plugin*>(dlsym(library, plugin_symbol));
    if (plugin == nullptr) {
      dlclose(library);
      return refuse(fmt::format("{} is no plug-in of revode (it has no symbol {})", file.native(),
                                plugin_symbol));
    }
    if (plugin->version != plugin_version()) {
      const std::string version = plugin->version;
      dlclose(library);
      return refuse(
          fmt::format("{} is of version {}, expected this program's version {}: "
                      "install both from one build",
                      file.native(), version, plugin_version()));
    }
    plugin->count_memory_in(memory_counters());
    return {.plugin = plugin, .found = true};
  }
  std::vector<std::string> names;
  for (const std::filesystem::path& file : files) names.push_back(file.native());
  return {.why_not = fmt::format("no kernels for GPUs are installed; looked for {} (to have them, "
                                 "configure with -DREVODE_CUDA=ON)",
                                 fmt::join(names, ", "))};
}

std::string_view plugin_version() { return REVODE_PLUGIN_VERSION; }

std::string why_unusable(const GpuSurvey& survey) {
  switch (survey.status) {
    case GpuStatus::usable:
      return "";
    case GpuStatus::no_driver:
      return "this machine has no NVIDIA driver";
    case GpuStatus::driver_too_old:
      return fmt::format(
          "the NVIDIA driver is for CUDA {}, expected {} or later: update the driver",
          cuda_text(survey.driver_version), cuda_text(survey.expected_version));
    case GpuStatus::no_device:
      return "the NVIDIA driver shows this process no GPU (CUDA_VISIBLE_DEVICES may hide them)";
    case GpuStatus::device_too_old:
      return fmt::format("the GPU ({}) has compute capability {}, expected {} or later",
                         survey.device, capability_text(survey.capability),
                         capability_text(least_capability));
    case GpuStatus::no_code:
      return fmt::format(
          "the GPU ({}) has compute capability {}, and the kernels were built for {}: configure "
          "with -DREVODE_CUDA_ARCHITECTURES={}",
          survey.device, capability_text(survey.capability), survey.architectures,
          survey.capability);
    case GpuStatus::failed:
      break;
  }
  return fmt::format("the GPUs do not answer: {}", survey.error);
}

int local_rank(const char* (*variable)(const char* name)) {
  // In a job of SLURM the processes of mpirun see SLURM's number of mpirun itself: hence last.
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"}) {
    const char* text = variable(name);
    if (text == nullptr) continue;
    int rank = -1;
    const char* end = text + std::strlen(text);
    const auto parsed = std::from_chars(text, end, rank);
    if (parsed.ec == std::errc{} && parsed.ptr == end && rank >= 0) return rank;
  }
  return 0;
}

const NoGpu& find_gpu() { return gpus().absence; }

std::unique_ptr<Backend<float>> make_plugin_backend() {
  const Gpus& found = gpus();
  if (!found.absence.reason.empty())
    throw input_error("--backend cuda: {}; --backend cpu computes without one",
                      found.absence.reason);
  return found.plugin->make_backend(local_rank(get_variable) % found.num_usable);
}

}  // namespace revode::cuda
