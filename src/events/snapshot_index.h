#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/shard_id.h"
#include "events/index_entry.h"
#include "events/snapshot_types.h"

namespace shardd::events {

// Where an event of the snapshot stands.
struct SnapshotRecord {
  uint64_t offset = 0;    // in the log
  uint64_t position = 0;  // of its frame, in the file
  uint64_t id = 0;        // SnapshotFacts::id
  uint32_t length = 0;    // of the record
  uint8_t type = kNoSnapshotType;
  bool is_aside = false;  // stands before the event of its offset
};

// What a snapshot is made of: of each shard the newest READY, what is known to be missing since,
// and the GUILD_DELETEs that correct the READY's list; of each guild the newest GUILD_CREATE and
// the structural events since (its tail). It follows from the events alone, so reading the file's
// frames again gives the same.
//
// Memory: 32 bytes a record, and about 200 a guild: 100,000 guilds take some 25 MB.
//
// Thread-compatible.
class SnapshotIndex {
 public:
  struct Guild {
    SnapshotRecord create;
    std::vector<SnapshotRecord> tail;  // by offset
    uint64_t tail_bytes = 0;
    uint64_t trim_at = 0;  // tail_bytes at which it is worth looking for what is superseded
  };
  struct Shard {
    std::optional<SnapshotRecord> ready;
    std::vector<uint64_t> ready_guilds;  // that it lists, in ascending order
    // The newest of each type since, by its number: shardd's word that events are missing.
    std::map<uint64_t, SnapshotRecord> losses;
    // Guilds that have gone since. Readers want those of the list; the others may stand in the list
    // of the READY that takes over at a switch, which is older than the switch.
    std::map<uint64_t, SnapshotRecord> deleted;
    std::map<uint64_t, Guild> guilds;

    bool Lists(uint64_t guild) const;
  };

  // Superseded events of a guild's tail are dropped beyond this, or beyond the size of its
  // GUILD_CREATE where that is larger...
  static constexpr uint64_t kTailBytes = 64 << 10;
  // ...and a guild whose tail is as many times as long without them is left out.
  static constexpr uint64_t kMostTails = 16;
  // Of a shard's `deleted`, those that READY does not list; the oldest are dropped.
  static constexpr size_t kMostUnlisted = 1024;

  // `ids_in`: all numbers that stand in a GUILD_CREATE as ids do; nothing where it cannot be read.
  // `most_left_out`: guilds beyond it are not counted any more.
  using IdsIn =
      std::function<std::optional<std::unordered_set<uint64_t>>(const SnapshotRecord& create)>;
  SnapshotIndex(IdsIn ids_in, size_t most_left_out)
      : ids_in_(std::move(ids_in)), most_left_out_(most_left_out) {}

  // Whether the event changes anything here. Counts guilds that nothing is known of.
  bool Wants(const IndexEntry& event, const SnapshotType& type, const SnapshotFacts& facts);
  // Bytes of frames that Apply(event) makes superfluous at least.
  uint64_t Frees(const IndexEntry& event, const SnapshotType& type,
                 const SnapshotFacts& facts) const;
  // The next event in the log's order. False: the guild's tail is too long; LeaveOut() it.
  bool Apply(const IndexEntry& event, uint8_t type, const SnapshotFacts& facts, uint64_t position);

  void Clear();
  // Of this guild nothing can be told until its next GUILD_CREATE.
  void LeaveOut(uint64_t guild);
  void LeaveOutAll();
  // Shards of other counts have gone: their READYs, and the guilds that the READY of their new
  // shard does not list.
  void ForgetOtherCounts(uint32_t shard_count);
  // A rescale has taken over: all guilds are of the shards of this count now, whichever shards have
  // told of them and tell of them yet. What was known of the other shards as such is dropped. Its
  // READYs follow as asides, and end no guild, since they are older than what was told of it since.
  void SwitchTo(uint32_t shard_count);
  // The count of the newest READY, whose shards guilds are under; 0: each is under the shard that
  // told of it.
  uint32_t home_count() const { return home_count_; }
  // Whether that is so by a switch, which replaying the records alone would not show.
  bool has_switched() const { return has_switched_; }
  // The guild is no longer this server's; nor is it left out.
  void ForgetGuild(uint64_t guild);
  // Whether ForgetOtherCounts() would change anything.
  bool HasOtherCounts(uint32_t shard_count) const;
  // The READY of a shard cannot be told, and so neither which guilds it has: leaves them out.
  void ForgetReady(ShardId shard);

  const std::map<ShardId, Shard>& shards() const { return shards_; }
  const Guild* Find(uint64_t guild) const;
  const std::unordered_set<uint64_t>& left_out() const { return left_out_; }
  size_t guild_count() const { return shard_of_.size(); }
  size_t ready_count() const;
  uint64_t live_bytes() const { return live_bytes_; }  // of frames
  uint64_t record_bytes() const { return live_bytes_ - live_records_ * sizeof(IndexEntry); }

  // Every record here, by offset. They stay where they are until the index changes; only `position`
  // may be written to.
  struct Entry {
    SnapshotRecord* record = nullptr;
    ShardId shard;
    uint64_t guild = 0;  // 0: a READY or a loss
  };
  std::vector<Entry> Records();

 private:
  void Add(const SnapshotRecord& record);
  void Drop(const SnapshotRecord& record);
  void DropGuild(uint64_t guild);
  void DropDeleted(uint64_t guild);
  void DropReady(Shard& shard);
  ShardId HomeOf(const IndexEntry& event) const;
  void DropListed(Shard& shard);
  void DropUnlisted(Shard& shard, size_t most);
  void BeginSession(ShardId shard, const SnapshotRecord& record, const SnapshotFacts& facts);
  // Whether the guild is of another count, and the READY of its present shard does not list it.
  bool HasGone(uint64_t guild, ShardId owner, uint32_t shard_count) const;
  bool AppendToTail(Guild& guild, const SnapshotRecord& record);
  void Trim(Guild& guild);

  const IdsIn ids_in_;
  const size_t most_left_out_;
  uint32_t home_count_ = 0;
  bool has_switched_ = false;
  std::map<ShardId, Shard> shards_;
  std::unordered_map<uint64_t, ShardId> shard_of_;      // of the guilds that are here
  std::unordered_map<uint64_t, ShardId> deleted_from_;  // the shard that has it in `deleted`
  std::unordered_set<uint64_t> left_out_;
  uint64_t live_bytes_ = 0;
  uint64_t live_records_ = 0;
};

}  // namespace shardd::events
