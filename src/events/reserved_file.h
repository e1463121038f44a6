#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace shardd::events {

// What the small files of fixed size in the data directory have in common.

// UNAVAILABLE: "cannot open 'PATH': No such file or directory".
absl::Status FileFailed(std::string_view what, const std::string& path, int error);

// Space for all of the file, so that no later write can lack it; RESOURCE_EXHAUSTED with the
// figures.
absl::Status ReserveFile(int fd, const std::string& path, size_t bytes);

// The first `bytes` of the file; zeros where it is shorter. `present`: how many it has.
absl::Status ReadFile(int fd, const std::string& path, size_t bytes,
                      std::vector<unsigned char>* contents, size_t* present);

// False, and errno set (0: cut short), where not all was written.
bool WriteFileAt(int fd, const void* bytes, size_t size, size_t offset);

}  // namespace shardd::events
