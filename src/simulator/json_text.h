#pragma once

#include <charconv>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

#include "simulator/random.h"

// Writing JSON by appending: events are made tens of thousands of times a second, and their exact
// bytes are the point.
namespace shardd::simulator {

inline void AppendOne(std::string& out, std::string_view text) { out += text; }
template <std::integral T>
void AppendOne(std::string& out, T number) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, number).ptr;
  out.append(digits, end);
}

// Appends text as it is and numbers in decimal.
template <class... Parts>
void Append(std::string& out, const Parts&... parts) {
  (AppendOne(out, parts), ...);
}

// Milliseconds since 1970 at which Discord's snowflakes begin.
inline constexpr uint64_t kDiscordEpoch = 1'420'070'400'000;

// The snowflake of a moment, its low 22 bits taken from `low`.
constexpr uint64_t Snowflake(uint64_t unix_millis, uint64_t low) {
  return ((unix_millis - kDiscordEpoch) << 22) | (low & 0x3FFFFF);
}

// `2026-01-31T12:34:56.789000+00:00`, without quotes.
void AppendTime(std::string& out, uint64_t unix_millis);

// Lower-case hex digits that depend on `seed`, 32 as in the hashes of images and in session ids.
void AppendHex(std::string& out, uint64_t seed, int digits = 32);

// 1 to `count` words of chat with spaces between them; needs no escaping.
void AppendWords(std::string& out, Random& random, uint32_t count);

// Something that is hard on careless parsers, escaped for JSON: emoji, quotes, text that looks like
// keys.
std::string_view TrickyText(Random& random);

// A name of one or two words, fixed by `seed`.
void AppendName(std::string& out, uint64_t seed);

// "😀" and the like.
std::string_view Emoji(uint64_t seed);

}  // namespace shardd::simulator
