#pragma once

#include <compare>
#include <cstdint>
#include <string>

namespace shardd {

// The pair that Discord calls `shard`: [shard_id, shard_count].
struct ShardId {
  uint32_t id = 0;
  uint32_t count = 1;

  friend auto operator<=>(const ShardId&, const ShardId&) = default;
};

// Shard counts are kept in 16 bits in the log's index; the largest bots run a few thousand shards.
inline constexpr uint32_t kMaxShardCount = 65535;

// "3/16", as it stands in logs and messages.
inline std::string ToString(ShardId shard) {
  return std::to_string(shard.id) + "/" + std::to_string(shard.count);
}

// The shard that gets a guild's events:
// https://discord.com/developers/docs/events/gateway#sharding. Guild 0, which stands for "no
// guild", belongs to shard 0, as events without a guild do. REQUIRES: shard_count > 0.
inline uint32_t ShardForGuild(uint64_t guild_id, uint32_t shard_count) {
  return static_cast<uint32_t>((guild_id >> 22) % shard_count);
}

}  // namespace shardd
