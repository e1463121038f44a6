#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace shardd::gateway {

// Bytes that must be readable behind every JSON text that is given to this file's functions
// (simdjson reads ahead).
inline constexpr size_t kJsonPadding = 64;

// The largest `s` that is taken: the largest whole number that every JSON reader gets right (RFC
// 8259, section 6).
inline constexpr uint64_t kMaxSequence = (uint64_t{1} << 53) - 1;

// A gateway payload, {op, s, t, d}, without a document built of it. The views point into the bytes
// that were read, or into the reader, and live until its next Read().
struct Envelope {
  int64_t op = 0;
  std::optional<uint64_t> sequence;
  std::string_view type;  // empty where `t` is, or is null or missing; else [A-Z0-9_]{1,64}
  uint64_t guild_id = 0;  // of dispatches: see Read()
  // The JSON of `d`, byte for byte; "null" where there is none. kJsonPadding readable bytes follow.
  std::string_view data;
};

// Finds the parts of payloads. One reader serves any number of connections, one call at a time; it
// keeps memory for the largest payload seen. Thread-compatible.
class EnvelopeReader {
 public:
  EnvelopeReader();
  ~EnvelopeReader();

  // False if `json` is not a gateway payload: not a JSON object of valid UTF-8, cut short, an `op`
  // that is no integer, an `s` that is no whole number from 0 to kMaxSequence, a `t` that does not
  // match, a dispatch without type, deeper than kMaxJsonDepth (envelope_scan.h). The inside of `d`
  // is checked as far as its extent needs: strings and brackets.
  //
  // The guild of a dispatch is the string `guild_id` at the top level of `d`, or `id` for
  // GUILD_CREATE, GUILD_UPDATE and GUILD_DELETE; 0 if it is absent, null or not a decimal number in
  // a string. Nested ones never count, and an object's first key of a name does. Where the inside
  // of `d` is no JSON, the guild can be any. REQUIRES: kJsonPadding readable bytes behind `json`.
  bool Read(std::string_view json, Envelope* envelope);

  // The two ways that Read() takes: by the exact form in which Discord writes dispatches, which
  // declines (false) whatever looks different, and by simdjson. For tests, which hold one against
  // the other.
  bool ReadFastForTest(std::string_view json, Envelope* envelope);
  bool ReadAnyForTest(std::string_view json, Envelope* envelope);

 private:
  class Parser;
  bool ReadFast(std::string_view json, Envelope* envelope);
  bool ReadAny(std::string_view json, Envelope* envelope);

  std::unique_ptr<Parser> parser_;
};

// The head of a dispatch in the form in which Discord writes it, {"t":"TYPE","s":N,"op":0, of which
// no more need be there. None: it reads otherwise.
struct DispatchHead {
  std::string_view type;
  uint64_t sequence = 0;
};
std::optional<DispatchHead> ReadDispatchHead(std::string_view json);

// "123" -> 123; 0 for anything that is not a decimal number in 64 bits.
uint64_t ParseSnowflake(std::string_view text);

}  // namespace shardd::gateway
