// The memory that a process may use, from files as Linux shows them.
#include "revode/core/host_memory.hpp"

#include <string>

#include <gtest/gtest.h>

#include "support/temporary_folder.hpp"

namespace revode {
namespace {

/// A folder with a /proc and a /sys of its own, of a host with 64,000 kB.
class HostMemory : public testing::Test {
 protected:
  HostMemory() { write("proc/meminfo", "MemFree: 5 kB\nMemTotal:       64000 kB\n"); }

  void write(const std::string& file, const std::string& text) {
    std::filesystem::create_directories((folder_ / file).parent_path());
    std::ofstream(folder_ / file) << text;
  }
  std::int64_t bytes() const { return host_memory_bytes(folder_.path()); }

  TemporaryFolder folder_;
};

TEST_F(HostMemory, IsThatOfTheHostWithoutGroups) { EXPECT_EQ(bytes(), 65'536'000); }

TEST_F(HostMemory, IsTheLeastLimitOfAGroupAndThoseAboveIt) {
  write("proc/self/cgroup", "0::/slurm/job_7/step\n");
  write("sys/fs/cgroup/slurm/job_7/step/memory.max", "max\n");
  EXPECT_EQ(bytes(), 65'536'000);
  write("sys/fs/cgroup/slurm/job_7/memory.max", "40000000\n");
  EXPECT_EQ(bytes(), 40'000'000);
  write("sys/fs/cgroup/slurm/memory.max", "50000000\n");
  EXPECT_EQ(bytes(), 40'000'000);
  write("sys/fs/cgroup/memory.max", "30000000\n");  // as seen in a container
  EXPECT_EQ(bytes(), 30'000'000);
  write("sys/fs/cgroup/memory.max", "90000000\n");  // more than there is
  EXPECT_EQ(bytes(), 40'000'000);
}

TEST_F(HostMemory, IsThatOfVersionOnesMemoryController) {
  write("proc/self/cgroup", "9:cpu,cpuacct:/other\n4:memory:/job\n1:name=systemd:/x\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(bytes(), 65'536'000);
  write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "20000000\n");
  write("sys/fs/cgroup/memory/other/memory.limit_in_bytes", "1000\n");
  EXPECT_EQ(bytes(), 20'000'000);
}

TEST_F(HostMemory, IsZeroWhereNothingIsSaid) {
  const TemporaryFolder empty;
  EXPECT_EQ(host_memory_bytes(empty.path()), 0);
}

TEST_F(HostMemory, OfThisHostIsMoreThanThisTestTakes) { EXPECT_GT(host_memory_bytes(), 1 << 20); }

}  // namespace
}  // namespace revode
