#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/gateway_bot.h"

namespace shardd::gateway {

// The few payloads whose inside a shard must know. Each function takes the JSON of `d`.
// REQUIRES: kJsonPadding readable bytes behind it.

// https://discord.com/developers/docs/events/gateway-events#ready, as far as it is used. What a
// third-party server leaves out is empty; without a session id there is nothing to resume.
struct Ready {
  std::string session_id;
  std::string resume_gateway_url;
  uint64_t user_id = 0;
  uint64_t application_id = 0;
  std::vector<uint64_t> guilds;
};
std::optional<Ready> ParseReady(std::string_view data);

// HELLO's interval; nothing unless it is from 10 ms to an hour. Discord's is 41250 ms.
std::optional<std::chrono::milliseconds> ParseHello(std::string_view data);

// GUILD_DELETE with `unavailable`: an outage; the bot is still in the guild.
bool IsUnavailable(std::string_view data);

// https://discord.com/developers/docs/events/gateway-events#rate-limited; nothing unless it is of
// op 8, the only one that is documented. `retry_after` is as Discord says it, if that is from 0 to
// a day.
struct RateLimited {
  uint64_t guild_id = 0;
  std::chrono::milliseconds retry_after{0};
};
std::optional<RateLimited> ParseRateLimited(std::string_view data);

// What matters of a command's `d`; nothing if it is not one JSON object. These two need no padding.
struct CommandData {
  uint64_t guild_id = 0;
  size_t nonce_bytes = 0;
  // Of op 8: an empty `query` without a positive `limit`.
  bool asks_for_all_members = false;
  bool names_channel = false;  // `channel_id` is there, and not null
};
std::optional<CommandData> ParseCommandData(std::string_view data);
// Whether an IDENTIFY may carry it: Discord closes one that it cannot decode, each time anew. What
// is there has the type that is documented, and `status` is there:
// https://discord.com/developers/docs/events/gateway-events#update-presence.
bool IsPresence(std::string_view data);

// The body of GET /gateway/bot's answer, without its times; nothing if it is not what Discord
// documents, be it a negative number or one that no bot has. Servers that say 0 shards or 0
// concurrency mean 1.
std::optional<GatewayBot> ParseGatewayBot(std::string_view body);

// `retry_after` in the body of a 429, in seconds; nothing if there is none, as in Cloudflare's
// HTML.
std::optional<double> ParseRetryAfter(std::string_view body);

}  // namespace shardd::gateway
