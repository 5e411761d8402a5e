// The program with a fault planted: linked with src/main.cpp, it makes one rank fail at the
// beginning of an activity (core/activity.hpp), be it an instruction of its program, a wait, a
// collective call or a save.
//
//     REVODE_FAULT="RANK KIND NUMBER"   KIND: kill (SIGKILL), exit (status 3), throw; NUMBER: of
//     the
//                                       rank's activities, from 1
//     REVODE_FAULT="RANK wait MICROSECONDS"   before every activity of the rank
//     REVODE_ACTIVITIES=FILE            every rank appends its activities to FILE.RANK, one a line
#include <chrono>
#include <csignal>
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

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

struct Fault {
  int rank = -1;
  std::string kind;
  long number = 0;
};

Fault read_fault() {
  Fault fault;
  std::istringstream(variable("REVODE_FAULT")) >> fault.rank >> fault.kind >> fault.number;
  return fault;
}

const std::string this_rank = variable("OMPI_COMM_WORLD_RANK");
const Fault fault = read_fault();
long num_activities = 0;

void strike(const revode::Activity& activity) {
  ++num_activities;
  if (const std::string file = variable("REVODE_ACTIVITIES"); !file.empty())
    std::ofstream(file + "." + this_rank, std::ios::app) << to_string(activity) << '\n';
  if (std::to_string(fault.rank) != this_rank) return;
  if (fault.kind == "wait") std::this_thread::sleep_for(std::chrono::microseconds(fault.number));
  if (fault.kind == "wait" || fault.number != num_activities) return;
  std::fputs("a fault strikes\n", stderr);
  if (fault.kind == "kill") ::raise(SIGKILL);
  if (fault.kind == "exit") ::_exit(3);
  if (fault.kind != "throw") return;
  // Of calls that others take part in, only MPI's own errors come up.
  constexpr const char* text = "a fault was planted here";
  if (activity.waits_for != revode::Activity::nobody) throw revode::MpiError(text);
  throw std::runtime_error(text);
}

const bool planted = [] {
  revode::on_activity = strike;
  return true;
}();

}  // namespace
