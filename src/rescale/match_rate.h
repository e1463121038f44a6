#pragma once

#include <array>
#include <chrono>
#include <cstdint>

#include "common/clock.h"

namespace shardd::rescale {

// How many of the events of the last minute found no partner. Thread-compatible.
class MatchRate {
 public:
  void AddMatched(SteadyTime now) { ++At(now).matched; }
  void AddUnmatched(SteadyTime now) { ++At(now).unmatched; }

  uint64_t unmatched(SteadyTime now) const;
  // 0 to 1.
  double share(SteadyTime now) const;

 private:
  static constexpr std::chrono::seconds kSpan{5};
  static constexpr size_t kSpans = 12;
  struct Bucket {
    int64_t span = -1;
    uint64_t matched = 0;
    uint64_t unmatched = 0;
  };
  static int64_t SpanOf(SteadyTime now) { return now.time_since_epoch() / kSpan; }
  Bucket& At(SteadyTime now);
  Bucket Sum(SteadyTime now) const;

  std::array<Bucket, kSpans> buckets_{};
};

}  // namespace shardd::rescale
