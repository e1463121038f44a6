#include "events/filter.h"

#include <algorithm>
#include <functional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/shard_id.h"
#include "events/event_type.h"
#include "events/round.h"

namespace shardd::events {
namespace {

absl::Status TooMany(const char* list, size_t size) {
  return absl::InvalidArgumentError(
      absl::StrCat("filter.", list, " has ", size, " entries, and can have ", Filter::kMaxListed));
}

bool IsType(std::string_view text) {
  return !text.empty() && text.size() <= kMaxTypeBytes && std::ranges::all_of(text, [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

}  // namespace

absl::Status CheckPartition(const Partition& partition) {
  if (partition.count == 0 || partition.count > kMaxPartitions) {
    return absl::InvalidArgumentError(
        absl::StrCat("partition.count is ", partition.count, ", and can be 1 to ", kMaxPartitions));
  }
  if (partition.index >= partition.count) {
    return absl::InvalidArgumentError(absl::StrCat("partition.index is ", partition.index,
                                                   ", and must be below partition.count, which is ",
                                                   partition.count));
  }
  return absl::OkStatus();
}

absl::StatusOr<Filter> Filter::Make(const FilterSpec& spec) {
  if (spec.types.size() > kMaxListed) return TooMany("types", spec.types.size());
  if (spec.shard_ids.size() > kMaxListed) return TooMany("shard_ids", spec.shard_ids.size());
  if (spec.guild_ids.size() > kMaxListed) return TooMany("guild_ids", spec.guild_ids.size());

  Filter filter;
  for (const std::string& type : spec.types) {
    if (!IsType(type)) {
      return absl::InvalidArgumentError(
          absl::StrCat("an entry of filter.types is no type: Discord's and shardd's have 1 to ",
                       kMaxTypeBytes, " characters of A-Z, 0-9 and _"));
    }
    filter.conditions_ |= kTypes;
    const uint32_t hash = TypeHash(type);
    filter.type_bits_[hash % kTypeBits / 64] |= uint64_t{1} << hash % 64;
    filter.type_hashes_.push_back(hash);
    filter.types_.push_back(type);
  }
  std::ranges::sort(filter.type_hashes_);
  std::ranges::sort(filter.types_);

  if (!spec.shard_ids.empty()) {
    if (spec.shard_count == 0 || spec.shard_count > kMaxShardCount) {
      return absl::InvalidArgumentError(absl::StrCat("filter.shard_count is ", spec.shard_count,
                                                     ", and can be 1 to ", kMaxShardCount));
    }
    filter.conditions_ |= kShards;
    filter.shard_count_ = spec.shard_count;
    filter.shard_modulo_ = GuildModulo(spec.shard_count);
    filter.shards_.resize(spec.shard_count / 64 + 1);
    for (const uint32_t id : spec.shard_ids) {
      if (id >= spec.shard_count) {
        return absl::InvalidArgumentError(
            absl::StrCat("filter.shard_ids has ", id, ", and filter.shard_count is ",
                         spec.shard_count, ": ids go from 0 to the count less one"));
      }
      filter.shards_[id / 64] |= uint64_t{1} << id % 64;
    }
  }
  if (!spec.guild_ids.empty()) {
    filter.conditions_ |= kGuilds;
    filter.guild_ids_.insert(spec.guild_ids.begin(), spec.guild_ids.end());
  }
  if (spec.partition.has_value()) {
    if (auto status = CheckPartition(*spec.partition); !status.ok()) return status;
    if (spec.partition->count > 1) filter.conditions_ |= kPartition;
    filter.partition_index_ = spec.partition->index;
    filter.partition_modulo_ = GuildModulo(spec.partition->count);
  }
  return filter;
}

bool Filter::Confirm(const IndexEntry& entry, std::string_view record) const {
  const bool by_own_type = (conditions_ & kPartition) && !InPartition(entry);
  if (!(conditions_ & kTypes) && !by_own_type) return true;
  const std::string_view type = TypeOf(record);
  if ((conditions_ & kTypes) && !std::ranges::binary_search(types_, type, std::less<>()))
    return false;
  return !by_own_type || type.starts_with(kOwnTypePrefix);
}

}  // namespace shardd::events
