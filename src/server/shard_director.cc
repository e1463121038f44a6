#include "server/shard_director.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "absl/strings/str_cat.h"
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

absl::Status CheckShardCount(uint32_t shard_count) {
  if (shard_count <= kMaxShardCount) return absl::OkStatus();
  return Error(
      absl::StatusCode::kInvalidArgument, reason::kShardCountInvalid,
      absl::StrCat("shard_count is ", shard_count, ": it can be at most ", kMaxShardCount));
}

}  // namespace

ShardDirector::ShardDirector(ShardDirectorOptions options, gateway::ShardPool& pool)
    : options_(std::move(options)), pool_(pool) {}

void ShardDirector::SetGatewayBot(const gateway::GatewayBot& bot) {
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
  if (running > 0 && shard_count != running) {
    return Error(
        absl::StatusCode::kFailedPrecondition, reason::kShardCountMismatch,
        absl::StrCat("this server runs ", running, " shards and was asked to spawn some of ",
                     shard_count, ": call Rescale to change the count"));
  }
  for (const uint32_t id : shard_ids) {
    if (options_.shard_ids.empty() ||
        std::find(options_.shard_ids.begin(), options_.shard_ids.end(), id) !=
            options_.shard_ids.end()) {
      continue;
    }
    return Error(absl::StatusCode::kFailedPrecondition, reason::kShardNotAssigned,
                 absl::StrCat("shard ", id,
                              " is not one of this server's --shard-ids: ask the server that holds "
                              "it, or change the flag"));
  }
  if (!gateway_bot.has_value()) {
    return Error(
        absl::StatusCode::kUnavailable, reason::kGatewayNotKnown,
        "Discord has not answered GET /gateway/bot yet: ask again, and see the server's log",
        kAskAgain);
  }

  std::vector<uint32_t> ids(shard_ids.begin(), shard_ids.end());
  if (ids.empty()) ids = options_.shard_ids;
  if (ids.empty()) {
    ids.resize(shard_count);
    std::iota(ids.begin(), ids.end(), 0);
  }
  if (*std::max_element(ids.begin(), ids.end()) >= shard_count) {
    return Error(absl::StatusCode::kInvalidArgument, reason::kShardIdOutOfRange,
                 absl::StrCat("--shard-ids names shards that do not exist among ", shard_count));
  }
  if (absl::Status status = pool_.Spawn(ids, shard_count); !status.ok()) {
    if (absl::IsResourceExhausted(status)) {
      const auto budget = pool_.session_budget();
      const SteadyTime now = SteadyClock::now();
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          budget.renews_at.value_or(now) - now);
      std::string message(status.message());
      if (budget.renews_at.has_value()) {
        absl::StrAppend(&message, ". Discord grants all anew in ",
                        std::chrono::ceil<std::chrono::minutes>(left).count(), " min");
      }
      return Error(absl::StatusCode::kResourceExhausted, reason::kSessionBudgetSpent, message,
                   std::max(left, kAskAgain));
    }
    return WithReason(status, reason::kServerStopping);
  }
  if (running == 0) {
    const std::lock_guard lock(mutex_);
    shard_count_ = shard_count;
    ++generation_;
  }
  return Describe(ids, shard_count);
}

absl::StatusOr<ShardDirector::Shards> ShardDirector::Kill(std::span<const uint32_t> shard_ids,
                                                          uint32_t shard_count, bool keep_session) {
  const std::lock_guard control(control_mutex_);
  auto shards = Describe(shard_ids, shard_count);
  if (!shards.ok() || shards->empty()) return shards;
  std::vector<uint32_t> ids;
  for (const auto& shard : *shards) ids.push_back(shard.shard.id);
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

ShardDirector::Overview ShardDirector::overview() const {
  const std::lock_guard lock(mutex_);
  return {.shard_count = shard_count_,
          .generation = generation_,
          .gateway_bot = gateway_bot_,
          .session_budget = pool_.session_budget()};
}

}  // namespace shardd::server
