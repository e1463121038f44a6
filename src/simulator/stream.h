#pragma once

#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <functional>
#include <memory>

namespace shardd::simulator {

// One accepted connection as bytes, TCP or TLS alike. Loop-bound. Handlers run on the socket's
// executor, never from inside the call that took them; after Reset() or Shutdown() pending ones run
// with an error.
class Stream {
 public:
  using Error = boost::system::error_code;
  using Handler = std::function<void(Error, size_t)>;

  virtual ~Stream() = default;

  virtual void AsyncHandshake(std::function<void(Error)> handler) = 0;
  virtual void AsyncRead(boost::asio::mutable_buffer buffer, Handler handler) = 0;
  virtual void AsyncWrite(boost::asio::const_buffer buffer, Handler handler) = 0;  // all of it
  virtual void Reset() = 0;     // the peer sees a TCP reset
  virtual void Shutdown() = 0;  // the peer sees an end of stream
};

std::unique_ptr<Stream> MakeTcpStream(boost::asio::ip::tcp::socket socket);
// REQUIRES: `context` outlives the stream.
std::unique_ptr<Stream> MakeTlsStream(boost::asio::ip::tcp::socket socket,
                                      boost::asio::ssl::context& context);

}  // namespace shardd::simulator
