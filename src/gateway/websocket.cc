#include "gateway/websocket.h"

#include <algorithm>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/core/bind_handler.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/beast/websocket/ssl.hpp>
#include <type_traits>
#include <utility>

#include "gateway/asio.h"
#include "gateway/tls_connect.h"

namespace shardd::gateway {
namespace {

namespace beast = boost::beast;
namespace websocket = beast::websocket;

// What a connection keeps for reading between messages; more only while a larger one needs it.
constexpr size_t kKeptReadBuffer = 64u << 10;
constexpr std::chrono::seconds kClosingTimeout{2};

// Beast would wait, without a limit, for the server to end the TCP connection after a close frame
// or a broken one. The socket is closed behind the failed Read anyway.
class TcpStream : public tcp::socket {
 public:
  using tcp::socket::basic_stream_socket;
};
class TlsStream : public asio::ssl::stream<tcp::socket> {
 public:
  using asio::ssl::stream<tcp::socket>::stream;
};

// Found by Beast through the streams' namespace.
template <class Stream, class Handler>
void FinishTeardown(Stream& stream, Handler&& handler) {
  asio::post(stream.get_executor(),
             beast::bind_front_handler(std::forward<Handler>(handler), error_code()));
}
template <class Handler>
void async_teardown(beast::role_type, TcpStream& stream, Handler&& handler) {
  FinishTeardown(stream, std::forward<Handler>(handler));
}
template <class Handler>
void async_teardown(beast::role_type, TlsStream& stream, Handler&& handler) {
  FinishTeardown(stream, std::forward<Handler>(handler));
}

// What can come at once of a large message. Memory for a message grows as its bytes come, whatever
// its header claims.
constexpr size_t kReadStep = 1u << 20;

constexpr size_t kAbsurdFactor = 64;

template <class Stream>
class WebSocket final : public Transport {
 public:
  static constexpr bool kTls = std::is_same_v<Stream, TlsStream>;

  template <class... Args>
  WebSocket(asio::io_context& io, std::chrono::milliseconds connect_timeout,
            size_t max_message_bytes, Args&&... args)
      : connect_timeout_(connect_timeout),
        max_message_bytes_(max_message_bytes),
        resolver_(io),
        stream_(io, std::forward<Args>(args)...) {
    stream_.control_callback([this](websocket::frame_type, beast::string_view) { ++bytes_read_; });
  }

  Awaitable<error_code> Connect(std::string url_text) override {
    const std::optional<Url> url = ParseUrl(url_text);
    if (!url) co_return Fail(asio::error::invalid_argument, "not an address");

    error_code ec = co_await ConnectTcp(resolver_, socket(), *url, connect_timeout_, aborted_);
    if (ec) co_return Fail(ec, ec.message());
    if constexpr (kTls) {
      ec = co_await HandshakeTls(stream_.next_layer(), url->host, connect_timeout_);
      if (ec) co_return Fail(ec, "TLS: " + ec.message());
    }

    stream_.set_option(websocket::stream_base::decorator([](websocket::request_type& request) {
      request.set(beast::http::field::user_agent, kUserAgent);
    }));
    // Read has a bound of its own, since Beast's tells nothing of the message. What claims to be
    // far beyond it is no message, and need not be waited for.
    stream_.read_message_max(max_message_bytes_ * kAbsurdFactor);
    stream_.auto_fragment(false);
    stream_.text(true);
    const std::string authority = url->authority();
    const Watchdog watchdog(socket(), connect_timeout_);
    websocket::response_type response;
    auto [handshake_error] =
        co_await stream_.async_handshake(response, authority, url->target, use_tuple);
    ec = watchdog.Explain(handshake_error);
    if (ec == websocket::error::upgrade_declined) {
      co_return Fail(ec, "HTTP " + std::to_string(response.result_int()));
    }
    if (ec) co_return Fail(ec, "WebSocket handshake: " + ec.message());
    // From here on it bounds the closing handshake alone.
    websocket::stream_base::timeout timeouts = {};
    timeouts.handshake_timeout = kClosingTimeout;
    timeouts.idle_timeout = websocket::stream_base::none();
    stream_.set_option(timeouts);
    co_return error_code();
  }

  Awaitable<error_code> Read(Message* message) override {
    if (aborted_) co_return Fail(asio::error::operation_aborted, "aborted");
    bytes_read_ += buffer_.size();
    buffer_.consume(buffer_.size());
    if (buffer_.capacity() > kKeptReadBuffer) buffer_.shrink_to_fit();
    bool too_large = false;
    do {
      const size_t step = too_large ? kBeginningBytes - buffer_.size() : kReadStep;
      auto [ec, bytes] = co_await stream_.async_read_some(buffer_, step, Until(reading_));
      if (ec) co_return Fail(ec, ec.message());
      if (stream_.is_message_done()) {
        too_large = buffer_.size() > max_message_bytes_;
        break;
      }
      // What the present frame's header claims is still to come; 1 where that is not known.
      const size_t claimed = stream_.read_size_hint(1);
      too_large = claimed > max_message_bytes_ || buffer_.size() > max_message_bytes_ - claimed;
    } while (!too_large || buffer_.size() < kBeginningBytes);
    const auto data = buffer_.cdata();
    message->bytes = std::string_view(static_cast<const char*>(data.data()), data.size());
    if (too_large) message->bytes = message->bytes.substr(0, kBeginningBytes);
    message->is_text = stream_.got_text();
    message->is_cut = too_large;
    co_return error_code();
  }

  Awaitable<error_code> Write(std::string_view text) override {
    if (aborted_) co_return Fail(asio::error::operation_aborted, "aborted");
    const auto bytes = asio::buffer(text.data(), text.size());
    auto [ec, written] = co_await stream_.async_write(bytes, Until(writing_));
    if (ec) co_return Fail(ec, ec.message());
    co_return error_code();
  }

  Awaitable<error_code> Close(uint16_t code) override {
    if (aborted_) co_return asio::error::operation_aborted;
    const websocket::close_reason reason(code);
    auto [ec] = co_await stream_.async_close(reason, Until(closing_));
    co_return ec;
  }

  void Abort() override {
    if (std::exchange(aborted_, true)) return;
    // Closing the socket ends what waits for it. Beast's operations may also wait for each other,
    // even for ever: a read that finds a broken message while a close waits for that read.
    for (asio::cancellation_signal* each : {&reading_, &writing_, &closing_}) {
      each->emit(asio::cancellation_type::terminal);
    }
    resolver_.cancel();
    error_code ignored;
    socket().close(ignored);
  }

  uint64_t bytes_read() const override { return bytes_read_ + buffer_.size(); }

  bool closed_by_peer() const override { return closed_by_peer_; }

  std::optional<uint16_t> close_code() const override {
    // Beast's `none` stands for a close frame without a code (RFC 6455, section 7.1.5: 1005).
    const auto code = static_cast<uint16_t>(stream_.reason().code);
    if (!closed_by_peer_ || code == websocket::close_code::none ||
        code == websocket::close_code::no_status) {
      return std::nullopt;
    }
    return code;
  }

  std::string last_error() const override { return last_error_; }

 private:
  tcp::socket& socket() { return beast::get_lowest_layer(stream_); }

  static auto Until(asio::cancellation_signal& cancelled) {
    return asio::bind_cancellation_slot(cancelled.slot(), use_tuple);
  }

  error_code Fail(error_code ec, std::string words) {
    if (ec == websocket::error::closed) closed_by_peer_ = true;
    last_error_ = std::move(words);
    return ec;
  }

  const std::chrono::milliseconds connect_timeout_;
  const size_t max_message_bytes_;
  tcp::resolver resolver_;
  websocket::stream<Stream, /*deflateSupported=*/false> stream_;
  beast::flat_buffer buffer_;  // the message that is being read, or was read last
  uint64_t bytes_read_ = 0;    // before those in buffer_
  asio::cancellation_signal reading_;
  asio::cancellation_signal writing_;
  asio::cancellation_signal closing_;
  bool aborted_ = false;
  bool closed_by_peer_ = false;
  std::string last_error_;
};

}  // namespace

TransportFactory MakeWebSocketFactory(asio::io_context& io, std::shared_ptr<asio::ssl::context> tls,
                                      std::chrono::milliseconds connect_timeout,
                                      size_t max_message_bytes) {
  return [&io, tls = std::move(tls), connect_timeout,
          max_message_bytes](const std::string& url) -> std::unique_ptr<Transport> {
    if (!url.starts_with("wss://")) {
      return std::make_unique<WebSocket<TcpStream>>(io, connect_timeout, max_message_bytes);
    }
    return std::make_unique<WebSocket<TlsStream>>(io, connect_timeout, max_message_bytes, *tls);
  };
}

}  // namespace shardd::gateway
