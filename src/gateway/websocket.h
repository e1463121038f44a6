#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <chrono>
#include <memory>

#include "gateway/transport.h"

namespace shardd::gateway {

// Makes WebSocket connections on `io`: over TLS for wss, over plain TCP for ws. Control frames are
// dealt with inside; pings are answered one at a time, and nothing more is read until an answer is
// out. What breaks RFC 6455 fails the Read, a text message that is not UTF-8 too. Of a message over
// `max_message_bytes` no more than its beginning is read.
TransportFactory MakeWebSocketFactory(boost::asio::io_context& io,
                                      std::shared_ptr<boost::asio::ssl::context> tls,
                                      std::chrono::milliseconds connect_timeout,
                                      size_t max_message_bytes);

}  // namespace shardd::gateway
