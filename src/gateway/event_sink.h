#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

#include "common/clock.h"
#include "common/shard_id.h"
#include "gateway/shard_info.h"

namespace shardd::gateway {

// One op 0 payload as it came from Discord. The views live until OnDispatch returns.
struct Dispatch {
  ShardId shard;
  uint32_t session = 0;   // number of the session: grows with each READY of this shard
  uint64_t sequence = 0;  // Discord's `s`
  uint64_t guild_id = 0;  // 0: the event belongs to no guild
  std::string_view type;  // Discord's `t`: [A-Z0-9_]{1,64}
  std::string_view data;  // the JSON of `d`, byte for byte
  int64_t received_unix_nanos = 0;
};

// A session that Discord has just opened by IDENTIFY: what it takes to RESUME it.
struct OpenedSession {
  ShardId shard;
  uint32_t session = 0;  // as in Dispatch
  std::string_view id{};
  std::string_view resume_url{};  // empty: none that can be used
  uint64_t intents = 0;           // that it was identified with; RESUME keeps them
};

// A session that Discord no longer resumes: what it sent after `last_sequence` will not come.
struct LostSession {
  ShardId shard;
  uint32_t session = 0;
  uint64_t last_sequence = 0;
  int64_t last_event_unix_nanos = 0;  // 0: none
  std::string_view reason;            // in words
};

// An event that is larger than --max-message-bytes and will not come.
struct SkippedEvent {
  ShardId shard;
  uint32_t session = 0;
  uint64_t sequence = 0;
  std::string_view type;
};

// A shard died too often and pauses.
struct CrashLoop {
  ShardId shard;
  uint32_t deaths = 0;  // within `window`
  std::chrono::milliseconds window{0};
  std::chrono::milliseconds pause{0};
  uint64_t restarts = 0;    // as ShardInfo counts them
  std::string_view reason;  // of the last death, in words
};

// Events that should have come, by the shard's own rate, have not.
struct ShardSilence {
  ShardId shard;
  uint32_t session = 0;
  std::chrono::milliseconds lasted{0};
  double expected_events = 0;
};

// What one worker of the pool tells the outside. The pool makes one sink a worker and calls it on
// that worker's thread alone, so an implementation needs no lock of its own. It must not block
// beyond a short critical section: every shard of the worker waits for it.
class EventSink {
 public:
  virtual ~EventSink() = default;

  // Directly before the session's READY. A READY that was not taken comes with it again.
  virtual void OnSessionOpened(const OpenedSession& opened) = 0;
  // The shard's present session is not to be resumed: it is lost, replaced or given up. Told behind
  // OnSessionLost, where that is told.
  virtual void OnSessionEnded(ShardId shard, uint32_t session) = 0;
  // An event during which it throws has not been taken, and comes again.
  //
  // The newest sequence of a session that came here, or to OnSkippedEvent, is the one that a RESUME
  // names, so whoever keeps it can resume the session from there.
  virtual void OnDispatch(const Dispatch& dispatch) = 0;
  // In order with the dispatches around it: READY's own dispatch comes before the change to kReady.
  // The change to kIdentifying has been told and flushed before IDENTIFY is sent.
  virtual void OnStateChange(const ShardInfo& shard) = 0;
  virtual void OnSessionLost(const LostSession& lost) = 0;
  virtual void OnSkippedEvent(const SkippedEvent& skipped) = 0;
  virtual void OnCrashLoop(const CrashLoop& loop) = 0;
  virtual void OnSilence(const ShardSilence& silence) = 0;
  // Discord has acknowledged a heartbeat that was sent at `sent` or, where it leaves out ACKs,
  // later: what it had sent the session before it got the heartbeat has come. Only of heartbeats
  // that were sent while the shard was READY.
  virtual void OnHeartbeatAck(ShardId shard, SteadyTime sent) = 0;

  // All that came before is published when this returns. The worker calls it at the end of each
  // round, and before a heartbeat, since a heartbeat tells Discord what it need not send again.
  virtual void Flush() = 0;
};

}  // namespace shardd::gateway
