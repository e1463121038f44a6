#include "events/cursor.h"

#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "events/crc32c.h"

namespace shardd::events {
namespace {

constexpr uint8_t kVersion = 1;

// As it is encoded; little-endian, which index_entry.h makes sure of.
#pragma pack(push, 1)
struct Wire {
  uint8_t version;
  uint64_t log_id;
  uint64_t offset;
  uint32_t crc;  // CRC-32C of what stands before it
};
#pragma pack(pop)
static_assert(sizeof(Wire) == 21 && kCursorTextBytes == sizeof(Wire) / 3 * 4);

uint32_t CrcOf(const Wire& wire) { return Crc32c(&wire, sizeof wire - sizeof wire.crc); }

}  // namespace

std::string FormatCursor(const Cursor& cursor) {
  Wire wire = {kVersion, cursor.log.id, cursor.offset, 0};
  wire.crc = CrcOf(wire);
  return absl::WebSafeBase64Escape(
      absl::string_view(reinterpret_cast<const char*>(&wire), sizeof wire));
}

absl::StatusOr<Cursor> ParseCursor(std::string_view text) {
  const absl::Status malformed = absl::InvalidArgumentError(
      "the cursor is not one of shardd's: pass EventBatch.cursor as it came, or start with `from`");
  std::string bytes;
  if (text.size() != kCursorTextBytes ||
      !absl::WebSafeBase64Unescape({text.data(), text.size()}, &bytes) ||
      bytes.size() != sizeof(Wire)) {
    return malformed;
  }
  Wire wire;
  std::memcpy(&wire, bytes.data(), sizeof wire);
  if (wire.version != kVersion || wire.crc != CrcOf(wire)) return malformed;
  return Cursor{.log = {.id = wire.log_id}, .offset = wire.offset};
}

}  // namespace shardd::events
