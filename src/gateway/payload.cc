#include "gateway/payload.h"

#include <simdjson.h>

#include <algorithm>
#include <limits>

#include "gateway/envelope.h"

namespace shardd::gateway {
namespace {

namespace dom = simdjson::dom;

bool ParseObject(dom::parser& parser, std::string_view data, dom::object* object) {
  dom::element element;
  return !parser.parse(data.data(), data.size(), false).get(element) &&
         !element.get_object().get(*object);
}

std::string String(const dom::object& object, std::string_view key) {
  std::string_view text;
  if (object[key].get_string().get(text)) return {};
  return std::string(text);
}

// The `id` of an object, which third-party servers also write as a number.
uint64_t Id(const dom::object& object) {
  std::string_view text;
  if (!object["id"].get_string().get(text)) return ParseSnowflake(text);
  uint64_t number = 0;
  if (object["id"].get_uint64().get(number)) return 0;
  return number;
}

uint32_t Number(const dom::object& object, std::string_view key) {
  double number = 0;
  if (object[key].get_double().get(number) || !(number > 0)) return 0;
  constexpr double kMost = std::numeric_limits<uint32_t>::max();
  return static_cast<uint32_t>(std::min(number, kMost));
}

uint64_t IdOf(const dom::object& object, std::string_view key) {
  dom::object inner;
  if (object[key].get_object().get(inner)) return 0;
  return Id(inner);
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
  constexpr double kHour = 3'600'000;
  if (!(interval >= 1) || interval > kHour) return std::nullopt;
  return std::chrono::milliseconds(static_cast<int64_t>(interval));
}

std::optional<GatewayBot> ParseGatewayBot(std::string_view body) {
  dom::parser parser;
  dom::object object, limit;
  if (!ParseObject(parser, body, &object)) return std::nullopt;
  if (object["session_start_limit"].get_object().get(limit)) return std::nullopt;
  uint64_t remaining = 0;
  if (limit["remaining"].get_uint64().get(remaining)) return std::nullopt;
  GatewayBot bot;
  bot.url = String(object, "url");
  bot.recommended_shards = std::max<uint32_t>(Number(object, "shards"), 1);
  bot.session_starts_total = Number(limit, "total");
  bot.session_starts_remaining = Number(limit, "remaining");
  bot.session_starts_reset_after = std::chrono::milliseconds(Number(limit, "reset_after"));
  bot.max_concurrency = std::max<uint32_t>(Number(limit, "max_concurrency"), 1);
  return bot;
}

bool IsUnavailable(std::string_view data) {
  dom::parser parser;
  dom::object object;
  bool unavailable = false;
  return ParseObject(parser, data, &object) && !object["unavailable"].get_bool().get(unavailable) &&
         unavailable;
}

}  // namespace shardd::gateway
