#include "gateway/protocol.h"

#include <algorithm>
#include <utility>

#include "common/json_escape.h"
#include "gateway/gateway_url.h"
#include "gateway/opcode.h"
#include "gateway/payload.h"

namespace shardd::gateway {
namespace {

using std::chrono::milliseconds;

// A session that Discord accepts connections for but neither resumes nor refuses would otherwise be
// asked for ever (buape/carbon#364 has the same number).
constexpr uint32_t kMaxFailedResumes = 3;

// Discord's own default and least: GUILD_CREATE then leaves out the offline members of guilds above
// it. The burst of these at the start is the largest load a shard ever has, and a bot that needs
// all members asks for them (op 8) anyway.
constexpr int kLargeThreshold = 50;

std::string Join(std::string_view reason, std::string_view detail) {
  std::string text(reason);
  if (!detail.empty()) {
    text += ": ";
    text += detail;
  }
  return text;
}

}  // namespace

ShardProtocol::ShardProtocol(ProtocolOptions options, EnvelopeReader* reader)
    : options_(std::move(options)),
      reader_(reader),
      random_(options_.seed),
      retry_(options_.timings.retry, random_()),
      unstable_(options_.timings.unstable, random_()),
      new_session_(options_.timings.new_session, random_()) {
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

SteadyTime ShardProtocol::deadline() const { return std::min(phase_deadline_, next_beat_); }

void ShardProtocol::SetPhase(Phase phase, ShardState state, std::string reason) {
  phase_ = phase;
  phase_deadline_ = SteadyTime::max();
  if (state == info_.state && reason == info_.reason) return;
  info_.state = state;
  info_.reason = std::move(reason);
  if (state != ShardState::kBackingOff) info_.retry_at.reset();
  actions_.emplace_back(action::ChangeState{info_});
}

// ---- What the owner wants ----

void ShardProtocol::Start(Now now) {
  if (is_running()) return;
  failed_resumes_ = 0;
  avoid_resume_url_ = false;
  ended_soon_ = false;
  lost_soon_ = false;
  lost_session_ = false;
  retry_.Reset();
  unstable_.Reset();
  new_session_.Reset();
  BeginAttempt(now, has_session() ? "started with a kept session" : "started");
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
  if (!keep_session) {
    session_.reset();
    last_sequence_.reset();
    guilds_.clear();
    info_.sequence = 0;
    info_.guilds = 0;
  }
  if (was_off && info_.state == ShardState::kStopped && !gave_up_session) return;
  SetPhase(Phase::kOff, ShardState::kStopped, has_session() ? "stopped, session kept" : "stopped");
}

// ---- Attempts ----

void ShardProtocol::BeginAttempt(Now, std::string reason) {
  resuming_ = has_session();
  if (!resuming_) {
    in_gate_ = true;
    SetPhase(Phase::kInGate, ShardState::kWaitingToIdentify, std::move(reason));
    actions_.emplace_back(action::EnterGate{});
    return;
  }
  // A session lives in one zone of Discord's, whose address READY named; since 2022 the main
  // address works less well for it (discord-api-docs#5282), but that zone's name may vanish.
  at_resume_url_ = !avoid_resume_url_ && !session_->resume_url.empty();
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

void ShardProtocol::SendIdentify(Now now) {
  in_gate_ = false;
  actions_.emplace_back(action::SpendSessionStart{});
  ++info_.identifies;
  std::string text = R"({"op":2,"d":{"token":")";
  text += JsonEscape(options_.token);
  text +=
      R"(","properties":{"os":"linux","browser":"shardd","device":"shardd"},"large_threshold":)";
  text += std::to_string(kLargeThreshold);
  text += ",\"shard\":[" + std::to_string(options_.shard.id) + ',' +
          std::to_string(options_.shard.count);
  text += "],\"intents\":" + std::to_string(options_.intents) + "}}";
  actions_.emplace_back(action::Send{std::move(text)});
  SetPhase(Phase::kIdentifying, ShardState::kIdentifying, info_.reason);
  phase_deadline_ = now.steady + options_.timings.identify_timeout;
}

void ShardProtocol::SendResume(Now now) {
  std::string text = R"({"op":6,"d":{"token":")";
  text += JsonEscape(options_.token);
  text += R"(","session_id":")" + JsonEscape(session_->id);
  text += R"(","seq":)" + std::to_string(last_sequence_.value_or(0)) + "}}";
  actions_.emplace_back(action::Send{std::move(text)});
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
      SendHeartbeat(now);
      return;
    case Opcode::kHeartbeatAck:
      beats_without_ack_ = 0;
      if (unacknowledged_since_) info_.latency = now.steady - *unacknowledged_since_;
      unacknowledged_since_.reset();
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
    case Opcode::kResume:
      break;
  }
  // Opcodes that bots do not know are ignored, as Discord asks.
}

void ShardProtocol::ReceivedGarbage(std::string_view why, Now now) {
  if (connected()) End(EndCause::kGarbage, why, now);
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
    SendIdentify(now);
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
  const bool resumed = phase_ == Phase::kResuming && envelope.type == "RESUMED";
  if (phase_ == Phase::kResuming) {
    phase_deadline_ = now.steady + options_.timings.resume_timeout;
  }
  TrackGuilds(envelope);
  Emit(envelope, now);
  if (resumed) {
    ++info_.resumes;
    BecomeReady(now, "resumed");
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
    Emit(envelope, now);
    return;
  }
  if (session_) DropSession("READY of a new session came in place of RESUMED");
  session_ = Session{std::move(ready->session_id), std::move(ready->resume_gateway_url)};
  if (!IsAcceptableResumeUrl(session_->resume_url, gateway_url_)) {
    if (!session_->resume_url.empty()) {
      actions_.emplace_back(action::Warn{"READY's resume_gateway_url cannot be used"});
    }
    session_->resume_url.clear();
  }
  if (std::exchange(lost_session_, false)) {
    ++info_.restarts;
    info_.last_restart = now.wall;
  }
  session_since_ = now.steady;
  last_sequence_.reset();
  warned_of_sequence_ = false;
  guilds_.clear();
  guilds_.insert(ready->guilds.begin(), ready->guilds.end());
  info_.guilds = static_cast<uint32_t>(guilds_.size());
  ++info_.session;
  Emit(envelope, now);
  BecomeReady(now, "ready");
}

void ShardProtocol::BecomeReady(Now now, std::string reason) {
  failed_resumes_ = 0;
  avoid_resume_url_ = false;
  retry_.Reset();
  ready_since_ = now.steady;
  info_.connected_since = now.wall;
  SetPhase(Phase::kReady, ShardState::kReady, std::move(reason));
}

void ShardProtocol::TrackGuilds(const Envelope& envelope) {
  if (envelope.guild_id == 0) return;
  if (envelope.type == "GUILD_CREATE") {
    guilds_.insert(envelope.guild_id);
  } else if (envelope.type == "GUILD_DELETE" && !IsUnavailable(envelope.data)) {
    guilds_.erase(envelope.guild_id);
  }
  info_.guilds = static_cast<uint32_t>(guilds_.size());
}

void ShardProtocol::Emit(const Envelope& envelope, Now now) {
  if (envelope.sequence) {
    const uint64_t sequence = *envelope.sequence;
    const bool is_double = last_sequence_ && sequence <= *last_sequence_;
    const bool is_jump = last_sequence_ && sequence > *last_sequence_ + 1;
    // Doubles belong to a replay.
    const bool is_odd = is_jump || (is_double && phase_ == Phase::kReady);
    if (is_odd && !std::exchange(warned_of_sequence_, true)) {
      actions_.emplace_back(action::Warn{"sequence " + std::to_string(sequence) + " came after " +
                                         std::to_string(*last_sequence_)});
    }
    if (is_double) return;
    replayed_ = true;
    last_sequence_ = sequence;
    info_.sequence = sequence;
  }
  last_event_unix_nanos_ = UnixNanos(now.wall);
  info_.last_event_at = now.wall;
  ++info_.events;
  actions_.emplace_back(
      action::EmitDispatch{Dispatch{.shard = options_.shard,
                                    .session = info_.session,
                                    .sequence = envelope.sequence.value_or(0),
                                    .guild_id = envelope.guild_id,
                                    .type = envelope.type,
                                    .data = envelope.data,
                                    .received_unix_nanos = last_event_unix_nanos_}});
}

// ---- Heartbeats ----

void ShardProtocol::SendHeartbeat(Now now) {
  if (!unacknowledged_since_) unacknowledged_since_ = now.steady;
  std::string text = R"({"op":1,"d":)";
  text += last_sequence_ ? std::to_string(*last_sequence_) : "null";
  text += '}';
  actions_.emplace_back(action::Send{std::move(text), true});
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
  SendHeartbeat(now);
}

void ShardProtocol::Tick(Now now) {
  BeatIfDue(now);
  if (now.steady < phase_deadline_) return;
  phase_deadline_ = SteadyTime::max();
  switch (phase_) {
    case Phase::kOff:
    case Phase::kInGate:
    case Phase::kConnecting:
    case Phase::kReady:
      return;
    case Phase::kAwaitingHello:
      End(EndCause::kHelloTimeout, "", now);
      return;
    case Phase::kAwaitingSlot:
      SendIdentify(now);
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

void ShardProtocol::EndWith(const Aftermath& aftermath, std::string reason, bool close_connection,
                            Now now) {
  const bool was_ready = phase_ == Phase::kReady;
  if (close_connection) actions_.emplace_back(action::Close{kCloseKeepingSession});
  if (std::exchange(in_gate_, false)) actions_.emplace_back(action::LeaveGate{});

  bool retry_at_once = false;
  if (resuming_ && !was_ready) {
    // Before RESUME was sent nothing has been said of the session, and events are as good as a yes.
    if (phase_ == Phase::kResuming) failed_resumes_ = replayed_ ? 0 : failed_resumes_ + 1;
    // The zone may be gone; the main address knows the session, too.
    if (at_resume_url_ && !said_hello_) {
      retry_at_once = !avoid_resume_url_;
      avoid_resume_url_ = true;
    }
  }
  milliseconds delay = DelayBeforeNext(was_ready, aftermath.pause, now);
  ForgetConnection();
  const bool had_session = session_.has_value();

  switch (aftermath.next) {
    case NextStep::kResume:
      if (session_ && !has_session()) DropSession(reason);
      if (session_ && failed_resumes_ >= kMaxFailedResumes) {
        DropSession("it could not be resumed in " + std::to_string(failed_resumes_) +
                    " attempts; the last: " + reason);
      }
      break;
    case NextStep::kIdentify:
      DropSession(reason);
      break;
    case NextStep::kStop:
      DropSession(reason);
      SetPhase(Phase::kOff, ShardState::kFailed, std::move(reason));
      return;
  }
  if (had_session && !session_) delay = std::max(delay, DelayBeforeNewSession(now));
  if (delay.count() == 0 || (retry_at_once && session_)) {
    BeginAttempt(now, std::move(reason));
  } else {
    PauseFor(delay, std::move(reason), now);
  }
}

// Zero: at once.
milliseconds ShardProtocol::DelayBeforeNext(bool was_ready, bool pause, Now now) {
  milliseconds delay{0};
  if (was_ready) {
    // A RESUME that follows a healthy connection loses no time. Connections that end as soon as
    // they are made must not become a busy loop, though, and their success has reset the other
    // counter.
    const bool stable = now.steady - *ready_since_ >= options_.timings.stable_after;
    if (stable) unstable_.Reset();
    if (!stable && ended_soon_) delay = unstable_.Next();
    ended_soon_ = !stable;
  } else {
    delay = retry_.Next();
  }
  if (pause) {
    std::uniform_int_distribution<int64_t> range(
        options_.timings.invalid_session_pause_min.count(),
        options_.timings.invalid_session_pause_max.count());
    delay = std::max(delay, milliseconds(range(random_)));
  }
  return delay;
}

// Each new session costs one of the day's session starts, so sessions that do not last are started
// ever more slowly. Zero for the first of them.
milliseconds ShardProtocol::DelayBeforeNewSession(Now now) {
  const bool lasted = now.steady - session_since_ >= options_.timings.session_stable_after;
  if (lasted) new_session_.Reset();
  const bool lost_soon_before = std::exchange(lost_soon_, !lasted);
  return !lasted && lost_soon_before ? new_session_.Next() : milliseconds(0);
}

void ShardProtocol::PauseFor(milliseconds delay, std::string reason, Now now) {
  info_.retry_at = now.wall + delay;
  SetPhase(Phase::kPausing, ShardState::kBackingOff, std::move(reason));
  phase_deadline_ = now.steady + delay;
}

// Session and sequence go together: one session's sequence means nothing to the next
// (vellum-ai/vellum-assistant#39266).
void ShardProtocol::DropSession(std::string_view reason) {
  if (session_) {
    actions_.emplace_back(action::LoseSession{.session = info_.session,
                                              .last_sequence = last_sequence_.value_or(0),
                                              .last_event_unix_nanos = last_event_unix_nanos_,
                                              .reason = std::string(reason)});
    lost_session_ = true;
  }
  session_.reset();
  last_sequence_.reset();
  last_event_unix_nanos_ = 0;
  failed_resumes_ = 0;
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
  unacknowledged_since_.reset();
  info_.connected_since.reset();
  info_.latency.reset();
}

}  // namespace shardd::gateway
