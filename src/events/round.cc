#include "events/round.h"

#include <google/protobuf/io/coded_stream.h>

#include <algorithm>
#include <cassert>
#include <cstring>

#include "events/control.h"
#include "events/crc32c.h"
#include "events/event_type.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::events {
namespace {

using google::protobuf::io::CodedOutputStream;
using Event = v1::Event;

// Wire types of https://protobuf.dev/programming-guides/encoding.
enum class Wire : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2 };

// Field numbers of the contract below 16, so that each tag is one byte.
constexpr uint8_t Tag(int field, Wire wire) {
  return static_cast<uint8_t>(static_cast<uint32_t>(field) << 3 | static_cast<uint32_t>(wire));
}

constexpr uint8_t kRecordTag = Tag(v1::EventBatch::kEventsFieldNumber, Wire::kBytes);
constexpr size_t kTagBytes = 1;
constexpr size_t kFixed64Bytes = 8;
constexpr size_t kMaxVarintBytes = 10;

// Everything of a record but the characters of `type` and `data`: two tags and lengths of bytes,
// two fixed64, six varints, and the record's own tag and length.
constexpr size_t kMaxRecordOverhead = 12 * kTagBytes + 2 * kFixed64Bytes + 9 * kMaxVarintBytes;

size_t VarintBytes(uint64_t value) { return CodedOutputStream::VarintSize64(value); }

uint8_t* WriteVarint(int field, uint64_t value, uint8_t* out) {
  *out++ = Tag(field, Wire::kVarint);
  return CodedOutputStream::WriteVarint64ToArray(value, out);
}

uint8_t* WriteFixed64(int field, uint64_t value, uint8_t* out) {
  *out++ = Tag(field, Wire::kFixed64);
  return CodedOutputStream::WriteLittleEndian64ToArray(value, out);
}

uint8_t* WriteBytes(int field, std::string_view value, uint8_t* out) {
  *out++ = Tag(field, Wire::kBytes);
  out = CodedOutputStream::WriteVarint64ToArray(value.size(), out);
  std::memcpy(out, value.data(), value.size());
  return out + value.size();
}

// Of what WriteHead writes.
size_t HeadBytes(const NewEvent& event) {
  return 8 * kTagBytes + VarintBytes(event.shard.id) + VarintBytes(event.shard.count) +
         VarintBytes(event.sequence) + VarintBytes(event.type.size()) + event.type.size() +
         kFixed64Bytes + VarintBytes(static_cast<uint64_t>(event.received_unix_nanos)) +
         VarintBytes(event.session) + VarintBytes(event.data.size());
}

// All fields but `offset`, which stands before them, and `data`, which comes last: a reader that
// wants no large data gets the rest as it is.
uint8_t* WriteHead(const NewEvent& event, uint8_t* out) {
  out = WriteVarint(Event::kShardIdFieldNumber, event.shard.id, out);
  out = WriteVarint(Event::kShardCountFieldNumber, event.shard.count, out);
  out = WriteVarint(Event::kSequenceFieldNumber, event.sequence, out);
  out = WriteBytes(Event::kTypeFieldNumber, event.type, out);
  out = WriteFixed64(Event::kGuildIdFieldNumber, event.guild_id, out);
  out = WriteVarint(Event::kReceivedUnixNanosFieldNumber,
                    static_cast<uint64_t>(event.received_unix_nanos), out);
  out = WriteVarint(Event::kSessionFieldNumber, event.session, out);
  return WriteVarint(Event::kDataBytesFieldNumber, event.data.size(), out);
}

// The record up to its data.
uint8_t* WriteBeforeData(const NewEvent& event, uint64_t offset, uint8_t* out) {
  const size_t data_bytes = kTagBytes + VarintBytes(event.data.size()) + event.data.size();
  *out++ = kRecordTag;
  out = CodedOutputStream::WriteVarint64ToArray(
      kTagBytes + kFixed64Bytes + HeadBytes(event) + data_bytes, out);
  out = WriteFixed64(Event::kOffsetFieldNumber, offset, out);
  out = WriteHead(event, out);
  *out++ = Tag(Event::kDataFieldNumber, Wire::kBytes);
  return CodedOutputStream::WriteVarint64ToArray(event.data.size(), out);
}

}  // namespace

uint8_t* Round::Reserve(size_t size) {
  if (size_ + size > capacity_) {
    const size_t capacity = std::max({size_ + size, capacity_ * 2, size_t{64} << 10});
    auto grown = std::make_unique_for_overwrite<uint8_t[]>(capacity);
    if (size_ > 0) std::memcpy(grown.get(), buffer_.get(), size_);
    buffer_ = std::move(grown);
    capacity_ = capacity;
  }
  return buffer_.get() + size_;
}

void Round::Add(const NewEvent& event) { AddRecord(event); }

void Round::AddAside(const NewEvent& event) {
  IndexEntry& entry = AddRecord(event);
  entry.kind = EntryKind::kAside;
  entry.flags = kWithNext;
  has_rescale_ = true;
}

IndexEntry& Round::AddRecord(const NewEvent& event) {
  assert(event.type.size() <= kMaxTypeBytes && event.data.size() <= kMaxDataBytes);
  uint8_t* const record = Reserve(kMaxRecordOverhead + kMaxTypeBytes + event.data.size());
  uint8_t* out = WriteBeforeData(event, /*offset=*/0, record);
  std::memcpy(out, event.data.data(), event.data.size());
  out += event.data.size();

  IndexEntry& entry = entries_.emplace_back();
  entry.position = static_cast<uint32_t>(size_);
  entry.length = static_cast<uint32_t>(out - record);
  entry.data_position = static_cast<uint16_t>(entry.length - event.data.size());
  // Of the data where it came from: what has just been written cannot be read back at full speed.
  entry.data_crc = Crc32c(event.data.data(), event.data.size());
  entry.kind = EntryKind::kEvent;
  entry.shard_id = static_cast<uint16_t>(event.shard.id);
  entry.shard_count = static_cast<uint16_t>(event.shard.count);
  entry.type_hash = TypeHash(event.type);
  entry.session = event.session;
  entry.guild_id = event.guild_id;
  entry.sequence = event.sequence;
  entry.received_unix_nanos = event.received_unix_nanos;
  size_ += entry.length;
  return entry;
}

void Round::Add(const StateChange& change) {
  const std::string payload = EncodeControl(change);
  std::memcpy(Reserve(payload.size()), payload.data(), payload.size());
  IndexEntry& entry = entries_.emplace_back();
  entry.position = static_cast<uint32_t>(size_);
  entry.length = static_cast<uint32_t>(payload.size());
  entry.data_crc = Crc32c(payload.data(), payload.size());
  entry.kind = EntryKind::kControl;
  const bool tells_of_next = std::holds_alternative<SessionOpened>(change) ||
                             std::holds_alternative<CopiesExpected>(change);
  if (tells_of_next) entry.flags = kWithNext;
  if (std::holds_alternative<CopiesExpected>(change)) has_rescale_ = true;
  size_ += entry.length;
}

void Round::CommitTogether() {
  for (size_t i = 0; i + 1 < entries_.size(); ++i) entries_[i].flags |= kWithNext;
}

void Round::Clear() {
  entries_.clear();
  has_rescale_ = false;
  size_ = 0;
  // One huge GUILD_CREATE must not keep its memory in every worker for good.
  constexpr size_t kKeptCapacity = size_t{4} << 20;
  if (capacity_ > kKeptCapacity) {
    buffer_.reset();
    capacity_ = 0;
  }
}

size_t OffsetPosition(const uint8_t* record, size_t size) {
  size_t position = kTagBytes;
  while (position < size && (record[position] & 0x80) != 0) ++position;
  return position + 1 + kTagBytes;
}

bool IsWholeRecord(std::string_view record, const IndexEntry& entry) {
  if (entry.kind == EntryKind::kControl) {
    return entry.data_crc == Crc32c(record.data(), record.size());
  }
  if (entry.data_position > record.size()) return false;
  const std::string_view data = record.substr(entry.data_position);
  if (entry.data_crc != Crc32c(data.data(), data.size())) return false;
  // What stands before the data follows from the entry, but for the type, of which it has a hash.
  const std::string_view type = TypeOf(record);
  if (type.size() > kMaxTypeBytes || TypeHash(type) != entry.type_hash) return false;
  const NewEvent event{.shard = {.id = entry.shard_id, .count = entry.shard_count},
                       .session = entry.session,
                       .sequence = entry.sequence,
                       .guild_id = entry.guild_id,
                       .received_unix_nanos = entry.received_unix_nanos,
                       .type = type,
                       .data = data};
  uint8_t expected[kMaxRecordOverhead + kMaxTypeBytes];
  uint8_t* const end = WriteBeforeData(event, entry.offset, expected);
  return std::string_view(reinterpret_cast<const char*>(expected),
                          static_cast<size_t>(end - expected)) ==
         record.substr(0, entry.data_position);
}

std::string WithoutData(std::string_view record, const IndexEntry& entry) {
  const size_t body =
      OffsetPosition(reinterpret_cast<const uint8_t*>(record.data()), record.size()) - kTagBytes;
  const size_t data_field = entry.data_position - VarintBytes(entry.data_size()) - kTagBytes;
  const std::string_view kept = record.substr(body, data_field - body);
  std::string stripped(kTagBytes + VarintBytes(kept.size()), '\0');
  auto* out = reinterpret_cast<uint8_t*>(stripped.data());
  *out++ = kRecordTag;
  CodedOutputStream::WriteVarint64ToArray(kept.size(), out);
  stripped += kept;
  return stripped;
}

}  // namespace shardd::events
