#include "revode/run/stop_signals.hpp"

#include <atomic>
#include <csignal>

namespace revode {
namespace {

std::atomic<int> signals_seen{0};

extern "C" void on_stop_signal(int signal) {
  if (signals_seen.fetch_add(1) == 0) return;
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

void catch_stop_signals() {
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) std::signal(signal, on_stop_signal);
}

bool stop_signal_seen() { return signals_seen > 0; }

}  // namespace revode
