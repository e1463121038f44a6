#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/shard_id.h"
#include "events/filter.h"
#include "events/log.h"
#include "events/snapshot_file.h"
#include "events/snapshot_index.h"
#include "events/snapshot_types.h"

namespace shardd::events {

struct SnapshotBatch {
  uint64_t count = 0;
  std::string bytes;  // a valid serialised EventBatch; may be empty before the end
  bool end = false;   // nothing comes behind it
  bool wait = false;  // empty: a rescale takes over at this moment; ask again soon
};

// What a bot has to know of its guilds before it can make use of live events: of each shard the
// newest READY, of each of its guilds the newest GUILD_CREATE and the structural events since, as
// they stood in the log; and what shardd has said to be missing since READY. It follows the log,
// and keeps them in a file of its own, where they outlive what the log keeps.
//
// Where it cannot vouch for a guild, it leaves it out and counts it, until the guild's next
// GUILD_CREATE: the guild's events do not fit; or the log has lost an event before it was seen here
// (it fell behind, or the event was damaged), and then that may have been any guild's, so all are
// left out. That the log's end was lost with the machine is no such case: the sessions resume from
// before it, so that the same events come again.
//
// A rescale takes over without new GUILD_CREATEs: its READYs are asides of the log, and its shards
// go on with what the earlier ones have told of the guilds.
//
// Disk: never more than `max_bytes`, compaction included, which writes a new file beside the old
// one. For that 7/16 of it are for what is kept.
//
// Thread-safe.
class Snapshots {
 public:
  struct Options {
    std::string path;  // of the file; PATH.new is used for compaction
    uint64_t max_bytes = uint64_t{1} << 30;
    const Log* log = nullptr;  // outlives this
  };
  static constexpr uint64_t kMinBytes = uint64_t{4} << 20;
  // Share of max_bytes for what is kept.
  static constexpr uint64_t Usable(uint64_t max_bytes) { return max_bytes / 16 * 7; }

  // Goes on where the file stops, or, where there is none that belongs to this log, at the log's
  // oldest event.
  //   INVALID_ARGUMENT  a format that this version does not know; the file is as it was
  //   UNAVAILABLE, RESOURCE_EXHAUSTED  the file cannot be opened or made
  static absl::StatusOr<std::unique_ptr<Snapshots>> Open(Options options);
  // What Open has made there.
  static void Remove(const std::string& path);
  ~Snapshots();
  Snapshots(const Snapshots&) = delete;
  Snapshots& operator=(const Snapshots&) = delete;

  // Takes in what the log has got since. Waits while another thread does so.
  void CatchUp();
  // Up to where that has come.
  uint64_t position() const;
  // Whether it has been done at all: position() may be as far behind as the log goes before.
  bool has_caught_up() const;

  // The READYs of shards of other counts have gone, and so have the guilds that they alone listed.
  // Happens by itself when shards of the log's present generation become READY.
  void ForgetOtherCounts(uint32_t shard_count);

  // Guilds of a shard's newest session: those that READY lists, and those that have come since.
  std::vector<uint64_t> GuildsOf(ShardId shard) const;

  struct Stats {
    uint32_t guilds = 0;
    uint32_t readys = 0;
    uint32_t guilds_left_out = 0;
    uint64_t bytes = 0;
    uint64_t disk_bytes = 0;
    uint64_t max_bytes = 0;
  };
  Stats GetStats() const;

  // One reading of all of it, shard by shard: READY, what is missing since, GUILD_DELETEs that
  // correct READY, and each guild's events. It tells how things were at `position`, in messages,
  // while all goes on: a guild for which a newer GUILD_CREATE has come in the meantime is left to
  // that one, which stands in the log behind `position`. So it holds nothing, in memory or on disk.
  // Where a rescale has taken over in the meantime it begins anew, at a newer position.
  // Thread-compatible; this object must not outlive the Snapshots.
  class Reading {
   public:
    uint64_t position() const { return position_; }

    // The next events, within the limits as Log::Read() takes them.
    //   DATA_LOSS  an event was changed on disk: what it tells of is left out from now on
    absl::StatusOr<SnapshotBatch> Next(const ReadLimits& limits);

   private:
    friend class Snapshots;
    enum class Part { kReady, kLosses, kDeleted, kGuilds };
    struct Found {
      SnapshotRecord record;
      ShardId shard;
      uint64_t guild = 0;
    };
    Reading(Snapshots& snapshots, uint64_t position, std::optional<Filter> filter)
        : snapshots_(snapshots), position_(position), filter_(std::move(filter)) {}
    // Where the walk goes on; false: at the end.
    void StartOver(uint64_t position);
    bool Walk(const SnapshotIndex& index, const ReadLimits& limits, std::vector<Found>* found);
    // By what is known without reading the event.
    bool MayMatch(const Found& found) const;

    Snapshots& snapshots_;
    uint64_t position_;
    const std::optional<Filter> filter_;
    ShardId shard_{.id = 0, .count = 0};
    Part part_ = Part::kReady;
    uint64_t next_ = 0;  // key in the part's map: of the next event, or before it
    uint64_t guild_ = 0;
    uint64_t offset_ = 0;  // in the guild: of the next event, or before it
    bool at_end_ = false;
  };
  // At position(). Waits for no disk and for nobody who follows the log, so it is for gRPC's
  // threads too. Without a filter: all.
  std::unique_ptr<Reading> Begin(std::optional<Filter> filter = {});

 private:
  explicit Snapshots(Options options);

  // What cannot be read any more: the events of a guild, or of a shard as a whole.
  struct Damaged {
    ShardId shard;
    uint64_t guild = 0;  // 0: the shard
  };

  absl::Status Load();
  void ApplyFrame(const IndexEntry& entry, std::string_view record, uint64_t position, bool intact);
  void ApplyMark(const IndexEntry& entry, std::string_view record);

  // All of these REQUIRE follow_mutex_. False: nothing could be written, and the position stays
  // where it is.
  void FollowUnlessJustFailed();
  bool Follow();
  bool Take(const IndexEntry& entry, std::string_view record);
  bool IsOfAnOldGeneration(const IndexEntry& ready) const;
  bool SwitchTo(uint32_t shard_count, uint64_t offset);
  bool LeaveOut(const IndexEntry& event, uint64_t position);
  bool LeaveOutAll(uint64_t position);
  void ForgetOldGeneration();
  void ForgetGuildsOfOthers(const State& state);
  void ForgetCountsBut(uint32_t shard_count);
  bool WriteMark(SnapshotMark mark, uint64_t position, ShardId shard = {},
                 const std::vector<uint64_t>& guilds = {});
  absl::Status AppendMark(SnapshotFile& file, SnapshotMark mark, uint64_t position, ShardId shard,
                          const std::vector<uint64_t>& guilds);
  void StartAfresh();
  void ForgetDamaged();
  void Forget(const Damaged& damaged);  // REQUIRES mutex_
  // Compact(), where that frees enough to be worth it: else each event would have it done again.
  bool MakeRoom();
  bool Compact();
  // Brings what was read from the file within max_bytes, which may have been more before.
  void KeepToBound();
  uint64_t Garbage() const;
  void NotePosition(uint64_t position);
  void NoteFailure(const absl::Status& status);
  uint64_t Reserved() const;

  const Options options_;

  // One thread at a time follows the log and writes the file. Taken before mutex_.
  std::mutex follow_mutex_;
  SnapshotFactReader facts_;
  bool has_new_ready_ = true;              // since ForgetOldGeneration() looked; at first: maybe
  uint64_t forgotten_for_generation_ = 0;  // the guilds of shards that it has not; 0: for none
  uint64_t written_position_ = 0;          // that the file tells of
  SteadyTime try_again_at_{};              // after a failure
  SteadyTime compact_again_at_{};
  bool said_failure_ = false;

  // Changed under both mutexes, so either is enough to look.
  mutable std::mutex mutex_;
  SnapshotIndex index_;
  std::shared_ptr<SnapshotFile> file_;
  uint64_t position_ = 0;
  uint64_t behind_switch_ = 0;  // readings at lower positions begin anew
  bool has_caught_up_ = false;

  // That readers have found, for the follower to leave out. Guarded by mutex_.
  std::vector<Damaged> damaged_;
};

}  // namespace shardd::events
