#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "common/backoff.h"
#include "common/clock.h"
#include "common/shard_id.h"
#include "gateway/close_code.h"
#include "gateway/compression.h"
#include "gateway/envelope.h"
#include "gateway/event_sink.h"
#include "gateway/shard_info.h"
#include "gateway/shard_timings.h"

namespace shardd::gateway {

struct ProtocolOptions {
  ShardId shard;
  std::string token;  // without the "Bot " prefix
  uint64_t intents = 0;
  Compression compression = Compression::kZstdStream;
  ShardTimings timings;
  uint64_t seed = std::random_device{}();  // of the jitter
};

// When an input happened, on both clocks.
struct Now {
  SteadyTime steady;
  WallTime wall;
};

// What ShardProtocol wants done. To be performed in order.
namespace action {

// Wait in the identify gate, then say Admitted().
struct EnterGate {};
// Give up the place in the gate, or the wait for it.
struct LeaveGate {};
// An IDENTIFY is about to be sent: the gate counts it and lets the next shard of the bucket in.
struct SpendSessionStart {};
// Open a connection, then say Connected() or ConnectFailed().
struct Connect {
  std::string url;
};
struct Send {
  std::string text;
  bool is_heartbeat = false;  // the sink is flushed before it goes out
};
// Close the present connection. What it still brings is of no interest.
struct Close {
  uint16_t code = kCloseKeepingSession;
};
struct EmitDispatch {
  Dispatch dispatch;
};
struct ChangeState {
  ShardInfo info;
};
struct LoseSession {
  uint32_t session = 0;
  uint64_t last_sequence = 0;
  int64_t last_event_unix_nanos = 0;
  std::string reason;
};
// Worth a line in the log.
struct Warn {
  std::string text;
};

}  // namespace action

using Action = std::variant<action::EmitDispatch, action::Send, action::ChangeState,
                            action::EnterGate, action::LeaveGate, action::SpendSessionStart,
                            action::Connect, action::Close, action::LoseSession, action::Warn>;

// One shard's side of the gateway protocol, without I/O:
// https://discord.com/developers/docs/events/gateway. What happens goes in through the methods,
// each with its time; what is to be done comes out as actions, which the caller performs in order
// and then clears. At deadline() it must be told the time by Tick().
//
//   HELLO -> IDENTIFY or RESUME -> READY or RESUMED -> dispatches, until something ends the
//   connection; then the table in close_code.h decides whether the next one resumes, identifies or
//   does not come.
//
// Not thread-safe: it lives on its shard's worker.
class ShardProtocol {
 public:
  // `reader` may serve other shards of the same thread, too.
  ShardProtocol(ProtocolOptions options, EnvelopeReader* reader);

  // ---- What the owner wants ----

  // The main gateway address, as /gateway/bot gives it; used by the next connection. REQUIRES:
  // before Start.
  void SetGatewayUrl(std::string url) { gateway_url_ = std::move(url); }
  // Runs the shard, if it does not run: resumes a kept session, else identifies.
  void Start(Now now);
  // Stops it. What is kept of the session is enough for a later Start to resume it.
  void Stop(bool keep_session, Now now);

  // ---- What happens ----

  // The shard is first in its bucket and may send IDENTIFY from `not_before` on.
  void Admitted(SteadyTime not_before, Now now);
  void Connected(Now now);
  void ConnectFailed(std::string_view why, Now now);
  // Anything came over the connection, be it a part of a payload: the other side lives.
  void BytesArrived() { bytes_since_beat_ = true; }
  // A payload came. The dispatches among the actions view into `json`. REQUIRES: kJsonPadding
  // readable bytes behind it.
  void Received(std::string_view json, Now now);
  // What came cannot be inflated.
  void ReceivedGarbage(std::string_view why, Now now);
  // The connection ended from outside: with a close frame (`code`, or none in it), or without one.
  void Closed(std::optional<uint16_t> code, Now now);
  void ConnectionLost(std::string_view why, Now now);
  void Tick(Now now);

  // ---- What comes of it ----

  std::vector<Action>& actions() { return actions_; }
  // SteadyTime::max(): there is nothing to wait for.
  SteadyTime deadline() const;
  const ShardInfo& info() const { return info_; }
  // Started and neither stopped nor failed.
  bool is_running() const;
  // A Start would resume.
  bool has_session() const { return session_ && !session_->id.empty(); }
  // Has an IDENTIFY to send before it can be READY.
  bool needs_session_start() const;

 private:
  enum class Phase {
    kOff,  // idle, stopped or failed
    kInGate,
    kConnecting,
    kAwaitingHello,
    kAwaitingSlot,  // HELLO came, but the bucket's last IDENTIFY is too fresh
    kIdentifying,
    kResuming,
    kReady,
    kPausing,  // until the next attempt
  };

  struct Session {
    std::string id;          // empty: the server has none, so there is nothing to resume
    std::string resume_url;  // empty: none that can be used
  };

  bool connected() const;
  void SetPhase(Phase phase, ShardState state, std::string reason);
  void BeginAttempt(Now now, std::string reason);
  void ConnectTo(const std::string& base, std::string reason);

  void OnHello(const Envelope& envelope, Now now);
  void OnDispatch(const Envelope& envelope, Now now);
  void OnReady(const Envelope& envelope, Now now);
  void BecomeReady(Now now, std::string reason);
  void TrackGuilds(const Envelope& envelope);
  void Emit(const Envelope& envelope, Now now);
  void SendIdentify(Now now);
  void SendResume(Now now);
  void SendHeartbeat(Now now);
  void BeatIfDue(Now now);

  void End(EndCause cause, std::string_view detail, Now now);
  void EndWith(const Aftermath& aftermath, std::string reason, bool close_connection, Now now);
  std::chrono::milliseconds DelayBeforeNext(bool was_ready, bool pause, Now now);
  std::chrono::milliseconds DelayBeforeNewSession(Now now);
  void PauseFor(std::chrono::milliseconds delay, std::string reason, Now now);
  void DropSession(std::string_view reason);
  void ForgetConnection();

  const ProtocolOptions options_;
  EnvelopeReader* const reader_;
  std::mt19937_64 random_;
  std::string gateway_url_;
  std::vector<Action> actions_;
  ShardInfo info_;
  Phase phase_ = Phase::kOff;

  // The session, which outlives connections. Both parts come and go together.
  std::optional<Session> session_;
  std::optional<uint64_t> last_sequence_;  // that was handed to the sink
  int64_t last_event_unix_nanos_ = 0;
  absl::flat_hash_set<uint64_t> guilds_;
  SteadyTime session_since_;
  bool warned_of_sequence_ = false;
  bool lost_session_ = false;  // and no new one has come since

  // Attempts. The counters go back to 0 on READY and RESUMED, not on an open socket, which is no
  // success yet.
  uint32_t failed_resumes_ = 0;  // one after the other that brought nothing
  bool avoid_resume_url_ = false;
  Backoff retry_;
  Backoff unstable_;
  Backoff new_session_;
  bool ended_soon_ = false;  // the last connection that was ready did not stay so
  bool lost_soon_ = false;   // the last session did not last

  // The present connection.
  bool resuming_ = false;  // what this attempt is for
  bool at_resume_url_ = false;
  bool said_hello_ = false;
  bool replayed_ = false;  // RESUME has brought an event that was not there yet
  bool in_gate_ = false;
  std::optional<SteadyTime> ready_since_;
  SteadyTime identify_not_before_;
  SteadyTime phase_deadline_ = SteadyTime::max();
  SteadyTime next_beat_ = SteadyTime::max();
  std::chrono::milliseconds heartbeat_interval_{0};
  uint32_t beats_without_ack_ = 0;  // scheduled ones
  bool bytes_since_beat_ = false;   // since the last scheduled one
  std::optional<SteadyTime> unacknowledged_since_;
};

}  // namespace shardd::gateway
