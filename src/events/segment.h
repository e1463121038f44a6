#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "events/cursor.h"
#include "events/index_entry.h"
#include "events/round.h"

namespace shardd::events {

// A stretch of the log in one piece of memory:
//
//   | header page | bytes area, growing up -->  ...free...  <-- growing down, index area |
//
// The bytes area holds nothing but `EventBatch.events` entries (tag, length, Event) back to back,
// so any run of them is a valid serialised EventBatch. The index area holds one IndexEntry an
// event; entry i stands at the end minus (i + 1) entries. An event exists once its entry is
// published; the bytes and the entry are written before.
//
// One writer at a time, under the log's lock; any number of readers beside it.
class Segment {
 public:
  static constexpr size_t kPageBytes = 4096;
  static constexpr size_t kHeaderBytes = kPageBytes;

  // Smallest segment that takes a record of `record_bytes`.
  static constexpr size_t BytesFor(size_t record_bytes) {
    return kHeaderBytes + record_bytes + sizeof(IndexEntry);
  }

  // What Create makes of `size`: whole pages.
  static constexpr size_t RoundUp(size_t size) {
    return (size + kPageBytes - 1) / kPageBytes * kPageBytes;
  }

  // Reserves `size` bytes of anonymous memory, rounded up; RESOURCE_EXHAUSTED when the system has
  // none.
  static absl::StatusOr<std::shared_ptr<Segment>> Create(size_t size);
  ~Segment();

  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  // Makes it empty, for events from `base_offset` on. REQUIRES: no reader has a pin, and none can
  // get one.
  void Begin(LogId log, uint64_t base_offset);

  // How many of `entries` (of a round) fit behind what is here.
  size_t CountFitting(std::span<const IndexEntry> entries) const;

  // Copies those events of `round` and publishes them, with offsets from base_offset() + count()
  // on. REQUIRES: CountFitting(entries) == entries.size().
  void Append(const Round& round, std::span<const IndexEntry> entries);

  uint64_t base_offset() const { return base_offset_; }
  size_t size() const { return size_; }
  // Published events; all of them may be read.
  uint32_t count() const { return published_.load(std::memory_order_acquire); }
  uint64_t end_offset() const { return base_offset_ + count(); }

  // REQUIRES: index < count().
  const IndexEntry& entry(uint32_t index) const { return *EntryAt(index); }
  // The records [first, last). REQUIRES: first < last <= count().
  std::string_view records(uint32_t first, uint32_t last) const;
  // Bytes of all published records.
  size_t record_bytes() const;

  bool pinned() const { return pins_.load(std::memory_order_acquire) > 0; }

 private:
  friend class SegmentPin;

  Segment(uint8_t* memory, size_t size) : memory_(memory), size_(size) {}
  IndexEntry* EntryAt(uint32_t index) const {
    return reinterpret_cast<IndexEntry*>(memory_ + size_) - (index + 1);
  }
  size_t used_end() const;

  uint8_t* const memory_;
  const size_t size_;
  uint64_t base_offset_ = 0;
  std::atomic<uint32_t> published_ = 0;
  std::atomic<uint32_t> pins_ = 0;
};

// Keeps a segment's bytes where they are: it is neither recycled nor unmapped while a pin exists.
// May be released on any thread, also after the log is gone.
class SegmentPin {
 public:
  SegmentPin() = default;
  explicit SegmentPin(std::shared_ptr<Segment> segment);
  ~SegmentPin();
  SegmentPin(SegmentPin&& other) noexcept = default;
  SegmentPin& operator=(SegmentPin&& other) noexcept;

  const Segment& operator*() const { return *segment_; }
  const Segment* operator->() const { return segment_.get(); }
  explicit operator bool() const { return segment_ != nullptr; }

 private:
  void Release();

  std::shared_ptr<Segment> segment_;
};

}  // namespace shardd::events
