#include "events/round.h"

#include <google/protobuf/io/coded_stream.h>

#include <algorithm>
#include <cassert>
#include <cstring>

#include "events/crc32c.h"
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

// Everything of an Event but the characters of `type` and `data`: two fixed64, eight varints (two
// of them lengths)...
constexpr size_t kMaxHeadBytes = 11 * kTagBytes + 2 * kFixed64Bytes + 8 * kMaxVarintBytes;
// ...and the record's own tag and length.
constexpr size_t kMaxRecordOverhead = kMaxHeadBytes + kTagBytes + kMaxVarintBytes;

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

void Round::Add(const NewEvent& event) {
  assert(event.type.size() <= kMaxTypeBytes && event.data.size() <= kMaxDataBytes);
  uint8_t head[kMaxHeadBytes + kMaxTypeBytes];
  const size_t head_size = static_cast<size_t>(WriteHead(event, head) - head);
  const size_t offset_size = kTagBytes + kFixed64Bytes;
  const size_t data_size = kTagBytes + VarintBytes(event.data.size()) + event.data.size();
  const size_t body_size = offset_size + head_size + data_size;

  uint8_t* const record = Reserve(kMaxRecordOverhead + kMaxTypeBytes + event.data.size());
  uint8_t* out = record;
  *out++ = kRecordTag;
  out = CodedOutputStream::WriteVarint64ToArray(body_size, out);
  out = WriteFixed64(Event::kOffsetFieldNumber, 0, out);
  uint8_t* const behind_offset = out;
  std::memcpy(out, head, head_size);
  out += head_size;
  out = WriteBytes(Event::kDataFieldNumber, event.data, out);

  IndexEntry& entry = entries_.emplace_back();
  entry.position = static_cast<uint32_t>(size_);
  entry.length = static_cast<uint32_t>(out - record);
  entry.record_crc = Crc32c(behind_offset, static_cast<size_t>(out - behind_offset));
  entry.kind = EntryKind::kEvent;
  entry.shard_id = static_cast<uint16_t>(event.shard.id);
  entry.shard_count = static_cast<uint16_t>(event.shard.count);
  entry.data_position = static_cast<uint16_t>(entry.length - event.data.size());
  entry.type_hash = TypeHash(event.type);
  entry.session = event.session;
  entry.guild_id = event.guild_id;
  entry.sequence = event.sequence;
  entry.received_unix_nanos = event.received_unix_nanos;
  size_ += entry.length;
}

void Round::Clear() {
  entries_.clear();
  size_ = 0;
  // One huge GUILD_CREATE must not keep its memory in every worker for good.
  constexpr size_t kKeptCapacity = size_t{4} << 20;
  if (capacity_ > kKeptCapacity) {
    buffer_.reset();
    capacity_ = 0;
  }
}

size_t OffsetPosition(const uint8_t* record) {
  size_t position = kTagBytes;
  while (record[position] & 0x80) ++position;
  return position + 1 + kTagBytes;
}

std::string WithoutData(std::string_view record, const IndexEntry& entry) {
  const size_t body = OffsetPosition(reinterpret_cast<const uint8_t*>(record.data())) - kTagBytes;
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
