#include "events/log_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "events/crc32c.h"

namespace shardd::events {
namespace {

constexpr char kMagic[8] = {'S', 'H', 'A', 'R', 'D', 'L', 'O', 'G'};
constexpr uint32_t kFormatVersion = 1;
constexpr size_t kBootIdBytes = 36;  // a UUID as text

// Magic, version and checksum stay where they are in any format, so that any version can tell a
// file of another one from a damaged one.
struct FirstPage {
  char magic[8];
  uint32_t format_version;
  uint32_t crc;                    // CRC-32C of the page with this field 0
  uint64_t incompatible_features;  // a bit that is not known: leave the file alone
  uint64_t compatible_features;
  uint64_t log_id;
  uint64_t slot_bytes;
  uint32_t slots;
  uint32_t is_clean;
  uint32_t tail_may_be_lost;
  uint32_t padding;
  char boot_id[kBootIdBytes];  // of the machine that wrote last
};
static_assert(sizeof(FirstPage) <= LogFile::kPageBytes);

uint32_t CrcOf(FirstPage page) {
  page.crc = 0;
  return Crc32c(&page, sizeof page);
}

std::string BootId() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  file >> id;
  id.resize(kBootIdBytes);
  return id;
}

absl::Status Failed(std::string_view what, const std::string& path, int error) {
  return absl::UnavailableError(
      absl::StrCat(std::string(what), " '", path, "': ", std::strerror(error)));
}

// Until it is installed: a file that has the name is whole.
std::string Unfinished(const std::string& path) { return path + ".new"; }

uint64_t FreeBytes(int fd) {
  struct statvfs disk {};
  return fstatvfs(fd, &disk) == 0 ? uint64_t{disk.f_bavail} * uint64_t{disk.f_frsize} : 0;
}

absl::Status Reserve(int fd, const std::string& path, uint64_t bytes) {
  const uint64_t free_before = FreeBytes(fd);
  const int error = posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  if (error == 0) return absl::OkStatus();
  if (error != ENOSPC && error != EDQUOT && error != EFBIG) {
    return Failed("cannot reserve space for", path, error);
  }
  constexpr uint64_t kMiB = 1 << 20;
  return absl::ResourceExhaustedError(
      absl::StrCat("no space for the event log '", path, "': it takes ", (bytes + kMiB - 1) / kMiB,
                   " MiB, and ", free_before / kMiB,
                   " MiB are free. Make room, lower --retain-bytes, or choose another --data-dir"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LogFile>> LogFile::Make(const std::string& path, Shape shape,
                                                       uint64_t log_id) {
  const std::string unfinished = Unfinished(path);
  const int fd = open(unfinished.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return Failed("cannot make", unfinished, errno);
  std::unique_ptr<LogFile> file(new LogFile(path, fd, shape, log_id));
  absl::Status status = Reserve(fd, path, shape.file_bytes());
  if (status.ok()) status = file->WriteFirstPage(/*is_clean=*/false);
  if (!status.ok()) return status;
  return file;
}

absl::Status LogFile::Install() {
  if (path_.empty() || is_installed_) return absl::OkStatus();
  if (rename(Unfinished(path_).c_str(), path_.c_str()) != 0) {
    return Failed("cannot make", path_, errno);
  }
  is_installed_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LogFile>> LogFile::MakeInMemory(Shape shape, uint64_t log_id) {
  const int fd = memfd_create("shardd-log", MFD_CLOEXEC);
  if (fd < 0) return Failed("cannot make", "a log in memory", errno);
  std::unique_ptr<LogFile> file(new LogFile("", fd, shape, log_id));
  if (ftruncate(fd, static_cast<off_t>(shape.file_bytes())) != 0) {
    return Failed("cannot make", "a log in memory", errno);
  }
  return file;
}

absl::StatusOr<std::unique_ptr<LogFile>> LogFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return absl::NotFoundError(absl::StrCat("no '", path, "'"));
  if (fd < 0) return Failed("cannot open", path, errno);
  FirstPage page{};
  const ssize_t read = pread(fd, &page, sizeof page, 0);
  const bool is_whole = read == static_cast<ssize_t>(sizeof page) &&
                        std::memcmp(page.magic, kMagic, sizeof kMagic) == 0 &&
                        page.crc == CrcOf(page);
  // What follows the checksum may mean anything in another format.
  const bool is_known =
      page.format_version == kFormatVersion && (page.incompatible_features & ~kKnownFeatures) == 0;
  const Shape shape{.slot_bytes = page.slot_bytes, .slots = page.slots};
  if (is_whole && !is_known) {
    close(fd);
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "' has format ", page.format_version, " with features ",
                     page.incompatible_features, ", and this version of shardd knows format ",
                     kFormatVersion, " with features ", kKnownFeatures,
                     ": run the version that wrote it, or choose another --data-dir"));
  }
  if (!is_whole || shape.slot_bytes == 0 || shape.slot_bytes % kPageBytes != 0 ||
      shape.slots == 0) {
    close(fd);
    return absl::DataLossError(absl::StrCat("the first page of '", path, "' is damaged"));
  }

  std::unique_ptr<LogFile> file(new LogFile(path, fd, shape, page.log_id));
  file->is_installed_ = true;
  file->features_ = page.incompatible_features;
  // Of a process that died while it made a new one.
  unlink(Unfinished(path).c_str());
  struct stat there {};
  if (fstat(fd, &there) != 0) return Failed("cannot read", path, errno);
  const bool was_cut = static_cast<uint64_t>(there.st_size) < shape.file_bytes();
  if (was_cut) {
    log::Warn("the event log was cut short; what is missing is lost",
              {{"file", path},
               {"bytes", static_cast<uint64_t>(there.st_size)},
               {"expected", shape.file_bytes()}});
  }
  const bool same_boot = std::string(page.boot_id, kBootIdBytes) == BootId();
  file->tail_may_be_lost_ =
      page.tail_may_be_lost != 0 || was_cut || (!same_boot && page.is_clean == 0);
  // Before the file is made whole: then nothing else would tell.
  if (auto status = file->WriteFirstPage(/*is_clean=*/false); !status.ok()) return status;
  // Also where it was not cut: a copy of the file may have holes.
  if (auto status = Reserve(fd, path, shape.file_bytes()); !status.ok()) return status;
  return file;
}

LogFile::~LogFile() {
  if (!path_.empty() && !is_installed_) unlink(Unfinished(path_).c_str());
  close(fd_);
}

absl::StatusOr<uint8_t*> LogFile::Map(uint32_t slot, uint32_t slots) const {
  const auto offset = static_cast<off_t>(kPageBytes + slot * shape_.slot_bytes);
  void* memory =
      mmap(nullptr, slots * shape_.slot_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, offset);
  if (memory == MAP_FAILED) return Failed("cannot map", path_, errno);
  return static_cast<uint8_t*>(memory);
}

absl::Status LogFile::WriteFirstPage(bool is_clean) {
  FirstPage page{};
  std::memcpy(page.magic, kMagic, sizeof kMagic);
  page.format_version = kFormatVersion;
  page.incompatible_features = features_;
  page.log_id = log_id_;
  page.slot_bytes = shape_.slot_bytes;
  page.slots = shape_.slots;
  page.is_clean = is_clean ? 1 : 0;
  page.tail_may_be_lost = tail_may_be_lost_ ? 1 : 0;
  const std::string boot_id = BootId();
  std::memcpy(page.boot_id, boot_id.data(), kBootIdBytes);
  page.crc = CrcOf(page);
  char bytes[kPageBytes] = {};
  std::memcpy(bytes, &page, sizeof page);
  errno = 0;
  if (pwrite(fd_, bytes, sizeof bytes, 0) != static_cast<ssize_t>(sizeof bytes)) {
    return Failed("cannot write to", path_, errno == 0 ? EIO : errno);
  }
  // On disk before the first append: a log that was in use when the machine went down must say so.
  sync_file_range(fd_, 0, kPageBytes,
                  SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
  return absl::OkStatus();
}

absl::Status LogFile::SetTailMayBeLost(bool may_be_lost) {
  tail_may_be_lost_ = may_be_lost;
  return WriteFirstPage(/*is_clean=*/false);
}

absl::Status LogFile::AddFeatures(uint64_t features) {
  if ((features_ | features) == features_) return absl::OkStatus();
  features_ |= features;
  return path_.empty() ? absl::OkStatus() : WriteFirstPage(/*is_clean=*/false);
}

void LogFile::Clear(uint32_t slot, std::string_view header) const {
  const auto offset = static_cast<off_t>(kPageBytes + slot * shape_.slot_bytes);
  if (pwrite(fd_, header.data(), header.size(), offset) != static_cast<ssize_t>(header.size())) {
    log::Warn("cannot write to the event log's file", {{"file", path_}});
  }
}

void LogFile::Unlink() {
  if (!path_.empty()) unlink(path_.c_str());
  path_.clear();
}

void LogFile::Close() {
  if (path_.empty()) return;
  if (fdatasync(fd_) != 0) {
    log::Warn("the event log could not be written to disk; it lasts as long as the machine",
              {{"file", path_}, {"error", std::strerror(errno)}});
    return;
  }
  static_cast<void>(WriteFirstPage(/*is_clean=*/true));
}

}  // namespace shardd::events
