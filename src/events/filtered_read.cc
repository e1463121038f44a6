#include "events/filtered_read.h"

#include <algorithm>
#include <cassert>
#include <string_view>

namespace shardd::events {
namespace {

// False: the limits do not take it, and the run is full.
bool Add(std::string_view record, const IndexEntry& entry, const ReadLimits& limits, Run* run) {
  const bool without_data =
      limits.max_event_bytes > 0 && entry.data_size() > limits.max_event_bytes;
  const std::string stripped = without_data ? WithoutData(record, entry) : std::string();
  const std::string_view bytes = without_data ? std::string_view(stripped) : record;
  if (run->count > 0 && run->owned.size() + bytes.size() > limits.max_bytes) {
    run->full = true;
    return false;
  }
  run->owned += bytes;
  ++run->count;
  run->full = run->count >= limits.max_events;
  return true;
}

// Nothing has been read into it, or examined for it.
bool IsFresh(const Run& run) { return run.first == run.next && !run.missing.has_value(); }

}  // namespace

void ReadFiltered(const Log& log, const Filter& filter, const ReadLimits& limits, Run* run) {
  assert(!run->full);
  uint32_t left = kMaxExamined;
  while (left > 0 && !run->full) {
    if (run->next >= log.end()) return;
    const View view = log.Look(run->next);
    if (view.missing.has_value()) {
      if (!IsFresh(*run)) {
        run->full = true;
        return;
      }
      run->missing = view.missing;
      run->first = run->next = view.size() > 0 ? view.entry(0).offset : view.next();
    }
    const uint64_t start = run->next;
    const uint32_t size = std::min(view.size(), left);
    for (uint32_t i = 0; i < size && !run->full; ++i) {
      const IndexEntry& entry = view.entry(i);
      if (entry.kind == EntryKind::kEvent && entry.offset == run->next) [[likely]] {
        if (filter.MayMatch(entry)) {
          const std::string_view record = view.record(i);
          if (filter.Confirm(entry, record) && !Add(record, entry, limits, run)) break;
        }
        ++run->next;
      } else if (entry.kind == EntryKind::kLost && entry.offset == run->next) {
        const bool goes_on = run->missing.has_value() && run->first == run->next &&
                             run->missing->reason == MissingReason::kDamaged &&
                             run->missing->events.has_value();
        if (goes_on) {
          ++*run->missing->events;
        } else if (IsFresh(*run)) {
          run->missing = Missing{.events = 1, .reason = MissingReason::kDamaged};
        } else {
          run->full = true;
          break;
        }
        run->first = ++run->next;
      } else if (entry.offset > run->next && entry.takes_offset()) {
        // Offsets are missing here. Where that is what the run begins with, the look should have
        // said it; else the next one will.
        if (!IsFresh(*run)) {
          run->full = true;
          break;
        }
        run->missing = Missing{.reason = MissingReason::kDamaged};
        run->first = run->next = entry.offset;
        break;
      }
    }
    left -= size;
    if (run->next == start && !view.missing.has_value()) return;
  }
}

}  // namespace shardd::events
