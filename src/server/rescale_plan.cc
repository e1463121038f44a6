#include "server/rescale_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/shard_id.h"
#include "server/convert.h"

namespace shardd::server {
namespace {

// What Discord's recommendation counts with.
constexpr uint64_t kUsualGuildsOnShard = 1000;
// From here on a shard's start and its replay after a lost connection take noticeably long.
constexpr uint64_t kManyGuildsOnShard = 1500;

// Resident memory of a connection with its TLS, inflater and buffers, measured with 1,000
// connections that inflate Discord's traffic, and rounded up: 471 KB with zstd-stream, whose window
// is what counts, 78 KB with zlib-stream.
constexpr uint64_t kBytesOfZstdConnection = 550'000;
constexpr uint64_t kBytesOfConnection = 100'000;
// A guild that is being aligned: its two lists, and what was on them lately.
constexpr uint64_t kBytesOfGuild = 1'000;

uint32_t Bounded(uint64_t count) {
  return static_cast<uint32_t>(std::clamp<uint64_t>(count, 1, kMaxShardCount));
}

uint64_t DivideUp(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

}  // namespace

uint32_t ChooseShardCount(const RescaleFacts& facts, uint32_t guilds_per_shard) {
  const uint32_t running = facts.shard_count;
  if (guilds_per_shard > 0 && facts.guilds > 0) {
    const uint32_t count = Bounded(DivideUp(facts.guilds, guilds_per_shard));
    const uint32_t with_more =
        Bounded(DivideUp(facts.guilds + facts.guilds / 10, guilds_per_shard));
    return count < running && with_more >= running ? running : count;
  }
  if (facts.recommended_shards == 0) return 0;
  const uint32_t count =
      guilds_per_shard == 0
          ? Bounded(facts.recommended_shards)
          : Bounded(DivideUp(facts.recommended_shards * kUsualGuildsOnShard, guilds_per_shard));
  return count < running && uint64_t{running} * 10 <= uint64_t{count} * 11 ? running : count;
}

uint32_t MendingShardCount(const RescaleFacts& facts) {
  const uint64_t multiple = std::max<uint64_t>(facts.budget.max_concurrency, 1);
  const uint64_t count =
      std::max<uint64_t>({facts.recommended_shards, DivideUp(facts.guilds, kUsualGuildsOnShard),
                          uint64_t{facts.shard_count} + 1});
  return Bounded(DivideUp(count, multiple) * multiple);
}

bool IsCovered(const RescaleFacts& facts, uint32_t to_shard_count) {
  return uint64_t{facts.starts_due} + to_shard_count + facts.budget.reserve <=
         facts.budget.remaining;
}

v1::RescalePlan MakeRescalePlan(const RescaleFacts& facts, uint32_t to_shard_count,
                                const RescalePlanOptions& options) {
  const uint64_t to = to_shard_count;
  const gateway::SessionBudget& budget = facts.budget;
  v1::RescalePlan plan;
  plan.set_identifies(to_shard_count);
  plan.set_peak_connections(facts.connections + to_shard_count);
  plan.set_memory_bytes(to * (options.compression == gateway::Compression::kZstdStream
                                  ? kBytesOfZstdConnection
                                  : kBytesOfConnection) +
                        facts.guilds * kBytesOfGuild + options.held_bytes);
  const uint64_t windows = DivideUp(to, std::max<uint64_t>(budget.max_concurrency, 1));
  *plan.mutable_duration() =
      ToProto(options.identify_window * windows + options.lag + options.drain);

  const auto warn = [&plan](const auto&... parts) { plan.add_warnings(absl::StrCat(parts...)); };
  if (!budget.known) {
    warn(
        "Discord has not said yet how many session starts are left: Rescale is refused until then");
  } else if (IsCovered(facts, to_shard_count)) {
    plan.set_budget_after(budget.remaining - facts.starts_due - to_shard_count);
  } else {
    warn("the session starts do not cover it, and Rescale is refused: it takes ", to,
         facts.starts_due > 0 ? absl::StrCat(" beside ", facts.starts_due, " that are due") : "",
         ", Discord grants ", budget.remaining, " more, of which ", budget.reserve,
         " are kept for shards that lose their session (--identify-reserve)");
  }
  if (budget.max_concurrency > 1 && to % budget.max_concurrency != 0) {
    warn(to, " is not a multiple of ", budget.max_concurrency,
         " (max_concurrency): of a large bot Discord closes such shards with 4010, and the rescale "
         "is rolled back");
  }
  if (facts.most_guilds > kMostGuildsOnShard) {
    warn("a shard has ", facts.most_guilds, " guilds now, and Discord lets one IDENTIFY with ",
         kMostGuildsOnShard,
         " at most: if it loses its session before the switch it is refused (4011)");
  }
  const uint64_t guilds_after = DivideUp(facts.guilds, to);
  if (guilds_after > kMostGuildsOnShard) {
    warn("a shard would have about ", guilds_after, " guilds, and Discord lets one have ",
         kMostGuildsOnShard,
         " at most: its IDENTIFY is refused (4011), and the rescale is rolled "
         "back. It takes ",
         DivideUp(facts.guilds, kMostGuildsOnShard), " shards at least, and ",
         MendingShardCount(facts), " for some room");
  } else if (guilds_after > kManyGuildsOnShard) {
    warn("a shard would have about ", guilds_after, " guilds: over ", kManyGuildsOnShard,
         ", its start and its replays are slow, and little is left to Discord's limit of ",
         kMostGuildsOnShard);
  }
  if (to <= 2) {
    warn("so few shards are worth it only below ", kMostGuildsOnShard,
         " guilds or so, and leave no room to grow");
  } else if (to % 2 != 0) {
    warn(to, " is odd: an even count can be doubled and halved later");
  }
  if (facts.voice_guilds > 0) {
    warn("the bot is in calls of ", facts.voice_guilds,
         " guilds, as far as Send has seen: they hang on the old sessions. Each is joined again "
         "through its new shard at the switch, at most 2 a second and shard, and a voice library "
         "has "
         "to follow the new VOICE_SERVER_UPDATE");
  }
  return plan;
}

}  // namespace shardd::server
