#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shardd::events {

// Which log: another one after its file was lost. (A log that has lost its tail goes on at offsets
// that no cursor of it can have.)
struct LogId {
  uint64_t id = 0;

  friend bool operator==(const LogId&, const LogId&) = default;
};

// A position: the offset of the next event to read.
struct Cursor {
  LogId log;
  uint64_t offset = 0;

  friend bool operator==(const Cursor&, const Cursor&) = default;
};

// Text for clients: base64url without padding of {version u8, log id u64, offset u64,
// CRC-32C u32}, little-endian.
inline constexpr size_t kCursorTextBytes = 28;
std::string FormatCursor(const Cursor& cursor);

// INVALID_ARGUMENT for anything that FormatCursor does not write.
absl::StatusOr<Cursor> ParseCursor(std::string_view text);

}  // namespace shardd::events
