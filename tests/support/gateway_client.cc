#include "support/gateway_client.h"

#include <zlib.h>
#include <zstd.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/beast/websocket/ssl.hpp>
#include <stdexcept>
#include <variant>

namespace shardd::test {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = beast::websocket;
using asio::ip::tcp;
using Error = beast::error_code;
using PlainSocket = websocket::stream<beast::tcp_stream>;
using TlsSocket = websocket::stream<beast::ssl_stream<beast::tcp_stream>>;

constexpr std::chrono::seconds kTimeout{5};

tcp::endpoint Loopback(uint16_t port) { return {asio::ip::address_v4::loopback(), port}; }

}  // namespace

// The WebSocket, plain or TLS, as blocking calls that time out.
class GatewayClient::Socket {
 public:
  Socket(uint16_t port, const Options& options) {
    if (options.ca_path.empty()) {
      stream_.emplace<PlainSocket>(io_);
    } else {
      tls_.load_verify_file(options.ca_path);
      tls_.set_verify_mode(asio::ssl::verify_peer);
      stream_.emplace<TlsSocket>(io_, tls_);
    }
    Visit([&](auto& stream) { Connect(stream, port, options); });
  }

  // 0: nothing came in time.
  size_t Read(std::string& message, bool& binary, std::chrono::milliseconds timeout) {
    // An earlier read that ran out of time goes on.
    if (!reading_) {
      reading_ = true;
      Visit([&](auto& stream) {
        stream.async_read(buffer_, [this](Error error, size_t) {
          reading_ = false;
          if (error) End(error);
        });
      });
    }
    RunWhile(reading_, timeout);
    if (reading_ || !open_) return 0;
    message = beast::buffers_to_string(buffer_.data());
    buffer_.consume(buffer_.size());
    Visit([&](auto& stream) { binary = stream.got_binary(); });
    return message.size();
  }

  void Write(std::string_view text) {
    bool writing = true;
    Visit([&](auto& stream) {
      stream.text(true);
      stream.async_write(asio::buffer(text), [&](Error, size_t) { writing = false; });
    });
    RunWhile(writing, kTimeout);
  }

  void Close(uint16_t code) {
    bool closing = true;
    websocket::close_reason reason;
    reason.code = code == 0 ? uint16_t{websocket::close_code::none} : code;
    Visit([&](auto& stream) { stream.async_close(reason, [&](Error) { closing = false; }); });
    RunWhile(closing, kTimeout);
    open_ = false;
  }

  void Drop() {
    Visit([](auto& stream) { beast::get_lowest_layer(stream).close(); });
    open_ = false;
  }

  bool open() const { return open_; }
  uint16_t close_code() const { return close_code_; }

 private:
  template <class Action>
  void Visit(Action action) {
    if (auto* plain = std::get_if<PlainSocket>(&stream_)) action(*plain);
    if (auto* tls = std::get_if<TlsSocket>(&stream_)) action(*tls);
  }

  template <class Stream>
  void Connect(Stream& stream, uint16_t port, const Options& options) {
    Error error;
    beast::get_lowest_layer(stream).connect(Loopback(port), error);
    if constexpr (std::is_same_v<Stream, TlsSocket>) {
      stream.next_layer().set_verify_callback(asio::ssl::host_name_verification("127.0.0.1"));
      if (!error) stream.next_layer().handshake(asio::ssl::stream_base::client, error);
    }
    stream.set_option(websocket::stream_base::decorator([&](websocket::request_type& request) {
      if (!options.user_agent.empty()) {
        request.set(beast::http::field::user_agent, options.user_agent);
      }
    }));
    // More than any message, and no more than can be allocated.
    stream.read_message_max(size_t{1} << 30);
    std::string target = options.query;
    if (!options.compress.empty()) target += "&compress=" + options.compress;
    if (!error) stream.handshake("127.0.0.1:" + std::to_string(port), target, error);
    open_ = !error;
    if (error) close_code_ = 1006;
  }

  void End(Error error) {
    open_ = false;
    close_code_ = 1006;
    if (error != websocket::error::closed) return;
    Visit([&](auto& stream) { close_code_ = stream.reason().code; });
    if (close_code_ == websocket::close_code::none) close_code_ = 1005;
  }

  void RunWhile(const bool& pending, std::chrono::milliseconds timeout) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    while (pending && std::chrono::steady_clock::now() < deadline) {
      io_.restart();
      if (io_.run_one_until(deadline) == 0) break;
    }
  }

  asio::io_context io_;
  asio::ssl::context tls_{asio::ssl::context::tls_client};
  std::variant<std::monostate, PlainSocket, TlsSocket> stream_;
  beast::flat_buffer buffer_;
  bool reading_ = false;
  bool open_ = false;
  uint16_t close_code_ = 0;
};

class GatewayClient::Inflater {
 public:
  explicit Inflater(std::string_view compress) : zstd_(compress == "zstd-stream") {
    if (inflateInit2(&zlib_stream_, 15) != Z_OK) throw std::bad_alloc();
    zstd_stream_ = ZSTD_createDCtx();
  }
  ~Inflater() {
    inflateEnd(&zlib_stream_);
    ZSTD_freeDCtx(zstd_stream_);
  }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  // Appends what the bytes inflate to. Throws std::runtime_error if they are no part of the stream.
  void Inflate(std::string_view bytes, std::string& out) {
    char room[32 * 1024];
    if (zstd_) {
      ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
      size_t produced = 0;
      do {
        ZSTD_outBuffer to{room, sizeof room, 0};
        if (ZSTD_isError(ZSTD_decompressStream(zstd_stream_, &to, &in)) != 0) {
          throw std::runtime_error("not zstd");
        }
        produced = to.pos;
        out.append(room, produced);
      } while (in.pos < in.size || produced == sizeof room);
      return;
    }
    zlib_stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
    zlib_stream_.avail_in = static_cast<uInt>(bytes.size());
    do {
      zlib_stream_.next_out = reinterpret_cast<Bytef*>(room);
      zlib_stream_.avail_out = sizeof room;
      const int result = inflate(&zlib_stream_, Z_SYNC_FLUSH);
      if (result != Z_OK && result != Z_BUF_ERROR && result != Z_STREAM_END) {
        throw std::runtime_error("not zlib");
      }
      out.append(room, sizeof room - zlib_stream_.avail_out);
      if (result == Z_STREAM_END) inflateReset(&zlib_stream_);
    } while (zlib_stream_.avail_in > 0 || zlib_stream_.avail_out == 0);
  }

 private:
  const bool zstd_;
  z_stream zlib_stream_{};
  ZSTD_DCtx* zstd_stream_ = nullptr;
};

GatewayClient::GatewayClient(uint16_t port, Options options)
    : socket_(std::make_unique<Socket>(port, options)) {
  if (!options.compress.empty()) inflater_ = std::make_unique<Inflater>(options.compress);
}

GatewayClient::~GatewayClient() = default;

bool GatewayClient::connected() const { return socket_->open(); }

std::optional<Payload> GatewayClient::Read(std::chrono::milliseconds timeout) {
  Payload payload;
  while (true) {
    std::string message;
    if (socket_->Read(message, binary_, timeout) == 0) return std::nullopt;
    ++messages_;
    if (inflater_ != nullptr && binary_) {
      inflater_->Inflate(message, payload.text);
    } else {
      payload.text += message;
    }
    Error error;
    payload.json = boost::json::parse(payload.text, error);
    // A payload may be cut over several messages; one that is no JSON at all ends in the timeout.
    if (!error) break;
  }
  Note(payload);
  const auto& object = payload.json.as_object();
  payload.op = object.at("op").to_number<int64_t>();
  if (const auto* s = object.if_contains("s"); s != nullptr && !s->is_null()) {
    payload.sequence = s->to_number<uint64_t>();
  }
  if (const auto* t = object.if_contains("t"); t != nullptr && t->is_string()) {
    payload.type = std::string(t->get_string());
  }
  // In Discord's order `d` is the last key.
  if (const size_t at = payload.text.find("\"d\":"); at != std::string::npos) {
    payload.data = payload.text.substr(at + 4, payload.text.size() - at - 5);
  }
  if (payload.op == 0) {
    sequence_ = payload.sequence.value_or(sequence_);
    dispatches_.push_back(payload);
  }
  return payload;
}

void GatewayClient::Note(const Payload& payload) {
  const auto* type = payload.json.as_object().if_contains("t");
  if (type == nullptr || *type != "READY") return;
  const auto& ready = payload.d().as_object();
  session_id_ = std::string(ready.at("session_id").as_string());
  ready_guilds_.clear();
  for (const auto& guild : ready.at("guilds").as_array()) {
    ready_guilds_.push_back(std::stoull(std::string(guild.at("id").as_string())));
  }
}

std::optional<Payload> GatewayClient::ReadOp(int64_t op) {
  while (true) {
    auto payload = Read();
    if (!payload.has_value() || payload->op == op) return payload;
  }
}

std::optional<Payload> GatewayClient::ReadType(std::string_view type) {
  while (true) {
    auto payload = Read();
    if (!payload.has_value() || payload->type == type) return payload;
  }
}

uint16_t GatewayClient::ReadClose(std::chrono::milliseconds timeout) {
  while (socket_->open() && Read(timeout).has_value()) {
  }
  return socket_->open() ? 0 : socket_->close_code();
}

void GatewayClient::Send(std::string_view text) { socket_->Write(text); }

void GatewayClient::Heartbeat(std::optional<uint64_t> sequence) {
  Send(R"({"op":1,"d":)" + (sequence.has_value() ? std::to_string(*sequence) : "null") + "}");
}

void GatewayClient::Identify(ShardId shard, uint64_t intents, std::string_view token) {
  Send(R"({"op":2,"d":{"token":")" + std::string(token) +
       R"(","properties":{"os":"linux","browser":"test","device":"test"},"shard":[)" +
       std::to_string(shard.id) + "," + std::to_string(shard.count) + R"(],"intents":)" +
       std::to_string(intents) + "}}");
}

void GatewayClient::Resume(std::string_view session_id, uint64_t sequence, std::string_view token) {
  Send(R"({"op":6,"d":{"token":")" + std::string(token) + R"(","session_id":")" +
       std::string(session_id) + R"(","seq":)" + std::to_string(sequence) + "}}");
}

std::optional<Payload> GatewayClient::Start(ShardId shard, uint64_t intents) {
  if (!ReadOp(10).has_value()) return std::nullopt;
  Identify(shard, intents);
  return ReadType("READY");
}

void GatewayClient::Close(uint16_t code) { socket_->Close(code); }
void GatewayClient::Drop() { socket_->Drop(); }

HttpAnswer Fetch(uint16_t port, std::string_view method, std::string_view target,
                 std::string_view authorization, std::string_view body) {
  namespace http = beast::http;
  asio::io_context io;
  beast::tcp_stream stream(io);
  Error error;
  stream.connect(Loopback(port), error);
  http::request<http::string_body> request;
  request.method_string({method.data(), method.size()});
  request.target({target.data(), target.size()});
  request.set(http::field::host, "127.0.0.1");
  if (!authorization.empty()) {
    request.set(http::field::authorization,
                beast::string_view(authorization.data(), authorization.size()));
  }
  request.body() = std::string(body);
  request.prepare_payload();
  if (!error) http::write(stream, request, error);
  beast::flat_buffer buffer;
  http::response<http::string_body> response;
  if (!error) http::read(stream, buffer, response, error);
  if (error) return {};
  return {response.result_int(), response.body(), std::string(response["Retry-After"])};
}

}  // namespace shardd::test
