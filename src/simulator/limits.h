#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <unordered_map>

#include "common/clock.h"

namespace shardd::simulator {

// What Discord allows a bot in IDENTIFYs: one per bucket (shard id % max_concurrency) and window,
// so many a day. https://discord.com/developers/docs/events/gateway#rate-limiting.
// Thread-compatible.
class IdentifyLimits {
 public:
  struct Options {
    uint32_t max_concurrency = 1;
    std::chrono::milliseconds window{5000};
    uint32_t total = 1000;
    std::optional<uint32_t> remaining{};  // unset: total
    std::chrono::milliseconds day{std::chrono::hours(24)};
    std::optional<SteadyTime> day_ends{};  // unset: a day begins with its first IDENTIFY
  };
  enum class Verdict { kAdmitted, kTooEarly, kBudgetSpent };

  explicit IdentifyLimits(const Options& options);

  // An IDENTIFY that is too early costs nothing and does not lengthen the wait.
  Verdict Admit(uint32_t shard_id, SteadyTime now);

  uint32_t Remaining(SteadyTime now);
  // 0 while nothing has been used.
  std::chrono::milliseconds ResetAfter(SteadyTime now);
  // As if others had identified with the same token; without `day_ends` the day stays as it is.
  void Set(uint32_t remaining, std::optional<SteadyTime> day_ends);

 private:
  void Roll(SteadyTime now);

  const Options options_;
  uint32_t remaining_;
  std::optional<SteadyTime> day_ends_;
  std::unordered_map<uint32_t, SteadyTime> last_by_bucket_;
};

// Counts what a client sends in the last so many seconds, 60 for a connection's limit.
// Thread-compatible.
class SendWindow {
 public:
  explicit SendWindow(uint32_t limit, std::chrono::seconds window = std::chrono::seconds(60))
      : limit_(limit), window_(window) {}

  // Whether one more is still within the limit.
  bool Admit(SteadyTime now);

 private:
  const uint32_t limit_;
  const std::chrono::seconds window_;
  std::deque<SteadyTime> sent_;
};

}  // namespace shardd::simulator
