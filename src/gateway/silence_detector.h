#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "common/clock.h"

namespace shardd::gateway {

// Notices a connection whose heartbeats are acknowledged while nothing else comes any more, though
// by the shard's own rate it should. Shards of quiet bots are silent for hours by nature, so there
// is no fixed time: a silence counts once kExpectedEvents events are missing, and never before the
// shortest time. Thread-compatible.
class SilenceDetector {
 public:
  // Events that should have come in the meantime. They come in bursts, so chance alone is no
  // measure.
  static constexpr double kExpectedEvents = 30;

  struct Silence {
    std::chrono::milliseconds lasted;
    double expected_events;
  };

  // `shortest`: no silence below it counts; 0: the detector is off.
  explicit SilenceDetector(std::chrono::milliseconds shortest) : shortest_(shortest) {}

  // The connection is READY (a new session, whose guilds come in a burst that says nothing about
  // its rate) or RESUMED.
  void Begin(bool new_session, SteadyTime now);
  // It is no longer.
  void End() { next_look_ = SteadyTime::max(); }
  // An event came, other than READY and RESUMED.
  void OnEvent(SteadyTime now) {
    if (now >= sampled_at_) ++events_;
    last_event_ = now;
    reported_ = false;
  }

  // When Look() is due; SteadyTime::max(): not at all.
  SteadyTime next_look() const { return next_look_; }
  // A silence that has not been told yet; each is told once, also across connections.
  std::optional<Silence> Look(SteadyTime now);

 private:
  void Sample(SteadyTime now);

  const std::chrono::milliseconds shortest_;
  SteadyTime next_look_ = SteadyTime::max();
  SteadyTime last_event_;
  SteadyTime sampled_at_;  // up to here events are in rate_
  uint64_t events_ = 0;    // since then
  double rate_ = 0;        // events a second
  std::chrono::duration<double> observed_{0};
  bool reported_ = false;
};

}  // namespace shardd::gateway
