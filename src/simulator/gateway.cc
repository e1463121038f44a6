#include "simulator/gateway.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "simulator/json_scan.h"
#include "simulator/json_text.h"
#include "simulator/lag.h"
#include "simulator/peer.h"
#include "simulator/protocol.h"
#include "simulator/random.h"

namespace shardd::simulator {
namespace {

constexpr std::string_view kBotPrefix = "Bot ";
constexpr size_t kMostExpired = 10'000;
// How long an event waits at most for the next one of its guild, to change places with it.
constexpr std::chrono::milliseconds kLongestSwap{250};

std::string NewSessionId() {
  std::random_device device;
  std::string id;
  AppendHex(id, (uint64_t{device()} << 32) | device());
  return id;
}

Guilds::Options GuildOptions(const SimulatorOptions& options) {
  return {options.seed, options.guilds, options.large_guilds, options.large_guild_bytes};
}

IdentifyLimits::Options LimitOptions(const SimulatorOptions& options) {
  std::optional<SteadyTime> day_ends;
  if (options.session_starts_reset_after.has_value()) {
    day_ends = SteadyClock::now() + *options.session_starts_reset_after;
  }
  return {options.max_concurrency,      options.identify_window,
          options.session_starts_total, options.session_starts_remaining,
          options.session_starts_day,   day_ends};
}

}  // namespace

Gateway::Gateway(const SimulatorOptions& initial, std::function<void()> changed)
    : options(initial),
      changed_(std::move(changed)),
      guilds_(GuildOptions(initial)),
      structure_(guilds_, initial.seed),
      limits_(LimitOptions(initial)),
      guild_creates_(initial.guilds) {}

bool Gateway::AcceptsToken(std::string_view token) const {
  if (token.starts_with(kBotPrefix)) token.remove_prefix(kBotPrefix.size());
  if (token_reset_ || token.empty()) return false;
  return options.token.empty() || token == options.token;
}

void Gateway::SetToken(std::string token) {
  options.token = std::move(token);
  token_reset_ = false;
}

Gateway::Admission Gateway::AdmitIdentify(ShardId shard) {
  if (PendingFaults::Take(faults.refuse_identifies)) return Admission::kRefused;
  switch (limits_.Admit(shard.id, SteadyClock::now())) {
    case IdentifyLimits::Verdict::kAdmitted:
      return Admission::kAdmitted;
    case IdentifyLimits::Verdict::kTooEarly:
      return Admission::kRefused;
    case IdentifyLimits::Verdict::kBudgetSpent:
      break;
  }
  ResetToken();
  return Admission::kTokenReset;
}

// https://discord.com/developers/docs/events/gateway#session-start-limit: the bot's sessions are
// terminated and its token is reset.
void Gateway::ResetToken() {
  token_reset_ = true;
  ++counters.token_resets;
  const Target all;
  for (Peer* peer : SelectPeers(all)) {
    peer->Close(close_code::kNotAuthenticated, "Not authenticated.");
  }
  for (Session* session : Select(all)) End(*session);
}

std::vector<uint32_t> Gateway::GuildsOf(ShardId shard) const {
  std::vector<uint32_t> found;
  const auto& ids = guilds_.ids();
  for (uint32_t i = 0; i < ids.size(); ++i) {
    if (!structure_.IsJoined(i)) continue;
    if (options.quirks.foreign_guilds || ShardForGuild(ids[i], shard.count) == shard.id) {
      found.push_back(i);
    }
  }
  return found;
}

Session& Gateway::StartSession(ShardId shard, uint64_t intents) {
  Session::Options start;
  start.number = sessions_started_++;
  start.id = NewSessionId();
  start.shard = shard;
  start.intents = intents;
  start.first_sequence = options.quirks.first_sequence_zero ? 0 : 1;
  start.record = options.record;
  start.record_digests = options.record_digests;
  auto guilds = GuildsOf(shard);
  start.replay_events = options.replay_events;
  if (start.replay_events == 0) {
    // As a member of Discord's staff put it in 2016; the numbers of today are not published.
    start.replay_events = std::max<size_t>(100, std::min<size_t>(3500, guilds.size() * 75));
  }
  sessions_.push_back(std::make_unique<Session>(std::move(start)));
  Session& session = *sessions_.back();
  session.guilds = std::move(guilds);
  Generation& generation = generations_[shard.count];
  generation.resize(shard.count);
  generation[shard.id].push_back(&session);
  return session;
}

Session* Gateway::FindSession(const std::string& session_id) {
  const auto found = std::find_if(sessions_.begin(), sessions_.end(),
                                  [&](const auto& s) { return s->id() == session_id; });
  return found == sessions_.end() ? nullptr : found->get();
}

void Gateway::Detach(Session& session) {
  if (session.peer != nullptr) session.peer->TakeSession();
  session.peer = nullptr;
  session.replaying_from.reset();
  session.member_lists.clear();
  session.detached_since = SteadyClock::now();
  Changed();
}

void Gateway::End(Session& session) {
  Detach(session);
  auto generation = generations_.find(session.shard().count);
  std::erase(generation->second[session.shard().id], &session);
  const auto empty = [](const auto& sessions) { return sessions.empty(); };
  if (std::all_of(generation->second.begin(), generation->second.end(), empty)) {
    generations_.erase(generation);
  }
  const auto found = std::find_if(sessions_.begin(), sessions_.end(),
                                  [&](const auto& s) { return s.get() == &session; });
  if (options.record || options.record_digests) ended_.push_back(std::move(*found));
  sessions_.erase(found);
}

DispatchPtr Gateway::GuildStart(uint32_t guild) {
  if (!structure_.IsJoined(guild)) return nullptr;
  const uint64_t id = guilds_.ids()[guild];
  if (!structure_.IsAvailable(guild)) {
    std::string data;
    Append(data, R"({"unavailable":true,"id":")", id, "\"}");
    return std::make_shared<const Dispatch>(Dispatch{"GUILD_DELETE", id, std::move(data)});
  }
  DispatchPtr event = guild_creates_[guild].lock();
  if (event == nullptr) {
    event = std::make_shared<const Dispatch>(
        Dispatch{"GUILD_CREATE", id, structure_.CreateData(guild)});
    guild_creates_[guild] = event;
  }
  return event;
}

void Gateway::PublishChange() {
  Structure::Change change = structure_.Next();
  guild_creates_[change.guild].reset();
  Publish(change.event);
}

void Gateway::AddPeer(Peer& peer) {
  peers_.insert(&peer);
  counters.peak_open_connections =
      std::max<uint64_t>(counters.peak_open_connections, peers_.size());
}

void Gateway::RemovePeer(Peer& peer) {
  peers_.erase(&peer);
  Changed();
}

size_t Gateway::Publish(const DispatchPtr& event) {
  ++counters.events;
  const bool in_guild = event->guild_id != 0;
  auto& known = needed_intents_[in_guild ? 0 : 1];
  auto needed = known.find(event->type);
  if (needed == known.end()) {
    needed = known.emplace(event->type, intent::For(event->type, in_guild)).first;
  }
  Emitted emitted{event, 0, {}};
  const std::optional<uint32_t> only = OnlyFor(*event);
  size_t given = 0;
  for (const auto& [count, shards] : generations_) {
    if (only.value_or(count) != count) continue;
    const size_t before = given;
    if (options.quirks.foreign_guilds) {
      for (const auto& sessions : shards) given += GiveAll(sessions, event, needed->second);
    } else {
      given += GiveAll(shards[ShardForGuild(event->guild_id, count)], event, needed->second);
    }
    if (given > before) emitted.shard_counts.push_back(count);
  }
  if (options.record_emitted) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    emitted.unix_nanos = std::chrono::nanoseconds(now).count();
    emitted_.push_back(std::move(emitted));
  }
  return given;
}

double Gateway::Chance(uint64_t of) const {
  return Random(Mix(options.seed, counters.events, of)).Unit();
}

std::optional<uint32_t> Gateway::OnlyFor(const Dispatch& event) const {
  if (event.guild_id == 0 || generations_.size() < 2) return std::nullopt;
  if (event.type == "GUILD_CREATE" || event.type == "GUILD_DELETE") return std::nullopt;
  for (const auto& [count, skew] : options.skews) {
    const auto generation = generations_.find(count);
    if (skew.one_sided <= 0 || generation == generations_.end()) continue;
    if (generation->second[ShardForGuild(event.guild_id, count)].empty()) continue;
    if (Chance(count) < skew.one_sided) return count;
  }
  return std::nullopt;
}

size_t Gateway::GiveAll(const std::vector<Session*>& sessions, const DispatchPtr& event,
                        uint64_t needed) {
  size_t given = 0;
  for (Session* session : sessions) {
    if (!session->Wants(needed)) continue;
    const auto skew = options.skews.find(session->shard().count);
    if (skew == options.skews.end()) {
      SendTo(*session, event);
    } else {
      GiveSkewed(*session, skew->second, event);
    }
    ++given;
  }
  return given;
}

void Gateway::GiveSkewed(Session& session, const Skew& skew, const DispatchPtr& event) {
  const SteadyTime now = SteadyClock::now();
  auto& held = session.held;
  if (event->type == "INTERACTION_CREATE" && skew.interactions.max.count() > 0) {
    SteadyTime due = now + LagAt(skew.interactions, Mix(options.seed, session.number(), 1), now);
    for (const auto& one : held) {
      if (!one.swapped) due = std::max(due, one.due);
    }
    held.push_back({due, event, false});
    return;
  }
  const bool moves_guild = event->type == "GUILD_CREATE" || event->type == "GUILD_DELETE";
  const auto waiting = std::find_if(held.begin(), held.end(), [&](const Session::Held& one) {
    return one.swapped && one.event->guild_id == event->guild_id;
  });
  if (waiting != held.end()) {
    const DispatchPtr earlier = waiting->event;
    held.erase(waiting);
    SendTo(session, moves_guild ? earlier : event);
    SendTo(session, moves_guild ? event : earlier);
  } else if (event->guild_id != 0 && !moves_guild && Chance(session.number()) < skew.swapped) {
    held.push_back({now + kLongestSwap, event, true});
  } else {
    SendTo(session, event);
  }
}

void Gateway::GiveHeld(SteadyTime now) {
  for (const auto& session : sessions_) {
    auto& held = session->held;
    for (size_t i = 0; i < held.size();) {
      if (held[i].due > now) {
        ++i;
        continue;
      }
      const DispatchPtr event = held[i].event;
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(i));
      SendTo(*session, event);
    }
  }
}

std::chrono::nanoseconds Gateway::LagOf(const Session& session, SteadyTime now) const {
  const auto lag = options.lags.find(session.shard().count);
  if (lag == options.lags.end()) return {};
  return LagAt(lag->second, Mix(options.seed, session.number(), 2), now);
}

DispatchPtr Gateway::Give(Session& session, const DispatchPtr& event) {
  ++counters.dispatches;
  DispatchPtr sent = event;
  if (options.permute_keys && event->guild_id != 0) {
    Dispatch permuted = *event;
    permuted.data = PermuteKeys(event->data, Mix(options.seed, session.number()));
    sent = std::make_shared<const Dispatch>(std::move(permuted));
  }
  session.Append(sent);
  return sent;
}

void Gateway::SendTo(Session& session, const DispatchPtr& event) {
  const DispatchPtr sent = Give(session, event);
  if (session.peer != nullptr) session.peer->SendDispatch(session.sequence(), sent);
}

std::optional<uint32_t> Gateway::GuildOf(const Session& session,
                                         std::optional<uint64_t> guild_id) const {
  if (!guild_id.has_value()) return std::nullopt;
  const bool owned = ShardForGuild(*guild_id, session.shard().count) == session.shard().id;
  if (!owned && !options.quirks.foreign_guilds) return std::nullopt;
  return guilds_.Find(*guild_id);
}

bool Gateway::HasExpired(const std::string& session_id) const {
  return std::find(expired_.begin(), expired_.end(), session_id) != expired_.end();
}

std::vector<Session*> Gateway::Select(const Target& target) {
  std::vector<Session*> selected;
  for (const auto& session : sessions_) {
    if (target.shard.has_value() && *target.shard != session->shard()) continue;
    if (!target.session_id.empty() && target.session_id != session->id()) continue;
    selected.push_back(session.get());
  }
  return selected;
}

std::vector<Peer*> Gateway::SelectPeers(const Target& target) {
  std::vector<Peer*> selected;
  for (Peer* peer : peers_) {
    if (peer->Matches(target)) selected.push_back(peer);
  }
  return selected;
}

void Gateway::Sweep() {
  const SteadyTime now = SteadyClock::now();
  const Target all;
  for (Session* session : Select(all)) {
    const bool over =
        session->peer == nullptr && now - session->detached_since > options.resume_window;
    if (!over) continue;
    expired_.push_back(session->id());
    if (expired_.size() > kMostExpired) expired_.pop_front();
    End(*session);
  }
}

std::vector<SessionInfo> Gateway::Sessions() const {
  std::vector<std::pair<const Session*, bool>> all;
  for (const auto& session : sessions_) all.emplace_back(session.get(), true);
  for (const auto& session : ended_) all.emplace_back(session.get(), false);
  std::sort(all.begin(), all.end(),
            [](const auto& a, const auto& b) { return a.first->number() < b.first->number(); });
  std::vector<SessionInfo> infos;
  for (const auto& [session, alive] : all) {
    infos.push_back(session->Info());
    infos.back().alive = alive;
  }
  return infos;
}

const Session* Gateway::FindAny(const std::string& session_id) const {
  for (const auto* list : {&sessions_, &ended_}) {
    for (const auto& session : *list) {
      if (session->id() == session_id) return session.get();
    }
  }
  return nullptr;
}

std::vector<SentDispatch> Gateway::Sent(const std::string& session_id) const {
  const Session* session = FindAny(session_id);
  return session == nullptr ? std::vector<SentDispatch>() : session->Sent();
}

std::vector<SentDigest> Gateway::SentDigests(const std::string& session_id) const {
  const Session* session = FindAny(session_id);
  return session == nullptr ? std::vector<SentDigest>() : session->SentDigests();
}

std::vector<ReceivedCommand> Gateway::CommandsOf(const std::string& session_id) const {
  const Session* session = FindAny(session_id);
  return session == nullptr ? std::vector<ReceivedCommand>() : session->Commands();
}

}  // namespace shardd::simulator
