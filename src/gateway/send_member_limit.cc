#include "gateway/send_member_limit.h"

#include <algorithm>

namespace shardd::gateway {

SteadyTime SendMemberLimit::FreeAt(uint64_t guild_id) const {
  const std::lock_guard lock(mutex_);
  const auto found = free_at_.find(guild_id);
  return found == free_at_.end() ? SteadyTime::min() : found->second;
}

bool SendMemberLimit::Take(uint64_t guild_id, SteadyTime now) {
  const std::lock_guard lock(mutex_);
  const auto found = free_at_.find(guild_id);
  if (found != free_at_.end() && found->second > now) return false;
  SetLocked(guild_id, now + kPeriod, now);
  return true;
}

void SendMemberLimit::Block(uint64_t guild_id, std::chrono::milliseconds retry_after,
                            SteadyTime now) {
  const auto wait = std::clamp(retry_after, std::chrono::milliseconds(0), kLongestBlock);
  const std::lock_guard lock(mutex_);
  SetLocked(guild_id, now + wait, now);
}

size_t SendMemberLimit::size() const {
  const std::lock_guard lock(mutex_);
  return free_at_.size();
}

void SendMemberLimit::SetLocked(uint64_t guild_id, SteadyTime free_at, SteadyTime now) {
  const auto [entry, is_new] = free_at_.try_emplace(guild_id, free_at);
  if (!is_new) by_time_.erase({entry->second, guild_id});
  entry->second = free_at;
  by_time_.emplace(free_at, guild_id);
  while (by_time_.begin()->first <= now || by_time_.size() > kMostGuilds) {
    free_at_.erase(by_time_.begin()->second);
    by_time_.erase(by_time_.begin());
    if (by_time_.empty()) break;
  }
}

}  // namespace shardd::gateway
