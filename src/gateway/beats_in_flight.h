#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

#include "common/clock.h"

namespace shardd::gateway {

// Heartbeats of one connection that Discord has not acknowledged. It answers each, in order, so an
// ACK is that of the oldest. Where it leaves one out, later ones are taken for ACKs of earlier
// heartbeats than they are of: a time that is said is never too late.
class BeatsInFlight {
 public:
  // A server that asks for heartbeats without acknowledging any must not fill the memory: those
  // above this count as sent when the last one was.
  static constexpr size_t kMostKept = 16;

  void Sent(SteadyTime now) {
    if (runs_.size() < kMostKept) {
      runs_.push_back({.sent = now, .count = 1});
    } else {
      ++runs_.back().count;
    }
  }
  // The newest did not go out. Returns when it was to.
  std::optional<SteadyTime> TakeBack() {
    if (runs_.empty()) return std::nullopt;
    const SteadyTime sent = runs_.back().sent;
    if (--runs_.back().count == 0) runs_.pop_back();
    return sent;
  }
  // When the heartbeat that is acknowledged was sent; none: nobody has sent one.
  std::optional<SteadyTime> Acknowledged() {
    if (runs_.empty()) return std::nullopt;
    const SteadyTime sent = runs_.front().sent;
    if (--runs_.front().count == 0) runs_.pop_front();
    return sent;
  }
  void Clear() { runs_.clear(); }
  bool is_full() const { return runs_.size() == kMostKept; }

 private:
  struct Run {
    SteadyTime sent;
    uint64_t count = 0;
  };
  std::deque<Run> runs_;
};

}  // namespace shardd::gateway
