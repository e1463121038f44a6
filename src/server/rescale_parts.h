#pragma once

#include <string>

#include "events/log.h"
#include "gateway/shard_pool.h"
#include "server/carry_over.h"
#include "server/overlap.h"
#include "server/rescaler.h"
#include "server/shard_board.h"
#include "server/shard_director.h"

namespace shardd::server {

// A rescale of a pool's shards. All that it is given outlives it.
class PoolRescaleParts final : public RescaleParts {
 public:
  PoolRescaleParts(gateway::ShardPool& pool, ShardDirector& director, Overlap& overlap,
                   events::Log& log, ShardBoard& board, CarryOver& carry_over);

  RescaleFacts Facts() const override;
  uint64_t Generation() const override;
  absl::Status Check() const override;
  absl::Status Begin(uint32_t from, uint32_t to) override;
  std::vector<gateway::ShardInfo> Shards(uint32_t shard_count) const override;
  void Beat(uint32_t from, uint32_t to) override;
  Overlap::Progress Tick(SteadyTime now) override;
  bool Switch(SteadyTime now, const events::RescaleChanged& change,
              const std::function<std::string(uint64_t generation)>& data) override;
  bool HasDrained() const override;
  bool SendOn() override;
  void RollBack(uint32_t to) override;
  void Retire(uint32_t from) override;
  void Write(const events::RescaleChanged& change, const std::string& data) override;

 private:
  void KillAll(uint32_t shard_count);
  void Forget(uint32_t shard_count);

  gateway::ShardPool& pool_;
  ShardDirector& director_;
  Overlap& overlap_;
  events::Log& log_;
  ShardBoard& board_;
  CarryOver& carry_over_;
  std::string presence_;  // that the new generation's sessions began with
};

}  // namespace shardd::server
