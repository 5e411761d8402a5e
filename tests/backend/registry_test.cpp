// Which backends there are, by name.
#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "revode/backend/backend.hpp"

#include "support/error_text.hpp"

namespace revode {
namespace {

TEST(Registry, NamesWhatThereIs) {
  const std::vector<std::string> names = backend_names();

  EXPECT_EQ(names, (std::vector<std::string>{"cpu", "cuda", "reference"}));
  for (const std::string& name : usable_backend_names())
    EXPECT_EQ(make_backend(name, 1)->name(), name);
}

TEST(Registry, AutoIsAGpuWhereOneIsUsable) {
  const std::vector<std::string> usable = usable_backend_names();
  const bool has_gpu = std::ranges::find(usable, "cuda") != usable.end();

  EXPECT_EQ(make_backend("auto", 1)->name(), has_gpu ? "cuda" : "cpu");
  EXPECT_EQ(why_no_gpu().reason.empty(), has_gpu);
}

// As where one of several ranks has none.
TEST(Registry, AutoTakesNoGpuOnceItIsTold) {
  take_no_gpu("rank 3 has none");

  EXPECT_EQ(make_backend("auto", 1)->name(), "cpu");
  EXPECT_EQ(why_no_gpu().reason, "rank 3 has none");
  EXPECT_TRUE(why_no_gpu().worth_saying);
  take_no_gpu("");
}

TEST(Registry, EveryBackendMeasuresAPeakAndNamesItsKernels) {
  const SegmentShape shape{.num_couplings = 1, .channels = 2, .height = 4, .width = 4};
  for (const std::string& name : usable_backend_names()) {
    const auto backend = make_backend(name, 1);

    // No processor that runs this is slower than one multiply-add a millisecond.
    EXPECT_GT(backend->measure_peak_flops(Precision::fp32), 2000) << name;
    EXPECT_FALSE(backend->make_segment(shape)->description().empty()) << name;
  }
}

TEST(Registry, RefusesWhatThereIsNot) {
  const auto refusal = [](const char* name) {
    return error_text(ExitStatus::bad_input, [&] { make_backend(name, 1); });
  };

  const std::string why_not = why_no_gpu().reason;
  if (!why_not.empty()) {
    EXPECT_EQ(refusal("cuda"),
              "--backend cuda: " + why_not + "; --backend cpu computes without one");
  }
  EXPECT_NE(refusal("gpu").find("'gpu'"), std::string::npos);
  EXPECT_NE(refusal("gpu").find("reference"), std::string::npos);
}

}  // namespace
}  // namespace revode
