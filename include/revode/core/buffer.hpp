// Owning, aligned arrays whose bytes are counted by what they are for.
//
// Index order is the same everywhere in revode: images [N, C, H, W], kernels [out][in][ky][kx],
// row-major, so that the last index runs fastest.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>

#include "revode/core/memory_space.hpp"

namespace revode {

/// What an array is for. The start-up block and the memory tests report these apart.
enum class Memory {
  weights,         ///< parameters and running statistics
  gradients,       ///< one gradient a parameter
  momentum,        ///< one velocity a parameter
  packed_weights,  ///< the backend's own copies of kernels, in its layout
  state,           ///< P, Q and their adjoints, and messages of them
  stash,           ///< what the forward sweep keeps for the backward sweep
  workspace,       ///< scratch of the kernels
  snapshot,        ///< weights and momentum on their way to a checkpoint
  data,            ///< images and labels
};
inline constexpr int num_memory_categories = 9;
std::string_view to_string(Memory category);

/// Bytes held by Buffers now, and the most there have been, by category.
struct MemoryUse {
  std::array<std::int64_t, num_memory_categories> current_bytes{};
  std::array<std::int64_t, num_memory_categories> peak_bytes{};

  std::int64_t current(Memory category) const { return current_bytes[static_cast<int>(category)]; }
  std::int64_t peak(Memory category) const { return peak_bytes[static_cast<int>(category)]; }
  std::int64_t total() const {
    return std::accumulate(current_bytes.begin(), current_bytes.end(), std::int64_t{0});
  }
  /// At least what there was at any time.
  std::int64_t sum_of_peaks() const {
    return std::accumulate(peak_bytes.begin(), peak_bytes.end(), std::int64_t{0});
  }
};
/// Of this process, in memory that the host may touch.
MemoryUse memory_use();
/// Of this process, in memory of devices.
MemoryUse device_memory_use();

/// What bytes are counted in. A plug-in has code and counters of its own; it is told to count in
/// those of the program, before it makes a Buffer.
struct MemoryCounters;
MemoryCounters& memory_counters();
void count_memory_in(MemoryCounters& counters);

namespace detail {
/// Memory of `space`, counted under `category`. Throws std::bad_alloc.
void* allocate(std::size_t bytes, Memory category, MemorySpace& space);
void release(void* pointer, std::size_t bytes, Memory category, MemorySpace& space) noexcept;
}  // namespace detail

/// An owning array of `size()` elements, zeroed when made, aligned to 64 bytes. Moves, does not
/// copy. The host may touch its elements only where they live in host memory.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  /// `space` must outlive the array.
  Buffer(std::size_t size, Memory category, MemorySpace& space = host_memory())
      : data_(static_cast<T*>(detail::allocate(size * sizeof(T), category, space))),
        size_(size),
        category_(category),
        space_(&space) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) detail::release(data_, size_ * sizeof(T), category_, *space_);
  }

  /// At least `size` elements, which are zero where there were fewer: an array that grows keeps
  /// nothing, so that the old and the new one need not exist together.
  void ensure(std::size_t size, Memory category, MemorySpace& space = host_memory()) {
    if (size_ >= size) return;
    *this = Buffer();
    *this = Buffer(size, category, space);
  }

  /// Owns another array of the same size and space from now on; its owner takes this one's.
  void exchange(T* data) { data_ = data; }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return size_ * sizeof(T); }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  std::span<T> span() { return {data_, size_}; }
  std::span<const T> span() const { return {data_, size_}; }

  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(category_, other.category_);
    std::swap(space_, other.space_);
  }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
  Memory category_ = Memory::workspace;
  MemorySpace* space_ = nullptr;
};

}  // namespace revode
