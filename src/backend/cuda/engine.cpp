#include "backend/cuda/engine.hpp"

#include <algorithm>
#include <utility>

#include "revode/core/error.hpp"

namespace revode::cuda {

void* DeviceMemory::allocate(std::size_t bytes) {
  void* const memory = device_.allocate(bytes, stream_);
  device_.zero(memory, bytes, stream_);
  return memory;
}

void DeviceMemory::release(void* pointer, std::size_t bytes) noexcept {
  device_.release(pointer, bytes, stream_);
}

Engine::Engine(std::unique_ptr<Device> device)
    : device_(std::move(device)), stream_(device_->make_stream()), space_(*device_, stream_) {}

void Engine::launch(const Kernel& kernel) {
  ++num_calls_;
  device_->launch(kernel, stream_);
}

void Engine::convolve(const Convolution& convolution) {
  ++num_calls_;
  device_->convolve(convolution, stream_);
}

void Engine::convolve(const ConvolutionGradient& gradient) {
  ++num_calls_;
  device_->convolve(gradient, stream_);
}

void Engine::zero(void* to, std::size_t bytes) {
  if (bytes == 0) return;
  ++num_calls_;
  device_->zero(to, bytes, stream_);
}

void Engine::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  ++num_calls_;
  device_->copy(to, from, bytes, stream_);
}

void Engine::copy_in(void* to, const void* host, std::size_t bytes) {
  if (bytes == 0) return;
  ++num_calls_;
  device_->copy_in(to, host, bytes, stream_);
}

void Engine::copy_out(void* host, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  ++num_calls_;
  device_->copy_out(host, from, bytes, stream_);
}

Mark Engine::mark() {
  const Mark last = recorded_.empty() ? done_ : recorded_.back().mark;
  if (num_calls_ == last) return last;
  if (spare_events_.empty()) spare_events_.push_back(device_->make_event());
  const Event event = spare_events_.back();
  spare_events_.pop_back();
  device_->record(event, stream_);
  recorded_.push_back({num_calls_, event});
  return num_calls_;
}

bool Engine::reached(Mark mark) {
  while (done_ < mark && !recorded_.empty() && device_->reached(recorded_.front().event)) finish(1);
  return mark <= done_;
}

void Engine::wait(Mark mark, const std::function<void()>& progress) {
  if (mark <= done_) return;
  const auto found = std::ranges::find_if(
      recorded_, [&](const Recorded& recorded) { return recorded.mark >= mark; });
  REVODE_CHECK(found != recorded_.end(), "there is no mark {} behind {} calls", mark, num_calls_);
  if (progress)
    while (!device_->reached(found->event)) progress();
  device_->synchronize(found->event);
  finish(found - recorded_.begin() + 1);
}

/// The first of the recorded events are done.
void Engine::finish(std::size_t num_recorded) {
  for (; num_recorded > 0; --num_recorded) {
    done_ = recorded_.front().mark;
    spare_events_.push_back(recorded_.front().event);
    recorded_.pop_front();
  }
}

}  // namespace revode::cuda
