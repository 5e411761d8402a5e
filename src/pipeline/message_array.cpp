#include "revode/pipeline/message_array.hpp"

#include "revode/core/digest.hpp"

namespace revode {
namespace {

std::size_t with_digest(std::size_t size) { return size > 0 ? size + digest_floats : 0; }

}  // namespace

MessageArray::MessageArray(std::size_t size, CallQueue& queue, MemorySpace& host_memory,
                           MemorySpace* lendable)
    : queue_(&queue) {
  const bool is_shared = queue.space().host_accessible();
  const bool is_to_be_lent = !is_shared && lendable != nullptr && size > 0;
  MemorySpace& apart = is_to_be_lent ? *lendable : queue.space();
  values_ =
      StagedBuffer<float>(with_digest(size), Memory::state, queue, is_shared ? host_memory : apart);
  if (!is_to_be_lent) return;
  digests_ = StagedBuffer<std::uint64_t>(2, Memory::workspace, queue);
  give_up();
}

void MessageArray::seal(std::size_t size) {
  size_ = size;
  if (!is_lent()) {
    values_.fetch(size);
    return;
  }
  queue_->digest({std::as_bytes(std::span(data(), size_))}, digests_.data());
  queue_->copy(data() + size_, digests_.data(), sizeof(std::uint64_t));
  tell_guarded("message", values_, size_ + digest_floats);
  last_call_ = queue_->mark();
}

bool MessageArray::can_leave() {
  return is_lent() ? queue_->reached(last_call_) : values_.settled();
}

std::span<float> MessageArray::leave() {
  if (is_lent()) return lend();
  const std::span<float> message = floats();
  if (message.empty()) return message;
  revode::seal(message);
  tell_guarded("message", message);
  return message;
}

void MessageArray::give_up() {
  if (is_lent()) last_call_ = queue_->mark();
}

bool MessageArray::can_enter() {
  return is_lent() ? queue_->reached(last_call_) : values_.settled();
}

std::span<float> MessageArray::enter(std::size_t size) {
  size_ = size;
  return is_lent() ? lend() : floats();
}

void MessageArray::over(void* exchanged) {
  loan_.reset();
  if (exchanged != nullptr) values_.exchange(static_cast<float*>(exchanged));
}

void MessageArray::take() {
  if (is_lent()) {
    queue_->digest({std::as_bytes(std::span(data(), size_))}, digests_.data());
    queue_->copy(digests_.data() + 1, data() + size_, sizeof(std::uint64_t));
    digests_.fetch();
    return;
  }
  const std::span<float> message = floats();
  is_intact_ = message.empty() || is_sealed(message);
  values_.store(size_);
}

bool MessageArray::is_checked() { return digests_.settled(); }

bool MessageArray::is_intact() {
  if (!is_lent()) return is_intact_;
  const std::span<std::uint64_t> digests = digests_.host();
  return digests[0] == digests[1];
}

/// On the host.
std::span<float> MessageArray::floats() {
  return values_.host().first(values_.size() > 0 ? with_digest(size_) : 0);
}

std::span<float> MessageArray::lend() {
  const std::span<float> message(data(), size_ + digest_floats);
  loan_ = std::make_unique<Loan>(*queue_, message.data(), message.size_bytes());
  return message;
}

}  // namespace revode
