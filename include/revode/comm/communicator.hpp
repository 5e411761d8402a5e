// The only place that talks MPI between ranks: an owning wrapper with checked calls, typed messages
// and every tag.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mpi.h>

#include "revode/core/activity.hpp"

namespace revode {

/// What a message carries.
enum class MessageKind : int {
  state = 1,          ///< (P, Q) of the forward sweep
  rebuilt_state = 2,  ///< (P, Q) of the backward sweep
  adjoint = 3,        ///< of (P, Q)
  first_block = 4,    ///< edge weights, to the slice before
  last_block = 5,     ///< edge weights, to the next slice
  clock = 6,          ///< questions to rank 0 for its time, and answers
};

/// A message is matched by its sender and by this; slice: the one that it enters.
struct MessageTag {
  MessageKind kind;
  int slice = 0;
  int micro_batch = 0;
};

/// A message under way; its memory must live until done() or wait(). Destroying an active one is a
/// bug and aborts, unless an exception is on its way out (main then ends the job).
class Request {
 public:
  Request() = default;
  /// waits_for: whom wait() waits for, as Activity has it.
  Request(MPI_Request request, int waits_for) : request_(request), waits_for_(waits_for) {}
  Request(Request&& other) noexcept
      : request_(std::exchange(other.request_, MPI_REQUEST_NULL)), waits_for_(other.waits_for_) {}
  Request& operator=(Request&& other) noexcept;
  ~Request();

  bool active() const { return request_ != MPI_REQUEST_NULL; }
  /// Lets the library move messages along; true once this one is complete.
  bool done();
  void wait();

 private:
  MPI_Request request_ = MPI_REQUEST_NULL;
  int waits_for_ = Activity::nobody;
};

class Communicator {
 public:
  /// A duplicate of `parent` whose errors return as exceptions. Collective.
  explicit Communicator(MPI_Comm parent);
  /// Of the ranks that name the same group, in the order of the places that they name. Collective.
  Communicator split(int group, int place) const;
  /// Of this process alone.
  static Communicator alone() { return Communicator(MPI_COMM_SELF); }
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  /// Name and version of the MPI library, one line.
  static std::string library_version();

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool is_root() const { return rank_ == 0; }
  /// What this communicator's `rank` is among all ranks of the job.
  int rank_in_job(int rank) const { return ranks_in_job_[rank]; }
  MPI_Comm handle() const { return handle_; }

  Request send(std::span<const float> values, int to, const MessageTag& tag) const;
  Request receive(std::span<float> values, int from, const MessageTag& tag) const;
  Request send(std::span<const std::int64_t> values, int to, const MessageTag& tag) const;
  Request receive(std::span<std::int64_t> values, int from, const MessageTag& tag) const;

  /// Every rank's values, added up in place on every rank. All ranks begin their sums in the same
  /// order.
  Request sum(std::span<std::int64_t> values) const;

  void barrier() const;
  /// Every rank's values, one after the other in rank order, on every rank; lengths may differ.
  std::vector<double> all_gather(std::span<const double> values) const;
  std::vector<std::int64_t> all_gather(std::int64_t value) const;
  /// Every rank's values, by rank, on every rank; lengths may differ.
  std::vector<std::vector<std::int64_t>> all_gather_each(
      std::span<const std::int64_t> values) const;
  /// Every rank's text, by rank, on every rank.
  std::vector<std::string> all_gather(const std::string& text) const;
  /// Every rank's values, by rank, on rank 0; empty on the others.
  std::vector<std::vector<std::int64_t>> gather(std::span<const std::int64_t> values) const;
  void broadcast(std::span<double> values, int root) const;
  void broadcast(std::span<float> values, int root) const;
  std::string broadcast(const std::string& text, int root) const;

  /// Runs `action` on every rank. If it throws anywhere, every rank throws the error of the lowest
  /// failing rank, as one that all share; where only some failed and rank 0 is none of them, it
  /// says which. To be used around whatever only some ranks do, such as reading files.
  void agree(const std::function<void()>& action) const;

  /// Something that must be the same on all ranks, in words.
  struct Fact {
    std::string name;  ///< e.g. "--seed"
    std::string value;
  };
  /// Collective. Throws an input error that all share where a rank's facts differ from those of
  /// rank 0: it names the first such fact, both values, and the rank. All ranks name the same facts
  /// in the same order. advice: what to do about it.
  void require_same(const std::vector<Fact>& facts, std::string_view advice) const;

  /// Ranks of this host whose processors overlap this rank's, itself included, and the number of
  /// processors it may use.
  struct HostShare {
    int num_sharing = 1;
    int num_processors = 1;
  };
  HostShare host_share() const;
  /// Ranks that run on this rank's host, itself included.
  std::vector<int> ranks_of_host() const;

 private:
  MPI_Comm handle_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  std::vector<int> ranks_in_job_;
};

}  // namespace revode
