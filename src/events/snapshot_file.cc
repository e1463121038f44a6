#include "events/snapshot_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "events/crc32c.h"

namespace shardd::events {
namespace {

constexpr char kMagic[8] = {'S', 'H', 'D', 'S', 'N', 'A', 'P', 'S'};

// Magic, version and checksum stay where they are in any format.
struct Header {
  char magic[sizeof kMagic];
  uint32_t version;
  uint32_t crc;  // of the header with this field 0
  uint64_t log_id;
  uint8_t unused[40];
};
static_assert(sizeof(Header) == SnapshotFile::kHeaderBytes);
static_assert(std::has_unique_object_representations_v<Header>);

uint32_t CrcOf(Header header) {
  header.crc = 0;
  return Crc32c(&header, sizeof header);
}

uint32_t CrcOf(IndexEntry entry) {
  entry.entry_crc = 0;
  return Crc32c(&entry, sizeof entry);
}

absl::Status Failed(const char* what, const std::string& path, int error) {
  const std::string message = absl::StrCat(what, " '", path, "': ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    return absl::ResourceExhaustedError(message);
  }
  return absl::UnavailableError(message);
}

bool ReadAll(int fd, void* into, size_t size, uint64_t position) {
  auto* out = static_cast<char*>(into);
  while (size > 0) {
    const ssize_t n = pread(fd, out, size, static_cast<off_t>(position));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    out += n;
    size -= static_cast<size_t>(n);
    position += static_cast<uint64_t>(n);
  }
  return true;
}

// 0, or errno.
int WriteAll(int fd, std::span<iovec> parts, uint64_t position) {
  while (!parts.empty()) {
    const ssize_t n =
        pwritev(fd, parts.data(), static_cast<int>(parts.size()), static_cast<off_t>(position));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    position += static_cast<uint64_t>(n);
    auto left = static_cast<size_t>(n);
    while (!parts.empty() && left >= parts.front().iov_len) {
      left -= parts.front().iov_len;
      parts = parts.subspan(1);
    }
    if (parts.empty()) break;
    if (n == 0) return EIO;
    parts.front().iov_base = static_cast<char*>(parts.front().iov_base) + left;
    parts.front().iov_len -= left;
  }
  return 0;
}

}  // namespace

SnapshotFile::~SnapshotFile() { close(fd_); }

absl::StatusOr<std::shared_ptr<SnapshotFile>> SnapshotFile::Create(const std::string& path,
                                                                   uint64_t log_id) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return Failed("cannot make", path, errno);
  std::shared_ptr<SnapshotFile> file(new SnapshotFile(path, fd));
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.log_id = log_id;
  header.crc = CrcOf(header);
  std::array<iovec, 1> parts{{{&header, sizeof header}}};
  if (const int error = WriteAll(fd, parts, 0); error != 0) {
    return Failed("cannot write to", path, error);
  }
  return file;
}

absl::StatusOr<std::shared_ptr<SnapshotFile>> SnapshotFile::Open(const std::string& path,
                                                                 uint64_t log_id) {
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return absl::NotFoundError("there is none");
  if (fd < 0) return Failed("cannot open", path, errno);
  std::shared_ptr<SnapshotFile> file(new SnapshotFile(path, fd));
  Header header{};
  if (!ReadAll(fd, &header, sizeof header, 0) || header.crc != CrcOf(header) ||
      std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) {
    return absl::NotFoundError("its header is damaged");
  }
  if (header.version != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", path, "' has format ", header.version, ", and this version of shardd knows format ",
        kVersion,
        ": run the version that wrote it, or remove the file; the guilds in it come back "
        "with their next GUILD_CREATE"));
  }
  if (header.log_id != log_id) return absl::NotFoundError("it belongs to another log");
  return file;
}

uint64_t SnapshotFile::Replay(const Visit& visit) {
  struct stat about {};
  const uint64_t size = fstat(fd_, &about) == 0 ? static_cast<uint64_t>(about.st_size) : 0;
  posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
  std::string record;
  uint64_t at = kHeaderBytes;
  while (at + kFrameBytes <= size) {
    IndexEntry entry;
    if (!ReadAll(fd_, &entry, sizeof entry, at) || entry.entry_crc != CrcOf(entry)) break;
    if (entry.length > size - at - kFrameBytes) break;
    record.resize(entry.length);
    if (!ReadAll(fd_, record.data(), record.size(), at + kFrameBytes)) break;
    const bool intact = entry.data_crc == Crc32c(record.data(), record.size()) &&
                        entry.data_position <= entry.length;
    visit(entry, record, at, intact);
    at += kFrameBytes + entry.length;
  }
  posix_fadvise(fd_, 0, 0, POSIX_FADV_NORMAL);
  end_ = at;
  if (size > at && ftruncate(fd_, static_cast<off_t>(at)) != 0) {
    log::Warn("cannot cut the end of the snapshot, which is damaged", {{"file", path_}});
  }
  return size - std::min(size, at);
}

absl::Status SnapshotFile::Append(IndexEntry& entry,
                                  std::initializer_list<std::string_view> record_parts) {
  entry.position = 0;
  entry.length = 0;
  entry.data_crc = 0;
  std::array<iovec, 4> parts{};
  size_t count = 1;
  for (const std::string_view part : record_parts) {
    entry.length += static_cast<uint32_t>(part.size());
    entry.data_crc = Crc32c(part.data(), part.size(), entry.data_crc);
    parts[count++] = {const_cast<char*>(part.data()), part.size()};
  }
  entry.entry_crc = CrcOf(entry);
  parts[0] = {&entry, sizeof entry};
  if (const int error = WriteAll(fd_, std::span(parts).first(count), end_); error != 0) {
    // What was written of it would be cut when the file is opened; but it would take space.
    if (ftruncate(fd_, static_cast<off_t>(end_)) == 0) reserved_ = 0;
    KeepHeadroom();
    return Failed("cannot write to", path_, error);
  }
  end_ += kFrameBytes + entry.length;
  KeepHeadroom();
  return absl::OkStatus();
}

// Takes space behind the last frame ahead, so that marks, which are small, can still be written
// when the disk is full.
void SnapshotFile::KeepHeadroom() {
  if (reserved_ >= end_ + kHeadroom / 2) return;
  // Should it fail, marks may fail too.
  if (fallocate(fd_, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(end_), kHeadroom) == 0) {
    reserved_ = end_ + kHeadroom;
  }
}

absl::Status SnapshotFile::Read(uint64_t position, uint32_t length, IndexEntry* entry,
                                std::string* record) const {
  record->resize(length);
  std::array<iovec, 2> parts{{{entry, sizeof *entry}, {record->data(), length}}};
  const ssize_t n =
      preadv(fd_, parts.data(), static_cast<int>(parts.size()), static_cast<off_t>(position));
  bool whole = n == static_cast<ssize_t>(sizeof *entry + length);
  if (!whole) {
    whole = ReadAll(fd_, entry, sizeof *entry, position) &&
            ReadAll(fd_, record->data(), length, position + sizeof *entry);
  }
  if (!whole || entry->entry_crc != CrcOf(*entry) || entry->length != length ||
      entry->data_crc != Crc32c(record->data(), length) || entry->data_position > length) {
    return absl::DataLossError(absl::StrCat("'", path_, "' was changed on disk"));
  }
  return absl::OkStatus();
}

absl::Status SnapshotFile::Clear() {
  if (ftruncate(fd_, kHeaderBytes) != 0) return Failed("cannot cut", path_, errno);
  end_ = kHeaderBytes;
  reserved_ = 0;
  return absl::OkStatus();
}

absl::Status SnapshotFile::Rename(const std::string& path) {
  if (rename(path_.c_str(), path.c_str()) != 0) return Failed("cannot make", path, errno);
  path_ = path;
  return absl::OkStatus();
}

}  // namespace shardd::events
