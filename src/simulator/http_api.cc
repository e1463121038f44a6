#include "simulator/http_api.h"

#include <charconv>
#include <string>

#include "common/json_escape.h"
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

std::optional<uint64_t> Number(std::string_view text) {
  uint64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

http::Response Affected(size_t count) {
  http::Response response;
  Append(response.body, R"({"affected":)", count, "}");
  return response;
}

void AppendCloses(std::string& out, std::string_view name,
                  const std::map<uint16_t, uint64_t>& closes) {
  Append(out, R"(,")", name, R"(":{)");
  bool first = true;
  for (const auto& [code, count] : closes) {
    Append(out, first ? "\"" : ",\"", code, "\":", count);
    first = false;
  }
  out += '}';
}

}  // namespace

http::Response HttpApi::Answer(const http::Request& request) {
  if (request.path.starts_with("/simulator/")) return Control(request);
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
    return InjectedFailure(faults.gateway_bot_status, faults.retry_after);
  }
  // REST, unlike IDENTIFY, insists on the prefix.
  const std::string_view authorization = request.Header("authorization");
  if (!authorization.starts_with("Bot ") || !gateway_.AcceptsToken(authorization)) {
    return Failure(401, "401: Unauthorized");
  }
  const SteadyTime now = SteadyClock::now();
  http::Response response;
  Append(response.body, R"({"url":")", gateway_.url, R"(","shards":)",
         gateway_.options.recommended_shards, R"(,"session_start_limit":{"total":)",
         gateway_.options.session_starts_total, R"(,"remaining":)",
         gateway_.limits().Remaining(now), R"(,"reset_after":)",
         gateway_.limits().ResetAfter(now).count(), R"(,"max_concurrency":)",
         gateway_.options.max_concurrency, "}}");
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

http::Response HttpApi::Control(const http::Request& request) {
  const std::string_view action = std::string_view(request.path).substr(sizeof("/simulator/") - 1);
  if (action == "status") return Status();
  if (request.method != "POST") return Failure(405, "405: Method Not Allowed");

  Target target;
  if (const auto shard = request.Query("shard"); !shard.empty()) {
    const auto id = Number(shard);
    if (!id.has_value()) return Failure(400, "shard: not a number");
    const auto count = Number(request.Query("count"));
    const auto fallback = std::max<uint32_t>(gateway_.options.recommended_shards, 1);
    target.shard =
        ShardId{static_cast<uint32_t>(*id), static_cast<uint32_t>(count.value_or(fallback))};
  }
  const auto flag = [&](const char* name) { return request.Query(name) == "true"; };
  const auto number = [&](const char* name) { return Number(request.Query(name)).value_or(0); };

  if (action == "reconnect") return Affected(controls_.SendReconnect(target));
  if (action == "drop") return Affected(controls_.DropConnections(target));
  if (action == "heartbeat") return Affected(controls_.RequestHeartbeat(target));
  if (action == "invalid-session") {
    return Affected(controls_.SendInvalidSession(target, flag("resumable")));
  }
  if (action == "close") {
    return Affected(controls_.CloseWith(target, static_cast<uint16_t>(number("code")), {}));
  }
  if (action == "stop-acks") return Affected(controls_.StopAcks(target, flag("stop")));
  if (action == "emit") {
    if (request.body.empty()) return Failure(400, "emit: the body is the JSON of d");
    return Affected(controls_.Emit(request.Query("type"), number("guild"), request.body));
  }
  if (action == "traffic") {
    controls_.EmitTraffic(number("events"));
    return Affected(number("events"));
  }
  if (action == "rate") {
    controls_.SetRate(static_cast<double>(number("events")));
    return Affected(0);
  }
  return Failure(404, "404: Not Found");
}

http::Response HttpApi::Status() const {
  const Counters& c = gateway_.counters;
  http::Response response;
  std::string& out = response.body;
  Append(out, R"({"connections":)", c.connections, R"(,"identifies":)", c.identifies,
         R"(,"identifies_refused":)", c.identifies_refused, R"(,"resumes":)", c.resumes,
         R"(,"resumes_refused":)", c.resumes_refused, R"(,"heartbeats":)", c.heartbeats,
         R"(,"events":)", c.events, R"(,"dispatches":)", c.dispatches,
         R"(,"slow_readers_dropped":)", c.slow_readers_dropped);
  AppendCloses(out, "client_closes", c.client_closes);
  AppendCloses(out, "server_closes", c.server_closes);
  out += R"(,"sessions":[)";
  bool first = true;
  for (const SessionInfo& session : gateway_.Sessions()) {
    Append(out, first ? "" : ",", R"({"session_id":")", session.session_id, R"(","shard":[)",
           session.shard.id, ",", session.shard.count, R"(],"intents":)", session.intents,
           R"(,"connected":)", session.connected ? "true" : "false", R"(,"alive":)",
           session.alive ? "true" : "false", R"(,"guilds_sent":)",
           session.guilds_sent ? "true" : "false", R"(,"guilds":)", session.guilds,
           R"(,"sequence":)", session.sequence, R"(,"resumes":)", session.resumes,
           R"(,"compression":")", session.compression, "\"}");
    first = false;
  }
  out += "]}";
  return response;
}

}  // namespace shardd::simulator
