#include "gateway/tls_connect.h"

#include <boost/asio/ip/address.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>

namespace shardd::gateway {

std::shared_ptr<asio::ssl::context> MakeTlsContext() {
  auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_client);
  context->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_tlsv1 |
                       asio::ssl::context::no_tlsv1_1);
  error_code ignored;  // without roots no certificate is valid, which the handshake then says
  context->set_default_verify_paths(ignored);
  context->set_verify_mode(asio::ssl::verify_peer);
  // An idle connection does not keep its 34 KB of buffers.
  SSL_CTX_set_mode(context->native_handle(), SSL_MODE_RELEASE_BUFFERS);
  return context;
}

Awaitable<error_code> ConnectTcp(tcp::resolver& resolver, tcp::socket& socket, const Url& url,
                                 std::chrono::milliseconds timeout, const bool& given_up) {
  const std::string port = std::to_string(url.port);
  auto [resolve_error, addresses] =
      co_await resolver.async_resolve(url.host, port, tcp::resolver::numeric_service, use_tuple);
  if (resolve_error) co_return resolve_error;
  error_code last = asio::error::host_not_found;
  for (const auto& address : addresses) {
    if (given_up) co_return asio::error::operation_aborted;
    error_code ignored;
    socket.close(ignored);
    socket.open(address.endpoint().protocol(), last);
    if (last) continue;
    const Watchdog watchdog(socket, timeout);
    const tcp::endpoint endpoint = address.endpoint();
    auto [ec] = co_await socket.async_connect(endpoint, use_tuple);
    last = watchdog.Explain(ec);
    // Aborted, but not by the watchdog: nobody wants this connection any more.
    if (last == asio::error::operation_aborted) break;
    if (last) continue;
    // A heartbeat or IDENTIFY is one small segment that should not wait for company.
    socket.set_option(tcp::no_delay(true), ignored);
    break;
  }
  co_return last;
}

Awaitable<error_code> HandshakeTls(asio::ssl::stream<tcp::socket>& stream, const std::string& host,
                                   std::chrono::milliseconds timeout) {
  error_code not_an_address;
  asio::ip::make_address(host, not_an_address);
  if (not_an_address) SSL_set_tlsext_host_name(stream.native_handle(), host.c_str());
  stream.set_verify_callback(asio::ssl::host_name_verification(host));
  const Watchdog watchdog(stream.next_layer(), timeout);
  auto [ec] = co_await stream.async_handshake(asio::ssl::stream_base::client, use_tuple);
  co_return watchdog.Explain(ec);
}

}  // namespace shardd::gateway
