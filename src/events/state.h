#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>

#include "common/shard_id.h"

namespace shardd::events {

// What the log remembers of the shards beside their events, so that a process goes on where another
// stopped: it stands in the log itself, in order with the events, so no second file can disagree
// with it.

// A session that Discord may still resume.
struct SessionRecord {
  std::string id;
  std::string resume_url;             // empty: none that can be used
  uint64_t intents = 0;               // that it was identified with; RESUME keeps them
  uint64_t last_sequence = 0;         // of its events in the log; 0: none
  int64_t last_event_unix_nanos = 0;  // 0: none

  friend bool operator==(const SessionRecord&, const SessionRecord&) = default;
};

struct ShardRecord {
  bool wanted = true;         // false: somebody has stopped it, and it stays stopped
  uint32_t last_session = 0;  // number of the newest session; 0: none yet
  std::optional<SessionRecord> session{};

  friend bool operator==(const ShardRecord&, const ShardRecord&) = default;
};

struct State {
  uint64_t generation = 0;   // 0: none has begun
  uint32_t shard_count = 0;  // of the generation
  std::string api_url;       // the Discord that the sessions are of
  std::string gateway_url;   // as /gateway/bot said last
  std::map<ShardId, ShardRecord> shards;

  friend bool operator==(const State&, const State&) = default;
};

// ---- Changes. Each one stands for itself, and is idempotent. ----

struct SessionOpened {
  ShardId shard;
  uint32_t session = 0;  // its number: grows by one with each of this shard
  std::string id;
  std::string resume_url;
  uint64_t intents = 0;
};
struct SessionEnded {
  ShardId shard;
  uint32_t session = 0;
};
// Everything of the session up to this number is settled, though the log may not hold it: an event
// that was too large.
struct SequencePassed {
  ShardId shard;
  uint32_t session = 0;
  uint64_t sequence = 0;
};
struct ShardWanted {
  ShardId shard;
  bool wanted = true;
};
// Shards of other counts are forgotten; all are, with a shard_count of 0: none is in charge.
struct GenerationBegun {
  uint64_t generation = 0;
  uint32_t shard_count = 0;
};
struct GatewayKnown {
  std::string api_url;
  std::string gateway_url;

  friend bool operator==(const GatewayKnown&, const GatewayKnown&) = default;
};

using StateChange = std::variant<SessionOpened, SessionEnded, SequencePassed, ShardWanted,
                                 GenerationBegun, GatewayKnown>;

void Apply(const StateChange& change, State* state);

}  // namespace shardd::events
