#include "gateway/protocol.h"

#include <algorithm>
#include <utility>

#include "common/json_escape.h"
#include "gateway/gateway_url.h"
#include "gateway/limits.h"
#include "gateway/opcode.h"
#include "gateway/payload.h"

namespace shardd::gateway {
namespace {

using std::chrono::milliseconds;

// A session that Discord accepts connections for but neither resumes nor refuses would otherwise be
// asked for ever (buape/carbon#364 has the same number).
constexpr uint32_t kMaxFailedResumes = 3;

// Discord numbers without gaps. A jump within this may be events that a RESUME can still bring; a
// larger one is no number of Discord's.
constexpr uint64_t kLargestGap = 1'000'000;
// A server that skips numbers is believed after so many RESUMEs in a session that brought nothing.
constexpr uint32_t kMaxGapResumes = 3;

// Discord's have 32, and RESUME has to fit into kMaxPayloadBytes.
constexpr size_t kMaxSessionIdBytes = 256;
// That are remembered to be counted: many times what a shard may have.
constexpr size_t kMaxGuilds = 100'000;

// Discord's own default and least: GUILD_CREATE then leaves out the offline members of guilds above
// it. The burst of these at the start is the largest load a shard ever has, and a bot that needs
// all members asks for them (op 8) anyway.
constexpr int kLargeThreshold = 50;

constexpr char kStopped[] = "stopped";
constexpr char kStoppedWithSession[] = "stopped, session kept";

std::string Join(std::string_view reason, std::string_view detail) {
  std::string text(reason);
  if (!detail.empty()) {
    text += ": ";
    text += detail;
  }
  return text;
}

std::string Payload(Opcode op, std::string_view data) {
  std::string text = "{\"op\":" + std::to_string(static_cast<int64_t>(op)) + ",\"d\":";
  text += data;
  text += '}';
  return text;
}

}  // namespace

ShardProtocol::ShardProtocol(ProtocolOptions options, EnvelopeReader* reader)
    : options_(std::move(options)),
      reader_(reader),
      random_(options_.seed),
      presence_(options_.presence),
      pace_(options_.timings, random_()),
      crash_guard_(options_.crash_guard),
      silence_(options_.timings.silence_after) {
  info_.shard = options_.shard;
}

bool ShardProtocol::is_running() const { return phase_ != Phase::kOff; }

bool ShardProtocol::needs_session_start() const {
  const bool sent = phase_ == Phase::kIdentifying || phase_ == Phase::kReady;
  return is_running() && !has_session() && !sent;
}

bool ShardProtocol::connected() const {
  switch (phase_) {
    case Phase::kOff:
    case Phase::kAwaitingAddress:
    case Phase::kInGate:
    case Phase::kConnecting:
    case Phase::kPausing:
      return false;
    case Phase::kAwaitingHello:
    case Phase::kAwaitingSlot:
    case Phase::kIdentifying:
    case Phase::kResuming:
    case Phase::kReady:
      return true;
  }
  return false;
}

SteadyTime ShardProtocol::deadline() const {
  return std::min({phase_deadline_, next_beat_, silence_.next_look()});
}

void ShardProtocol::SetPhase(Phase phase, ShardState state, std::string reason) {
  phase_ = phase;
  phase_deadline_ = SteadyTime::max();
  if (state == info_.state && reason == info_.reason) return;
  info_.state = state;
  info_.reason = std::move(reason);
  const bool waits = state == ShardState::kBackingOff || state == ShardState::kCrashLoop;
  if (!waits) info_.retry_at.reset();
  actions_.emplace_back(action::ChangeState{info_});
}

// ---- What the owner wants ----

void ShardProtocol::SetGatewayUrl(std::string url, Now now) {
  gateway_url_ = std::move(url);
  if (phase_ == Phase::kAwaitingAddress && !gateway_url_.empty()) BeginAttempt(now, info_.reason);
}

void ShardProtocol::Restore(KeptShard kept) {
  info_.session = kept.last_session;
  if (kept.session) {
    KeptSession& session = *kept.session;
    session_ = Session{.id = std::move(session.id),
                       .resume_url = std::move(session.resume_url),
                       .last_event_unix_nanos = session.last_event_unix_nanos};
    if (session.last_sequence > 0) session_->last_sequence = session.last_sequence;
    info_.sequence = session.last_sequence;
    if (session.last_event_unix_nanos > 0) {
      info_.last_event_at = WallTime(std::chrono::duration_cast<WallTime::duration>(
          std::chrono::nanoseconds(session.last_event_unix_nanos)));
    }
    if (!IsAcceptableResumeUrl(session_->resume_url, gateway_url_)) session_->resume_url.clear();
    std::string why = std::move(kept.give_up_because);
    if (why.empty() && (session_->id.empty() || session_->id.size() > kMaxSessionIdBytes)) {
      why = "what is kept of it is not enough for a RESUME";
    }
    if (why.empty()) {
      SetGuilds(session.guilds);
    } else {
      DropSession(why);
    }
  }
  if (!kept.is_stopped) return;
  info_.state = ShardState::kStopped;
  info_.reason = has_session() ? kStoppedWithSession : kStopped;
}

void ShardProtocol::Start(Now now) {
  const bool in_crash_loop = info_.state == ShardState::kCrashLoop;
  if (is_running() && !in_crash_loop) return;
  if (!is_running()) {
    failed_resumes_ = 0;
    avoid_resume_url_ = false;
    respawning_ = false;
    pace_.Reset();
    had_session_since_start_ = has_session();
  }
  std::string_view reason = "started";
  if (has_session()) {
    reason = session_->since ? "started with a kept session"
                             : "started with the session of an earlier process";
  }
  BeginAttempt(now, std::string(reason));
}

void ShardProtocol::Stop(bool keep_session, Now) {
  const bool was_off = !is_running();
  if (in_gate_) {
    in_gate_ = false;
    actions_.emplace_back(action::LeaveGate{});
  }
  if (phase_ == Phase::kConnecting || connected()) {
    actions_.emplace_back(action::Close{keep_session ? kCloseKeepingSession : kCloseEndingSession});
  }
  ForgetConnection();
  const bool gave_up_session = !keep_session && session_;
  if (gave_up_session) actions_.emplace_back(action::EndSession{info_.session});
  if (!keep_session) {
    session_.reset();
    info_.sequence = 0;
    SetGuilds({});
  }
  if (was_off && info_.state == ShardState::kStopped && !gave_up_session) return;
  SetPhase(Phase::kOff, ShardState::kStopped, has_session() ? kStoppedWithSession : kStopped);
}

// ---- Attempts ----

void ShardProtocol::BeginAttempt(Now now, std::string reason) {
  if (std::exchange(respawning_, false)) info_.last_restart = now.wall;
  resuming_ = has_session();
  // Only a shard that was restored is started without an address.
  if (gateway_url_.empty() && (!resuming_ || session_->resume_url.empty())) {
    SetPhase(Phase::kAwaitingAddress,
             resuming_ ? ShardState::kBackingOff : ShardState::kWaitingToIdentify,
             "waits until Discord answers GET /gateway/bot");
    return;
  }
  if (!resuming_) {
    in_gate_ = true;
    SetPhase(Phase::kInGate, ShardState::kWaitingToIdentify, std::move(reason));
    actions_.emplace_back(action::EnterGate{.is_recovery = had_session_since_start_});
    return;
  }
  // A session lives in one zone of Discord's, whose address READY named; since 2022 the main
  // address works less well for it (discord-api-docs#5282), but that zone's name may vanish.
  at_resume_url_ = !session_->resume_url.empty() && (!avoid_resume_url_ || gateway_url_.empty());
  ConnectTo(at_resume_url_ ? session_->resume_url : gateway_url_, std::move(reason));
}

void ShardProtocol::ConnectTo(const std::string& base, std::string reason) {
  SetPhase(Phase::kConnecting, ShardState::kConnecting, std::move(reason));
  actions_.emplace_back(action::Connect{ConnectionUrl(base, options_.compression)});
}

void ShardProtocol::Admitted(SteadyTime not_before, Now) {
  if (phase_ != Phase::kInGate) return;
  identify_not_before_ = not_before;
  at_resume_url_ = false;
  ConnectTo(gateway_url_, info_.reason);
}

void ShardProtocol::Connected(Now now) {
  if (phase_ != Phase::kConnecting) return;
  SetPhase(Phase::kAwaitingHello, info_.state, info_.reason);
  phase_deadline_ = now.steady + options_.timings.hello_timeout;
}

void ShardProtocol::ConnectFailed(std::string_view why, Now now) {
  if (phase_ != Phase::kConnecting) return;
  // Discord has not been asked, so this says nothing about the session: it is no failed RESUME.
  EndWith(AfterEnd(EndCause::kConnectionLost), Join("no connection", why), false, now);
}

void ShardProtocol::SetWaitReason(std::string_view why) {
  if (phase_ == Phase::kInGate) SetPhase(phase_, info_.state, std::string(why));
}

void ShardProtocol::RequestSessionStart() {
  SetPhase(Phase::kAwaitingSlot, info_.state, info_.reason);
  actions_.emplace_back(action::SpendSessionStart{});
}

void ShardProtocol::SessionStartGranted(Now now) {
  if (phase_ == Phase::kAwaitingSlot) SendIdentify(now);
}

void ShardProtocol::SessionStartLater(SteadyTime not_before, Now) {
  if (phase_ == Phase::kAwaitingSlot) phase_deadline_ = not_before;
}

void ShardProtocol::SessionStartRefused(Now) {
  if (phase_ != Phase::kAwaitingSlot) return;
  actions_.emplace_back(action::Close{});
  ForgetConnection();
  SetPhase(Phase::kInGate, ShardState::kWaitingToIdentify, info_.reason);
}

void ShardProtocol::SendIdentify(Now now) {
  in_gate_ = false;
  ++info_.identifies;
  std::string data = R"({"token":")";
  data += JsonEscape(options_.token);
  data +=
      R"(","properties":{"os":"linux","browser":"shardd","device":"shardd"},"large_threshold":)";
  data += std::to_string(kLargeThreshold);
  data += ",\"shard\":[" + std::to_string(options_.shard.id) + ',' +
          std::to_string(options_.shard.count);
  data += "],\"intents\":" + std::to_string(options_.intents);
  std::string text = Payload(Opcode::kIdentify, data + ",\"presence\":" + presence_ + '}');
  presence_left_out_ = !presence_.empty() && text.size() > kMaxPayloadBytes;
  if (presence_.empty() || presence_left_out_) text = Payload(Opcode::kIdentify, data + '}');
  // In this order: whoever compares this session with another has to know that it begins before
  // Discord can send both an event.
  SetPhase(Phase::kIdentifying, ShardState::kIdentifying, info_.reason);
  actions_.emplace_back(action::Send{std::move(text)});
  phase_deadline_ = now.steady + options_.timings.identify_timeout;
}

void ShardProtocol::SendResume(Now now) {
  std::string data = R"({"token":")";
  data += JsonEscape(options_.token);
  data += R"(","session_id":")" + JsonEscape(session_->id);
  data += R"(","seq":)" + std::to_string(session_->last_sequence.value_or(0)) + '}';
  actions_.emplace_back(action::Send{Payload(Opcode::kResume, data)});
  replayed_ = false;
  SetPhase(Phase::kResuming, ShardState::kResuming, info_.reason);
  phase_deadline_ = now.steady + options_.timings.resume_timeout;
}

// ---- Payloads ----

void ShardProtocol::Received(std::string_view json, Now now) {
  if (!connected()) return;
  bytes_since_beat_ = true;
  Envelope envelope;
  if (!reader_->Read(json, &envelope)) {
    End(EndCause::kGarbage, "not a gateway payload", now);
    return;
  }
  switch (static_cast<Opcode>(envelope.op)) {
    case Opcode::kDispatch:
      OnDispatch(envelope, now);
      return;
    case Opcode::kHeartbeat:
      SendHeartbeat(/*is_asked_for=*/true, now);
      return;
    case Opcode::kHeartbeatAck:
      OnHeartbeatAck(now);
      return;
    case Opcode::kHello:
      OnHello(envelope, now);
      return;
    case Opcode::kReconnect:
      End(EndCause::kReconnectRequested, "", now);
      return;
    case Opcode::kInvalidSession:
      End(envelope.data == "true" ? EndCause::kInvalidSessionResumable : EndCause::kInvalidSession,
          "", now);
      return;
    case Opcode::kIdentify:
    case Opcode::kPresenceUpdate:
    case Opcode::kResume:
      break;
  }
  // Opcodes that bots do not know are ignored, as Discord asks.
}

void ShardProtocol::ReceivedGarbage(std::string_view why, Now now) {
  if (connected()) End(EndCause::kGarbage, why, now);
}

void ShardProtocol::ReceivedOversize(std::string_view beginning, Now now) {
  if (!connected()) return;
  const std::optional<DispatchHead> head = ReadDispatchHead(beginning);
  const bool in_session = session_ && (phase_ == Phase::kReady || phase_ == Phase::kResuming);
  if (in_session && head && session_->last_sequence &&
      head->sequence == *session_->last_sequence + 1) {
    session_->last_sequence = head->sequence;
    info_.sequence = head->sequence;
    replayed_ = true;
    actions_.emplace_back(action::SkipEvent{head->sequence, std::string(head->type)});
  }
  End(EndCause::kOversize, "", now);
}

void ShardProtocol::OnHello(const Envelope& envelope, Now now) {
  if (phase_ != Phase::kAwaitingHello) return;
  const std::optional<milliseconds> interval = ParseHello(envelope.data);
  if (!interval) {
    End(EndCause::kGarbage, "HELLO without a sensible heartbeat interval", now);
    return;
  }
  said_hello_ = true;
  heartbeat_interval_ = *interval;
  // The first beat at a random part of the interval, so that shards which connected together do not
  // beat together.
  const double jitter = std::uniform_real_distribution<double>(0, 1)(random_);
  next_beat_ = now.steady + std::chrono::duration_cast<SteadyClock::duration>(*interval * jitter);
  if (resuming_) {
    SendResume(now);
  } else if (now.steady >= identify_not_before_) {
    RequestSessionStart();
  } else {
    SetPhase(Phase::kAwaitingSlot, info_.state, info_.reason);
    phase_deadline_ = identify_not_before_;
  }
}

void ShardProtocol::OnDispatch(const Envelope& envelope, Now now) {
  if (envelope.type == "READY") {
    OnReady(envelope, now);
    return;
  }
  // Without a session there is nothing that a dispatch could belong to.
  if (!session_ || (phase_ != Phase::kReady && phase_ != Phase::kResuming)) return;
  const bool is_resumed = envelope.type == "RESUMED";
  if (!envelope.sequence || TakeSequence(*envelope.sequence, now)) {
    // A replay that gets on is an answer; one that repeats itself is none.
    if (phase_ == Phase::kResuming && envelope.sequence) {
      phase_deadline_ = now.steady + options_.timings.resume_timeout;
    }
    TrackGuilds(envelope);
    Emit(envelope, now);
    if (!is_resumed) silence_.OnEvent(now.steady);
  }
  if (is_resumed && phase_ == Phase::kResuming) {
    ++info_.resumes;
    BecomeReady(/*new_session=*/false, now);
  }
}

void ShardProtocol::OnReady(const Envelope& envelope, Now now) {
  if (!connected() || phase_ == Phase::kAwaitingHello || phase_ == Phase::kAwaitingSlot) return;
  std::optional<Ready> ready = ParseReady(envelope.data);
  if (!ready) {
    End(EndCause::kGarbage, "READY is not an object", now);
    return;
  }
  if (has_session() && session_->id == ready->session_id) {
    // The session's own READY again, replayed.
    if (!envelope.sequence || TakeSequence(*envelope.sequence, now)) EmitReady(envelope, now);
    return;
  }
  if (session_) DropSession("READY of a new session came in place of RESUMED");
  if (ready->session_id.size() > kMaxSessionIdBytes) {
    actions_.emplace_back(action::Warn{"READY's session_id is too long for a RESUME"});
    ready->session_id.clear();
  }
  session_ = Session{.id = std::move(ready->session_id),
                     .resume_url = std::move(ready->resume_gateway_url),
                     .since = now.steady};
  if (!IsAcceptableResumeUrl(session_->resume_url, gateway_url_)) {
    if (!session_->resume_url.empty()) {
      actions_.emplace_back(action::Warn{"READY's resume_gateway_url cannot be used"});
    }
    session_->resume_url.clear();
  }
  had_session_since_start_ = true;
  SetGuilds(ready->guilds);
  info_.session = std::max(info_.session, session_floor_) + 1;
  if (envelope.sequence) TakeSequence(*envelope.sequence, now);
  EmitReady(envelope, now);
  BecomeReady(/*new_session=*/true, now);
}

void ShardProtocol::BecomeReady(bool new_session, Now now) {
  failed_resumes_ = 0;
  avoid_resume_url_ = false;
  pace_.Succeeded();
  silence_.Begin(new_session, now.steady);
  ready_since_ = now.steady;
  info_.connected_since = now.wall;
  if (new_session && std::exchange(presence_left_out_, false)) {
    actions_.emplace_back(action::Send{Payload(Opcode::kPresenceUpdate, presence_)});
  }
  SetPhase(Phase::kReady, ShardState::kReady, new_session ? "ready" : "resumed");
}

void ShardProtocol::SetGuilds(std::span<const uint64_t> guilds) {
  guilds_.clear();
  for (const uint64_t guild : guilds) {
    if (guilds_.size() < kMaxGuilds) guilds_.insert(guild);
  }
  info_.guilds = static_cast<uint32_t>(guilds_.size());
}

void ShardProtocol::TrackGuilds(const Envelope& envelope) {
  if (envelope.guild_id == 0) return;
  if (envelope.type == "GUILD_CREATE") {
    if (guilds_.size() < kMaxGuilds) guilds_.insert(envelope.guild_id);
  } else if (envelope.type == "GUILD_DELETE" && !IsUnavailable(envelope.data)) {
    guilds_.erase(envelope.guild_id);
  }
  info_.guilds = static_cast<uint32_t>(guilds_.size());
}

// Whether a dispatch with this number is to be emitted. May end the connection.
bool ShardProtocol::TakeSequence(uint64_t sequence, Now now) {
  std::optional<uint64_t>& last = session_->last_sequence;
  const std::string found =
      !last || sequence == *last + 1
          ? ""
          : "sequence " + std::to_string(sequence) + " came after " + std::to_string(*last);
  if (last && sequence <= *last) {
    // In a replay doubles are to be expected.
    if (phase_ == Phase::kReady && !std::exchange(session_->warned_of_doubles, true)) {
      actions_.emplace_back(action::Warn{found});
    }
    return false;
  }
  if (!found.empty()) {
    if (sequence - *last > kLargestGap) {
      End(EndCause::kGarbage, found, now);
      return false;
    }
    // What Discord has sent and we have not seen, it still has.
    const bool tried = session_->resumed_for_gap_after == last;
    if (!tried && has_session() && session_->gap_resumes < kMaxGapResumes) {
      session_->resumed_for_gap_after = last;
      End(EndCause::kSequenceGap, found, now);
      return false;
    }
    if (tried) ++session_->gap_resumes;
    const bool skips = session_->gap_resumes >= kMaxGapResumes;
    if (!skips || !std::exchange(session_->said_that_server_skips, true)) {
      actions_.emplace_back(
          action::LoseSession{.session = info_.session,
                              .last_sequence = *last,
                              .last_event_unix_nanos = session_->last_event_unix_nanos,
                              .reason = "SEQUENCE_GAP: " + found +
                                        (skips ? "; the server skips numbers, and further gaps of "
                                                 "this session are not told"
                                               : "")});
    }
  }
  replayed_ = true;
  last = sequence;
  info_.sequence = sequence;
  return true;
}

void ShardProtocol::Unsettle(uint32_t session, uint64_t sequence) {
  if (!session_ || session != info_.session || !session_->last_sequence) return;
  if (sequence == 0 || sequence > *session_->last_sequence) return;
  session_->last_sequence = sequence - 1;
  info_.sequence = sequence - 1;
}

void ShardProtocol::EmitReady(const Envelope& envelope, Now now) {
  actions_.emplace_back(action::OpenSession{.session = info_.session,
                                            .id = session_->id,
                                            .resume_url = session_->resume_url,
                                            .intents = options_.intents});
  Emit(envelope, now);
}

void ShardProtocol::Emit(const Envelope& envelope, Now now) {
  session_->last_event_unix_nanos = UnixNanos(now.wall);
  info_.last_event_at = now.wall;
  ++info_.events;
  actions_.emplace_back(
      action::EmitDispatch{Dispatch{.shard = options_.shard,
                                    .session = info_.session,
                                    .sequence = envelope.sequence.value_or(0),
                                    .guild_id = envelope.guild_id,
                                    .type = envelope.type,
                                    .data = envelope.data,
                                    .received_unix_nanos = session_->last_event_unix_nanos}});
}

// ---- Heartbeats ----

void ShardProtocol::SendHeartbeat(bool is_asked_for, Now now) {
  beats_in_flight_.Sent(now.steady);
  const bool has_sequence = session_ && session_->last_sequence;
  const std::string data = has_sequence ? std::to_string(*session_->last_sequence) : "null";
  actions_.emplace_back(action::Send{.text = Payload(Opcode::kHeartbeat, data),
                                     .is_heartbeat = true,
                                     .is_asked_for = is_asked_for});
}

void ShardProtocol::Beat(Now now) {
  if (phase_ != Phase::kReady || extra_beat_ || beats_in_flight_.is_full()) return;
  extra_beat_ = now.steady;
  SendHeartbeat(/*is_asked_for=*/true, now);
}

void ShardProtocol::HeartbeatLeftOut() {
  const auto sent = beats_in_flight_.TakeBack();
  if (sent && sent == extra_beat_) extra_beat_.reset();
}

void ShardProtocol::OnHeartbeatAck(Now now) {
  beats_without_ack_ = 0;
  const auto sent = beats_in_flight_.Acknowledged();
  if (!sent) return;
  info_.latency = now.steady - *sent;
  if (extra_beat_ && *sent >= *extra_beat_) extra_beat_.reset();
  if (phase_ == Phase::kReady && *sent >= *ready_since_) {
    actions_.emplace_back(action::ReportAck{*sent});
  }
}

void ShardProtocol::BeatIfDue(Now now) {
  if (now.steady < next_beat_) return;
  // A worker that was held up itself has not read what may have come meanwhile, and must not judge.
  const bool late = now.steady - next_beat_ > heartbeat_interval_ / 2;
  if (beats_without_ack_ > 0 && !late) {
    // During the start-up burst ACKs come late, so other traffic counts as life
    // (andersfylling/disgord#415), but not for ever.
    if (!bytes_since_beat_) {
      End(EndCause::kZombie, "no ACK and no other traffic since the last one", now);
      return;
    }
    if (beats_without_ack_ >= 2) {
      End(EndCause::kZombie, "no ACK over two intervals", now);
      return;
    }
  }
  if (!late || beats_without_ack_ == 0) ++beats_without_ack_;
  bytes_since_beat_ = false;
  next_beat_ += heartbeat_interval_;
  if (next_beat_ <= now.steady) next_beat_ = now.steady + heartbeat_interval_;
  SendHeartbeat(/*is_asked_for=*/false, now);
}

void ShardProtocol::LookForSilence(Now now) {
  const auto silence = silence_.Look(now.steady);
  if (!silence) return;
  ++info_.silences;
  info_.last_silence = now.wall;
  actions_.emplace_back(action::ReportSilence{*silence});
  End(EndCause::kSilence, "", now);
}

void ShardProtocol::Tick(Now now) {
  // Elsewhere the answer that is waited for may have come, and ends the wait without a loss.
  const bool stalled =
      next_beat_ != SteadyTime::max() && now.steady - next_beat_ > options_.timings.stall_limit;
  if (phase_ == Phase::kReady && stalled) {
    End(EndCause::kStalled, "", now);
    return;
  }
  BeatIfDue(now);
  LookForSilence(now);
  if (now.steady < phase_deadline_) return;
  phase_deadline_ = SteadyTime::max();
  switch (phase_) {
    case Phase::kOff:
    case Phase::kAwaitingAddress:
    case Phase::kInGate:
    case Phase::kConnecting:
    case Phase::kReady:
      return;
    case Phase::kAwaitingHello:
      End(EndCause::kHelloTimeout, "", now);
      return;
    case Phase::kAwaitingSlot:
      RequestSessionStart();
      return;
    case Phase::kIdentifying:
      End(EndCause::kIdentifyTimeout, "", now);
      return;
    case Phase::kResuming:
      End(EndCause::kResumeTimeout, "", now);
      return;
    case Phase::kPausing:
      BeginAttempt(now, info_.reason);
      return;
  }
}

// ---- Ends ----

void ShardProtocol::Closed(std::optional<uint16_t> code, Now now) {
  if (!connected()) return;
  EndWith(AfterClose(code), DescribeClose(code), false, now);
}

void ShardProtocol::ConnectionLost(std::string_view why, Now now) {
  if (!connected()) return;
  const Aftermath aftermath = AfterEnd(EndCause::kConnectionLost);
  EndWith(aftermath, Join(aftermath.reason, why), false, now);
}

void ShardProtocol::End(EndCause cause, std::string_view detail, Now now) {
  const Aftermath aftermath = AfterEnd(cause);
  EndWith(aftermath, Join(aftermath.reason, detail), true, now);
}

void ShardProtocol::Crashed(std::string_view why, Now now) {
  if (is_running()) End(EndCause::kException, why, now);
}

void ShardProtocol::EndWith(const Aftermath& aftermath, std::string reason, bool close_connection,
                            Now now) {
  const bool was_ready = phase_ == Phase::kReady;
  const bool identify_failed = phase_ == Phase::kIdentifying;
  if (close_connection) actions_.emplace_back(action::Close{kCloseKeepingSession});
  if (std::exchange(in_gate_, false)) actions_.emplace_back(action::LeaveGate{});

  const bool retry_at_once = NoteFailedResume(was_ready);
  milliseconds delay =
      was_ready ? pace_.AfterReady(now.steady - *ready_since_) : pace_.AfterFailure();
  delay = std::max(delay, pace_.For(aftermath.pause));
  ForgetConnection();

  if (aftermath.next == NextStep::kStop) {
    if (!aftermath.keeps_session) DropSession(reason);
    SetPhase(Phase::kOff, ShardState::kFailed, std::move(reason));
    return;
  }
  const std::optional<SteadyTime> since = session_ ? session_->since : std::nullopt;
  if (aftermath.next == NextStep::kIdentify || !has_session()) {
    DropSession(reason);
  } else if (failed_resumes_ >= kMaxFailedResumes) {
    DropSession("it could not be resumed in " + std::to_string(failed_resumes_) +
                " attempts; the last: " + reason);
  }
  const bool lost_soon =
      since && !session_ && now.steady - *since < options_.timings.session_stable_after;
  if (aftermath.died || identify_failed || lost_soon) {
    Die(std::move(reason), delay, now);
  } else {
    const bool at_once = retry_at_once && session_ && aftermath.pause == Pause::kNone;
    Retry(at_once ? milliseconds(0) : delay, std::move(reason), now);
  }
}

// After an attempt to resume that has failed. True: another address is worth trying at once.
bool ShardProtocol::NoteFailedResume(bool was_ready) {
  if (!resuming_ || was_ready) return false;
  // Before RESUME was sent nothing has been said of the session, and events are as good as a yes.
  if (phase_ == Phase::kResuming) failed_resumes_ = replayed_ ? 0 : failed_resumes_ + 1;
  // The zone may be gone; the main address knows the session, too.
  if (!at_resume_url_ || said_hello_) return false;
  return !std::exchange(avoid_resume_url_, true);
}

void ShardProtocol::Die(std::string reason, milliseconds delay, Now now) {
  if (!options_.crash_guard.respawn) {
    SetPhase(Phase::kOff, ShardState::kFailed, Join("died, and --shard-respawn is off", reason));
    return;
  }
  ++info_.restarts;
  respawning_ = true;
  if (!crash_guard_.Die(now.steady)) {
    Retry(delay, std::move(reason), now);
    return;
  }
  const uint32_t deaths = crash_guard_.deaths();
  PauseFor(std::max(delay, options_.crash_guard.pause), ShardState::kCrashLoop,
           Join("died " + std::to_string(deaths) + " times; the last time", reason), now);
  actions_.emplace_back(action::EnterCrashLoop{deaths, std::move(reason)});
}

void ShardProtocol::Retry(milliseconds delay, std::string reason, Now now) {
  if (delay.count() == 0) {
    BeginAttempt(now, std::move(reason));
  } else {
    PauseFor(delay, ShardState::kBackingOff, std::move(reason), now);
  }
}

void ShardProtocol::PauseFor(milliseconds delay, ShardState state, std::string reason, Now now) {
  info_.retry_at = now.wall + delay;
  SetPhase(Phase::kPausing, state, std::move(reason));
  phase_deadline_ = now.steady + delay;
}

void ShardProtocol::DropSession(std::string_view reason) {
  failed_resumes_ = 0;
  if (!session_) return;
  actions_.emplace_back(
      action::LoseSession{.session = info_.session,
                          .last_sequence = session_->last_sequence.value_or(0),
                          .last_event_unix_nanos = session_->last_event_unix_nanos,
                          .reason = std::string(reason)});
  actions_.emplace_back(action::EndSession{info_.session});
  session_.reset();
  info_.sequence = 0;
}

// A new socket starts without the old one's beats: a stale missing ACK would end it at once
// (PsycherosAI/Psycheros#42).
void ShardProtocol::ForgetConnection() {
  said_hello_ = false;
  ready_since_.reset();
  phase_deadline_ = SteadyTime::max();
  next_beat_ = SteadyTime::max();
  beats_without_ack_ = 0;
  bytes_since_beat_ = false;
  beats_in_flight_.Clear();
  extra_beat_.reset();
  silence_.End();
  info_.connected_since.reset();
  info_.latency.reset();
}

}  // namespace shardd::gateway
