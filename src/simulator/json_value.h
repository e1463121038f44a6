#pragma once

#include <boost/json.hpp>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>

// What clients send, as the types that it should have; none where it is missing or something else.
namespace shardd::simulator {

inline std::optional<uint64_t> ToNumber(const boost::json::value* value) {
  if (value == nullptr) return std::nullopt;
  if (value->is_uint64()) return value->get_uint64();
  if (value->is_int64() && value->get_int64() >= 0) {
    return static_cast<uint64_t>(value->get_int64());
  }
  return std::nullopt;
}

inline std::optional<std::string> ToText(const boost::json::value* value) {
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return std::string(value->get_string());
}

// Discord takes snowflakes as strings and as numbers.
inline std::optional<uint64_t> ToSnowflake(const boost::json::value* value) {
  const auto text = ToText(value);
  if (!text.has_value()) return ToNumber(value);
  uint64_t id = 0;
  const char* const end = text->data() + text->size();
  const auto parsed = std::from_chars(text->data(), end, id);
  if (parsed.ec != std::errc() || parsed.ptr != end) return std::nullopt;
  return id;
}

inline bool IsTrue(const boost::json::value* value) {
  return value != nullptr && value->is_bool() && value->get_bool();
}

}  // namespace shardd::simulator
