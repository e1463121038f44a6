#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "simulator/commands.h"
#include "simulator/dispatch.h"
#include "simulator/guilds.h"
#include "simulator/limits.h"
#include "simulator/session.h"
#include "simulator/simulator.h"
#include "simulator/structure.h"

namespace shardd::simulator {

// Faults that wait for something to happen to; those with a number count down.
struct PendingFaults {
  uint32_t refuse_connections = 0;
  uint16_t refuse_status = 0;
  uint32_t silent_hellos = 0;
  uint32_t reconnect_hellos = 0;
  uint32_t refuse_identifies = 0;
  uint32_t ignore_identifies = 0;
  uint32_t refuse_resumes = 0;
  uint32_t gateway_bot_answers = 0;
  uint16_t gateway_bot_status = 0;
  std::chrono::milliseconds retry_after{0};
  std::optional<std::string> gateway_bot_body;  // else Discord's own for that status
  std::string gateway_bot_content_type;

  std::string hello;  // `d` of each HELLO; empty: Discord's

  // Whether one is pending; takes it.
  static bool Take(uint32_t& count) { return count > 0 && count-- > 0; }
};

// The service behind the connections: sessions, who owns which guild, limits, counters and faults.
// Loop-bound.
class Gateway {
 public:
  // `changed` is called after what WaitUntil() may be waiting for.
  Gateway(const SimulatorOptions& options, std::function<void()> changed);

  // ---- For connections ----

  bool AcceptsToken(std::string_view token) const;  // with or without `Bot `
  enum class Admission { kAdmitted, kRefused, kTokenReset };
  Admission AdmitIdentify(ShardId shard);
  // Guild indexes of a shard.
  std::vector<uint32_t> GuildsOf(ShardId shard) const;
  Session& StartSession(ShardId shard, uint64_t intents);
  Session* FindSession(const std::string& session_id);
  // Takes the session from its connection and keeps it for a RESUME.
  void Detach(Session& session);
  // Forgets the session.
  void End(Session& session);
  // What a new session hears of a guild that its READY has named: GUILD_CREATE, or GUILD_DELETE
  // while it is out of order; nullptr: it has been left since, and the session was told.
  DispatchPtr GuildStart(uint32_t guild);
  // Numbers the event in the session and keeps it for replay. Returns what the session gets, which
  // is the event itself unless keys are permuted.
  DispatchPtr Give(Session& session, const DispatchPtr& event);
  // The same, and sends it if the session has a connection that is not behind.
  void SendTo(Session& session, const DispatchPtr& event);
  // The index of a guild that the session's shard owns.
  std::optional<uint32_t> GuildOf(const Session& session, std::optional<uint64_t> guild_id) const;
  // Whether a session of this id has lain without a connection for too long.
  bool HasExpired(const std::string& session_id) const;
  Commands& commands() { return commands_; }
  void AddPeer(Peer& peer);
  void RemovePeer(Peer& peer);
  void Changed() { changed_(); }

  // ---- For the traffic and the fault interface ----

  // Gives the event to every session that gets it; returns their number.
  size_t Publish(const DispatchPtr& event);
  bool HasSessions() const { return !sessions_.empty(); }
  // Gives sessions what was held for them (Skew) and is due.
  void GiveHeld(SteadyTime now);
  // How late a dispatch reaches the session's connection now.
  std::chrono::nanoseconds LagOf(const Session& session, SteadyTime now) const;
  struct Emitted {
    DispatchPtr event;
    int64_t unix_nanos = 0;
    std::vector<uint32_t> shard_counts;
  };
  std::vector<Emitted> TakeEmitted() { return std::exchange(emitted_, {}); }
  std::vector<Session*> Select(const Target& target);
  std::vector<Peer*> SelectPeers(const Target& target);
  // Forgets sessions whose resume window is over.
  void Sweep();
  std::vector<SessionInfo> Sessions() const;
  std::vector<SentDispatch> Sent(const std::string& session_id) const;
  std::vector<SentDigest> SentDigests(const std::string& session_id) const;
  std::vector<ReceivedCommand> CommandsOf(const std::string& session_id) const;

  // Changed only through the fault interface.
  SimulatorOptions options;
  PendingFaults faults;
  Counters counters;

  // The next change of a guild, to every session that gets it.
  void PublishChange();

  const Guilds& guilds() const { return guilds_; }
  const Structure& structure() const { return structure_; }
  IdentifyLimits& limits() { return limits_; }
  bool token_reset() const { return token_reset_; }
  void SetToken(std::string token);
  std::string url;  // of this gateway, as clients are told

 private:
  // Sessions of one shard count, by shard id.
  using Generation = std::vector<std::vector<Session*>>;

  void ResetToken();
  // Also one that has ended, while recording.
  const Session* FindAny(const std::string& session_id) const;
  size_t GiveAll(const std::vector<Session*>& sessions, const DispatchPtr& event, uint64_t needed);
  // Gives it to the session now or, as the skew of its shard count has it, later.
  void GiveSkewed(Session& session, const Skew& skew, const DispatchPtr& event);
  // The one shard count whose sessions get this event; none: those of all.
  std::optional<uint32_t> OnlyFor(const Dispatch& event) const;
  // Even over [0, 1), for the event that is being published.
  double Chance(uint64_t of) const;

  const std::function<void()> changed_;
  const Guilds guilds_;
  Structure structure_;
  IdentifyLimits limits_;
  Commands commands_{*this};
  bool token_reset_ = false;
  std::vector<std::unique_ptr<Session>> sessions_;  // in the order of their start
  std::vector<std::unique_ptr<Session>> ended_;     // only while recording
  std::deque<std::string> expired_;                 // ids of the newest, bounded
  std::map<uint32_t, Generation> generations_;      // by shard count
  // By type, found once: of guilds' events, and of those without a guild.
  std::array<std::unordered_map<std::string, uint64_t>, 2> needed_intents_;
  uint64_t sessions_started_ = 0;
  std::vector<Emitted> emitted_;  // only with record_emitted
  // Large bodies are shared between the sessions that have them in their replay buffers, and made
  // anew after that.
  std::vector<std::weak_ptr<const Dispatch>> guild_creates_;
  std::set<Peer*> peers_;
};

}  // namespace shardd::simulator
