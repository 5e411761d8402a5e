// What cuDNN chooses for GPUs that need not be there: their properties suffice for its heuristics
// and plans. That the plans run, and what they compute, takes a GPU (cuda_device_test).
#include "backend/cuda/cudnn_plan.hpp"

#include <algorithm>
#include <cstdlib>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace revode::cuda {
namespace {

struct Gpu {
  std::string name;
  int compute_capability;  ///< 90 for 9.0
  int num_multiprocessors;
  int shared_bytes;  ///< of a block, at most
  int cache_mib;     ///< L2
  int memory_gib;
  bool is_for_computing = true;  ///< and not for graphics

  friend std::ostream& operator<<(std::ostream& stream, const Gpu& gpu) {
    return stream << gpu.name;
  }
};

// NVIDIA's data sheets, and the CUDA C++ Programming Guide, "Compute capabilities".
const std::vector<Gpu> gpus = {{"A100", 80, 108, 166912, 40, 40},
                               {"RTX4090", 89, 128, 101376, 72, 24, false},
                               {"H100", 90, 132, 232448, 50, 80},
                               {"B200", 100, 148, 232448, 126, 180}};

/// As cuDNN 9.8 and later read them.
std::string properties_of(const Gpu& gpu) {
  return fmt::format(
      R"({{"deviceName": "NVIDIA {}", "deviceVer": {}, "driverVer": {}, "cudaDeviceId": 0,)"
      R"( "pciDeviceId": 0, "isTccDriver": 0, "supportCoopLaunch": 1, "multiProcessorCount": {},)"
      R"( "smClockRateKHz": 1500000, "memClockRateKHz": 2000000, "l2CacheSize": {},)"
      R"( "totalGlobalMem": {}, "maxSharedMemoryPerBlock": 49152,)"
      R"( "maxSharedMemoryPerBlockOptin": {}, "reservedSharedMemoryPerBlock": 1024,)"
      R"( "regsPerBlock": 65536, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32,)"
      R"( "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "warpSize": 32,)"
      R"( "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64]}})",
      gpu.name, gpu.compute_capability * 10, cudnnGetCudartVersion(), gpu.num_multiprocessors,
      gpu.cache_mib << 20, std::int64_t{gpu.memory_gib} << 30, gpu.shared_bytes);
}

struct Case {
  int batch, channels, height, width;
};

// The stages of hamiltonian-74 and leapfrog-62, and what the backend tests take.
const std::vector<Case> cases = {{100, 16, 32, 32}, {100, 32, 16, 16}, {100, 56, 8, 8},
                                 {100, 32, 32, 32}, {100, 64, 16, 16}, {100, 112, 8, 8},
                                 {512, 64, 32, 32}, {1, 3, 5, 7},      {3, 18, 9, 4}};

std::vector<PlanShape> shapes_of(const Case& of, Precision precision) {
  return {PlanShape(Convolution{.batch = of.batch,
                                .height = of.height,
                                .width = of.width,
                                .in_channels = of.channels,
                                .out_channels = of.channels,
                                .precision = precision}),
          PlanShape(ConvolutionGradient{.batch = of.batch,
                                        .height = of.height,
                                        .width = of.width,
                                        .in_channels = of.channels,
                                        .out_channels = of.channels,
                                        .precision = precision})};
}

class CudnnPlans : public testing::TestWithParam<Gpu> {
 protected:
  void SetUp() override {
    if (cudnnGetVersion() < 90800) GTEST_SKIP() << "cuDNN before 9.8 asks the GPU itself";
    try {
      properties_ = make_device_properties(properties_of(GetParam()));
    } catch (const std::runtime_error& error) {
      GTEST_SKIP() << "this version of cuDNN describes GPUs in another way: " << error.what();
    }
  }
  PlanDevice device() const { return {.properties = &properties_}; }

 private:
  Descriptor properties_;
};

std::string name_of(const Case& of, const PlanShape& shape) {
  return fmt::format("{} images, {} channels of {} x {}, {} bits{}", of.batch, of.channels,
                     of.height, of.width, mantissa_bits(shape.precision),
                     shape.is_gradient ? ", gradient" : "");
}

bool has(const EngineChoice& choice, cudnnBackendNumericalNote_t note) {
  return std::ranges::find(choice.notes, note) != choice.notes.end();
}

void expect_exact_enough(const EngineChoice& choice) {
  for (const auto note :
       {CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
        CUDNN_NUMERICAL_NOTE_FFT, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
        CUDNN_NUMERICAL_NOTE_WINOGRAD})
    EXPECT_FALSE(has(choice, note)) << note;
}

TEST_P(CudnnPlans, AreExactEnoughAndTheSameEveryTime) {
  for (const Case& of : cases)
    for (const Precision precision : {Precision::fp32, Precision::tf32})
      for (const PlanShape& shape : shapes_of(of, precision)) {
        SCOPED_TRACE(name_of(of, shape));
        const CudnnPlan plan(shape, device());
        expect_exact_enough(plan.choice());
        const bool on_tensor_cores = has(plan.choice(), CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
        // The heuristics may find lanes as fast, above all where there are many of them.
        EXPECT_FALSE(precision == Precision::fp32 && on_tensor_cores);
        if (precision != Precision::fp32 && of.channels % 8 == 0 && GetParam().is_for_computing) {
          EXPECT_TRUE(on_tensor_cores);
        }
        // Of floats of both layouts, where that is more than 256 MiB.
        const std::size_t num_values =
            std::size_t{2} * of.batch * of.channels * of.height * of.width;
        EXPECT_LE(plan.workspace_bytes(),
                  std::max(std::size_t{256} << 20, 2 * num_values * sizeof(float)));
        const CudnnPlan again(shape, device());
        EXPECT_EQ(again.choice().engine, plan.choice().engine);
        EXPECT_EQ(again.workspace_bytes(), plan.workspace_bytes());
        fmt::print("{}: {}: engine {}{}, workspace {} KiB\n", GetParam().name, name_of(of, shape),
                   plan.choice().engine, on_tensor_cores ? " on tensor cores" : "",
                   plan.workspace_bytes() >> 10);
      }
}

// cuDNN compiles engines for bf16, and names them only where the driver's library is: that of the
// toolkit, which does nothing, suffices.
bool has_driver_library() { return dlopen("libcuda.so.1", RTLD_LAZY) != nullptr; }

TEST_P(CudnnPlans, OfBf16AreFoundForEveryShape) {
  if (!has_driver_library()) GTEST_SKIP() << "no libcuda.so.1";
  for (const Case& of : cases)
    for (const PlanShape& shape :
         shapes_of(of, operand_format(Precision::bf16, of.channels).stored_as)) {
      SCOPED_TRACE(name_of(of, shape));
      const std::vector<EngineChoice> choices = engine_choices(shape, device());
      ASSERT_FALSE(choices.empty());
      for (const EngineChoice& choice : choices) {
        expect_exact_enough(choice);
        EXPECT_TRUE(of.channels % 8 != 0 || has(choice, CUDNN_NUMERICAL_NOTE_TENSOR_CORE));
      }
      fmt::print("{}: {}: engine {} and {} more\n", GetParam().name, name_of(of, shape),
                 choices[0].engine, choices.size() - 1);
    }
}

// All but the loading, where that library is in the driver's place.
TEST_P(CudnnPlans, OfBf16AreCompiled) {
  if (!has_driver_library()) GTEST_SKIP() << "no libcuda.so.1";
  if (std::getenv("REVODE_ALL_CASES") == nullptr) GTEST_SKIP() << "takes long";
  for (const PlanShape& shape : shapes_of(cases[2], Precision::bf16)) try {
      const CudnnPlan plan(shape, device());
    } catch (const std::runtime_error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("cuLibraryLoadData returned error"));
    }
}

INSTANTIATE_TEST_SUITE_P(For, CudnnPlans, testing::ValuesIn(gpus),
                         [](const auto& of) { return of.param.name; });

TEST(CudnnPlan, PropertiesThatCudnnDoesNotTakeAreAnError) {
  EXPECT_THROW(make_device_properties("{}"), std::runtime_error);
}

}  // namespace
}  // namespace revode::cuda
