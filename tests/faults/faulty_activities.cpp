// The program with a fault planted: linked with src/main.cpp, it makes one rank fail at the
// beginning of an activity (core/activity.hpp), be it an instruction of its program, a wait, a
// collective call or a save.
//
//     REVODE_FAULT="RANK KIND NUMBER"   KIND: kill (SIGKILL), stop (SIGSTOP), exit (status 3),
//                                       throw; NUMBER: of the rank's activities, from 1
//     REVODE_FAULT="RANK KIND NUMBER TEXT"   NUMBER: of its activities that are told in these words
//     REVODE_FAULT="RANK wait MICROSECONDS"   before every activity of the rank
//     REVODE_ACTIVITIES=FILE            every rank appends its activities to FILE.RANK, one a line
//
// Or a bit flips in an array that a check may look at later (core/digest.hpp).
//
//     REVODE_FLIP="RANK STEP NUMBER BIT TIMES WHAT"   from the NUMBER-th array of that kind in the
//                                       step on, counted from 0, in so many; BIT: modulo its bits
//     REVODE_ARRAYS=FILE                every rank appends the arrays to FILE.RANK, one a line:
//                                       step, bits, kind
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>

#include <unistd.h>

#include "revode/comm/agreement.hpp"
#include "revode/core/activity.hpp"
#include "revode/core/digest.hpp"

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

struct Fault {
  int rank = -1;
  std::string kind;
  long number = 0;
  std::string text;  // of which activities; empty: of all
};

Fault read_fault() {
  Fault fault;
  std::istringstream words(variable("REVODE_FAULT"));
  words >> fault.rank >> fault.kind >> fault.number >> std::ws;
  std::getline(words, fault.text);
  return fault;
}

const std::string this_rank = variable("OMPI_COMM_WORLD_RANK");
const Fault fault = read_fault();
long num_activities = 0;  // that the fault is meant for

void strike(const revode::Activity& activity) {
  if (const std::string file = variable("REVODE_ACTIVITIES"); !file.empty())
    std::ofstream(file + "." + this_rank, std::ios::app) << to_string(activity) << '\n';
  if (std::to_string(fault.rank) != this_rank) return;
  if (!fault.text.empty() && fault.text != to_string(activity)) return;
  ++num_activities;
  if (fault.kind == "wait") std::this_thread::sleep_for(std::chrono::microseconds(fault.number));
  if (fault.kind == "wait" || fault.number != num_activities) return;
  std::fputs("a fault strikes\n", stderr);
  if (fault.kind == "kill") ::raise(SIGKILL);
  if (fault.kind == "stop") ::raise(SIGSTOP);
  if (fault.kind == "exit") ::_exit(3);
  if (fault.kind != "throw") return;
  // Of calls that others take part in, only MPI's own errors come up.
  constexpr const char* text = "a fault was planted here";
  if (activity.waits_for != revode::Activity::nobody) throw revode::MpiError(text);
  throw std::runtime_error(text);
}

struct Flip {
  int rank = -1;
  long step = 0, number = 0;
  std::size_t bit = 0;
  int times = 0;
  std::string what;
};

Flip read_flip() {
  Flip flip;
  std::istringstream words(variable("REVODE_FLIP"));
  words >> flip.rank >> flip.step >> flip.number >> flip.bit >> flip.times >> std::ws;
  std::getline(words, flip.what);
  return flip;
}

Flip flip = read_flip();
long step = 0;

void flip_bit(const revode::GuardedArray& array) {
  if (const std::string file = variable("REVODE_ARRAYS"); !file.empty())
    std::ofstream(file + "." + this_rank, std::ios::app)
        << step << ' ' << 8 * array.bytes.size() << ' ' << array.what << '\n';
  if (std::to_string(flip.rank) != this_rank || flip.step != step || flip.what != array.what)
    return;
  if (flip.number-- > 0 || flip.times-- <= 0) return;
  std::fputs("a bit flips\n", stderr);
  const std::size_t bit = flip.bit % (8 * array.bytes.size());
  array.bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
}

void watch(const revode::Activity& activity) {
  if (activity.what == "takes a step") step = static_cast<long>(activity.step);
  strike(activity);
}

const bool planted = [] {
  revode::on_activity = watch;
  revode::on_guarded_array = flip_bit;
  return true;
}();

}  // namespace
