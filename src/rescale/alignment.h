#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "common/clock.h"
#include "common/shard_id.h"
#include "rescale/event_key.h"
#include "rescale/match_rate.h"

namespace shardd::rescale {

enum class Side : uint8_t { kOld = 0, kNew = 1 };
constexpr Side Other(Side side) { return side == Side::kOld ? Side::kNew : Side::kOld; }

struct AlignmentOptions {
  // How long one side may be behind the other without being believed to have lost an event...
  std::chrono::milliseconds lag{5000};
  // ...and the same for interactions, which are void after 3 s.
  std::chrono::milliseconds interaction_lag{2200};
  // A new shard whose guilds have stopped coming for so long has them all, whatever its READY said:
  // those in an outage do not come.
  std::chrono::milliseconds guilds_quiet{15'000};
  // Of the events of guilds that were aligned, over the last minute, may stay without a partner.
  double max_unmatched_share = 0.001;
};

// The events of two generations of shards side by side. One generation leads: its events go into
// the log as they come. Those of the other one follow: each is held until its copy comes from the
// leader, and is dropped then; or goes in by itself when that will not come, and then the copy is
// dropped, should it come after all. The switch makes the follower the leader. So every event is in
// the log once, whichever side is ahead, and whether one or both sides bring it.
//
// What has to be found out is which events are copies of which. Events are told apart by their key
// (event_key.h). Equal content may come again, and then the copies are counted: the n-th on one
// side is the n-th on the other. That is only right if both counted from the same event on, and the
// new session begins somewhere in the stream. So:
//
//   - What the leader brings is remembered from the moment on in which the new shard's IDENTIFY is
//     sent: nothing earlier can come from the session that it opens.
//   - An event with a unique key that both have brought is an anchor: whatever came before it on
//     either side, and has found no partner, will find none. Only a neighbour, which the two sides
//     may have in a different order, may still come, up to the next anchor. Content that has come
//     once on each side within the lag is as good, but for what the follower alone has.
//   - What the leader brings out of order, past an event with a unique key that the follower has
//     brought and the leader has not, is an earlier event of equal content, or swapped with its
//     neighbour: the next anchor tells. It also tells of pairs that it stands between: these were
//     none.
//   - Without an anchor: what nobody has brought within the lag, though a heartbeat that was sent
//     after the lag has been acknowledged, will not come.
//
// A mistake costs no event while both sides are there: what one of them is not believed, the other
// one brings, late. So the switch waits until there can be none: until each guild has had an anchor
// since its new session began, or nothing of equal content is remembered that may have been counted
// wrongly; and, for a while, for what is merely unlikely.
//
// Discord makes a guild's interactions in another service than its other events, so their order is
// kept apart. Pure: no clock, no threads, no bytes. Not thread-safe.
class Alignment {
 public:
  Alignment(AlignmentOptions options, uint32_t old_count, uint32_t new_count);
  Alignment(const Alignment&) = delete;
  Alignment& operator=(const Alignment&) = delete;

  // ---- The sessions ----

  enum class SourceState : uint8_t {
    kAbsent,   // no session, and no IDENTIFY on its way: what it has not brought it will not bring
    kOpening,  // IDENTIFY has been sent
    kReady,
    kAway,  // not connected, but its session will be resumed, and bring all that it has missed
  };
  // All are kAbsent at first. Held events that no longer wait for this shard go to `released`, or
  // to `settled`, as OnEvent() has them.
  void SetState(Side side, uint32_t shard, SourceState state, SteadyTime now,
                std::vector<uint32_t>* released, std::vector<uint32_t>* settled);
  // Directly behind kOpening -> kReady: the guilds that READY has named. What first comes of each
  // is no event, but tells a new session how the guild is.
  void SetGuilds(Side side, uint32_t shard, std::span<const uint64_t> guilds);
  // The shard has lost events: what is held for it is released.
  void ReleaseAll(Side side, uint32_t shard, std::vector<uint32_t>* released,
                  std::vector<uint32_t>* settled);
  // A heartbeat that was sent then has been acknowledged.
  void SetFresh(Side side, uint32_t shard, SteadyTime sent);

  // ---- The events ----

  struct Arrival {
    Side side = Side::kOld;
    uint32_t shard = 0;
    uint64_t guild_id = 0;
    Identity identity{};
    bool is_guild = false;  // GUILD_CREATE or GUILD_DELETE
    SteadyTime at{};
  };
  enum class Verdict : uint8_t {
    kAppend,       // it goes into the log
    kAppendEarly,  // and its copy is still to come from the leader
    kDrop,         // it is none of the log's
    kDropCopy,     // the log has it already
    kHold,         // it waits; `held` names it from now on
  };
  struct Outcome {
    Verdict verdict = Verdict::kDrop;
    uint32_t held = 0;
  };
  // `released`: held events that go into the log before this one, in this order; of each the copy
  // is still to come from the leader. `settled`: held events that are void: this one is their copy.
  Outcome OnEvent(const Arrival& event, std::vector<uint32_t>* released,
                  std::vector<uint32_t>* settled);

  // What time has decided.
  void Tick(SteadyTime now, std::vector<uint32_t>* released, std::vector<uint32_t>* settled);

  // ---- The switch ----

  // Why not now, in words; empty: Switch() may be called.
  std::string WhyNotSwitch(SteadyTime now);
  // An event that the log has, and that a session of the new leader will bring.
  struct Expected {
    uint64_t guild_id = 0;
    Producer producer = Producer::kGuild;
    EventKey key{};
    SteadyTime at{};
  };
  // That a session of this side will bring.
  std::vector<Expected> ExpectedFrom(Side side) const;
  // The new side leads. `released`: all that was held, to go into the log now.
  void Switch(SteadyTime now, std::vector<uint32_t>* released, std::vector<uint32_t>* settled);
  // After Switch(): what the old side had to bring from before it has come, over both.
  bool HasDrained() const;

  // The follower is gone: what it still says is dropped. Held events go to `released` after the
  // switch, or to `settled` where the leader has brought them, but for those that the leader surely
  // brings; these are void, and so are all before it.
  // Copies that the leader is still to bring stay expected.
  void End(std::vector<uint32_t>* released, std::vector<uint32_t>* settled);
  // For what an earlier process, or an earlier rescale, has left: the leader will bring it.
  void Expect(const Expected& copy);
  bool expects_copies() const { return in_use_ > 0; }
  bool expects_copies_from(Side side) const;

  Side leader() const { return leader_; }
  struct Counts {
    uint32_t guilds = 0;
    uint32_t guilds_aligned = 0;
    uint64_t held = 0;
    uint64_t remembered = 0;
    uint64_t matched = 0;
    uint64_t unmatched = 0;
    uint64_t expired = 0;
    uint64_t reordered = 0;
    uint64_t lost = 0;
  };
  Counts counts() const;
  double unmatched_share(SteadyTime now) const { return rate_.share(now); }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Links {
    uint32_t previous = kNone;
    uint32_t next = kNone;
  };
  struct Chain {
    uint32_t first = kNone;
    uint32_t last = kNone;
  };
  // An event that waits for its copy.
  struct Node {
    EventKey key{};
    SteadyTime at{};
    uint64_t order = 0;  // of arrival
    uint64_t place = 0;  // among all that came over the side in the lane
    uint32_t lane = 0;
    uint32_t next_equal = kNone;  // of the same side, lane and key
    Links in_lane{};              // in the order of arrival
    Links in_source{};            // of those that wait for the same shard
    Side side = Side::kOld;
    bool is_held = false;  // else it is in the log
    bool is_unique = false;
    bool is_in_lane = false;
    bool is_weak = false;     // an anchor has passed it
    bool is_spare = false;    // of after the switch: the new session brings it, if it lives
    bool is_counted = false;  // it counts as unmatched if nothing comes
  };
  struct Recent {
    EventKey key{};
    SteadyTime at{};
  };
  // Two events of equal content that were taken for copies, by their places on each side.
  struct Pair {
    EventKey key{};
    std::array<uint64_t, 2> places{};
  };
  // The events of one guild and producer.
  struct Lane {
    uint64_t guild_id = 0;
    Producer producer = Producer::kGuild;
    std::array<uint32_t, 2> source{};  // shard id by side
    std::array<Chain, 2> order{};      // by side
    std::array<std::vector<uint32_t>, 2> weak{};
    std::array<uint64_t, 2> arrivals{};           // by side
    std::array<std::vector<Recent>, 2> recent{};  // by content
    std::array<uint64_t, 2> anchor{};             // place of the last one by side
    std::array<bool, 2> is_behind_anchor{};
    std::vector<Pair> pairs{};     // since the last anchor
    std::vector<EventKey> owed{};  // that the leader is to bring, and whose copy came already
    uint32_t aligned_epoch = 0;    // the new source's, when there was an anchor
    bool is_doubtful = false;      // the leader has brought something out of order since
    uint32_t loose = 0;            // of equal content and remembered: may be counted wrongly
  };
  struct Source {
    SourceState state = SourceState::kAbsent;
    uint32_t epoch = 1;  // grows with each session
    SteadyTime fresh = SteadyTime::min();
    SteadyTime ready_at{};
    SteadyTime guild_at{};
    absl::flat_hash_set<uint64_t> guilds{};  // that have not come yet
    // Of the other side, waiting for this one.
    std::array<Chain, 2> held{};  // by producer
    Chain remembered{};
  };
  struct IndexKey {
    uint32_t lane = 0;
    Side side = Side::kOld;
    EventKey key{};
    friend bool operator==(const IndexKey&, const IndexKey&) = default;
    template <typename H>
    friend H AbslHashValue(H h, const IndexKey& k) {
      return H::combine(std::move(h), k.lane, static_cast<uint8_t>(k.side), k.key);
    }
  };
  struct Equals {
    uint32_t first = kNone;
    uint32_t last = kNone;
  };

  // A follower's, after the switch: what has happened before it.
  bool HasBroughtAll(const Source& source) const {
    return has_switched_ && source.fresh >= switched_at_;
  }
  void Sort(std::vector<uint32_t>* ids, size_t first) const;
  Source& SourceOf(Side side, uint32_t shard) { return sources_[Index(side)][shard]; }
  Source& Awaited(const Node& node);
  static size_t Index(Side side) { return static_cast<size_t>(side); }
  static size_t Index(Producer producer) { return static_cast<size_t>(producer); }
  uint32_t LaneOf(uint64_t guild_id, Producer producer);
  bool IsAligned(const Lane& lane) const;
  bool Blocks(const Lane& lane) const {
    return lane.loose > 0 && (lane.is_doubtful || !IsAligned(lane));
  }
  template <class Change>
  void Changing(uint32_t lane, Change change);

  uint32_t Find(uint32_t lane, Side side, const EventKey& key, bool is_neighbour = false) const;
  bool IsLone(uint32_t lane, const Arrival& event);
  void PassLeader(uint32_t lane, uint32_t end, SteadyTime now);
  void NotePair(uint32_t lane, uint32_t found, Side side, uint64_t place, SteadyTime now);
  void UndoCrossed(uint32_t lane, const std::array<uint64_t, 2>& anchor);
  uint32_t Add(const Node& node);
  void Remove(uint32_t id);
  void LeaveLane(uint32_t id);
  bool IsLoose(const Node& node) const {
    return node.side == Side::kOld && !node.is_held && !node.is_unique && !node.is_weak;
  }
  template <Links Node::*links>
  void Link(Chain* chain, uint32_t id);
  template <Links Node::*links>
  void Unlink(Chain* chain, uint32_t id);
  Chain& SourceChain(const Node& node);

  bool IsNext(uint32_t id) const;
  bool IsBehind(uint32_t id, uint32_t anchor) const;
  void Match(uint32_t id, std::vector<uint32_t>* settled);
  void Lose(uint32_t id, SteadyTime now);
  void Anchor(uint32_t lane, Side side, uint32_t found, SteadyTime now,
              std::vector<uint32_t>* released, std::vector<uint32_t>* settled);
  void Weaken(uint32_t id);
  void Release(uint32_t id, std::vector<uint32_t>* released);
  bool ReleaseOrMatch(uint32_t id, std::vector<uint32_t>* released, std::vector<uint32_t>* settled);
  void Forget(Source& source, SteadyTime now);
  std::string WhyNotAligned(SteadyTime now) const;
  void NewEpoch(Side side, uint32_t shard);

  const AlignmentOptions options_;
  const std::array<uint32_t, 2> counts_;
  Side leader_ = Side::kOld;
  bool has_switched_ = false;
  bool has_ended_ = false;
  SteadyTime switched_at_{};
  std::array<std::vector<Source>, 2> sources_;
  std::vector<Lane> lanes_;
  absl::flat_hash_map<std::pair<uint64_t, uint8_t>, uint32_t> lane_of_;
  std::vector<Node> nodes_;
  std::vector<uint32_t> free_;
  uint32_t in_use_ = 0;
  absl::flat_hash_map<IndexKey, Equals> index_;
  uint64_t order_ = 0;
  uint32_t blocking_ = 0;  // lanes
  uint64_t held_ = 0;
  uint64_t weak_ = 0;  // of the old side
  // Until when events of guilds that had no anchor yet may turn out to have been mistaken.
  SteadyTime unsure_until_ = SteadyTime::min();
  SteadyTime aligned_since_ = SteadyTime::max();
  MatchRate rate_;
  Counts counted_;
};

}  // namespace shardd::rescale
