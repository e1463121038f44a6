#pragma once

#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <chrono>
#include <memory>

#include "gateway/asio.h"
#include "gateway/gateway_url.h"

namespace shardd::gateway {

// TLS as a client that trusts the system's roots, or those that SSL_CERT_FILE and SSL_CERT_DIR
// name.
std::shared_ptr<asio::ssl::context> MakeTlsContext();

// Connects to the first address of the host that answers; each gets `timeout`. Whoever sets
// `given_up`, cancels the resolver and closes the socket ends it, at any moment.
Awaitable<error_code> ConnectTcp(tcp::resolver& resolver, tcp::socket& socket, const Url& url,
                                 std::chrono::milliseconds timeout, const bool& given_up);

// The TLS handshake on a connected stream: the certificate must be valid for `host`, a name or an
// address.
Awaitable<error_code> HandshakeTls(asio::ssl::stream<tcp::socket>& stream, const std::string& host,
                                   std::chrono::milliseconds timeout);

// What servers are told about us; Discord asks for this form:
// https://discord.com/developers/docs/reference#user-agent.
inline constexpr char kUserAgent[] = "DiscordBot (https://github.com/shardd/shardd, 0.1.0)";

}  // namespace shardd::gateway
