#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

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

inline constexpr size_t kMaxRescaleReasonBytes = 1024;

// How far a change of the shard count has come.
enum class RescaleStep : uint8_t {
  kRunning = 1,   // the old generation is in charge
  kSwitched = 2,  // the new one is
  kDone = 3,
  kCancelled = 4,
  kFailed = 5,
};

struct RescaleRecord {
  uint32_t from_shard_count = 0;
  uint32_t to_shard_count = 0;
  RescaleStep step = RescaleStep::kRunning;
  std::string reason;  // in words; kept up to kMaxRescaleReasonBytes

  friend bool operator==(const RescaleRecord&, const RescaleRecord&) = default;
};

// Names an event whatever session it comes over (rescale/event_key.h).
struct CopyKey {
  uint64_t guild_id = 0;
  uint8_t producer = 0;
  uint64_t high = 0;
  uint64_t low = 0;

  friend auto operator<=>(const CopyKey&, const CopyKey&) = default;
};

// An event that the log has from a session of another generation, and that a session of the
// generation in charge will bring, too: it is to be dropped then.
struct ExpectedCopy {
  CopyKey key;
  int64_t unix_nanos = 0;  // when the event came

  friend bool operator==(const ExpectedCopy&, const ExpectedCopy&) = default;
};

// What comes beyond it pushes the oldest eighth out. A log of modest size keeps fewer:
// MaxExpectedCopies(), log.h.
inline constexpr size_t kMostExpectedCopies = 65'536;

struct State {
  uint64_t generation = 0;   // 0: none has begun
  uint32_t shard_count = 0;  // of the generation
  std::string api_url;       // the Discord that the sessions are of
  std::string gateway_url;   // as /gateway/bot said last
  // That were wanted, or have had a session that was opened, or are of the generation and have had
  // events: not those of an incoming generation that has not taken over.
  std::map<ShardId, ShardRecord> shards;
  // No shard that is not among them has had a session with a higher number.
  uint32_t session_floor = 0;
  std::optional<RescaleRecord> rescale{};  // the newest; none: there never was one
  // That are expected: when each one came, oldest first.
  std::map<CopyKey, std::deque<int64_t>> copies{};
  size_t copy_count = 0;  // of `copies`, all their times

  friend bool operator==(const State&, const State&) = default;
};

// ---- Changes. Each one stands for itself. ----

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
// Shards of other counts are forgotten, though not the numbers of their sessions, and with another
// count the copies that were expected; all are, with a shard_count of 0: none is in charge.
struct GenerationBegun {
  uint64_t generation = 0;
  uint32_t shard_count = 0;
};
struct GatewayKnown {
  std::string api_url;
  std::string gateway_url;

  friend bool operator==(const GatewayKnown&, const GatewayKnown&) = default;
};

// A session that the log does not hold (yet) has this number: no other one is to get it.
struct SessionNumbered {
  uint32_t session = 0;
};
struct RescaleChanged {
  RescaleRecord rescale;
};
struct CopiesExpected {
  std::vector<ExpectedCopy> copies;
};
// The session brought an event that was expected, and that was dropped; everything of the session
// up to the sequence is settled.
struct CopyCame {
  ShardId shard;
  uint32_t session = 0;
  uint64_t sequence = 0;
  CopyKey key;
};
// No copies are expected any more.
struct CopiesForgotten {};

using StateChange = std::variant<SessionOpened, SessionEnded, SequencePassed, ShardWanted,
                                 GenerationBegun, GatewayKnown, SessionNumbered, RescaleChanged,
                                 CopiesExpected, CopyCame, CopiesForgotten>;

void Apply(const StateChange& change, State* state);

inline size_t CountCopies(const State& state) { return state.copy_count; }
// Of the expected copies the newest ones. Returns how many that leaves out.
size_t KeepNewestCopies(size_t most, State* state);

}  // namespace shardd::events
