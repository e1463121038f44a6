#pragma once

#include <chrono>
#include <cstdint>
#include <random>

#include "common/backoff.h"
#include "gateway/close_code.h"
#include "gateway/shard_timings.h"

namespace shardd::gateway {

// How long a shard waits before its next connection. Counts from success to success: READY or
// RESUMED is one, an open socket is not. Thread-compatible.
class ReconnectPace {
 public:
  ReconnectPace(const ShardTimings& timings, uint64_t seed);

  // A connection that had been READY or RESUMED for so long has ended. Zero for one that was
  // stable, and for the first that was not: a RESUME that follows a healthy connection loses no
  // time, but connections that end as soon as they are made must not become a busy loop.
  std::chrono::milliseconds AfterReady(std::chrono::nanoseconds lasted);
  // One that never got there.
  std::chrono::milliseconds AfterFailure() { return failed_.Next(); }
  // What Discord asks for besides.
  std::chrono::milliseconds For(Pause pause);

  // READY or RESUMED.
  void Succeeded() { failed_.Reset(); }
  void Reset();

 private:
  const ShardTimings timings_;
  std::mt19937_64 random_;
  Backoff failed_;
  Backoff unstable_;
  bool ended_soon_ = false;  // the last connection that was READY did not stay so
};

}  // namespace shardd::gateway
