#pragma once

#include <chrono>
#include <cstddef>
#include <deque>

#include "common/clock.h"

namespace shardd::gateway {

// Counts what went out lately, over a sliding window: whether Discord's own windows slide or stand
// is not documented, and a sliding one fits both. Not thread-safe.
class SendWindow {
 public:
  // Remembers the newest `capacity`, which is the largest `limit` that FreeAt can be asked for.
  SendWindow(std::chrono::milliseconds period, size_t capacity)
      : period_(period), capacity_(capacity) {}

  void Record(SteadyTime now);
  void Clear() { times_.clear(); }

  // When one more may go, if `limit` may in a period; `now` or earlier times come back as `now`.
  // `ahead` others, of which each goes as soon as it may, go first. REQUIRES: 0 < limit <=
  // capacity.
  SteadyTime FreeAt(size_t limit, SteadyTime now, size_t ahead = 0) const;

 private:
  const std::chrono::milliseconds period_;
  const size_t capacity_;
  std::deque<SteadyTime> times_;
};

}  // namespace shardd::gateway
