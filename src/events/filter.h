#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "events/index_entry.h"

namespace shardd::events {

// One of `count` disjoint sets of guilds: (guild_id >> 22) % count == index.
struct Partition {
  uint32_t index = 0;
  uint32_t count = 1;

  friend auto operator<=>(const Partition&, const Partition&) = default;
};

// INVALID_ARGUMENT unless index < count <= kMaxPartitions.
absl::Status CheckPartition(const Partition& partition);
inline constexpr uint32_t kMaxPartitions = 65535;

// Which events a reader wants, as it was asked for. All conditions that are given must hold.
struct FilterSpec {
  // Empty: all.
  std::vector<std::string> types{};
  // Discord's formula with `shard_count`; an event without a guild is its own shard's where that
  // has this count, else shard 0's. Empty: all.
  std::vector<uint32_t> shard_ids{};
  uint32_t shard_count = 0;  // set where shard_ids are
  // Empty: all; else events without a guild do not match.
  std::vector<uint64_t> guild_ids{};
  // Events without a guild belong to partition 0, SHARDD_ events to all.
  std::optional<Partition> partition{};
};

// x % divisor without a division, which costs more than all the rest of an index entry. Right for
// x < 2^42, which a guild's id has left when its lower 22 bits are gone, and divisors below 2^22.
class GuildModulo {
 public:
  GuildModulo() = default;
  explicit GuildModulo(uint32_t divisor)
      : divisor_(divisor), reciprocal_(divisor == 1 ? 0 : UINT64_MAX / divisor + 1) {}

  uint32_t Of(uint64_t guild_id) const {
    const uint64_t x = guild_id >> 22;
    if (divisor_ == 1) return 0;
    const auto quotient = static_cast<uint64_t>(static_cast<Wide>(x) * reciprocal_ >> 64);
    return static_cast<uint32_t>(x - quotient * divisor_);
  }

 private:
  __extension__ using Wide = unsigned __int128;

  uint32_t divisor_ = 1;
  uint64_t reciprocal_ = 0;
};

// A FilterSpec made fast: nearly all entries of an index are told by a few comparisons, and the
// record is looked at only where the entry says that it may match. Immutable.
class Filter {
 public:
  // INVALID_ARGUMENT where a condition makes no sense; the message says which and why.
  static absl::StatusOr<Filter> Make(const FilterSpec& spec);

  // True: there is no condition, so nothing has to be asked.
  bool matches_all() const { return conditions_ == 0; }

  // False: the event is not wanted. True: it is, if Confirm agrees.
  bool MayMatch(const IndexEntry& entry) const {
    if (conditions_ & kTypes) {
      const uint32_t bit = entry.type_hash % kTypeBits;
      if (!(type_bits_[bit / 64] >> (bit % 64) & 1)) return false;
      if (!std::ranges::binary_search(type_hashes_, entry.type_hash)) return false;
    }
    if (conditions_ & kGuilds) {
      if (entry.guild_id == 0 || !guild_ids_.contains(entry.guild_id)) return false;
    }
    if (conditions_ & kShards) {
      const uint32_t shard = entry.guild_id != 0                 ? shard_modulo_.Of(entry.guild_id)
                             : entry.shard_count == shard_count_ ? entry.shard_id
                                                                 : 0;
      if (!(shards_[shard / 64] >> (shard % 64) & 1)) return false;
    }
    if (conditions_ & kPartition) return InPartition(entry) || MayBeOwn(entry);
    return true;
  }

  // What the index cannot say: the type by its name. REQUIRES: MayMatch(entry).
  bool Confirm(const IndexEntry& entry, std::string_view record) const;

  // Of shard_ids, types and guild_ids each.
  static constexpr size_t kMaxListed = 10'000;

 private:
  static constexpr uint32_t kTypeBits = 4096;
  enum Condition : uint32_t { kTypes = 1, kGuilds = 2, kShards = 4, kPartition = 8 };

  bool InPartition(const IndexEntry& entry) const {
    return partition_modulo_.Of(entry.guild_id) == partition_index_;
  }
  // Discord's events have a sequence; those of shardd's own have none.
  static bool MayBeOwn(const IndexEntry& entry) { return entry.sequence == 0; }

  uint32_t conditions_ = 0;
  // Bit hash % kTypeBits of each type: tells nearly all others without a search.
  std::array<uint64_t, kTypeBits / 64> type_bits_{};
  std::vector<uint32_t> type_hashes_;  // ascending
  std::vector<std::string> types_;     // ascending
  absl::flat_hash_set<uint64_t> guild_ids_;
  GuildModulo shard_modulo_;
  uint32_t shard_count_ = 0;
  std::vector<uint64_t> shards_;  // a bit a shard
  GuildModulo partition_modulo_;
  uint32_t partition_index_ = 0;
};

}  // namespace shardd::events
