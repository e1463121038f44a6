#include "server/overlap.h"

#include <algorithm>
#include <mutex>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "events/round.h"
#include "gateway/intents.h"
#include "gateway/payload.h"
#include "rescale/alignment.h"
#include "rescale/event_key.h"
#include "rescale/recent_keys.h"

namespace shardd::server {
namespace {

using gateway::ShardState;
using rescale::Alignment;
using rescale::Side;
using SourceState = Alignment::SourceState;
using Verdict = Alignment::Verdict;

// Events that wait for their copy, held or in the log: some 150 bytes each.
constexpr uint64_t kMostWaiting = 500'000;
// Guilds whose events have come: some 400 bytes each. It is a server that says how many there are.
constexpr uint32_t kMostGuilds = 500'000;
// Of those whose key is unique, among which doubles are looked for.
constexpr size_t kMostAudited = 65'536;
// Of the log, beside its data, for an event or a change: its other fields and its index entry.
constexpr uint64_t kMostOverhead = 256;

SourceState StateOf(ShardState state, bool has_session) {
  switch (state) {
    case ShardState::kReady:
      return SourceState::kReady;
    case ShardState::kIdentifying:
      return SourceState::kOpening;
    case ShardState::kConnecting:
    case ShardState::kResuming:
    case ShardState::kBackingOff:
    case ShardState::kCrashLoop:
      return has_session ? SourceState::kAway : SourceState::kAbsent;
    case ShardState::kIdle:
    case ShardState::kWaitingToIdentify:
    case ShardState::kFailed:
    case ShardState::kStopped:
      return SourceState::kAbsent;
  }
  return SourceState::kAbsent;
}

// Whether a shard in this state has a session, as far as that can be told.
bool HasSession(ShardState state) {
  return state != ShardState::kIdentifying && StateOf(state, true) != SourceState::kAbsent;
}

// An event that is not in the log yet: a copy of the dispatch, which lives for a moment only.
struct HeldEvent {
  ShardId shard;
  uint32_t session = 0;
  uint64_t sequence = 0;
  uint64_t guild_id = 0;
  int64_t received_unix_nanos = 0;
  std::string type;
  std::string data;
  rescale::Identity identity{};

  size_t bytes() const { return sizeof(HeldEvent) + type.size() + data.size(); }
};

events::NewEvent ToEvent(const HeldEvent& held) {
  return {.shard = held.shard,
          .session = held.session,
          .sequence = held.sequence,
          .guild_id = held.guild_id,
          .received_unix_nanos = held.received_unix_nanos,
          .type = held.type,
          .data = held.data};
}

events::NewEvent ToEvent(const gateway::Dispatch& dispatch) {
  return {.shard = dispatch.shard,
          .session = dispatch.session,
          .sequence = dispatch.sequence,
          .guild_id = dispatch.guild_id,
          .received_unix_nanos = dispatch.received_unix_nanos,
          .type = dispatch.type,
          .data = dispatch.data};
}

events::CopyKey KeyOf(uint64_t guild_id, rescale::Producer producer, const rescale::EventKey& key) {
  return {.guild_id = guild_id,
          .producer = static_cast<uint8_t>(producer),
          .high = key.high,
          .low = key.low};
}

// What is known of a shard of either generation.
struct Source {
  bool has_session = false;
  events::SessionOpened opened{};  // the present session
  uint64_t last_sequence = 0;      // that came here, and so need not come again
  std::vector<uint64_t> guilds{};  // of its READY, until the shard is told to be ready
  HeldEvent ready{};               // of the side that is not in charge
};

}  // namespace

// All of it under one lock.
class Overlap::Core {
 public:
  Core(events::Log& log, OverlapOptions options)
      : log_(log),
        options_(options),
        clock_(options.clock == nullptr ? RealTime() : *options.clock) {
    const events::State& state = log_.state_at_open();
    if (options_.forgets_copies || state.copies.empty()) return;
    // What is on a disk may be anything.
    if (state.shard_count == 0 || state.shard_count > kMaxShardCount) return;
    Make(state.shard_count, 1);
    alignment_->End(&released_, &settled_);
    std::vector<events::ExpectedCopy> copies;
    for (const auto& [key, times] : state.copies) {
      for (const int64_t time : times) copies.push_back({key, time});
    }
    std::ranges::sort(copies, {}, &events::ExpectedCopy::unix_nanos);
    for (const auto& [key, time] : copies) {
      alignment_->Expect({.guild_id = key.guild_id,
                          .producer = static_cast<rescale::Producer>(key.producer),
                          .key = {.high = key.high, .low = key.low},
                          .at = Now()});
    }
    // Told by the log, which begins with them.
    has_expected_ = true;
  }

  bool is_active() const { return alignment_ != nullptr; }

  void Make(uint32_t from, uint32_t to) {
    counts_[0] = from;
    counts_[1] = to;
    for (const size_t side : {0, 1}) sources_[side] = std::vector<Source>(counts_[side]);
    alignment_ = std::make_unique<Alignment>(
        rescale::AlignmentOptions{.lag = options_.lag,
                                  .interaction_lag = options_.interaction_lag,
                                  .max_unmatched_share = options_.max_unmatched_share},
        from, to);
    stage_ = Stage::kOver;
    failure_.reset();
    audited_.Clear();
    doubled_ = 0;
  }

  void Begin(uint32_t from, uint32_t to, std::span<const gateway::ShardInfo> old_shards) {
    Publish();
    const std::unique_ptr<Alignment> before = std::move(alignment_);
    Make(from, to);
    stage_ = Stage::kBeforeSwitch;
    if (before != nullptr) {
      for (const auto& copy : before->ExpectedFrom(before->leader())) alignment_->Expect(copy);
    }
    std::vector<uint32_t> none;
    for (const gateway::ShardInfo& shard : old_shards) {
      Source* source = Find(shard.shard);
      if (source == nullptr) continue;
      source->has_session = HasSession(shard.state);
      // It has been ready for long enough, whatever that is.
      alignment_->SetState(Side::kOld, shard.shard.id, StateOf(shard.state, source->has_session),
                           Now() - std::chrono::hours(1), &none, &none);
    }
  }

  // ---- What the shards say ----

  // Nobody's: neither generation's.
  bool IsForeign(ShardId shard) const {
    return shard.count != counts_[0] && shard.count != counts_[1];
  }
  // It is to be written down like anything that a shard in charge says.
  bool IsInCharge(ShardId shard) const {
    return shard.count == counts_[static_cast<size_t>(alignment_->leader())];
  }
  Side SideOf(ShardId shard) const { return shard.count == counts_[0] ? Side::kOld : Side::kNew; }
  Source* Find(ShardId shard) {
    if (IsForeign(shard)) return nullptr;
    auto& sources = sources_[static_cast<size_t>(SideOf(shard))];
    return shard.id < sources.size() ? &sources[shard.id] : nullptr;
  }

  void OnSessionOpened(const events::SessionOpened& opened) {
    Source* source = Find(opened.shard);
    if (source == nullptr) return;
    source->has_session = true;
    // Goes into the log with its READY, between which nobody else may come.
    source->opened = opened;
  }

  void OnSessionEnded(ShardId shard, uint32_t session) {
    Source* source = Find(shard);
    if (source == nullptr) return;
    source->has_session = false;
    source->ready = {};
    SetState(shard, SourceState::kAbsent);
    if (IsInCharge(shard)) {
      round_.Add(events::SessionEnded{.shard = shard, .session = session});
    }
  }

  void OnDispatch(const gateway::Dispatch& dispatch) {
    Source* source = Find(dispatch.shard);
    if (source == nullptr) return;
    if (round_.bytes() > kMaxRoundBytes) Publish();
    if (dispatch.sequence > 0) source->last_sequence = dispatch.sequence;
    if (dispatch.type == "READY") {
      OnReady(dispatch, *source);
      // Of the side that is not in charge nobody is to hear it.
      if (!IsInCharge(dispatch.shard)) return;
    }
    const rescale::Identity identity =
        identifier_.Identify(dispatch.type, dispatch.data, dispatch.guild_id, own_user_);
    const auto outcome = alignment_->OnEvent(
        {.side = SideOf(dispatch.shard),
         .shard = dispatch.shard.id,
         .guild_id = dispatch.guild_id,
         .identity = identity,
         .is_guild = dispatch.type == "GUILD_CREATE" || dispatch.type == "GUILD_DELETE",
         .at = Now()},
        Fresh(&released_), Fresh(&settled_));
    Write();
    switch (outcome.verdict) {
      case Verdict::kAppendEarly:
        Expect(KeyOf(dispatch.guild_id, identity.producer, identity.key),
               dispatch.received_unix_nanos);
        [[fallthrough]];
      case Verdict::kAppend:
        Audit(identity);
        round_.Add(ToEvent(dispatch));
        break;
      case Verdict::kDropCopy:
        // What the log keeps of a session that is not in charge, the switch says.
        if (!IsInCharge(dispatch.shard)) break;
        round_.Add(
            events::CopyCame{.shard = dispatch.shard,
                             .session = dispatch.session,
                             .sequence = dispatch.sequence,
                             .key = KeyOf(dispatch.guild_id, identity.producer, identity.key)});
        break;
      case Verdict::kHold:
        Hold(outcome.held, dispatch, identity);
        break;
      case Verdict::kDrop:
        break;
    }
    EndIfNothingIsExpected();
  }

  void OnReady(const gateway::Dispatch& dispatch, Source& source) {
    if (const auto ready = gateway::ParseReady(dispatch.data)) {
      own_user_ = ready->user_id;
      // Without the intent they do not come.
      if ((source.opened.intents & gateway::kGuildsIntent) != 0) source.guilds = ready->guilds;
    }
    if (IsInCharge(dispatch.shard)) {
      round_.Add(source.opened);
      return;
    }
    if (stage_ != Stage::kBeforeSwitch) return;
    round_.Add(events::SessionNumbered{.session = dispatch.session});
    source.ready = {.shard = dispatch.shard,
                    .session = dispatch.session,
                    .sequence = dispatch.sequence,
                    .received_unix_nanos = dispatch.received_unix_nanos,
                    .type = std::string(dispatch.type),
                    .data = std::string(dispatch.data)};
  }

  void OnSessionLost(const gateway::LostSession& lost, std::string_view data) {
    if (Find(lost.shard) == nullptr) return;
    // What the other generation has brought of it comes first.
    alignment_->ReleaseAll(SideOf(lost.shard), lost.shard.id, Fresh(&released_), Fresh(&settled_));
    Write();
    if (IsInCharge(lost.shard)) AddOwn(lost.shard, lost.session, "SHARDD_SESSION_LOST", data);
  }

  void OnSkippedEvent(const gateway::SkippedEvent& skipped, std::string_view data) {
    Source* source = Find(skipped.shard);
    if (source == nullptr) return;
    source->last_sequence = skipped.sequence;
    if (!IsInCharge(skipped.shard)) return;
    AddOwn(skipped.shard, skipped.session, "SHARDD_OVERSIZE", data);
    round_.Add(events::SequencePassed{
        .shard = skipped.shard, .session = skipped.session, .sequence = skipped.sequence});
  }

  void OnStateChange(const gateway::ShardInfo& shard, std::string_view data) {
    Source* source = Find(shard.shard);
    if (source == nullptr) return;
    SetState(shard.shard, StateOf(shard.state, source->has_session));
    if (shard.state == ShardState::kReady && !source->guilds.empty()) {
      alignment_->SetGuilds(SideOf(shard.shard), shard.shard.id, source->guilds);
      source->guilds.clear();
    }
    AddOwn(shard.shard, shard.session, "SHARDD_SHARD_STATE", data);
  }

  void SetState(ShardId shard, SourceState state) {
    alignment_->SetState(SideOf(shard), shard.id, state, Now(), Fresh(&released_),
                         Fresh(&settled_));
    Write();
    ForgetCopiesIfNoneAreExpected();
  }

  void AddOwn(ShardId shard, uint32_t session, std::string_view type, std::string_view data) {
    round_.Add({.shard = shard,
                .session = session,
                .received_unix_nanos = UnixNanos(clock_.Wall()),
                .type = type,
                .data = data});
  }

  void OnHeartbeatAck(ShardId shard, SteadyTime sent) {
    if (Find(shard) == nullptr) return;
    // Only one that is READY beats; as the overlap began, its state may have been on its way here.
    SetState(shard, SourceState::kReady);
    alignment_->SetFresh(SideOf(shard), shard.id, sent);
    // Between two rescales nobody else looks at the clock.
    if (stage_ == Stage::kOver) Tick(Now());
  }

  void Publish() { log_.Append(round_); }

  // ---- What the rescaler wants ----

  Progress Look(SteadyTime now) {
    Progress progress;
    if (!is_active()) return progress;
    Tick(now);
    if (!is_active()) return progress;
    const Alignment::Counts counts = alignment_->counts();
    progress.guilds = counts.guilds;
    progress.guilds_aligned = counts.guilds_aligned;
    progress.held_events = counts.held;
    progress.held_bytes = held_bytes_;
    progress.matched = counts.matched;
    progress.unmatched = counts.unmatched;
    progress.unmatched_share = alignment_->unmatched_share(now);
    progress.expired = counts.expired;
    progress.reordered = counts.reordered;
    progress.doubled = doubled_;
    progress.lost = counts.lost;
    if (stage_ == Stage::kBeforeSwitch) {
      progress.waits_for = WhyNotSwitch(now);
      if (counts.held + counts.remembered > kMostWaiting) {
        Fail(absl::StrCat("over ", kMostWaiting, " events wait for their copies"));
      }
      if (counts.guilds > kMostGuilds) {
        Fail(absl::StrCat("events of over ", kMostGuilds, " guilds have come"));
      }
    }
    progress.failure = failure_;
    return progress;
  }

  std::string WhyNotSwitch(SteadyTime now) {
    std::string why = alignment_->WhyNotSwitch(now);
    if (!why.empty()) return why;
    const size_t copies = alignment_->ExpectedFrom(Side::kNew).size();
    if (copies > options_.max_expected_copies) {
      return absl::StrCat("the new generation is ", copies, " events behind the old one, and ",
                          options_.max_expected_copies,
                          " fit into a log of this size (--retain-bytes)");
    }
    return "";
  }

  bool Switch(SteadyTime now, std::span<const events::StateChange> changes, std::string_view data) {
    if (!is_active() || stage_ != Stage::kBeforeSwitch || failure_) return false;
    Tick(now);
    if (!WhyNotSwitch(now).empty()) return false;
    // By what a held event and a copy take in the log at most.
    uint64_t bytes = held_bytes_ + alignment_->counts().held * kMostOverhead +
                     alignment_->ExpectedFrom(Side::kNew).size() * events::kExpectedCopyBytes +
                     kMostOverhead + data.size();
    for (const Source& source : sources_[1]) {
      bytes += source.ready.data.size() + source.opened.id.size() +
               source.opened.resume_url.size() + 4 * kMostOverhead;
    }
    if (bytes > options_.max_transaction_bytes) {
      Fail(absl::StrCat("the switch would take ", bytes, " bytes of the log at once, and it takes ",
                        options_.max_transaction_bytes, ": raise --retain-bytes"));
      return false;
    }
    Publish();
    alignment_->Switch(now, Fresh(&released_), Fresh(&settled_));
    for (const uint32_t id : settled_) Drop(id);
    for (const events::StateChange& change : changes) round_.Add(change);
    const ShardId first{.id = 0, .count = counts_[1]};
    for (const Source& source : sources_[1]) {
      round_.Add(source.opened);
      round_.AddAside(ToEvent(source.ready));
      round_.Add(events::SequencePassed{.shard = source.opened.shard,
                                        .session = source.opened.session,
                                        .sequence = source.last_sequence});
    }
    events::CopiesExpected expected;
    const WallTime wall = clock_.Wall();
    for (const auto& copy : alignment_->ExpectedFrom(Side::kNew)) {
      expected.copies.push_back(
          {KeyOf(copy.guild_id, copy.producer, copy.key), UnixNanos(wall - (now - copy.at))});
    }
    has_expected_ = !expected.copies.empty();
    if (has_expected_) round_.Add(std::move(expected));
    AddOwn(first, 0, "SHARDD_RESCALE", data);
    for (const uint32_t id : released_) {
      Audit(held_.at(id).identity);
      round_.Add(ToEvent(held_.at(id)));
      Drop(id);
    }
    round_.CommitTogether();
    Publish();
    for (Source& source : sources_[1]) source.ready = {};
    stage_ = Stage::kAfterSwitch;
    return true;
  }

  bool HasDrained() const { return !is_active() || alignment_->HasDrained(); }

  void Cancel() {
    if (!is_active()) return;
    stage_ = Stage::kCancelled;
    alignment_->End(Fresh(&released_), Fresh(&settled_));
    held_.clear();
    held_bytes_ = 0;
  }

  void Finish() {
    if (!is_active()) return;
    if (stage_ == Stage::kAfterSwitch) {
      alignment_->End(Fresh(&released_), Fresh(&settled_));
      Write();
      held_.clear();
      held_bytes_ = 0;
    }
    stage_ = Stage::kOver;
    Publish();
    EndIfNothingIsExpected();
  }

 private:
  enum class Stage {
    kBeforeSwitch,
    kCancelled,  // the new generation's shards still talk
    kAfterSwitch,
    kOver,  // one generation alone, and at most copies that it will bring
  };

  static const Clock& RealTime() {
    static const RealClock clock;
    return clock;
  }
  SteadyTime Now() const { return clock_.Steady(); }

  static std::vector<uint32_t>* Fresh(std::vector<uint32_t>* ids) {
    ids->clear();
    return ids;
  }

  void Fail(std::string why) {
    if (!failure_) failure_ = std::move(why);
  }

  void Hold(uint32_t id, const gateway::Dispatch& dispatch, const rescale::Identity& identity) {
    HeldEvent& held = held_[id];
    held = {.shard = dispatch.shard,
            .session = dispatch.session,
            .sequence = dispatch.sequence,
            .guild_id = dispatch.guild_id,
            .received_unix_nanos = dispatch.received_unix_nanos,
            .type = std::string(dispatch.type),
            .data = std::string(dispatch.data),
            .identity = identity};
    held_bytes_ += held.bytes();
    if (held_bytes_ <= options_.max_held_bytes) return;
    if (stage_ == Stage::kBeforeSwitch) {
      Fail(absl::StrCat("over ", options_.max_held_bytes,
                        " bytes of events wait for the old generation to bring them "
                        "(--rescale-held-bytes)"));
      // They are the old generation's to bring.
      Cancel();
      return;
    }
    Fresh(&released_);
    Fresh(&settled_);
    for (uint32_t shard = 0; shard < counts_[1]; ++shard) {
      alignment_->ReleaseAll(Side::kNew, shard, &released_, &settled_);
    }
    Write();
  }

  void Drop(uint32_t id) {
    const auto found = held_.find(id);
    held_bytes_ -= found->second.bytes();
    held_.erase(found);
  }

  // What was released goes into the log, and what was settled goes.
  void Write() {
    for (const uint32_t id : settled_) Drop(id);
    for (const uint32_t id : released_) {
      const HeldEvent& event = held_.at(id);
      Expect(KeyOf(event.guild_id, event.identity.producer, event.identity.key),
             event.received_unix_nanos);
      Audit(event.identity);
      round_.Add(ToEvent(event));
      Drop(id);
    }
  }

  void Expect(const events::CopyKey& key, int64_t unix_nanos) {
    round_.Add(events::CopiesExpected{.copies = {{key, unix_nanos}}});
    has_expected_ = true;
  }

  void Audit(const rescale::Identity& identity) {
    if (identity.matching == rescale::Matching::kUnique && !audited_.Add(identity.key)) ++doubled_;
  }

  void Tick(SteadyTime now) {
    alignment_->Tick(now, Fresh(&released_), Fresh(&settled_));
    Write();
    ForgetCopiesIfNoneAreExpected();
    Publish();
    EndIfNothingIsExpected();
  }

  // The log is told of copies that come, but not of each that does not. An event of equal content
  // must not be taken for one of those by the next process.
  void ForgetCopiesIfNoneAreExpected() {
    if (!has_expected_ || alignment_->expects_copies_from(alignment_->leader())) return;
    has_expected_ = false;
    round_.Add(events::CopiesForgotten{});
  }

  void EndIfNothingIsExpected() {
    if (stage_ != Stage::kOver || !is_active() || alignment_->expects_copies()) return;
    ForgetCopiesIfNoneAreExpected();
    Publish();
    alignment_.reset();
    for (auto& sources : sources_) sources.clear();
    held_.clear();
    audited_.Clear();
  }

  events::Log& log_;
  const OverlapOptions options_;
  const Clock& clock_;
  events::Round round_;
  rescale::EventIdentifier identifier_;
  std::unique_ptr<Alignment> alignment_;  // nullptr: nothing to do
  uint32_t counts_[2] = {0, 0};
  std::vector<Source> sources_[2];
  Stage stage_ = Stage::kOver;
  uint64_t own_user_ = 0;
  bool has_expected_ = false;                      // the log's state names copies
  absl::flat_hash_map<uint32_t, HeldEvent> held_;  // by what Alignment calls them
  uint64_t held_bytes_ = 0;
  std::optional<std::string> failure_;
  rescale::RecentKeys audited_{kMostAudited};
  uint64_t doubled_ = 0;
  std::vector<uint32_t> released_, settled_;
};

Overlap::Overlap(events::Log& log, OverlapOptions options)
    : core_(std::make_unique<Core>(log, options)) {
  active_ = core_->is_active();
}
Overlap::~Overlap() = default;

// Runs `work`, if there is anything to be done, under the lock.
template <class Work>
bool Overlap::Locked(Work work) {
  const std::lock_guard lock(mutex_);
  if (!core_->is_active()) return false;
  work();
  active_.store(core_->is_active(), std::memory_order_release);
  return true;
}

bool Overlap::OnSessionOpened(const events::SessionOpened& opened) {
  return Locked([&] { core_->OnSessionOpened(opened); });
}
bool Overlap::OnSessionEnded(ShardId shard, uint32_t session) {
  return Locked([&] { core_->OnSessionEnded(shard, session); });
}
bool Overlap::OnDispatch(const gateway::Dispatch& dispatch) {
  return Locked([&] { core_->OnDispatch(dispatch); });
}
bool Overlap::OnSessionLost(const gateway::LostSession& lost, std::string_view event_data) {
  return Locked([&] { core_->OnSessionLost(lost, event_data); });
}
bool Overlap::OnSkippedEvent(const gateway::SkippedEvent& skipped, std::string_view event_data) {
  return Locked([&] { core_->OnSkippedEvent(skipped, event_data); });
}
bool Overlap::OnStateChange(const gateway::ShardInfo& shard, std::string_view event_data) {
  return Locked([&] { core_->OnStateChange(shard, event_data); });
}
bool Overlap::OnOwnEvent(ShardId shard, uint32_t session, std::string_view type,
                         std::string_view event_data) {
  return Locked([&] { core_->AddOwn(shard, session, type, event_data); });
}
void Overlap::OnHeartbeatAck(ShardId shard, SteadyTime sent) {
  Locked([&] { core_->OnHeartbeatAck(shard, sent); });
}
bool Overlap::Flush() {
  return Locked([&] { core_->Publish(); });
}

void Overlap::Begin(uint32_t from_shard_count, uint32_t to_shard_count,
                    std::span<const gateway::ShardInfo> old_shards) {
  const std::lock_guard lock(mutex_);
  core_->Begin(from_shard_count, to_shard_count, old_shards);
  active_.store(true, std::memory_order_release);
}

Overlap::Progress Overlap::Tick(SteadyTime now) {
  Progress progress;
  Locked([&] { progress = core_->Look(now); });
  return progress;
}

bool Overlap::Switch(SteadyTime now, std::span<const events::StateChange> changes,
                     std::string_view event_data) {
  bool is_done = false;
  Locked([&] { is_done = core_->Switch(now, changes, event_data); });
  return is_done;
}

bool Overlap::HasDrained() const {
  const std::lock_guard lock(mutex_);
  return core_->HasDrained();
}

void Overlap::Cancel() {
  Locked([&] { core_->Cancel(); });
}
void Overlap::Finish() {
  Locked([&] { core_->Finish(); });
}

}  // namespace shardd::server
