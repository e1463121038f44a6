#include "simulator/http_api.h"

#include <string>

#include "simulator/json_text.h"
#include "simulator/peer.h"

namespace shardd::simulator {
namespace {

http::Response Failure(unsigned status, std::string_view message) {
  http::Response response;
  response.status = status;
  Append(response.body, R"({"message":")", message, R"(","code":0})");
  return response;
}

// As Discord and the Cloudflare before it answer:
// https://discord.com/developers/docs/topics/rate-limits.
http::Response InjectedFailure(unsigned status, std::chrono::milliseconds retry_after) {
  if (status == 401) return Failure(401, "401: Unauthorized");
  http::Response response;
  response.status = status;
  if (status == 429) {
    const std::string seconds = std::to_string(retry_after.count() / 1000.0);
    Append(response.body, R"({"message":"You are being rate limited.","retry_after":)", seconds,
           R"(,"global":false})");
    // Whole seconds, rounded up.
    response.headers = {{"Retry-After", std::to_string((retry_after.count() + 999) / 1000)},
                        {"X-RateLimit-Limit", "1"},
                        {"X-RateLimit-Remaining", "0"},
                        {"X-RateLimit-Reset-After", seconds},
                        {"X-RateLimit-Scope", "user"}};
    return response;
  }
  response.content_type = "text/html";
  Append(response.body, "<html><head><title>", status,
         "</title></head><body>cloudflare</body></html>");
  return response;
}

// "/api/v10/gateway/bot" -> "/gateway/bot"; the version may be missing. Empty: not below /api.
std::string_view Route(std::string_view path) {
  constexpr std::string_view kApi = "/api";
  if (!path.starts_with(kApi)) return {};
  path.remove_prefix(kApi.size());
  for (const std::string_view version : {"/v10", "/v9"}) {
    if (path.starts_with(version)) {
      path.remove_prefix(version.size());
      break;
    }
  }
  if (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  return path;
}

}  // namespace

http::Response HttpApi::Answer(const http::Request& request) {
  if (request.path.starts_with(ControlApi::kPath)) return control_.Answer(request);
  const std::string_view route = Route(request.path);
  if (route != "/gateway" && route != "/gateway/bot") return Failure(404, "404: Not Found");
  if (request.method != "GET") return Failure(405, "405: Method Not Allowed");
  if (route == "/gateway/bot") return GatewayBot(request);
  http::Response response;
  Append(response.body, R"({"url":")", gateway_.url, "\"}");
  return response;
}

http::Response HttpApi::GatewayBot(const http::Request& request) {
  ++gateway_.counters.gateway_bot_requests;
  gateway_.Changed();
  PendingFaults& faults = gateway_.faults;
  if (PendingFaults::Take(faults.gateway_bot_answers)) {
    http::Response answer = InjectedFailure(faults.gateway_bot_status, faults.retry_after);
    if (faults.gateway_bot_body.has_value()) {
      answer.body = *faults.gateway_bot_body;
      answer.content_type = faults.gateway_bot_content_type;
    }
    return answer;
  }
  // REST, unlike IDENTIFY, insists on the prefix.
  const std::string_view authorization = request.Header("authorization");
  if (!authorization.starts_with("Bot ") || !gateway_.AcceptsToken(authorization)) {
    return Failure(401, "401: Unauthorized");
  }
  const SteadyTime now = SteadyClock::now();
  const uint32_t remaining = gateway_.limits().Remaining(now);
  const auto reset_after = gateway_.limits().ResetAfter(now);
  http::Response response;
  Append(response.body, R"({"url":")", gateway_.url, R"(","shards":)",
         gateway_.options.recommended_shards, R"(,"session_start_limit":{"total":)",
         gateway_.options.session_starts_total, R"(,"remaining":)", remaining, R"(,"reset_after":)",
         reset_after.count(), R"(,"max_concurrency":)", gateway_.options.max_concurrency, "}}");
  return response;
}

std::shared_ptr<WebSocketEvents> HttpApi::Accept(Connection& connection,
                                                 const http::Request& request,
                                                 std::optional<http::Response>& refusal) {
  PendingFaults& faults = gateway_.faults;
  if (PendingFaults::Take(faults.refuse_connections)) {
    if (faults.refuse_status != 0) {
      refusal = InjectedFailure(faults.refuse_status, std::chrono::seconds(1));
    }
    gateway_.Changed();
    return nullptr;
  }
  const std::string_view encoding = request.Query("encoding");
  if (!encoding.empty() && encoding != "json") {
    refusal = Failure(400, "only encoding=json is simulated");
    return nullptr;
  }
  Peer::Handshake handshake;
  handshake.version = request.Query("v");
  handshake.compress = request.Query("compress");
  handshake.has_user_agent = !request.Header("user-agent").empty();
  // What Discord does not know it does not do.
  if (handshake.compress != "zlib-stream" && handshake.compress != "zstd-stream") {
    handshake.compress.clear();
  }
  return std::make_shared<Peer>(gateway_, connection, std::move(handshake));
}

}  // namespace shardd::simulator
