#include "events/segment.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "common/log.h"
#include "events/crc32c.h"

namespace shardd::events {
namespace {

constexpr std::string_view kMagic = "SHDSEGMT";
// Of one that was forgotten; the rest of the header is as it was.
constexpr std::string_view kFreeMagic = "SHDSFREE";
constexpr size_t kMagicBytes = kMagic.size();

// The segment's first bytes.
struct Header {
  char magic[kMagicBytes];
  uint64_t log_id;
  uint64_t base_offset;
  uint32_t slot;
  uint32_t slots;
  uint32_t entry_bytes;
  uint32_t is_behind_lost_tail;
  uint32_t crc;  // of what stands before it
  uint32_t padding;
  // The number of committed entries, and its checksum in the upper half: one store.
  uint64_t committed;
};
static_assert(sizeof(Header) <= Segment::kHeaderBytes);
static_assert(offsetof(Header, committed) % sizeof(uint64_t) == 0);

uint32_t CrcOf(Header header) {
  std::memcpy(header.magic, kMagic.data(), kMagicBytes);
  return Crc32c(&header, offsetof(Header, crc));
}

uint64_t CommitWord(uint32_t count, uint32_t seed) {
  return uint64_t{Crc32c(&count, sizeof count, seed)} << 32 | count;
}

Header* HeaderOf(uint8_t* memory) { return reinterpret_cast<Header*>(memory); }

// In one store.
void StoreMagic(uint8_t* memory, std::string_view magic) {
  uint64_t word;
  static_assert(sizeof word == kMagicBytes);
  std::memcpy(&word, magic.data(), sizeof word);
  std::atomic_ref(*reinterpret_cast<uint64_t*>(memory)).store(word, std::memory_order_release);
}

size_t PageDown(size_t position) { return position / LogFile::kPageBytes * LogFile::kPageBytes; }
size_t PageUp(size_t position) { return PageDown(position + LogFile::kPageBytes - 1); }

}  // namespace

absl::StatusOr<std::shared_ptr<Segment>> Segment::Map(const LogFile& file, Place place) {
  auto memory = file.Map(place.slot, place.slots);
  if (!memory.ok()) return memory.status();
  return std::shared_ptr<Segment>(
      new Segment(*memory, place.slots * file.shape().slot_bytes, place));
}

Segment::~Segment() { munmap(memory_, size_); }

// ---- Writing ----

void Segment::Begin(uint64_t log_id, uint64_t base_offset, bool behind_lost_tail,
                    std::string_view checkpoint) {
  Retire();
  Header header{};
  std::memcpy(header.magic, kMagic.data(), kMagicBytes);
  header.log_id = log_id;
  header.base_offset = base_offset;
  header.slot = place_.slot;
  header.slots = place_.slots;
  header.entry_bytes = sizeof(IndexEntry);
  header.is_behind_lost_tail = behind_lost_tail ? 1 : 0;
  header.crc = events::CrcOf(header);
  base_offset_ = base_offset;
  behind_lost_tail_ = behind_lost_tail;
  seed_ = header.crc;
  published_.store(0, std::memory_order_release);
  has_lost_.store(false, std::memory_order_release);
  // The magic last: what has it is whole, whenever the process dies.
  std::memcpy(memory_ + kMagicBytes, header.magic + kMagicBytes, sizeof header - kMagicBytes);
  StoreMagic(memory_, kMagic);

  IndexEntry entry;
  entry.length = static_cast<uint32_t>(checkpoint.size());
  entry.data_crc = Crc32c(checkpoint.data(), checkpoint.size());
  entry.kind = EntryKind::kControl;
  Append(reinterpret_cast<const uint8_t*>(checkpoint.data()), {&entry, 1});
}

void Segment::Retire() { StoreMagic(memory_, kFreeMagic); }

std::string_view Segment::FreeHeader() { return kFreeMagic; }

uint64_t Segment::end_offset(uint32_t entries) const {
  if (entries == 0) return base_offset_;
  return entry(entries - 1).next_offset();
}

size_t Segment::used_end() const {
  const uint32_t published = count();
  if (published == 0) return kHeaderBytes;
  const IndexEntry& last = entry(published - 1);
  return last.position + last.length;
}

size_t Segment::record_bytes() const { return used_end() - kHeaderBytes; }

size_t Segment::free_bytes() const { return size_ - used_end() - count() * sizeof(IndexEntry); }

size_t Segment::CountFitting(std::span<const IndexEntry> entries) const {
  if (entries.empty()) return 0;
  const size_t free = free_bytes();
  const size_t start = entries.front().position;
  // Each entry adds to what is needed, so the first one that does not fit ends the run.
  const auto fits = [&](const IndexEntry& each) {
    const auto entries_so_far = static_cast<size_t>(&each - entries.data()) + 1;
    return each.position + each.length - start + entries_so_far * sizeof(IndexEntry) <= free;
  };
  size_t fitting = entries.size();
  if (!fits(entries.back())) {
    fitting = static_cast<size_t>(std::partition_point(entries.begin(), entries.end(), fits) -
                                  entries.begin());
  }
  while (fitting > 0 && (entries[fitting - 1].flags & kWithNext) != 0 && fitting < entries.size()) {
    --fitting;
  }
  return fitting;
}

uint32_t Segment::CrcOf(IndexEntry entry) const {
  entry.entry_crc = 0;
  return Crc32cOfWords(std::bit_cast<std::array<uint64_t, 8>>(entry), seed_);
}

void Segment::Append(const uint8_t* data, std::span<const IndexEntry> entries) {
  assert(CountFitting(entries) == entries.size());
  if (entries.empty()) return;
  const uint32_t first = count();
  const size_t start = used_end();
  const size_t data_start = entries.front().position;
  const size_t bytes = entries.back().position + entries.back().length - data_start;
  std::memcpy(memory_ + start, data + data_start, bytes);

  uint64_t offset = end_offset();
  IndexEntry* to = EntryAt(first);
  for (IndexEntry entry : entries) {
    const size_t in_record =
        entry.has_record() ? OffsetPosition(data + entry.position, entry.length) : 0;
    entry.position = static_cast<uint32_t>(entry.position - data_start + start);
    entry.offset = offset;
    if (entry.has_record()) {
      std::memcpy(memory_ + entry.position + in_record, &offset, sizeof offset);
    } else if (entry.kind == EntryKind::kLost) {
      has_lost_.store(true, std::memory_order_release);
    }
    offset = entry.next_offset();
    // Before it is stored: to read back what is on its way to memory would wait for that.
    entry.entry_crc = CrcOf(entry);
    *to-- = entry;
  }
  Commit(first + static_cast<uint32_t>(entries.size()));
}

void Segment::Commit(uint32_t count) {
  // Release: no store of what is committed may come after it, for readers and for the next process.
  std::atomic_ref(HeaderOf(memory_)->committed)
      .store(CommitWord(count, seed_), std::memory_order_release);
  published_.store(count, std::memory_order_release);
}

void Segment::Populate(size_t bytes) {
  // Events of this size are small; more index than is needed costs little.
  constexpr size_t kSmallEvent = 512;
  const uint32_t published = count();
  const size_t bytes_from = used_end();
  const size_t index_end = size_ - published * sizeof(IndexEntry);
  const size_t index_bytes = bytes / kSmallEvent * sizeof(IndexEntry);
  const auto populate = [this](size_t from, size_t to) {
    // In pieces, since all other mapping in the process waits for each of them. Where the kernel
    // does not know it (before 5.14), the writer takes the faults.
    constexpr size_t kPiece = 256 << 10;
    for (size_t at = PageDown(from); at < to; at += kPiece) {
      madvise(memory_ + at, std::min(kPiece, PageUp(to) - at), MADV_POPULATE_WRITE);
    }
  };
  populate(bytes_from, std::min(bytes_from + bytes, index_end));
  populate(std::max(bytes_from, index_end - std::min(index_end, index_bytes)), index_end);
}

// ---- Reading ----

uint32_t Segment::IndexOf(uint64_t offset) const {
  // Without entries that take no offset it would be the distance from the base; each of them moves
  // it on.
  auto index = static_cast<uint32_t>(offset - base_offset_);
  for (;;) {
    const IndexEntry& found = entry(index);
    if (found.offset == offset && found.takes_offset()) return index;
    index += std::max<uint32_t>(1, static_cast<uint32_t>(offset - found.offset));
  }
}

std::string_view Segment::records(uint32_t first, uint32_t last) const {
  assert(first < last && last <= count());
  const IndexEntry& end = entry(last - 1);
  const size_t start = entry(first).position;
  return {reinterpret_cast<const char*>(memory_ + start), end.position + end.length - start};
}

// ---- Pins ----

bool Segment::is_pinned() const {
  const std::lock_guard lock(pins_mutex_);
  return !pins_.empty();
}

// Readers may be in the middle of the bytes, the kernel among them, which copies from there to a
// socket: a page is replaced by its copy in one step, so they never see anything else.
void Segment::Detach() {
  const std::lock_guard lock(pins_mutex_);
  std::vector<Range> pages;
  for (const Range& pin : pins_) {
    pages.push_back({.begin = static_cast<uint32_t>(PageDown(pin.begin)),
                     .end = static_cast<uint32_t>(PageUp(pin.end))});
  }
  std::ranges::sort(pages, {}, &Range::begin);
  size_t done = 0;
  for (const Range& range : pages) {
    const size_t begin = std::max<size_t>(range.begin, done);
    if (begin >= range.end) continue;
    const size_t size = range.end - begin;
    void* copy = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy != MAP_FAILED) {
      std::memcpy(copy, memory_ + begin, size);
      if (mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, memory_ + begin) == MAP_FAILED) {
        munmap(copy, size);
        copy = MAP_FAILED;
      }
    }
    if (copy == MAP_FAILED) {
      // To go on would change bytes that are being sent. What Discord sent after the last heartbeat
      // comes again.
      log::Error("no memory to set a reader's events aside; ending", {{"bytes", size}});
      std::abort();
    }
    done = range.end;
  }
}

SegmentPin::SegmentPin(std::shared_ptr<Segment> segment) : segment_(std::move(segment)) {
  const std::lock_guard lock(segment_->pins_mutex_);
  segment_->pins_.push_front({.begin = 0, .end = static_cast<uint32_t>(segment_->size_)});
  range_ = segment_->pins_.begin();
}

SegmentPin::~SegmentPin() { Release(); }

SegmentPin::SegmentPin(SegmentPin&& other) noexcept
    : segment_(std::move(other.segment_)), range_(other.range_) {}

SegmentPin& SegmentPin::operator=(SegmentPin&& other) noexcept {
  if (this != &other) {
    Release();
    segment_ = std::move(other.segment_);
    range_ = other.range_;
  }
  return *this;
}

void SegmentPin::Narrow(std::string_view to) {
  const auto begin =
      static_cast<uint32_t>(reinterpret_cast<const uint8_t*>(to.data()) - segment_->memory_);
  const std::lock_guard lock(segment_->pins_mutex_);
  *range_ = {.begin = begin, .end = begin + static_cast<uint32_t>(to.size())};
}

void SegmentPin::Release() {
  if (segment_ == nullptr) return;
  {
    const std::lock_guard lock(segment_->pins_mutex_);
    segment_->pins_.erase(range_);
  }
  segment_.reset();
}

// ---- Recovery ----

absl::StatusOr<Segment::Found> Segment::Recover(const LogFile& file, uint32_t slot,
                                                std::shared_ptr<Segment>* segment) {
  const LogFile::Shape& shape = file.shape();
  Found found{.place = {.slot = slot, .slots = 1}};
  auto mapped = Map(file, found.place);
  if (!mapped.ok()) return mapped.status();
  Header header;
  std::memcpy(&header, (*mapped)->memory_, sizeof header);
  const std::string_view magic(header.magic, kMagicBytes);
  const bool is_whole = header.crc == events::CrcOf(header) && header.log_id == file.log_id() &&
                        header.slot == slot && header.entry_bytes == sizeof(IndexEntry) &&
                        header.slots > 0 && header.slots <= shape.slots - slot;
  // What stands in its other slots is what its events have left.
  if (is_whole) found.place.slots = header.slots;
  if (magic == kFreeMagic) return found;
  if (magic != kMagic || !is_whole) {
    // A place that was never used is empty at its end, too.
    static constexpr char kNothing[std::max(sizeof(Header), sizeof(IndexEntry))] = {};
    const bool is_unused = std::memcmp(&header, kNothing, sizeof header) == 0 &&
                           std::memcmp((*mapped)->EntryAt(0), kNothing, sizeof(IndexEntry)) == 0;
    found.place.slots = 1;
    found.what = is_unused ? Find::kNothing : Find::kDamaged;
    return found;
  }
  // Begin() has not come to its end.
  if (header.committed == 0) return found;
  if (header.slots > 1) mapped = Map(file, found.place);
  if (!mapped.ok()) return mapped.status();
  Segment& it = **mapped;
  it.base_offset_ = header.base_offset;
  it.behind_lost_tail_ = header.is_behind_lost_tail != 0;
  it.seed_ = header.crc;
  it.was_recovered_ = true;

  const size_t most = (it.size_ - kHeaderBytes) / sizeof(IndexEntry);
  auto count = static_cast<uint32_t>(header.committed);
  found.tail_is_sure = header.committed == CommitWord(count, it.seed_) && count <= most;
  if (!found.tail_is_sure) {
    // As far as the entries go.
    count = 0;
    while (count < most && it.IsWhole(count, count == 0 ? nullptr : it.EntryAt(count - 1))) ++count;
  }
  found.damaged_entries = it.RepairIndex(count);
  if (count == 0) {
    found.what = Find::kDamaged;
    return found;
  }
  it.published_.store(count, std::memory_order_release);
  found.what = Find::kSegment;
  *segment = *std::move(mapped);
  return found;
}

void Segment::CommitRecovered() { Commit(count()); }

// Whether an entry can be believed: of itself and, where there is one, behind `previous`.
bool Segment::IsWhole(uint32_t index, const IndexEntry* previous) const {
  const IndexEntry& it = entry(index);
  if (it.entry_crc != CrcOf(it)) return false;
  if (!it.has_record() && it.kind != EntryKind::kControl && it.kind != EntryKind::kLost) {
    return false;
  }
  const size_t index_begin = size_ - (index + 1) * sizeof(IndexEntry);
  if (it.position < kHeaderBytes || uint64_t{it.position} + it.length > index_begin) return false;
  if (it.has_record() && it.data_position > it.length) return false;
  if (index == 0 && (it.position != kHeaderBytes || it.offset != base_offset_)) return false;
  if (previous == nullptr) return true;
  return it.position == previous->position + previous->length &&
         it.offset == previous->next_offset();
}

uint32_t Segment::RepairIndex(uint32_t count) {
  uint32_t damaged = 0;
  for (uint32_t i = 0; i < count;) {
    if (IsWhole(i, i == 0 ? nullptr : EntryAt(i - 1))) {
      if (entry(i).kind == EntryKind::kLost) has_lost_.store(true, std::memory_order_release);
      ++i;
      continue;
    }
    // Up to the next entry that can be believed by itself.
    uint32_t next = i + 1;
    while (next < count && !IsWhole(next, nullptr)) ++next;
    damaged += MakeLost(i, next, count);
    i = next;
  }
  return damaged;
}

// How many of them were events shows in the entry behind them; without one, all may have been. The
// first entry of all is the checkpoint.
uint32_t Segment::MakeLost(uint32_t first, uint32_t last, uint32_t count) {
  uint64_t offset = end_offset(first);
  const size_t position =
      first == 0 ? kHeaderBytes : entry(first - 1).position + entry(first - 1).length;
  uint64_t lost = last - std::max<uint32_t>(first, 1);
  size_t bytes = 0;
  if (last < count && entry(last).offset >= offset && entry(last).position >= position) {
    lost = std::min(lost, entry(last).offset - offset);
    bytes = entry(last).position - position;
  }
  for (uint32_t i = first; i < last; ++i) {
    IndexEntry it;
    it.position = static_cast<uint32_t>(position);
    it.length = i + 1 == last ? static_cast<uint32_t>(bytes) : 0;
    it.offset = offset;
    if (lost > 0 && i > 0) {
      it.kind = EntryKind::kLost;
      has_lost_.store(true, std::memory_order_release);
      --lost;
      ++offset;
    } else {
      it.kind = EntryKind::kControl;
      it.flags = kDamaged;
    }
    it.entry_crc = CrcOf(it);
    *EntryAt(i) = it;
  }
  return last - first;
}

void Segment::DropLostFrom(uint64_t offset) {
  for (uint32_t i = count(); i > 1; --i) {
    IndexEntry& each = *EntryAt(i - 1);
    if (each.kind != EntryKind::kLost || each.offset < offset) return;
    each.kind = EntryKind::kControl;
    each.flags = kDamaged;
    each.offset = offset;
    each.entry_crc = CrcOf(each);
  }
}

uint32_t Segment::Verify() {
  uint32_t damaged = 0;
  std::call_once(verified_, [&] {
    if (was_recovered_) damaged = VerifyRecords();
  });
  return damaged;
}

uint32_t Segment::VerifyRecords() {
  uint32_t damaged = 0;
  const uint32_t entries = count();
  for (uint32_t i = 0; i < entries; ++i) {
    IndexEntry& each = *EntryAt(i);
    if (each.kind == EntryKind::kLost || (each.flags & kDamaged) != 0) continue;
    if (IsWholeRecord(record(i), each)) continue;
    ++damaged;
    if (each.is_event()) {
      each.kind = EntryKind::kLost;
      has_lost_.store(true, std::memory_order_release);
    } else {
      each.flags |= kDamaged;
    }
    each.entry_crc = CrcOf(each);
  }
  return damaged;
}

}  // namespace shardd::events
