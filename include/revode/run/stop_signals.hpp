// Signals that ask a run to save and stop.
#pragma once

namespace revode {

/// From now on SIGTERM, SIGINT and SIGUSR1 are counted; a second one ends the process at once.
void catch_stop_signals();

/// Whether one has come.
bool stop_signal_seen();

}  // namespace revode
