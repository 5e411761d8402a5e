// A small network with random weights, and what passed it in one sweep.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "revode/analysis/depth_record.hpp"
#include "revode/analysis/force_derivatives.hpp"

#include "support/slice_chain.hpp"
#include "support/test_backends.hpp"

namespace revode {

struct RecordedNetwork {
  static constexpr int num_images = 2;

  static Architecture make(const std::string& arch, int grid_bits) {
    ArchitectureOptions options;
    options.arch = arch;
    options.blocks = {3, 2};
    options.widths = {4, 6};
    options.grid_bits = grid_bits;
    options.image_height = options.image_width = 6;
    options.num_classes = 4;
    return Architecture(options);
  }

  RecordedNetwork(const std::string& arch, const std::string& backend_name, int grid_bits = 16)
      : architecture(make(arch, grid_bits)),
        backend(make_test_backend(backend_name, 1)),
        chain(architecture, *backend),
        record(num_images, *backend) {
    chain.part().slice().set_probe(&record);
    chain.train(TestBatch<float>(architecture, {num_images}));
  }

  ForceDerivatives forces(int stage) {
    Share<float>& share = chain.part();
    const ParameterMap::StageEntries& arrays = share.map().stages[stage];
    const float* values = share.values().data();
    return {architecture, stage, values + arrays.kernel.offset, values + arrays.bias.offset,
            *backend};
  }

  Architecture architecture;
  std::unique_ptr<Backend<float>> backend;
  SliceChain<float> chain;
  DepthRecord record;
};

}  // namespace revode
