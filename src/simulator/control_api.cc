#include "simulator/control_api.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "simulator/json_text.h"

namespace shardd::simulator {
namespace {

std::optional<uint64_t> Number(std::string_view text) {
  uint64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
  if (text.empty() || !whole) return std::nullopt;
  return number;
}

http::Response Failure(unsigned status, std::string_view message) {
  http::Response response;
  response.status = status;
  Append(response.body, R"({"message":")", message, R"("})");
  return response;
}

// One order with its parameters. The first that makes no sense is remembered, and the order is then
// not carried out.
struct Order {
  const http::Request& request;
  Gateway& gateway;
  Controls& controls;
  Target target{};
  std::string wrong{};

  uint64_t Get(const char* name, uint64_t fallback, uint64_t most = UINT32_MAX) {
    const std::string_view text = request.Query(name);
    if (text.empty()) return fallback;
    const auto number = Number(text);
    if (!number.has_value() || *number > most) {
      if (wrong.empty()) wrong = std::string(name) + ": not a number that fits";
      return fallback;
    }
    return *number;
  }
  uint32_t Count(const char* name = "n") { return static_cast<uint32_t>(Get(name, 1)); }
  uint16_t Code(const char* name) { return static_cast<uint16_t>(Get(name, 0, UINT16_MAX)); }
  std::chrono::milliseconds Millis(const char* name, uint64_t fallback) {
    return std::chrono::milliseconds(Get(name, fallback));
  }
  uint32_t ShardCount() {
    return static_cast<uint32_t>(
        Get("count", std::max<uint32_t>(gateway.options.recommended_shards, 1)));
  }
  Lag Range(const char* min, const char* max) {
    const auto least = Millis(min, 0);
    return {least, Millis(max, static_cast<uint64_t>(least.count()))};
  }
  // In thousandths.
  double Share(const char* name) { return static_cast<double>(Get(name, 0, 1000)) / 1000; }
  bool IsTrue(const char* name) const { return request.Query(name) == "true"; }
  MessageKind Kind() const {
    return request.Query("kind") == "text" ? MessageKind::kText : MessageKind::kBinary;
  }
  PendingFaults& faults() const { return gateway.faults; }
};

// Reads all parameters first, then acts through what it returns, which says how many connections or
// sessions it touched.
using Action = std::function<size_t()>;

Action Counted(uint32_t& fault, uint32_t n) {
  return [&fault, n] {
    fault = n;
    return size_t{0};
  };
}

const std::map<std::string_view, Action (*)(Order&)>& Actions() {
  static const std::map<std::string_view, Action (*)(Order&)> kActions = {
      {"reconnect",
       [](Order& o) -> Action { return [&] { return o.controls.SendReconnect(o.target); }; }},
      {"drop",
       [](Order& o) -> Action { return [&] { return o.controls.DropConnections(o.target); }; }},
      {"heartbeat",
       [](Order& o) -> Action { return [&] { return o.controls.RequestHeartbeat(o.target); }; }},
      {"freeze", [](Order& o) -> Action { return [&] { return o.controls.Freeze(o.target); }; }},
      {"forget",
       [](Order& o) -> Action { return [&] { return o.controls.ForgetSessions(o.target); }; }},
      {"invalid-session",
       [](Order& o) -> Action {
         return [&] { return o.controls.SendInvalidSession(o.target, o.IsTrue("resumable")); };
       }},
      {"close",
       [](Order& o) -> Action {
         return [&, code = o.Code("code")] { return o.controls.CloseWith(o.target, code, {}); };
       }},
      {"stop-acks",
       [](Order& o) -> Action {
         return [&] { return o.controls.StopAcks(o.target, o.IsTrue("stop")); };
       }},
      {"raw",
       [](Order& o) -> Action {
         return [&] { return o.controls.SendRaw(o.target, o.request.body); };
       }},
      {"bytes",
       [](Order& o) -> Action {
         return [&] { return o.controls.SendBytes(o.target, o.Kind(), o.request.body); };
       }},
      {"tcp-bytes",
       [](Order& o) -> Action {
         return [&] { return o.controls.SendTcpBytes(o.target, o.request.body); };
       }},
      {"frame-header",
       [](Order& o) -> Action {
         return [&, size = o.Get("size", 0, INT64_MAX)] {
           return o.controls.SendFrameHeader(o.target, o.Kind(), size);
         };
       }},
      {"bomb",
       [](Order& o) -> Action {
         // Made on the simulator's one thread, at some hundred MB a second.
         constexpr uint64_t kLargestBomb = uint64_t{4} << 30;
         return [&, bytes = o.Get("bytes", 1, kLargestBomb)] {
           return o.controls.SendBomb(o.target, bytes);
         };
       }},
      {"emit",
       [](Order& o) -> Action {
         if (o.request.body.empty()) o.wrong = "emit: the body is the JSON of d";
         return [&, guild = o.Get("guild", 0, UINT64_MAX)] {
           return o.controls.Emit(o.request.Query("type"), guild, o.request.body);
         };
       }},
      {"traffic",
       [](Order& o) -> Action {
         return [&, events = o.Get("events", 0)] {
           o.controls.EmitTraffic(events);
           return events;
         };
       }},
      {"structure",
       [](Order& o) -> Action {
         return [&, changes = o.Get("changes", 0)] {
           o.controls.EmitStructure(changes);
           return changes;
         };
       }},
      {"rate",
       [](Order& o) -> Action {
         return [&, events = o.Get("events", 0)] {
           o.controls.SetRate(static_cast<double>(events));
           return size_t{0};
         };
       }},
      {"refuse-connections",
       [](Order& o) -> Action {
         return [&, n = o.Count(), status = o.Code("status")] {
           o.faults().refuse_connections = n;
           o.faults().refuse_status = status;
           return size_t{0};
         };
       }},
      {"silence-hellos", [](Order& o) { return Counted(o.faults().silent_hellos, o.Count()); }},
      {"reconnect-hellos",
       [](Order& o) { return Counted(o.faults().reconnect_hellos, o.Count()); }},
      {"refuse-identifies",
       [](Order& o) { return Counted(o.faults().refuse_identifies, o.Count()); }},
      {"ignore-identifies",
       [](Order& o) { return Counted(o.faults().ignore_identifies, o.Count()); }},
      {"refuse-resumes", [](Order& o) { return Counted(o.faults().refuse_resumes, o.Count()); }},
      {"gateway-bot",
       [](Order& o) -> Action {
         return [&, n = o.Count(), status = o.Code("status"),
                 retry_after = o.Millis("retry_after", 1000)] {
           PendingFaults& faults = o.faults();
           faults.gateway_bot_answers = n;
           faults.gateway_bot_status = status;
           faults.retry_after = retry_after;
           faults.gateway_bot_body.reset();
           faults.gateway_bot_content_type = "application/json";
           if (!o.request.body.empty()) faults.gateway_bot_body = o.request.body;
           return size_t{0};
         };
       }},
      {"session-starts",
       [](Order& o) -> Action {
         std::optional<std::chrono::milliseconds> reset_after;
         if (!o.request.Query("reset_after").empty()) reset_after = o.Millis("reset_after", 0);
         return [&, remaining = o.Count("remaining"), reset_after] {
           o.controls.SetSessionStarts(remaining, reset_after);
           return size_t{0};
         };
       }},
      {"hello",
       [](Order& o) -> Action {
         return [&] {
           o.faults().hello = o.request.body;
           return size_t{0};
         };
       }},
      {"drip",
       [](Order& o) -> Action {
         return [&, bytes = o.Get("bytes", 0), pause = o.Millis("pause", 10)] {
           o.controls.SetDrip(bytes, pause);
           return size_t{0};
         };
       }},
      {"split",
       [](Order& o) -> Action {
         return [&, messages = o.Count("messages"), fragments = o.Count("fragments")] {
           o.gateway.options.split_messages = messages;
           o.gateway.options.split_fragments = fragments;
           return size_t{0};
         };
       }},
      {"equal-payloads",
       [](Order& o) -> Action {
         return [&, share = o.Share("share")] {
           o.controls.SetEqualPayloads(share);
           return size_t{0};
         };
       }},
      {"lag",
       [](Order& o) -> Action {
         return [&, count = o.ShardCount(), lag = o.Range("min", "max")] {
           o.gateway.options.lags[count] = lag;
           return size_t{0};
         };
       }},
      {"skew",
       [](Order& o) -> Action {
         Skew skew;
         skew.interactions = o.Range("interactions_min", "interactions_max");
         skew.swapped = o.Share("swapped");
         skew.one_sided = o.Share("one_sided");
         return [&, count = o.ShardCount(), skew] {
           o.gateway.options.skews[count] = skew;
           return size_t{0};
         };
       }},
      {"limits",
       [](Order& o) -> Action {
         SimulatorOptions& options = o.gateway.options;
         return [&, guilds = o.Get("max_guilds_per_shard", options.max_guilds_per_shard),
                 multiple = o.Get("shard_count_multiple", options.shard_count_multiple),
                 intents = o.Get("disallowed_intents", options.disallowed_intents, UINT64_MAX)] {
           options.max_guilds_per_shard = static_cast<uint32_t>(guilds);
           options.shard_count_multiple = static_cast<uint32_t>(multiple);
           options.disallowed_intents = intents;
           return size_t{0};
         };
       }},
      {"permute-keys",
       [](Order& o) -> Action {
         return [&] {
           o.gateway.options.permute_keys = o.IsTrue("permute");
           return size_t{0};
         };
       }},
  };
  return kActions;
}

template <class Key>
void AppendCounts(std::string& out, std::string_view name, const std::map<Key, uint64_t>& counts) {
  Append(out, R"(,")", name, R"(":{)");
  bool first = true;
  for (const auto& [key, count] : counts) {
    Append(out, first ? "\"" : ",\"", key, "\":", count);
    first = false;
  }
  out += '}';
}

}  // namespace

http::Response ControlApi::Answer(const http::Request& request) {
  const std::string_view action = std::string_view(request.path).substr(kPath.size());
  if (action == "status") return Status();
  if (action == "commands") return Commands(request);
  const auto found = Actions().find(action);
  if (found == Actions().end()) return Failure(404, "no such order");
  if (request.method != "POST") return Failure(405, "orders are POSTed");

  Order order{request, gateway_, controls_};
  if (!request.Query("shard").empty()) {
    order.target.shard = ShardId{static_cast<uint32_t>(order.Get("shard", 0)), order.ShardCount()};
  }
  order.target.session_id = request.Query("session");
  const Action act = found->second(order);
  if (!order.wrong.empty()) return Failure(400, order.wrong);
  http::Response response;
  Append(response.body, R"({"affected":)", act(), "}");
  gateway_.Changed();
  return response;
}

http::Response ControlApi::Commands(const http::Request& request) const {
  http::Response response;
  response.body = "[";
  bool first = true;
  for (const auto& [op, data] : gateway_.CommandsOf(std::string(request.Query("session")))) {
    Append(response.body, first ? "" : ",", R"({"op":)", op, R"(,"d":)", data, "}");
    first = false;
  }
  response.body += "]";
  return response;
}

http::Response ControlApi::Status() const {
  const Counters& c = gateway_.counters;
  http::Response response;
  std::string& out = response.body;
  Append(out, R"({"connections":)", c.connections, R"(,"peak_open_connections":)",
         c.peak_open_connections, R"(,"identifies":)", c.identifies, R"(,"identifies_refused":)",
         c.identifies_refused, R"(,"resumes":)", c.resumes, R"(,"resumes_refused":)",
         c.resumes_refused, R"(,"resumes_behind_heartbeat":)", c.resumes_behind_heartbeat,
         R"(,"heartbeats":)", c.heartbeats, R"(,"commands_ignored":)", c.commands_ignored,
         R"(,"presence_updates_dropped":)", c.presence_updates_dropped,
         R"(,"member_requests_limited":)", c.member_requests_limited, R"(,"token_resets":)",
         c.token_resets, R"(,"session_starts_remaining":)",
         gateway_.limits().Remaining(SteadyClock::now()), R"(,"events":)", c.events,
         R"(,"dispatches":)", c.dispatches, R"(,"slow_readers_dropped":)", c.slow_readers_dropped);
  AppendCounts(out, "identifies_by_shard_count", c.identifies_by_shard_count);
  AppendCounts(out, "client_closes", c.client_closes);
  AppendCounts(out, "server_closes", c.server_closes);
  out += R"(,"sessions":[)";
  bool first = true;
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  for (const SessionInfo& session : gateway_.Sessions()) {
    Append(out, first ? "" : ",", R"({"session_id":")", session.session_id, R"(","shard":[)",
           session.shard.id, ",", session.shard.count, R"(],"intents":)", session.intents,
           R"(,"connected":)", flag(session.connected), R"(,"alive":)", flag(session.alive),
           R"(,"guilds_sent":)", flag(session.guilds_sent), R"(,"guilds":)", session.guilds,
           R"(,"sequence":)", session.sequence, R"(,"resumes":)", session.resumes,
           R"(,"presence":)", session.presence.empty() ? "null" : session.presence,
           R"(,"compression":")", session.compression, "\"}");
    first = false;
  }
  out += "]}";
  return response;
}

}  // namespace shardd::simulator
