#include "gateway/gateway_bot.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <charconv>
#include <cmath>
#include <exception>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "gateway/asio.h"
#include "gateway/envelope.h"
#include "gateway/payload.h"
#include "gateway/tls_connect.h"

namespace shardd::gateway {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;

// A hundred times what the answer takes.
constexpr uint64_t kMaxBodyBytes = 64u << 10;

constexpr char kRetryAfterPayload[] = "retry-after-ms";

struct Answer {
  std::string failure;  // in words; empty if an answer came
  http::response<http::string_body> response;
};

template <class Stream>
Awaitable<void> Exchange(Stream& stream, const http::request<http::empty_body>& request,
                         Answer* answer) {
  auto [write_error, written] = co_await http::async_write(stream, request, use_tuple);
  if (write_error) {
    answer->failure = write_error.message();
    co_return;
  }
  beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(kMaxBodyBytes);
  auto [read_error, read] = co_await http::async_read(stream, buffer, parser, use_tuple);
  // A server may end its body by ending the connection, without TLS's farewell.
  const bool cut_short = read_error && !parser.is_done();
  if (cut_short) answer->failure = read_error.message();
  answer->response = parser.release();
}

Awaitable<void> Ask(asio::io_context& io, const RestOptions& options, const Url& url,
                    Answer* answer) {
  http::request<http::empty_body> request(http::verb::get, url.target, 11);
  request.set(http::field::host, url.authority());
  request.set(http::field::user_agent, kUserAgent);
  request.set(http::field::authorization, "Bot " + options.token);
  request.set(http::field::accept, "application/json");
  request.set(http::field::connection, "close");

  tcp::resolver resolver(io);
  const bool never = false;
  if (!url.tls) {
    tcp::socket socket(io);
    const error_code ec = co_await ConnectTcp(resolver, socket, url, options.timeout, never);
    if (ec) {
      answer->failure = ec.message();
      co_return;
    }
    co_await Exchange(socket, request, answer);
    co_return;
  }
  const auto tls = MakeTlsContext();
  asio::ssl::stream<tcp::socket> stream(io, *tls);
  error_code ec = co_await ConnectTcp(resolver, stream.next_layer(), url, options.timeout, never);
  if (!ec) ec = co_await HandshakeTls(stream, url.host, options.timeout);
  if (ec) {
    answer->failure = ec.message();
    co_return;
  }
  co_await Exchange(stream, request, answer);
}

std::optional<double> HeaderSeconds(const http::response<http::string_body>& response,
                                    const char* name) {
  const std::string text(response[name]);
  double seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return seconds;
}

// https://discord.com/developers/docs/topics/rate-limits: the headers, or the body's retry_after;
// the longest counts. Cloudflare's own 429 is HTML, perhaps without any, and bans the whole IP
// address.
std::chrono::milliseconds WaitOf429(const http::response<http::string_body>& response) {
  constexpr double kUnsaid = 60;
  constexpr double kMost = 7 * 24 * 3600;
  std::string body = response.body();
  const size_t size = body.size();
  body.append(kJsonPadding, ' ');
  std::optional<double> longest;
  for (const auto& said :
       {HeaderSeconds(response, "Retry-After"), HeaderSeconds(response, "X-RateLimit-Reset-After"),
        ParseRetryAfter(std::string_view(body).substr(0, size))}) {
    if (said && *said >= 0) longest = std::max(longest.value_or(0), *said);
  }
  const double seconds = std::min(longest.value_or(kUnsaid), kMost);
  return std::chrono::milliseconds(static_cast<int64_t>(std::ceil(seconds * 1000)));
}

absl::StatusOr<GatewayBot> Judge(const http::response<http::string_body>& response) {
  const unsigned status = response.result_int();
  if (status == 401) {
    return absl::UnauthenticatedError("Discord does not accept the token (401): set a valid one");
  }
  if (status == 429) {
    const auto wait = WaitOf429(response);
    auto limited = absl::ResourceExhaustedError(
        "Discord answered /gateway/bot with 429: it must not be asked for " +
        std::to_string(wait.count() / 1000) + " s");
    limited.SetPayload(kRetryAfterPayload, absl::Cord(std::to_string(wait.count())));
    return limited;
  }
  if (status >= 500) {
    return absl::UnavailableError("Discord answered /gateway/bot with " + std::to_string(status));
  }
  if (status != 200) {
    return absl::FailedPreconditionError("/gateway/bot was answered with " +
                                         std::to_string(status) + ": is the API's URL right?");
  }
  std::string body = response.body();
  const size_t size = body.size();
  body.append(kJsonPadding, ' ');
  std::optional<GatewayBot> bot = ParseGatewayBot(std::string_view(body).substr(0, size));
  if (!bot || !ParseUrl(bot->url) || !bot->url.starts_with("ws")) {
    return absl::FailedPreconditionError(
        "/gateway/bot's answer is not what Discord documents: is the API's URL right?");
  }
  return *std::move(bot);
}

std::string WhatOf(std::exception_ptr thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const std::exception& e) {
    return std::string("internal error: ") + e.what();
  }
}

}  // namespace

absl::StatusOr<GatewayBot> FetchGatewayBot(const RestOptions& options, std::stop_token stop) {
  std::string address = options.api_url;
  while (address.ends_with('/')) address.pop_back();
  const std::optional<Url> url = ParseUrl(address + "/gateway/bot");
  if (!url || !address.starts_with("http")) {
    return absl::FailedPreconditionError("not an http or https URL: '" + options.api_url + "'");
  }
  if (stop.stop_requested()) return absl::CancelledError("stopped");

  const SteadyTime asked_at = SteadyClock::now();
  Answer answer;
  bool done = false;
  std::exception_ptr thrown;
  {
    asio::io_context io{1};
    asio::co_spawn(io, Ask(io, options, *url, &answer), [&](std::exception_ptr error) {
      thrown = error;
      done = true;
    });
    const std::stop_callback on_stop(stop, [&io] { io.stop(); });
    io.run_for(options.timeout);
  }
  if (!done && stop.stop_requested()) return absl::CancelledError("stopped");
  if (!done) answer.failure = "no answer within " + std::to_string(options.timeout.count()) + " ms";
  if (thrown != nullptr) answer.failure = WhatOf(thrown);
  if (!answer.failure.empty()) {
    return absl::UnavailableError("no answer from " + url->authority() + ": " + answer.failure);
  }
  auto bot = Judge(answer.response);
  if (!bot.ok()) return bot.status();
  bot->asked_at = asked_at;
  bot->read_at = SteadyClock::now();
  return bot;
}

std::optional<std::chrono::milliseconds> RetryAfter(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryAfterPayload);
  if (!payload) return std::nullopt;
  return std::chrono::milliseconds(std::stoll(std::string(*payload)));
}

}  // namespace shardd::gateway
