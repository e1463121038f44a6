#include "events/recovery.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/log.h"
#include "events/control.h"

namespace shardd::events {
namespace {

// The newest event of a shard since the last control entry.
struct Newest {
  uint32_t session = 0;
  uint64_t sequence = 0;
  int64_t received_unix_nanos = 0;
};

using Events = absl::flat_hash_map<uint32_t, Newest>;

uint32_t KeyOf(const IndexEntry& entry) {
  return uint32_t{entry.shard_id} << 16 | entry.shard_count;
}

void ApplyEvents(Events& events, State* state) {
  for (const auto& [key, newest] : events) {
    const ShardId id{.id = key >> 16, .count = key & 0xffff};
    if (!state->shards.contains(id) && (id.count != state->shard_count || id.id >= id.count)) {
      // Of a generation that has not taken over, or does not any more: it has no sessions to
      // resume, and its numbers are not to be given again.
      state->session_floor = std::max(state->session_floor, newest.session);
      continue;
    }
    ShardRecord& shard = state->shards[id];
    if (newest.session > shard.last_session) {
      // Its beginning is damaged: nothing to resume it with.
      shard.last_session = newest.session;
      shard.session.reset();
    }
    if (newest.session != shard.last_session || !shard.session.has_value()) continue;
    SessionRecord& session = *shard.session;
    session.last_sequence = std::max(session.last_sequence, newest.sequence);
    session.last_event_unix_nanos = newest.received_unix_nanos;
  }
  events.clear();
}

}  // namespace

bool BeginsWithState(const Segment& segment) {
  const IndexEntry& entry = segment.entry(0);
  return entry.kind == EntryKind::kControl && (entry.flags & kDamaged) == 0;
}

void Replay(const Segment& segment, State* state) {
  Events events;
  const uint32_t count = segment.count();
  for (uint32_t i = 0; i < count; ++i) {
    const IndexEntry& entry = segment.entry(i);
    const bool is_damaged = (entry.flags & kDamaged) != 0;
    if (entry.is_event() || (entry.is_aside() && !is_damaged)) {
      // What shardd itself says has no number.
      if (entry.sequence == 0) continue;
      Newest& newest = events[KeyOf(entry)];
      // Numbers begin anew with a session; within one they grow.
      newest = {.session = entry.session,
                .sequence = entry.sequence,
                .received_unix_nanos = entry.received_unix_nanos};
    } else if (entry.kind == EntryKind::kControl && !is_damaged) {
      ApplyEvents(events, state);
      if (!ApplyControl(segment.record(i), state)) {
        log::Warn("the event log has a control entry that cannot be read; ignored", {});
      }
    }
  }
  ApplyEvents(events, state);
}

absl::StatusOr<Recovered> Recover(LogFile& file) {
  Recovered recovered;
  std::deque<std::shared_ptr<Segment>>& ring = recovered.ring;
  uint64_t damaged_entries = 0;
  std::vector<const Segment*> unsure;
  std::vector<uint32_t> damaged_slots;
  for (uint32_t slot = 0; slot < file.shape().slots;) {
    std::shared_ptr<Segment> segment;
    const auto found = Segment::Recover(file, slot, &segment);
    if (!found.ok()) return found.status();
    damaged_entries += found->damaged_entries;
    if (found->what == Segment::Find::kDamaged) damaged_slots.push_back(slot);
    if (found->what == Segment::Find::kSegment) {
      if (!found->tail_is_sure) unsure.push_back(segment.get());
      ring.push_back(std::move(segment));
    }
    // What a segment of several slots has left there, which has gone or has not come to be: looked
    // at alone it would pass for damage.
    if (found->what == Segment::Find::kNothing) {
      for (uint32_t inner = slot + 1; inner < slot + found->place.slots; ++inner) {
        file.Clear(inner, Segment::FreeHeader());
      }
    }
    slot += found->place.slots;
  }
  // One that holds control entries alone ends where it begins.
  std::ranges::sort(ring, {}, [](const auto& segment) {
    return std::pair(segment->base_offset(), segment->end_offset());
  });
  // Two that claim the same offsets: one is of an earlier life.
  for (size_t i = 1; i < ring.size();) {
    ring[i - 1]->DropLostFrom(ring[i]->base_offset());
    if (ring[i - 1]->end_offset() <= ring[i]->base_offset()) {
      ++i;
      continue;
    }
    log::Warn("segments of the event log overlap; the older one is lost", {});
    ring[i - 1]->Retire();
    ring.erase(ring.begin() + static_cast<std::ptrdiff_t>(i) - 1);
  }
  const bool is_newest_unsure = !ring.empty() && std::ranges::count(unsure, ring.back().get()) > 0;
  if (!damaged_slots.empty() || is_newest_unsure) {
    log::Warn("segments of the event log are damaged; their events are lost",
              {{"segments", damaged_slots.size() + (is_newest_unsure ? 1 : 0)}});
    // Before anything that tells of it is mended.
    if (auto status = file.SetTailMayBeLost(true); !status.ok()) return status;
  }
  if (ring.empty()) return recovered;
  for (const uint32_t slot : damaged_slots) file.Clear(slot, Segment::FreeHeader());
  for (const auto& segment : ring) segment->CommitRecovered();

  damaged_entries += ring.back()->Verify();
  if (damaged_entries > 0) {
    log::Warn("the event log has damaged entries; each event among them is a gap",
              {{"entries", damaged_entries}});
  }
  // The newest segment begins with all that came before, unless that is damaged.
  size_t from = ring.size() - 1;
  while (from > 0 && !BeginsWithState(*ring[from])) {
    --from;
    ring[from]->Verify();
  }
  for (size_t i = from; i < ring.size(); ++i) Replay(*ring[i], &recovered.state);
  return recovered;
}

}  // namespace shardd::events
