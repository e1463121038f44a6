#include "events/log.h"

#include <pthread.h>
#include <unistd.h>

#include <cstdlib>
#include <random>
#include <ranges>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status.h"
#include "events/control.h"

namespace shardd::events {
namespace {

// Behind a tail that was lost, offsets go on at the next multiple of this: further on than any that
// was lost, so that a position in the lost part is never taken for one in what comes instead.
constexpr uint64_t kOffsetsOfALife = uint64_t{1} << 32;

uint64_t RandomLogId() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

// One slot more than is kept: that of the segment which was forgotten last.
LogFile::Shape ShapeFor(uint64_t retain_bytes) {
  const uint64_t slot_bytes = std::min(retain_bytes / kSegmentsInRing, kMaxSegmentBytes) /
                              LogFile::kPageBytes * LogFile::kPageBytes;
  return {.slot_bytes = slot_bytes, .slots = static_cast<uint32_t>(retain_bytes / slot_bytes + 1)};
}

bool Overlap(const Segment::Place& a, const Segment::Place& b) {
  return a.slot < b.end() && b.slot < a.end();
}

void Add(const Missing& more, std::optional<Missing>* missing) {
  if (!missing->has_value()) {
    *missing = more;
    return;
  }
  Missing& sum = **missing;
  sum.events = sum.events && more.events ? std::optional(*sum.events + *more.events) : std::nullopt;
  sum.reason = std::max(sum.reason, more.reason);
}

// What lies in front of a segment, from `from` on.
Missing InFrontOf(const Segment& segment, uint64_t from, MissingReason reason) {
  if (segment.is_behind_lost_tail())
    return {.events = std::nullopt, .reason = MissingReason::kTruncated};
  // Behind a hole that has left the log as well.
  const uint64_t base = segment.base_offset();
  if (from / kOffsetsOfALife != base / kOffsetsOfALife)
    return {.events = std::nullopt, .reason = reason};
  return {.events = base - from, .reason = reason};
}

// The end of the longest run of events from `first`, which is one, that keeps to the limits, but
// for that first event.
uint32_t EndOfRun(const Segment& segment, uint32_t first, uint32_t count,
                  const ReadLimits& limits) {
  const auto first_where = [&](uint32_t begin, uint32_t end, auto condition) {
    const auto indices = std::views::iota(begin, std::max(begin, end));
    const auto found = std::ranges::partition_point(
        indices, [&](uint32_t index) { return !condition(index, segment.entry(index)); });
    return found == indices.end() ? std::max(begin, end) : *found;
  };
  const uint32_t most = std::min<uint64_t>(count, uint64_t{first} + limits.max_events);
  const uint64_t byte_limit = uint64_t{segment.entry(first).position} + limits.max_bytes;
  uint32_t end = first_where(first + 1, most, [&](uint32_t, const IndexEntry& entry) {
    return uint64_t{entry.position} + entry.length > byte_limit;
  });
  // Where an entry takes no offset, those behind it are lower than their distance says.
  const uint64_t first_offset = segment.entry(first).offset;
  const uint32_t behind = first_where(first + 1, end, [&](uint32_t index, const IndexEntry& entry) {
    return entry.offset != first_offset + (index - first);
  });
  if (behind < end || !segment.entry(end - 1).takes_offset()) end = behind - 1;
  if (!segment.has_lost()) return end;
  return *std::ranges::find_if_not(std::views::iota(first, end + 1), [&](uint32_t index) {
    return index < end && segment.entry(index).is_event();
  });
}

}  // namespace

// ---- Opening ----

absl::StatusOr<std::unique_ptr<LogFile>> Log::OpenFile(const LogOptions& options,
                                                       Recovered* recovered) {
  const LogFile::Shape shape = ShapeFor(options.retain_bytes);
  if (options.dir.empty()) return LogFile::MakeInMemory(shape, RandomLogId());
  const std::string path = options.dir + "/log";
  auto file = LogFile::Open(path);
  if (file.ok()) {
    auto found = Recover(**file);
    if (!found.ok()) return found.status();
    *recovered = *std::move(found);
  }
  const bool is_empty = recovered->ring.empty();
  if (file.ok() && !is_empty && (*file)->shape() == shape) return file;
  if (!file.ok() && !absl::IsNotFound(file.status()) && !absl::IsDataLoss(file.status())) {
    return file.status();
  }
  if (is_empty && !absl::IsNotFound(file.status())) {
    log::Warn("nothing of the event log can be read: a new one begins",
              {{"file", path}, {"error", Message(file.status())}});
    // Two may not have room.
    unlink(path.c_str());
  }
  // Events that are kept keep their offsets, so the log keeps its id.
  if (!is_empty) recovered->file = *std::move(file);
  return LogFile::Make(path, shape, is_empty ? RandomLogId() : recovered->file->log_id());
}

absl::StatusOr<std::unique_ptr<Log>> Log::Open(const LogOptions& options) {
  if (options.retain_bytes < kMinRetainBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the log needs at least ", kMinRetainBytes,
                                                   " bytes, and was given ", options.retain_bytes));
  }
  Recovered recovered;
  auto file = OpenFile(options, &recovered);
  if (!file.ok()) return file.status();
  auto log = std::unique_ptr<Log>(new Log(options, *std::move(file), std::move(recovered)));
  if (auto status = log->file_->Install(); !status.ok()) return status;
  if (options.is_temporary) log->file_->Unlink();
  return log;
}

Log::Log(const LogOptions& options, std::unique_ptr<LogFile> file, Recovered recovered)
    : file_(std::move(file)),
      max_expected_copies_(MaxExpectedCopies(options.retain_bytes)),
      id_{.id = file_->log_id()},
      state_at_open_(std::move(recovered.state)),
      prepares_pages_(options.prepares_pages) {
  const std::lock_guard lock(append_mutex_);
  // More come from a log that was larger.
  BoundCopies(&state_at_open_);
  Ring& old = recovered.ring;
  if (old.empty()) {
    StartSegment(0, /*behind_lost_tail=*/false, state_at_open_, 0, 0);
  } else if (recovered.file == nullptr) {
    ring_ = std::move(old);
    if (!BeginsWithState(*ring_.back())) {
      // state() takes each change of the newest segment once.
      StartSegment(ring_.back()->end_offset(), /*behind_lost_tail=*/false, state_at_open_, 0, 0);
    }
  } else {
    static_cast<void>(file_->AddFeatures(recovered.file->features()));
    Adopt(old);
  }
  const bool tail_may_be_lost =
      recovered.file == nullptr ? file_->tail_may_be_lost() : recovered.file->tail_may_be_lost();
  if (tail_may_be_lost) {
    log::Warn("the end of the event log may be lost; consumers are told of a gap",
              {{"last_offset", ring_.back()->end_offset()}});
    StartSegment((ring_.back()->end_offset() / kOffsetsOfALife + 1) * kOffsetsOfALife,
                 /*behind_lost_tail=*/true, state_at_open_, 0, 0);
    // Told; should this fail, it is told again.
    static_cast<void>(file_->SetTailMayBeLost(false));
  }
  oldest_.store(ring_.front()->base_offset(), std::memory_order_release);
  end_.store(ring_.back()->end_offset(), std::memory_order_release);
  verifier_ = std::thread([this] { VerifyAll(); });
}

Log::~Log() {
  stopping_ = true;
  verifier_.join();
  file_->Close();
}

// From the newest on, which is read first.
void Log::VerifyAll() {
  ::pthread_setname_np(::pthread_self(), "shardd-verify");
  uint64_t offset = end();
  while (!stopping_) {
    SegmentPin pin;
    {
      const std::lock_guard lock(ring_mutex_);
      const auto behind = std::ranges::lower_bound(
          ring_, offset, {}, [](const auto& segment) { return segment->base_offset(); });
      if (behind == ring_.begin()) return;
      pin = SegmentPin(*std::prev(behind));
      offset = pin->base_offset();
    }
    const uint32_t damaged = pin.Verify();
    if (damaged > 0) {
      log::Warn("the event log has damaged events; each is a gap",
                {{"events", damaged}, {"behind_offset", offset}});
    }
  }
}

// What fits of a log of another size, with its offsets.
void Log::Adopt(const Ring& old) {
  const uint64_t most = file_->shape().slot_bytes * (file_->shape().slots - 2) / 4 * 3;
  uint64_t bytes = 0;
  auto from = old.end();
  while (from != old.begin() && bytes + (*std::prev(from))->record_bytes() <= most) {
    bytes += (*--from)->record_bytes();
  }
  uint32_t index = 0;
  if (from == old.end()) {
    // The end of the newest.
    const Segment& newest = **--from;
    const uint32_t count = newest.count();
    const uint64_t end =
        uint64_t{newest.entry(count - 1).position} + newest.entry(count - 1).length;
    while (index < count && end - newest.entry(index).position > most) ++index;
  }
  const auto begin_at = [&](uint64_t offset, const Segment& segment) {
    StartSegment(offset, segment.is_behind_lost_tail() && offset == segment.base_offset(),
                 state_at_open_, 0, 0);
  };
  begin_at(index < (*from)->count() ? (*from)->entry(index).offset : (*from)->end_offset(), **from);
  std::vector<IndexEntry> entries;
  // Asides, which stay with the event behind them. Where that is too much for this size, a snapshot
  // that has not seen them goes without.
  const uint64_t most_aside = file_->shape().slot_bytes * 3;
  std::vector<IndexEntry> asides;
  std::string aside_bytes;
  for (; from != old.end(); ++from, index = 0) {
    Segment& segment = **from;
    segment.Verify();
    while (index < segment.count()) {
      const IndexEntry& first = segment.entry(index);
      if (!first.takes_offset()) {
        const bool fits =
            aside_bytes.size() + first.length + asides.size() * sizeof first <= most_aside;
        if (first.is_aside() && (first.flags & kDamaged) == 0 && fits) {
          asides.push_back(first);
          asides.back().position = static_cast<uint32_t>(aside_bytes.size());
          aside_bytes += segment.record(index);
        }
        ++index;
        continue;
      }
      if (first.offset != ring_.back()->end_offset()) begin_at(first.offset, segment);
      const uint32_t end = first.is_event()
                               ? EndOfRun(segment, index, segment.count(), {.max_events = 4096})
                               : index + 1;
      if (!asides.empty() && first.is_event() && aside_bytes.size() + first.length <= most_aside) {
        asides.push_back(first);
        asides.back().position = static_cast<uint32_t>(aside_bytes.size());
        asides.back().flags = 0;
        aside_bytes += segment.record(index);
        AppendLocked(reinterpret_cast<const uint8_t*>(aside_bytes.data()), asides);
        asides.clear();
        aside_bytes.clear();
        ++index;
        continue;
      }
      asides.clear();
      aside_bytes.clear();
      entries.clear();
      for (uint32_t j = index; j < end; ++j) entries.push_back(segment.entry(j));
      for (IndexEntry& entry : entries) {
        entry.position -= first.position;
        // A transaction has been committed long ago, and what is left of it may not fit into one.
        entry.flags = 0;
      }
      if (!first.is_event()) entries.front().length = 0;
      AppendLocked(reinterpret_cast<const uint8_t*>(segment.records(index, end).data()), entries);
      index = end;
    }
    // It may end with a hole, or hold nothing but one.
    if (segment.end_offset() != ring_.back()->end_offset()) begin_at(segment.end_offset(), segment);
  }
}

// ---- Writing ----

void Log::Append(Round& round) {
  if (round.empty()) return;
  {
    const std::lock_guard lock(append_mutex_);
    if (round.has_rescale()) {
      if (auto status = file_->AddFeatures(LogFile::kRescales); !status.ok()) {
        log::Warn("the event log cannot be marked for the versions that can read it",
                  {{"error", Message(status)}});
      }
    }
    AppendLocked(round.data(), round.entries());
    if (!prepares_pages_) {
      // The writer meets every page itself.
    } else if (round.bytes() >= unprepared_bytes_) {
      unprepared_bytes_ = Preparer::kAheadBytes / 2;
      preparer_.Signal(ring_.back());
    } else {
      unprepared_bytes_ -= round.bytes();
    }
    appended_bytes_.fetch_add(round.log_bytes(), std::memory_order_relaxed);
  }
  round.Clear();
  if (listener_) listener_();
}

void Log::AppendLocked(const uint8_t* data, std::span<const IndexEntry> entries) noexcept {
  while (!entries.empty()) {
    Segment& segment = *ring_.back();
    const size_t fitting = segment.CountFitting(entries);
    if (fitting == 0) {
      Rotate(entries);
      continue;
    }
    segment.Append(data, entries.first(fitting));
    entries = entries.subspan(fitting);
    end_.store(segment.end_offset(), std::memory_order_release);
  }
}

State Log::state() const {
  const std::lock_guard lock(append_mutex_);
  State state = state_at_open_;
  Replay(*ring_.back(), &state);
  return state;
}

void Log::Rotate(std::span<const IndexEntry> entries) {
  // What is committed together goes into one segment.
  size_t count = 1;
  while (count < entries.size() && (entries[count - 1].flags & kWithNext) != 0) ++count;
  size_t bytes = 0;
  for (const IndexEntry& entry : entries.first(count)) bytes += entry.length;
  // The newest segment begins with all that came before, so nothing needs to be kept up to date
  // from event to event.
  State state = state_at_open_;
  Replay(*ring_.back(), &state);
  StartSegment(ring_.back()->end_offset(), /*behind_lost_tail=*/false, state, bytes, count);
}

// So that what begins a segment leaves room for the rest.
void Log::BoundCopies(State* state) const {
  const size_t left_out = KeepNewestCopies(max_expected_copies_, state);
  if (left_out == 0) return;
  log::Warn("the log is too small for the events that are known to come again: some may be doubled",
            {{"events", left_out}, {"kept", max_expected_copies_}});
}

void Log::StartSegment(uint64_t base_offset, bool behind_lost_tail, State state,
                       size_t record_bytes, size_t entries) {
  BoundCopies(&state);
  const std::string checkpoint = EncodeCheckpoint(state);
  const LogFile::Shape& shape = file_->shape();
  const size_t bytes = Segment::BytesFor(record_bytes + checkpoint.size(), entries + 1);
  Segment::Place place{
      .slot = ring_.empty() ? 0 : ring_.back()->place().end(),
      .slots = static_cast<uint32_t>((bytes + shape.slot_bytes - 1) / shape.slot_bytes)};
  if (place.end() > shape.slots) place.slot = 0;
  const Segment::Place rest{.slot = place.end() < shape.slots ? place.end() : 0};
  const auto is_in_the_way = [&](const auto& segment) {
    return Overlap(segment->place(), place) || Overlap(segment->place(), rest);
  };
  // Oldest first, so that there is no hole.
  while (std::ranges::any_of(ring_, is_in_the_way)) {
    if (ring_.size() == 1) {
      log::Error(
          "an event and what is known of the shards do not fit into the log; ending. Raise "
          "--retain-bytes",
          {{"bytes", bytes}});
      std::abort();
    }
    const std::shared_ptr<Segment>& oldest = ring_.front();
    oldest->Retire();
    resting_.push_back(oldest);
    const std::lock_guard lock(ring_mutex_);
    ring_.pop_front();
    oldest_.store(ring_.front()->base_offset(), std::memory_order_release);
  }
  std::shared_ptr<Segment> next = Reuse(place);
  next->Begin(id_.id, base_offset, behind_lost_tail, checkpoint);
  const std::lock_guard lock(ring_mutex_);
  ring_.push_back(std::move(next));
  if (ring_.size() == 1) oldest_.store(base_offset, std::memory_order_release);
  unprepared_bytes_ = 0;
}

// A segment at this place that nobody reads: with the mapping that was there, if it can be.
std::shared_ptr<Segment> Log::Reuse(Segment::Place place) {
  std::shared_ptr<Segment> reused;
  for (auto& segment : resting_) {
    if (!Overlap(segment->place(), place)) continue;
    const bool is_pinned = segment->is_pinned();
    if (is_pinned) segment->Detach();
    // What the events left there must not be taken for segments.
    for (uint32_t slot = segment->place().slot + 1; slot < segment->place().end(); ++slot) {
      file_->Clear(slot, Segment::FreeHeader());
    }
    if (!is_pinned && !segment->was_recovered() && segment->place() == place) {
      reused = std::move(segment);
    }
    segment.reset();
  }
  std::erase(resting_, nullptr);
  if (reused != nullptr) return reused;
  auto mapped = Segment::Map(*file_, place);
  if (!mapped.ok()) {
    log::Error("the event log cannot go on; ending", {{"error", Message(mapped.status())}});
    std::abort();
  }
  return *std::move(mapped);
}

// ---- Reading ----

Log::Ring::const_iterator Log::Find(uint64_t offset) const {
  const auto behind = std::ranges::upper_bound(
      ring_, offset, {}, [](const auto& each) { return each->base_offset(); });
  return behind == ring_.begin() ? ring_.begin() : std::prev(behind);
}

Log::Found Log::Locate(uint64_t from) const {
  Found found;
  // What most readers find when they are woken; it costs them no lock.
  if (from >= end()) return found;
  {
    const std::lock_guard lock(ring_mutex_);
    auto segment = Find(from);
    found.first = from;
    if (from < (*segment)->base_offset()) {
      found.missing = InFrontOf(**segment, from, MissingReason::kNotRetained);
    } else if (from >= (*segment)->end_offset() && std::next(segment) != ring_.end()) {
      ++segment;
      if (from < (*segment)->base_offset()) {
        found.missing = InFrontOf(**segment, from, MissingReason::kDamaged);
      }
    }
    found.first = std::max(from, (*segment)->base_offset());
    found.is_newest = *segment == ring_.back();
    found.pin = SegmentPin(*segment);
  }
  found.pin.Verify();
  return found;
}

View Log::Look(uint64_t from) const { return LookAt(from, /*with_asides=*/false); }
View Log::LookWithAsides(uint64_t from) const { return LookAt(from, /*with_asides=*/true); }

View Log::LookAt(uint64_t from, bool with_asides) const {
  Found found = Locate(from);
  if (!found.pin) return {};
  const uint32_t count = found.pin->count();
  const bool is_behind = found.first >= found.pin->end_offset(count);
  uint32_t index = is_behind ? count : found.pin->IndexOf(found.first);
  while (with_asides && index > 0 && !found.pin->entry(index - 1).takes_offset()) --index;
  View view(std::move(found.pin), index);
  view.missing = found.missing;
  return view;
}

Run Log::Read(uint64_t from, const ReadLimits& limits) const {
  Run run;
  run.first = run.next = from;
  Found found = Locate(from);
  if (!found.pin) return run;
  const Segment& segment = *found.pin;
  run.first = run.next = found.first;
  run.missing = found.missing;
  const uint32_t count = segment.count();
  if (run.first >= segment.end_offset()) return run;
  uint32_t first = segment.IndexOf(run.first);
  for (; first < count && !segment.entry(first).is_event(); ++first) {
    if (segment.entry(first).kind == EntryKind::kLost) {
      ++run.first;
      Add({.events = 1, .reason = MissingReason::kDamaged}, &run.missing);
    }
  }
  run.next = run.first;
  if (first == count) return run;

  uint32_t last = EndOfRun(segment, first, count, limits);
  // No run goes on from one segment into the next.
  run.full = last < count || !found.is_newest;
  if (limits.max_event_bytes > 0) {
    for (uint32_t i = first; i < last; ++i) {
      const IndexEntry& entry = segment.entry(i);
      if (entry.data_size() <= limits.max_event_bytes) continue;
      if (i == first) {
        run.owned = WithoutData(segment.record(i), entry);
        run.next = run.first + 1;
        run.count = 1;
        run.full = true;
        return run;
      }
      last = i;
      run.full = true;
    }
  }
  run.count = last - first;
  run.next = run.first + run.count;
  run.in_log = segment.records(first, last);
  found.pin.Narrow(run.in_log);
  run.pin = std::move(found.pin);
  return run;
}

uint64_t Log::CountFrom(uint64_t offset) const {
  const std::lock_guard lock(ring_mutex_);
  uint64_t count = 0;
  for (auto segment = Find(offset); segment != ring_.end(); ++segment) {
    const uint64_t end = (*segment)->end_offset();
    count += end - std::min(end, std::max(offset, (*segment)->base_offset()));
  }
  return count;
}

Log::Stats Log::GetStats() const {
  Stats stats;
  stats.oldest = oldest();
  stats.oldest_received_unix_nanos = ReceivedUnixNanos(stats.oldest);
  const std::lock_guard lock(ring_mutex_);
  stats.end = end();
  for (const auto& segment : ring_) {
    stats.events += segment->events();
    stats.bytes += segment->record_bytes();
  }
  return stats;
}

uint64_t Log::RoomBehind(uint64_t offset) const {
  const std::lock_guard lock(ring_mutex_);
  if (offset < ring_.front()->base_offset()) return 0;
  uint64_t used = 0;
  uint64_t before = 0;
  for (const auto& segment : ring_) {
    used += segment->size();
    if (segment != ring_.back() && segment->end_offset() <= offset) before += segment->size();
  }
  const LogFile::Shape& shape = file_->shape();
  const uint64_t most = shape.slot_bytes * (shape.slots - 1);
  return most - std::min(most, used) + ring_.back()->free_bytes() + before;
}

int64_t Log::ReceivedUnixNanos(uint64_t offset) const {
  const std::lock_guard lock(ring_mutex_);
  if (offset < ring_.front()->base_offset()) return 0;
  for (auto segment = Find(offset); segment != ring_.end(); ++segment) {
    const Segment& it = **segment;
    offset = std::max(offset, it.base_offset());
    if (offset < it.end_offset()) return it.entry(it.IndexOf(offset)).received_unix_nanos;
  }
  return 0;
}

}  // namespace shardd::events
