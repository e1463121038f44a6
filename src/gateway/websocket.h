#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <chrono>
#include <memory>

#include "gateway/transport.h"

namespace shardd::gateway {

// Makes WebSocket connections on `io`: over TLS for wss, over plain TCP for ws. Control frames are
// dealt with inside.
TransportFactory MakeWebSocketFactory(boost::asio::io_context& io,
                                      std::shared_ptr<boost::asio::ssl::context> tls,
                                      std::chrono::milliseconds connect_timeout);

}  // namespace shardd::gateway
