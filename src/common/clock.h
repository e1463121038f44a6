#pragma once

#include <chrono>

namespace shardd {

using SteadyClock = std::chrono::steady_clock;
using SteadyTime = SteadyClock::time_point;
using WallTime = std::chrono::system_clock::time_point;

// Where the time comes from, so that tests can advance it. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual SteadyTime Steady() const = 0;
  virtual WallTime Wall() const = 0;
};

class RealClock final : public Clock {
 public:
  SteadyTime Steady() const override { return SteadyClock::now(); }
  WallTime Wall() const override { return std::chrono::system_clock::now(); }
};

inline int64_t UnixNanos(WallTime time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

}  // namespace shardd
