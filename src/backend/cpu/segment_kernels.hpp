// The kernels of a segment: a group of images goes depth-first through a range of couplings, in
// one thread, on scratch that it is handed. Free of threads, ownership and memory management;
// the instruction set is chosen when they are called.
#pragma once

#include <array>
#include <cstddef>

#include "revode/backend/segment.hpp"

#include "backend/cpu/planes.hpp"
#include "backend/cpu/winograd.hpp"

namespace revode::cpu {

/// How the convolutions of a segment are computed.
enum class Form { direct, winograd };

/// The form for a segment: a function of its shape and the instruction set in use alone, as the
/// bits depend on it.
Form best_form(const Planes& planes);

/// What the kernels need to know of a segment; pointers are borrowed.
struct SegmentPlan {
  Force force = Force::symmetric;
  Form form = Form::direct;
  Planes planes;
  int first_target = 0;
  float gamma = 1;
  float beta = 0;
  std::array<float, 2> scale{};  ///< by target slot
  int grid_bits = 0;

  // By coupling: the kernel that is applied to the input of F (K, or K - K^T), the one of its
  // adjoint (K^T, for the symmetric force only) and the bias. Kernels are packed (planes.hpp) or
  // transformed (winograd.hpp).
  const float* kernel = nullptr;
  const float* adjoint_kernel = nullptr;
  const float* bias = nullptr;

  int target(int coupling) const { return (first_target + coupling) % 2; }
  std::size_t kernel_size() const {
    return form == Form::direct ? planes.packed_kernel_size() : Winograd(planes).kernel_size();
  }
  const float* kernel_of(int j) const { return kernel + j * kernel_size(); }
  const float* adjoint_kernel_of(int j) const { return adjoint_kernel + j * kernel_size(); }
  const float* bias_of(int j) const { return bias + j * planes.packed_bias_size(); }
};

/// Some consecutive images of a state (or an adjoint), each slot [num_images, c, height, width].
struct ImageGroup {
  std::array<float*, 2> slot{};
  int num_images = 0;
};

/// What is recorded of these images, without borders (Planes::bare_image_size). The step from one
/// coupling to the next is `stride` floats.
struct GroupRecord {
  float* state = nullptr;   ///< entry j: old target of coupling j; entry j + 1: its other, x
  float* hidden = nullptr;  ///< entry j: sigma(...) of coupling j
  std::size_t stride = 0;

  explicit operator bool() const { return state != nullptr; }
};

/// The same, to be read.
struct RecordedGroup {
  const float* state = nullptr;
  const float* hidden = nullptr;
  std::size_t stride = 0;

  explicit operator bool() const { return state != nullptr; }
};

/// Gradient of the kernels and biases of couplings [first, ...), packed; += .
struct PackedGradient {
  float* kernel = nullptr;
  float* bias = nullptr;
  int first = 0;
};

/// Scratch of advance_group() and retreat_group() for `num_images`, in floats, aligned to 64 bytes.
std::size_t advance_scratch_size(const SegmentPlan& plan, int num_images);
std::size_t retreat_scratch_size(const SegmentPlan& plan, int num_images);

/// Segment::advance() for a group; returns its notes.
StateNotes advance_group(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                         GroupRecord record, float* scratch);

/// Segment::retreat() for a group; with a record, `state` is written only.
void retreat_group(const SegmentPlan& plan, CouplingRange range, const ImageGroup& state,
                   const ImageGroup& adjoint, PackedGradient gradient, RecordedGroup record,
                   float* scratch);

/// Name of the instruction set in use and floats of its vectors.
struct InstructionSet {
  const char* name = "";
  int num_lanes = 0;
};
InstructionSet instruction_set();

/// transformed <- the Winograd transform of a packed kernel.
void transform_packed_kernel(const Planes& planes, const float* packed, float* transformed);

/// total[i] += more[i]
void add_arrays(float* total, const float* more, std::size_t size);

/// sums[i] += values[i], as add_contributions() does; any alignment.
bool add_to_exact_sums(const float* values, std::size_t size, ExactSum* sums);

}  // namespace revode::cpu
