#include "events/segment.h"

#include <sys/mman.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "events/crc32c.h"

namespace shardd::events {
namespace {

// The first bytes of a segment. Readers refuse a format version or an incompatible feature that
// they do not know.
struct Header {
  char magic[8];
  uint32_t format_version;
  uint32_t header_bytes;
  uint32_t entry_bytes;
  uint32_t epoch;
  uint64_t incompatible_features;
  uint64_t compatible_features;
  uint64_t log_id;
  uint64_t base_offset;
};
static_assert(sizeof(Header) <= Segment::kHeaderBytes);

constexpr char kMagic[8] = {'S', 'H', 'A', 'R', 'D', 'L', 'O', 'G'};
constexpr uint32_t kFormatVersion = 1;

}  // namespace

absl::StatusOr<std::shared_ptr<Segment>> Segment::Create(size_t size) {
  size = RoundUp(size);
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for a log segment of ", size, " bytes: ", std::strerror(errno),
                     ". Lower --retain-bytes or raise the process's memory limit"));
  }
  // First touch of a small page costs five times what the copy into it does; a failure costs only
  // that.
  madvise(memory, size, MADV_HUGEPAGE);
  return std::shared_ptr<Segment>(new Segment(static_cast<uint8_t*>(memory), size));
}

Segment::~Segment() { munmap(memory_, size_); }

void Segment::Begin(LogId log, uint64_t base_offset) {
  Header header = {};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.format_version = kFormatVersion;
  header.header_bytes = kHeaderBytes;
  header.entry_bytes = sizeof(IndexEntry);
  header.epoch = log.epoch;
  header.log_id = log.id;
  header.base_offset = base_offset;
  std::memcpy(memory_, &header, sizeof header);
  base_offset_ = base_offset;
  published_.store(0, std::memory_order_release);
}

size_t Segment::used_end() const {
  const uint32_t published = count();
  if (published == 0) return kHeaderBytes;
  const IndexEntry& last = entry(published - 1);
  return last.position + last.length;
}

size_t Segment::record_bytes() const { return used_end() - kHeaderBytes; }

size_t Segment::CountFitting(std::span<const IndexEntry> entries) const {
  if (entries.empty()) return 0;
  const size_t free = size_ - used_end() - count() * sizeof(IndexEntry);
  const size_t start = entries.front().position;
  // Each entry adds to what is needed, so the first one that does not fit ends the run.
  const auto fits = [&](const IndexEntry& entry) {
    const auto entries_so_far = static_cast<size_t>(&entry - entries.data()) + 1;
    return entry.position + entry.length - start + entries_so_far * sizeof(IndexEntry) <= free;
  };
  if (fits(entries.back())) return entries.size();
  return static_cast<size_t>(std::partition_point(entries.begin(), entries.end(), fits) -
                             entries.begin());
}

void Segment::Append(const Round& round, std::span<const IndexEntry> entries) {
  assert(CountFitting(entries) == entries.size());
  if (entries.empty()) return;
  const uint32_t first = count();
  const size_t start = used_end();
  const size_t round_start = entries.front().position;
  const size_t bytes = entries.back().position + entries.back().length - round_start;
  std::memcpy(memory_ + start, round.data() + round_start, bytes);

  for (size_t i = 0; i < entries.size(); ++i) {
    IndexEntry entry = entries[i];
    entry.position = static_cast<uint32_t>(entry.position - round_start + start);
    entry.offset = base_offset_ + first + i;
    uint8_t* record = memory_ + entry.position;
    std::memcpy(record + OffsetPosition(record), &entry.offset, sizeof entry.offset);
    entry.entry_crc = Crc32c(&entry, sizeof entry);
    *EntryAt(first + static_cast<uint32_t>(i)) = entry;
  }
  published_.store(first + static_cast<uint32_t>(entries.size()), std::memory_order_release);
}

std::string_view Segment::records(uint32_t first, uint32_t last) const {
  assert(first < last && last <= count());
  const IndexEntry& end = entry(last - 1);
  const size_t start = entry(first).position;
  return {reinterpret_cast<const char*>(memory_ + start), end.position + end.length - start};
}

SegmentPin::SegmentPin(std::shared_ptr<Segment> segment) : segment_(std::move(segment)) {
  if (segment_) segment_->pins_.fetch_add(1, std::memory_order_relaxed);
}

SegmentPin::~SegmentPin() { Release(); }

SegmentPin& SegmentPin::operator=(SegmentPin&& other) noexcept {
  if (this != &other) {
    Release();
    segment_ = std::move(other.segment_);
  }
  return *this;
}

void SegmentPin::Release() {
  // Release: what this reader read happens before the writer, which checks pinned(), writes there
  // again.
  if (segment_) segment_->pins_.fetch_sub(1, std::memory_order_release);
  segment_.reset();
}

}  // namespace shardd::events
