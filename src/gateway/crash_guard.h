#pragma once

#include <chrono>
#include <cstdint>
#include <deque>

#include "common/clock.h"

namespace shardd::gateway {

struct CrashGuardOptions {
  uint32_t deaths = 3;                        // --crash-loop-deaths
  std::chrono::milliseconds window{300'000};  // --crash-loop-window
  std::chrono::milliseconds pause{120'000};   // --crash-loop-pause
  bool respawn = true;                        // --shard-respawn; false: the dead stay dead
};

// Notices a shard that dies again and again, so that it does not spend the day's session starts.
// A pause does not clear the window: a shard that dies right after one pauses again.
// Thread-compatible.
class CrashGuard {
 public:
  explicit CrashGuard(const CrashGuardOptions& options) : options_(options) {}

  // Notes a death. True: it is one too many within the window.
  bool Die(SteadyTime now);
  // Within the window, as of the last death.
  uint32_t deaths() const { return static_cast<uint32_t>(deaths_.size()); }

 private:
  const CrashGuardOptions options_;
  std::deque<SteadyTime> deaths_;  // no more than options_.deaths of them
};

}  // namespace shardd::gateway
