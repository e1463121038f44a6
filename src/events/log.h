#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "events/control.h"
#include "events/cursor.h"
#include "events/log_file.h"
#include "events/preparer.h"
#include "events/recovery.h"
#include "events/round.h"
#include "events/segment.h"
#include "events/state.h"

namespace shardd::events {

struct LogOptions {
  // The directory that it lives in; empty: memory, for the life of the object.
  std::string dir{};
  // Bytes of events that the log keeps; it forgets its oldest ones beyond it. On disk it takes a
  // sixteenth more.
  uint64_t retain_bytes = uint64_t{2} << 30;
  // The file loses its name at once, so that nothing is left behind however the process ends.
  bool is_temporary = false;
  // Whether pages are brought in ahead of the writer (preparer.h). Only benches do without.
  bool prepares_pages = true;
};

// What is kept is this many segments of ordinary size; what is forgotten at once is one of them.
inline constexpr uint64_t kSegmentsInRing = 16;
// Below this, one ordinary GUILD_CREATE would not fit into a segment.
inline constexpr uint64_t kMinRetainBytes = kSegmentsInRing * (uint64_t{64} << 10);
// Positions within a segment have 32 bits; this leaves room for kMaxDataBytes.
inline constexpr uint64_t kMaxSegmentBytes = uint64_t{1} << 30;

// The largest data of an event that a log of this size takes: a segment of five slots, so that with
// the one before it and the ones that are forgotten for it, the ring does not bite its own tail. A
// sixteenth of it is for the event's other fields and what begins a segment.
constexpr uint64_t LargestData(uint64_t retain_bytes) {
  return std::min<uint64_t>(kMaxDataBytes, retain_bytes / kSegmentsInRing * 5 / 16 * 15);
}

// Copies that may be expected at once (State::copies) in a log of this size: what they take at the
// beginning of a segment is an eighth of an ordinary one.
constexpr size_t MaxExpectedCopies(uint64_t retain_bytes) {
  return std::min<uint64_t>(kMostExpectedCopies,
                            retain_bytes / kSegmentsInRing / 8 / kExpectedCopyBytes);
}

// The largest round that CommitTogether() may hold in a log of this size, as Round::log_bytes()
// counts it: of the five slots that a segment may take (LargestData) one is for what begins it.
constexpr uint64_t LargestTransaction(uint64_t retain_bytes) {
  return std::min<uint64_t>(kMaxDataBytes, retain_bytes / kSegmentsInRing * 4);
}

struct ReadLimits {
  uint32_t max_events = 4096;
  uint32_t max_bytes = 64 << 10;  // soft: one larger event is read whole, alone
  uint32_t max_event_bytes = 0;   // an event with larger data is read without it; 0: no limit
};

enum class MissingReason {
  kNotRetained,  // the log has recycled them
  kTruncated,    // the log's tail was lost with the machine
  kDamaged,      // their bytes were changed on disk
};

// A stretch of offsets of which the log holds nothing.
struct Missing {
  std::optional<uint64_t> events{};  // unset: nobody knows
  MissingReason reason = MissingReason::kNotRetained;
};

// What a read found: events of [first, next), as bytes that are a valid serialised EventBatch.
struct Run {
  uint64_t first = 0;
  uint64_t next = 0;
  uint64_t count = 0;  // events in it; fewer than next - first where a filter left some out
  // What lies between the position that was asked for and `first`.
  std::optional<Missing> missing{};
  std::string_view in_log;
  SegmentPin pin;     // keeps `in_log` where it is
  std::string owned;  // instead of `in_log`, where an event does not go out as it stands in the log
  bool full = false;  // a limit ended it, not the end of what is there

  std::string_view bytes() const { return owned.empty() ? in_log : owned; }

  bool empty() const { return first == next; }
};

// What one segment holds from a position on, kept where it is while the view exists: all that a
// filter, a statistic or a follower of the log needs. For short looks, not for keeping.
class View {
 public:
  View() = default;
  View(SegmentPin pin, uint32_t first) : pin_(std::move(pin)), first_(first) {
    const uint32_t count = pin_->count();
    count_ = count - first_;
    next_ = pin_->end_offset(count);
  }

  uint32_t size() const { return count_; }  // entries; of all kinds
  // REQUIRES: index < size().
  const IndexEntry& entry(uint32_t index) const { return pin_->entry(first_ + index); }
  std::string_view record(uint32_t index) const {
    return pin_->records(first_ + index, first_ + index + 1);
  }

  // Where to look next. REQUIRES: the view is of a segment, not of the log's end.
  uint64_t next() const { return next_; }

  // What lies between the position that was asked for and the first entry.
  std::optional<Missing> missing{};

 private:
  SegmentPin pin_;
  uint32_t first_ = 0;
  uint32_t count_ = 0;
  uint64_t next_ = 0;
};

// All events in one order, bounded by `retain_bytes`, in a file that outlives the process.
// Thread-safe: workers append, each its own Round; readers read at any position. Readers never hold
// up a writer beyond the look-up of a segment, and a writer never waits for a reader: a segment
// that is used again while somebody holds bytes of it leaves them these bytes, and they cost memory
// then.
class Log {
 public:
  // Opens what is there, or makes a new log. Another `retain_bytes` than before keeps what fits.
  //   INVALID_ARGUMENT    retain_bytes is too small; or a format that this version does not know
  //   RESOURCE_EXHAUSTED  no space; the message has the figures
  //   UNAVAILABLE         the file cannot be made, opened or mapped
  static absl::StatusOr<std::unique_ptr<Log>> Open(const LogOptions& options);
  ~Log();

  // Gives the round's events their offsets and publishes them, in order and without others between
  // them, then clears it. What is published survives the process. There is nothing sensible to go
  // on with when a segment cannot be mapped: it says so and aborts the process, and Discord sends
  // what came after the last heartbeat again.
  void Append(Round& round);

  // Called after each append, on the appending thread; must not block. Set before the first append.
  void SetListener(std::function<void()> listener) { listener_ = std::move(listener); }

  // The segment that holds `from`, from there on; empty at the end of the log.
  View Look(uint64_t from) const;
  // The same, from the asides on that stand before that event.
  View LookWithAsides(uint64_t from) const;

  // Events from `from` on: from the oldest kept one where `from` has left the log, so `first` >
  // `from` is a gap, which `missing` describes. Empty at the end of the log. REQUIRES: from <=
  // end().
  Run Read(uint64_t from, const ReadLimits& limits) const;

  // What an earlier process left, as it stood when the log was opened.
  const State& state_at_open() const { return state_at_open_; }
  // As it stands now.
  State state() const;

  LogId id() const { return id_; }
  Cursor CursorAt(uint64_t offset) const { return {.log = id_, .offset = offset}; }
  // Offset behind the newest event.
  uint64_t end() const { return end_.load(std::memory_order_acquire); }
  // Offset of the oldest kept event; end() when there is none.
  uint64_t oldest() const { return oldest_.load(std::memory_order_acquire); }
  // Kept events from `offset` on. Offsets are no count of them: the loss of a tail leaves a hole.
  uint64_t CountFrom(uint64_t offset) const;

  struct Stats {
    uint64_t oldest = 0;
    uint64_t end = 0;
    uint64_t events = 0;                     // kept
    uint64_t bytes = 0;                      // of kept events
    int64_t oldest_received_unix_nanos = 0;  // 0: the log is empty
  };
  Stats GetStats() const;

  // How much can be appended, in bytes as appended_bytes() counts them, before the event at
  // `offset` is recycled; 0: it has been, or its segment is the next. Of end(): what the log keeps.
  uint64_t RoomBehind(uint64_t offset) const;

  // What events and their index entries have taken since the log was opened.
  uint64_t appended_bytes() const { return appended_bytes_.load(std::memory_order_relaxed); }

  // When the event at `offset` was received, or the first one behind the hole that it lies in; 0 if
  // the log holds neither. Checks no record, so it waits for no disk.
  int64_t ReceivedUnixNanos(uint64_t offset) const;

 private:
  using Ring = std::deque<std::shared_ptr<Segment>>;
  struct Found {
    SegmentPin pin;
    uint64_t first = 0;
    bool is_newest = false;
    std::optional<Missing> missing{};
  };

  Log(const LogOptions& options, std::unique_ptr<LogFile> file, Recovered recovered);
  static absl::StatusOr<std::unique_ptr<LogFile>> OpenFile(const LogOptions& options,
                                                           Recovered* recovered);
  void VerifyAll();
  void Adopt(const Ring& old);

  // REQUIRE append_mutex_.
  // noexcept: half a round that is appended once more would be doubled.
  void AppendLocked(const uint8_t* data, std::span<const IndexEntry> entries) noexcept;
  void Rotate(std::span<const IndexEntry> entries);
  void StartSegment(uint64_t base_offset, bool behind_lost_tail, State state, size_t record_bytes,
                    size_t entries);
  void BoundCopies(State* state) const;
  std::shared_ptr<Segment> Reuse(Segment::Place place);

  Found Locate(uint64_t from) const;
  View LookAt(uint64_t from, bool with_asides) const;
  // REQUIRES ring_mutex_.
  Ring::const_iterator Find(uint64_t offset) const;

  const std::unique_ptr<LogFile> file_;
  const size_t max_expected_copies_;
  const LogId id_;
  std::function<void()> listener_;
  State state_at_open_;

  mutable std::mutex append_mutex_;  // taken before ring_mutex_
  mutable std::mutex ring_mutex_;
  // By base offset; the last one is written to. Changed under both locks, so either is enough to
  // look.
  Ring ring_;
  // Left the ring, and their place is not in use again yet: whoever has just begun to read one can
  // end in peace. Under append_mutex_.
  std::vector<std::shared_ptr<Segment>> resting_;
  const bool prepares_pages_;
  size_t unprepared_bytes_ = 0;  // that may be appended before preparer_ is asked again
  std::atomic<uint64_t> oldest_ = 0;
  std::atomic<uint64_t> end_ = 0;

  Preparer preparer_;
  std::atomic<bool> stopping_ = false;
  std::thread verifier_;  // reads what an earlier process left
  std::atomic<uint64_t> appended_bytes_ = 0;
};

}  // namespace shardd::events
