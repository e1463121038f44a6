#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "events/index_entry.h"
#include "events/log_file.h"
#include "events/round.h"

namespace shardd::events {

// A stretch of the log in one piece of mapped memory:
//
//   | header page | bytes area, growing up -->  ...free...  <-- growing down, index area |
//
// The bytes area holds `EventBatch.events` entries (tag, length, Event) back to back, so any run of
// them is a valid serialised EventBatch; between them stand the payloads of control entries and the
// records of asides, which no run includes. The index area holds one IndexEntry each; entry i
// stands at the end minus (i + 1) entries. The header holds the number of committed entries in one
// word, which is stored last: what was appended at once is there whole or not at all, whenever the
// process dies.
//
// One writer at a time, under the log's lock; any number of readers beside it.
class Segment {
 public:
  static constexpr size_t kHeaderBytes = LogFile::kPageBytes;

  // Smallest segment that takes entries with so many bytes together.
  static constexpr size_t BytesFor(size_t record_bytes, size_t entries = 1) {
    return kHeaderBytes + record_bytes + entries * sizeof(IndexEntry);
  }

  // Where in the file it stands.
  struct Place {
    uint32_t slot = 0;
    uint32_t slots = 1;

    uint32_t end() const { return slot + slots; }
    friend bool operator==(const Place&, const Place&) = default;
  };

  static absl::StatusOr<std::shared_ptr<Segment>> Map(const LogFile& file, Place place);
  ~Segment();

  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  // ---- The writer's ----

  // Makes it empty, for events from `base_offset` on, and puts `checkpoint` (EncodeCheckpoint) in
  // as its first entry: then it is part of the log. `behind_lost_tail`: events before it are lost,
  // and nobody knows how many. REQUIRES: no pins, and nobody can get one.
  void Begin(uint64_t log_id, uint64_t base_offset, bool behind_lost_tail,
             std::string_view checkpoint);

  // From now on the next process does not find it. Readers of its events may go on.
  void Retire();
  // What a slot begins with that holds nothing, but what is left of its last use.
  static std::string_view FreeHeader();

  // How many of `entries` (of a round) fit behind what is here.
  size_t CountFitting(std::span<const IndexEntry> entries) const;

  // Copies those entries' bytes, which `data` holds at their positions, and commits them. Events
  // get offsets from end_offset() on. REQUIRES: CountFitting(entries) == entries.size().
  void Append(const uint8_t* data, std::span<const IndexEntry> entries);

  // Asks the kernel for the pages that the next `bytes` of events will be written to, so that the
  // writer need not wait for them. By any thread.
  void Populate(size_t bytes);

  // ---- The readers' ----

  const Place& place() const { return place_; }
  size_t size() const { return size_; }
  uint64_t base_offset() const { return base_offset_; }
  bool is_behind_lost_tail() const { return behind_lost_tail_; }
  // Committed entries; all of them may be read.
  uint32_t count() const { return published_.load(std::memory_order_acquire); }
  // Offset behind the last event.
  uint64_t end_offset() const { return end_offset(count()); }
  // Offset behind the first `entries` entries.
  uint64_t end_offset(uint32_t entries) const;
  uint64_t events() const { return end_offset() - base_offset_; }

  // REQUIRES: index < count().
  const IndexEntry& entry(uint32_t index) const { return *EntryAt(index); }
  // The entry of an event. REQUIRES: base_offset() <= offset < end_offset().
  uint32_t IndexOf(uint64_t offset) const;
  // The bytes of entries [first, last). REQUIRES: first < last <= count().
  std::string_view records(uint32_t first, uint32_t last) const;
  std::string_view record(uint32_t index) const { return records(index, index + 1); }
  size_t record_bytes() const;  // of all entries
  size_t free_bytes() const;    // for records and their entries
  // Some entries are kLost.
  bool has_lost() const { return has_lost_.load(std::memory_order_acquire); }

  // ---- Pins ----

  bool is_pinned() const;
  // Moves what is pinned to memory of its own, at the same addresses, so that its place in the file
  // can be used again. REQUIRES: retired.
  void Detach();

  // ---- Recovery: before anybody else knows of the segment ----

  enum class Find {
    kNothing,  // never used, or retired
    kDamaged,  // something was here, and cannot be read any more
    kSegment,
  };
  struct Found {
    Find what = Find::kNothing;
    Place place;
    bool tail_is_sure = true;      // false: committed entries may be missing at the end
    uint32_t damaged_entries = 0;  // that were marked
  };
  // What the file has at this slot, and as what it was left; it is mapped if it is a segment.
  // UNAVAILABLE: it cannot be mapped, which says nothing of what is there.
  static absl::StatusOr<Found> Recover(const LogFile& file, uint32_t slot,
                                       std::shared_ptr<Segment>* segment);
  // What was found is what is committed from now on.
  void CommitRecovered();
  // Damaged entries at the end were taken for events, which the next segment's offsets leave no
  // room for.
  void DropLostFrom(uint64_t offset);
  // Compares every record of a recovered segment with its checksum, and marks what is damaged.
  // Returns how many that are. Once; by any thread, and the others wait.
  uint32_t Verify();
  bool was_recovered() const { return was_recovered_; }

 private:
  friend class SegmentPin;
  struct Range {
    uint32_t begin = 0;
    uint32_t end = 0;  // positions
  };
  using Ranges = std::list<Range>;

  Segment(uint8_t* memory, size_t size, Place place)
      : memory_(memory), size_(size), place_(place) {}

  IndexEntry* EntryAt(uint32_t index) const {
    return reinterpret_cast<IndexEntry*>(memory_ + size_) - (index + 1);
  }
  size_t used_end() const;
  void Commit(uint32_t count);
  uint32_t CrcOf(IndexEntry entry) const;
  bool IsWhole(uint32_t index, const IndexEntry* previous) const;
  uint32_t RepairIndex(uint32_t count);
  uint32_t MakeLost(uint32_t first, uint32_t last, uint32_t count);
  uint32_t VerifyRecords();

  uint8_t* const memory_;
  const size_t size_;
  const Place place_;
  uint64_t base_offset_ = 0;
  bool behind_lost_tail_ = false;
  uint32_t seed_ = 0;  // of the entries' checksums
  std::atomic<uint32_t> published_ = 0;
  std::atomic<bool> has_lost_ = false;
  std::once_flag verified_;
  bool was_recovered_ = false;

  mutable std::mutex pins_mutex_;
  Ranges pins_;
};

// Keeps a segment's bytes where they are, at first all of them. May be released on any thread, also
// after the log is gone.
class SegmentPin {
 public:
  SegmentPin() = default;
  // REQUIRES: the log's ring holds the segment, under its lock.
  explicit SegmentPin(std::shared_ptr<Segment> segment);
  ~SegmentPin();
  SegmentPin(SegmentPin&& other) noexcept;
  SegmentPin& operator=(SegmentPin&& other) noexcept;

  // From now on these bytes alone.
  void Narrow(std::string_view to);
  // Segment::Verify, where it has not been done.
  uint32_t Verify() { return segment_->was_recovered() ? segment_->Verify() : 0; }

  const Segment& operator*() const { return *segment_; }
  const Segment* operator->() const { return segment_.get(); }
  explicit operator bool() const { return segment_ != nullptr; }

 private:
  void Release();

  std::shared_ptr<Segment> segment_;
  Segment::Ranges::iterator range_;
};

}  // namespace shardd::events
