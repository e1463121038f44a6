#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "events/cursor.h"
#include "events/round.h"
#include "events/segment.h"

namespace shardd::events {

struct LogOptions {
  // Memory that the log may take; it forgets its oldest events beyond it.
  uint64_t retain_bytes = uint64_t{2} << 30;
};

// The ring has this many segments: what is forgotten at once is this share of what is kept.
inline constexpr uint64_t kSegmentsInRing = 16;
// Below this, one ordinary GUILD_CREATE would not fit into a segment.
inline constexpr uint64_t kMinRetainBytes = kSegmentsInRing * (uint64_t{64} << 10);
// Positions within a segment have 32 bits; this leaves room for kMaxDataBytes.
inline constexpr uint64_t kMaxSegmentBytes = uint64_t{1} << 30;

// Whether a log of this size keeps an event with so much data, be it alone. Beside the data stand
// the type and a few numbers.
constexpr bool Fits(uint64_t data_bytes, uint64_t retain_bytes) {
  constexpr uint64_t kBesideData = 1024;
  return Segment::RoundUp(Segment::BytesFor(data_bytes + kBesideData)) <= retain_bytes;
}

struct ReadLimits {
  uint32_t max_events = 4096;
  uint32_t max_bytes = 64 << 10;  // soft: one larger event is read whole, alone
  uint32_t max_event_bytes = 0;   // an event with larger data is read without it; 0: no limit
};

// What a read found: events [first, next), as bytes that are a valid serialised EventBatch.
struct Run {
  uint64_t first = 0;
  uint64_t next = 0;
  std::string_view in_log;
  SegmentPin pin;     // keeps `in_log` where it is
  std::string owned;  // instead of `in_log`, where an event does not go out as it stands in the log
  bool full = false;  // a limit ended it, not the end of what is there
  // The bytes had better be copied than pinned: their segment is about to be recycled.
  bool ageing = false;

  std::string_view bytes() const { return owned.empty() ? in_log : owned; }

  bool empty() const { return first == next; }
  uint64_t events() const { return next - first; }
};

// All events in one order, bounded by `retain_bytes`; in memory. Thread-safe: workers append, each
// its own Round; readers read at any position. Readers never hold up a writer beyond the look-up of
// a segment, and a writer never waits for a reader.
class Log {
 public:
  static absl::StatusOr<std::unique_ptr<Log>> Open(const LogOptions& options);

  // Gives the round's events their offsets and publishes them, in order and without others between
  // them, then clears it. There is nothing sensible to go on with when memory for a segment is
  // refused: it says so and aborts the process, and Discord sends what came after the last
  // heartbeat again.
  void Append(Round& round);

  // Called after each append, on the appending thread; must not block. Set before the first append.
  void SetListener(std::function<void()> listener) { listener_ = std::move(listener); }

  // Events from `from` on: from the oldest kept one where `from` has left the log, so `first` >
  // `from` is a gap. Empty at the end of the log. REQUIRES: from <= end().
  Run Read(uint64_t from, const ReadLimits& limits) const;

  LogId id() const { return id_; }
  Cursor CursorAt(uint64_t offset) const { return {.log = id_, .offset = offset}; }
  // Offset behind the newest event.
  uint64_t end() const { return end_.load(std::memory_order_acquire); }
  // Offset of the oldest kept event; end() when there is none.
  uint64_t oldest() const { return oldest_.load(std::memory_order_acquire); }

  struct Stats {
    uint64_t oldest = 0;
    uint64_t end = 0;
    uint64_t bytes = 0;                      // of kept events
    int64_t oldest_received_unix_nanos = 0;  // 0: the log is empty
  };
  Stats GetStats() const;

  // When the event at `offset` was received; 0 if the log does not hold it.
  int64_t ReceivedUnixNanos(uint64_t offset) const;

  // Segments that have left the ring while a reader holds their bytes. When there are this many,
  // readers are told to copy (Run::ageing), so that stalled readers cannot pin more than one ring's
  // worth beside the ring.
  static constexpr size_t kMaxRetiredPinned = 2;
  size_t retired_pinned() const;

 private:
  Log(LogId id, uint64_t retain_bytes);

  void Rotate(size_t record_bytes);
  // REQUIRE ring_mutex_.
  std::shared_ptr<Segment> Find(uint64_t offset) const;
  int64_t ReceivedLocked(uint64_t offset) const;
  size_t CountRetiredPinned() const;

  const LogId id_;
  const uint64_t retain_bytes_;
  const size_t segment_bytes_;
  std::function<void()> listener_;

  std::mutex append_mutex_;  // taken before ring_mutex_
  mutable std::mutex ring_mutex_;
  // By base offset; the last one is written to. Changed under both locks, so either is enough to
  // look.
  std::deque<std::shared_ptr<Segment>> ring_;
  uint64_t ring_bytes_ = 0;                      // memory of the segments in ring_
  std::vector<std::weak_ptr<Segment>> retired_;  // left the ring while pinned
  std::atomic<uint64_t> oldest_ = 0;
  std::atomic<uint64_t> end_ = 0;
};

}  // namespace shardd::events
