// A coupling's force in Winograd's transformed domain, forward and back. What one chunk of tiles
// yields is used while it is in the cache: the transforms of an input serve its convolution and its
// weight gradient. Compiled once an instruction set.
#if defined(REVODE_CPU_WINOGRAD_COUPLING_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef REVODE_CPU_WINOGRAD_COUPLING_INL_HPP_
#undef REVODE_CPU_WINOGRAD_COUPLING_INL_HPP_
#else
#define REVODE_CPU_WINOGRAD_COUPLING_INL_HPP_
#endif

#include "backend/cpu/coupling-inl.hpp"
#include "backend/cpu/winograd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace revode::cpu::HWY_NAMESPACE {

/// See DirectForm (direct_coupling-inl.hpp) for what the calls do.
class WinogradForm {
 public:
  WinogradForm(const SegmentPlan& plan, int num_images, float* workspace)
      : plan_(plan),
        winograd_(plan.planes),
        num_images_(num_images),
        inputs_(workspace),
        products_(workspace + winograd_.tiles_size()),
        sums_(multiplies_in_place(winograd_) ? inputs_ : products_),
        gradient_(workspace + 2 * winograd_.tiles_size()) {}

  template <Force force, typename Epilogue>
  void evaluate_force(int j, const Line& line, Epilogue& epilogue) const {
    if constexpr (force == Force::symmetric) {
      // z = sigma(K x + b);  F = K^T z
      StoreHidden store_hidden{line.bias, line.hidden};
      convolve(line.other, plan_.kernel_of(j), store_hidden);
      convolve(line.hidden, plan_.adjoint_kernel_of(j), epilogue);
    } else {
      // F = sigma((K - K^T) x + b)
      convolve(line.other, plan_.kernel_of(j), epilogue);
    }
  }

  /// g does not depend on F: K x and K g go together, as do K^T z and K^T gz.
  template <Force force, typename Invert>
  void retreat(int j, const Line& line, Invert* invert, const Linearisation& at) const {
    if constexpr (force == Force::symmetric) {
      retreat_hidden(j, line, invert != nullptr, at);
      AddTo add{at.adjoint_other};
      if (invert != nullptr) {
        convolve_two(line.hidden, at.grad_hidden, plan_.adjoint_kernel_of(j), *invert, add);
      } else {
        convolve(at.grad_hidden, plan_.adjoint_kernel_of(j), add);
      }
      add_bias_gradient(plan_.planes, num_images_, at.grad_hidden, at.grad_bias);
    } else {
      if (invert != nullptr) evaluate_force<force>(j, line, *invert);
      mask(num_images_ * plan_.planes.image_size(), line.hidden, at.g);
      retreat_masked(j, line, at);
      add_bias_gradient(plan_.planes, num_images_, at.g, at.grad_bias);
    }
  }

 private:
  /// Tiles of a chunk whose transforms are needed once only; more fit into the cache where the sums
  /// take their place. (No tile's bits depend on its chunk.)
  int passing_tiles() const {
    return sums_ == inputs_ ? Winograd::max_chunk_tiles : winograd_.chunk_tiles();
  }

  /// epilogue <- kernel x
  template <typename Epilogue>
  void convolve(const float* x, const float* kernel, Epilogue& epilogue) const {
    for_each_chunk(winograd_, num_images_, passing_tiles(), [&](const TileChunk& chunk) {
      transform_chunk_inputs(winograd_, chunk, 0, x, inputs_);
      multiply(winograd_, 0, chunk.count, inputs_, kernel, sums_);
      finish_chunk(winograd_, chunk, 0, sums_, epilogue);
    });
  }

  /// epilogue0 <- kernel x0;  epilogue1 <- kernel x1
  template <typename Epilogue0, typename Epilogue1>
  void convolve_two(const float* x0, const float* x1, const float* kernel, Epilogue0& epilogue0,
                    Epilogue1& epilogue1) const {
    for_each_chunk(winograd_, num_images_, passing_tiles() / 2, [&](const TileChunk& chunk) {
      const int count = chunk.count;
      transform_chunk_inputs(winograd_, chunk, 0, x0, inputs_);
      transform_chunk_inputs(winograd_, chunk, count, x1, inputs_);
      multiply(winograd_, 0, 2 * count, inputs_, kernel, sums_);
      finish_chunk(winograd_, chunk, 0, sums_, epilogue0);
      finish_chunk(winograd_, chunk, count, sums_, epilogue1);
    });
  }

  /// z = sigma(K x + b) where `evaluate` (or it is there already);  gz = sigma' (K g);
  /// dK from (gz, x) and (z, g), tile by tile.
  void retreat_hidden(int j, const Line& line, bool evaluate, const Linearisation& at) const {
    StoreHidden store_hidden{line.bias, line.hidden};
    StoreMasked store_masked{line.hidden, at.grad_hidden};
    Start start = Start::zero;
    for_each_chunk(
        winograd_, num_images_, winograd_.chunk_tiles() / 2, [&](const TileChunk& chunk) {
          const int count = chunk.count;
          transform_chunk_inputs(winograd_, chunk, 0, line.other, inputs_);
          transform_chunk_inputs(winograd_, chunk, count, at.g, inputs_);
          multiply(winograd_, evaluate ? 0 : count, 2 * count, inputs_, plan_.kernel_of(j),
                   products_);
          if (evaluate) finish_chunk(winograd_, chunk, 0, products_, store_hidden);
          finish_chunk(winograd_, chunk, count, products_, store_masked);
          // the products are used up: their place is the gradients'
          transform_chunk_gradients(winograd_, chunk, 0, at.grad_hidden, products_);
          transform_chunk_gradients(winograd_, chunk, count, line.hidden, products_);
          add_transformed_products(winograd_, start, 2 * count, inputs_, products_, gradient_);
          start = Start::stored;
        });
    add_transformed_gradient(winograd_, 1, gradient_, at.grad_kernel);
  }

  /// adjoint_other -= A g;  dA from (x, g), g being masked: that is the gradient's transpose, and
  /// as only dA - dA^T counts, its negative is as good.
  void retreat_masked(int j, const Line& line, const Linearisation& at) const {
    SubtractFrom subtract{at.adjoint_other};
    Start start = Start::zero;
    for_each_chunk(winograd_, num_images_, winograd_.chunk_tiles(), [&](const TileChunk& chunk) {
      transform_chunk_inputs(winograd_, chunk, 0, at.g, inputs_);
      multiply(winograd_, 0, chunk.count, inputs_, plan_.kernel_of(j), products_);
      finish_chunk(winograd_, chunk, 0, products_, subtract);
      transform_chunk_gradients(winograd_, chunk, 0, line.other, products_);
      add_transformed_products(winograd_, start, chunk.count, inputs_, products_, gradient_);
      start = Start::stored;
    });
    add_transformed_gradient(winograd_, -1, gradient_, at.grad_kernel);
  }

  const SegmentPlan& plan_;
  Winograd winograd_;
  int num_images_;
  float* inputs_;
  float* products_;
  float* sums_;  ///< products that no transform of an input need survive
  float* gradient_;
};

}  // namespace revode::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once an instruction set
