#include "events/event_type.h"

#include <cstddef>
#include <cstdint>
#include <optional>

#include "shardd/v1/shardd.pb.h"

namespace shardd::events {
namespace {

// Takes varints and fields from the front of encoded bytes, and nothing beyond their end.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : left_(bytes) {}

  std::optional<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && !left_.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(left_.front());
      left_.remove_prefix(1);
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    return std::nullopt;
  }

  std::optional<std::string_view> Bytes(uint64_t size) {
    if (size > left_.size()) return std::nullopt;
    const std::string_view bytes = left_.substr(0, size);
    left_.remove_prefix(size);
    return bytes;
  }

  std::optional<std::string_view> LengthDelimited() {
    const auto size = Varint();
    return size.has_value() ? Bytes(*size) : std::nullopt;
  }

 private:
  std::string_view left_;
};

}  // namespace

std::string_view TypeOf(std::string_view record) {
  enum : uint64_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2 };
  Reader outer(record);
  if (!outer.Varint().has_value()) return "";
  const auto event = outer.LengthDelimited();
  if (!event.has_value()) return "";
  // The type stands behind a few numbers, so this reads some twenty bytes.
  Reader reader(*event);
  while (const auto tag = reader.Varint()) {
    switch (*tag & 7) {
      case kVarint:
        if (!reader.Varint().has_value()) return "";
        break;
      case kFixed64:
        if (!reader.Bytes(8).has_value()) return "";
        break;
      case kLengthDelimited: {
        const auto bytes = reader.LengthDelimited();
        if (!bytes.has_value()) return "";
        if (*tag >> 3 == v1::Event::kTypeFieldNumber) return *bytes;
        break;
      }
      default:
        return "";
    }
  }
  return "";
}

}  // namespace shardd::events
