#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/shard_id.h"
#include "events/index_entry.h"
#include "events/state.h"

namespace shardd::events {

// An event on its way into the log. The views need to live until Round::Add returns.
struct NewEvent {
  ShardId shard;
  uint32_t session = 0;
  uint64_t sequence = 0;
  uint64_t guild_id = 0;
  int64_t received_unix_nanos = 0;
  std::string_view type;  // at most kMaxTypeBytes
  std::string_view data;  // at most kMaxDataBytes
};

// Discord's longest type name has 38 characters.
inline constexpr size_t kMaxTypeBytes = 64;
// Above the largest message that a shard takes from Discord, and far below what 32-bit positions
// can hold.
inline constexpr size_t kMaxDataBytes = size_t{256} << 20;

// The events of one round of a worker, encoded into the log's final form, all but the offsets:
// those are given when the round is appended, under the log's lock. Reused from round to round, so
// it settles at the size of the largest one. Thread-compatible; owned by one worker.
class Round {
 public:
  // REQUIRES: event.type and event.data are within their bounds.
  void Add(const NewEvent& event);
  // The same, but readers do not see it, and it takes no offset: what only a snapshot tells. It is
  // in the log with what stands behind it or not at all. REQUIRES: an event comes behind it.
  void AddAside(const NewEvent& event);
  // A change of what the log remembers of the shards. Readers do not see it. A session that opens
  // stands directly before its READY, and copies that are expected before their event: they are in
  // the log with that or not at all. REQUIRES: so something comes behind these two.
  void Add(const StateChange& change);
  // All that is here goes into the log together or not at all, into one segment. REQUIRES:
  // log_bytes() is at most LargestTransaction() of the log (log.h).
  void CommitTogether();
  void Clear();

  bool empty() const { return entries_.empty(); }
  size_t bytes() const { return size_; }
  // With the index entries: what it takes in the log.
  size_t log_bytes() const { return size_ + entries_.size() * sizeof(IndexEntry); }
  // Something is here that LogFile::kRescales stands for.
  bool has_rescale() const { return has_rescale_; }

  // `position` counts from the round's first byte, and `offset` and `entry_crc` are not set yet.
  std::span<const IndexEntry> entries() const { return entries_; }
  const uint8_t* data() const { return buffer_.get(); }

 private:
  IndexEntry& AddRecord(const NewEvent& event);
  uint8_t* Reserve(size_t size);

  std::unique_ptr<uint8_t[]> buffer_;
  size_t capacity_ = 0;
  size_t size_ = 0;
  std::vector<IndexEntry> entries_;
  bool has_rescale_ = false;
};

// Where Event.offset's eight bytes stand in a record of this size.
size_t OffsetPosition(const uint8_t* record, size_t size);

// Whether the bytes are those that were appended with this entry.
bool IsWholeRecord(std::string_view record, const IndexEntry& entry);

// The record of `entry` as it goes to a reader that does not want `data` that large: with empty
// `data`, and `data_bytes` as it was.
std::string WithoutData(std::string_view record, const IndexEntry& entry);

}  // namespace shardd::events
