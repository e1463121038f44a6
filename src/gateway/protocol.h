#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "common/clock.h"
#include "common/shard_id.h"
#include "gateway/beats_in_flight.h"
#include "gateway/close_code.h"
#include "gateway/compression.h"
#include "gateway/crash_guard.h"
#include "gateway/envelope.h"
#include "gateway/event_sink.h"
#include "gateway/kept_shard.h"
#include "gateway/reconnect_pace.h"
#include "gateway/shard_info.h"
#include "gateway/shard_timings.h"
#include "gateway/silence_detector.h"

namespace shardd::gateway {

struct ProtocolOptions {
  ShardId shard;
  std::string token;  // without the "Bot " prefix
  uint64_t intents = 0;
  std::string presence{};  // as SetPresence() takes it; empty: none
  Compression compression = Compression::kZstdStream;
  ShardTimings timings;
  CrashGuardOptions crash_guard{};
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
struct EnterGate {
  bool is_recovery = false;  // of a session that was lost, rather than what somebody started
};
// Give up the place in the gate, or the wait for it.
struct LeaveGate {};
// IDENTIFY is about to be sent: ask the gate, which counts it, and answer with one of
// SessionStartGranted(), SessionStartLater() and SessionStartRefused().
struct SpendSessionStart {};
// Open a connection, then say Connected() or ConnectFailed().
struct Connect {
  std::string url;
};
struct Send {
  std::string text;
  bool is_heartbeat = false;
  bool is_asked_for = false;  // by the server or the owner, between those of the schedule
};
// Close the present connection. What it still brings is of no interest.
struct Close {
  uint16_t code = kCloseKeepingSession;
};
// A session begins with the READY that is emitted next.
struct OpenSession {
  uint32_t session = 0;
  std::string id;
  std::string resume_url;
  uint64_t intents = 0;
};
// The session is not to be resumed, ever.
struct EndSession {
  uint32_t session = 0;
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
struct SkipEvent {
  uint64_t sequence = 0;
  std::string type;
};
struct EnterCrashLoop {
  uint32_t deaths = 0;
  std::string reason;
};
// Of a heartbeat that was sent while the shard was READY.
struct ReportAck {
  SteadyTime sent;
};
struct ReportSilence {
  SilenceDetector::Silence silence;
};
// Worth a line in the log.
struct Warn {
  std::string text;
};

}  // namespace action

using Action =
    std::variant<action::EmitDispatch, action::Send, action::ChangeState, action::EnterGate,
                 action::LeaveGate, action::SpendSessionStart, action::Connect, action::Close,
                 action::OpenSession, action::EndSession, action::LoseSession, action::SkipEvent,
                 action::EnterCrashLoop, action::ReportAck, action::ReportSilence, action::Warn>;

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

  // The main gateway address, as /gateway/bot gives it; used by the next connection. A shard that
  // was started without one waits for it where it cannot do without.
  void SetGatewayUrl(std::string url, Now now);
  // Goes on with what an earlier process has left. REQUIRES: before Start.
  void Restore(KeptShard kept);
  // `d` of an op 3, JSON: goes into the IDENTIFYs from now on, since a new session does not inherit
  // the presence of the one before.
  void SetPresence(std::string json) { presence_ = std::move(json); }
  // Sessions from now on have numbers above this.
  void SetSessionFloor(uint32_t floor) { session_floor_ = floor; }
  // Runs the shard, if it does not run: resumes a kept session, else identifies. Ends the pause of
  // a crash loop.
  void Start(Now now);
  // Stops it. What is kept of the session is enough for a later Start to resume it.
  void Stop(bool keep_session, Now now);
  // Sends a heartbeat beside those of the schedule, if the shard is READY and the last one that was
  // sent so has been acknowledged.
  void Beat(Now now);

  // ---- What happens ----

  // The shard is first in its bucket and may send IDENTIFY from `not_before` on.
  void Admitted(SteadyTime not_before, Now now);
  // Why it is not admitted yet, in words.
  void SetWaitReason(std::string_view why);
  void SessionStartGranted(Now now);
  void SessionStartLater(SteadyTime not_before, Now now);
  // The gate has put the shard back into its line.
  void SessionStartRefused(Now now);
  void Connected(Now now);
  void ConnectFailed(std::string_view why, Now now);
  // Anything came over the connection, be it a part of a payload: the other side lives.
  void BytesArrived() { bytes_since_beat_ = true; }
  // The heartbeat that was to be sent last is not.
  void HeartbeatLeftOut();
  // A payload came. The dispatches among the actions view into `json`. REQUIRES: kJsonPadding
  // readable bytes behind it.
  void Received(std::string_view json, Now now);
  // What came cannot be inflated.
  void ReceivedGarbage(std::string_view why, Now now);
  // A payload that is larger than the bound began so. A RESUME would bring it again and again, so
  // an event that can be made out is skipped, and said to be.
  void ReceivedOversize(std::string_view beginning, Now now);
  // The connection ended from outside: with a close frame (`code`, or none in it), or without one.
  void Closed(std::optional<uint16_t> code, Now now);
  void ConnectionLost(std::string_view why, Now now);
  // The sink has not taken this event: it is to come again.
  void Unsettle(uint32_t session, uint64_t sequence);
  // What serves the shard has thrown an exception.
  void Crashed(std::string_view why, Now now);
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
  // As HELLO said it. REQUIRES: the shard is ready.
  std::chrono::milliseconds heartbeat_interval() const { return heartbeat_interval_; }
  // Has an IDENTIFY to send before it can be READY.
  bool needs_session_start() const;

 private:
  enum class Phase {
    kOff,              // idle, stopped or failed
    kAwaitingAddress,  // of the gateway
    kInGate,
    kConnecting,
    kAwaitingHello,
    kAwaitingSlot,  // HELLO came; the bucket's last IDENTIFY is too fresh, or the gate is asked
    kIdentifying,
    kResuming,
    kReady,
    kPausing,  // until the next attempt
  };

  // What Discord keeps of the shard between connections. All of it comes and goes together: one
  // session's sequence means nothing to the next (vellum-ai/vellum-assistant#39266).
  struct Session {
    std::string id;                           // empty: the server has none, so nothing to resume
    std::string resume_url;                   // empty: none that can be used
    std::optional<SteadyTime> since{};        // READY; none: in an earlier process
    std::optional<uint64_t> last_sequence{};  // that was handed to the sink
    int64_t last_event_unix_nanos = 0;
    // Where a RESUME was tried already to fill a gap: if it comes again, the server has no more.
    std::optional<uint64_t> resumed_for_gap_after{};
    uint32_t gap_resumes = 0;  // those that brought nothing
    bool warned_of_doubles = false;
    bool said_that_server_skips = false;
  };

  bool connected() const;
  void SetPhase(Phase phase, ShardState state, std::string reason);
  void BeginAttempt(Now now, std::string reason);
  void ConnectTo(const std::string& base, std::string reason);

  void OnHello(const Envelope& envelope, Now now);
  void OnHeartbeatAck(Now now);
  void OnDispatch(const Envelope& envelope, Now now);
  void OnReady(const Envelope& envelope, Now now);
  void BecomeReady(bool new_session, Now now);
  void SetGuilds(std::span<const uint64_t> guilds);
  void TrackGuilds(const Envelope& envelope);
  bool TakeSequence(uint64_t sequence, Now now);
  void EmitReady(const Envelope& envelope, Now now);
  void Emit(const Envelope& envelope, Now now);
  void RequestSessionStart();
  void SendIdentify(Now now);
  void SendResume(Now now);
  void SendHeartbeat(bool is_asked_for, Now now);
  void BeatIfDue(Now now);
  void LookForSilence(Now now);

  void End(EndCause cause, std::string_view detail, Now now);
  void EndWith(const Aftermath& aftermath, std::string reason, bool close_connection, Now now);
  bool NoteFailedResume(bool was_ready);
  void Die(std::string reason, std::chrono::milliseconds delay, Now now);
  void Retry(std::chrono::milliseconds delay, std::string reason, Now now);
  void PauseFor(std::chrono::milliseconds delay, ShardState state, std::string reason, Now now);
  void DropSession(std::string_view reason);
  void ForgetConnection();

  const ProtocolOptions options_;
  EnvelopeReader* const reader_;
  std::mt19937_64 random_;
  std::string gateway_url_;
  std::string presence_;
  std::vector<Action> actions_;
  ShardInfo info_;
  Phase phase_ = Phase::kOff;

  std::optional<Session> session_;
  absl::flat_hash_set<uint64_t> guilds_;

  uint32_t session_floor_ = 0;

  // Attempts.
  ReconnectPace pace_;
  CrashGuard crash_guard_;
  SilenceDetector silence_;
  uint32_t failed_resumes_ = 0;  // one after the other that brought nothing
  bool avoid_resume_url_ = false;
  bool had_session_since_start_ = false;
  bool respawning_ = false;  // has died, and not been respawned yet

  // The present connection.
  bool resuming_ = false;  // what this attempt is for
  bool at_resume_url_ = false;
  bool said_hello_ = false;
  bool replayed_ = false;  // RESUME has brought an event that was not there yet
  bool in_gate_ = false;
  bool presence_left_out_ = false;  // of IDENTIFY, which would have been too large
  std::optional<SteadyTime> ready_since_;
  SteadyTime identify_not_before_;
  SteadyTime phase_deadline_ = SteadyTime::max();
  SteadyTime next_beat_ = SteadyTime::max();
  std::chrono::milliseconds heartbeat_interval_{0};
  uint32_t beats_without_ack_ = 0;  // scheduled ones
  bool bytes_since_beat_ = false;   // since the last scheduled one
  BeatsInFlight beats_in_flight_;
  std::optional<SteadyTime> extra_beat_;  // Beat()'s, while it is in flight
};

}  // namespace shardd::gateway
