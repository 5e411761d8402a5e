#include "backend/cuda/engine.hpp"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "revode/core/error.hpp"

namespace revode::cuda {
namespace {

Accesses bytes_at(const void* pointer, std::size_t bytes) {
  return Accesses().reads(static_cast<const std::byte*>(pointer), bytes);
}

}  // namespace

Engine::Engine(std::unique_ptr<Device> device)
    : device_(std::move(device)),
      streams_{device_->make_stream(), device_->make_stream(), device_->make_stream()},
      replayer_(*device_, streams_[kernels]),
      space_(*this),
      staging_(*this),
      lendable_(*this) {
  for (Event& event : turn_events_) event = device_->make_event();
}

void* Engine::allocate(std::size_t bytes) {
  return add(device_->allocate(bytes, streams_[kernels]), bytes);
}

/// Memory that was just made becomes an array, of zeros.
void* Engine::add(void* memory, std::size_t bytes) {
  ++num_calls_;
  device_->zero(memory, bytes, streams_[kernels]);
  Allocation& allocation = allocations_[static_cast<const std::byte*>(memory)];
  allocation.bytes = bytes;
  allocation.last_call[kernels] = last_call_[kernels] = num_calls_;
  return memory;
}

// A device that has failed takes nothing back, and says so to the next call.
void Engine::release(void* pointer, std::size_t bytes) noexcept {
  try {
    begin_call(kernels, bytes_at(pointer, bytes));
    flush();
    device_->release(pointer, bytes, streams_[kernels]);
  } catch (const std::runtime_error&) {
  }
  allocations_.erase(static_cast<const std::byte*>(pointer));
}

// Arrays for messages live long: the host may wait when they go.
void Engine::release_lendable(void* pointer) noexcept {
  try {
    wait(mark());
  } catch (const std::runtime_error&) {
  }
  device_->release_lendable(pointer);
  allocations_.erase(static_cast<const std::byte*>(pointer));
}

/// Null for memory of the host.
Engine::Allocation* Engine::allocation_of(const void* pointer) {
  const auto* const memory = static_cast<const std::byte*>(pointer);
  const auto behind = allocations_.upper_bound(memory);
  if (behind == allocations_.begin()) return nullptr;
  auto& [first, allocation] = *std::prev(behind);
  return memory < first + allocation.bytes ? &allocation : nullptr;
}

/// A call of `lane` that touches these bytes: behind all calls of other lanes on the same arrays.
void Engine::begin_call(Lane lane, const Accesses& accesses) {
  ++num_calls_;
  for (const AccessedBytes& accessed : accesses.all()) {
    Allocation* const allocation = allocation_of(accessed.begin);
    if (allocation == nullptr) continue;
    for (int other = 0; other < num_lanes; ++other)
      if (other != lane) wait_for(lane, static_cast<Lane>(other), allocation->last_call[other]);
    allocation->last_call[lane] = num_calls_;
  }
  last_call_[lane] = num_calls_;
}

/// `lane` waits for a call of another one: by the first event behind it that there is, else by one
/// behind all that the other lane has been given.
void Engine::wait_for(Lane lane, Lane other, Mark call) {
  if (call <= done_ || call <= awaited_[lane][other]) return;
  if (other == kernels) flush();
  const auto behind = std::ranges::find_if(recorded_, [&](const Recorded& recorded) {
    return recorded.mark >= call && recorded.events[other];
  });
  if (behind != recorded_.end()) {
    device_->wait(streams_[lane], *behind->events[other]);
    awaited_[lane][other] = behind->mark;
    return;
  }
  device_->record(turn_events_[other], streams_[other]);
  device_->wait(streams_[lane], turn_events_[other]);
  awaited_[lane][other] = last_call_[other];
}

/// For the stream of the kernels. What it waits for, the stream waits for in front of all that is
/// pending.
void Engine::queue(Task task) {
  // Few enough that the device does not idle while they gather.
  constexpr std::size_t most_pending = 64;
  begin_call(kernels, accesses_of(task));
  pending_.push_back(std::move(task));
  if (pending_.size() == most_pending) flush();
}

void Engine::flush() {
  if (!pending_.empty()) replayer_.run(std::exchange(pending_, {}));
}

void Engine::launch(const Kernel& kernel) { queue(kernel); }
void Engine::convolve(const Convolution& convolution) { queue(convolution); }
void Engine::convolve(const ConvolutionGradient& gradient) { queue(gradient); }
void Engine::multiply(const Product& product) { queue(product); }

void Engine::zero(void* to, std::size_t bytes) {
  if (bytes > 0) queue(Fill{to, bytes});
}

void Engine::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) queue(Copy{to, from, bytes});
}

WorkCounts Engine::counts() const {
  WorkCounts counts = replayer_.counts();
  counts.num_waits = num_waits_;
  counts.num_fetches = num_fetches_;
  return counts;
}

void Engine::copy_in(void* to, const void* host, std::size_t bytes) {
  if (bytes == 0) return;
  begin_call(copies_in, bytes_at(to, bytes));
  stamped_copy(copies_in, [&] { device_->copy_in(to, host, bytes, streams_[copies_in]); });
}

void Engine::copy_out(void* host, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  ++num_fetches_;
  begin_call(copies_out, bytes_at(from, bytes));
  stamped_copy(copies_out, [&] { device_->copy_out(host, from, bytes, streams_[copies_out]); });
}

Mark Engine::mark() {
  const Mark last = recorded_.empty() ? done_ : recorded_.back().mark;
  if (num_calls_ == last) return last;
  flush();
  Recorded recorded{num_calls_, {}};
  for (int lane = 0; lane < num_lanes; ++lane) {
    if (last_call_[lane] <= last) continue;
    if (spare_events_.empty()) spare_events_.push_back(device_->make_event());
    recorded.events[lane] = spare_events_.back();
    spare_events_.pop_back();
    device_->record(*recorded.events[lane], streams_[lane]);
  }
  recorded_.push_back(std::move(recorded));
  return num_calls_;
}

bool Engine::reached(const Recorded& recorded) {
  return std::ranges::all_of(recorded.events, [&](const std::optional<Event>& event) {
    return !event || device_->reached(*event);
  });
}

bool Engine::reached(Mark mark) {
  while (done_ < mark && !recorded_.empty() && reached(recorded_.front())) finish_first();
  return mark <= done_;
}

// Progress may ask for marks itself, and so finish some.
void Engine::wait(Mark mark) {
  if (mark > done_) ++num_waits_;
  while (!reached(mark)) {
    REVODE_CHECK(!recorded_.empty(), "there is no mark {} behind {} calls", mark, num_calls_);
    if (progress_) {
      progress_();
      continue;
    }
    for (const std::optional<Event>& event : recorded_.front().events)
      if (event) device_->synchronize(*event);
    finish_first();
  }
}

Event Engine::timed_event_on(Lane lane) {
  if (lane == kernels) flush();
  if (spare_timed_events_.empty()) spare_timed_events_.push_back(device_->make_timed_event());
  const Event event = spare_timed_events_.back();
  spare_timed_events_.pop_back();
  device_->record(event, streams_[lane]);
  return event;
}

// A stamp is the index of its event.
Stamp Engine::stamp() { return timed_event_on(kernels).index; }

template <typename Copy>
void Engine::stamped_copy(Lane lane, Copy&& copy) {
  if (!stamps_copies_) return copy();
  const Event begin = timed_event_on(lane);
  copy();
  copies_.push_back({lane == copies_out, begin.index, timed_event_on(lane).index});
}

double Engine::seconds_between(Stamp begin, Stamp end) {
  const Event first{static_cast<int>(begin)}, last{static_cast<int>(end)};
  device_->synchronize(last);
  spare_timed_events_.insert(spare_timed_events_.end(), {first, last});
  return device_->seconds_between(first, last);
}

// The clocks are held against each other now, when the device has nothing to do, and not once for
// all: they drift, and the time between two events of CUDA has 24 bits.
std::vector<WorkClock::HostTime> Engine::host_times(std::span<const Stamp> stamps) {
  using Clock = std::chrono::steady_clock;
  if (stamps.empty()) return {};
  wait(mark());
  // An event lies between what the host's clock says before it is asked for and when it is seen.
  constexpr int num_rounds = 3;
  Clock::duration shortest = Clock::duration::max();
  Clock::time_point now_of_host;
  Event now;
  for (int round = 0; round < num_rounds; ++round) {
    const Clock::time_point before = Clock::now();
    const Event event = timed_event_on(kernels);
    ++num_waits_;
    device_->synchronize(event);
    const Clock::duration length = Clock::now() - before;
    const bool is_better = length < shortest;
    if (round > 0) spare_timed_events_.push_back(is_better ? now : event);
    if (!is_better) continue;
    shortest = length;
    now = event;
    now_of_host = before + length / 2;
  }
  std::vector<WorkClock::HostTime> times;
  for (const Stamp stamp : stamps) {
    const Event event{static_cast<int>(stamp)};
    device_->synchronize(event);
    const std::chrono::duration<double> since(device_->seconds_between(event, now));
    times.push_back(now_of_host - std::chrono::duration_cast<Clock::duration>(since));
    spare_timed_events_.push_back(event);
  }
  spare_timed_events_.push_back(now);
  return times;
}

/// The first of the recorded events are done.
void Engine::finish_first() {
  done_ = recorded_.front().mark;
  for (const std::optional<Event>& event : recorded_.front().events)
    if (event) spare_events_.push_back(*event);
  recorded_.pop_front();
}

}  // namespace revode::cuda
