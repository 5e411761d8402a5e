// Plays a program on one rank, one instruction at a time.
#pragma once

#include <cstddef>

#include "revode/pipeline/mailbox.hpp"
#include "revode/pipeline/program.hpp"
#include "revode/pipeline/slice_work.hpp"

namespace revode {

class Executor {
 public:
  explicit Executor(Mailbox& mailbox) : mailbox_(mailbox) {}

  /// `program` and `work` must live until finished().
  void begin(const Program& program, SliceWork& work);
  /// False where the next instruction must wait for a message or a slot, or none is left.
  bool is_ready();
  /// Plays the next instruction if it is ready.
  bool try_next();
  /// Every instruction is played, every message has arrived.
  bool finished();
  /// The one to be played next; null behind the last.
  const Instruction* next() const;

 private:
  Mailbox& mailbox_;
  const Program* program_ = nullptr;
  SliceWork* work_ = nullptr;
  std::size_t next_ = 0;
};

}  // namespace revode
