#include "events/data_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace shardd::events {
namespace {

absl::Status Failed(const std::string& path, int error) {
  return absl::UnavailableError(absl::StrCat("cannot use --data-dir '", path,
                                             "': ", std::strerror(error),
                                             ": choose a directory that this user may write to"));
}

std::string Holder(int lock) {
  char text[32];
  const ssize_t size = pread(lock, text, sizeof text - 1, 0);
  return size > 0 ? std::string(text, static_cast<size_t>(size)) : "unknown";
}

}  // namespace

DataDir::DataDir(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}

DataDir::~DataDir() {
  if (is_temporary_) {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  close(lock_);
}

absl::StatusOr<std::unique_ptr<DataDir>> DataDir::Open(const std::string& path) {
  std::error_code error;
  const std::filesystem::path directory(path);
  if (directory.has_parent_path()) {
    std::filesystem::create_directories(directory.parent_path(), error);
    if (error) return Failed(path, error.value());
  }
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return Failed(path, errno);
  const int lock = open((path + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock < 0) return Failed(path, errno);
  // The kernel gives it up when the process ends, however it ends.
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    const std::string holder = Holder(lock);
    close(lock);
    if (reason != EWOULDBLOCK) return Failed(path, reason);
    return absl::FailedPreconditionError(
        absl::StrCat("--data-dir '", path, "' is in use by the process ", holder,
                     ": stop that one, or give this one another --data-dir"));
  }
  const std::string pid = std::to_string(getpid());
  if (ftruncate(lock, 0) != 0 ||
      pwrite(lock, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    const int reason = errno;
    close(lock);
    return Failed(path, reason);
  }
  return std::unique_ptr<DataDir>(new DataDir(path, lock));
}

absl::StatusOr<std::unique_ptr<DataDir>> DataDir::MakeTemporary() {
  std::error_code error;
  const auto parent = std::filesystem::temp_directory_path(error);
  if (error) return Failed("temporary", error.value());
  std::string pattern = (parent / "shardd-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) return Failed(pattern, errno);
  auto made = Open(pattern);
  if (made.ok()) (*made)->is_temporary_ = true;
  return made;
}

}  // namespace shardd::events
