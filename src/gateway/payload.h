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

// HELLO's interval; nothing unless it is from 1 ms to an hour.
std::optional<std::chrono::milliseconds> ParseHello(std::string_view data);

// GUILD_DELETE with `unavailable`: an outage; the bot is still in the guild.
bool IsUnavailable(std::string_view data);

// The body of GET /gateway/bot's answer, without `read_at`; nothing if it is not what Discord
// documents. Servers that say 0 shards or 0 concurrency mean 1.
std::optional<GatewayBot> ParseGatewayBot(std::string_view body);

}  // namespace shardd::gateway
