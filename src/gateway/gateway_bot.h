#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "common/clock.h"

namespace shardd::gateway {

// The answer of GET /gateway/bot:
// https://discord.com/developers/docs/events/gateway#get-gateway-bot.
struct GatewayBot {
  std::string url;                  // "wss://gateway.discord.gg"
  uint32_t recommended_shards = 1;  // never 0: servers that answer 0 mean 1
  uint32_t session_starts_total = 0;
  uint32_t session_starts_remaining = 0;
  std::chrono::milliseconds session_starts_reset_after{0};
  uint32_t max_concurrency = 1;  // never 0
  SteadyTime asked_at{};         // when the request was sent
  SteadyTime read_at{};          // when the answer had come
};

struct RestOptions {
  std::string
      api_url;  // "https://discord.com/api/v10": scheme http or https, no trailing slash needed
  std::string token;                          // without the "Bot " prefix
  std::chrono::milliseconds timeout{10'000};  // for all of connecting, asking and reading
};

// Asks Discord once; blocks up to `timeout`, or until `stop` is requested (CANCELLED).
//   UNAUTHENTICATED      401: the token is not valid
//   RESOURCE_EXHAUSTED   429; RetryAfter() says for how long
//   UNAVAILABLE          no connection, no answer in time, or 5xx: asking again may help
//   FAILED_PRECONDITION  any other answer, or one that is not what Discord documents
absl::StatusOr<GatewayBot> FetchGatewayBot(const RestOptions& options, std::stop_token stop);

// How long Discord must not be asked again, by its 429; none for every other failure. Hours are
// possible (discord-api-docs#8570).
std::optional<std::chrono::milliseconds> RetryAfter(const absl::Status& status);

}  // namespace shardd::gateway
