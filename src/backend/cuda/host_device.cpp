#include "backend/cuda/host_device.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "backend/cuda/host_convolution.hpp"
#include "backend/cuda/host_launch.hpp"

namespace revode::cuda {
namespace {

bool is_commutative(Access one, Access other) { return one == other && one != Access::write; }

}  // namespace

/// Of a call that could not throw.
void HostDevice::throw_fault() {
  if (!fault_.empty()) throw std::logic_error(std::exchange(fault_, {}));
}

Stream HostDevice::make_stream() {
  streams_.emplace_back();
  return {static_cast<int>(streams_.size()) - 1};
}

Event HostDevice::make_event() {
  events_.emplace_back();
  return {static_cast<int>(events_.size()) - 1};
}

Event HostDevice::make_timed_event() {
  const Event event = make_event();
  events_[event.index].is_timed = true;
  return event;
}

double HostDevice::seconds_between(Event begin, Event end) {
  for (const Event event : {begin, end}) {
    const EventState& state = events_[event.index];
    if (!state.is_timed || streams_[state.stream].num_done < state.number)
      throw std::logic_error("the time of an event is asked for that has none yet");
  }
  return std::chrono::duration<double>(events_[end.index].reached - events_[begin.index].reached)
      .count();
}

void HostDevice::learn(Clock& clock, const Clock& more) const {
  clock.resize(streams_.size());
  for (std::size_t i = 0; i < more.size(); ++i) clock[i] = std::max(clock[i], more[i]);
}

/// What a stream does not take while it records.
void HostDevice::refuse_recording(Stream stream, const char* call) const {
  if (streams_[stream.index].is_recording)
    throw std::logic_error(fmt::format("{} on stream {}, which records", call, stream.index));
}

void HostDevice::record(Event event, Stream stream) {
  refuse_recording(stream, "record");
  StreamState& state = streams_[stream.index];
  learn(state.clock, host_clock_);
  // Waits that nothing has followed yet are part of what the event stands for.
  const bool is_timed = events_[event.index].is_timed;
  if (is_timed || !state.waits.empty())
    enqueue(stream, "record", Accesses(),
            [this, event] { events_[event.index].reached = std::chrono::steady_clock::now(); });
  events_[event.index] = {.is_recorded = true,
                          .stream = stream.index,
                          .number = state.num_queued,
                          .clock = state.clock,
                          .is_timed = is_timed,
                          .reached = events_[event.index].reached};
}

void HostDevice::wait(Stream stream, Event event) {
  refuse_recording(stream, "wait");
  const EventState& awaited = events_[event.index];
  if (!awaited.is_recorded) return;
  StreamState& state = streams_[stream.index];
  learn(state.clock, awaited.clock);
  state.waits.emplace_back(awaited.stream, awaited.number);
}

bool HostDevice::reached(Event event) {
  throw_fault();
  run_some();
  EventState& asked = events_[event.index];
  if (!asked.is_recorded) return true;
  if (++asked.num_polls >= most_polls_) run_to(asked.stream, asked.number);
  if (streams_[asked.stream].num_done < asked.number) return false;
  learn(host_clock_, asked.clock);
  return true;
}

void HostDevice::synchronize(Event event) {
  throw_fault();
  const EventState awaited = events_[event.index];
  if (!awaited.is_recorded) return;
  run_to(awaited.stream, awaited.number);
  learn(host_clock_, awaited.clock);
  // What the host knows to be done is in front of all that it will ask for.
  std::erase_if(touched_, [&](const Touched& touched) { return is_known_to_be_done(touched); });
}

bool HostDevice::is_known_to_be_done(const Touched& touched) const {
  const auto stream = static_cast<std::size_t>(touched.stream);
  return stream < host_clock_.size() && touched.number <= host_clock_[stream];
}

void HostDevice::zero(void* to, std::size_t bytes, Stream stream) {
  auto* const memory = static_cast<std::byte*>(to);
  enqueue(stream, "zero", Accesses().writes(memory, bytes), [=] { std::memset(memory, 0, bytes); });
}

void HostDevice::copy(void* to, const void* from, std::size_t bytes, Stream stream) {
  enqueue_copy("copy", to, from, bytes, stream);
}

void HostDevice::copy_in(void* to, const void* host, std::size_t bytes, Stream stream) {
  refuse_recording(stream, "copy in");
  enqueue_copy("copy in", to, host, bytes, stream);
}

void HostDevice::copy_out(void* host, const void* from, std::size_t bytes, Stream stream) {
  refuse_recording(stream, "copy out");
  enqueue_copy("copy out", host, from, bytes, stream);
  // Until it is there the host reads poison, but for what a copy in front still takes from it.
  const AccessedBytes there{host, bytes, Access::write};
  for (const StreamState& state : streams_)
    for (const Operation& operation : state.queue)
      for (const AccessedBytes& accessed : operation.accesses)
        if (accessed.access == Access::read && accessed.begin < end_of(there) &&
            host < end_of(accessed))
          return;
  const StreamState& state = streams_[stream.index];
  if (state.num_done < state.num_queued) std::memset(host, poison, bytes);
}

void HostDevice::enqueue_copy(const char* name, void* to, const void* from, std::size_t bytes,
                              Stream stream) {
  auto* const memory = static_cast<std::byte*>(to);
  const auto* const source = static_cast<const std::byte*>(from);
  enqueue(stream, name, Accesses().reads(source, bytes).writes(memory, bytes),
          [=] { std::memcpy(memory, source, bytes); });
}

void HostDevice::launch(const Kernel& kernel, Stream stream) {
  std::visit(
      [&](const auto& body) {
        enqueue(stream, std::string(body.name), body.accesses(), [this, body] {
          run_body(body,
                   order_ == RunOrder::lazy || (order_ == RunOrder::random && random_() % 2 == 0));
        });
      },
      kernel);
}

/// A stream's own, as large as the largest convolution asked for: what a library would work in.
Accesses HostDevice::use_workspace(std::size_t bytes, Stream stream) {
  StreamState& state = streams_[stream.index];
  if (state.workspace_bytes < bytes) {
    if (state.workspace != nullptr) release(state.workspace, state.workspace_bytes, stream);
    state.workspace = static_cast<std::byte*>(allocate(bytes, stream));
    state.workspace_bytes = bytes;
    ++num_moves_;
  }
  return Accesses().writes(state.workspace, state.workspace_bytes);
}

void HostDevice::convolve(const Convolution& c, Stream stream) {
  const Accesses workspace = use_workspace(std::size_t{8} * c.batch * c.in_channels, stream);
  enqueue(stream, "convolve", c.accesses().and_also(workspace), [c] { convolve_plainly(c); });
}

void HostDevice::convolve(const ConvolutionGradient& g, Stream stream) {
  const Accesses workspace = use_workspace(std::size_t{16} * g.batch * g.in_channels, stream);
  enqueue(stream, "convolve_gradient", g.accesses().and_also(workspace),
          [g] { convolve_plainly(g); });
}

void HostDevice::multiply(const Product& p, Stream stream) {
  enqueue(stream, "multiply", p.accesses(), [p] {
    for (int i = 0; i < p.rows; ++i)
      for (int j = 0; j < p.columns; ++j) {
        float sum = 0;
        for (int k = 0; k < p.inner; ++k)
          sum += p.a[p.a_is_transposed ? k * p.rows + i : i * p.inner + k] *
                 p.b[p.b_is_transposed ? j * p.inner + k : k * p.columns + j];
        float& to = p.c[i * p.columns + j];
        to = (p.adds ? to : 0) + p.factor * sum;
      }
  });
}

void HostDevice::begin_recording(Stream stream) {
  refuse_recording(stream, "begin_recording");
  streams_[stream.index].is_recording = true;
}

Graph HostDevice::end_recording(Stream stream) {
  StreamState& state = streams_[stream.index];
  if (!state.is_recording)
    throw std::logic_error(fmt::format("stream {} does not record", stream.index));
  state.is_recording = false;
  graphs_.push_back(std::exchange(state.recorded, {}));
  return {static_cast<int>(graphs_.size()) - 1};
}

void HostDevice::run(Graph graph, Stream stream) {
  refuse_recording(stream, "run");
  const std::vector<Recorded>& work = graphs_[graph.index];
  if (work.empty()) throw std::logic_error("a graph is run that was released, or holds nothing");
  for (const Recorded& each : work) enqueue(stream, each.name, each.accesses, each.run);
}

void HostDevice::release(Graph graph) noexcept { graphs_[graph.index].clear(); }

void HostDevice::enqueue(Stream stream, std::string name, Accesses accesses,
                         std::function<void()> run) {
  throw_fault();
  StreamState& state = streams_[stream.index];
  if (state.is_recording) {
    state.recorded.push_back({std::move(name), std::move(accesses), std::move(run)});
    return;
  }
  learn(state.clock, host_clock_);
  Operation operation{.name = std::move(name),
                      .number = state.num_queued + 1,
                      .accesses = accesses.all(),
                      .run = std::move(run),
                      .behind = state.waits};
  for (const AccessedBytes& accessed : operation.accesses) {
    check(accessed, operation.name);
    note(accessed, stream.index, operation);
  }
  state.waits.clear();
  state.clock[stream.index] = ++state.num_queued;
  state.queue.push_back(std::move(operation));
  run_some();
}

void HostDevice::note(const AccessedBytes& accessed, int stream, const Operation& operation) {
  const auto* const begin = static_cast<const std::byte*>(accessed.begin);
  const std::byte* const end = end_of(accessed);
  const Clock& clock = streams_[stream].clock;
  for (const Touched& other : touched_) {
    if (other.end <= begin || end <= other.begin) continue;
    const bool is_itself = other.stream == stream && other.number == operation.number;
    const bool is_ordered = other.number <= clock[other.stream];
    if (is_itself || is_ordered || is_commutative(other.access, accessed.access)) continue;
    throw std::logic_error(fmt::format("nothing orders {} on stream {} and {} on stream {}",
                                       other.name, other.stream, operation.name, stream));
  }
  // What clashes with an access that this one stands for, clashes with this one.
  std::erase_if(touched_, [&](const Touched& other) {
    const bool is_covered = begin <= other.begin && other.end <= end;
    const bool is_ordered = other.number <= clock[other.stream];
    return is_covered && is_ordered &&
           (accessed.access == Access::write ||
            (accessed.access == other.access && other.stream == stream));
  });
  touched_.push_back({begin, end, accessed.access, stream, operation.number, operation.name});
}

bool HostDevice::can_run(const StreamState& stream) const {
  return !stream.queue.empty() &&
         std::ranges::all_of(stream.queue.front().behind, [&](const auto& awaited) {
           return streams_[awaited.first].num_done >= awaited.second;
         });
}

void HostDevice::run_next(StreamState& stream) {
  Operation operation = std::move(stream.queue.front());
  stream.queue.pop_front();
  ++stream.num_done;
  protect(operation, true);
  operation.run();
  check_guards(operation);
  protect(operation, false);
}

void HostDevice::run_to(int stream, std::int64_t number) {
  StreamState& state = streams_[stream];
  while (state.num_done < number) {
    const auto behind = state.queue.front().behind;
    for (const auto& [other, other_number] : behind) run_to(other, other_number);
    run_next(state);
  }
}

void HostDevice::run_some() {
  if (order_ == RunOrder::lazy) return;
  const bool is_random = order_ == RunOrder::random;
  int budget = is_random ? static_cast<int>(random_() % 4) : -1;  // -1: all that can run
  while (budget != 0) {
    std::vector<StreamState*> ready;
    for (StreamState& stream : streams_)
      if (can_run(stream)) ready.push_back(&stream);
    if (ready.empty()) return;
    run_next(*ready[is_random ? random_() % ready.size() : 0]);
    --budget;
  }
}

}  // namespace revode::cuda
