#include "simulator/stream.h"

#include <boost/asio/post.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <utility>

namespace shardd::simulator {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

void Prepare(tcp::socket& socket) {
  Stream::Error ignored;
  socket.set_option(tcp::no_delay(true), ignored);
}

void ResetSocket(tcp::socket& socket) {
  Stream::Error ignored;
  socket.set_option(asio::socket_base::linger(true, 0), ignored);
  socket.close(ignored);
}

void ShutdownSocket(tcp::socket& socket) {
  Stream::Error ignored;
  socket.shutdown(tcp::socket::shutdown_send, ignored);
  socket.close(ignored);
}

class TcpStream final : public Stream {
 public:
  explicit TcpStream(tcp::socket socket) : socket_(std::move(socket)) { Prepare(socket_); }

  void AsyncHandshake(std::function<void(Error)> handler) override {
    asio::post(socket_.get_executor(), [handler = std::move(handler)] { handler(Error()); });
  }
  void AsyncRead(asio::mutable_buffer buffer, Handler handler) override {
    socket_.async_read_some(buffer, std::move(handler));
  }
  void AsyncWrite(asio::const_buffer buffer, Handler handler) override {
    asio::async_write(socket_, buffer, std::move(handler));
  }
  void Reset() override { ResetSocket(socket_); }
  void Shutdown() override { ShutdownSocket(socket_); }

 private:
  tcp::socket socket_;
};

class TlsStream final : public Stream {
 public:
  TlsStream(tcp::socket socket, asio::ssl::context& context) : stream_(std::move(socket), context) {
    Prepare(stream_.next_layer());
  }

  void AsyncHandshake(std::function<void(Error)> handler) override {
    stream_.async_handshake(asio::ssl::stream_base::server, std::move(handler));
  }
  void AsyncRead(asio::mutable_buffer buffer, Handler handler) override {
    stream_.async_read_some(buffer, std::move(handler));
  }
  void AsyncWrite(asio::const_buffer buffer, Handler handler) override {
    asio::async_write(stream_, buffer, std::move(handler));
  }
  void Reset() override { ResetSocket(stream_.next_layer()); }
  // Without TLS's close_notify, as many servers do; the WebSocket's close frame has said goodbye.
  void Shutdown() override { ShutdownSocket(stream_.next_layer()); }

 private:
  asio::ssl::stream<tcp::socket> stream_;
};

}  // namespace

std::unique_ptr<Stream> MakeTcpStream(tcp::socket socket) {
  return std::make_unique<TcpStream>(std::move(socket));
}

std::unique_ptr<Stream> MakeTlsStream(tcp::socket socket, asio::ssl::context& context) {
  return std::make_unique<TlsStream>(std::move(socket), context);
}

}  // namespace shardd::simulator
