#include "rescale/alignment.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace shardd::rescale {
namespace {

// So few events without a partner say nothing of a share.
constexpr uint64_t kFewUnmatched = 3;

// So many lags the switch waits for what may be mistaken.
constexpr int kMostLags = 3;

// How far from its place an event may be found.
constexpr uint64_t kNeighbours = 2;

// Of a guild's waiting events, that are looked through at once.
constexpr uint32_t kMostSteps = 256;

// Of a guild's events without a key of their own, that are remembered to tell which are alone.
constexpr size_t kMostRecent = 64;

}  // namespace

Alignment::Alignment(AlignmentOptions options, uint32_t old_count, uint32_t new_count)
    : options_(options), counts_{old_count, new_count} {
  sources_[Index(Side::kOld)].resize(old_count);
  sources_[Index(Side::kNew)].resize(new_count);
}

// ---- Lists ----

template <Alignment::Links Alignment::Node::*links>
void Alignment::Link(Chain* chain, uint32_t id) {
  Links& own = nodes_[id].*links;
  own = {.previous = chain->last, .next = kNone};
  if (chain->last != kNone) (nodes_[chain->last].*links).next = id;
  if (chain->first == kNone) chain->first = id;
  chain->last = id;
}

template <Alignment::Links Alignment::Node::*links>
void Alignment::Unlink(Chain* chain, uint32_t id) {
  const Links own = nodes_[id].*links;
  if (own.previous != kNone) (nodes_[own.previous].*links).next = own.next;
  if (own.next != kNone) (nodes_[own.next].*links).previous = own.previous;
  if (chain->first == id) chain->first = own.next;
  if (chain->last == id) chain->last = own.previous;
}

Alignment::Source& Alignment::Awaited(const Node& node) {
  const Side side = Other(node.side);
  return SourceOf(side, lanes_[node.lane].source[Index(side)]);
}

Alignment::Chain& Alignment::SourceChain(const Node& node) {
  Source& source = Awaited(node);
  return node.is_held ? source.held[Index(lanes_[node.lane].producer)] : source.remembered;
}

uint32_t Alignment::LaneOf(uint64_t guild_id, Producer producer) {
  const auto [found, is_new] = lane_of_.try_emplace({guild_id, static_cast<uint8_t>(producer)},
                                                    static_cast<uint32_t>(lanes_.size()));
  if (is_new) {
    Lane& lane = lanes_.emplace_back();
    lane.guild_id = guild_id;
    lane.producer = producer;
    for (const Side side : {Side::kOld, Side::kNew}) {
      lane.source[Index(side)] = ShardForGuild(guild_id, counts_[Index(side)]);
    }
    if (producer == Producer::kGuild) ++counted_.guilds;
  }
  return found->second;
}

bool Alignment::IsAligned(const Lane& lane) const {
  const Source& source = sources_[Index(Side::kNew)][lane.source[Index(Side::kNew)]];
  return lane.aligned_epoch == source.epoch;
}

// Keeps count of the lanes that block, over a change of one.
template <class Change>
void Alignment::Changing(uint32_t lane, Change change) {
  if (Blocks(lanes_[lane])) --blocking_;
  change(lanes_[lane]);
  if (Blocks(lanes_[lane])) ++blocking_;
}

// The one that has waited longest; one that an anchor has passed only where there is no other.
uint32_t Alignment::Find(uint32_t lane, Side side, const EventKey& key, bool is_neighbour) const {
  const auto found = index_.find({lane, side, key});
  if (found == index_.end()) return kNone;
  const uint32_t first = found->second.first;
  for (uint32_t id = found->second.first; id != kNone; id = nodes_[id].next_equal) {
    if (nodes_[id].is_weak) continue;
    const uint64_t behind = nodes_[id].place - lanes_[lane].anchor[Index(side)];
    return is_neighbour && nodes_[first].is_weak && behind > 1 ? first : id;
  }
  return first;
}

uint32_t Alignment::Add(const Node& node) {
  uint32_t id = 0;
  if (free_.empty()) {
    id = static_cast<uint32_t>(nodes_.size());
    nodes_.push_back(node);
  } else {
    id = free_.back();
    free_.pop_back();
    nodes_[id] = node;
  }
  ++in_use_;
  nodes_[id].order = ++order_;
  nodes_[id].is_in_lane = true;
  Equals& equals = index_[{node.lane, node.side, node.key}];
  if (equals.last != kNone) nodes_[equals.last].next_equal = id;
  if (equals.first == kNone) equals.first = id;
  equals.last = id;
  Link<&Node::in_lane>(&lanes_[node.lane].order[Index(node.side)], id);
  Link<&Node::in_source>(&SourceChain(node), id);
  if (node.is_held) ++held_;
  if (IsLoose(node)) Changing(node.lane, [](Lane& lane) { ++lane.loose; });
  return id;
}

void Alignment::Remove(uint32_t id) {
  const Node node = nodes_[id];
  if (IsLoose(node)) Changing(node.lane, [](Lane& lane) { --lane.loose; });
  if (node.is_held) --held_;
  if (node.is_weak) {
    std::erase(lanes_[node.lane].weak[Index(node.side)], id);
    if (node.side == Side::kOld) --weak_;
  }
  LeaveLane(id);
  Unlink<&Node::in_source>(&SourceChain(node), id);
  const auto found = index_.find({node.lane, node.side, node.key});
  uint32_t previous = kNone;
  for (uint32_t each = found->second.first; each != id; each = nodes_[each].next_equal) {
    previous = each;
  }
  if (previous != kNone) nodes_[previous].next_equal = node.next_equal;
  if (found->second.first == id) found->second.first = node.next_equal;
  if (found->second.last == id) found->second.last = previous;
  if (found->second.first == kNone) index_.erase(found);
  free_.push_back(id);
  --in_use_;
}

void Alignment::LeaveLane(uint32_t id) {
  Node& node = nodes_[id];
  if (!std::exchange(node.is_in_lane, false)) return;
  Unlink<&Node::in_lane>(&lanes_[node.lane].order[Index(node.side)], id);
}

// ---- The sessions ----

void Alignment::NewEpoch(Side side, uint32_t shard) {
  ++SourceOf(side, shard).epoch;
  if (side == Side::kOld) return;
  blocking_ = 0;
  for (const Lane& lane : lanes_) blocking_ += Blocks(lane) ? 1 : 0;
}

void Alignment::SetState(Side side, uint32_t shard, SourceState state, SteadyTime now,
                         std::vector<uint32_t>* released, std::vector<uint32_t>* settled) {
  Source& source = SourceOf(side, shard);
  const SourceState before = std::exchange(source.state, state);
  if (state == before && state == SourceState::kReady) return;
  if (state == SourceState::kReady && before != SourceState::kAway) {
    source.ready_at = source.guild_at = now;
  }
  if (state == SourceState::kReady || state == SourceState::kAway) return;
  ReleaseAll(side, shard, released, settled);
  if (state != SourceState::kOpening || before == SourceState::kOpening) return;
  // What came before is not for the session that is being opened.
  source.guilds.clear();
  while (source.remembered.first != kNone) Remove(source.remembered.first);
  if (side == leader_) {
    for (Lane& lane : lanes_) {
      if (lane.source[Index(side)] == shard) lane.owed.clear();
    }
  }
  NewEpoch(side, shard);
}

void Alignment::ReleaseAll(Side side, uint32_t shard, std::vector<uint32_t>* released,
                           std::vector<uint32_t>* settled) {
  const size_t first = released->size();
  for (const Chain& held : SourceOf(side, shard).held) {
    while (held.first != kNone) ReleaseOrMatch(held.first, released, settled);
  }
  Sort(released, first);
}

// From `first` on, as they have come.
void Alignment::Sort(std::vector<uint32_t>* ids, size_t first) const {
  std::sort(ids->begin() + static_cast<std::ptrdiff_t>(first), ids->end(),
            [this](uint32_t a, uint32_t b) { return nodes_[a].order < nodes_[b].order; });
}

void Alignment::SetGuilds(Side side, uint32_t shard, std::span<const uint64_t> guilds) {
  SourceOf(side, shard).guilds = {guilds.begin(), guilds.end()};
}

void Alignment::SetFresh(Side side, uint32_t shard, SteadyTime sent) {
  Source& source = SourceOf(side, shard);
  source.fresh = std::max(source.fresh, sent);
}

// ---- The events ----

Alignment::Outcome Alignment::OnEvent(const Arrival& event, std::vector<uint32_t>* released,
                                      std::vector<uint32_t>* settled) {
  const bool leads = event.side == leader_;
  const Verdict alone = leads ? Verdict::kAppend : Verdict::kDrop;
  if (has_ended_ && !leads) return {Verdict::kDrop};
  // The old sessions' answers are of use for as long as they are there.
  if (event.identity.matching == Matching::kNever) {
    return {has_switched_ ? Verdict::kAppend : alone};
  }
  // Should other shards than the first get events without a guild, each generation gets them in a
  // number of its own.
  if (event.guild_id == 0 && event.shard != 0) return {alone};
  if (has_ended_ &&
      !lane_of_.contains({event.guild_id, static_cast<uint8_t>(event.identity.producer)})) {
    return {Verdict::kAppend};
  }

  const uint32_t lane = LaneOf(event.guild_id, event.identity.producer);
  const Side other_side = Other(event.side);
  const bool is_unique = event.identity.matching == Matching::kUnique;
  Source& source = SourceOf(event.side, lanes_[lane].source[Index(event.side)]);
  const Source& other = SourceOf(other_side, lanes_[lane].source[Index(other_side)]);
  bool is_start = false;
  if (event.is_guild) {
    is_start = source.guilds.erase(event.guild_id) > 0;
    if (is_start) source.guild_at = event.at;
  }

  // It tells a session how a guild is, and nobody else that anything has happened.
  if (is_start) return {alone};

  const uint64_t place = ++lanes_[lane].arrivals[Index(event.side)];
  // Directly behind an anchor its neighbour is looked for, which the two may have swapped.
  const bool is_neighbour = std::exchange(lanes_[lane].is_behind_anchor[Index(event.side)], false);
  uint32_t found = Find(lane, other_side, event.identity.key, is_neighbour);
  const bool is_lone = !is_unique && IsLone(lane, event);
  // The leader would have brought first what stands before it, so this is an earlier event of equal
  // content; or the two have neighbours in a different order. The next anchor tells.
  const bool is_doubtful = found != kNone && nodes_[found].is_held && !is_unique && !IsNext(found);
  if (is_doubtful) found = kNone;
  if (found != kNone) {
    if (is_unique) {
      Anchor(lane, other_side, found, event.at, released, settled);
    } else if (is_lone && nodes_[found].is_in_lane && IsNext(found)) {
      PassLeader(lane, other_side == leader_ ? found : kNone, event.at);
    }
    const bool was_held = nodes_[found].is_held;
    if (!is_unique) NotePair(lane, found, event.side, place, event.at);
    Match(found, settled);
    return {was_held ? Verdict::kAppend : Verdict::kDropCopy};
  }
  if (has_ended_) return {Verdict::kAppend};

  Node node{.key = event.identity.key,
            .at = event.at,
            .place = place,
            .lane = lane,
            .side = event.side,
            .is_unique = is_unique,
            .is_counted =
                other.state == SourceState::kReady && event.at - other.ready_at >= options_.lag};
  if (leads) {
    auto& owed = lanes_[lane].owed;
    if (const auto credit = std::ranges::find(owed, node.key); credit != owed.end()) {
      owed.erase(credit);
    } else if (other.state != SourceState::kAbsent) {
      Add(node);
    }
    if (is_doubtful) Changing(lane, [](Lane& each) { each.is_doubtful = true; });
    return {Verdict::kAppend};
  }
  // A session that has just begun brings what has happened since, and nobody knows since when.
  const bool is_new = event.at - other.ready_at < options_.lag;
  if (other.state == SourceState::kAbsent || other.state == SourceState::kOpening || is_new) {
    Add(node);
    return {Verdict::kAppendEarly};
  }
  node.is_held = true;
  node.is_spare = HasBroughtAll(source);
  return {Verdict::kHold, Add(node)};
}

// Whether nothing that has a key of its own still waits before it.
bool Alignment::IsNext(uint32_t id) const {
  const Node& node = nodes_[id];
  if (!node.is_in_lane) return true;
  uint32_t each = lanes_[node.lane].order[Index(node.side)].first;
  for (uint32_t steps = 0; each != id && steps < kMostSteps; ++steps) {
    if (nodes_[each].is_unique) return false;
    each = nodes_[each].in_lane.next;
  }
  return true;
}

// Its copy has come.
void Alignment::Match(uint32_t id, std::vector<uint32_t>* settled) {
  ++counted_.matched;
  rate_.AddMatched(nodes_[id].at);
  if (nodes_[id].is_held) settled->push_back(id);
  Remove(id);
}

// Both sides have brought a unique event; `found` is what the one of `side` has left.
void Alignment::Anchor(uint32_t lane, Side side, uint32_t found, SteadyTime now,
                       std::vector<uint32_t>* released, std::vector<uint32_t>* settled) {
  if (!nodes_[found].is_in_lane) return;
  for (auto& weak : lanes_[lane].weak) {
    while (!weak.empty()) {
      const uint32_t id = weak.back();
      const uint32_t partner = Find(lane, Other(nodes_[id].side), nodes_[id].key);
      if (partner != kNone && partner != found && nodes_[partner].is_held) {
        Remove(id);
        Match(partner, settled);
      } else {
        Lose(id, nodes_[id].at);
      }
    }
  }
  const auto end_of = [&](Side each) { return each == side ? found : kNone; };
  std::array<uint64_t, 2> places{};
  places[Index(side)] = nodes_[found].place;
  places[Index(Other(side))] = lanes_[lane].arrivals[Index(Other(side))];
  lanes_[lane].anchor = places;
  UndoCrossed(lane, places);
  // What waits on both sides, out of order, is one event.
  const Side follower = Other(leader_);
  PassLeader(lane, end_of(leader_), now);
  for (uint32_t id = lanes_[lane].order[Index(follower)].first;
       id != end_of(follower) && id != kNone;) {
    const uint32_t next = nodes_[id].in_lane.next;
    const uint32_t partner = Find(lane, leader_, nodes_[id].key);
    if (partner != kNone && nodes_[partner].is_weak) {
      Remove(partner);
      Match(id, settled);
    } else {
      if (nodes_[id].is_held) {
        // The leader had the anchor already.
        if (side == leader_) ++counted_.reordered;
        Release(id, released);
      }
      Weaken(id);
    }
    id = next;
  }
  // Neighbours that the two have swapped. (Where a guild has just begun there may be many that
  // only the leader has.)
  const std::vector<uint32_t> passed = lanes_[lane].weak[Index(leader_)];
  for (const uint32_t id : passed) {
    const uint32_t partner = Find(lane, follower, nodes_[id].key);
    if (partner == kNone || nodes_[partner].is_weak) continue;
    if (partner == found || !IsBehind(partner, end_of(follower))) continue;
    Remove(id);
    Match(partner, settled);
  }
  lanes_[lane].is_behind_anchor[Index(Other(side))] = true;
  Changing(lane, [this](Lane& each) {
    each.aligned_epoch = sources_[Index(Side::kNew)][each.source[Index(Side::kNew)]].epoch;
    each.is_doubtful = false;
  });
}

// Two events of equal content have been taken for copies.
void Alignment::NotePair(uint32_t lane, uint32_t found, Side side, uint64_t place, SteadyTime now) {
  auto& pairs = lanes_[lane].pairs;
  if (pairs.size() >= kMostRecent) pairs.erase(pairs.begin());
  Pair& pair = pairs.emplace_back();
  pair.key = nodes_[found].key;
  pair.places[Index(side)] = place;
  pair.places[Index(Other(side))] = nodes_[found].place;
  if (!IsAligned(lanes_[lane])) unsure_until_ = std::max(unsure_until_, now + options_.lag);
}

// An anchor shows that what the leader brought before it was taken for what the follower brought
// behind it. So that one's copy is the next that the leader brings.
void Alignment::UndoCrossed(uint32_t lane, const std::array<uint64_t, 2>& anchor) {
  const size_t leader = Index(leader_), follower = Index(Other(leader_));
  std::erase_if(lanes_[lane].pairs, [&](const Pair& pair) {
    const bool is_crossed =
        pair.places[follower] > anchor[follower] && pair.places[leader] < anchor[leader];
    // Else the two have neighbours in a different order.
    if (is_crossed && pair.places[leader] + kNeighbours < anchor[leader]) {
      const uint32_t next = Find(lane, leader_, pair.key);
      if (next != kNone && nodes_[next].place > anchor[leader]) {
        Remove(next);
      } else if (lanes_[lane].owed.size() < kMostRecent) {
        lanes_[lane].owed.push_back(pair.key);
      }
      return true;
    }
    return pair.places[follower] < anchor[follower] && pair.places[leader] < anchor[leader];
  });
}

// The follower is past what the leader brought before `end`. Only a neighbour may still come, that
// the two have swapped; and what waits on both sides is looked at again.
void Alignment::PassLeader(uint32_t lane, uint32_t end, SteadyTime now) {
  const uint64_t place = end == kNone ? lanes_[lane].arrivals[Index(leader_)] : nodes_[end].place;
  const SteadyTime at = end == kNone ? now : nodes_[end].at;
  for (uint32_t id = lanes_[lane].order[Index(leader_)].first; id != end && id != kNone;) {
    const Node& node = nodes_[id];
    const uint32_t next = node.in_lane.next;
    const uint32_t partner = Find(lane, Other(leader_), node.key);
    const bool waits_on_both = partner != kNone && nodes_[partner].is_held;
    const bool is_neighbour = place - node.place <= kNeighbours && at - node.at <= options_.lag / 2;
    if (node.is_unique || waits_on_both || is_neighbour) {
      Weaken(id);
    } else {
      Lose(id, node.at);
    }
    id = next;
  }
}

// Whether no other event of this content has come over either side within the lag: then this one
// and its copy are surely the same.
bool Alignment::IsLone(uint32_t lane, const Arrival& event) {
  uint32_t equal[2] = {0, 0};
  for (const Side side : {Side::kOld, Side::kNew}) {
    auto& recent = lanes_[lane].recent[Index(side)];
    auto kept = recent.begin();
    if (recent.size() > kMostRecent)
      kept += static_cast<std::ptrdiff_t>(recent.size() - kMostRecent);
    while (kept != recent.end() && event.at - kept->at > options_.lag) ++kept;
    recent.erase(recent.begin(), kept);
    for (const Recent& each : recent) equal[Index(side)] += each.key == event.identity.key ? 1 : 0;
  }
  lanes_[lane].recent[Index(event.side)].push_back({event.identity.key, event.at});
  return equal[Index(event.side)] == 0 && equal[Index(Other(event.side))] == 1;
}

// Whether it is the next that waits behind the anchor.
bool Alignment::IsBehind(uint32_t id, uint32_t anchor) const {
  const Node& node = nodes_[id];
  if (!node.is_in_lane) return false;
  uint32_t each = anchor == kNone ? lanes_[node.lane].order[Index(node.side)].first
                                  : nodes_[anchor].in_lane.next;
  for (uint32_t steps = 0; each != kNone && each != id && steps < kMostSteps; ++steps) {
    if (nodes_[each].is_unique) return false;
    each = nodes_[each].in_lane.next;
  }
  return each == id;
}

// Its copy does not come.
void Alignment::Lose(uint32_t id, SteadyTime now) {
  if (nodes_[id].is_counted) {
    ++counted_.unmatched;
    rate_.AddUnmatched(now);
  }
  Remove(id);
}

void Alignment::Weaken(uint32_t id) {
  Node& node = nodes_[id];
  LeaveLane(id);
  if (node.is_unique) return;
  if (IsLoose(node)) Changing(node.lane, [](Lane& lane) { --lane.loose; });
  node.is_weak = true;
  if (node.side == Side::kOld) ++weak_;
  lanes_[node.lane].weak[Index(node.side)].push_back(id);
}

// A held event goes into the log; its copy may still come.
void Alignment::Release(uint32_t id, std::vector<uint32_t>* released) {
  Node& node = nodes_[id];
  Unlink<&Node::in_source>(&SourceChain(node), id);
  node.is_held = false;
  --held_;
  Link<&Node::in_source>(&SourceChain(node), id);
  if (IsLoose(node)) Changing(node.lane, [](Lane& lane) { ++lane.loose; });
  released->push_back(id);
}

// Where the leader has brought an event of equal content, out of order, it was this one. False: so
// it is.
bool Alignment::ReleaseOrMatch(uint32_t id, std::vector<uint32_t>* released,
                               std::vector<uint32_t>* settled) {
  const uint32_t partner = Find(nodes_[id].lane, leader_, nodes_[id].key);
  if (partner == kNone) {
    Release(id, released);
    return true;
  }
  Remove(partner);
  Match(id, settled);
  return false;
}

void Alignment::Tick(SteadyTime now, std::vector<uint32_t>* released,
                     std::vector<uint32_t>* settled) {
  for (auto& side : sources_) {
    for (Source& source : side) {
      if (source.state == SourceState::kReady) {
        for (const Producer producer : {Producer::kGuild, Producer::kInteraction}) {
          const Chain& held = source.held[Index(producer)];
          const auto lag =
              producer == Producer::kInteraction ? options_.interaction_lag : options_.lag;
          while (held.first != kNone && now - nodes_[held.first].at >= lag) {
            if (ReleaseOrMatch(held.first, released, settled)) ++counted_.expired;
          }
        }
      }
      Forget(source, now);
    }
  }
}

// What the shard should have brought by now, and has not.
void Alignment::Forget(Source& source, SteadyTime now) {
  if (source.state != SourceState::kReady || source.fresh == SteadyTime::min()) return;
  while (source.remembered.first != kNone) {
    const Node& node = nodes_[source.remembered.first];
    if (source.fresh - node.at < options_.lag) return;
    Lose(source.remembered.first, now);
  }
}

// ---- The switch ----

std::string Alignment::WhyNotSwitch(SteadyTime now) {
  std::string why = WhyNotAligned(now);
  if (!why.empty()) {
    aligned_since_ = SteadyTime::max();
    return why;
  }
  aligned_since_ = std::min(aligned_since_, now);
  // They go by themselves; where there are always some, waiting longer is of no use.
  const bool is_sure = weak_ == 0 && now >= unsure_until_;
  if (!is_sure && now - aligned_since_ < kMostLags * options_.lag) {
    return "events of equal content may have been taken for one another";
  }
  return "";
}

std::string Alignment::WhyNotAligned(SteadyTime now) const {
  const auto& shards = sources_[Index(Side::kNew)];
  SteadyTime begun_at = SteadyTime::min();
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    const Source& source = shards[shard];
    const std::string name = absl::StrCat("shard ", shard, "/", shards.size());
    if (source.state != SourceState::kReady) return absl::StrCat(name, " is not ready");
    const auto quiet = now - source.guild_at;
    if (!source.guilds.empty() && quiet < options_.guilds_quiet) {
      return absl::StrCat(source.guilds.size(), " guilds of ", name, " have not come yet");
    }
    if (now - source.ready_at < options_.lag) return absl::StrCat(name, " is ready too recently");
    begun_at = std::max(begun_at, source.guild_at);
  }
  // What happened before the new sessions began, only the old ones can bring.
  const auto& old = sources_[Index(Side::kOld)];
  for (size_t shard = 0; shard < old.size(); ++shard) {
    if (old[shard].state == SourceState::kAbsent || old[shard].fresh > begun_at) continue;
    return absl::StrCat("shard ", shard, "/", old.size(),
                        " has not acknowledged a heartbeat since the new shards' guilds came");
  }
  if (blocking_ > 0) {
    return absl::StrCat("the two generations' events of ", blocking_,
                        " guilds are not aligned yet");
  }
  const double share = rate_.share(now);
  if (share > options_.max_unmatched_share && rate_.unmatched(now) > kFewUnmatched) {
    return absl::StrCat("over the last minute ", share * 100,
                        " % of the events came through one generation alone, and at most ",
                        options_.max_unmatched_share * 100, " % may");
  }
  return "";
}

std::vector<Alignment::Expected> Alignment::ExpectedFrom(Side side) const {
  std::vector<Expected> copies;
  for (const Source& source : sources_[Index(side)]) {
    for (uint32_t id = source.remembered.first; id != kNone; id = nodes_[id].in_source.next) {
      const Node& node = nodes_[id];
      const Lane& lane = lanes_[node.lane];
      copies.push_back({lane.guild_id, lane.producer, node.key, node.at});
    }
  }
  return copies;
}

bool Alignment::expects_copies_from(Side side) const {
  return std::ranges::any_of(sources_[Index(side)],
                             [](const Source& source) { return source.remembered.first != kNone; });
}

void Alignment::Switch(SteadyTime now, std::vector<uint32_t>* released,
                       std::vector<uint32_t>* settled) {
  const size_t first = released->size();
  for (Source& source : sources_[Index(leader_)]) {
    for (const Chain& held : source.held) {
      while (held.first != kNone) ReleaseOrMatch(held.first, released, settled);
    }
  }
  Sort(released, first);
  leader_ = Other(leader_);
  has_switched_ = true;
  // The old side may bring them yet, and then they go in; the new leader owes none.
  for (Lane& lane : lanes_) lane.owed.clear();
  // What comes of a guild from here on is news, be it the first that comes.
  for (Source& source : sources_[Index(leader_)]) source.guilds.clear();
  switched_at_ = now;
}

bool Alignment::HasDrained() const {
  // Where the old side is ahead there is always something that waits.
  const auto is_spare = [this](const Chain& chain) {
    uint32_t id = chain.first;
    while (id != kNone && nodes_[id].is_spare) id = nodes_[id].in_source.next;
    return id == kNone;
  };
  for (const Source& source : sources_[Index(Side::kNew)]) {
    if (source.state != SourceState::kReady) return false;
    if (!is_spare(source.remembered) || !std::ranges::all_of(source.held, is_spare)) return false;
  }
  return std::ranges::all_of(sources_[Index(Side::kOld)], [this](const Source& source) {
    return HasBroughtAll(source) || source.state == SourceState::kAbsent;
  });
}

void Alignment::End(std::vector<uint32_t>* released, std::vector<uint32_t>* settled) {
  has_ended_ = true;
  const size_t first = released->size();
  for (Source& source : sources_[Index(leader_)]) {
    for (const Chain& held : source.held) {
      while (held.first != kNone) {
        const bool is_there =
            source.state == SourceState::kReady || source.state == SourceState::kAway;
        if (has_switched_ && nodes_[held.first].is_spare && is_there) {
          Remove(held.first);
        } else if (has_switched_) {
          ReleaseOrMatch(held.first, released, settled);
        } else {
          // Without a session the leader does not bring it: it should have been released.
          if (source.state == SourceState::kAbsent) ++counted_.lost;
          Remove(held.first);
        }
      }
    }
  }
  for (Source& source : sources_[Index(Other(leader_))]) {
    while (source.remembered.first != kNone) Remove(source.remembered.first);
  }
  Sort(released, first);
}

void Alignment::Expect(const Expected& copy) {
  Add({.key = copy.key,
       .at = copy.at,
       .lane = LaneOf(copy.guild_id, copy.producer),
       .side = Other(leader_)});
}

Alignment::Counts Alignment::counts() const {
  Counts counts = counted_;
  counts.guilds_aligned = counts.guilds - std::min(counts.guilds, blocking_);
  counts.held = held_;
  counts.remembered = in_use_ - held_;
  return counts;
}

}  // namespace shardd::rescale
