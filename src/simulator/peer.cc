#include "simulator/peer.h"

#include <algorithm>
#include <boost/json.hpp>
#include <utility>

#include "simulator/json_scan.h"
#include "simulator/json_text.h"
#include "simulator/json_value.h"

namespace shardd::simulator {
namespace {

namespace json = boost::json;

// Put-off dispatches wait until less than this is queued, so that a start with thousands of guilds
// is no slow reader.
constexpr size_t kLowWater = 256 * 1024;
// ...and less than this is on its way.
constexpr size_t kLateLowWater = size_t{4} << 20;
// What is due within this time leaves in one write.
constexpr std::chrono::milliseconds kLateStep{1};

std::optional<ShardId> ToShard(const json::value& value) {
  if (!value.is_array() || value.get_array().size() != 2) return std::nullopt;
  const auto id = ToNumber(&value.get_array()[0]);
  const auto count = ToNumber(&value.get_array()[1]);
  if (!id.has_value() || !count.has_value() || *count > kMaxShardCount || *id >= *count) {
    return std::nullopt;
  }
  return ShardId{static_cast<uint32_t>(*id), static_cast<uint32_t>(*count)};
}

// Whether a bot may send it once it has a session.
bool IsCommand(int64_t op) {
  switch (static_cast<Op>(op)) {
    case Op::kPresenceUpdate:
    case Op::kVoiceStateUpdate:
    case Op::kRequestGuildMembers:
    case Op::kRequestSoundboardSounds:
    case Op::kRequestChannelInfo:
      return true;
    default:
      return false;
  }
}

}  // namespace

Peer::Peer(Gateway& gateway, Connection& connection, Handshake handshake)
    : gateway_(gateway),
      connection_(connection),
      handshake_(std::move(handshake)),
      writer_(connection, gateway.options, handshake_.compress),
      heartbeat_timer_(connection.executor()),
      late_timer_(connection.executor()),
      sends_(gateway.options.sends_per_minute) {}

Peer::~Peer() { Leave(); }

bool Peer::Matches(const Target& target) const {
  if (target.shard.has_value() && target.shard != last_shard_) return false;
  return target.session_id.empty() || target.session_id == last_session_id_;
}

void Peer::OnOpen() {
  ++gateway_.counters.connections;
  gateway_.AddPeer(*this);
  SetDrip(gateway_.options.drip_bytes, gateway_.options.drip_pause);
  gateway_.Changed();
  last_heartbeat_ = SteadyClock::now();
  WatchHeartbeats();
  const Quirks& quirks = gateway_.options.quirks;
  if (!handshake_.version.empty() && handshake_.version != "9" && handshake_.version != "10") {
    return Close(close_code::kInvalidApiVersion, "Invalid API version.");
  }
  if (quirks.require_user_agent && !handshake_.has_user_agent) {
    return Close(close_code::kDecodeError, "No User-Agent.");
  }
  if (PendingFaults::Take(gateway_.faults.silent_hellos)) return;
  if (PendingFaults::Take(gateway_.faults.reconnect_hellos)) {
    return SendOp(Op::kReconnect, "null");
  }
  std::string hello = gateway_.faults.hello;
  if (hello.empty()) {
    Append(hello, R"({"heartbeat_interval":)", gateway_.options.heartbeat_interval.count(),
           R"(,"_trace":["[\"gateway-simulator\",{\"micros\":0.0}]"]})");
  }
  SendOp(Op::kHello, hello);
}

void Peer::OnMessage(std::string_view payload) {
  if (!sends_.Admit(SteadyClock::now())) {
    return Close(close_code::kRateLimited, "You are being rate limited.");
  }
  boost::system::error_code error;
  const json::value value = json::parse(json::string_view(payload.data(), payload.size()), error);
  const json::object* object = error ? nullptr : value.if_object();
  const json::value* op = object == nullptr ? nullptr : object->if_contains("op");
  if (op == nullptr || !op->is_int64()) {
    return Close(close_code::kDecodeError, "Error while decoding payload.");
  }
  const json::value* data = object->if_contains("d");
  const json::object* fields = data == nullptr ? nullptr : data->if_object();
  switch (static_cast<Op>(op->get_int64())) {
    case Op::kHeartbeat:
      return OnHeartbeat(data);
    case Op::kIdentify:
    case Op::kResume:
      if (fields == nullptr) {
        return Close(close_code::kDecodeError, "Error while decoding payload.");
      }
      if (session_ != nullptr) {
        return Close(close_code::kAlreadyAuthenticated, "Already authenticated.");
      }
      if (op->get_int64() == static_cast<int64_t>(Op::kResume)) return OnResume(*fields);
      return OnIdentify(*fields, payload);
    default:
      break;
  }
  if (!IsCommand(op->get_int64())) return Close(close_code::kUnknownOpcode, "Unknown opcode.");
  if (session_ == nullptr) {
    // What was under way when op 9 took the session is no offence.
    if (!last_session_id_.empty()) return;
    return Close(close_code::kNotAuthenticated, "Not authenticated.");
  }
  // "You sent an invalid Gateway opcode or an invalid payload for an opcode."
  if (fields == nullptr) return Close(close_code::kUnknownOpcode, "Invalid payload.");
  gateway_.commands().Perform(*session_, static_cast<Op>(op->get_int64()), *fields,
                              MemberOf(payload, "d").value_or("{}"));
}

void Peer::OnHeartbeat(const json::value* data) {
  last_heartbeat_ = SteadyClock::now();
  ++gateway_.counters.heartbeats;
  if (session_ != nullptr) {
    ++session_->heartbeats;
    session_->heartbeat_sequence = ToNumber(data);
  }
  gateway_.Changed();
  if (!gateway_.options.acknowledge_heartbeats) return;
  if (session_ != nullptr && session_->acks_stopped) return;
  if (session_ == nullptr && gateway_.options.quirks.ack_after_identify_only) return;
  SendOp(Op::kHeartbeatAck, "null");
}

void Peer::OnIdentify(const json::object& data, std::string_view payload) {
  const Quirks& quirks = gateway_.options.quirks;
  const auto token = ToText(data.if_contains("token"));
  if (!token.has_value() || !gateway_.AcceptsToken(*token)) {
    return Close(quirks.bad_token_code, "Authentication failed.");
  }
  std::optional<ShardId> shard;
  if (const json::value* value = data.if_contains("shard"); value != nullptr && !value->is_null()) {
    shard = ToShard(*value);
    if (!shard.has_value()) return Close(close_code::kInvalidShard, "Invalid shard.");
  }
  const auto intents = ToNumber(data.if_contains("intents"));
  if (!intents.has_value() || (*intents & ~intent::kDocumented) != 0) {
    return Close(close_code::kInvalidIntents, "Invalid intent(s).");
  }
  if ((*intents & gateway_.options.disallowed_intents) != 0) {
    return Close(close_code::kDisallowedIntents, "Disallowed intent(s).");
  }
  const ShardId effective = shard.value_or(ShardId{0, 1});
  if (effective.count % std::max(gateway_.options.shard_count_multiple, 1u) != 0) {
    return Close(close_code::kInvalidShard, "Invalid shard.");
  }
  if (gateway_.GuildsOf(effective).size() > gateway_.options.max_guilds_per_shard) {
    return Close(close_code::kShardingRequired, "Sharding required.");
  }
  if (PendingFaults::Take(gateway_.faults.ignore_identifies)) return;
  switch (gateway_.AdmitIdentify(effective)) {
    case Gateway::Admission::kTokenReset:
      return;  // this connection has been closed with all others
    case Gateway::Admission::kRefused:
      ++gateway_.counters.identifies_refused;
      gateway_.Changed();
      return SendOp(Op::kInvalidSession, "false");
    case Gateway::Admission::kAdmitted:
      break;
  }
  ++gateway_.counters.identifies;
  ++gateway_.counters.identifies_by_shard_count[effective.count];
  Attach(gateway_.StartSession(effective, *intents));
  if (data.contains("presence")) {
    session_->presence = MemberOf(MemberOf(payload, "d").value_or(""), "presence").value_or("");
  }
  SendReady(shard);
  gateway_.Changed();
  Continue();
}

void Peer::SendReady(const std::optional<ShardId>& shard) {
  std::string data;
  Append(
      data, R"({"v":)", handshake_.version == "9" ? 9 : 10,
      R"(,"user_settings":{},"user":{"verified":true,"username":"simulated","primary_guild":null,)",
      R"("mfa_enabled":true,"id":")", kBotUserId,
      R"(","global_name":null,"flags":0,"email":null,"discriminator":"4242","clan":null,)",
      R"("bot":true,"avatar":null},)");
  if (shard.has_value()) Append(data, R"("shard":[)", shard->id, ",", shard->count, "],");
  Append(data, R"("session_type":"normal","session_id":")", session_->id(),
         R"(","resume_gateway_url":")", gateway_.url,
         R"(","relationships":[],"private_channels":[],"presences":[],"guilds":[)");
  for (size_t i = 0; i < session_->guilds.size(); ++i) {
    Append(data, i == 0 ? "" : ",", R"({"unavailable":true,"id":")",
           gateway_.guilds().ids()[session_->guilds[i]], "\"}");
  }
  Append(
      data, R"(],"guild_join_requests":[],"geo_ordered_rtc_regions":["rotterdam","frankfurt"],)",
      R"("game_relationships":[],"auth":{},"application":{"id":")", kBotUserId,
      R"(","flags":565248},"_trace":["[\"gateway-simulator\",{\"micros\":1200,\"calls\":[]}]"]})");
  const auto ready = std::make_shared<const Dispatch>(Dispatch{"READY", 0, std::move(data)});
  gateway_.Give(*session_, ready);
  WriteDispatch(session_->sequence(), ready);
}

void Peer::OnResume(const json::object& data) {
  const Quirks& quirks = gateway_.options.quirks;
  const auto token = ToText(data.if_contains("token"));
  const auto session_id = ToText(data.if_contains("session_id"));
  const uint64_t sequence = ToNumber(data.if_contains("seq")).value_or(0);
  if (!token.has_value() || !gateway_.AcceptsToken(*token)) {
    return Close(quirks.bad_token_code, "Authentication failed.");
  }
  if (quirks.silent_resume) return;
  gateway_.Sweep();
  Session* session = gateway_.FindSession(session_id.value_or(""));
  if (session != nullptr && sequence > session->sequence()) {
    ++gateway_.counters.resumes_refused;
    gateway_.End(*session);
    return Close(close_code::kInvalidSequence, "Invalid seq.");
  }
  const SimulatorOptions& options = gateway_.options;
  if (session == nullptr && options.close_expired_resumes &&
      gateway_.HasExpired(session_id.value_or(""))) {
    ++gateway_.counters.resumes_refused;
    return Close(close_code::kSessionTimedOut, "Session timed out.");
  }
  if (session != nullptr && options.close_stale_resumes && !session->CanReplayAfter(sequence)) {
    ++gateway_.counters.resumes_refused;
    gateway_.End(*session);
    return Close(close_code::kInvalidSequence, "Invalid seq.");
  }
  if (quirks.refuse_resume || session == nullptr ||
      PendingFaults::Take(gateway_.faults.refuse_resumes) || !session->CanReplayAfter(sequence)) {
    ++gateway_.counters.resumes_refused;
    gateway_.Changed();
    return SendOp(Op::kInvalidSession, "false");
  }
  if (sequence < session->heartbeat_sequence.value_or(0)) {
    ++gateway_.counters.resumes_behind_heartbeat;
  }
  // A session has one connection at a time; the newer one wins.
  if (session->peer != nullptr) session->peer->Reset();
  Attach(*session);
  session->replaying_from = sequence + 1;
  Continue();
}

void Peer::Attach(Session& session) {
  session_ = &session;
  session.peer = this;
  session.compression = writer_.compression();
  last_shard_ = session.shard();
  last_session_id_ = session.id();
}

void Peer::Continue() {
  while (session_ != nullptr && connection_.queued_bytes() < kLowWater &&
         late_bytes_ < kLateLowWater) {
    Session& session = *session_;
    if (session.replaying_from.has_value()) {
      uint64_t& next = *session.replaying_from;
      if (next <= session.sequence()) {
        const DispatchPtr dispatch = session.Find(next);
        if (dispatch == nullptr) {
          // Live events have overtaken a client that reads its replay too slowly.
          ++gateway_.counters.slow_readers_dropped;
          return Reset();
        }
        WriteDispatch(next++, dispatch);
        continue;
      }
      session.replaying_from.reset();
      ++session.resumes;
      ++gateway_.counters.resumes;
      const auto resumed = std::make_shared<const Dispatch>(
          Dispatch{"RESUMED", 0, R"({"_trace":["[\"gateway-simulator\",{\"micros\":0.0}]"]})"});
      gateway_.Give(session, resumed);
      WriteDispatch(session.sequence(), resumed);
      gateway_.Changed();
    } else if (session.guilds_sent < session.guilds.size() && session.Wants(intent::kGuilds)) {
      const DispatchPtr start = gateway_.GuildStart(session.guilds[session.guilds_sent++]);
      if (start != nullptr) {
        const DispatchPtr given = gateway_.Give(session, start);
        WriteDispatch(session.sequence(), given);
      }
      if (session.guilds_sent == session.guilds.size()) gateway_.Changed();
    } else if (!session.member_lists.empty()) {
      const DispatchPtr chunk = gateway_.Give(session, gateway_.commands().NextChunk(session));
      WriteDispatch(session.sequence(), chunk);
    } else {
      return;
    }
  }
}

void Peer::SendDispatch(uint64_t sequence, const DispatchPtr& dispatch) {
  if (session_->replaying_from.has_value()) return;
  WriteDispatch(sequence, dispatch);
  if (dispatch->bomb_bytes == 0 &&
      connection_.queued_bytes() + late_bytes_ > gateway_.options.write_queue_bytes) {
    ++gateway_.counters.slow_readers_dropped;
    Reset();
  }
}

void Peer::WriteDispatch(uint64_t sequence, const DispatchPtr& dispatch) {
  const SteadyTime now = SteadyClock::now();
  const auto lag = gateway_.LagOf(*session_, now);
  if (late_.empty() && lag.count() == 0) return writer_.WriteDispatch(sequence, *dispatch);
  const SteadyTime due = now + lag;
  late_bytes_ += dispatch->data.size();
  late_.push_back({late_.empty() ? due : std::max(due, late_.back().due), sequence, dispatch});
  if (late_.size() == 1) AwaitLate();
}

void Peer::AwaitLate() {
  late_timer_.expires_at(std::max(late_.front().due, SteadyClock::now() + kLateStep));
  late_timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (error || self == nullptr || self->left_) return;
    self->WriteLate();
  });
}

void Peer::WriteLate() {
  const SteadyTime now = SteadyClock::now();
  while (!late_.empty() && late_.front().due <= now) {
    const Late late = std::move(late_.front());
    late_.pop_front();
    if (late.dispatch == nullptr) {
      writer_.WriteOp(late.op, late.data);
    } else {
      late_bytes_ -= late.dispatch->data.size();
      writer_.WriteDispatch(late.sequence, *late.dispatch);
    }
  }
  if (!late_.empty()) AwaitLate();
}

void Peer::SendOp(Op op, std::string_view data) {
  if (left_) return;
  if (late_.empty()) return writer_.WriteOp(op, data);
  late_.push_back({late_.back().due, 0, nullptr, op, std::string(data)});
}

void Peer::SendPayload(std::string_view payload) {
  if (!left_) writer_.WritePayload(payload);
}

void Peer::SendMessage(MessageKind kind, std::string_view bytes) {
  if (!left_) connection_.Send(kind == MessageKind::kBinary, bytes, 1);
}

void Peer::SendFrameHeader(MessageKind kind, uint64_t size) {
  std::string header;
  websocket::AppendHeader(
      kind == MessageKind::kBinary ? websocket::Opcode::kBinary : websocket::Opcode::kText, size,
      header);
  SendTcpBytes(header);
}

void Peer::SendTcpBytes(std::string_view bytes) {
  if (!left_) connection_.SendBytes(bytes);
}

bool Peer::SendBomb(size_t inflated_bytes) {
  if (session_ == nullptr) return false;
  Dispatch bomb;
  bomb.type = "X";
  bomb.bomb_bytes = std::max<size_t>(inflated_bytes, 1);
  gateway_.SendTo(*session_, std::make_shared<const Dispatch>(std::move(bomb)));
  return true;
}

void Peer::SetDrip(size_t bytes, std::chrono::milliseconds pause) {
  connection_.SetDrip(bytes, pause);
}

void Peer::OnTooLarge() { Close(close_code::kDecodeError, "Error while decoding payload."); }

void Peer::OnClosed(uint16_t code) {
  ++gateway_.counters.client_closes[code];
  // These two tell Discord that the client leaves for good; after any other the session waits for a
  // RESUME.
  if ((code == close_code::kNormal || code == close_code::kGoingAway) && session_ != nullptr) {
    gateway_.End(*session_);
  }
  Leave();
}

void Peer::Close(uint16_t code, std::string_view reason) {
  if (left_) return;
  if (connection_.frozen()) return Reset();
  ++gateway_.counters.server_closes[code == 0 ? close_code::kNone : code];
  if (session_ != nullptr && close_code::EndsSession(code)) gateway_.End(*session_);
  Leave();
  connection_.Close(code, reason);
}

void Peer::Reset() {
  const auto self = shared_from_this();
  Leave();
  connection_.Reset();
}

void Peer::Leave() {
  if (left_) return;
  left_ = true;
  heartbeat_timer_.cancel();
  late_timer_.cancel();
  late_.clear();
  late_bytes_ = 0;
  if (session_ != nullptr) gateway_.Detach(*session_);
  gateway_.RemovePeer(*this);
}

void Peer::WatchHeartbeats() {
  const auto& options = gateway_.options;
  const auto tolerance = options.heartbeat_tolerance.count() > 0 ? options.heartbeat_tolerance
                                                                 : 2 * options.heartbeat_interval;
  heartbeat_timer_.expires_at(last_heartbeat_ + tolerance);
  heartbeat_timer_.async_wait(
      [weak = weak_from_this(), tolerance](const boost::system::error_code& error) {
        const auto self = weak.lock();
        if (error || self == nullptr || self->left_) return;
        if (SteadyClock::now() - self->last_heartbeat_ < tolerance) return self->WatchHeartbeats();
        self->OnHeartbeatTimeout();
      });
}

void Peer::OnHeartbeatTimeout() {
  ++gateway_.counters.heartbeat_timeouts;
  Close(close_code::kNormal, "");
}

}  // namespace shardd::simulator
