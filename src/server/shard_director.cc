#include "server/shard_director.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "server/rpc_error.h"

namespace shardd::server {
namespace {

// discord.js's rule, which users know: Discord recommends one shard for this many guilds.
constexpr uint64_t kGuildsPerRecommendedShard = 1000;
// The shortest time that a caller is told to wait.
constexpr std::chrono::milliseconds kAskAgain{1000};

absl::Status CheckDistinct(std::span<const uint32_t> shard_ids) {
  std::set<uint32_t> seen;
  for (const uint32_t id : shard_ids) {
    if (!seen.insert(id).second) {
      return Error(absl::StatusCode::kInvalidArgument, reason::kDuplicateShardId,
                   absl::StrCat("shard ", id, " is given twice: name each shard once"));
    }
  }
  return absl::OkStatus();
}

absl::Status GatewayNotKnown() {
  return Error(absl::StatusCode::kUnavailable, reason::kGatewayNotKnown,
               "Discord has not answered GET /gateway/bot yet: ask again, and see the server's log",
               kAskAgain);
}

absl::Status RescaleRunning(std::string_view what) {
  return Error(absl::StatusCode::kFailedPrecondition, reason::kRescaleRunning,
               absl::StrCat(std::string(what),
                            ": wait for its end, or call CancelRescale before its switch"),
               kAskAgain);
}

// "0-3,7", as --shard-ids takes it. REQUIRES: sorted.
std::string Ranges(std::span<const uint32_t> ids) {
  std::string text;
  for (size_t first = 0, last = 0; first < ids.size(); first = ++last) {
    while (last + 1 < ids.size() && ids[last + 1] == ids[last] + 1) ++last;
    absl::StrAppend(&text, text.empty() ? "" : ",", ids[first]);
    if (last > first) absl::StrAppend(&text, "-", ids[last]);
  }
  return text;
}

absl::Status CheckShardCount(uint32_t shard_count) {
  if (shard_count <= kMaxShardCount) return absl::OkStatus();
  return Error(
      absl::StatusCode::kInvalidArgument, reason::kShardCountInvalid,
      absl::StrCat("shard_count is ", shard_count, ": it can be at most ", kMaxShardCount));
}

}  // namespace

ShardDirector::ShardDirector(ShardDirectorOptions options, gateway::ShardPool& pool,
                             events::Log& log)
    : options_(std::move(options)), pool_(pool), log_(log) {}

// ---- What outlives the process ----

void ShardDirector::Write(const events::StateChange& change) {
  events::Round round;
  round.Add(change);
  log_.Append(round);
}

std::string ShardDirector::WhyNotResumed(const events::State& left,
                                         const events::SessionRecord& session) const {
  if (options_.reset_generation) return "--reset-generation";
  if (left.api_url != options_.api_url) {
    return absl::StrCat("it is of another Discord: --api-url was ", left.api_url);
  }
  // RESUME would keep the old ones.
  if (session.intents != options_.intents) {
    return absl::StrCat("it has the intents ", session.intents, ", and --intents wants ",
                        options_.intents);
  }
  return "";
}

void ShardDirector::WarnOfFlags(uint32_t shard_count) const {
  std::vector<uint32_t> known;
  for (const auto& [id, is_wanted] : wanted_) known.push_back(id);
  std::vector<uint32_t> flagged = options_.shard_ids;
  std::sort(flagged.begin(), flagged.end());
  const bool is_other_count = options_.shard_count.value_or(shard_count) != shard_count;
  if (!is_other_count && (flagged.empty() || flagged == known)) return;
  log::Warn(
      "the shards that --data-dir knows go on, and not those of the flags: call Rescale to change "
      "their count, or give --reset-generation to start new sessions",
      {{"data_dir", absl::StrCat(Ranges(known), " of ", shard_count)},
       {"flags", absl::StrCat(flagged.empty() ? "all" : Ranges(flagged), " of ",
                              options_.shard_count.has_value() ? absl::StrCat(*options_.shard_count)
                                                               : "auto")}});
}

ShardDirector::Resumed ShardDirector::Resume() {
  const std::lock_guard control(control_mutex_);
  const events::State& left = log_.state_at_open();
  {
    const std::lock_guard lock(mutex_);
    generation_ = left.generation;
    gateway_known_ = {.api_url = left.api_url, .gateway_url = left.gateway_url};
  }
  std::vector<gateway::KeptShard> shards;
  uint32_t session_floor = left.session_floor;
  for (const auto& [shard, record] : left.shards) {
    // What is on a disk may be anything.
    if (shard.count != left.shard_count || shard.id >= shard.count ||
        shard.count > kMaxShardCount) {
      session_floor = std::max(session_floor, record.last_session);
      continue;
    }
    gateway::KeptShard kept{.shard = shard,
                            .last_session = record.last_session,
                            .is_stopped = !record.wanted || options_.reset_generation};
    if (record.session.has_value()) {
      kept.session = gateway::KeptSession{
          .id = record.session->id,
          .resume_url = record.session->resume_url,
          .last_sequence = record.session->last_sequence,
          .last_event_unix_nanos = record.session->last_event_unix_nanos,
      };
      if (options_.guilds_of) kept.session->guilds = options_.guilds_of(shard);
      kept.give_up_because = WhyNotResumed(left, *record.session);
    }
    shards.push_back(std::move(kept));
    if (!options_.reset_generation) wanted_[shard.id] = record.wanted;
  }
  // Also those of --reset-generation, so that they are told, and no number is given twice; nor one
  // of a shard that an earlier generation had.
  const size_t count = shards.size();
  pool_.SetSessionFloor(session_floor);
  pool_.Restore(std::move(shards), left.api_url == options_.api_url ? left.gateway_url : "");
  if (options_.reset_generation && left.shard_count > 0) {
    // Behind what was told of the sessions: ended here, it is done again by the next start.
    Write(events::GenerationBegun{.generation = left.generation, .shard_count = 0});
    log::Info("the generation is discarded", {{"shards", count}});
  }
  if (wanted_.empty()) return Resumed::kNothing;

  is_resumed_ = true;
  {
    const std::lock_guard lock(mutex_);
    shard_count_ = left.shard_count;
  }
  WarnOfFlags(left.shard_count);
  size_t waiting = 0, stopped = 0;
  for (const gateway::ShardInfo& shard : pool_.Snapshot()) {
    if (shard.state == gateway::ShardState::kIdle) ++waiting;
    if (shard.state == gateway::ShardState::kStopped) ++stopped;
  }
  log::Info("going on where the last process stopped", {{"generation", left.generation},
                                                        {"shard_count", left.shard_count},
                                                        {"resuming", count - waiting - stopped},
                                                        {"without_session", waiting},
                                                        {"stopped", stopped}});
  return waiting > 0 ? Resumed::kSome : Resumed::kAll;
}

absl::StatusOr<ShardDirector::Shards> ShardDirector::StartWanted() {
  {
    const std::lock_guard control(control_mutex_);
    if (is_resumed_) {
      std::vector<uint32_t> ids;
      for (const gateway::ShardInfo& shard : pool_.Snapshot()) {
        const auto found = wanted_.find(shard.shard.id);
        const bool is_wanted = found != wanted_.end() && found->second;
        if (is_wanted && shard.state == gateway::ShardState::kIdle) ids.push_back(shard.shard.id);
      }
      if (ids.empty()) return Shards();
      return SpawnChecked(ids, overview().shard_count);
    }
  }
  return Spawn({}, 0);
}

// ---- What Discord says ----

void ShardDirector::SetGatewayBot(const gateway::GatewayBot& bot) {
  const events::GatewayKnown known{.api_url = options_.api_url, .gateway_url = bot.url};
  bool is_news = false;
  {
    const std::lock_guard lock(mutex_);
    is_news = known != gateway_known_;
    gateway_known_ = known;
  }
  // Before any session that is opened there.
  if (is_news) Write(known);
  pool_.SetGatewayBot(bot);
  const std::lock_guard lock(mutex_);
  gateway_bot_ = bot;
}

std::optional<uint32_t> ShardDirector::WantedShardCountLocked() const {
  if (shard_count_ > 0) return shard_count_;
  if (options_.shard_count.has_value()) return options_.shard_count;
  if (!gateway_bot_.has_value()) return std::nullopt;
  uint64_t count = gateway_bot_->recommended_shards;
  if (options_.guilds_per_shard > 0) {
    count = (count * kGuildsPerRecommendedShard + options_.guilds_per_shard - 1) /
            options_.guilds_per_shard;
  }
  return static_cast<uint32_t>(std::clamp<uint64_t>(count, 1, kMaxShardCount));
}

std::optional<uint32_t> ShardDirector::wanted_shard_count() const {
  const std::lock_guard lock(mutex_);
  return WantedShardCountLocked();
}

absl::StatusOr<ShardDirector::Shards> ShardDirector::Spawn(std::span<const uint32_t> shard_ids,
                                                           uint32_t shard_count) {
  if (auto status = CheckShardCount(shard_count); !status.ok()) return status;
  if (auto status = CheckDistinct(shard_ids); !status.ok()) return status;

  const std::lock_guard control(control_mutex_);
  const uint32_t running = overview().shard_count;
  const auto gateway_bot = overview().gateway_bot;
  if (shard_count == 0) shard_count = wanted_shard_count().value_or(0);
  // What is wrong whatever runs here comes first.
  if (shard_count > 0) {
    for (const uint32_t id : shard_ids) {
      if (id < shard_count) continue;
      return Error(absl::StatusCode::kInvalidArgument, reason::kShardIdOutOfRange,
                   absl::StrCat("shard ", id, " does not exist among ", shard_count,
                                ": ids go from 0 to ", shard_count - 1));
    }
  }
  if (rescale_other_ > 0 && shard_count == rescale_other_) {
    return RescaleRunning(
        absl::StrCat("the ", shard_count, " shards of that generation are a rescale's"));
  }
  if (running > 0 && shard_count != running) {
    return Error(
        absl::StatusCode::kFailedPrecondition, reason::kShardCountMismatch,
        absl::StrCat("this server runs ", running, " shards and was asked to spawn some of ",
                     shard_count, ": call Rescale to change the count"));
  }
  for (const uint32_t id : shard_ids) {
    if (options_.shard_ids.empty() || wanted_.contains(id) ||
        std::ranges::find(options_.shard_ids, id) != options_.shard_ids.end()) {
      continue;
    }
    return Error(absl::StatusCode::kFailedPrecondition, reason::kShardNotAssigned,
                 absl::StrCat("shard ", id,
                              " is not one of this server's --shard-ids: ask the server that holds "
                              "it, or change the flag"));
  }
  if (!gateway_bot.has_value() && running == 0) return GatewayNotKnown();

  const std::vector<uint32_t> ids = shard_ids.empty()
                                        ? ShardsOfThisServer(shard_count)
                                        : std::vector(shard_ids.begin(), shard_ids.end());
  if (*std::max_element(ids.begin(), ids.end()) >= shard_count) {
    return Error(absl::StatusCode::kInvalidArgument, reason::kShardIdOutOfRange,
                 absl::StrCat("--shard-ids names shards that do not exist among ", shard_count));
  }
  return SpawnChecked(ids, shard_count);
}

std::vector<uint32_t> ShardDirector::ShardsOfThisServer(uint32_t shard_count) const {
  std::vector<uint32_t> ids = options_.shard_ids;
  if (ids.empty()) {
    ids.resize(shard_count);
    std::iota(ids.begin(), ids.end(), 0);
  } else if (is_resumed_) {
    // The flag may be for another count.
    std::erase_if(ids, [&](uint32_t id) { return id >= shard_count || wanted_.contains(id); });
    for (const auto& [id, is_wanted] : wanted_) ids.push_back(id);
  }
  return ids;
}

// What is written before the pool acts is right whenever the process ends: a generation without
// sessions is started by the next one. REQUIRES: control_mutex_ held, shard_count is the running
// one if there is one.
absl::StatusOr<ShardDirector::Shards> ShardDirector::SpawnChecked(
    std::span<const uint32_t> shard_ids, uint32_t shard_count) {
  const Overview before = overview();
  const bool is_first = before.shard_count == 0;
  events::Round changes;
  for (const uint32_t id : shard_ids) {
    const auto known = wanted_.find(id);
    if (known != wanted_.end() && known->second) continue;
    changes.Add(events::ShardWanted{.shard = {.id = id, .count = shard_count}, .wanted = true});
  }
  if (is_first) {
    // Last, so that it stands in the log with all of its shards or not at all.
    changes.Add(
        events::GenerationBegun{.generation = before.generation + 1, .shard_count = shard_count});
    log_.Append(changes);
  }
  if (absl::Status status = pool_.Spawn(shard_ids, shard_count); !status.ok()) {
    if (is_first) {
      Write(events::GenerationBegun{.generation = before.generation, .shard_count = 0});
    }
    if (absl::IsResourceExhausted(status)) return BudgetSpent(status);
    if (!before.gateway_bot.has_value()) return GatewayNotKnown();
    return WithReason(status, reason::kServerStopping);
  }
  if (!is_first) log_.Append(changes);
  for (const uint32_t id : shard_ids) wanted_[id] = true;
  if (is_first) {
    const std::lock_guard lock(mutex_);
    shard_count_ = shard_count;
    ++generation_;
  }
  return Describe(shard_ids, shard_count);
}

absl::Status ShardDirector::BudgetSpent(const absl::Status& status) const {
  const auto budget = pool_.session_budget();
  const SteadyTime now = SteadyClock::now();
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(budget.renews_at.value_or(now) - now);
  std::string message(status.message());
  if (budget.renews_at.has_value()) {
    absl::StrAppend(&message, ". Discord grants all anew in ",
                    std::chrono::ceil<std::chrono::minutes>(left).count(), " min");
  }
  return Error(absl::StatusCode::kResourceExhausted, reason::kSessionBudgetSpent, message,
               std::max(left, kAskAgain));
}

absl::StatusOr<ShardDirector::Shards> ShardDirector::Kill(std::span<const uint32_t> shard_ids,
                                                          uint32_t shard_count, bool keep_session) {
  const std::lock_guard control(control_mutex_);
  auto shards = Describe(shard_ids, shard_count);
  if (!shards.ok() || shards->empty()) return shards;
  if (rescale_other_ > 0) {
    return RescaleRunning(
        "a rescale runs, and needs the events of every shard of both generations");
  }
  const uint32_t running = this->shard_count();
  std::vector<uint32_t> ids;
  events::Round changes;
  for (const auto& shard : *shards) {
    ids.push_back(shard.shard.id);
    if (shard.shard.count != running) continue;
    changes.Add(events::ShardWanted{.shard = shard.shard, .wanted = false});
    wanted_[shard.shard.id] = false;
  }
  // First: who is killed between the two comes back stopped, with a session that is kept.
  log_.Append(changes);
  pool_.Kill(ids, shards->front().shard.count, keep_session);
  return Describe(ids, shard_count);
}

absl::StatusOr<ShardId> ShardDirector::Locate(uint64_t guild_id, uint32_t shard_count) const {
  if (auto status = CheckShardCount(shard_count); !status.ok()) return status;
  const std::lock_guard lock(mutex_);
  if (shard_count == 0) shard_count = shard_count_;
  if (shard_count == 0) {
    return Error(absl::StatusCode::kFailedPrecondition, reason::kNoGeneration,
                 "no shards run here yet: call Spawn first, or pass shard_count");
  }
  return ShardId{.id = ShardForGuild(guild_id, shard_count), .count = shard_count};
}

absl::StatusOr<ShardDirector::Shards> ShardDirector::Describe(std::span<const uint32_t> shard_ids,
                                                              uint32_t shard_count) const {
  if (auto status = CheckDistinct(shard_ids); !status.ok()) return status;
  if (shard_count == 0) shard_count = overview().shard_count;
  Shards all = pool_.Snapshot();
  std::erase_if(all, [&](const auto& shard) { return shard.shard.count != shard_count; });
  if (shard_ids.empty()) return all;

  Shards asked;
  std::vector<uint32_t> sorted(shard_ids.begin(), shard_ids.end());
  std::sort(sorted.begin(), sorted.end());
  for (const uint32_t id : sorted) {
    const auto found = std::ranges::lower_bound(
        all, id, {}, [](const gateway::ShardInfo& shard) { return shard.shard.id; });
    if (found == all.end() || found->shard.id != id) {
      return Error(
          absl::StatusCode::kNotFound, reason::kShardNotFound,
          absl::StrCat("shard ", id, shard_count > 0 ? absl::StrCat("/", shard_count) : "",
                       " was never spawned on this server: Stats lists the shards that were"));
    }
    asked.push_back(*found);
  }
  return asked;
}

// ---- A rescale ----

absl::Status ShardDirector::CheckRescalable() const {
  const std::lock_guard control(control_mutex_);
  return CheckRescalableLocked();
}

absl::Status ShardDirector::CheckRescalableLocked() const {
  const uint32_t running = shard_count();
  if (running == 0) {
    return Error(absl::StatusCode::kFailedPrecondition, reason::kNoGeneration,
                 "no shards run here yet: call Spawn first");
  }
  if (wanted_.size() < running) {
    return Error(absl::StatusCode::kFailedPrecondition, reason::kPartialPool,
                 absl::StrCat("this server holds ", wanted_.size(), " of ", running,
                              " shards, and another count would move guilds to and from the "
                              "others: start one server that holds all, with the new count"));
  }
  std::vector<uint32_t> stopped;
  for (const auto& [id, is_wanted] : wanted_) {
    if (!is_wanted) stopped.push_back(id);
  }
  if (!stopped.empty()) {
    return Error(absl::StatusCode::kFailedPrecondition, reason::kShardNotRunning,
                 absl::StrCat("shards ", Ranges(stopped), " of ", running,
                              " were stopped by Kill, and a new generation would start their "
                              "guilds again: Spawn them first"));
  }
  return absl::OkStatus();
}

absl::Status ShardDirector::BeginRescale(uint32_t to_shard_count) {
  const std::lock_guard control(control_mutex_);
  if (auto status = CheckRescalableLocked(); !status.ok()) return status;
  rescale_other_ = to_shard_count;
  return absl::OkStatus();
}

absl::Status ShardDirector::SpawnIncoming(uint32_t shard_count) {
  const std::lock_guard control(control_mutex_);
  if (!overview().gateway_bot.has_value()) return GatewayNotKnown();
  const events::State state = log_.state();
  uint32_t floor = state.session_floor;
  for (const auto& [shard, record] : state.shards) floor = std::max(floor, record.last_session);
  for (const auto& shard : pool_.Snapshot()) floor = std::max(floor, shard.session);
  pool_.SetSessionFloor(floor);
  std::vector<uint32_t> ids(shard_count);
  std::iota(ids.begin(), ids.end(), 0);
  const absl::Status status = pool_.Spawn(ids, shard_count);
  if (status.ok()) return status;
  if (absl::IsResourceExhausted(status)) return BudgetSpent(status);
  return WithReason(status, reason::kServerStopping);
}

bool ShardDirector::TakeOver(uint32_t shard_count, const Take& take) {
  const std::lock_guard control(control_mutex_);
  const uint64_t generation = overview().generation + 1;
  // The shards behind the generation, which forgets those of other counts.
  std::vector<events::StateChange> changes = {
      events::GenerationBegun{.generation = generation, .shard_count = shard_count}};
  for (uint32_t id = 0; id < shard_count; ++id) {
    changes.push_back(
        events::ShardWanted{.shard = {.id = id, .count = shard_count}, .wanted = true});
  }
  if (!take(std::move(changes), generation)) return false;
  wanted_.clear();
  for (uint32_t id = 0; id < shard_count; ++id) wanted_[id] = true;
  is_resumed_ = true;
  const std::lock_guard lock(mutex_);
  rescale_other_ = std::exchange(shard_count_, shard_count);
  generation_ = generation;
  return true;
}

void ShardDirector::EndRescale() {
  const std::lock_guard control(control_mutex_);
  rescale_other_ = 0;
}

RescaleFacts ShardDirector::Facts() const {
  const Overview overview = this->overview();
  RescaleFacts facts{.shard_count = overview.shard_count, .budget = overview.session_budget};
  if (overview.gateway_bot.has_value()) {
    facts.recommended_shards = overview.gateway_bot->recommended_shards;
  }
  for (const gateway::ShardInfo& shard : pool_.Snapshot()) {
    if (shard.shard.count != overview.shard_count) continue;
    facts.guilds += shard.guilds;
    facts.most_guilds = std::max(facts.most_guilds, shard.guilds);
    if (shard.state != gateway::ShardState::kStopped &&
        shard.state != gateway::ShardState::kFailed) {
      ++facts.connections;
    }
  }
  return facts;
}

uint32_t ShardDirector::shard_count() const {
  const std::lock_guard lock(mutex_);
  return shard_count_;
}

ShardDirector::Overview ShardDirector::overview() const {
  const std::lock_guard lock(mutex_);
  return {.shard_count = shard_count_,
          .generation = generation_,
          .gateway_bot = gateway_bot_,
          .session_budget = pool_.session_budget()};
}

}  // namespace shardd::server
