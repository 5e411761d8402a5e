// Work that comes again and again, as pieces: the first time a piece is run task by task, so that
// the library's plans and workspaces come to be; the second time it is recorded as a graph; from
// then on the device runs the graph. A piece is known by its tasks, with all their arguments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

#include "revode/backend/work_counts.hpp"

#include "backend/cuda/task.hpp"

namespace revode::cuda {

class Replayer {
 public:
  /// Keeps pieces of so many tasks together, those that came last.
  Replayer(Device& device, Stream stream, std::size_t most_tasks = std::size_t{1} << 17)
      : device_(device), stream_(stream), most_tasks_(most_tasks) {}

  /// In this order, and as one piece.
  void run(std::vector<Task> tasks);
  const WorkCounts& counts() const { return counts_; }

 private:
  struct Piece {
    std::size_t hash = 0;
    std::vector<Task> tasks;
    std::optional<Graph> graph;
    int generation = 0;  ///< of the memory that the graph uses
  };
  using Place = std::list<Piece>::iterator;

  void launch(const std::vector<Task>& tasks);
  std::optional<Place> find(std::size_t hash, const std::vector<Task>& tasks);
  void keep(std::size_t hash, std::vector<Task> tasks);
  void forget(Piece& piece);
  void record(Piece& piece);

  Device& device_;
  Stream stream_;
  std::size_t most_tasks_;
  std::list<Piece> pieces_;  ///< the one that came last first
  std::unordered_multimap<std::size_t, Place> places_;
  std::size_t num_tasks_ = 0;  ///< of all pieces
  WorkCounts counts_;
};

}  // namespace revode::cuda
