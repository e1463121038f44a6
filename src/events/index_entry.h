#pragma once

#include <bit>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace shardd::events {

static_assert(std::endian::native == std::endian::little, "segments are little-endian on disk");

// What an index entry describes. A kind that an earlier version did not know needs a bit in the
// file's first page (log_file.h).
enum class EntryKind : uint8_t {
  kNone = 0,
  kEvent = 1,
  kControl = 2,  // a change of the log's State; takes no offset: it has that of the next event
  kLost = 3,     // an event whose bytes or entry were damaged: the offset is all that is left
  kAside = 4,    // an event's record that only a snapshot tells; takes no offset either
};

enum EntryFlag : uint8_t {
  // Committed together with the next entry, or not at all.
  kWithNext = 1,
  // Of a control entry or an aside: its bytes cannot be read any more.
  kDamaged = 2,
};

// The fixed-size entry beside each event: all that a filter, a statistic or a recovery needs, so
// that neither touches the event's bytes. This is the layout in the segment: fields and sizes do
// not change within a format version.
struct IndexEntry {
  uint32_t position = 0;  // of the record, from the segment's start
  uint32_t length = 0;    // of the record: tag, length and Event
  // CRC-32C of the event's data; what stands before it in the record follows from this entry. Of a
  // control entry: of its payload.
  uint32_t data_crc = 0;
  // CRC-32C of this entry with this field 0, seeded by its segment: what an earlier use of the
  // place has left is no entry.
  uint32_t entry_crc = 0;
  EntryKind kind = EntryKind::kNone;
  uint8_t flags = 0;
  uint16_t shard_id = 0;
  uint16_t shard_count = 0;
  uint16_t data_position =
      0;  // of Event.data's first byte, from the record's start; it ends where the record ends
  uint32_t type_hash = 0;  // TypeHash(Event.type)
  uint32_t session = 0;
  uint64_t offset = 0;  // of what takes none: that of the next event
  uint64_t guild_id = 0;
  uint64_t sequence = 0;
  int64_t received_unix_nanos = 0;

  bool is_event() const { return kind == EntryKind::kEvent; }
  bool is_aside() const { return kind == EntryKind::kAside; }
  // Its bytes are a record, with a place for the offset.
  bool has_record() const { return is_event() || is_aside(); }
  bool takes_offset() const { return is_event() || kind == EntryKind::kLost; }
  uint64_t next_offset() const { return offset + (takes_offset() ? 1 : 0); }
  uint32_t data_size() const { return length - data_position; }
};
static_assert(sizeof(IndexEntry) == 64 && std::is_trivially_copyable_v<IndexEntry>);
static_assert(std::has_unique_object_representations_v<IndexEntry>,
              "padding would be outside any meaning of the CRC");

// 32-bit FNV-1a. Types are compared by name where hashes agree, so it need not be perfect; it must
// never change, since it is on disk.
constexpr uint32_t TypeHash(std::string_view type) {
  uint32_t hash = 2166136261u;
  for (const char c : type) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
  return hash;
}

}  // namespace shardd::events
