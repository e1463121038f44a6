#include "gateway/shard.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <deque>
#include <utility>

#include "common/log.h"
#include "gateway/asio.h"
#include "gateway/payload.h"

namespace shardd::gateway {
namespace {

// How often a shard in the gate looks whether Discord's day of session starts has begun anew.
constexpr std::chrono::seconds kGateTick{1};

// Before a shard whose recovery from an exception threw as well tries again.
constexpr std::chrono::seconds kBrokenPause{1};

// Payloads that wait for the one being written. A shard has one or two to send at a time.
constexpr size_t kMaxQueued = 16;

std::string_view Name(ShardState state) {
  switch (state) {
    case ShardState::kIdle:
      return "idle";
    case ShardState::kWaitingToIdentify:
      return "waiting to identify";
    case ShardState::kConnecting:
      return "connecting";
    case ShardState::kIdentifying:
      return "identifying";
    case ShardState::kResuming:
      return "resuming";
    case ShardState::kReady:
      return "ready";
    case ShardState::kBackingOff:
      return "backing off";
    case ShardState::kCrashLoop:
      return "crash loop";
    case ShardState::kFailed:
      return "failed";
    case ShardState::kStopped:
      return "stopped";
  }
  return "";
}

void LogState(const std::string& name, const ShardInfo& info) {
  switch (info.state) {
    case ShardState::kReady:
      log::Info("shard is ready", {{"shard", name},
                                   {"how", info.reason},
                                   {"session", info.session},
                                   {"sequence", info.sequence},
                                   {"guilds", info.guilds}});
      return;
    case ShardState::kFailed:
      log::Error("shard failed", {{"shard", name}, {"reason", info.reason}});
      return;
    case ShardState::kCrashLoop:  // has an alert of its own
      return;
    case ShardState::kBackingOff:
    case ShardState::kStopped:
      log::Info("shard is not connected",
                {{"shard", name}, {"state", Name(info.state)}, {"reason", info.reason}});
      return;
    case ShardState::kIdle:
    case ShardState::kWaitingToIdentify:
    case ShardState::kConnecting:
    case ShardState::kIdentifying:
    case ShardState::kResuming:
      log::Debug("shard goes on",
                 {{"shard", name}, {"state", Name(info.state)}, {"reason", info.reason}});
      return;
  }
}

}  // namespace

struct Shard::Connection {
  std::unique_ptr<Transport> transport;
  std::unique_ptr<Inflater> inflater;
  std::deque<std::string> outgoing;
  bool open = false;
  bool write_in_flight = false;
  uint64_t bytes_seen = 0;  // of the transport's bytes_read(), at the last tick
};

Shard::Shard(ProtocolOptions options, ShardContext* context)
    : context_(context),
      compression_(options.compression),
      close_timeout_(options.timings.close_timeout),
      crash_guard_(options.crash_guard),
      name_(ToString(options.shard)),
      presence_(options.presence),
      protocol_(std::move(options), &context->reader),
      timer_(context->io),
      sends_(&context->members, presence_) {}

Now Shard::TimeNow() const { return {context_->clock.Steady(), context_->clock.Wall()}; }

void Shard::SetGatewayUrl(const std::string& url) {
  Guarded([&] {
    protocol_.SetGatewayUrl(url, TimeNow());
    if (!protocol_.actions().empty()) Perform();
  });
}

void Shard::Restore(KeptShard kept) {
  Guarded([&] {
    protocol_.Restore(std::move(kept));
    Perform();
  });
}

void Shard::Start() {
  Guarded([this] {
    protocol_.Start(TimeNow());
    Perform();
  });
}

void Shard::Stop(bool keep_session) {
  Guarded([&] {
    protocol_.Stop(keep_session, TimeNow());
    Perform();
  });
}

void Shard::Beat() {
  Guarded([this] {
    protocol_.Beat(TimeNow());
    if (!protocol_.actions().empty()) Perform();
  });
}

void Shard::SetPresence(const std::string& presence) {
  presence_ = presence;
  sends_.SetPresence(presence);
  protocol_.SetPresence(presence);
}

void Shard::AbortConnections() {
  for (const auto& each : connections_) {
    if (const ConnectionPtr connection = each.lock()) connection->transport->Abort();
  }
}

bool Shard::has_connections() const {
  return std::ranges::any_of(connections_, [](const auto& each) { return !each.expired(); });
}

// ---- What the protocol decided ----

void Shard::Perform() {
  Guarded([this] { PerformActions(); });
}

void Shard::PerformActions() {
  // Performing one may bring further ones.
  while (!protocol_.actions().empty()) {
    performing_.swap(protocol_.actions());
    for (performed_ = 0; performed_ < performing_.size(); ++performed_) {
      std::visit([this](auto& a) { Do(a); }, performing_[performed_]);
    }
    performing_.clear();
  }
  FollowState();
  if (!std::exchange(in_changed, true)) context_->changed.push_back(this);
  ArmTimer();
}

void Shard::Do(action::EmitDispatch& a) {
  ++context_->dispatches;
  context_->sink_touched = true;
  context_->sink.OnDispatch(a.dispatch);
  if (a.dispatch.type != "RATE_LIMITED") return;
  a.dispatch.sequence = 0;  // taken, whatever is thrown from here on
  if (const auto limited = ParseRateLimited(a.dispatch.data)) {
    context_->members.Block(limited->guild_id, limited->retry_after, TimeNow().steady);
    PumpSends();
  }
}

void Shard::Do(action::ChangeState& a) {
  LogState(name_, a.info);
  context_->sink_touched = true;
  context_->sink.OnStateChange(a.info);
}

void Shard::Do(action::OpenSession& a) {
  context_->sink_touched = true;
  context_->sink.OnSessionOpened({.shard = info().shard,
                                  .session = a.session,
                                  .id = a.id,
                                  .resume_url = a.resume_url,
                                  .intents = a.intents});
}

void Shard::Do(action::EndSession& a) {
  context_->sink_touched = true;
  context_->sink.OnSessionEnded(info().shard, a.session);
}

void Shard::Do(action::LoseSession& a) {
  log::Warn("session lost", {{"shard", name_},
                             {"session", a.session},
                             {"sequence", a.last_sequence},
                             {"reason", a.reason}});
  context_->sink_touched = true;
  context_->sink.OnSessionLost({.shard = info().shard,
                                .session = a.session,
                                .last_sequence = a.last_sequence,
                                .last_event_unix_nanos = a.last_event_unix_nanos,
                                .reason = a.reason});
}

void Shard::Do(action::SkipEvent& a) {
  log::Error("event skipped: it is larger than --max-message-bytes",
             {{"shard", name_}, {"sequence", a.sequence}, {"type", a.type}});
  context_->sink_touched = true;
  context_->sink.OnSkippedEvent(
      {.shard = info().shard, .session = info().session, .sequence = a.sequence, .type = a.type});
}

void Shard::Do(action::EnterCrashLoop& a) {
  log::Error("shard is in a crash loop and pauses; Spawn ends the pause",
             {{"shard", name_},
              {"deaths", a.deaths},
              {"restarts", info().restarts},
              {"pause_ms", crash_guard_.pause.count()},
              {"reason", a.reason}});
  context_->sink_touched = true;
  context_->sink.OnCrashLoop({.shard = info().shard,
                              .deaths = a.deaths,
                              .window = crash_guard_.window,
                              .pause = crash_guard_.pause,
                              .restarts = info().restarts,
                              .reason = a.reason});
}

void Shard::Do(action::ReportAck& a) {
  context_->sink_touched = true;
  context_->sink.OnHeartbeatAck(info().shard, a.sent);
}

void Shard::Do(action::ReportSilence& a) {
  log::Warn("shard is silent: resuming it once",
            {{"shard", name_},
             {"silent_ms", a.silence.lasted.count()},
             {"expected_events", static_cast<uint64_t>(a.silence.expected_events)}});
  context_->sink_touched = true;
  context_->sink.OnSilence({.shard = info().shard,
                            .session = info().session,
                            .lasted = a.silence.lasted,
                            .expected_events = a.silence.expected_events});
}

void Shard::Do(action::Warn& a) {
  log::Warn("gateway oddity", {{"shard", name_}, {"what", a.text}});
}

void Shard::Do(action::EnterGate& a) { EnterGate(a.is_recovery); }

void Shard::EnterGate(bool is_recovery) {
  // A place that nobody takes any more would hold up its bucket for ever.
  if (ticket_ != 0) context_->gate.Leave(std::exchange(ticket_, 0), TimeNow().steady);
  const uint64_t entry = ++gate_entries_;
  // The gate calls from any thread, and perhaps within Enter.
  auto admit = [this, entry](SteadyTime not_before) {
    asio::post(context_->io, [this, entry, not_before] {
      if (ticket_ == 0 || entry != gate_entries_) return;
      Guarded([&] {
        protocol_.Admitted(not_before, TimeNow());
        Perform();
      });
    });
  };
  is_recovery_ = is_recovery;
  wait_reason_.clear();
  ticket_ = context_->gate.Enter(
      info().shard.id,
      is_recovery ? IdentifyGate::Purpose::kRecovery : IdentifyGate::Purpose::kStart,
      std::move(admit), TimeNow().steady);
  ShowWhyWaiting();
}

void Shard::Do(action::LeaveGate&) {
  context_->gate.Leave(std::exchange(ticket_, 0), TimeNow().steady);
}

void Shard::Do(action::SpendSessionStart&) {
  const Now now = TimeNow();
  const auto verdict = context_->gate.Identify(ticket_, now.steady);
  switch (verdict.kind) {
    case IdentifyGate::Verdict::kGranted:
      ticket_ = 0;
      protocol_.SessionStartGranted(now);
      return;
    case IdentifyGate::Verdict::kLater:
      protocol_.SessionStartLater(verdict.not_before, now);
      return;
    case IdentifyGate::Verdict::kRefused:
      protocol_.SessionStartRefused(now);
      EnterGate(is_recovery_);
      return;
  }
}

// The turn of a bucket is reason enough by itself.
void Shard::ShowWhyWaiting() {
  std::string why = context_->gate.WhyWaiting(ticket_, TimeNow().steady);
  if (why == wait_reason_) return;
  wait_reason_ = why;
  protocol_.SetWaitReason(why.empty() ? "waits for its turn" : why);
}

void Shard::Do(action::Connect& a) {
  auto connection = std::make_shared<Connection>();
  connection->transport = context_->make_transport(a.url);
  connection->inflater = Inflater::Create(compression_, context_->max_message_bytes);
  connection_ = connection;
  sends_.ConnectionChanged();
  std::erase_if(connections_, [](const auto& each) { return each.expired(); });
  connections_.push_back(connection);
  asio::co_spawn(context_->io, Run(connection, std::move(a.url)),
                 [this, connection](std::exception_ptr error) { OnEnd(connection, error); });
}

void Shard::Do(action::Send& a) {
  if (connection_ == nullptr) return;
  const size_t queued = connection_->outgoing.size();
  // A server that asks for heartbeats without reading them must not fill the memory, ...
  const bool is_unread = a.is_heartbeat && queued >= kMaxQueued;
  // ... nor one that asks without end have us break its own limit.
  if (is_unread || (a.is_asked_for && !sends_.HasRoomForAskedBeat(queued, TimeNow().steady))) {
    protocol_.HeartbeatLeftOut();
    return;
  }
  // A heartbeat or a RESUME tells Discord what it need not send again.
  context_->sink.Flush();
  connection_->outgoing.push_back(std::move(a.text));
  StartWriting();
}

void Shard::StartWriting() {
  if (std::exchange(connection_->write_in_flight, true)) return;
  asio::co_spawn(
      context_->io, WriteAll(connection_),
      [this, connection = connection_](std::exception_ptr error) { OnEnd(connection, error); });
}

void Shard::Do(action::Close& a) {
  const ConnectionPtr connection = std::exchange(connection_, nullptr);
  if (connection == nullptr) return;
  connection->outgoing.clear();
  if (!connection->open) {
    connection->transport->Abort();
    return;
  }
  asio::co_spawn(context_->io, CloseGently(connection, a.code),
                 [this, connection](std::exception_ptr error) { OnEnd(connection, error); });
}

void Shard::ArmTimer() {
  SteadyTime at = std::min(protocol_.deadline(), sends_at_);
  if (is_broken_) at = TimeNow().steady + kBrokenPause;
  if (at == SteadyTime::max() && ticket_ == 0) {
    ++timer_generation_;
    timer_at_ = at;
    timer_.cancel();
    return;
  }
  if (ticket_ != 0) at = std::min(at, TimeNow().steady + kGateTick);
  // A deadline that moved away is noticed when the timer fires: replayed events move it each time.
  if (at >= timer_at_) return;
  timer_at_ = at;
  timer_.expires_at(at);
  timer_.async_wait([this, generation = ++timer_generation_](error_code ec) {
    if (!ec && generation == timer_generation_) OnTimer();
  });
}

void Shard::OnTimer() {
  timer_at_ = SteadyTime::max();
  if (std::exchange(is_broken_, false)) {
    OnException("the attempt to recover threw as well");
    return;
  }
  Guarded([this] {
    const Now now = TimeNow();
    if (ticket_ != 0) {
      context_->gate.Tick(now.steady);
      ShowWhyWaiting();
    }
    // A large message that comes in slowly is life, too.
    if (connection_ != nullptr) {
      const uint64_t bytes = connection_->transport->bytes_read();
      if (std::exchange(connection_->bytes_seen, bytes) != bytes) protocol_.BytesArrived();
    }
    protocol_.Tick(now);
    Perform();
    PumpSends();
    ArmTimer();
  });
}

void Shard::Unsettle(const Action& action) {
  if (const auto* emit = std::get_if<action::EmitDispatch>(&action)) {
    protocol_.Unsettle(emit->dispatch.session, emit->dispatch.sequence);
  } else if (const auto* skip = std::get_if<action::SkipEvent>(&action)) {
    protocol_.Unsettle(info().session, skip->sequence);
  }
}

// An exception is a bug, or memory that ran out: this shard dies of it, and nothing else does.
template <class Function>
void Shard::Guarded(Function function) {
  try {
    function();
  } catch (const std::exception& e) {
    OnException(e.what());
  }
}

void Shard::OnException(const char* what) {
  log::Error("shard died of an exception", {{"shard", name_}, {"what", what}});
  // What was not performed is void, but no event may be lost by it: RESUME brings it again.
  for (size_t i = performed_; i < performing_.size(); ++i) Unsettle(performing_[i]);
  performing_.clear();
  for (const Action& each : protocol_.actions()) Unsettle(each);
  protocol_.actions().clear();
  if (const ConnectionPtr connection = std::exchange(connection_, nullptr)) {
    connection->transport->Abort();
  }
  if (ticket_ != 0) context_->gate.Leave(std::exchange(ticket_, 0), TimeNow().steady);
  try {
    protocol_.Crashed(what, TimeNow());
    PerformActions();
  } catch (const std::exception&) {
    // Not at once again, or an exception that stays would keep the worker busy.
    performing_.clear();
    protocol_.actions().clear();
    is_broken_ = true;
    ArmTimer();
  }
}

// ---- Commands ----

void Shard::Send(SendRequest request) {
  if (!is_running()) {
    request.reply.Say({.outcome = SendOutcome::kNotRunning});
    return;
  }
  sends_.Add(std::move(request), TimeNow().steady);
  PumpSends();
  ArmTimer();
}

void Shard::CancelSend(uint64_t id) {
  sends_.Cancel(id, TimeNow().steady);
  PumpSends();
}

void Shard::EndSends(SendOutcome outcome) {
  sends_.EndAll(outcome, TimeNow().steady);
  PumpSends();
}

void Shard::FollowState() {
  if (!is_running() && !sends_.is_empty()) EndSends(SendOutcome::kNotRunning);
  const bool is_ready = connection_ != nullptr && info().state == ShardState::kReady;
  if (is_ready == sends_.is_ready()) return;
  if (is_ready) {
    sends_.BecomeReady(protocol_.heartbeat_interval(), TimeNow().steady);
  } else {
    sends_.ConnectionChanged();
  }
  PumpSends();
}

void Shard::PumpSends() {
  const SteadyTime now = TimeNow().steady;
  sends_.Review(now);
  if (sends_.presence() != presence_) {
    presence_ = sends_.presence();
    protocol_.SetPresence(presence_);
  }
  sends_at_ = sends_.NextEnd();
  if (!sends_.is_ready() || connection_ == nullptr || connection_->write_in_flight) return;
  const SteadyTime next = sends_.NextTake(now);
  if (next <= now) {
    StartWriting();
  } else {
    sends_at_ = std::min(sends_at_, next);
  }
}

// ---- One connection ----

Awaitable<void> Shard::Run(ConnectionPtr connection, std::string url) {
  // Not within Perform(), which asked for it.
  co_await asio::post(context_->io, asio::use_awaitable);
  const error_code connect_error = co_await connection->transport->Connect(std::move(url));
  if (connection != connection_) co_return;
  if (connect_error) {
    connection_ = nullptr;
    protocol_.ConnectFailed(connection->transport->last_error(), TimeNow());
    Perform();
    co_return;
  }
  connection->open = true;
  protocol_.Connected(TimeNow());
  Perform();

  Transport::Message message;
  for (;;) {
    const error_code read_error = co_await connection->transport->Read(&message);
    if (connection != connection_) co_return;
    if (read_error) break;
    Deliver(*connection, message);
    if (connection != connection_) co_return;
  }
  connection_ = nullptr;
  // A write may wait for a server that has stopped reading; nothing comes of this connection now.
  connection->transport->Abort();
  if (connection->transport->closed_by_peer()) {
    protocol_.Closed(connection->transport->close_code(), TimeNow());
  } else {
    protocol_.ConnectionLost(connection->transport->last_error(), TimeNow());
  }
  Perform();
}

void Shard::Deliver(Connection& connection, const Transport::Message& message) {
  MessageBuffer& payload = context_->buffer;
  const Inflater::Result result =
      message.is_cut ? connection.inflater->FeedBeginning(message.bytes, message.is_text, &payload)
                     : connection.inflater->Feed(message.bytes, message.is_text, &payload);
  switch (result) {
    case Inflater::Result::kMessage:
      protocol_.Received(payload.view(), TimeNow());
      break;
    case Inflater::Result::kIncomplete:
      return;
    case Inflater::Result::kTooLarge:
      protocol_.ReceivedOversize(payload.view().substr(0, Transport::kBeginningBytes), TimeNow());
      break;
    case Inflater::Result::kError:
      protocol_.ReceivedGarbage("broken compression", TimeNow());
      break;
  }
  Perform();
}

// Writes what there is, one after the other: commands after all else. That a write failed shows in
// Read, too.
Awaitable<void> Shard::WriteAll(ConnectionPtr connection) {
  for (;;) {
    SendQueue::Outgoing next;
    if (!connection->outgoing.empty()) {
      next.text = std::move(connection->outgoing.front());
      connection->outgoing.pop_front();
    } else if (connection == connection_) {
      if (auto command = sends_.Take(TimeNow().steady)) next = *std::move(command);
    }
    if (next.text.empty()) break;
    const error_code ec = co_await connection->transport->Write(next.text);
    const SteadyTime now = TimeNow().steady;
    next.Say(ec ? SendOutcome::kInterrupted : SendOutcome::kSent, now);
    // Still in flight, so that nothing else is taken for a connection that has ended.
    if (ec) co_return;
    if (connection == connection_) sends_.Written(now);
  }
  connection->write_in_flight = false;
  if (connection == connection_ && !sends_.is_empty()) {
    PumpSends();
    ArmTimer();
  }
}

Awaitable<void> Shard::CloseGently(ConnectionPtr connection, uint16_t code) {
  // A zombie does not answer the closing handshake either.
  asio::steady_timer timer(context_->io, close_timeout_);
  timer.async_wait([weak = std::weak_ptr(connection)](error_code ec) {
    const ConnectionPtr late = weak.lock();
    if (!ec && late != nullptr) late->transport->Abort();
  });
  const error_code ignored = co_await connection->transport->Close(code);
  static_cast<void>(ignored);
  connection->transport->Abort();
}

void Shard::OnEnd(const ConnectionPtr& connection, std::exception_ptr error) {
  if (error == nullptr) return;
  connection->transport->Abort();
  // Not within the call that started the coroutine.
  asio::post(context_->io, [this, connection, error] {
    if (connection_ != nullptr && connection != connection_) return;
    Guarded([&] { std::rethrow_exception(error); });
  });
}

}  // namespace shardd::gateway
