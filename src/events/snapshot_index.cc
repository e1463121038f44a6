#include "events/snapshot_index.h"

#include <algorithm>
#include <utility>

namespace shardd::events {
namespace {

uint64_t FrameBytes(const SnapshotRecord& record) { return sizeof(IndexEntry) + record.length; }

ShardId ShardOf(const IndexEntry& event) {
  return {.id = event.shard_id, .count = event.shard_count};
}

uint64_t TailBound(const SnapshotIndex::Guild& guild) {
  return std::max(SnapshotIndex::kTailBytes, FrameBytes(guild.create));
}

}  // namespace

bool SnapshotIndex::Shard::Lists(uint64_t guild) const {
  return std::ranges::binary_search(ready_guilds, guild);
}

// Beside a switch, sessions of shards that are not in charge bring events, too.
ShardId SnapshotIndex::HomeOf(const IndexEntry& event) const {
  if (home_count_ == 0 || event.shard_count == home_count_) return ShardOf(event);
  return {.id = ShardForGuild(event.guild_id, home_count_), .count = home_count_};
}

void SnapshotIndex::Add(const SnapshotRecord& record) {
  live_bytes_ += FrameBytes(record);
  ++live_records_;
}

void SnapshotIndex::Drop(const SnapshotRecord& record) {
  live_bytes_ -= FrameBytes(record);
  --live_records_;
}

void SnapshotIndex::DropGuild(uint64_t guild) {
  const auto shard = shard_of_.find(guild);
  if (shard == shard_of_.end()) return;
  auto& guilds = shards_[shard->second].guilds;
  const auto found = guilds.find(guild);
  Drop(found->second.create);
  for (const SnapshotRecord& record : found->second.tail) Drop(record);
  guilds.erase(found);
  shard_of_.erase(shard);
}

void SnapshotIndex::DropDeleted(uint64_t guild) {
  const auto shard = deleted_from_.find(guild);
  if (shard == deleted_from_.end()) return;
  auto& deleted = shards_[shard->second].deleted;
  Drop(deleted.at(guild));
  deleted.erase(guild);
  deleted_from_.erase(shard);
}

const SnapshotIndex::Guild* SnapshotIndex::Find(uint64_t guild) const {
  const auto shard = shard_of_.find(guild);
  if (shard == shard_of_.end()) return nullptr;
  return &shards_.at(shard->second).guilds.at(guild);
}

bool SnapshotIndex::Wants(const IndexEntry& event, const SnapshotType& type,
                          const SnapshotFacts& facts) {
  if (event.shard_count == 0) return false;
  if (type.role == SnapshotRole::kReady) return true;
  if (type.role == SnapshotRole::kLoss) {
    // A session that does not go on is followed by a READY, which begins anew.
    const auto shard = shards_.find(ShardOf(event));
    return facts.goes_on && shard != shards_.end() && shard->second.ready.has_value();
  }
  const uint64_t guild = event.guild_id;
  if (guild == 0) return false;
  const bool known = shard_of_.contains(guild);
  if (type.role == SnapshotRole::kGuildCreate) return known || !facts.unavailable;
  if (type.role == SnapshotRole::kGuildDelete) {
    // A guild that READY lists is unavailable until its GUILD_CREATE anyway.
    if (facts.unavailable) return known;
    const auto shard = shards_.find(HomeOf(event));
    return known || left_out_.contains(guild) ||
           (shard != shards_.end() && shard->second.Lists(guild));
  }
  if (!known) LeaveOut(guild);
  return known;
}

uint64_t SnapshotIndex::Frees(const IndexEntry& event, const SnapshotType& type,
                              const SnapshotFacts& facts) const {
  if (type.role == SnapshotRole::kReady) {
    const auto shard = shards_.find(ShardOf(event));
    if (shard == shards_.end() || !shard->second.ready.has_value()) return 0;
    return FrameBytes(*shard->second.ready);
  }
  const bool ends_guild = !facts.unavailable && (type.role == SnapshotRole::kGuildCreate ||
                                                 type.role == SnapshotRole::kGuildDelete);
  const Guild* guild = ends_guild ? Find(event.guild_id) : nullptr;
  return guild == nullptr ? 0 : FrameBytes(guild->create) + guild->tail_bytes;
}

bool SnapshotIndex::Apply(const IndexEntry& event, uint8_t type, const SnapshotFacts& facts,
                          uint64_t position) {
  const SnapshotRecord record = {.offset = event.offset,
                                 .position = position,
                                 .id = facts.id,
                                 .length = event.length,
                                 .type = type,
                                 .is_aside = event.is_aside()};
  const uint64_t guild = event.guild_id;
  const ShardId shard = guild == 0 ? ShardOf(event) : HomeOf(event);
  const SnapshotRole role = SnapshotTypeAt(type).role;
  if (role == SnapshotRole::kReady) {
    BeginSession(ShardOf(event), record, facts);
    return true;
  }
  if (role == SnapshotRole::kLoss) {
    auto& losses = shards_[shard].losses;
    if (const auto earlier = losses.find(type); earlier != losses.end()) Drop(earlier->second);
    losses[type] = record;
    Add(record);
    return true;
  }
  if (role == SnapshotRole::kGuildCreate && !facts.unavailable) {
    DropGuild(guild);
    left_out_.erase(guild);
    DropDeleted(guild);
    Guild& created = shards_[shard].guilds[guild];
    created.create = record;
    created.trim_at = TailBound(created);
    shard_of_[guild] = shard;
    Add(record);
    return true;
  }
  if (role == SnapshotRole::kGuildDelete && !facts.unavailable) {
    DropGuild(guild);
    DropDeleted(guild);
    left_out_.erase(guild);
    // A client that takes READY's list at its word must hear of it.
    Shard& from = shards_[shard];
    from.deleted[guild] = record;
    deleted_from_[guild] = shard;
    Add(record);
    DropUnlisted(from, kMostUnlisted);
    return true;
  }
  const auto owner = shard_of_.find(guild);
  if (owner == shard_of_.end()) return true;
  return AppendToTail(shards_[owner->second].guilds[guild], record);
}

void SnapshotIndex::BeginSession(ShardId shard, const SnapshotRecord& record,
                                 const SnapshotFacts& facts) {
  Shard& begun = shards_[shard];
  std::map<uint64_t, SnapshotRecord> deleted;
  deleted.swap(begun.deleted);
  DropReady(begun);
  begun.ready = record;
  begun.ready_guilds = facts.guilds;
  begun.deleted.swap(deleted);
  Add(record);
  if (shard.count != home_count_) has_switched_ = false;
  home_count_ = shard.count;
  // What has gone behind an aside has gone; what any other one lists has come back.
  if (record.is_aside) return DropUnlisted(begun, 0);
  DropListed(begun);
  // Guilds that shards of another count have told of are not this READY's to end.
  std::vector<uint64_t> gone;
  for (const auto& [guild, each] : begun.guilds) {
    if (!begun.Lists(guild)) gone.push_back(guild);
  }
  for (const uint64_t guild : gone) {
    DropGuild(guild);
    if (!facts.has_guilds) LeaveOut(guild);
  }
  if (!facts.has_guilds) return;
  std::erase_if(left_out_, [&](uint64_t guild) {
    return ShardForGuild(guild, shard.count) == shard.id && !begun.Lists(guild);
  });
}

void SnapshotIndex::DropListed(Shard& shard) {
  std::vector<uint64_t> listed;
  for (const auto& [guild, record] : shard.deleted) {
    if (shard.Lists(guild)) listed.push_back(guild);
  }
  for (const uint64_t guild : listed) DropDeleted(guild);
}

void SnapshotIndex::DropUnlisted(Shard& shard, size_t most) {
  if (most > 0 && shard.deleted.size() <= most) return;
  std::vector<std::pair<uint64_t, uint64_t>> unlisted;  // offset and guild
  for (const auto& [guild, record] : shard.deleted) {
    if (!shard.Lists(guild)) unlisted.emplace_back(record.offset, guild);
  }
  if (unlisted.size() <= most) return;
  std::ranges::sort(unlisted);
  unlisted.resize(unlisted.size() - most);
  for (const auto& [offset, guild] : unlisted) DropDeleted(guild);
}

void SnapshotIndex::SwitchTo(uint32_t shard_count) {
  home_count_ = shard_count;
  has_switched_ = true;
  std::map<ShardId, Shard> others;
  for (auto shard = shards_.begin(); shard != shards_.end();) {
    const auto each = shard++;
    if (each->first.count != shard_count) others.insert(shards_.extract(each));
  }
  const auto home_of = [&](uint64_t guild) {
    return ShardId{.id = ShardForGuild(guild, shard_count), .count = shard_count};
  };
  for (auto& [id, shard] : others) {
    while (!shard.guilds.empty()) {
      auto guild = shard.guilds.extract(shard.guilds.begin());
      const ShardId home = home_of(guild.key());
      shard_of_[guild.key()] = home;
      shards_[home].guilds.insert(std::move(guild));
    }
    while (!shard.deleted.empty()) {
      auto guild = shard.deleted.extract(shard.deleted.begin());
      const ShardId home = home_of(guild.key());
      deleted_from_[guild.key()] = home;
      shards_[home].deleted.insert(std::move(guild));
    }
    DropReady(shard);
  }
}

void SnapshotIndex::Clear() {
  shards_.clear();
  shard_of_.clear();
  deleted_from_.clear();
  left_out_.clear();
  home_count_ = 0;
  has_switched_ = false;
  live_bytes_ = live_records_ = 0;
}

void SnapshotIndex::LeaveOut(uint64_t guild) {
  DropGuild(guild);
  if (left_out_.size() < most_left_out_) left_out_.insert(guild);
}

void SnapshotIndex::ForgetGuild(uint64_t guild) {
  DropGuild(guild);
  left_out_.erase(guild);
}

void SnapshotIndex::LeaveOutAll() {
  std::vector<uint64_t> guilds;
  for (const auto& [guild, shard] : shard_of_) guilds.push_back(guild);
  for (const uint64_t guild : guilds) LeaveOut(guild);
}

void SnapshotIndex::ForgetReady(ShardId shard) {
  const auto found = shards_.find(shard);
  if (found == shards_.end()) return;
  DropReady(found->second);
  std::vector<uint64_t> guilds;
  for (const auto& [guild, each] : found->second.guilds) guilds.push_back(guild);
  for (const uint64_t guild : guilds) LeaveOut(guild);
}

void SnapshotIndex::DropReady(Shard& shard) {
  if (shard.ready.has_value()) Drop(*shard.ready);
  for (const auto& [type, record] : shard.losses) Drop(record);
  for (const auto& [guild, record] : shard.deleted) {
    Drop(record);
    deleted_from_.erase(guild);
  }
  shard.ready.reset();
  shard.ready_guilds.clear();
  shard.losses.clear();
  shard.deleted.clear();
}

void SnapshotIndex::ForgetOtherCounts(uint32_t shard_count) {
  for (auto& [id, shard] : shards_) {
    if (id.count != shard_count) DropReady(shard);
  }
  std::vector<uint64_t> gone;
  for (const auto& [guild, owner] : shard_of_) {
    if (HasGone(guild, owner, shard_count)) gone.push_back(guild);
  }
  for (const uint64_t guild : gone) DropGuild(guild);
  std::erase_if(shards_, [&](const auto& each) {
    return each.first.count != shard_count && each.second.guilds.empty();
  });
}

bool SnapshotIndex::HasOtherCounts(uint32_t shard_count) const {
  return std::ranges::any_of(shards_, [&](const auto& each) {
    const auto& [id, shard] = each;
    if (id.count == shard_count) return false;
    return shard.ready.has_value() || shard.guilds.empty() ||
           std::ranges::any_of(shard.guilds, [&](const auto& guild) {
             return HasGone(guild.first, each.first, shard_count);
           });
  });
}

bool SnapshotIndex::HasGone(uint64_t guild, ShardId owner, uint32_t shard_count) const {
  if (owner.count == shard_count) return false;
  const auto now = shards_.find({.id = ShardForGuild(guild, shard_count), .count = shard_count});
  return now != shards_.end() && now->second.ready.has_value() && !now->second.Lists(guild);
}

size_t SnapshotIndex::ready_count() const {
  return static_cast<size_t>(std::ranges::count_if(
      shards_, [](const auto& each) { return each.second.ready.has_value(); }));
}

bool SnapshotIndex::AppendToTail(Guild& guild, const SnapshotRecord& record) {
  guild.tail.push_back(record);
  guild.tail_bytes += FrameBytes(record);
  Add(record);
  const uint64_t bound = TailBound(guild);
  const uint64_t most = kMostTails * bound;
  if (guild.tail_bytes <= std::min(guild.trim_at, most)) return true;
  Trim(guild);
  guild.trim_at = std::max(bound, 2 * guild.tail_bytes);
  return guild.tail_bytes <= most;
}

// Drops what later events of the same thing have made superfluous. What is left leads to the same
// guild.
void SnapshotIndex::Trim(Guild& guild) {
  const auto has = [&](auto condition) {
    return std::ranges::any_of(guild.tail, [&](const SnapshotRecord& record) {
      return condition(SnapshotTypeAt(record.type));
    });
  };
  // A DELETE may go with its CREATE only where nothing else could have named the thing: not the
  // threads of a channel, nor a list of threads or sounds.
  const bool has_threads = has([](const auto& t) { return t.family == SnapshotFamily::kThread; });
  const auto has_lists = [&](SnapshotFamily family) {
    return has([&](const auto& t) { return t.role == SnapshotRole::kEach && t.family == family; });
  };
  const bool has_thread_lists = has_lists(SnapshotFamily::kThread);
  const bool has_sound_lists = has_lists(SnapshotFamily::kSound);
  // ...nor the GUILD_CREATE, which may have been made after the CREATE.
  std::optional<std::unordered_set<uint64_t>> created_with;
  bool have_read = false;
  const auto may_be_named = [&](SnapshotFamily family, uint64_t id) {
    if (family == SnapshotFamily::kChannel && has_threads) return true;
    if (family == SnapshotFamily::kThread && has_thread_lists) return true;
    if (family == SnapshotFamily::kSound && has_sound_lists) return true;
    if (!std::exchange(have_read, true)) created_with = ids_in_(guild.create);
    return !created_with.has_value() || created_with->contains(id);
  };

  std::map<std::pair<SnapshotFamily, uint64_t>, std::vector<size_t>> things;
  std::vector<bool> superseded(guild.tail.size());
  for (size_t i = 0; i < guild.tail.size(); ++i) {
    const SnapshotRecord& record = guild.tail[i];
    const SnapshotType& type = SnapshotTypeAt(record.type);
    const bool cannot_be_told_apart = record.id == 0 && !type.id_key.empty();
    if (type.role == SnapshotRole::kEach || cannot_be_told_apart) continue;
    std::vector<size_t>& before = things[{type.family, record.id}];
    const auto role_of = [&](size_t k) { return SnapshotTypeAt(guild.tail[k].type).role; };
    const auto drop_if = [&](auto condition) {
      std::erase_if(before, [&](size_t k) {
        if (!condition(k)) return false;
        superseded[k] = true;
        return true;
      });
    };
    if (type.role == SnapshotRole::kDelete) {
      const bool created_here = !before.empty() && role_of(before.front()) == SnapshotRole::kCreate;
      drop_if([](size_t) { return true; });
      if (created_here && !may_be_named(type.family, record.id)) {
        superseded[i] = true;
        continue;
      }
    } else if (type.role == SnapshotRole::kCreate) {
      drop_if([&](size_t k) { return role_of(k) != SnapshotRole::kDelete; });
    } else if (type.family == SnapshotFamily::kAvailability) {
      drop_if([](size_t) { return true; });
    } else {
      drop_if([&](size_t k) { return guild.tail[k].type == record.type; });
    }
    before.push_back(i);
  }

  size_t kept = 0;
  for (size_t i = 0; i < guild.tail.size(); ++i) {
    if (superseded[i]) {
      Drop(guild.tail[i]);
      guild.tail_bytes -= FrameBytes(guild.tail[i]);
    } else {
      guild.tail[kept++] = guild.tail[i];
    }
  }
  guild.tail.resize(kept);
}

std::vector<SnapshotIndex::Entry> SnapshotIndex::Records() {
  std::vector<Entry> records;
  records.reserve(live_records_);
  for (auto& [id, shard] : shards_) {
    if (shard.ready.has_value()) records.push_back({&*shard.ready, id, 0});
    for (auto& [type, record] : shard.losses) records.push_back({&record, id, 0});
    for (auto& [guild, record] : shard.deleted) records.push_back({&record, id, guild});
    for (auto& [guild, each] : shard.guilds) {
      records.push_back({&each.create, id, guild});
      for (SnapshotRecord& record : each.tail) records.push_back({&record, id, guild});
    }
  }
  std::ranges::sort(records, {}, [](const Entry& entry) {
    return std::pair(entry.record->offset, !entry.record->is_aside);
  });
  return records;
}

}  // namespace shardd::events
