#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "events/log.h"
#include "gateway/gateway_bot.h"
#include "gateway/shard_pool.h"
#include "server/rescale_plan.h"

namespace shardd::server {

struct ShardDirectorOptions {
  std::optional<uint32_t> shard_count;  // --shard-count; none: auto
  std::vector<uint32_t> shard_ids;      // --shard-ids; empty: all of the generation
  uint32_t guilds_per_shard = 0;        // --guilds-per-shard; 0: as Discord recommends
  std::string api_url{};                // --api-url: sessions of another one are not resumed
  uint64_t intents = 0;                 // --intents: neither are sessions with others
  bool reset_generation = false;        // --reset-generation
  // The guilds of a shard, as an earlier process has left them; empty: nobody knows.
  std::function<std::vector<uint64_t>(ShardId)> guilds_of{};
};

// Decides which shards should run: checks what callers ask for against the generation and the
// flags, and passes it to the pool. What it decides stands in the log before it is answered, so
// that the next process goes on with it. Failures carry the reasons that the proto names.
// Thread-safe.
class ShardDirector {
 public:
  ShardDirector(ShardDirectorOptions options, gateway::ShardPool& pool, events::Log& log);

  // Goes on where an earlier process stopped: its generation is this one's, its sessions are
  // resumed at once, and what was stopped stays stopped. What it knew wins over --shard-count and
  // --shard-ids. REQUIRES: before all else, once.
  enum class Resumed {
    kNothing,  // there is no generation to go on with: a first start
    kSome,     // StartWanted() has shards to start that have no session
    kAll,
  };
  Resumed Resume();
  // Starts what should run and does not yet: of the generation that was resumed, what is wanted; at
  // a first start --shard-ids of --shard-count.
  using Shards = std::vector<gateway::ShardInfo>;
  absl::StatusOr<Shards> StartWanted();

  // Discord's answer to GET /gateway/bot: from the first one on, shards can be spawned.
  void SetGatewayBot(const gateway::GatewayBot& bot);
  // It could not be read again: what is known stays.
  void KeepGatewayBot() { pool_.KeepGatewayBot(); }
  // `refresh`: how shards that wait ask for one of the two above. Must not block.
  void SetRefresh(std::function<void()> refresh) { pool_.SetRefresh(std::move(refresh)); }

  // The RPCs of these names; `shard_count` 0 is the generation in charge, no ids are all of its
  // shards.
  absl::StatusOr<Shards> Spawn(std::span<const uint32_t> shard_ids, uint32_t shard_count);
  absl::StatusOr<Shards> Kill(std::span<const uint32_t> shard_ids, uint32_t shard_count,
                              bool keep_session);
  absl::StatusOr<ShardId> Locate(uint64_t guild_id, uint32_t shard_count) const;
  // For Stats and Watch, by id.
  absl::StatusOr<Shards> Describe(std::span<const uint32_t> shard_ids, uint32_t shard_count) const;

  // What Spawn without a count would start; none: Discord has not said yet.
  std::optional<uint32_t> wanted_shard_count() const;
  // Of the generation in charge; 0: none yet.
  uint32_t shard_count() const;

  // What a plan for another count is made from, as far as shards tell it without being waited for.
  RescaleFacts Facts() const;

  // ---- For the rescaler, which calls them one at a time ----

  // Whether another generation can take over from the one in charge: all of whose shards must be
  // this server's, and wanted.
  absl::Status CheckRescalable() const;
  // From here until EndRescale() the shards of both counts are the rescale's: Kill is refused, and
  // Spawn of the count that is not in charge. Checks as above.
  absl::Status BeginRescale(uint32_t to_shard_count);
  // Starts all shards of the generation that is to take over. Their sessions' numbers are higher
  // than all that were ever given. Fails as Spawn does, with nothing started.
  absl::Status SpawnIncoming(uint32_t shard_count);
  // The generation of that count is in charge from here on, if `take` returns true. It gets what is
  // to be written of that, and which generation that is; neither Spawn nor Kill comes in between.
  using Take = std::function<bool(std::vector<events::StateChange> changes, uint64_t generation)>;
  bool TakeOver(uint32_t shard_count, const Take& take);
  void EndRescale();

  struct Overview {
    uint32_t shard_count = 0;  // 0: no generation yet
    uint64_t generation = 0;
    std::optional<gateway::GatewayBot> gateway_bot;
    gateway::SessionBudget session_budget;
  };
  Overview overview() const;

 private:
  std::optional<uint32_t> WantedShardCountLocked() const;
  std::vector<uint32_t> ShardsOfThisServer(uint32_t shard_count) const;
  absl::StatusOr<Shards> SpawnChecked(std::span<const uint32_t> shard_ids, uint32_t shard_count);
  absl::Status BudgetSpent(const absl::Status& status) const;
  absl::Status CheckRescalableLocked() const;
  std::string WhyNotResumed(const events::State& left, const events::SessionRecord& session) const;
  void WarnOfFlags(uint32_t shard_count) const;
  void Write(const events::StateChange& change);

  const ShardDirectorOptions options_;
  gateway::ShardPool& pool_;
  events::Log& log_;

  // Held while the pool starts or stops shards, which waits for its workers; taken before mutex_.
  // Nobody who only asks waits for it: the fan-out thread asks, between two events.
  mutable std::mutex control_mutex_;
  // Under control_mutex_: the generation's shards that were ever wanted, and whether they are.
  std::map<uint32_t, bool> wanted_;
  // ... and whether these are what counts, and not the flags.
  bool is_resumed_ = false;
  // ... and, while a rescale runs, the count of its generation that is not in charge; else 0.
  uint32_t rescale_other_ = 0;
  mutable std::mutex mutex_;
  std::optional<gateway::GatewayBot> gateway_bot_;
  events::GatewayKnown gateway_known_;  // as it stands in the log
  uint32_t shard_count_ = 0;
  uint64_t generation_ = 0;
};

}  // namespace shardd::server
