// When a save that failed is tried again, before the next one is due anyway. Knows no clock:
// callers say how late it is.
#pragma once

namespace revode {

class SaveRetry {
 public:
  void failed(double seconds);
  void succeeded() { *this = {}; }

  /// Tries that failed since the last one that did not.
  int num_failures() const { return num_failures_; }
  bool is_pending() const { return num_failures_ > 0; }
  /// After the first failure 10 s have to pass, then twice as long each time, up to 5 minutes.
  bool is_due(double seconds) const { return is_pending() && seconds >= next_seconds_; }

 private:
  int num_failures_ = 0;
  double pause_seconds_ = 0;
  double next_seconds_ = 0;
};

}  // namespace revode
