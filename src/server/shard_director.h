#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/gateway_bot.h"
#include "gateway/shard_pool.h"

namespace shardd::server {

struct ShardDirectorOptions {
  std::optional<uint32_t> shard_count;  // --shard-count; none: auto
  std::vector<uint32_t> shard_ids;      // --shard-ids; empty: all of the generation
  uint32_t guilds_per_shard = 0;        // --guilds-per-shard; 0: as Discord recommends
};

// Decides which shards should run: checks what callers ask for against the generation and the
// flags, and passes it to the pool. Failures carry the reasons that the proto names. Thread-safe.
class ShardDirector {
 public:
  ShardDirector(ShardDirectorOptions options, gateway::ShardPool& pool);

  // Discord's answer to GET /gateway/bot: from the first one on, shards can be spawned.
  void SetGatewayBot(const gateway::GatewayBot& bot);
  // It could not be read again: what is known stays.
  void KeepGatewayBot() { pool_.KeepGatewayBot(); }
  // `refresh`: how shards that wait ask for one of the two above. Must not block.
  void SetRefresh(std::function<void()> refresh) { pool_.SetRefresh(std::move(refresh)); }

  // The RPCs of these names; `shard_count` 0 is the generation in charge, no ids are all of its
  // shards.
  using Shards = std::vector<gateway::ShardInfo>;
  absl::StatusOr<Shards> Spawn(std::span<const uint32_t> shard_ids, uint32_t shard_count);
  absl::StatusOr<Shards> Kill(std::span<const uint32_t> shard_ids, uint32_t shard_count,
                              bool keep_session);
  absl::StatusOr<ShardId> Locate(uint64_t guild_id, uint32_t shard_count) const;
  // For Stats and Watch, by id.
  absl::StatusOr<Shards> Describe(std::span<const uint32_t> shard_ids, uint32_t shard_count) const;

  // What Spawn without a count would start; none: Discord has not said yet.
  std::optional<uint32_t> wanted_shard_count() const;

  struct Overview {
    uint32_t shard_count = 0;  // 0: no generation yet
    uint64_t generation = 0;
    std::optional<gateway::GatewayBot> gateway_bot;
    gateway::SessionBudget session_budget;
  };
  Overview overview() const;

 private:
  std::optional<uint32_t> WantedShardCountLocked() const;

  const ShardDirectorOptions options_;
  gateway::ShardPool& pool_;

  // Held while the pool starts or stops shards, which waits for its workers; taken before mutex_.
  // Nobody who only asks waits for it: the fan-out thread asks, between two events.
  std::mutex control_mutex_;
  mutable std::mutex mutex_;
  std::optional<gateway::GatewayBot> gateway_bot_;
  uint32_t shard_count_ = 0;
  uint64_t generation_ = 0;
};

}  // namespace shardd::server
