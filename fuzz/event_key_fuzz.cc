// The keys that tell events apart: equal for JSON that says the same, different for JSON that does
// not. The input's first byte says which type the event has, the second seeds what is done to it.

#include <simdjson.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "check.h"
#include "padded_copy.h"
#include "rescale/event_key.h"
#include "simulator/json_scan.h"

namespace shardd::rescale {
namespace {

using simdjson::dom::element;

constexpr const char* kTypes[] = {"X",
                                  "MESSAGE_CREATE",
                                  "GUILD_ROLE_CREATE",
                                  "GUILD_MEMBER_ADD",
                                  "GUILD_CREATE",
                                  "VOICE_STATE_UPDATE",
                                  "PRESENCE_UPDATE",
                                  "READY"};

// With sorted members: texts that say the same give the same, whatever else does.
std::string Sorted(const element& value) {
  if (simdjson::dom::array array; !value.get(array)) {
    std::string text = "[";
    for (const element each : array) text += Sorted(each) + ",";
    return text + "]";
  }
  simdjson::dom::object object;
  if (value.get(object)) return simdjson::to_string(value);
  std::vector<std::string> members;
  for (const auto [name, member] : object) {
    members.push_back(std::to_string(name.size()) + ":" + std::string(name) + Sorted(member));
  }
  std::ranges::sort(members);
  std::string text = "{";
  for (const std::string& member : members) text += member + ",";
  return text + "}";
}

// None: no JSON, or deeper than what keys are made of.
std::optional<std::string> SortedJson(std::string_view text) {
  simdjson::dom::parser parser;
  element root;
  if (parser.allocate(text.size() + 1, 120) || parser.parse(text.data(), text.size()).get(root)) {
    return std::nullopt;
  }
  return Sorted(root);
}

Identity Identify(std::string_view type, std::string_view text) {
  static EventIdentifier identifier;
  const gateway::PaddedCopy data(text);
  return identifier.Identify(type, data.view(), 7, 8);
}

void CheckSame(const Identity& a, const Identity& b) {
  CHECK_THAT(a.matching == b.matching);
  CHECK_THAT(a.producer == b.producer);
  CHECK_THAT(a.key == b.key);
}

void CheckText(std::string_view type, const std::string& text, uint8_t seed) {
  const Identity identity = Identify(type, text);
  CheckSame(identity, Identify(type, text));
  const std::optional<std::string> sorted = SortedJson(text);
  if (!sorted) return;

  CheckSame(identity, Identify(type, simulator::PermuteKeys(text, seed)));
  std::string dense(text.size() + simdjson::SIMDJSON_PADDING, '\0');
  size_t dense_size = 0;
  CHECK_THAT(!simdjson::minify(text.data(), text.size(), dense.data(), dense_size));
  dense.resize(dense_size);
  // What is no object or array is its bytes.
  if (dense.front() == '{' || dense.front() == '[') CheckSame(identity, Identify(type, dense));

  // One byte changed somewhere, or one left out.
  if (type != kTypes[0] || text.empty()) return;
  std::string other = text;
  const size_t at = seed * text.size() / 256;
  if (seed % 2 == 0) {
    other[at] = static_cast<char>(other[at] ^ (1 + seed % 7));
  } else {
    other.erase(at, 1);
  }
  const std::optional<std::string> other_sorted = SortedJson(other);
  if (other_sorted && *other_sorted != *sorted) {
    CHECK_THAT(Identify(type, other).key != identity.key);
  }
}

}  // namespace
}  // namespace shardd::rescale

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 2, size - 2);
  shardd::rescale::CheckText(shardd::rescale::kTypes[data[0] % std::size(shardd::rescale::kTypes)],
                             text, data[1]);
  return 0;
}
