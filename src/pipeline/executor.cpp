#include "revode/pipeline/executor.hpp"

namespace revode {

void Executor::begin(const Program& program, SliceWork& work) {
  program_ = &program;
  work_ = &work;
  next_ = 0;
  mailbox_.begin(program, work);
}

const Instruction* Executor::next() const {
  return next_ < program_->instructions.size() ? &program_->instructions[next_] : nullptr;
}

bool Executor::is_ready() {
  mailbox_.progress();
  if (next() == nullptr) return false;
  const auto& [operation, work] = *next();
  switch (operation) {
    case Operation::receive:
      return mailbox_.receive(work);
    case Operation::compute:
      return mailbox_.open(work) != nullptr;
    case Operation::send:
      return true;
  }
  return false;
}

bool Executor::try_next() {
  if (!is_ready()) return false;
  const auto& [operation, work] = *next();
  if (operation == Operation::compute) {
    Mailbox::Slot& slot = *mailbox_.open(work);
    work_->compute(work, slot.state.data(), slot.adjoint.data());
    mailbox_.close(work);
  }
  if (operation == Operation::send) mailbox_.send(work);
  ++next_;
  return true;
}

bool Executor::finished() { return next() == nullptr && mailbox_.idle(); }

}  // namespace revode
