#include "events/consumers.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status.h"
#include "events/crc32c.h"
#include "events/reserved_file.h"

namespace shardd::events {
namespace {

static_assert(std::endian::native == std::endian::little, "records are little-endian");

constexpr char kMagic[8] = {'S', 'H', 'D', 'C', 'O', 'N', 'S', 'M'};
constexpr uint32_t kVersion = 1;

// Magic, version and checksum stay where they are in any format.
struct Header {
  char magic[8];
  uint32_t version;
  uint32_t capacity;
  unsigned char zero[Consumers::kRecordBytes - 8 - 3 * sizeof(uint32_t)];
  uint32_t crc;
};

// A copy of a slot.
struct Record {
  uint64_t number;  // the copy with the larger one is the newer one; from 1 on
  uint64_t log_id;
  uint64_t offset;
  int64_t last_seen_unix_nanos;
  uint32_t partition_index;
  uint32_t partition_count;
  uint8_t name_bytes;
  char name[kMaxConsumerNameBytes];
  unsigned char zero[15];
  uint32_t crc;
};
static_assert(sizeof(Header) == Consumers::kRecordBytes &&
              sizeof(Record) == Consumers::kRecordBytes &&
              std::has_unique_object_representations_v<Header> &&
              std::has_unique_object_representations_v<Record>);

template <typename Sealed>
uint32_t CrcOf(const Sealed& sealed) {
  return Crc32c(&sealed, sizeof sealed - sizeof sealed.crc);
}

bool IsEmpty(const unsigned char* bytes, size_t size) {
  return std::all_of(bytes, bytes + size, [](unsigned char byte) { return byte == 0; });
}

bool MakesSense(const Record& record) {
  return record.number > 0 && record.last_seen_unix_nanos >= 0 &&
         record.name_bytes <= kMaxConsumerNameBytes &&
         IsConsumerName({record.name, record.name_bytes}) &&
         CheckPartition({.index = record.partition_index, .count = record.partition_count}).ok();
}

}  // namespace

bool IsConsumerName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxConsumerNameBytes &&
         std::ranges::all_of(name, [](char c) { return c >= '!' && c <= '~'; });
}

Consumers::~Consumers() { close(fd_); }

absl::StatusOr<std::unique_ptr<Consumers>> Consumers::Open(Options options) {
  const int fd = open(options.path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return FileFailed("cannot open", options.path, errno);
  std::unique_ptr<Consumers> consumers(new Consumers(std::move(options), fd));
  if (auto status = consumers->Read(); !status.ok()) return status;
  return consumers;
}

absl::Status Consumers::Read() {
  const std::string& path = options_.path;
  std::vector<unsigned char> all;
  size_t present = 0;
  if (auto status = ReadFile(fd_, path, kFileBytes, &all, &present); !status.ok()) return status;

  Header header;
  std::memcpy(&header, all.data(), sizeof header);
  const bool header_is_whole =
      header.crc == CrcOf(header) && std::memcmp(header.magic, kMagic, sizeof kMagic) == 0;
  if (header_is_whole && (header.version != kVersion || header.capacity != kCapacity)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", path, "' has format ", header.version, ", and this version of shardd knows format ",
        kVersion, ": run the version that wrote it, or choose another --data-dir"));
  }
  if (auto status = ReserveFile(fd_, path, kFileBytes); !status.ok()) return status;
  if (!header_is_whole) {
    // A file that was being made when the process ended has nothing in it. In one that is damaged
    // each consumer stands for itself.
    if (!IsEmpty(all.data(), all.size())) {
      log::Warn("the file of the named consumers is damaged; what can be read of it is kept",
                {{"file", path}});
    }
    header = {};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.version = kVersion;
    header.capacity = kCapacity;
    header.crc = CrcOf(header);
    if (!WriteFileAt(fd_, &header, sizeof header, 0)) {
      return FileFailed("cannot write to", path, errno == 0 ? EIO : errno);
    }
  }
  // An empty one was just made. Whom the missing part of another held, nobody can say.
  if (present > 0 && present < kFileBytes) {
    has_lost_some_ = true;
    log::Warn(
        "the file of the named consumers has been cut: until shardd ends, a stream of one that is "
        "not in what is left starts at the oldest event, with a gap",
        {{"file", path}, {"bytes", present}, {"missing_bytes", kFileBytes - present}});
  }
  size_t damaged = 0;
  for (size_t slot = 0; slot < kCapacity; ++slot) {
    Take(slot, all.data() + kSlotsOffset + slot * kSlotBytes, &damaged);
  }
  if (damaged > 0) {
    has_lost_some_ = true;
    log::Warn(
        "named consumers cannot be read, and are dropped: until shardd ends, a stream of one that "
        "is not kept starts at the oldest event, with a gap",
        {{"file", path}, {"consumers", damaged}});
  }
  return absl::OkStatus();
}

void Consumers::Take(size_t slot, const unsigned char* bytes, size_t* damaged) {
  const int64_t now = Now();
  Slot& target = slots_[slot];
  bool has_damage = false;
  for (uint8_t copy = 0; copy < 2; ++copy, bytes += kRecordBytes) {
    Record record;
    std::memcpy(&record, bytes, sizeof record);
    if (record.crc != CrcOf(record) || !MakesSense(record)) {
      has_damage = has_damage || !IsEmpty(bytes, kRecordBytes);
      continue;
    }
    next_number_ = std::max(next_number_, record.number + 1);
    if (record.number <= target.number) continue;
    target = {
        .key = {.name = std::string(record.name, record.name_bytes),
                .partition = {.index = record.partition_index, .count = record.partition_count}},
        .kept = {.log = {.id = record.log_id}, .offset = record.offset},
        // A clock that was ahead must not keep it for ever.
        .last_seen_unix_nanos = std::min(record.last_seen_unix_nanos, now),
        .number = record.number,
        .next_copy = static_cast<uint8_t>(1 - copy)};
  }
  if (target.number == 0) {
    if (has_damage) ++*damaged;
    return;
  }
  const auto [found, is_first] = by_key_.try_emplace(target.key, slot);
  if (is_first) return;
  // A slot that another consumer had taken shows its former one again where the newer copy is
  // damaged.
  Slot& other = slots_[found->second];
  if (target.number > other.number) {
    other = {};
    found->second = slot;
  } else {
    target = {};
  }
}

bool Consumers::IsForgotten(const Slot& slot, int64_t now) const {
  return slot.open_streams == 0 && now - slot.last_seen_unix_nanos >= options_.ttl.count();
}

Consumers::Slot* Consumers::Find(const ConsumerKey& key) {
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? nullptr : &slots_[found->second];
}

Consumers::Slot* Consumers::FindFree(int64_t now) {
  Slot* free = nullptr;
  for (Slot& slot : slots_) {
    if (slot.key.name.empty()) return &slot;
    if (!IsForgotten(slot, now)) continue;
    if (free == nullptr || slot.last_seen_unix_nanos < free->last_seen_unix_nanos) free = &slot;
  }
  return free;
}

absl::Status Consumers::Write(Slot& slot, Slot changed) {
  Record record = {};
  record.number = next_number_;
  record.log_id = changed.kept.log.id;
  record.offset = changed.kept.offset;
  record.last_seen_unix_nanos = changed.last_seen_unix_nanos;
  record.partition_index = changed.key.partition.index;
  record.partition_count = changed.key.partition.count;
  record.name_bytes = static_cast<uint8_t>(changed.key.name.size());
  std::memcpy(record.name, changed.key.name.data(), changed.key.name.size());
  record.crc = CrcOf(record);
  const auto index = static_cast<size_t>(&slot - slots_.data());
  const size_t offset = kSlotsOffset + index * kSlotBytes + slot.next_copy * kRecordBytes;
  if (!WriteFileAt(fd_, &record, sizeof record, offset)) {
    return FileFailed("cannot write to", options_.path, errno == 0 ? EIO : errno);
  }
  changed.number = next_number_++;
  changed.next_copy = static_cast<uint8_t>(1 - slot.next_copy);
  if (slot.key != changed.key) {
    by_key_.erase(slot.key);
    by_key_[changed.key] = index;
  }
  slot = std::move(changed);
  return absl::OkStatus();
}

absl::StatusOr<Consumers::Stream> Consumers::OpenStream(const ConsumerKey& key,
                                                        const Cursor& start) {
  const std::lock_guard lock(mutex_);
  const int64_t now = Now();
  Stream stream;
  Slot* slot = Find(key);
  Slot changed;
  if (slot != nullptr) {
    changed = *slot;
  } else {
    slot = FindFree(now);
    if (slot == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat(kCapacity,
                       " named consumers are kept: use one of their names, or none, or "
                       "lower --consumer-ttl, after which an absent one is forgotten"));
    }
    changed = {.key = key, .kept = start};
    stream.is_new = true;
  }
  changed.last_seen_unix_nanos = now;
  changed.newest_stream = next_stream_;
  ++changed.open_streams;
  if (auto status = Write(*slot, std::move(changed)); !status.ok()) return status;
  stream.kept = slot->kept;
  stream.number = next_stream_++;
  return stream;
}

void Consumers::CloseStream(const ConsumerKey& key) {
  const std::lock_guard lock(mutex_);
  Slot* slot = Find(key);
  if (slot == nullptr || slot->open_streams == 0) return;
  --slot->open_streams;
  Slot changed = *slot;
  changed.last_seen_unix_nanos = Now();
  // Should this fail, it counts as seen from when it was last.
  static_cast<void>(Write(*slot, std::move(changed)));
}

uint64_t Consumers::newest_stream(const ConsumerKey& key) const {
  const std::lock_guard lock(mutex_);
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? 0 : slots_[found->second].newest_stream;
}

absl::Status Consumers::Ack(const ConsumerKey& key, const Cursor& cursor, uint64_t end) {
  const std::lock_guard lock(mutex_);
  const int64_t now = Now();
  Slot* slot = Find(key);
  if (slot == nullptr || IsForgotten(*slot, now)) {
    return absl::NotFoundError(
        absl::StrCat("no consumer '", key.name, "' with partition ", key.partition.index, " of ",
                     key.partition.count,
                     " is kept: open a stream of Events with this name and partition first"));
  }
  Slot changed = *slot;
  changed.last_seen_unix_nanos = now;
  if (slot->kept.log != cursor.log || slot->kept.offset < cursor.offset ||
      slot->kept.offset > end) {
    changed.kept = cursor;
  }
  return Write(*slot, std::move(changed));
}

std::vector<Consumers::Consumer> Consumers::List() const {
  const std::lock_guard lock(mutex_);
  const int64_t now = Now();
  std::vector<Consumer> consumers;
  for (const auto& [key, index] : by_key_) {
    const Slot& slot = slots_[index];
    if (IsForgotten(slot, now)) continue;
    consumers.push_back({.key = key, .kept = slot.kept, .connected = slot.open_streams > 0});
  }
  return consumers;
}

void Consumers::KeepConnected() {
  // Rare enough to cost nothing, and a small part of the time.
  const int64_t age = std::min<int64_t>(options_.ttl.count() / 4,
                                        std::chrono::nanoseconds(std::chrono::hours(1)).count());
  const std::lock_guard lock(mutex_);
  const int64_t now = Now();
  for (const auto& [key, index] : by_key_) {
    Slot& slot = slots_[index];
    if (slot.open_streams == 0 || now - slot.last_seen_unix_nanos < age) continue;
    Slot changed = slot;
    changed.last_seen_unix_nanos = now;
    static_cast<void>(Write(slot, std::move(changed)));
  }
}

}  // namespace shardd::events
