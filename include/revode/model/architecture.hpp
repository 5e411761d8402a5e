// From options to shapes: depth arithmetic, widths, stages, parameter counts, costs. Pure
// arithmetic: no data, no ranks.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "revode/backend/backend.hpp"

namespace revode {

/// Of any network: each halves the image, and an int can't be halved more often.
inline constexpr std::size_t max_stages = 31;

/// The differential equation in depth whose time steps the blocks are.
enum class Equation {
  pair,          ///< dP/dt = F1(Q), dQ/dt = -F2(P)
  second_order,  ///< d2Q/dt2 = -F(Q)
  first_order,   ///< dQ/dt = F(Q)
};

/// What sets one architecture apart, in terms of couplings (see backend.hpp). One file and one line
/// in the registry each.
struct ArchitectureRule {
  std::string_view name;
  std::string_view block;  ///< the lines of one, as text for reports
  Equation equation = Equation::pair;
  /// Steps are stable at frozen weights and activation patterns where the step size times each
  /// (imaginary) eigenvalue of the Jacobian of the equation's right-hand side is at most this.
  double stability_bound = 0;
  Force force = Force::symmetric;
  int couplings_per_block = 1;
  int convolutions_per_block = 2;  ///< what a block counts for in `depth`
  /// True: P and Q are the halves of the feature map. False: the feature map is Q, P starts at
  /// zero.
  bool halves = false;
  double gamma = 1;
  double beta = 0;
  /// s for targets in slot 0 and 1, from the step size h.
  std::array<double, 2> (*scale)(double step_size) = nullptr;
};

/// Names that --arch takes, in the order of --help.
std::vector<std::string> architecture_names();
/// Throws an input error for an unknown name.
const ArchitectureRule& architecture_rule(std::string_view name);

/// What the user said; what is empty follows from the rest.
struct ArchitectureOptions {
  std::string arch = "hamiltonian";
  std::optional<int> depth;
  std::vector<int> blocks;
  std::vector<int> widths;
  double step_size = 0.1;
  int grid_bits = 16;
  Precision precision = Precision::fp32;
  int image_channels = 3;
  int image_height = 32;
  int image_width = 32;
  int num_classes = 10;
};

/// Depth of the network that the options describe, as far as arch, depth, blocks and the number of
/// widths tell. Throws the same input errors as Architecture.
int depth_of(const ArchitectureOptions& options);

/// The blocks at one resolution and width.
struct Stage {
  int blocks = 0;
  int couplings = 0;
  int first_coupling = 0;  ///< global index of its first
  int width = 0;           ///< channels of the whole state
  int channels = 0;        ///< channels of one slot
  int height = 0;
  int width_pixels = 0;

  std::size_t plane_size() const { return static_cast<std::size_t>(height) * width_pixels; }
};

/// A consistent network: every shape follows from it.
class Architecture {
 public:
  /// Throws input errors that name the option, what was found and what would work.
  explicit Architecture(const ArchitectureOptions& options);

  const ArchitectureRule& rule() const { return *rule_; }
  int depth() const;
  std::vector<int> blocks() const;
  std::vector<int> widths() const;
  double step_size() const { return step_size_; }
  int grid_bits() const { return grid_bits_; }
  Precision precision() const { return precision_; }
  int num_classes() const { return num_classes_; }
  int image_channels() const { return image_channels_; }
  int image_height() const { return stages_.front().height; }
  int image_width() const { return stages_.front().width_pixels; }

  const std::vector<Stage>& stages() const { return stages_; }
  int num_blocks() const;
  int num_couplings() const { return num_blocks() * rule_->couplings_per_block; }
  /// Layers in order: 0 is the opening, 1 + j coupling j of the network, and the last the closing.
  int closing_layer() const { return num_couplings() + 1; }
  /// In words, e.g. "coupling 3 of stage 2".
  std::string layer_name(int layer) const;
  /// Stage of a global block index.
  int stage_of_block(int block) const;
  std::int64_t num_parameters() const;

  /// Couplings [first, first + count) of a stage (indices within it) as a segment.
  SegmentShape segment(int stage, int first, int count) const;
  OpeningShape opening(int batch) const;
  /// From stage to stage + 1.
  TransitionShape transition(int stage, int batch) const;
  ClosingShape closing(int batch) const;
  FeatureMap opening_features() const;
  FeatureMap closing_features() const;

  /// Multiply-adds of one image's training step (forward and back, reversible).
  std::int64_t block_cost(int block) const;
  std::int64_t opening_cost() const;
  std::int64_t closing_cost() const;

 private:
  const ArchitectureRule* rule_;
  double step_size_;
  int grid_bits_;
  Precision precision_;
  int num_classes_;
  int image_channels_;
  std::vector<Stage> stages_;
};

/// A contiguous run of blocks, over all stages: what one rank owns.
struct BlockRange {
  int first = 0;
  int last = 0;
  int size() const { return last - first; }
  bool operator==(const BlockRange&) const = default;
};

}  // namespace revode
