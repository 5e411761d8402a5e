#include "revode/core/resident_memory.hpp"

#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "revode/core/buffer.hpp"

#include "support/temporary_folder.hpp"

namespace revode {
namespace {

TEST(PeakResidentBytes, CoversWhatWasTouched) {
  constexpr std::size_t size = 64 << 20;
  { const Buffer<char> buffer(size, Memory::workspace); }

  EXPECT_GE(peak_resident_bytes(), static_cast<std::int64_t>(size));
}

TEST(PeakResidentBytes, CountsAPartOfWhatOthersShare) {
  const TemporaryFolder folder;
  std::ofstream(folder / "status") << "VmPeak:\t 9000 kB\nVmHWM:\t 5000 kB\nVmRSS:\t 4000 kB\n";
  const std::string name = shared_memory_name;
  std::ofstream(folder / "smaps") << "5500-5600 r--p 00000000 fe:00 247 /usr/bin/revode\n"
                                     "Rss:                 700 kB\n"
                                     "Pss:                 100 kB\n"
                                     "7f00-7f10 rw-s 00000000 00:01 12 /memfd:" +
                                         name +
                                         " (deleted)\n"
                                         "Size:               4096 kB\n"
                                         "Rss:                1000 kB\n"
                                         "Pss:                 250 kB\n"
                                         "7f20-7f30 rw-s 00000000 00:01 13 /memfd:" +
                                         name +
                                         " (deleted)\n"
                                         "Rss:                 600 kB\n"
                                         "Pss:                 600 kB\n"
                                         "7f40-7f50 rw-p 00000000 00:00 0\n"
                                         "Rss:                3000 kB\n"
                                         "Pss:                2000 kB\n";

  EXPECT_EQ(peak_resident_bytes(folder.path()), (5000 - 750) * 1024);
}

}  // namespace
}  // namespace revode
