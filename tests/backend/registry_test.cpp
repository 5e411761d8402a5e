// Which backends there are, by name.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "revode/backend/backend.hpp"

#include "support/error_text.hpp"

namespace revode {
namespace {

TEST(Registry, NamesWhatThereIs) {
  const std::vector<std::string> names = backend_names();

  EXPECT_EQ(names, (std::vector<std::string>{"cpu", "reference"}));
  for (const std::string& name : names) EXPECT_EQ(make_backend(name, 1)->name(), name);
  EXPECT_EQ(make_backend("auto", 1)->name(), "cpu");
}

TEST(Registry, EveryBackendMeasuresAPeakAndNamesItsKernels) {
  const SegmentShape shape{.num_couplings = 1, .channels = 2, .height = 4, .width = 4};
  for (const std::string& name : backend_names()) {
    const auto backend = make_backend(name, 1);

    // No processor that runs this is slower than one multiply-add a millisecond.
    EXPECT_GT(backend->measure_peak_flops(), 2000) << name;
    EXPECT_FALSE(backend->make_segment(shape)->description().empty()) << name;
  }
}

TEST(Registry, RefusesWhatThereIsNot) {
  const auto refusal = [](const char* name) {
    return error_text(ExitStatus::bad_input, [&] { make_backend(name, 1); });
  };

  EXPECT_NE(refusal("cuda").find("cuda"), std::string::npos);
  EXPECT_NE(refusal("gpu").find("'gpu'"), std::string::npos);
  EXPECT_NE(refusal("gpu").find("reference"), std::string::npos);
}

}  // namespace
}  // namespace revode
