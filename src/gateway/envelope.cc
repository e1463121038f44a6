#include "gateway/envelope.h"

#include <simdjson.h>

#include <algorithm>
#include <charconv>

#include "gateway/envelope_scan.h"
#include "gateway/opcode.h"

namespace shardd::gateway {
namespace {

namespace ondemand = simdjson::ondemand;

static_assert(kJsonPadding >= simdjson::SIMDJSON_PADDING);

constexpr size_t kMaxTypeLength = 64;

// With its padding, as all `data` has.
constexpr char kNull[4 + kJsonPadding] = "null";

bool IsTypeCharacter(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

bool IsType(std::string_view text) {
  return !text.empty() && text.size() <= kMaxTypeLength &&
         std::ranges::all_of(text, IsTypeCharacter);
}

// For these `d` is the guild itself:
// https://discord.com/developers/docs/events/gateway-events#guilds.
std::string_view GuildKey(std::string_view type) {
  const bool is_guild = type == "GUILD_CREATE" || type == "GUILD_UPDATE" || type == "GUILD_DELETE";
  return is_guild ? "id" : "guild_id";
}

bool Skip(std::string_view* text, std::string_view expected) {
  if (!text->starts_with(expected)) return false;
  text->remove_prefix(expected.size());
  return true;
}

bool SkipSequence(std::string_view* text, uint64_t* number) {
  const auto [end, ec] = std::from_chars(text->data(), text->data() + text->size(), *number);
  if (ec != std::errc() || *number > kMaxSequence) return false;
  const auto digits = static_cast<size_t>(end - text->data());
  if (digits > 1 && text->front() == '0') return false;  // not JSON
  text->remove_prefix(digits);
  return true;
}

// {"t":"TYPE","s":N,"op":0,
bool SkipHead(std::string_view* text, DispatchHead* head) {
  if (!Skip(text, R"({"t":")")) return false;
  head->type = text->substr(0, std::min(text->find('"'), text->size()));
  if (!IsType(head->type)) return false;
  text->remove_prefix(head->type.size());
  return Skip(text, R"(","s":)") && SkipSequence(text, &head->sequence) &&
         Skip(text, R"(,"op":0,)");
}

}  // namespace

uint64_t ParseSnowflake(std::string_view text) {
  uint64_t number = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
  return ec == std::errc() && end == text.data() + text.size() ? number : 0;
}

class EnvelopeReader::Parser {
 public:
  bool ReadTopLevel(std::string_view json, Envelope* envelope) {
    ondemand::document document;
    if (parser_.iterate(json.data(), json.size(), json.size() + kJsonPadding).get(document)) {
      return false;
    }
    ondemand::object object;
    if (document.get_object().get(object)) return false;
    bool has_op = false, has_s = false, has_t = false, has_d = false;
    for (auto field_result : object) {
      ondemand::field field;
      std::string_view key;
      if (std::move(field_result).get(field) || field.unescaped_key().get(key)) return false;
      ondemand::value value = field.value();
      if (key == "op" && !std::exchange(has_op, true)) {
        if (value.get_int64().get(envelope->op)) return false;
      } else if (key == "s" && !std::exchange(has_s, true)) {
        if (!ReadSequence(value, &envelope->sequence)) return false;
      } else if (key == "t" && !std::exchange(has_t, true)) {
        if (!ReadType(value, &envelope->type)) return false;
      } else if (key == "d" && !std::exchange(has_d, true)) {
        if (!ReadExtent(value, &envelope->data)) return false;
      }
    }
    return has_op && document.current_location().error() == simdjson::OUT_OF_BOUNDS;
  }

  // The string at the top level of the object `json` under `wanted`, as a number.
  bool ReadSnowflake(std::string_view json, std::string_view wanted, uint64_t* number) {
    ondemand::document document;
    if (parser_.iterate(json.data(), json.size(), json.size() + kJsonPadding).get(document)) {
      return false;
    }
    ondemand::object object;
    if (document.get_object().get(object)) return false;
    bool found = false;
    for (auto field_result : object) {
      ondemand::field field;
      std::string_view key;
      if (std::move(field_result).get(field) || field.unescaped_key().get(key)) return false;
      if (key != wanted || std::exchange(found, true)) continue;
      ondemand::json_type type;
      if (field.value().type().get(type)) return false;
      if (type != ondemand::json_type::string) continue;
      std::string_view text;
      if (field.value().get_string().get(text)) return false;
      *number = ParseSnowflake(text);
    }
    return true;
  }

 private:
  static bool IsNull(ondemand::value& value, bool* is_null) {
    ondemand::json_type type;
    if (value.type().get(type)) return false;
    *is_null = type == ondemand::json_type::null;
    return !*is_null || Trim(value.raw_json_token()) == "null";
  }

  static bool ReadSequence(ondemand::value& value, std::optional<uint64_t>* sequence) {
    bool is_null = false;
    if (!IsNull(value, &is_null)) return false;
    if (is_null) return true;
    uint64_t number = 0;
    if (value.get_uint64().get(number) || number > kMaxSequence) return false;
    *sequence = number;
    return true;
  }

  bool ReadType(ondemand::value& value, std::string_view* type) {
    bool is_null = false;
    if (!IsNull(value, &is_null)) return false;
    if (is_null) return true;
    std::string_view text;
    if (value.get_string().get(text)) return false;
    if (!text.empty() && !IsType(text)) return false;
    type_ = text;
    *type = type_;
    return true;
  }

  template <class Container>
  static bool ReadRaw(Container& container, std::string_view* data) {
    std::string_view raw;
    if (container.raw_json().get(raw)) return false;
    *data = Trim(raw);
    return true;
  }

  static bool ReadExtent(ondemand::value& value, std::string_view* data) {
    ondemand::json_type type;
    if (value.type().get(type)) return false;
    switch (type) {
      case ondemand::json_type::object: {
        ondemand::object object;
        return !value.get_object().get(object) && ReadRaw(object, data);
      }
      case ondemand::json_type::array: {
        ondemand::array array;
        return !value.get_array().get(array) && ReadRaw(array, data);
      }
      case ondemand::json_type::string:
      case ondemand::json_type::number:
      case ondemand::json_type::boolean:
      case ondemand::json_type::null:
        *data = Trim(value.raw_json_token());
        return IsScalar(type, value, *data);
    }
    return false;
  }

  static bool IsScalar(ondemand::json_type type, ondemand::value& value, std::string_view text) {
    double number = 0;
    switch (type) {
      case ondemand::json_type::string:
        return text.size() >= 2 && text.ends_with('"');
      case ondemand::json_type::number:
        return !value.get_double().get(number);
      case ondemand::json_type::boolean:
        return text == "true" || text == "false";
      default:
        return text == "null";
    }
  }

  // Raw JSON comes with the white space behind it.
  static std::string_view Trim(std::string_view token) {
    const size_t last = token.find_last_not_of(" \t\r\n");
    return last == token.npos ? std::string_view() : token.substr(0, last + 1);
  }

  ondemand::parser parser_;
  std::string type_;
};

EnvelopeReader::EnvelopeReader() : parser_(std::make_unique<Parser>()) {}
EnvelopeReader::~EnvelopeReader() = default;

bool EnvelopeReader::Read(std::string_view json, Envelope* envelope) {
  return ReadFast(json, envelope) || ReadAny(json, envelope);
}

bool EnvelopeReader::ReadFastForTest(std::string_view json, Envelope* envelope) {
  return ReadFast(json, envelope);
}

bool EnvelopeReader::ReadAnyForTest(std::string_view json, Envelope* envelope) {
  return ReadAny(json, envelope);
}

std::optional<DispatchHead> ReadDispatchHead(std::string_view json) {
  DispatchHead head;
  if (!SkipHead(&json, &head)) return std::nullopt;
  return head;
}

// {"t":"TYPE","s":N,"op":0,"d":{...}}: the form of every dispatch that was ever captured.
bool EnvelopeReader::ReadFast(std::string_view json, Envelope* envelope) {
  std::string_view rest = json;
  DispatchHead head;
  if (!SkipHead(&rest, &head) || !Skip(&rest, R"("d":)") || !rest.starts_with('{')) return false;
  ObjectScan scan;
  if (ScanObject(rest, GuildKey(head.type), &scan) != ScanResult::kDone) return false;
  if (rest.size() != scan.size + 1 || rest.back() != '}') return false;
  const std::string_view data = rest.substr(0, scan.size);
  if (scan.non_ascii && !simdjson::validate_utf8(data.data(), data.size())) return false;
  *envelope = Envelope{.op = static_cast<int64_t>(Opcode::kDispatch),
                       .sequence = head.sequence,
                       .type = head.type,
                       .guild_id = ParseSnowflake(scan.string),
                       .data = data};
  return true;
}

bool EnvelopeReader::ReadAny(std::string_view json, Envelope* envelope) {
  *envelope = Envelope{};
  envelope->data = std::string_view(kNull, 4);
  // Before simdjson, whose own limit may change.
  if (!IsWithinMaxDepth(json)) return false;
  if (!parser_->ReadTopLevel(json, envelope)) return false;
  if (envelope->op != static_cast<int64_t>(Opcode::kDispatch)) return true;
  if (envelope->type.empty()) return false;
  if (!envelope->data.starts_with('{')) return true;
  return parser_->ReadSnowflake(envelope->data, GuildKey(envelope->type), &envelope->guild_id);
}

}  // namespace shardd::gateway
