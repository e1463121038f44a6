#include "rescale/event_key.h"

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <span>
#include <string>
#include <utility>

namespace shardd::rescale {
namespace {

namespace ondemand = simdjson::ondemand;

// What simdjson reads behind the text must be there.
static_assert(simdjson::SIMDJSON_PADDING <= kJsonPadding);

// Objects and arrays within each other. What comes from Discord has been held to as many already
// (gateway/envelope_scan.h).
constexpr int kMaxDepth = 128;

// ---- What tells events apart ----

enum class KeyOf : uint8_t {
  kContent,
  kFields,
  kAvailability,  // the guild, and whether it is there
  kNothing,
};

// A string at the top level of `d`, or within an object there.
struct Field {
  std::string_view name;
  std::string_view inner{};  // empty: `name` is the string
};

struct Rule {
  std::string_view type;
  KeyOf key = KeyOf::kContent;
  Matching matching = Matching::kByContent;
  std::array<Field, 2> fields{};  // all of them
  Producer producer = Producer::kGuild;
  // The user that the event is about, where those of the bot itself are the session's.
  std::string_view user{};
  // A key at the top level of `d` that may differ between sessions.
  std::string_view left_out{};
};

constexpr Rule OfSession(std::string_view type) {
  return {.type = type, .key = KeyOf::kNothing, .matching = Matching::kNever};
}
constexpr Rule Once(std::string_view type, Field field) {
  return {
      .type = type, .key = KeyOf::kFields, .matching = Matching::kUnique, .fields = {field, {}}};
}
constexpr Rule Again(std::string_view type, Field first, Field second = {}) {
  return {.type = type, .key = KeyOf::kFields, .fields = {first, second}};
}

// The types that are not told apart by all that stands in them. "Docs" is
// https://discord.com/developers/docs/events/gateway-events. To be in here as kUnique an event must
// come once in the life of what it names: THREAD_CREATE comes again for whoever is added to the
// thread. What is rare needs no such line.
constexpr Rule kRules[] = {
    // Docs, "Message Create": a snowflake of its own.
    Once("MESSAGE_CREATE", {"id"}),
    // Docs, "Interaction Create": the same. Not made by the guild's service: its order among the
    // guild's events may differ by session.
    {.type = "INTERACTION_CREATE",
     .key = KeyOf::kFields,
     .matching = Matching::kUnique,
     .fields = {Field{"id"}, Field{}},
     .producer = Producer::kInteraction},
    // Docs, "Message Delete". A message should be deleted once, but nothing is lost by not counting
    // on it.
    Again("MESSAGE_DELETE", {"id"}),
    // Seen by bots with the intent GUILD_PRESENCES: when the presence passed a process of
    // Discord's.
    {.type = "PRESENCE_UPDATE", .left_out = "processed_at_timestamp"},
    // Docs, op 4 ("Update Voice State"): the bot's own voice state, and the server for it, go to
    // the
    // session that asked.
    {.type = "VOICE_STATE_UPDATE", .user = "user_id"},
    OfSession("VOICE_SERVER_UPDATE"),
    // Docs, op 8, 31 and 43 and what limits them: answers to a session's own request.
    OfSession("GUILD_MEMBERS_CHUNK"),
    OfSession("SOUNDBOARD_SOUNDS"),
    OfSession("CHANNEL_INFO"),
    OfSession("RATE_LIMITED"),
    // Docs, "Ready" and "Resumed".
    OfSession("READY"),
    OfSession("RESUMED"),
    // Docs, "Guild Create": members and presences are a choice that each session gets anew. Neither
    // comes once: a guild may be out of order and come back.
    {.type = "GUILD_CREATE", .key = KeyOf::kAvailability},
    {.type = "GUILD_DELETE", .key = KeyOf::kAvailability},
    // Docs, "Guild Member Add": may come for who is a member already.
    Again("GUILD_MEMBER_ADD", {"user", "id"}, {"joined_at"}),
    // Docs, the section of the type's name: a snowflake or code of its own, made once.
    Once("GUILD_AUDIT_LOG_ENTRY_CREATE", {"id"}),
    Once("CHANNEL_CREATE", {"id"}),
    Once("GUILD_ROLE_CREATE", {"role", "id"}),
    Once("GUILD_SCHEDULED_EVENT_CREATE", {"id"}),
    Once("STAGE_INSTANCE_CREATE", {"id"}),
    Once("INTEGRATION_CREATE", {"id"}),
    Once("INVITE_CREATE", {"code"}),
    Once("AUTO_MODERATION_RULE_CREATE", {"id"}),
    Once("ENTITLEMENT_CREATE", {"id"}),
};
constexpr Rule kOther{.type = ""};

const Rule& RuleOf(std::string_view type) {
  const auto found = std::ranges::find(kRules, type, &Rule::type);
  return found == std::end(kRules) ? kOther : *found;
}

// ---- The hash ----

// Keys are written to disk: the same text must have the same key in every process and on every
// machine, and with every later version (event_key_test.cc has examples).
static_assert(std::endian::native == std::endian::little);

__extension__ using Wide = unsigned __int128;

uint64_t Fold(uint64_t x, uint64_t y) {
  const Wide product = Wide{x} * y;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// SplitMix64's finish (Vigna): every bit of the result hangs on every bit of `x`.
uint64_t Spread(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

template <class Number>
uint64_t Read(const char* bytes) {
  Number number;
  std::memcpy(&number, bytes, sizeof(number));
  return number;
}

// Two hashes of 64 bits that share nothing but what they read, in the manner of wyhash: each takes
// 16 bytes by one multiplication. Digits of pi.
struct Hash {
  uint64_t a = 0x243F6A8885A308D3;
  uint64_t b = 0x13198A2E03707344;

  void Add(uint64_t x, uint64_t y) {
    a += Fold(x ^ 0xA4093822299F31D0, y ^ a);
    b += Fold(y ^ 0x082EFA98EC4E6C89, x ^ b);
  }

  void Add(std::string_view text) {
    const char* at = text.data();
    size_t left = text.size();
    a ^= left * 0x9E3779B97F4A7C15;
    b ^= left * 0xC2B2AE3D27D4EB4F;
    for (; left > 16; left -= 16, at += 16) Add(Read<uint64_t>(at), Read<uint64_t>(at + 8));
    if (left >= 8) {
      Add(Read<uint64_t>(at), Read<uint64_t>(at + left - 8));
    } else if (left >= 4) {
      Add(Read<uint32_t>(at), Read<uint32_t>(at + left - 4));
    } else if (left > 0) {
      Add(Read<uint8_t>(at) << 16 | Read<uint8_t>(at + left / 2) << 8 |
              Read<uint8_t>(at + left - 1),
          0);
    }
  }

  EventKey key() const { return {.high = Spread(a), .low = Spread(b)}; }
};

// What comes next, so that 1 and "1", [] and {} differ. Primes.
enum Kind : uint64_t {
  kString = 0xFA851A5B8E4C2F63,
  kBrokenString = 0xE3779B97F4A7C1F1,
  kScalar = 0xD6E8FEB86659FD93,
  kObject = 0xCA5A826395121157,
  kArray = 0xBD3AF235E7B4A9B5,
  kEnd = 0xA0761D6478BD642F,
  kBytes = 0x8EBC6AF09C88C6E3,
  kOwnKey = 0x589965CC75374CC3,
};
void Begin(Kind kind, Hash* hash) {
  hash->a ^= kind;
  hash->b += kind;
}

// ---- JSON ----

std::string_view Trim(std::string_view token) {
  while (!token.empty() && (token.back() == ' ' || token.back() == '\n' || token.back() == '\t' ||
                            token.back() == '\r')) {
    token.remove_suffix(1);
  }
  return token;
}

bool IsPlain(std::string_view text) {
  return text.empty() || std::memchr(text.data(), '\\', text.size()) == nullptr;
}

// A string's text, unescaped if that can be.
struct Text {
  std::string_view text;
  bool is_broken = false;  // has an escape that stands for nothing: as it is written
};

// False: no JSON.
bool NameOf(ondemand::field& field, std::string_view* name) {
  const char* begin = field.key().raw();
  const char* behind = field.value().raw_json_token().data();
  const auto* end =
      static_cast<const char*>(std::memchr(begin, '"', static_cast<size_t>(behind - begin)));
  if (end == nullptr) return false;
  *name = {begin, static_cast<size_t>(end - begin)};
  return IsPlain(*name) || !field.unescaped_key().get(*name);
}

// REQUIRES: the value is a string.
bool TextOf(ondemand::value& value, Text* text) {
  const std::string_view token = Trim(value.raw_json_token());
  if (token.size() < 2 || token.back() != '"') return false;
  text->text = token.substr(1, token.size() - 2);
  if (IsPlain(text->text)) return true;
  std::string_view unescaped;
  text->is_broken = value.get_string().get(unescaped) != simdjson::SUCCESS;
  if (!text->is_broken) text->text = unescaped;
  return true;
}

class ContentHash {
 public:
  explicit ContentHash(std::string_view left_out) : left_out_(left_out) {}

  // Each adds to `hash`. False: no JSON, or too deep.
  bool Object(ondemand::object& object, Hash* hash) {
    if (++depth_ > kMaxDepth) return false;
    // A sum, since the order of an object's keys means nothing. Members of one name do not cancel
    // each other out.
    uint64_t sum_a = 0, sum_b = 0, members = 0;
    for (auto each : object) {
      ondemand::field field;
      std::string_view name;
      if (std::move(each).get(field) || !NameOf(field, &name)) return false;
      if (depth_ == 1 && !left_out_.empty() && name == left_out_) continue;
      Hash member;
      member.Add(name);
      if (!Value(field.value(), &member)) return false;
      sum_a += Spread(member.a);
      sum_b += Spread(member.b);
      ++members;
    }
    --depth_;
    Begin(kObject, hash);
    hash->Add(sum_a, sum_b);
    hash->Add(members, kEnd);
    return true;
  }

  bool Array(ondemand::array& array, Hash* hash) {
    if (++depth_ > kMaxDepth) return false;
    Begin(kArray, hash);
    uint64_t elements = 0;
    for (auto each : array) {
      ondemand::value element;
      if (std::move(each).get(element) || !Value(element, hash)) return false;
      ++elements;
    }
    --depth_;
    hash->Add(elements, kEnd);
    return true;
  }

 private:
  bool Value(ondemand::value& value, Hash* hash) {
    ondemand::json_type type;
    if (value.type().get(type)) return false;
    switch (type) {
      case ondemand::json_type::object: {
        ondemand::object object;
        return !value.get_object().get(object) && Object(object, hash);
      }
      case ondemand::json_type::array: {
        ondemand::array array;
        return !value.get_array().get(array) && Array(array, hash);
      }
      case ondemand::json_type::string: {
        Text text;
        if (!TextOf(value, &text)) return false;
        Begin(text.is_broken ? kBrokenString : kString, hash);
        hash->Add(text.text);
        return true;
      }
      case ondemand::json_type::number:
      case ondemand::json_type::boolean:
      case ondemand::json_type::null:
        Begin(kScalar, hash);
        hash->Add(Trim(value.raw_json_token()));
        return true;
    }
    return false;
  }

  const std::string_view left_out_;
  int depth_ = 0;
};

}  // namespace

// Reads one text, several times if need be. What is found says kBroken when the text is no JSON; it
// may not be read again then.
class EventIdentifier::Parser {
 public:
  enum class Found { kYes, kNo, kBroken };

  bool Begin(std::string_view json) {
    return !parser_.iterate(json.data(), json.size(), json.size() + kJsonPadding).get(document_);
  }

  // The strings of all `fields` that have a name; each lives until the next call.
  Found Strings(std::span<const Field> fields, std::span<std::string_view> strings) {
    size_t left = 0;
    for (const Field& each : fields) left += each.name.empty() ? 0 : 1;
    return ForEachMember([&](std::string_view name, ondemand::value& value) {
      for (size_t i = 0; i < fields.size(); ++i) {
        if (fields[i].name != name || name.empty() || !strings[i].empty()) continue;
        const Found found = StringAt(value, fields[i].inner, &strings[i]);
        if (found == Found::kYes) return --left > 0 ? Found::kNo : Found::kYes;
        if (found == Found::kBroken) return found;
        break;
      }
      return Found::kNo;
    });
  }

  // Whether the member `name` is `true`.
  Found IsTrue(std::string_view wanted) {
    bool is_true = false;
    const Found found = ForEachMember([&](std::string_view name, ondemand::value& value) {
      if (name != wanted) return Found::kNo;
      is_true = Trim(value.raw_json_token()) == "true";
      return Found::kYes;
    });
    return found == Found::kYes && !is_true ? Found::kNo : found;
  }

  // False: no JSON, or too deep.
  bool Content(std::string_view left_out, Hash* hash) {
    document_.rewind();
    ContentHash content(left_out);
    ondemand::json_type type;
    if (document_.type().get(type)) return false;
    if (type == ondemand::json_type::object) {
      ondemand::object object;
      return !document_.get_object().get(object) && content.Object(object, hash) && IsAtEnd();
    }
    if (type == ondemand::json_type::array) {
      ondemand::array array;
      return !document_.get_array().get(array) && content.Array(array, hash) && IsAtEnd();
    }
    return false;
  }

 private:
  template <class Visit>
  Found ForEachMember(Visit visit) {
    document_.rewind();
    ondemand::json_type type;
    if (document_.type().get(type)) return Found::kBroken;
    if (type != ondemand::json_type::object) return Found::kNo;
    ondemand::object object;
    if (document_.get_object().get(object)) return Found::kBroken;
    return ForEachMember(object, visit);
  }

  // Until `visit` says anything but kNo.
  template <class Visit>
  static Found ForEachMember(ondemand::object& object, Visit visit) {
    for (auto each : object) {
      ondemand::field field;
      std::string_view name;
      if (std::move(each).get(field) || !NameOf(field, &name)) return Found::kBroken;
      const Found found = visit(name, field.value());
      if (found != Found::kNo) return found;
    }
    return Found::kNo;
  }

  static Found StringAt(ondemand::value& value, std::string_view inner, std::string_view* string) {
    ondemand::json_type type;
    if (value.type().get(type)) return Found::kBroken;
    if (!inner.empty()) {
      if (type != ondemand::json_type::object) return Found::kNo;
      ondemand::object object;
      if (value.get_object().get(object)) return Found::kBroken;
      return ForEachMember(object, [&](std::string_view name, ondemand::value& member) {
        return name == inner ? StringAt(member, {}, string) : Found::kNo;
      });
    }
    Text text;
    if (type != ondemand::json_type::string) return Found::kNo;
    if (!TextOf(value, &text)) return Found::kBroken;
    *string = text.text;
    return text.is_broken || text.text.empty() ? Found::kNo : Found::kYes;
  }

  bool IsAtEnd() { return document_.current_location().error() == simdjson::OUT_OF_BOUNDS; }

  ondemand::parser parser_;
  ondemand::document document_;
};

EventIdentifier::EventIdentifier() : parser_(std::make_unique<Parser>()) {}
EventIdentifier::~EventIdentifier() = default;

Identity EventIdentifier::Identify(std::string_view type, std::string_view data, uint64_t guild_id,
                                   uint64_t own_user) {
  const Rule& rule = RuleOf(type);
  if (rule.key == KeyOf::kNothing) return {};
  Hash hash;
  hash.Add(type);
  hash.Add(guild_id, 0);

  using Found = Parser::Found;
  Found found = parser_->Begin(data) ? Found::kNo : Found::kBroken;
  std::array<std::string_view, 2> strings;
  if (found == Found::kNo && rule.key == KeyOf::kFields) {
    found = parser_->Strings(rule.fields, strings);
    if (found == Found::kYes) {
      Begin(kOwnKey, &hash);
      for (const std::string_view each : strings) hash.Add(each);
      return {.matching = rule.matching, .producer = rule.producer, .key = hash.key()};
    }
  }
  if (found == Found::kNo && rule.key == KeyOf::kAvailability && guild_id != 0) {
    found = parser_->IsTrue("unavailable");
    if (found != Found::kBroken) {
      hash.Add(found == Found::kYes ? 1 : 2, kOwnKey);
      return {.matching = rule.matching, .producer = rule.producer, .key = hash.key()};
    }
  }
  if (found == Found::kNo && !rule.user.empty() && own_user != 0) {
    const Field user{rule.user};
    found = parser_->Strings({&user, 1}, strings);
    if (found == Found::kYes && strings[0] == std::to_string(own_user)) return {};
    if (found == Found::kYes) found = Found::kNo;
  }

  Hash content = hash;
  if (found == Found::kBroken || !parser_->Content(rule.left_out, &content)) {
    content = hash;
    Begin(kBytes, &content);
    content.Add(data);
  }
  return {.matching = Matching::kByContent, .producer = rule.producer, .key = content.key()};
}

}  // namespace shardd::rescale
