#include "server/admin_http.h"

#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/version.h"

namespace shardd::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using boost::system::error_code;

// Probes come from a few places; more connections at once are somebody's mistake or malice.
constexpr int kMostConnections = 64;
constexpr std::chrono::seconds kRequestTimeout{5};
constexpr size_t kMostRequestBytes = 8192;

}  // namespace

class AdminHttp::Impl {
 public:
  explicit Impl(std::function<std::string()> why_not_ready)
      : why_not_ready_(std::move(why_not_ready)), acceptor_(io_) {}

  ~Impl() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Listen(const ListenAddress& address) {
    error_code error;
    asio::ip::tcp::resolver resolver(io_);
    const auto endpoints = resolver.resolve(address.host, std::to_string(address.port),
                                            asio::ip::resolver_base::passive, error);
    if (!error) {
      const asio::ip::tcp::endpoint endpoint = *endpoints.begin();
      acceptor_.open(endpoint.protocol(), error);
      if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
      if (!error) acceptor_.bind(endpoint, error);
      if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    }
    if (error) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", address.text, ": ", error.message(),
                       ". Stop what uses it, or choose another --admin-listen (or off)"));
    }
    port_ = acceptor_.local_endpoint().port();
    Accept();
    thread_ = std::thread([this] { io_.run(); });
    return absl::OkStatus();
  }

  uint16_t port() const { return port_; }

 private:
  // One request of one connection. Lives as long as its callbacks.
  struct Exchange : std::enable_shared_from_this<Exchange> {
    Exchange(Impl& owner, asio::ip::tcp::socket socket) : impl(owner), stream(std::move(socket)) {
      ++impl.connections_;
    }
    ~Exchange() { --impl.connections_; }

    void Run() {
      stream.expires_after(kRequestTimeout);
      parser.header_limit(kMostRequestBytes);
      parser.body_limit(kMostRequestBytes);
      http::async_read(stream, buffer, parser,
                       [self = shared_from_this()](error_code error, size_t) {
                         if (!error) self->Answer();
                       });
    }

    void Answer() {
      impl.Fill(parser.get(), response);
      http::async_write(stream, response, [self = shared_from_this()](error_code, size_t) {
        error_code ignored;
        self->stream.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
      });
    }

    Impl& impl;
    beast::tcp_stream stream;
    beast::flat_buffer buffer{kMostRequestBytes};
    http::request_parser<http::string_body> parser;
    http::response<http::string_body> response;
  };

  void Accept() {
    acceptor_.async_accept([this](error_code error, asio::ip::tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (!error && connections_ < kMostConnections) {
        std::make_shared<Exchange>(*this, std::move(socket))->Run();
      }
      Accept();
    });
  }

  void Fill(const http::request<http::string_body>& request,
            http::response<http::string_body>& response) {
    response.version(request.version());
    response.keep_alive(false);
    response.set(http::field::server, std::string("shardd/") + kVersion);
    response.set(http::field::content_type, "text/plain; charset=utf-8");
    if (request.method() != http::verb::get && request.method() != http::verb::head) {
      response.result(http::status::method_not_allowed);
      response.body() = "only GET and HEAD are served here\n";
    } else if (request.target() == "/healthz") {
      response.body() = "ok\n";
    } else if (request.target() == "/readyz") {
      const std::string why_not = why_not_ready_();
      response.result(why_not.empty() ? http::status::ok : http::status::service_unavailable);
      response.body() = why_not.empty() ? "ready\n" : "not ready: " + why_not + "\n";
    } else {
      response.result(http::status::not_found);
      response.body() = "only /healthz and /readyz are served here\n";
    }
    response.prepare_payload();
    if (request.method() == http::verb::head) response.body().clear();
  }

  const std::function<std::string()> why_not_ready_;
  // Before the context: its destructor ends the exchanges that are still open, which count down.
  int connections_ = 0;
  asio::io_context io_{1};
  asio::ip::tcp::acceptor acceptor_;
  uint16_t port_ = 0;
  std::thread thread_;
};

AdminHttp::AdminHttp(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AdminHttp::~AdminHttp() = default;
uint16_t AdminHttp::port() const { return impl_->port(); }

absl::StatusOr<std::unique_ptr<AdminHttp>> AdminHttp::Start(
    const ListenAddress& address, std::function<std::string()> why_not_ready) {
  auto impl = std::make_unique<Impl>(std::move(why_not_ready));
  if (auto status = impl->Listen(address); !status.ok()) return status;
  return std::unique_ptr<AdminHttp>(new AdminHttp(std::move(impl)));
}

}  // namespace shardd::server
