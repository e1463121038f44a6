#include "events/log.h"

#include <algorithm>
#include <cstdlib>
#include <random>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status.h"

namespace shardd::events {
namespace {

uint64_t RandomLogId() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

// The end of the longest run from `first` on that keeps to the limits, but for its first event.
uint32_t EndOfRun(const Segment& segment, uint32_t first, uint32_t count,
                  const ReadLimits& limits) {
  const uint32_t most = std::min<uint64_t>(count, uint64_t{first} + limits.max_events);
  const uint64_t byte_limit = uint64_t{segment.entry(first).position} + limits.max_bytes;
  // Positions grow with the index, so the first event that ends behind the limit is found by
  // halving.
  uint32_t low = first + 1;
  uint32_t high = most;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    const IndexEntry& entry = segment.entry(middle);
    if (uint64_t{entry.position} + entry.length <= byte_limit) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace

Log::Log(LogId id, uint64_t retain_bytes)
    : id_(id),
      retain_bytes_(retain_bytes),
      segment_bytes_(std::min(retain_bytes / kSegmentsInRing, kMaxSegmentBytes) /
                     Segment::kPageBytes * Segment::kPageBytes) {}

absl::StatusOr<std::unique_ptr<Log>> Log::Open(const LogOptions& options) {
  if (options.retain_bytes < kMinRetainBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the log needs at least ", kMinRetainBytes,
                                                   " bytes, and was given ", options.retain_bytes));
  }
  auto log = std::unique_ptr<Log>(new Log({.id = RandomLogId(), .epoch = 1}, options.retain_bytes));
  auto segment = Segment::Create(log->segment_bytes_);
  if (!segment.ok()) return segment.status();
  (*segment)->Begin(log->id_, 0);
  log->ring_bytes_ = (*segment)->size();
  log->ring_.push_back(*std::move(segment));
  return log;
}

void Log::Append(Round& round) {
  if (round.empty()) return;
  {
    const std::lock_guard lock(append_mutex_);
    std::span<const IndexEntry> left = round.entries();
    while (!left.empty()) {
      Segment& segment = *ring_.back();
      const size_t fitting = segment.CountFitting(left);
      if (fitting == 0) {
        Rotate(left.front().length);
        continue;
      }
      segment.Append(round, left.first(fitting));
      left = left.subspan(fitting);
      end_.store(segment.end_offset(), std::memory_order_release);
    }
  }
  round.Clear();
  if (listener_) listener_();
}

void Log::Rotate(size_t record_bytes) {
  // An event too large for a segment gets one of its own.
  const size_t size = std::max(segment_bytes_, Segment::RoundUp(Segment::BytesFor(record_bytes)));
  std::vector<std::shared_ptr<Segment>> dropped;  // unmapped behind the lock
  const std::lock_guard lock(ring_mutex_);
  const uint64_t base = ring_.back()->end_offset();
  std::shared_ptr<Segment> next;
  while (!ring_.empty() && ring_bytes_ + size > retain_bytes_) {
    std::shared_ptr<Segment> oldest = std::move(ring_.front());
    ring_.pop_front();
    ring_bytes_ -= oldest->size();
    // Nobody can pin it any more: pins are taken under this lock, from the ring.
    if (oldest->pinned()) {
      std::erase_if(retired_, [](const auto& segment) { return segment.expired(); });
      retired_.push_back(oldest);
    } else if (oldest->size() == size && size == segment_bytes_) {
      next = oldest;
      continue;
    }
    dropped.push_back(std::move(oldest));
  }
  if (next == nullptr) {
    auto created = Segment::Create(size);
    if (!created.ok()) {
      log::Error("the event log cannot go on", {{"error", Message(created.status())}});
      std::abort();
    }
    next = *std::move(created);
  }
  next->Begin(id_, base);
  ring_bytes_ += next->size();
  ring_.push_back(std::move(next));
  oldest_.store(ring_.front()->base_offset(), std::memory_order_release);
}

std::shared_ptr<Segment> Log::Find(uint64_t offset) const {
  const auto behind = std::upper_bound(
      ring_.begin(), ring_.end(), offset,
      [](uint64_t wanted, const auto& segment) { return wanted < segment->base_offset(); });
  return behind == ring_.begin() ? nullptr : *std::prev(behind);
}

Run Log::Read(uint64_t from, const ReadLimits& limits) const {
  Run run;
  run.first = run.next = from;
  // What most readers find when they are woken; it costs them no lock.
  if (from >= end()) return run;
  SegmentPin pin;
  {
    const std::lock_guard lock(ring_mutex_);
    std::shared_ptr<Segment> segment = Find(from);
    if (segment == nullptr) segment = ring_.front();
    // The younger half of the ring is far enough from being recycled to be lent out.
    run.ageing = CountRetiredPinned() >= kMaxRetiredPinned ||
                 (ring_.size() > kSegmentsInRing / 2 &&
                  segment->base_offset() < ring_[ring_.size() / 2]->base_offset());
    pin = SegmentPin(std::move(segment));
  }
  const uint32_t count = pin->count();
  run.first = std::max(from, pin->base_offset());
  const auto first = static_cast<uint32_t>(run.first - pin->base_offset());

  uint32_t last = EndOfRun(*pin, first, count, limits);
  run.full = last < count;
  if (limits.max_event_bytes > 0) {
    for (uint32_t i = first; i < last; ++i) {
      const IndexEntry& entry = pin->entry(i);
      if (entry.data_size() <= limits.max_event_bytes) continue;
      if (i == first) {
        run.owned = WithoutData(pin->records(i, i + 1), entry);
        run.next = run.first + 1;
        run.full = true;
        return run;
      }
      last = i;
      run.full = true;
    }
  }
  run.next = run.first + (last - first);
  run.in_log = pin->records(first, last);
  run.pin = std::move(pin);
  return run;
}

Log::Stats Log::GetStats() const {
  Stats stats;
  const std::lock_guard lock(ring_mutex_);
  stats.oldest = oldest();
  stats.end = end();
  for (const auto& segment : ring_) stats.bytes += segment->record_bytes();
  stats.oldest_received_unix_nanos = ReceivedLocked(stats.oldest);
  return stats;
}

int64_t Log::ReceivedUnixNanos(uint64_t offset) const {
  const std::lock_guard lock(ring_mutex_);
  return ReceivedLocked(offset);
}

int64_t Log::ReceivedLocked(uint64_t offset) const {
  const auto segment = Find(offset);
  if (segment == nullptr || offset >= segment->end_offset()) return 0;
  return segment->entry(static_cast<uint32_t>(offset - segment->base_offset())).received_unix_nanos;
}

size_t Log::CountRetiredPinned() const {
  return static_cast<size_t>(
      std::count_if(retired_.begin(), retired_.end(), [](const auto& segment) {
        const auto alive = segment.lock();
        return alive != nullptr && alive->pinned();
      }));
}

size_t Log::retired_pinned() const {
  const std::lock_guard lock(ring_mutex_);
  return CountRetiredPinned();
}

}  // namespace shardd::events
