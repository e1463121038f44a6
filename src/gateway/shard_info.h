#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "common/clock.h"
#include "common/shard_id.h"

namespace shardd::gateway {

// Where a shard is in its life; the contract's ShardState, which documents each value.
enum class ShardState {
  kIdle,
  kWaitingToIdentify,
  kConnecting,
  kIdentifying,
  kResuming,
  kReady,
  kBackingOff,
  kCrashLoop,
  kFailed,
  kStopped,
};

// A snapshot of one shard.
struct ShardInfo {
  ShardId shard;
  ShardState state = ShardState::kIdle;
  // Why the shard is where it is, in words, with Discord's close code where there was one.
  std::string reason;
  uint32_t session = 0;   // ordinal of the current or last session; 0: none yet
  uint64_t sequence = 0;  // last `s` that was handed to the sink
  uint32_t guilds = 0;
  uint64_t events = 0;                              // dispatches since the process started
  std::optional<std::chrono::nanoseconds> latency;  // last heartbeat to its ACK
  // Deaths (crash_guard.h) that a respawn followed or will follow. Neither RESUMEs count nor what
  // an operator starts.
  uint64_t restarts = 0;
  std::optional<WallTime> last_restart;     // of the last respawn
  uint64_t resumes = 0;                     // RESUMEs that Discord accepted
  uint64_t identifies = 0;                  // IDENTIFYs sent
  std::optional<WallTime> connected_since;  // of the present connection, once READY or RESUMED
  std::optional<WallTime> last_event_at;
  uint64_t silences = 0;  // that were told: silence_detector.h
  std::optional<WallTime> last_silence;
  std::optional<WallTime> retry_at;  // while backing off or in a crash loop
};

}  // namespace shardd::gateway
