#include "backend/cuda/replayer.hpp"

#include <algorithm>
#include <functional>
#include <iterator>
#include <utility>

namespace revode::cuda {
namespace {

/// Fewer are not worth a graph.
constexpr std::size_t worthwhile_tasks = 3;

/// Of the bytes that they touch, in order: two pieces seldom touch the same.
std::size_t hash_of(const std::vector<Task>& tasks) {
  std::size_t hash = tasks.size();
  const auto mix = [&](std::size_t more) {
    hash = (hash ^ more) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  };
  for (const Task& task : tasks) {
    mix(task.index());
    const Accesses accesses = accesses_of(task);
    for (const AccessedBytes& accessed : accesses.all()) {
      mix(std::hash<const void*>()(accessed.begin));
      mix(accessed.bytes);
    }
  }
  return hash;
}

}  // namespace

void Replayer::run(std::vector<Task> tasks) {
  const bool is_worthwhile = tasks.size() >= worthwhile_tasks;
  const std::size_t hash = is_worthwhile ? hash_of(tasks) : 0;
  const std::optional<Place> found = is_worthwhile ? find(hash, tasks) : std::nullopt;
  if (!found) {
    launch(tasks);
    counts_.launched += std::ssize(tasks);
    if (is_worthwhile) keep(hash, std::move(tasks));
    return;
  }
  Piece& piece = **found;
  pieces_.splice(pieces_.begin(), pieces_, *found);
  if (!piece.graph || piece.generation != device_.generation()) record(piece);
  device_.run(*piece.graph, stream_);
  ++counts_.num_replays;
  counts_.replayed += std::ssize(tasks);
}

void Replayer::launch(const std::vector<Task>& tasks) {
  for (const Task& task : tasks) cuda::run(task, device_, stream_);
}

std::optional<Replayer::Place> Replayer::find(std::size_t hash, const std::vector<Task>& tasks) {
  const auto [first, last] = places_.equal_range(hash);
  const auto found =
      std::find_if(first, last, [&](const auto& entry) { return entry.second->tasks == tasks; });
  if (found == last) return std::nullopt;
  return found->second;
}

void Replayer::keep(std::size_t hash, std::vector<Task> tasks) {
  num_tasks_ += tasks.size();
  pieces_.push_front({.hash = hash, .tasks = std::move(tasks), .graph = {}});
  places_.emplace(hash, pieces_.begin());
  while (num_tasks_ > most_tasks_) {
    const Place oldest = std::prev(pieces_.end());
    const auto [first, last] = places_.equal_range(oldest->hash);
    places_.erase(
        std::find_if(first, last, [&](const auto& entry) { return entry.second == oldest; }));
    num_tasks_ -= oldest->tasks.size();
    forget(*oldest);
    pieces_.erase(oldest);
  }
}

void Replayer::forget(Piece& piece) {
  if (!piece.graph) return;
  device_.release(*piece.graph);
  piece.graph.reset();
  --counts_.num_graphs;
}

void Replayer::record(Piece& piece) {
  forget(piece);
  device_.begin_recording(stream_);
  launch(piece.tasks);
  piece.graph = device_.end_recording(stream_);
  piece.generation = device_.generation();
  ++counts_.num_graphs;
}

}  // namespace revode::cuda
