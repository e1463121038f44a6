#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace shardd::events {

// The directory that holds what outlives the process, for one process at a time.
class DataDir {
 public:
  // Makes the directory where it is missing (only this user may look into it), and locks it.
  //   FAILED_PRECONDITION  another process has it; the message says which
  //   UNAVAILABLE          it cannot be made, or written to
  static absl::StatusOr<std::unique_ptr<DataDir>> Open(const std::string& path);
  // One of its own among the temporary files, which the destructor removes.
  static absl::StatusOr<std::unique_ptr<DataDir>> MakeTemporary();

  // Gives up the lock.
  ~DataDir();
  DataDir(const DataDir&) = delete;
  DataDir& operator=(const DataDir&) = delete;

  const std::string& path() const { return path_; }
  bool is_temporary() const { return is_temporary_; }

 private:
  DataDir(std::string path, int lock);
  const std::string path_;
  const int lock_;
  bool is_temporary_ = false;
};

}  // namespace shardd::events
