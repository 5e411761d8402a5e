#include "revode/pipeline/mailbox.hpp"

#include <algorithm>
#include <stdexcept>

#include <fmt/format.h>

namespace revode {
namespace {

/// A message is named after the slice that it enters.
MessageTag tag_of(MessageKind kind, const Work& entered) {
  return {kind, entered.slice, entered.micro_batch};
}

}  // namespace

bool Mailbox::Slot::settled(Transport& transport, TraceRecorder* trace,
                            std::vector<MessageTag>& damaged) {
  for (Message& message : sending) {
    if (message.transfer || !message.array->can_leave()) continue;
    if (trace != nullptr) message.event.begin = TraceEvent::Clock::now();
    message.transfer = transport.send(message.array->leave(), message.peer, message.tag);
  }
  const auto over = [&](const Message& message) {
    if (!message.transfer || !message.transfer->done()) return false;
    message.array->over(message.transfer->exchanged());
    if (trace != nullptr) {
      TraceEvent event = message.event;
      event.end = TraceEvent::Clock::now();
      trace->add(event);
    }
    return true;
  };
  std::erase_if(sending, over);
  std::erase_if(receiving, [&](const Message& message) {
    if (!over(message)) return false;
    message.array->take();
    checking.emplace_back(message.array, message.tag);
    return true;
  });
  std::erase_if(checking, [&](const auto& received) {
    const auto& [array, tag] = received;
    if (!array->is_checked()) return false;
    if (!array->is_intact()) damaged.push_back(tag);
    return true;
  });
  return sending.empty() && receiving.empty();
}

bool Mailbox::settled(Slot& slot) { return slot.settled(transport_, trace_, damaged_); }

Mailbox::Mailbox(int rank, const Placement& placement, Transport& transport, SlotSize slot_size,
                 CallQueue& queue, MemorySpace* lendable)
    : rank_(rank),
      placement_(placement),
      transport_(transport),
      slot_size_(slot_size),
      queue_(queue),
      lendable_(lendable) {}

void Mailbox::reserve(const Program& program) {
  const auto make = [&](std::size_t size) {
    return MessageArray(size, queue_, transport_.memory(), lendable_);
  };
  for (const SlotPool& plan : program.pools) {
    Pool& pool = pools_[{plan.sweep, plan.sender}];
    while (static_cast<int>(pool.slots.size()) < plan.num_slots) {
      auto slot = std::make_unique<Slot>();
      slot->state = make(slot_size_.state);
      if (plan.sweep == Sweep::backward) slot->adjoint = make(slot_size_.adjoint);
      pool.slots.push_back(std::move(slot));
    }
  }
  transport_.publish();
}

void Mailbox::begin(const Program& program, const SliceWork& sizes) {
  sizes_ = &sizes;
  damaged_.clear();
  for (auto& [key, pool] : pools_) pool.plan = nullptr;
  for (const SlotPool& plan : program.pools) {
    Pool& pool = pools_.at({plan.sweep, plan.sender});
    pool.plan = &plan;
    pool.next_expected = 0;
  }
}

void Mailbox::progress() {
  for (auto& [key, pool] : pools_) {
    for (const auto& slot : pool.slots) settled(*slot);
    if (pool.plan == nullptr) continue;
    while (pool.next_expected < pool.plan->expected.size()) {
      Slot* slot = find_free(pool);
      if (slot == nullptr) break;
      post_receive(pool, *slot);
    }
  }
}

// For what the pool is for: a message, or a sweep that begins, which the backend puts behind the
// calls that it was given. A program may need fewer than there are.
Mailbox::Slot* Mailbox::find_free(Pool& pool) {
  const bool receives = pool.plan->sender != SlotPool::own_rank;
  const auto end = pool.slots.begin() + pool.plan->num_slots;
  const auto found = std::find_if(pool.slots.begin(), end, [&](const auto& slot) {
    return is_free(*slot) && (!receives || (slot->state.can_enter() && slot->adjoint.can_enter()));
  });
  return found == end ? nullptr : found->get();
}

// Neither in use, nor a message under way.
bool Mailbox::is_free(Slot& slot) { return !slot.in_use && settled(slot) && slot.checking.empty(); }

/// Of a message that enters `entered`, from now on; of no meaning where nothing is traced.
TraceEvent Mailbox::event_of(TraceAction action, const Work& entered, int peer,
                             MessageKind kind) const {
  if (trace_ == nullptr) return {};
  return {.action = action,
          .begin = TraceEvent::Clock::now(),
          .end = {},
          .micro_batch = sizes_->number_of(entered.micro_batch),
          .slice = entered.slice,
          .peer = peer,
          .message_kind = static_cast<int>(kind)};
}

void Mailbox::post_receive(Pool& pool, Slot& slot) {
  const Work& work = pool.plan->expected[pool.next_expected++];
  const int from = pool.plan->sender;
  const bool forward = work.sweep == Sweep::forward;
  const std::size_t size = forward ? sizes_->input_size(work.slice, work.micro_batch)
                                   : sizes_->output_size(work.slice, work.micro_batch);
  const auto receive = [&](MessageArray& array, MessageKind kind) {
    const MessageTag tag = tag_of(kind, work);
    slot.receiving.push_back({&array, from, tag, transport_.receive(array.enter(size), from, tag),
                              event_of(TraceAction::receive, work, from, kind)});
  };
  receive(slot.state, forward ? MessageKind::state : MessageKind::rebuilt_state);
  if (!forward) receive(slot.adjoint, MessageKind::adjoint);
  slot.in_use = true;
  pool.receiving.emplace_back(work, &slot);
}

bool Mailbox::receive(const Work& work) {
  if (inputs_.contains(work)) return true;
  const int sender = placement_.rank_of(slice_before(work, placement_));
  auto& receiving = pools_.at({work.sweep, sender}).receiving;
  const auto found = std::ranges::find(receiving, work, &std::pair<Work, Slot*>::first);
  if (found == receiving.end() || !settled(*found->second)) return false;
  inputs_[work] = found->second;
  receiving.erase(found);
  return true;
}

Mailbox::Slot* Mailbox::open(const Work& work) {
  if (slice_before(work, placement_) < 0 && !inputs_.contains(work)) {
    Slot* slot = find_free(pools_.at({work.sweep, SlotPool::own_rank}));
    if (slot == nullptr) return nullptr;
    slot->in_use = true;
    inputs_[work] = slot;
  }
  const auto found = inputs_.find(work);
  if (found == inputs_.end())
    throw std::logic_error(to_string({Operation::compute, work}) + ": its input is not there");
  return found->second;
}

void Mailbox::close(const Work& work) {
  Slot* slot = inputs_.extract(work).mapped();
  const int next = slice_after(work, placement_);
  if (next < 0) {
    slot->in_use = false;
    slot->state.give_up();
    slot->adjoint.give_up();
  } else if (placement_.rank_of(next) == rank_) {
    inputs_[{work.sweep, next, work.micro_batch}] = slot;
  } else {
    outputs_[work] = slot;
  }
}

void Mailbox::send(const Work& work) {
  const auto found = outputs_.extract(work);
  if (found.empty())
    throw std::logic_error(to_string({Operation::send, work}) + ": it was not computed");
  Slot& slot = *found.mapped();
  const Work next{work.sweep, slice_after(work, placement_), work.micro_batch};
  const int to = placement_.rank_of(next.slice);
  const bool forward = work.sweep == Sweep::forward;
  const std::size_t size = forward ? sizes_->output_size(work.slice, work.micro_batch)
                                   : sizes_->input_size(work.slice, work.micro_batch);
  const auto send = [&](MessageArray& array, MessageKind kind) {
    array.seal(size);
    slot.sending.push_back(
        {&array, to, tag_of(kind, next), nullptr, event_of(TraceAction::send, next, to, kind)});
  };
  send(slot.state, forward ? MessageKind::state : MessageKind::rebuilt_state);
  if (!forward) send(slot.adjoint, MessageKind::adjoint);
  slot.in_use = false;
  settled(slot);  // so that it leaves at once where it can
}

bool Mailbox::idle() {
  for (auto& [key, pool] : pools_)
    for (const auto& slot : pool.slots)
      if (!is_free(*slot)) return false;
  return true;
}

std::vector<std::string> Mailbox::leftovers() const {
  std::vector<std::string> texts;
  for (const auto& [key, pool] : pools_)
    for (const auto& [work, slot] : pool.receiving)
      texts.push_back(to_string({Operation::receive, work}) + " is under way");
  for (const auto& [work, slot] : inputs_)
    texts.push_back("input waits for " + to_string({Operation::compute, work}));
  for (const auto& [work, slot] : outputs_)
    texts.push_back("output waits for " + to_string({Operation::send, work}));
  return texts;
}

std::vector<std::size_t> Mailbox::exhausted_pools() {
  std::vector<std::size_t> exhausted;
  std::size_t index = 0;
  for (auto& [key, pool] : pools_) {
    if (pool.plan == nullptr) continue;
    const bool wants_more =
        pool.plan->sender == SlotPool::own_rank || pool.next_expected < pool.plan->expected.size();
    if (wants_more && find_free(pool) == nullptr) exhausted.push_back(index);
    ++index;
  }
  return exhausted;
}

std::vector<MessageTag> Mailbox::damaged_messages() const {
  std::vector<MessageTag> tags = damaged_;
  for (MessageTag& tag : tags) tag.micro_batch = sizes_->number_of(tag.micro_batch);
  return tags;
}

std::size_t Mailbox::bytes() const {
  std::size_t bytes = 0;
  for (const auto& [key, pool] : pools_)
    for (const auto& slot : pool.slots) bytes += slot->state.bytes() + slot->adjoint.bytes();
  return bytes;
}

}  // namespace revode
