#include "server/shard_size.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/log.h"

namespace shardd::server {
namespace {

// How a shard's reason begins whose IDENTIFY Discord has refused for its number of guilds.
constexpr std::string_view kShardingRequired = "4011";

}  // namespace

std::vector<std::string> SizeWarnings(const RescaleFacts& facts,
                                      std::span<const gateway::ShardInfo> shards) {
  uint32_t too_large = 0, refused = 0;
  for (const gateway::ShardInfo& shard : shards) {
    if (shard.guilds > kMostGuildsOnShard) ++too_large;
    if (shard.state == gateway::ShardState::kFailed &&
        shard.reason.find(kShardingRequired) != std::string::npos) {
      ++refused;
    }
  }
  const std::string cure = absl::StrCat(": call Rescale with shard_count ",
                                        MendingShardCount(facts), " (dry_run shows the plan)");
  std::vector<std::string> warnings;
  if (refused > 0) {
    warnings.push_back(absl::StrCat("Discord refuses ", refused, " of ", facts.shard_count,
                                    " shards (4011), since they would have too many guilds", cure));
  }
  if (too_large > 0) {
    warnings.push_back(absl::StrCat(too_large, " of ", facts.shard_count, " shards have more than ",
                                    kMostGuildsOnShard, " guilds, up to ", facts.most_guilds,
                                    "; they run, but Discord refuses their next IDENTIFY (4011)",
                                    cure));
  }
  return warnings;
}

SteadyTime ShardSizeWatch::OnWake(SteadyTime now) {
  if (now < next_look_) return next_look_;
  next_look_ = now + kInterval;
  const RescaleFacts facts = director_.Facts();
  if (generation_ != director_.overview().generation) said_ = 0;
  generation_ = director_.overview().generation;
  const auto shards = director_.Describe({}, 0);
  const auto warnings = SizeWarnings(facts, *shards);
  // More of them than before: there is news.
  if (warnings.size() > said_) {
    for (const std::string& warning : warnings) log::Warn(warning);
  }
  said_ = std::max(said_, warnings.size());
  return next_look_;
}

}  // namespace shardd::server
