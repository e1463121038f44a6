#include "events/reserved_file.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace shardd::events {

absl::Status FileFailed(std::string_view what, const std::string& path, int error) {
  return absl::UnavailableError(
      absl::StrCat(std::string(what), " '", path, "': ", std::strerror(error)));
}

absl::Status ReserveFile(int fd, const std::string& path, size_t bytes) {
  const int error = posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  if (error == 0) return absl::OkStatus();
  if (error != ENOSPC && error != EDQUOT) {
    return FileFailed("cannot reserve space for", path, error);
  }
  struct statvfs disk {};
  const uint64_t free =
      fstatvfs(fd, &disk) == 0 ? uint64_t{disk.f_bavail} * uint64_t{disk.f_frsize} : 0;
  return absl::ResourceExhaustedError(
      absl::StrCat("no space for '", path, "', which takes ", bytes / 1024, " KiB, and ",
                   free / 1024, " KiB are free: make room, or choose another --data-dir"));
}

absl::Status ReadFile(int fd, const std::string& path, size_t bytes,
                      std::vector<unsigned char>* contents, size_t* present) {
  contents->assign(bytes, 0);
  *present = 0;
  while (*present < bytes) {
    const ssize_t n =
        pread(fd, contents->data() + *present, bytes - *present, static_cast<off_t>(*present));
    if (n < 0) return FileFailed("cannot read", path, errno);
    if (n == 0) break;
    *present += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

bool WriteFileAt(int fd, const void* bytes, size_t size, size_t offset) {
  errno = 0;
  return pwrite(fd, bytes, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size);
}

}  // namespace shardd::events
