#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "common/clock.h"

namespace shardd::gateway {

// Requests for all members of a guild (op 8): one a guild and bot in 30 s, else Discord answers
// RATE_LIMITED in place of the members:
// https://discord.com/developers/docs/events/gateway-events#request-guild-members. One for all
// shards. Thread-safe.
class SendMemberLimit {
 public:
  // Discord's 30 s, and a little more since requests do not take the same time to reach it.
  static constexpr std::chrono::milliseconds kPeriod{30'500};
  // The longest that a RATE_LIMITED is believed; those on record say less than 30 s.
  static constexpr std::chrono::milliseconds kLongestBlock{300'000};
  // Guilds that are remembered. Beyond it the one that is free soonest is forgotten, which costs a
  // RATE_LIMITED at worst.
  static constexpr size_t kMostGuilds = 65'536;

  // When the guild's members may be asked for again; in the past where nothing is against it.
  SteadyTime FreeAt(uint64_t guild_id) const;
  // Whether they may be asked for now, which is then taken to be done.
  bool Take(uint64_t guild_id, SteadyTime now);
  // Discord has said how long to wait, and knows better.
  void Block(uint64_t guild_id, std::chrono::milliseconds retry_after, SteadyTime now);

  size_t size() const;

 private:
  void SetLocked(uint64_t guild_id, SteadyTime free_at, SteadyTime now);

  mutable std::mutex mutex_;
  absl::flat_hash_map<uint64_t, SteadyTime> free_at_;
  std::set<std::pair<SteadyTime, uint64_t>> by_time_;  // the same pairs
};

}  // namespace shardd::gateway
