#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/shard_id.h"
#include "simulator/dispatch.h"
#include "simulator/limits.h"
#include "simulator/simulator.h"

namespace shardd::simulator {

class Peer;

// A whole member list that is being sent, as fast as the client reads.
struct MemberList {
  size_t guild = 0;   // index
  uint32_t next = 0;  // number of the first member that has not been sent
  bool presences = false;
  std::string nonce;
};

// What Discord keeps of a shard between connections: who it is, how far it is, and the newest
// dispatches for a RESUME. Loop-bound.
class Session {
 public:
  struct Options {
    uint64_t number = 0;  // of all sessions, in the order of their IDENTIFYs
    std::string id;
    ShardId shard;
    uint64_t intents = 0;
    uint64_t first_sequence = 1;
    size_t replay_events = 0;
    bool record = false;
    bool record_digests = false;
  };

  explicit Session(Options options)
      : options_(std::move(options)), next_(options_.first_sequence) {}

  const std::string& id() const { return options_.id; }
  uint64_t number() const { return options_.number; }
  ShardId shard() const { return options_.shard; }
  uint64_t intents() const { return options_.intents; }

  // Numbers one more dispatch and keeps it for replay, the oldest giving way.
  void Append(DispatchPtr dispatch);

  // Of the newest dispatch. REQUIRES: there has been one, which READY is.
  uint64_t sequence() const { return next_ - 1; }
  // Whether all that follows `sequence` is still kept.
  bool CanReplayAfter(uint64_t sequence) const {
    return sequence + 1 + replay_.size() >= next_ && sequence < next_;
  }
  // nullptr: not kept any more.
  DispatchPtr Find(uint64_t sequence) const;
  std::vector<SentDispatch> Sent() const;  // REQUIRES: record
  const std::vector<SentDigest>& SentDigests() const { return digests_; }
  SessionInfo Info() const;

  // Whether an event may be sent to it by its intents; `needed` as intent::For() gives it.
  bool Wants(uint64_t needed) const { return needed == 0 || (options_.intents & needed) != 0; }

  // One of the commands 3, 4, 8, 31 and 43, as it came; the newest 1000 are kept.
  void NoteCommand(int64_t op, std::string_view data);
  std::vector<ReceivedCommand> Commands() const { return {commands_.begin(), commands_.end()}; }

  Peer* peer = nullptr;       // the connection that has it now
  SteadyTime detached_since;  // of use while peer is nullptr
  bool acks_stopped = false;

  std::vector<uint32_t> guilds;  // indexes of its guilds, as READY named them
  size_t guilds_sent = 0;        // of them, how many GUILD_CREATEs have been sent
  std::optional<uint64_t>
      replaying_from;  // while a RESUME is being answered: the next number to send

  std::deque<MemberList> member_lists;

  // An event that it gets, and has not been given yet (Skew).
  struct Held {
    SteadyTime due;
    DispatchPtr event;
    bool swapped = false;  // waits for the next one of its guild; else it is an interaction
  };
  std::deque<Held> held;

  // https://discord.com/developers/docs/events/gateway-events#update-presence: 5 in 20 s.
  SendWindow presence_updates{5, std::chrono::seconds(20)};
  std::string presence;             // JSON; empty: none has been set
  std::set<uint64_t> voice_guilds;  // where the bot is in a voice channel

  uint32_t resumes = 0;
  uint64_t heartbeats = 0;
  std::optional<uint64_t> heartbeat_sequence;
  std::string compression;

 private:
  const Options options_;
  uint64_t next_;
  std::deque<DispatchPtr> replay_;
  std::vector<DispatchPtr> recorded_;
  std::vector<SentDigest> digests_;
  std::deque<ReceivedCommand> commands_;
};

}  // namespace shardd::simulator
