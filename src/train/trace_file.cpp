#include "revode/train/trace_file.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "revode/core/console.hpp"
#include "revode/core/error.hpp"
#include "revode/files/json_text.hpp"
#include "revode/run/write_permission.hpp"

namespace revode {
namespace {

constexpr int default_trace_steps = 10;

/// An event as ranks hand it to rank 0: times in nanoseconds by the clock of rank 0, the peer as a
/// rank of the run.
struct Record {
  std::int64_t step, action, begin, end, micro_batch, slice, peer, message_kind, on_device;
};
constexpr std::size_t fields_of_record = 9;

std::int64_t nanoseconds(TraceEvent::Clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

/// The fields of all events, one after the other.
std::vector<std::int64_t> pack(const TraceRecorder& recorder, const Grid& grid,
                               const ClockOffset& first, const ClockOffset& last) {
  const int first_place = grid.replica() * grid.time().size();
  const auto time = [&](TraceEvent::Clock::time_point point) {
    return by_clock_of_root(nanoseconds(point), first, last);
  };
  std::vector<std::int64_t> packed;
  for (const TraceRecorder::Step& step : recorder.steps()) {
    for (const TraceEvent& event : step.events) {
      const int peer =
          event.peer == TraceEvent::none ? event.peer : grid.order()[first_place + event.peer];
      packed.insert(packed.end(), {step.number, static_cast<std::int64_t>(event.action),
                                   time(event.begin), time(event.end), event.micro_batch,
                                   event.slice, peer, event.message_kind, event.on_device ? 1 : 0});
    }
  }
  return packed;
}

std::vector<Record> unpack(const std::vector<std::int64_t>& packed) {
  std::vector<Record> records;
  for (std::size_t i = 0; i < packed.size(); i += fields_of_record)
    records.push_back({packed[i], packed[i + 1], packed[i + 2], packed[i + 3], packed[i + 4],
                       packed[i + 5], packed[i + 6], packed[i + 7], packed[i + 8]});
  return records;
}

TraceAction action_of(const Record& record) { return static_cast<TraceAction>(record.action); }

/// Every message of which both ranks tell.
std::vector<TimedMessage> messages_of(const std::vector<std::vector<Record>>& ranks) {
  using Key = std::tuple<int, int, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;
  const auto key_of = [](int from, int to, const Record& record) {
    return Key(from, to, record.step, record.message_kind, record.slice, record.micro_batch);
  };
  const int num_ranks = static_cast<int>(ranks.size());
  std::map<Key, std::int64_t> sent;
  for (int rank = 0; rank < num_ranks; ++rank)
    for (const Record& record : ranks[rank])
      if (action_of(record) == TraceAction::send)
        sent[key_of(rank, static_cast<int>(record.peer), record)] = record.begin;
  std::vector<TimedMessage> messages;
  for (int rank = 0; rank < num_ranks; ++rank) {
    for (const Record& record : ranks[rank]) {
      if (action_of(record) != TraceAction::receive) continue;
      const int from = static_cast<int>(record.peer);
      const auto found = sent.find(key_of(from, rank, record));
      if (found != sent.end()) messages.push_back({from, rank, found->second, record.end});
    }
  }
  return messages;
}

void bring_into_order(std::vector<std::vector<Record>>& ranks) {
  const std::vector<std::int64_t> delays =
      delays_into_order(static_cast<int>(ranks.size()), messages_of(ranks));
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    for (Record& record : ranks[rank]) {
      record.begin += delays[rank];
      record.end += delays[rank];
    }
  }
}

std::string_view message_name(std::int64_t kind) {
  switch (static_cast<MessageKind>(kind)) {
    case MessageKind::state:
      return "state";
    case MessageKind::rebuilt_state:
      return "rebuilt state";
    default:
      return "adjoint";
  }
}

std::string arguments_of(const Record& record) {
  std::string text = fmt::format("\"step\":{}", record.step);
  const auto add = [&](std::string_view name, std::int64_t value) {
    if (value != TraceEvent::none) text += fmt::format(",\"{}\":{}", name, value);
  };
  add("micro_batch", record.micro_batch);
  add("slice", record.slice);
  add("peer", record.peer);
  if (is_message(action_of(record)))
    text += fmt::format(",\"message\":\"{}\"", message_name(record.message_kind));
  return text;
}

/// Microseconds, to the nanosecond. time >= 0.
std::string microseconds(std::int64_t time) {
  return fmt::format("{}.{:03}", time / 1000, time % 1000);
}

/// What the events of a thread have in common.
enum class Lane { work, messages, files, device, copies_in, copies_out };

Lane lane_of(const Record& record) {
  const TraceAction action = action_of(record);
  if (is_message(action)) return Lane::messages;
  if (action == TraceAction::copy_in) return Lane::copies_in;
  if (action == TraceAction::copy_out) return Lane::copies_out;
  if (record.on_device != 0) return Lane::device;
  return action == TraceAction::write ? Lane::files : Lane::work;
}

constexpr std::string_view category_of(Lane lane) {
  constexpr std::string_view names[] = {"work", "message", "file", "device", "copy", "copy"};
  return names[static_cast<int>(lane)];
}

constexpr std::string_view name_of(Lane lane) {
  constexpr std::string_view names[] = {"work",   "messages",         "files",
                                        "device", "copies to device", "copies to host"};
  return names[static_cast<int>(lane)];
}

/// The threads of a rank, each for events of a lane that do not overlap: the format has no other
/// place for events of one thread that do.
class Threads {
 public:
  /// Of events in the order of their beginnings.
  int thread_of(Lane lane, const Record& event) {
    // What the main thread does is in scopes, one within the other perhaps.
    if (lane == Lane::work) return 0;
    const auto free = std::ranges::find_if(threads_, [&](const Thread& thread) {
      return thread.lane == lane && thread.end <= event.begin;
    });
    const auto index = free - threads_.begin();
    if (free == threads_.end()) threads_.push_back({lane, 0});
    threads_[index].end = event.end;
    return static_cast<int>(index);
  }
  int size() const { return static_cast<int>(threads_.size()); }
  Lane lane(int thread) const { return threads_[thread].lane; }

 private:
  struct Thread {
    Lane lane;
    std::int64_t end;
  };
  std::vector<Thread> threads_{{Lane::work, 0}};
};

std::string metadata(std::string_view kind, int rank, int thread, const std::string& name) {
  return fmt::format(R"({{"name":"{}","ph":"M","pid":{},"tid":{},"args":{{"name":{}}}}})", kind,
                     rank, thread, to_text(nlohmann::json(name)));
}

/// Items of a JSON array, one a line.
std::string text_of(std::vector<std::vector<Record>> ranks, const std::vector<std::string>& hosts) {
  bring_into_order(ranks);
  std::int64_t start = std::numeric_limits<std::int64_t>::max();
  for (const std::vector<Record>& records : ranks)
    for (const Record& record : records) start = std::min(start, record.begin);
  std::vector<std::string> items;
  for (int rank = 0; rank < static_cast<int>(ranks.size()); ++rank) {
    std::vector<Record>& records = ranks[rank];
    std::ranges::stable_sort(records, {}, &Record::begin);
    items.push_back(
        metadata("process_name", rank, 0, fmt::format("rank {} ({})", rank, hosts[rank])));
    Threads threads;
    for (const Record& record : records) {
      const TraceAction action = action_of(record);
      const Lane lane = lane_of(record);
      items.push_back(fmt::format(
          R"({{"name":"{}","cat":"{}","ph":"X","pid":{},"tid":{},"ts":{},"dur":{},"args":{{{}}}}})",
          to_string(action), category_of(lane), rank, threads.thread_of(lane, record),
          microseconds(record.begin - start), microseconds(record.end - record.begin),
          arguments_of(record)));
    }
    for (int thread = 0; thread < threads.size(); ++thread)
      items.push_back(
          metadata("thread_name", rank, thread, std::string(name_of(threads.lane(thread)))));
  }
  return fmt::format("{}", fmt::join(items, ",\n"));
}

}  // namespace

void write_planned_trace(const Config& config, const std::vector<PlannedWork>& step) {
  int num_ranks = 0;
  for (const PlannedWork& work : step) num_ranks = std::max(num_ranks, work.rank + 1);
  std::vector<std::vector<Record>> ranks(num_ranks);
  const auto nanoseconds = [](double seconds) { return std::llround(1e9 * seconds); };
  for (const PlannedWork& work : step)
    ranks[work.rank].push_back({.step = 1,
                                .action = static_cast<std::int64_t>(work.action),
                                .begin = nanoseconds(work.begin),
                                .end = nanoseconds(work.end),
                                .micro_batch = work.micro_batch,
                                .slice = work.slice,
                                .peer = TraceEvent::none,
                                .message_kind = TraceEvent::none,
                                .on_device = 0});
  write_trace(config, text_of(std::move(ranks), std::vector<std::string>(num_ranks, "planned")));
}

TraceFile::TraceFile(Network& network)
    : network_(network), first_offset_(measure_clock_offset(network.grid().world())) {
  network.trace_steps(network.plan().config.trace_steps.value_or(default_trace_steps));
}

void TraceFile::write(Failure failure) {
  const Grid& grid = network_.grid();
  const Communicator& world = grid.world();
  network_.trace()->read_device();
  const ClockOffset offset = measure_clock_offset(world);
  const auto packed = world.gather(pack(*network_.trace(), grid, first_offset_, offset));
  world.agree([&] {
    if (!world.is_root()) return;
    std::vector<std::vector<Record>> ranks;
    for (const std::vector<std::int64_t>& of_rank : packed) ranks.push_back(unpack(of_rank));
    try {
      write_trace(network_.plan().config, text_of(std::move(ranks), grid.hosts()));
    } catch (const Error& error) {
      if (failure == Failure::error) throw;
      print_note(error.what());
    }
  });
}

}  // namespace revode
