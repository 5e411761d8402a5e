// What a pipeline has done on the slices of a rank: the network's sweeps in the program, counted
// seconds in the simulation.
#pragma once

#include <cstddef>

#include "revode/pipeline/schedule.hpp"

namespace revode {

class SliceWork {
 public:
  virtual ~SliceWork() = default;

  /// Elements of the state that enters and leaves a slice in the forward sweep, for a micro-batch.
  virtual std::size_t input_size(int slice, int micro_batch) const = 0;
  virtual std::size_t output_size(int slice, int micro_batch) const = 0;

  /// The number that a micro-batch has in the mini-batch, of which other replicas take some.
  virtual int number_of(int micro_batch) const { return micro_batch; }

  /// Takes a micro-batch through a slice, in place: `state` is what entered and becomes what
  /// leaves; going back, `adjoint` too. Neither is of any meaning where a sweep begins or ends.
  virtual void compute(const Work& work, float* state, float* adjoint) = 0;
};

}  // namespace revode
