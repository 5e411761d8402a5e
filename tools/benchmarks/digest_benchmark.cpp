// How fast digests are taken of arrays in a cache of one core, in the last cache, and in memory.
//
//   digest_benchmark --benchmark_repetitions=9
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <benchmark/benchmark.h>

#include "revode/core/digest.hpp"

namespace {

void digest(benchmark::State& state) {
  const std::vector<std::byte> bytes(static_cast<std::size_t>(state.range(0)), std::byte{0x5a});
  for (auto _ : state) {
    std::uint64_t found = revode::digest_of(std::span<const std::byte>(bytes));
    benchmark::DoNotOptimize(found);
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(digest)->Arg(16 << 10)->Arg(2 << 20)->Arg(64 << 20);

}  // namespace

BENCHMARK_MAIN();
