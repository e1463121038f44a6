#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "gateway/compression.h"

namespace shardd::gateway {

// An address as Discord gives it, in its parts. What READY's resume_gateway_url says comes from
// outside, so whatever is not plainly an address is refused.
struct Url {
  bool tls = false;
  std::string host;  // a name, an IPv4 address, or an IPv6 address without its brackets
  uint16_t port = 0;
  std::string target;  // "/" or more

  // "gateway.discord.gg", "127.0.0.1:8080", "[::1]:8080": what a Host header says.
  std::string authority() const;
};

// Schemes: ws, wss, http, https. Nothing if there is another, a user name, an empty or odd host, or
// a port that is no port.
std::optional<Url> ParseUrl(std::string_view text);

// Whether a session token may be sent to `resume`: a gateway address, and not in clear text if
// `main` is encrypted.
bool IsAcceptableResumeUrl(std::string_view resume, std::string_view main);

// `base`, which may or may not end with '/', with the query of every gateway connection:
// https://discord.com/developers/docs/events/gateway#connecting-gateway-url-query-string-params. A
// resume URL comes without it, and without it means API version 6 (twilight#1901).
std::string ConnectionUrl(std::string_view base, Compression compression);

}  // namespace shardd::gateway
