#include "events/ledger.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "events/crc32c.h"
#include "events/owner.h"

namespace shardd::events {
namespace {

static_assert(std::endian::native == std::endian::little, "records are little-endian");

constexpr char kMagic[8] = {'S', 'H', 'D', 'L', 'E', 'D', 'G', 'R'};
constexpr uint32_t kVersion = 1;
// What lies between a reading and the end of a day that has not begun.
constexpr int32_t kNotBegun = std::numeric_limits<int32_t>::min();
constexpr std::chrono::milliseconds kDay = std::chrono::hours(24);
constexpr size_t kCrcOffset = Ledger::kRecordBytes - sizeof(uint32_t);

using Bytes = std::array<unsigned char, Ledger::kRecordBytes>;

// The header is a record, too. Magic, version and checksum stay where they are in any format.
struct Header {
  uint32_t version = kVersion;
  uint32_t capacity = Ledger::kCapacity;
  OwnerKey key{};
  OwnerHash owner{};
};

// Puts fields into a record, or takes them out, one behind the other.
class Fields {
 public:
  explicit Fields(Bytes& bytes) : bytes_(bytes) {}
  template <typename T>
  Fields& Put(const T& value) {
    std::memcpy(bytes_.data() + at_, &value, sizeof value);
    at_ += sizeof value;
    return *this;
  }
  template <typename T>
  Fields& Take(T& value) {
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return *this;
  }

 private:
  Bytes& bytes_;
  size_t at_ = 0;
};

void Seal(Bytes& bytes) {
  const uint32_t crc = Crc32c(bytes.data(), kCrcOffset);
  std::memcpy(bytes.data() + kCrcOffset, &crc, sizeof crc);
}

bool IsSealed(const Bytes& bytes) {
  uint32_t crc = 0;
  std::memcpy(&crc, bytes.data() + kCrcOffset, sizeof crc);
  return crc == Crc32c(bytes.data(), kCrcOffset);
}

bool IsEmpty(const Bytes& bytes) {
  static constexpr Bytes kNone{};
  return std::memcmp(bytes.data(), kNone.data(), kNone.size()) == 0;
}

Bytes ToBytes(const Header& header) {
  Bytes bytes{};
  Fields(bytes)
      .Put(kMagic)
      .Put(header.version)
      .Put(header.capacity)
      .Put(header.key)
      .Put(header.owner);
  Seal(bytes);
  return bytes;
}

OwnerHash OwnerOf(const Ledger::Options& options, const OwnerKey& key) {
  return HashOwner(key, options.token, options.api_url);
}

Header NewHeader(const Ledger::Options& options) {
  Header header;
  header.key = RandomOwnerKey();
  header.owner = OwnerOf(options, header.key);
  return header;
}

std::string KernelBootId() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  file >> id;
  return id;
}

absl::Status Failed(std::string_view what, const std::string& path, int error) {
  return absl::UnavailableError(
      absl::StrCat(std::string(what), " '", path, "': ", std::strerror(error)));
}

bool WriteAt(int fd, const Bytes& bytes, size_t offset) {
  errno = 0;
  return pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)) ==
         static_cast<ssize_t>(bytes.size());
}

// Space for all of the file, so that no later write can lack it.
absl::Status Reserve(int fd, const std::string& path) {
  const int error = posix_fallocate(fd, 0, Ledger::kFileBytes);
  if (error == 0) return absl::OkStatus();
  if (error != ENOSPC && error != EDQUOT) return Failed("cannot reserve space for", path, error);
  struct statvfs disk {};
  const uint64_t free =
      fstatvfs(fd, &disk) == 0 ? uint64_t{disk.f_bavail} * uint64_t{disk.f_frsize} : 0;
  return absl::ResourceExhaustedError(absl::StrCat(
      "no space for '", path, "', which takes ", Ledger::kFileBytes / 1024, " KiB, and ",
      free / 1024, " KiB are free: make room, or choose another --data-dir"));
}

int64_t Nanos(SteadyTime time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

int32_t MillisecondsBetween(SteadyTime from, SteadyTime to) {
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(to - from).count();
  return static_cast<int32_t>(std::clamp<int64_t>(ms, std::numeric_limits<int32_t>::min(),
                                                  std::numeric_limits<int32_t>::max()));
}

}  // namespace

Ledger::Ledger(Options options, int fd)
    : options_(std::move(options)),
      fd_(fd),
      boot_(Crc32c(options_.boot_id.data(), options_.boot_id.size())) {}

Ledger::~Ledger() { close(fd_); }

// Under another name first: a file that is there is whole.
absl::Status Ledger::Make(const Options& options) {
  const std::string path = options.path + ".new";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return Failed("cannot make", path, errno);
  absl::Status status = Reserve(fd, path);
  if (status.ok() && !WriteAt(fd, ToBytes(NewHeader(options)), 0)) {
    status = Failed("cannot write to", path, errno);
  }
  close(fd);
  if (status.ok() && rename(path.c_str(), options.path.c_str()) != 0) {
    status = Failed("cannot make", options.path, errno);
  }
  if (!status.ok()) unlink(path.c_str());
  return status;
}

absl::StatusOr<std::unique_ptr<Ledger>> Ledger::Open(Options options) {
  if (options.boot_id.empty()) options.boot_id = KernelBootId();
  if (access(options.path.c_str(), F_OK) != 0 && errno == ENOENT) {
    if (auto status = Make(options); !status.ok()) return status;
  }
  const int fd = open(options.path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return Failed("cannot open", options.path, errno);
  std::unique_ptr<Ledger> ledger(new Ledger(std::move(options), fd));
  const absl::Status status = ledger->Read();
  if (absl::IsNotFound(status)) {  // of another API
    if (auto made = Make(ledger->options_); !made.ok()) return made;
    return Open(ledger->options_);
  }
  if (!status.ok()) return status;
  ledger->Repair(ledger->options_.clock->Steady());
  return ledger;
}

absl::Status Ledger::Read() {
  const std::string& path = options_.path;
  struct stat file {};
  if (fstat(fd_, &file) != 0) return Failed("cannot read", path, errno);
  std::vector<unsigned char> all(kFileBytes);
  size_t size = 0;
  while (size < all.size()) {
    const ssize_t n = pread(fd_, all.data() + size, all.size() - size, static_cast<off_t>(size));
    if (n < 0) return Failed("cannot read", path, errno);
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  const auto record_at = [&](size_t offset) {
    Bytes bytes;
    std::memcpy(bytes.data(), all.data() + offset, bytes.size());
    return bytes;
  };

  Bytes header_bytes = record_at(0);
  char magic[sizeof kMagic];
  Header header;
  Fields(header_bytes)
      .Take(magic)
      .Take(header.version)
      .Take(header.capacity)
      .Take(header.key)
      .Take(header.owner);
  const bool header_is_whole =
      IsSealed(header_bytes) && std::memcmp(magic, kMagic, sizeof kMagic) == 0;
  if (header_is_whole && (header.version != kVersion || header.capacity != kCapacity)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", path, "' has format ", header.version, ", and this version of shardd knows format ",
        kVersion, ": run the version that wrote it, or choose another --data-dir"));
  }
  if (header_is_whole && header.owner != OwnerOf(options_, header.key)) {
    log::Warn("the session starts in --data-dir are of another --api-url: forgotten",
              {{"file", path}});
    return absl::NotFoundError("of another API");
  }
  complete_ = header_is_whole && size == kFileBytes;

  for (size_t slot = 0; slot < kLimitsSlots; ++slot) {
    Bytes bytes = record_at(kLimitsOffset + slot * kRecordBytes);
    if (IsEmpty(bytes)) continue;
    if (!IsSealed(bytes)) {
      complete_ = false;
      continue;
    }
    Reading read;
    Fields(bytes)
        .Take(read.number)
        .Take(read.first_start)
        .Take(read.total)
        .Take(read.remaining)
        .Take(read.believed)
        .Take(read.max_concurrency)
        .Take(read.boot)
        .Take(read.steady_nanos)
        .Take(read.wall_nanos)
        .Take(read.renews_in_ms)
        .Take(read.rise_in_ms);
    if (!reading_ || read.number > reading_->number) reading_ = read;
  }
  if (reading_) next_reading_ = reading_->number + 1;

  starts_.assign(kCapacity, {});
  std::vector<bool> damaged(kCapacity);
  for (size_t slot = 0; slot < kCapacity; ++slot) {
    Bytes bytes = record_at(kStartsOffset + slot * kRecordBytes);
    Start& start = starts_[slot];
    if (IsEmpty(bytes)) continue;
    Fields(bytes)
        .Take(start.number)
        .Take(start.steady_nanos)
        .Take(start.wall_nanos)
        .Take(start.shard_id)
        .Take(start.boot);
    damaged[slot] = !IsSealed(bytes) || start.number % kCapacity != slot;
    if (damaged[slot]) start = {};
    next_start_ = std::max(next_start_, start.number + 1);
  }
  // A record that was being written when the machine or the disk failed.
  for (size_t i = 0; i < kCapacity && damaged[next_start_ % kCapacity]; ++i) ++next_start_;
  return complete_ ? absl::OkStatus() : StartAfresh();
}

// Until the limits are written, the next process must find the file without a header, too.
absl::Status Ledger::StartAfresh() {
  log::Warn("session starts are lost: shards wait until Discord says how many are left",
            {{"file", options_.path}});
  starts_.assign(kCapacity, {});
  reading_.reset();
  next_start_ = 1;
  next_reading_ = 1;
  if (auto status = WriteRecord({}, 0); !status.ok()) return status;
  if (ftruncate(fd_, 0) != 0) return Failed("cannot write to", options_.path, errno);
  return Reserve(fd_, options_.path);
}

// What is missing among the numbers, or cannot be read, was a start: of which time is not known, so
// it counts as one of now.
void Ledger::Repair(SteadyTime now) {
  const uint64_t oldest = next_start_ > kCapacity ? next_start_ - kCapacity : 1;
  uint64_t repaired = 0;
  for (uint64_t number = oldest; number < next_start_; ++number) {
    Start& start = starts_[number % kCapacity];
    if (start.number == number) continue;
    start = {.number = number,
             .steady_nanos = Nanos(now),
             .wall_nanos = UnixNanos(options_.clock->Wall()),
             .shard_id = 0,
             .boot = boot_};
    ++repaired;
    Bytes bytes{};
    Fields(bytes)
        .Put(start.number)
        .Put(start.steady_nanos)
        .Put(start.wall_nanos)
        .Put(start.shard_id)
        .Put(start.boot);
    Seal(bytes);
    // Should this fail, it is found again the next time.
    static_cast<void>(WriteAt(fd_, bytes, kStartsOffset + number % kCapacity * kRecordBytes));
  }
  if (repaired > 0) {
    log::Warn("session starts cannot be read; each counts as one of now",
              {{"file", options_.path}, {"starts", repaired}});
  }
}

SteadyTime Ledger::TimeOf(uint32_t boot, int64_t steady_nanos, int64_t wall_nanos,
                          SteadyTime now) const {
  if (boot == boot_) {
    return std::min(now, SteadyTime(std::chrono::duration_cast<SteadyClock::duration>(
                             std::chrono::nanoseconds(steady_nanos))));
  }
  const int64_t age = UnixNanos(options_.clock->Wall()) - wall_nanos;
  return now - std::chrono::nanoseconds(std::max<int64_t>(age, 0));
}

Ledger::Contents Ledger::Load(SteadyTime now, std::chrono::nanoseconds oldest) const {
  Contents contents;
  contents.complete = complete_;
  if (reading_) {
    const Reading& read = *reading_;
    const SteadyTime written = TimeOf(read.boot, read.steady_nanos, read.wall_nanos, now);
    const auto ms = [](int32_t count) { return std::chrono::milliseconds(count); };
    const bool day_had_begun = read.renews_in_ms != kNotBegun;
    contents.limits =
        Limits{.total = read.total,
               .remaining = read.remaining,
               .max_concurrency = std::max<uint32_t>(read.max_concurrency, 1),
               .asked_at = written,
               // The wall clock alone, which anybody can set, renews nothing: Discord must say so.
               .renews_at = (read.boot == boot_ ? written : now) +
                            (day_had_begun ? ms(read.renews_in_ms) : kDay),
               .day_had_begun = day_had_begun,
               .believed = read.believed,
               // Decides only how far a new answer of Discord's is believed.
               .rise_from = written + ms(read.rise_in_ms)};
  }
  for (const Start& start : starts_) {
    if (start.number == 0) continue;
    SteadyTime at = TimeOf(start.boot, start.steady_nanos, start.wall_nanos, now);
    if (reading_ && start.number >= reading_->first_start) {
      at = std::max(at, contents.limits->asked_at);
    } else if (at < now - oldest) {
      continue;
    }
    contents.starts.push_back(at);
  }
  std::ranges::sort(contents.starts);
  return contents;
}

absl::Status Ledger::WriteRecord(const Record& record, size_t offset) const {
  if (WriteAt(fd_, record, offset)) return absl::OkStatus();
  return Failed("cannot write to", options_.path, errno == 0 ? EIO : errno);
}

absl::Status Ledger::WriteStart(uint32_t shard_id, SteadyTime now) {
  Record record{};
  Fields(record)
      .Put(next_start_)
      .Put(Nanos(now))
      .Put(UnixNanos(options_.clock->Wall()))
      .Put(shard_id)
      .Put(boot_);
  Seal(record);
  if (auto status = WriteRecord(record, kStartsOffset + next_start_ % kCapacity * kRecordBytes);
      !status.ok()) {
    return status;
  }
  ++next_start_;
  return absl::OkStatus();
}

absl::Status Ledger::WriteLimits(const Limits& limits, uint64_t starts_since, SteadyTime now) {
  Record record{};
  Fields(record)
      .Put(next_reading_)
      .Put(next_start_ - std::min(next_start_ - 1, starts_since))
      .Put(limits.total)
      .Put(limits.remaining)
      .Put(limits.believed)
      .Put(limits.max_concurrency)
      .Put(boot_)
      .Put(Nanos(now))
      .Put(UnixNanos(options_.clock->Wall()))
      .Put(limits.day_had_begun ? MillisecondsBetween(now, limits.renews_at) : kNotBegun)
      .Put(MillisecondsBetween(now, limits.rise_from));
  Seal(record);
  const size_t offset = kLimitsOffset + next_reading_ % kLimitsSlots * kRecordBytes;
  if (auto status = WriteRecord(record, offset); !status.ok()) return status;
  ++next_reading_;
  if (complete_) return absl::OkStatus();
  if (auto status = WriteRecord(ToBytes(NewHeader(options_)), 0); !status.ok()) return status;
  complete_ = true;
  return absl::OkStatus();
}

}  // namespace shardd::events
