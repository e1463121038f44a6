// The envelope's scan and its parser against each other, and against simdjson's full parser. The
// first byte of the input says whether the rest is a payload or the `d` of a dispatch.

#include <simdjson.h>

#include <algorithm>
#include <string>
#include <utility>

#include "check.h"
#include "gateway/envelope.h"
#include "gateway/envelope_scan.h"
#include "padded_copy.h"

namespace shardd::gateway {
namespace {

bool IsJson(std::string_view text) {
  simdjson::dom::parser parser;
  return parser.parse(text.data(), text.size()).error() == simdjson::SUCCESS;
}

// Byte by byte, to hold the one by blocks against. As there, and in simdjson, a backslash outside
// of a string, which no JSON has, escapes a quote as well.
int64_t Depth(std::string_view json) {
  int64_t depth = 0;
  int64_t deepest = 0;
  bool in_string = false;
  bool escapes = false;
  for (const char c : json) {
    if (c == '\\') {
      escapes = !escapes;
      continue;
    }
    const bool is_escaped = std::exchange(escapes, false);
    if (c == '"') {
      if (!is_escaped) in_string = !in_string;
    } else if (!in_string && (c == '{' || c == '[')) {
      deepest = std::max(deepest, ++depth);
    } else if (!in_string && (c == '}' || c == ']')) {
      --depth;
    }
  }
  return deepest;
}

void CheckBounds(const Envelope& envelope, std::string_view json) {
  CHECK_THAT(envelope.type.size() <= 64);
  CHECK_THAT(std::ranges::all_of(envelope.type, [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  }));
  CHECK_THAT(envelope.sequence.value_or(0) <= kMaxSequence);
  CHECK_THAT(Depth(json) <= kMaxJsonDepth);
  CHECK_THAT(!envelope.data.empty());
  if (envelope.data != "null") {
    CHECK_THAT(envelope.data.data() >= json.data());
    CHECK_THAT(envelope.data.data() + envelope.data.size() <= json.data() + json.size());
  }
  CHECK_THAT(simdjson::validate_utf8(envelope.data.data(), envelope.data.size()));
}

void CheckPayload(std::string_view json) {
  static EnvelopeReader fast_reader, any_reader;
  Envelope fast, any;
  const bool fast_taken = fast_reader.ReadFastForTest(json, &fast);
  const bool any_taken = any_reader.ReadAnyForTest(json, &any);
  if (fast_taken) CheckBounds(fast, json);
  if (any_taken) CheckBounds(any, json);
  if (fast_taken && any_taken) {
    CHECK_THAT(fast.op == any.op);
    CHECK_THAT(fast.sequence == any.sequence);
    CHECK_THAT(fast.type == any.type);
    CHECK_THAT(fast.data == any.data);
  }
  // The inside of `d` is not checked, so either may take what is no JSON; its guild is anyone's.
  const bool same_guild = fast_taken && any_taken && fast.guild_id == any.guild_id;
  if (fast_taken && !same_guild) CHECK_THAT(!IsJson(json));
  if (const auto head = ReadDispatchHead(json); head && fast_taken) {
    CHECK_THAT(head->type == fast.type && head->sequence == fast.sequence);
  }
}

}  // namespace
}  // namespace shardd::gateway

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using shardd::gateway::PaddedCopy;
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::string text(rest);
  if (data[0] % 2 == 1) {
    const char* type = data[0] % 4 == 1 ? "MESSAGE_CREATE" : "GUILD_CREATE";
    text = std::string(R"({"t":")") + type + R"(","s":7,"op":0,"d":)" + text + "}";
  }
  const PaddedCopy json(text);
  shardd::gateway::CheckPayload(json.view());
  return 0;
}
