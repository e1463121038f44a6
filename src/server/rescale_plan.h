#pragma once

#include <chrono>
#include <cstdint>

#include "gateway/compression.h"
#include "gateway/identify_gate.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::server {

// Discord lets no shard IDENTIFY with more:
// https://discord.com/developers/docs/events/gateway#sharding.
inline constexpr uint32_t kMostGuildsOnShard = 2500;

// What is known when a rescale is asked for.
struct RescaleFacts {
  uint32_t shard_count = 0;         // of the generation in charge
  uint64_t guilds = 0;              // of its shards together, as far as they are known
  uint32_t most_guilds = 0;         // of one of its shards
  uint32_t connections = 0;         // of its shards that run
  uint32_t recommended_shards = 0;  // by Discord; 0: not known
  gateway::SessionBudget budget{};
  uint32_t starts_due = 0;    // IDENTIFYs that wait already
  uint32_t voice_guilds = 0;  // in whose calls the bot is
};

struct RescalePlanOptions {
  gateway::Compression compression = gateway::Compression::kZstdStream;
  uint64_t held_bytes = 0;                          // --rescale-held-bytes
  std::chrono::milliseconds lag{0};                 // --rescale-lag
  std::chrono::milliseconds drain{0};               // --rescale-drain
  std::chrono::milliseconds identify_window{5100};  // ShardPoolOptions
};

// The count that a Rescale to 0 means; `guilds_per_shard` 0: as Discord recommends. The running one
// where a lower count would hardly do: guilds come and go, and each change costs session starts. 0:
// neither is known.
uint32_t ChooseShardCount(const RescaleFacts& facts, uint32_t guilds_per_shard);

// A count that fits these guilds, by Discord's own measure and recommendation; more than the
// running one.
uint32_t MendingShardCount(const RescaleFacts& facts);

v1::RescalePlan MakeRescalePlan(const RescaleFacts& facts, uint32_t to_shard_count,
                                const RescalePlanOptions& options);

// Whether the session starts that are left cover it.
bool IsCovered(const RescaleFacts& facts, uint32_t to_shard_count);

}  // namespace shardd::server
