// Which GPU the program takes, and what it says where there is none. No GPU is needed: what a look
// at the devices found is made up here.
#include "backend/cuda/plugin_loader.hpp"

#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include <gtest/gtest.h>

namespace revode::cuda {
namespace {

TEST(GpuSurvey, IsToldInAClause) {
  EXPECT_EQ(why_unusable({.status = GpuStatus::usable, .num_usable = 1}), "");
  EXPECT_EQ(why_unusable({.status = GpuStatus::no_driver}), "this machine has no NVIDIA driver");
  EXPECT_EQ(why_unusable({.status = GpuStatus::driver_too_old,
                          .driver_version = 12020,
                          .expected_version = 13000}),
            "the NVIDIA driver is for CUDA 12.2, expected 13.0 or later: update the driver");
  EXPECT_EQ(why_unusable({.status = GpuStatus::no_device}),
            "the NVIDIA driver shows this process no GPU (CUDA_VISIBLE_DEVICES may hide them)");
  EXPECT_EQ(
      why_unusable({.status = GpuStatus::device_too_old, .device = "Tesla V100", .capability = 70}),
      "the GPU (Tesla V100) has compute capability 7.0, expected 8.0 or later");
  EXPECT_EQ(why_unusable({.status = GpuStatus::no_code,
                          .device = "NVIDIA RTX 5090",
                          .capability = 120,
                          .architectures = "80-real,90-real"}),
            "the GPU (NVIDIA RTX 5090) has compute capability 12.0, and the kernels were built for "
            "80-real,90-real: configure with -DREVODE_CUDA_ARCHITECTURES=120");
  EXPECT_EQ(why_unusable({.status = GpuStatus::failed, .error = "cudaGetDeviceCount: no (why)"}),
            "the GPUs do not answer: cudaGetDeviceCount: no (why)");
}

TEST(PluginCode, RunsOnTheDevicesItWasBuiltFor) {
  EXPECT_TRUE(has_code_for(80, "80-real"));
  EXPECT_TRUE(has_code_for(86, "80-real"));
  EXPECT_FALSE(has_code_for(80, "86-real"));
  EXPECT_FALSE(has_code_for(90, "80-real"));
  EXPECT_TRUE(has_code_for(90, "80-real,90-real"));
  EXPECT_TRUE(has_code_for(90, "80-virtual"));
  EXPECT_FALSE(has_code_for(80, "90-virtual"));
  EXPECT_TRUE(has_code_for(90, "80"));
  EXPECT_TRUE(has_code_for(90, "90a-real"));
  EXPECT_FALSE(has_code_for(100, "90a"));
  EXPECT_FALSE(has_code_for(100, "80-real,90-real"));
  EXPECT_TRUE(has_code_for(120, "80-real,90-real,100-real,100-virtual"));
  EXPECT_FALSE(has_code_for(90, ""));
}

TEST(LocalRank, IsWhatTheLauncherSays) {
  static std::map<std::string, std::string> variables;
  const auto rank = [](const std::map<std::string, std::string>& set) {
    variables = set;
    return local_rank([](const char* name) -> const char* {
      const auto found = variables.find(name);
      return found == variables.end() ? nullptr : found->second.c_str();
    });
  };

  EXPECT_EQ(rank({}), 0);
  EXPECT_EQ(rank({{"OMPI_COMM_WORLD_LOCAL_RANK", "3"}}), 3);
  EXPECT_EQ(rank({{"MPI_LOCALRANKID", "2"}}), 2);
  EXPECT_EQ(rank({{"SLURM_LOCALID", "11"}}), 11);
  EXPECT_EQ(rank({{"SLURM_LOCALID", "0"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}}), 1);
  EXPECT_EQ(rank({{"OMPI_COMM_WORLD_LOCAL_RANK", "-1"}, {"SLURM_LOCALID", "4"}}), 4);
  EXPECT_EQ(rank({{"OMPI_COMM_WORLD_LOCAL_RANK", ""}, {"SLURM_LOCALID", "2x"}}), 0);
}

TEST(PluginFiles, LieBesideTheProgramOrInItsFolderOfLibraries) {
  const auto files = plugin_files("/opt/revode/bin/revode", "");

  ASSERT_EQ(files.size(), 3u);
  EXPECT_EQ(files[0], "/opt/revode/bin/librevode_cuda.so");
  EXPECT_EQ(files[1].filename(), "librevode_cuda.so");
  EXPECT_EQ(files[1].parent_path().filename(), "revode");
  EXPECT_EQ(files[2], "/opt/revode/lib/librevode_cuda.so");
}

TEST(PluginFiles, AreTheOneThatIsNamedAlone) {
  const auto files = plugin_files("/opt/revode/bin/revode", "elsewhere/a.so");

  ASSERT_EQ(files.size(), 1u);
  EXPECT_EQ(files[0], "elsewhere/a.so");
}

TEST(LoadPlugin, SaysWhereItLooked) {
  const LoadedPlugin loaded = load_plugin({"/nowhere/a.so", "/nowhere/b.so"});

  EXPECT_EQ(loaded.plugin, nullptr);
  EXPECT_FALSE(loaded.found);
  EXPECT_EQ(loaded.why_not,
            "no kernels for GPUs are installed; looked for /nowhere/a.so, /nowhere/b.so (to have "
            "them, configure with -DREVODE_CUDA=ON)");
}

TEST(LoadPlugin, SaysWhyAFileCannotBeLoaded) {
  const std::filesystem::path file =
      std::filesystem::path(testing::TempDir()) / "revode_plugin_loader_test.so";
  std::ofstream(file) << std::string(1000, 'x');  // longer than the header of a library

  const LoadedPlugin loaded = load_plugin({"/nowhere/a.so", file});

  EXPECT_EQ(loaded.plugin, nullptr);
  EXPECT_TRUE(loaded.found);
  EXPECT_EQ(loaded.why_not, file.native() + " cannot be loaded: invalid ELF header");
  std::filesystem::remove(file);
}

TEST(LoadPlugin, RefusesALibraryThatIsNoPlugin) {
  const LoadedPlugin loaded = load_plugin({REVODE_NO_PLUGIN});

  EXPECT_EQ(loaded.plugin, nullptr);
  EXPECT_TRUE(loaded.found);
  EXPECT_EQ(loaded.why_not,
            REVODE_NO_PLUGIN " is no plug-in of revode (it has no symbol revode_cuda_plugin)");
}

TEST(LoadPlugin, RefusesAnotherVersion) {
  const LoadedPlugin loaded = load_plugin({REVODE_OTHER_VERSION_PLUGIN});

  EXPECT_EQ(loaded.plugin, nullptr);
  EXPECT_TRUE(loaded.found);
  EXPECT_EQ(loaded.why_not, REVODE_OTHER_VERSION_PLUGIN
                                " is of version 0.0.1-of-old, expected this program's version " +
                                std::string(plugin_version()) + ": install both from one build");
}

// A library of our code beside the program's, as the plug-in is.
TEST(Plugin, CountsItsMemoryWithTheProgram) {
  const Plugin* plugin = load_plugin({REVODE_HOLDING_PLUGIN}).plugin;
  ASSERT_NE(plugin, nullptr);
  const std::int64_t before = memory_use().current(Memory::workspace);

  plugin->survey();  // which makes a Buffer here

  EXPECT_EQ(memory_use().current(Memory::workspace) - before, 1000);
}

}  // namespace
}  // namespace revode::cuda
