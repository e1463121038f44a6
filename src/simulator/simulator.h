#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/shard_id.h"

namespace shardd::simulator {

// What servers other than Discord do differently while speaking this protocol. All off: Discord's
// own behaviour.
struct Quirks {
  bool first_sequence_zero = false;  // READY has s = 0 instead of 1
  bool bare_hello = false;           // HELLO and other non-dispatches without the keys `s` and `t`
  bool data_first = false;       // {"d":..,"op":..,"s":..,"t":..} instead of Discord's t, s, op, d
  bool complete_frames = false;  // each compressed message a zlib stream or zstd frame of its own
  bool ignore_compress = false;  // plain text frames whatever the query asks for
  bool silent_resume = false;    // RESUME is never answered
  bool refuse_resume = false;    // RESUME is always answered by op 9 false
  bool ack_after_identify_only = false;  // heartbeats before IDENTIFY get no ACK
  bool foreign_guilds = false;      // each session gets the events of all guilds, its own or not
  bool require_user_agent = false;  // a handshake without User-Agent is closed with 4002
  uint16_t bad_token_code = 4004;   // how a wrong token is closed
};

// How late dispatches reach connections, from the shortest to the longest; both 0: at once.
struct Lag {
  std::chrono::milliseconds min{0};
  std::chrono::milliseconds max{0};
};

// What sessions of one shard count get otherwise than those of another.
struct Skew {
  // How late interactions come to a session, which numbers them then: Discord makes them in a
  // service of their own, so their place among a guild's other events is not the same everywhere.
  Lag interactions{};
  // Share of the other events that change places with the next one of their guild. One that no
  // other follows within 250 ms comes by itself.
  double swapped = 0;
  // Share of guilds' events that sessions of this shard count alone get, while there are others.
  double one_sided = 0;
};

// Members without a value here have braces, so that a caller may name just the ones that it sets.
struct SimulatorOptions {
  uint16_t port = 0;    // on 127.0.0.1 only; 0 picks one
  bool tls = false;     // https and wss with a certificate made at start; see certificate_path()
  std::string token{};  // without `Bot `; empty: any token is accepted

  // Same seed, guild options and version: same guilds and same sequence of events, whatever the
  // timing.
  uint64_t seed = 1;
  uint32_t guilds = 100;
  double rate = 0;            // dispatches a second over all guilds, before fan-out to sessions
  double equal_payloads = 0;  // see Simulator::SetEqualPayloads
  // The first guilds of guild_ids() whose GUILD_CREATE is at least large_guild_bytes. The others
  // are heavy-tailed: most under 10 KB, a few of hundreds of KB, none above 512 KiB.
  uint32_t large_guilds = 0;
  size_t large_guild_bytes = 1'200'000;
  std::chrono::milliseconds tick{5};  // how often the traffic that is due is sent

  uint32_t recommended_shards = 1;  // as /gateway/bot reports it
  uint32_t max_concurrency = 1;
  // IDENTIFYs a day. One more resets the token, as Discord does: all sessions close with 4003, then
  // 401 and 4004.
  uint32_t session_starts_total = 1000;
  std::optional<uint32_t> session_starts_remaining{};  // unset: all of them
  std::chrono::milliseconds session_starts_day{std::chrono::hours(24)};
  // Until the first day's end, as /gateway/bot says it; unset: a day begins with its first
  // IDENTIFY.
  std::optional<std::chrono::milliseconds> session_starts_reset_after{};
  uint32_t max_guilds_per_shard = 2500;  // more: 4011
  uint32_t shard_count_multiple = 1;     // of large bots; a shard count that is none of it: 4010
  uint64_t disallowed_intents = 0;       // any of these bits: 4014

  std::chrono::milliseconds heartbeat_interval{41250};
  bool acknowledge_heartbeats = true;
  std::chrono::milliseconds heartbeat_tolerance{0};  // silence before close 1000; 0: two intervals
  std::chrono::milliseconds identify_window{5000};   // one IDENTIFY per bucket in this time
  std::chrono::milliseconds resume_window{
      180'000};                   // how long a session without connection is kept
  size_t replay_events = 65'536;  // kept per session; 0: Discord's max(100, min(3500, guilds * 75))
  // RESUME of a session whose resume_window is over is closed with 4009, and one after a number
  // that has left the replay buffer with 4007. Both get op 9 false otherwise, as today's Discord is
  // seen to do.
  bool close_expired_resumes = false;
  bool close_stale_resumes = false;
  std::chrono::milliseconds all_members_window{30'000};  // one whole member list a guild; see op 8
  uint32_t sends_per_minute = 120;  // client payloads per connection in 60 s; more: 4008
  // What may wait for a client that does not read. Beyond it the connection is reset; the session
  // stays resumable.
  size_t write_queue_bytes = size_t{32} << 20;

  uint32_t split_messages = 1;   // see Simulator::SetSplitting
  uint32_t split_fragments = 1;  // see Simulator::SetSplitting
  size_t drip_bytes = 0;         // see Simulator::SetDrip
  std::chrono::milliseconds drip_pause{0};
  bool permute_keys = false;         // see Simulator::SetPermuteKeys
  std::map<uint32_t, Lag> lags{};    // by shard count; see Simulator::SetLag
  std::map<uint32_t, Skew> skews{};  // by shard count
  bool record = false;  // keep every dispatch of every session for Sent(); grows without bound
  // The same for SentDigests(): 16 bytes a dispatch, for runs whose dispatches fit into no memory.
  bool record_digests = false;
  bool record_emitted = false;  // keep every event for TakeEmitted(); grows until that is called
  Quirks quirks{};
};

// What a WebSocket frame says of its bytes, true or not.
enum class MessageKind { kText, kBinary };

// Which sessions (or their connections) a fault is for: all, those of a shard, or one.
struct Target {
  Target() = default;
  Target(ShardId s) : shard(s) {}                        // NOLINT: meant to convert
  Target(std::string id) : session_id(std::move(id)) {}  // NOLINT: meant to convert
  Target(const char* id) : session_id(id) {}             // NOLINT: meant to convert

  std::optional<ShardId> shard;
  std::string session_id;
};

struct SessionInfo {
  std::string session_id;
  ShardId shard;
  uint64_t intents = 0;
  bool connected = false;
  bool alive = true;         // false: ended, and only still listed because of `record`
  bool guilds_sent = false;  // every GUILD_CREATE of the start-up has been sent
  uint32_t guilds = 0;       // how many guilds READY named
  uint64_t sequence = 0;     // of the newest dispatch, sent or not
  uint32_t resumes = 0;      // accepted ones
  uint64_t heartbeats = 0;
  std::optional<uint64_t> heartbeat_sequence;  // `d` of the last heartbeat
  std::string presence;                        // JSON of the newest that was accepted; empty: none
  std::string compression;  // "none", "zlib-stream" or "zstd-stream", of the newest connection
};

// One dispatch as it was given to a session. `data` is the JSON of `d`, byte for byte; of
// SendBomb() it is empty.
struct SentDispatch {
  uint64_t sequence = 0;
  std::string type;
  uint64_t guild_id = 0;
  std::string data;
};

// One dispatch as it was given to a session, in short.
struct SentDigest {
  uint64_t guild_id = 0;
  uint64_t digest = 0;  // DigestOf its type and data

  friend bool operator==(const SentDigest&, const SentDigest&) = default;
};
// An event as it was made, whatever becomes of it on its way to sessions.
struct EmittedEvent {
  std::string type;
  uint64_t guild_id = 0;
  std::string data;  // JSON of `d`, with its keys in the order in which it was made
  int64_t unix_nanos = 0;
  std::vector<uint32_t> shard_counts;  // of the sessions that it was given to, ascending
};

// A hash of 64 bits, the same within a process. Of SendBomb(), `data` is empty.
uint64_t DigestOf(std::string_view type, std::string_view data);

// One of op 3, 4, 8, 31 and 43. `data` is the JSON of `d`, byte for byte.
struct ReceivedCommand {
  int64_t op = 0;
  std::string data;
};

// A guild that the bot is a member of, as it is now. Names as they stand inside a JSON string.
struct GuildState {
  uint64_t id = 0;
  bool available = true;  // false: out of order, as its GUILD_DELETE has told
  std::string name{};
  std::map<uint64_t, std::string> channels{};  // names by id
  std::map<uint64_t, std::string> roles{};     // names by id

  friend bool operator==(const GuildState&, const GuildState&) = default;
};

struct Counters {
  uint64_t connections = 0;       // WebSocket handshakes that were completed
  uint64_t open_connections = 0;  // of these, now
  // The most that were open at once, since the start or ResetPeakConnections().
  uint64_t peak_open_connections = 0;
  uint64_t identifies = 0;                                 // answered by READY
  std::map<uint32_t, uint64_t> identifies_by_shard_count;  // the same
  uint64_t identifies_refused = 0;                         // answered by op 9
  uint64_t resumes = 0;                                    // answered by RESUMED
  uint64_t resumes_refused = 0;                            // answered by op 9 or 4007
  // RESUMEs after a number that a heartbeat of the session had already gone beyond: the client has
  // lost what it had said it had.
  uint64_t resumes_behind_heartbeat = 0;
  uint64_t heartbeats = 0;
  uint64_t commands_ignored = 0;          // op 3 to 43 that made no sense, so without an answer
  uint64_t presence_updates_dropped = 0;  // over 5 in 20 s
  uint64_t member_requests_limited = 0;   // answered by RATE_LIMITED
  uint64_t events = 0;                    // events made, before fan-out
  uint64_t dispatches = 0;                // after fan-out: one for each session
  uint64_t gateway_bot_requests = 0;
  uint64_t slow_readers_dropped = 0;
  uint64_t heartbeat_timeouts = 0;
  uint64_t token_resets = 0;
  // How clients ended connections: by code; 1005 a close frame without one, 1006 no close frame at
  // all.
  std::map<uint16_t, uint64_t> client_closes;
  std::map<uint16_t, uint64_t> server_closes;  // 1005: without a code
};

// A Discord of our own: REST `/gateway` and `/gateway/bot` and the v10 gateway on one loopback
// port, with seeded traffic and every misbehaviour that a client has to survive. Runs one thread of
// its own. Thread-safe: every method takes effect before it returns, in the order of the calls.
// Destroying it resets all connections.
//
// The same port takes most of these orders over HTTP, for clients in other languages:
// docs/simulator.md.
//
// Commands are answered as Discord documents them. A whole member list (op 8) without the intent
// GUILD_MEMBERS, and any request for a guild that is not the session's, gets no answer; `presences`
// without GUILD_PRESENCES counts as false.
//
// Not modelled: permissions, whether a channel exists and is a voice channel (op 4), voice servers
// themselves, MESSAGE_CONTENT (content is sent to all), payload compression (`compress` in
// IDENTIFY), ETF. Guilds change by EmitStructure() alone.
class Simulator {
 public:
  // Listens when it returns. Throws std::system_error whose message names the address, if that
  // fails.
  explicit Simulator(SimulatorOptions options = {});
  ~Simulator();
  Simulator(const Simulator&) = delete;
  Simulator& operator=(const Simulator&) = delete;

  uint16_t port() const;
  std::string api_url() const;      // "http://127.0.0.1:PORT/api/v10", https with tls
  std::string gateway_url() const;  // "ws://127.0.0.1:PORT", wss with tls
  // With tls: a PEM file with the CA to trust (SSL_CERT_FILE); it is removed by the destructor.
  // Else empty.
  std::string certificate_path() const;
  const std::vector<uint64_t>& guild_ids() const;

  // ---- Traffic ----

  // One dispatch to every session that owns the guild and has the intent; guild 0: to each shard 0.
  // `data` is sent as it is. A GUILD_DELETE or GUILD_CREATE made so does not change the guilds of a
  // later READY. Returns the number of sessions.
  size_t Emit(std::string_view type, uint64_t guild_id, std::string data);
  // The next `events` of the seeded sequence, now, independent of the rate.
  void EmitTraffic(size_t events);
  // The next changes of guilds, of a seeded sequence of their own: channels and roles that come,
  // are renamed and go, guilds that are renamed, left and joined again, and out of order for a
  // while. READY and GUILD_CREATE of later sessions agree with them. Guilds that have gone or are
  // out of order have no traffic.
  void EmitStructure(size_t changes);
  void SetRate(double events_per_second);
  // From now on this share of the traffic is byte for byte what the same guild has had shortly
  // before: somebody who goes on typing, a reaction that is taken away and set again.
  void SetEqualPayloads(double share);

  // ---- Faults. Each returns how many connections (or sessions) it touched ----

  size_t DropConnections(const Target& target = {});  // TCP reset without a close frame
  size_t SendReconnect(const Target& target = {});    // op 7; the connection stays open
  // op 9; the connection stays open. Not resumable: the session is forgotten, as Discord does.
  size_t SendInvalidSession(const Target& target, bool resumable);
  // A close frame with this code, 0: without a code. Codes after which Discord has no session
  // (1000, 4003, 4004, 4007, 4009 to 4014) end it; after all others it can be resumed.
  size_t CloseWith(const Target& target, uint16_t code, std::string_view reason = {});
  // Heartbeats of these sessions are no longer acknowledged, on later connections neither, until
  // switched back.
  size_t StopAcks(const Target& target, bool stop);
  size_t RequestHeartbeat(const Target& target = {});  // op 1
  // Any text as one payload, unnumbered, through the connection's compression.
  size_t SendRaw(const Target& target, std::string_view payload);
  // One WebSocket message past the compression: broken streams, UTF-8 that is none, text where
  // binary is due.
  size_t SendBytes(const Target& target, MessageKind kind, std::string_view bytes);
  // The header of a frame that claims this size (below 2^63), and nothing of its payload; whatever
  // follows is taken for it.
  size_t SendFrameHeader(const Target& target, MessageKind kind, uint64_t size);
  size_t SendTcpBytes(const Target& target, std::string_view bytes);  // outside of any frame
  // A dispatch `{"t":"X","s":N,"op":0,"d":{"x":"aaaa..."}}` that is exactly so long when inflated,
  // one message on the wire. It has its number and its place in the replay buffer as any other, so
  // a RESUME before it gets it again. Made piece by piece: only without compression it is ever held
  // whole. Returns how many sessions got it.
  size_t SendBomb(const Target& target, size_t inflated_bytes);
  // Stops reading from and writing to these connections without closing them, as a half-open TCP
  // connection does.
  size_t Freeze(const Target& target = {});
  // Forgets these sessions; their connections stay until they RESUME elsewhere (op 9 false) or
  // close.
  size_t ForgetSessions(const Target& target = {});

  // The next n WebSocket handshakes: TCP reset, or with a status that HTTP answer.
  void RefuseNextConnections(uint32_t n, uint16_t http_status = 0);
  void SilenceNextHellos(uint32_t n);        // the next n connections get no HELLO
  void ReconnectInsteadOfHello(uint32_t n);  // the next n connections get op 7 first and no HELLO
  void RefuseNextIdentifies(uint32_t n);     // answered by op 9 false
  void RefuseNextResumes(uint32_t n);        // answered by op 9 false
  void IgnoreNextIdentifies(uint32_t n);     // not answered
  // The next n GET /gateway/bot get this status; 401, 429 and 5xx with Discord's body and headers.
  void AnswerGatewayBotWith(
      uint16_t http_status, uint32_t n,
      std::chrono::milliseconds retry_after = std::chrono::milliseconds(1000));
  // The same with this body.
  void AnswerGatewayBotWithBody(uint16_t http_status, std::string body, uint32_t n,
                                std::string content_type = "application/json");
  // As if others had used the token: GET /gateway/bot agrees.
  void SetSessionStarts(uint32_t remaining,
                        std::optional<std::chrono::milliseconds> reset_after = std::nullopt);
  // `d` of every HELLO from now on, such as {"heartbeat_interval":0}; empty: Discord's again.
  void SetHello(std::string data);
  // From now on everything is written so many bytes at a time, with this pause between; 0: at once.
  void SetDrip(size_t bytes_per_write, std::chrono::milliseconds pause);
  void SetToken(std::string token);  // the old one is no longer accepted; open sessions stay
  void SetRecommendedShards(uint32_t shards);
  void SetQuirks(const Quirks& quirks);
  // From now on each compressed message is cut over `messages` WebSocket messages (zlib-stream and
  // zstd-stream), and each WebSocket message into `fragments` frames. 1: whole.
  void SetSplitting(uint32_t messages, uint32_t fragments);

  // From now on each session gets the objects of guilds' events with their keys in an order of its
  // own, nested ones too, and every value byte for byte: two gateway nodes may encode one event
  // differently. The order follows from the seed and the session's place in the order of IDENTIFYs.
  // A replay repeats the bytes that were sent.
  void SetPermuteKeys(bool permute);
  // From now on dispatches reach the connections of sessions of this shard count late, by a time of
  // the session's own that changes slowly within the range. They have their numbers and their
  // places in the replay buffer at once, and what is on its way to a connection that ends is lost
  // with it, until a RESUME. The order of a connection holds; nothing but a close overtakes.
  void SetLag(uint32_t shard_count, const Lag& lag);
  void SetSkew(uint32_t shard_count, const Skew& skew);
  // See SimulatorOptions; what has a session keeps it.
  void SetMaxGuildsPerShard(uint32_t guilds);
  void SetShardCountMultiple(uint32_t multiple);
  void SetDisallowedIntents(uint64_t intents);

  // ---- What happened ----

  std::vector<SessionInfo> Sessions() const;  // in the order of their IDENTIFYs
  // The newest session of a shard that is alive.
  std::optional<SessionInfo> Session(ShardId shard) const;
  Counters counters() const;
  void ResetPeakConnections();
  uint32_t session_starts_remaining() const;
  // REQUIRES: options.record. Every dispatch of a session so far, in order, also after its end.
  std::vector<SentDispatch> Sent(const std::string& session_id) const;
  // REQUIRES: options.record_emitted. The events since the last call, in their one true order: of
  // two of a guild the earlier comes first, whatever sessions were shown (Skew).
  std::vector<EmittedEvent> TakeEmitted();
  // What is true of the guilds, by their place in guild_ids().
  std::vector<GuildState> GuildStates() const;
  // REQUIRES: options.record_digests. The same in short: one for each number from 1 on.
  std::vector<SentDigest> SentDigests(const std::string& session_id) const;
  // The newest 1000 of the commands (op 3, 4, 8, 31 and 43) that came over this session, also those
  // without effect. After the session's end only with options.record.
  std::vector<ReceivedCommand> Commands(const std::string& session_id) const;

  // Waits until `condition`, which may call any method of this class, holds; false after the
  // timeout. It is tried again after each change in here and every few milliseconds.
  bool WaitUntil(const std::function<bool()>& condition,
                 std::chrono::milliseconds timeout = std::chrono::seconds(10)) const;
  // Waits until `sessions` sessions of this shard count are connected and have been sent all of
  // their guilds.
  bool WaitForSessions(uint32_t shard_count, size_t sessions,
                       std::chrono::milliseconds timeout = std::chrono::seconds(10)) const;

 private:
  class Loop;
  const std::unique_ptr<Loop> loop_;
};

}  // namespace shardd::simulator
