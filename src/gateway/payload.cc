#include "gateway/payload.h"

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <limits>

#include "common/shard_id.h"
#include "gateway/envelope.h"
#include "gateway/opcode.h"

namespace shardd::gateway {
namespace {

namespace dom = simdjson::dom;

bool ParseObject(dom::parser& parser, std::string_view data, dom::object* object,
                 bool is_padded = true) {
  dom::element element;
  return !parser.parse(data.data(), data.size(), !is_padded).get(element) &&
         !element.get_object().get(*object);
}

std::string String(const dom::object& object, std::string_view key) {
  std::string_view text;
  if (object[key].get_string().get(text)) return {};
  return std::string(text);
}

// An id of an object, which third-party servers and bots also write as a number.
uint64_t Id(const dom::object& object, std::string_view key = "id") {
  std::string_view text;
  if (!object[key].get_string().get(text)) return ParseSnowflake(text);
  uint64_t number = 0;
  if (object[key].get_uint64().get(number)) return 0;
  return number;
}

uint32_t Number(const dom::object& object, std::string_view key) {
  double number = 0;
  if (object[key].get_double().get(number) || !(number > 0)) return 0;
  constexpr double kMost = std::numeric_limits<uint32_t>::max();
  return static_cast<uint32_t>(std::min(number, kMost));
}

// A number that may be missing, which leaves `number` as it is. False: it is none, or above `most`.
bool Read(const dom::object& object, std::string_view key, uint32_t most, uint32_t* number) {
  const auto field = object[key];
  if (field.error() == simdjson::NO_SUCH_FIELD || field.is_null()) return true;
  double value = 0;
  if (field.get_double().get(value) || !(value >= 0) || value > most) return false;
  *number = static_cast<uint32_t>(value);
  return true;
}

uint64_t IdOf(const dom::object& object, std::string_view key) {
  dom::object inner;
  if (object[key].get_object().get(inner)) return 0;
  return Id(inner);
}

// Absent, or of a kind that `is_right` takes.
template <class IsRight>
bool MayHave(const dom::object& object, std::string_view key, IsRight is_right) {
  dom::element value;
  return object[key].get(value) || is_right(value);
}

bool IsActivity(const dom::element& element) {
  dom::object activity;
  std::string_view name;
  int64_t type = 0;
  const auto is_text = [](const dom::element& value) {
    return value.is_string() || value.is_null();
  };
  return !element.get_object().get(activity) && !activity["name"].get_string().get(name) &&
         !activity["type"].get_int64().get(type) && MayHave(activity, "state", is_text) &&
         MayHave(activity, "url", is_text);
}

}  // namespace

std::optional<Ready> ParseReady(std::string_view data) {
  dom::parser parser;
  dom::object object;
  if (!ParseObject(parser, data, &object)) return std::nullopt;
  Ready ready;
  ready.session_id = String(object, "session_id");
  ready.resume_gateway_url = String(object, "resume_gateway_url");
  ready.user_id = IdOf(object, "user");
  ready.application_id = IdOf(object, "application");
  dom::array guilds;
  if (!object["guilds"].get_array().get(guilds)) {
    ready.guilds.reserve(guilds.size());
    for (const dom::element element : guilds) {
      dom::object guild;
      if (element.get_object().get(guild)) continue;
      if (const uint64_t id = Id(guild); id != 0) ready.guilds.push_back(id);
    }
  }
  return ready;
}

std::optional<std::chrono::milliseconds> ParseHello(std::string_view data) {
  dom::parser parser;
  dom::object object;
  if (!ParseObject(parser, data, &object)) return std::nullopt;
  double interval = 0;
  if (object["heartbeat_interval"].get_double().get(interval)) return std::nullopt;
  constexpr double kLeast = 10;
  constexpr double kHour = 3'600'000;
  if (!(interval >= kLeast) || interval > kHour) return std::nullopt;
  return std::chrono::milliseconds(static_cast<int64_t>(interval));
}

std::optional<GatewayBot> ParseGatewayBot(std::string_view body) {
  dom::parser parser;
  dom::object object, limit;
  if (!ParseObject(parser, body, &object)) return std::nullopt;
  if (object["session_start_limit"].get_object().get(limit)) return std::nullopt;
  uint64_t remaining = 0;
  if (limit["remaining"].get_uint64().get(remaining)) return std::nullopt;
  // Far beyond what any bot has: Discord grants a session start for 200 guilds, and a day lasts
  // one.
  constexpr uint32_t kMostStarts = 10'000'000;
  constexpr uint32_t kMostResetAfter = 7 * 24 * 3'600'000;
  GatewayBot bot;
  bot.url = String(object, "url");
  uint32_t reset_after = 0;
  if (!Read(object, "shards", kMaxShardCount, &bot.recommended_shards) ||
      !Read(limit, "total", kMostStarts, &bot.session_starts_total) ||
      !Read(limit, "remaining", kMostStarts, &bot.session_starts_remaining) ||
      !Read(limit, "reset_after", kMostResetAfter, &reset_after) ||
      !Read(limit, "max_concurrency", kMostStarts, &bot.max_concurrency)) {
    return std::nullopt;
  }
  bot.session_starts_reset_after = std::chrono::milliseconds(reset_after);
  bot.recommended_shards = std::max<uint32_t>(bot.recommended_shards, 1);
  bot.max_concurrency = std::max<uint32_t>(bot.max_concurrency, 1);
  return bot;
}

std::optional<double> ParseRetryAfter(std::string_view body) {
  dom::parser parser;
  dom::object object;
  double seconds = 0;
  if (!ParseObject(parser, body, &object) || object["retry_after"].get_double().get(seconds)) {
    return std::nullopt;
  }
  return seconds;
}

std::optional<RateLimited> ParseRateLimited(std::string_view data) {
  dom::parser parser;
  dom::object object, meta;
  int64_t opcode = 0;
  double seconds = 0;
  if (!ParseObject(parser, data, &object) || object["opcode"].get_int64().get(opcode) ||
      opcode != static_cast<int64_t>(CommandOp::kRequestGuildMembers) ||
      object["retry_after"].get_double().get(seconds) || object["meta"].get_object().get(meta)) {
    return std::nullopt;
  }
  constexpr double kDay = 86'400;
  const uint64_t guild_id = Id(meta, "guild_id");
  if (guild_id == 0 || !(seconds >= 0) || seconds > kDay) return std::nullopt;
  return RateLimited{.guild_id = guild_id,
                     .retry_after = std::chrono::ceil<std::chrono::milliseconds>(
                         std::chrono::duration<double>(seconds))};
}

std::optional<CommandData> ParseCommandData(std::string_view data) {
  dom::parser parser;
  dom::object object;
  if (!ParseObject(parser, data, &object, /*is_padded=*/false)) return std::nullopt;
  CommandData parsed;
  parsed.guild_id = Id(object, "guild_id");
  std::string_view text;
  if (!object["nonce"].get_string().get(text)) parsed.nonce_bytes = text.size();
  dom::element channel;
  parsed.names_channel = !object["channel_id"].get(channel) && !channel.is_null();
  parsed.asks_for_all_members =
      !object["query"].get_string().get(text) && text.empty() && Number(object, "limit") == 0;
  return parsed;
}

bool IsPresence(std::string_view data) {
  constexpr std::array<std::string_view, 5> kStatuses = {"online", "dnd", "idle", "invisible",
                                                         "offline"};
  dom::parser parser;
  dom::object object;
  std::string_view status;
  return ParseObject(parser, data, &object, /*is_padded=*/false) &&
         !object["status"].get_string().get(status) &&
         std::ranges::find(kStatuses, status) != kStatuses.end() &&
         MayHave(object, "since",
                 [](const dom::element& v) { return v.is_null() || v.is_int64(); }) &&
         MayHave(object, "afk", [](const dom::element& v) { return v.is_bool(); }) &&
         MayHave(object, "activities", [](const dom::element& v) {
           dom::array activities;
           return !v.get_array().get(activities) && std::ranges::all_of(activities, IsActivity);
         });
}

bool IsUnavailable(std::string_view data) {
  dom::parser parser;
  dom::object object;
  bool unavailable = false;
  return ParseObject(parser, data, &object) && !object["unavailable"].get_bool().get(unavailable) &&
         unavailable;
}

}  // namespace shardd::gateway
