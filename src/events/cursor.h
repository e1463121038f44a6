#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shardd::events {

// Which log, and which life of it. A new epoch starts when a log's tail was lost, so that a
// position in the lost part is never taken for one in what was written instead.
struct LogId {
  uint64_t id = 0;
  uint32_t epoch = 0;

  friend bool operator==(const LogId&, const LogId&) = default;
};

// A position: the offset of the next event to read.
struct Cursor {
  LogId log;
  uint64_t offset = 0;

  friend bool operator==(const Cursor&, const Cursor&) = default;
};

// Text for clients: base64url without padding of {version u8, log id u64, epoch u32, offset u64},
// little-endian.
inline constexpr size_t kCursorTextBytes = 28;
std::string FormatCursor(const Cursor& cursor);

// INVALID_ARGUMENT for anything that FormatCursor does not write.
absl::StatusOr<Cursor> ParseCursor(std::string_view text);

}  // namespace shardd::events
