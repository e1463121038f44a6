#include "server/rescale_parts.h"

#include <algorithm>

#include "common/clock.h"
#include "events/round.h"

namespace shardd::server {

PoolRescaleParts::PoolRescaleParts(gateway::ShardPool& pool, ShardDirector& director,
                                   Overlap& overlap, events::Log& log, ShardBoard& board,
                                   CarryOver& carry_over)
    : pool_(pool),
      director_(director),
      overlap_(overlap),
      log_(log),
      board_(board),
      carry_over_(carry_over) {}

RescaleFacts PoolRescaleParts::Facts() const {
  RescaleFacts facts = director_.Facts();
  facts.starts_due = pool_.session_starts_due();
  facts.voice_guilds = carry_over_.voice_guilds();
  return facts;
}

uint64_t PoolRescaleParts::Generation() const { return director_.overview().generation; }

absl::Status PoolRescaleParts::Check() const { return director_.CheckRescalable(); }

absl::Status PoolRescaleParts::Begin(uint32_t from, uint32_t to) {
  if (auto status = director_.BeginRescale(to); !status.ok()) return status;
  // Before anything is heard of the new shards.
  board_.SetInCharge(from);
  presence_ = carry_over_.presence();
  if (!presence_.empty()) pool_.SetPresence(presence_);
  overlap_.Begin(from, to, Shards(from));
  const absl::Status status = director_.SpawnIncoming(to);
  if (status.ok()) return status;
  overlap_.Cancel();
  overlap_.Finish();
  director_.EndRescale();
  return status;
}

std::vector<gateway::ShardInfo> PoolRescaleParts::Shards(uint32_t shard_count) const {
  std::vector<gateway::ShardInfo> shards = pool_.Snapshot();
  std::erase_if(shards, [&](const auto& shard) { return shard.shard.count != shard_count; });
  return shards;
}

void PoolRescaleParts::Beat(uint32_t from, uint32_t to) {
  pool_.Beat(from);
  pool_.Beat(to);
}

Overlap::Progress PoolRescaleParts::Tick(SteadyTime now) { return overlap_.Tick(now); }

bool PoolRescaleParts::Switch(SteadyTime now, const events::RescaleChanged& change,
                              const std::function<std::string(uint64_t generation)>& data) {
  const uint32_t to = change.rescale.to_shard_count;
  const auto take = [&](std::vector<events::StateChange> changes, uint64_t generation) {
    changes.push_back(change);
    if (!overlap_.Switch(now, changes, data(generation))) return false;
    board_.SetInCharge(to);
    // Before callers' commands go to the new shards, so that these count as newer.
    carry_over_.Begin(to, presence_);
    return true;
  };
  return director_.TakeOver(to, take);
}

bool PoolRescaleParts::HasDrained() const { return overlap_.HasDrained(); }

bool PoolRescaleParts::SendOn() {
  return carry_over_.Pump(
      [this](ShardId shard, gateway::Command command, gateway::SendReply::Done done) {
        pool_.Send(shard, std::move(command), std::nullopt, std::move(done));
      });
}

void PoolRescaleParts::RollBack(uint32_t to) {
  overlap_.Cancel();
  KillAll(to);
  overlap_.Finish();
  Forget(to);
}

void PoolRescaleParts::Retire(uint32_t from) {
  KillAll(from);
  overlap_.Finish();
  Forget(from);
}

void PoolRescaleParts::KillAll(uint32_t shard_count) {
  std::vector<uint32_t> ids;
  for (const gateway::ShardInfo& shard : Shards(shard_count)) ids.push_back(shard.shard.id);
  // 1000: Discord ends the sessions at once. The shards say nothing any more when this returns.
  pool_.Kill(ids, shard_count, /*keep_session=*/false);
}

void PoolRescaleParts::Forget(uint32_t shard_count) {
  pool_.Forget(shard_count);
  board_.Forget(shard_count);
  director_.EndRescale();
}

void PoolRescaleParts::Write(const events::RescaleChanged& change, const std::string& data) {
  events::Round round;
  round.Add(change);
  if (!data.empty()) {
    // Of no shard in particular. No generation is in charge where the server was told to forget it.
    round.Add({.shard = {.id = 0, .count = std::max<uint32_t>(director_.shard_count(), 1)},
               .received_unix_nanos = UnixNanos(std::chrono::system_clock::now()),
               .type = "SHARDD_RESCALE",
               .data = data});
  }
  log_.Append(round);
}

}  // namespace shardd::server
