#pragma once

#include <chrono>

#include "common/backoff.h"

namespace shardd::gateway {

// How long a shard waits for what. Tests shorten these.
struct ShardTimings {
  // For each address of the host, and again for TLS and the WebSocket handshake.
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::milliseconds hello_timeout{10'000};
  // In an outage Discord keeps acknowledging heartbeats but may leave IDENTIFY unanswered for long;
  // coming back sooner only spends another session start.
  std::chrono::milliseconds identify_timeout{60'000};
  // Without an answer to RESUME, which a replayed event is too.
  std::chrono::milliseconds resume_timeout{30'000};
  // After an op 9, at random: discord-api-docs#244 and #313.
  std::chrono::milliseconds invalid_session_pause_min{1'000};
  std::chrono::milliseconds invalid_session_pause_max{5'000};
  // Between attempts that fail.
  BackoffOptions retry{.first = std::chrono::milliseconds(500),
                       .longest = std::chrono::milliseconds(60'000)};
  // Between connections that end soon after READY or RESUMED. The first such end is followed by a
  // new connection at once.
  std::chrono::milliseconds stable_after{2'000};
  BackoffOptions unstable{.first = std::chrono::milliseconds(250),
                          .longest = std::chrono::milliseconds(5'000)};
  // A session that is lost sooner than this after its READY is a death (crash_guard.h).
  std::chrono::milliseconds session_stable_after{60'000};
  // After close code 4008: Discord counts what a client sends over 60 s.
  std::chrono::milliseconds send_window{60'000};
  // No silence below this counts (silence_detector.h); 0: none does.
  std::chrono::milliseconds silence_after{300'000};
  // A timer that fires later than this says that the worker stood still: its connections are
  // doubtful, and it counts as a death.
  std::chrono::milliseconds stall_limit{30'000};
  // For the closing handshake of a connection that is no longer used.
  std::chrono::milliseconds close_timeout{2'000};
};

}  // namespace shardd::gateway
