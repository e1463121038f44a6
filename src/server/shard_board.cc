#include "server/shard_board.h"

#include "server/convert.h"

namespace shardd::server {
namespace {

using gateway::ShardState;

// States that a shard passes through between two connections of one session.
bool MayBeResuming(ShardState state) {
  switch (state) {
    case ShardState::kConnecting:
    case ShardState::kResuming:
    case ShardState::kBackingOff:
      return true;
    case ShardState::kIdle:
    case ShardState::kWaitingToIdentify:
    case ShardState::kIdentifying:
    case ShardState::kReady:
    case ShardState::kCrashLoop:
    case ShardState::kFailed:
    case ShardState::kStopped:
      return false;
  }
  return false;
}

}  // namespace

void ShardBoard::Update(const gateway::ShardInfo& shard, SteadyTime now) {
  const std::lock_guard lock(mutex_);
  Entry& entry = shards_[shard.shard];
  if (!MayBeResuming(shard.state)) {
    entry.resuming_since = SteadyTime::min();
  } else if (entry.state == ShardState::kReady || entry.state == ShardState::kIdle) {
    // A shard that begins so resumes the session of an earlier process: IDENTIFY would wait first.
    entry.resuming_since = now;
  }
  entry.state = shard.state;
  Touch();
}

void ShardBoard::SetInCharge(uint32_t shard_count) {
  const std::lock_guard lock(mutex_);
  in_charge_ = shard_count;
  Touch();
}

void ShardBoard::Forget(uint32_t shard_count) {
  const std::lock_guard lock(mutex_);
  std::erase_if(shards_, [&](const auto& each) { return each.first.count == shard_count; });
  Touch();
}

void ShardBoard::SetStarting(bool starting) {
  const std::lock_guard lock(mutex_);
  starting_ = starting;
  Touch();
}

void ShardBoard::SetStopping() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  Touch();
}

std::string ShardBoard::WhyNotReady(SteadyTime now) const {
  const std::lock_guard lock(mutex_);
  if (stopping_) return "the server stops";
  if (starting_) return "the shards have not been started yet";
  for (const auto& [shard, entry] : shards_) {
    if (in_charge_ > 0 && shard.count != in_charge_) continue;
    if (entry.state == ShardState::kReady || entry.state == ShardState::kStopped) continue;
    // SteadyTime::min() must not be subtracted from: it would overflow.
    if (entry.resuming_since != SteadyTime::min() && now - entry.resuming_since < kResumeGrace) {
      continue;
    }
    return "shard " + ToString(shard) + " is " + std::string(StateName(entry.state));
  }
  return "";
}

}  // namespace shardd::server
