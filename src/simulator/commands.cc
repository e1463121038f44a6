#include "simulator/commands.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/json_escape.h"
#include "simulator/gateway.h"
#include "simulator/json_text.h"
#include "simulator/json_value.h"
#include "simulator/peer.h"

namespace shardd::simulator {
namespace {

namespace json = boost::json;

// https://discord.com/developers/docs/events/gateway-events#request-guild-members
constexpr uint32_t kMembersPerChunk = 1000;
constexpr uint64_t kMostMatches = 100;  // of a `query` that is no whole list, and of `user_ids`
constexpr size_t kLongestNonce = 32;

DispatchPtr MakeDispatch(std::string type, uint64_t guild_id, std::string data) {
  return std::make_shared<const Dispatch>(Dispatch{std::move(type), guild_id, std::move(data)});
}

// As Discord compares names, upper and lower case are one; the names here are ASCII.
bool StartsWith(std::string_view text, std::string_view prefix) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c; };
  return text.size() >= prefix.size() &&
         std::equal(prefix.begin(), prefix.end(), text.begin(),
                    [&](char a, char b) { return lower(a) == lower(b); });
}

// One that is too long is ignored, and a number is no nonce.
std::string NonceOf(const json::object& data) {
  const auto nonce = ToText(data.if_contains("nonce"));
  return nonce.has_value() && nonce->size() <= kLongestNonce ? *nonce : "";
}

void AppendNonce(std::string& out, std::string_view nonce) {
  if (!nonce.empty()) Append(out, R"("nonce":")", JsonEscape(nonce), "\",");
}

struct Chunk {
  std::vector<User> members;
  bool presences = false;
  std::optional<std::vector<std::string>> not_found;  // JSON values
  std::string nonce;
  uint32_t index = 0;
  uint32_t count = 1;
};

DispatchPtr MakeChunk(const Guilds& guilds, size_t guild, const Chunk& chunk) {
  std::string data = "{";
  if (chunk.presences) {
    data += R"("presences":[)";
    bool first = true;
    for (const User& user : chunk.members) {
      // Those who are offline have none.
      if (user.id % 2 == 0) continue;
      Append(data, first ? "" : ",", R"({"user":{"id":")", user.id,
             R"("},"status":"online","client_status":{"desktop":"online"},"activities":[]})");
      first = false;
    }
    data += "],";
  }
  if (chunk.not_found.has_value()) {
    data += R"("not_found":[)";
    for (size_t i = 0; i < chunk.not_found->size(); ++i) {
      Append(data, i == 0 ? "" : ",", (*chunk.not_found)[i]);
    }
    data += "],";
  }
  AppendNonce(data, chunk.nonce);
  data += R"("members":[)";
  for (size_t i = 0; i < chunk.members.size(); ++i) {
    data += i == 0 ? "{" : ",{";
    AppendMember(data, guilds, guild, chunk.members[i], true);
    data += '}';
  }
  const uint64_t guild_id = guilds.ids()[guild];
  Append(data, R"(],"guild_id":")", guild_id, R"(","chunk_index":)", chunk.index,
         R"(,"chunk_count":)", chunk.count, "}");
  return MakeDispatch("GUILD_MEMBERS_CHUNK", guild_id, std::move(data));
}

// Those whose name begins with the query, at most `limit`.
std::vector<User> FindByName(const Guilds& guilds, size_t guild, std::string_view query,
                             size_t limit) {
  std::vector<User> found;
  for (uint32_t i = 0; i < guilds.MemberCount(guild) && found.size() < limit; ++i) {
    const User user = guilds.MemberNumber(guild, i);
    if (StartsWith(UserName(user), query)) found.push_back(user);
  }
  return found;
}

// Fills in the members among the first hundred of `ids`, and the ids of no member.
void FindById(const Guilds& guilds, size_t guild, const json::array& ids, Chunk& chunk) {
  std::unordered_map<uint64_t, User> members;
  for (uint32_t i = 0; i < guilds.MemberCount(guild); ++i) {
    const User user = guilds.MemberNumber(guild, i);
    members.emplace(user.id, user);
  }
  chunk.not_found.emplace();
  for (size_t i = 0; i < std::min<size_t>(ids.size(), kMostMatches); ++i) {
    const auto id = ToSnowflake(&ids[i]);
    const auto member = members.find(id.value_or(0));
    if (member != members.end()) {
      chunk.members.push_back(member->second);
    } else {
      chunk.not_found->push_back(json::serialize(ids[i]));
    }
  }
}

}  // namespace

void Commands::Perform(Session& session, Op op, const json::object& data, std::string_view raw) {
  session.NoteCommand(static_cast<int64_t>(op), raw);
  bool done = false;
  switch (op) {
    case Op::kPresenceUpdate:
      done = UpdatePresence(session, raw);
      break;
    case Op::kVoiceStateUpdate:
      done = UpdateVoiceState(session, data);
      break;
    case Op::kRequestGuildMembers:
      done = RequestMembers(session, data);
      break;
    case Op::kRequestSoundboardSounds:
      done = RequestSounds(session, data);
      break;
    case Op::kRequestChannelInfo:
      done = RequestChannelInfo(session, data);
      break;
    default:
      break;
  }
  if (!done) ++gateway_.counters.commands_ignored;
  gateway_.Changed();
}

bool Commands::UpdatePresence(Session& session, std::string_view raw) {
  // What Discord does with one too many is not published; it is believed to drop it.
  if (!session.presence_updates.Admit(SteadyClock::now())) {
    ++gateway_.counters.presence_updates_dropped;
    return true;
  }
  session.presence = raw;
  return true;
}

bool Commands::UpdateVoiceState(Session& session, const json::object& data) {
  const auto guild_id = ToSnowflake(data.if_contains("guild_id"));
  const auto guild = gateway_.GuildOf(session, guild_id);
  const json::value* channel = data.if_contains("channel_id");
  if (!guild.has_value() || channel == nullptr) return false;
  const auto channel_id = ToSnowflake(channel);
  const bool leaving = channel->is_null();
  if (!leaving && !channel_id.has_value()) return false;
  const bool was_in = session.voice_guilds.count(*guild_id) != 0;
  if (leaving && !was_in) return false;

  std::string state = R"({"member":{)";
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  AppendMember(state, gateway_.guilds(), *guild, User{kBotUserId}, true);
  // The session's own id is what the client takes to the voice server.
  Append(state, R"(},"user_id":")", kBotUserId, R"(","suppress":false,"session_id":")",
         session.id(), R"(","self_video":false,"self_mute":)",
         flag(IsTrue(data.if_contains("self_mute"))), R"(,"self_deaf":)",
         flag(IsTrue(data.if_contains("self_deaf"))),
         R"(,"request_to_speak_timestamp":null,"mute":false,"guild_id":")", *guild_id,
         R"(","deaf":false,"channel_id":)");
  if (leaving) {
    session.voice_guilds.erase(*guild_id);
    state += "null}";
  } else {
    session.voice_guilds.insert(*guild_id);
    Append(state, "\"", *channel_id, "\"}");
  }
  gateway_.Publish(MakeDispatch("VOICE_STATE_UPDATE", *guild_id, std::move(state)));
  if (leaving || was_in) return true;

  std::string server = R"({"token":")";
  AppendHex(server, Mix(*guild_id, session.number()), 16);
  Append(server, R"(","guild_id":")", *guild_id, R"(","endpoint":"simulated.discord.media:443"})");
  gateway_.SendTo(session, MakeDispatch("VOICE_SERVER_UPDATE", *guild_id, std::move(server)));
  return true;
}

bool Commands::RequestMembers(Session& session, const json::object& data) {
  const auto guild_id = ToSnowflake(data.if_contains("guild_id"));
  const auto guild = gateway_.GuildOf(session, guild_id);
  const auto query = ToText(data.if_contains("query"));
  const json::value* user_ids = data.if_contains("user_ids");
  const auto limit = ToNumber(data.if_contains("limit"));
  // Exactly one of the two; `limit` belongs to `query`.
  if (!guild.has_value() || query.has_value() == (user_ids != nullptr)) return false;
  if (query.has_value() && !limit.has_value()) return false;

  Chunk chunk;
  chunk.nonce = NonceOf(data);
  chunk.presences = IsTrue(data.if_contains("presences")) && session.Wants(intent::kGuildPresences);
  const Guilds& guilds = gateway_.guilds();
  if (query.has_value() && query->empty() && *limit == 0) {
    // Without the intent there is no answer at all:
    // https://github.com/discord/discord-api-docs/issues/5855.
    if (!session.Wants(intent::kGuildMembers)) return false;
    if (!AdmitAllMembers(session, *guild_id, chunk.nonce)) return true;
    session.member_lists.push_back({*guild, 0, chunk.presences, std::move(chunk.nonce)});
    if (session.peer != nullptr) session.peer->Continue();
    return true;
  }
  if (query.has_value()) {
    const uint64_t most = *limit == 0 ? kMostMatches : std::min(*limit, kMostMatches);
    chunk.members = FindByName(guilds, *guild, *query, most);
  } else if (const json::array* ids = user_ids->if_array()) {
    FindById(guilds, *guild, *ids, chunk);
  } else {
    const json::array one{*user_ids};
    FindById(guilds, *guild, one, chunk);
  }
  gateway_.SendTo(session, MakeChunk(guilds, *guild, chunk));
  return true;
}

bool Commands::AdmitAllMembers(Session& session, uint64_t guild_id, std::string_view nonce) {
  const SteadyTime now = SteadyClock::now();
  const auto [asked, first] = all_members_asked_.emplace(guild_id, now);
  const auto passed = now - asked->second;
  if (first || passed >= gateway_.options.all_members_window) {
    asked->second = now;
    return true;
  }
  ++gateway_.counters.member_requests_limited;
  char seconds[32];
  std::snprintf(
      seconds, sizeof seconds, "%.3f",
      std::chrono::duration<double>(gateway_.options.all_members_window - passed).count());
  std::string data;
  Append(data, R"({"retry_after":)", seconds, R"(,"opcode":8,"meta":{)");
  AppendNonce(data, nonce);
  Append(data, R"("guild_id":")", guild_id, "\"}}");
  // It names its guild in `meta` only, so it is no guild's event.
  gateway_.SendTo(session, MakeDispatch("RATE_LIMITED", 0, std::move(data)));
  return false;
}

DispatchPtr Commands::NextChunk(Session& session) {
  const Guilds& guilds = gateway_.guilds();
  MemberList& list = session.member_lists.front();
  const uint32_t total = guilds.MemberCount(list.guild);
  Chunk chunk;
  chunk.presences = list.presences;
  chunk.nonce = list.nonce;
  chunk.index = list.next / kMembersPerChunk;
  chunk.count = std::max(1u, (total + kMembersPerChunk - 1) / kMembersPerChunk);
  const uint32_t end = std::min(list.next + kMembersPerChunk, total);
  while (list.next < end) chunk.members.push_back(guilds.MemberNumber(list.guild, list.next++));
  const size_t guild = list.guild;
  if (end == total) session.member_lists.pop_front();
  return MakeChunk(guilds, guild, chunk);
}

bool Commands::RequestSounds(Session& session, const json::object& data) {
  const json::value* ids = data.if_contains("guild_ids");
  if (ids == nullptr || !ids->is_array()) return false;
  bool answered = false;
  for (const json::value& id : ids->get_array()) {
    const auto guild = gateway_.GuildOf(session, ToSnowflake(&id));
    if (!guild.has_value()) continue;
    const uint64_t guild_id = gateway_.guilds().ids()[*guild];
    std::string sounds = R"({"soundboard_sounds":[)";
    gateway_.guilds().AppendSounds(*guild, sounds);
    Append(sounds, R"(],"guild_id":")", guild_id, "\"}");
    gateway_.SendTo(session, MakeDispatch("SOUNDBOARD_SOUNDS", guild_id, std::move(sounds)));
    answered = true;
  }
  return answered;
}

bool Commands::RequestChannelInfo(Session& session, const json::object& data) {
  const auto guild = gateway_.GuildOf(session, ToSnowflake(data.if_contains("guild_id")));
  const json::value* fields = data.if_contains("fields");
  if (!guild.has_value() || fields == nullptr || !fields->is_array()) return false;
  const auto wanted = [&](const char* name) {
    const auto& names = fields->get_array();
    return std::find(names.begin(), names.end(), json::value(name)) != names.end();
  };
  const bool status = wanted("status");
  const bool start_time = wanted("voice_start_time");
  const Guilds& guilds = gateway_.guilds();
  const uint64_t guild_id = guilds.ids()[*guild];
  std::string info;
  Append(info, R"({"guild_id":")", guild_id, R"(","channels":[)");
  bool first = true;
  for (uint32_t i = 0; i < guilds.Channels(*guild); ++i) {
    if (!Guilds::IsVoice(i)) continue;
    const uint64_t id = guilds.Channel(*guild, i);
    Append(info, first ? "" : ",", R"({"id":")", id, "\"");
    if (status) Append(info, id % 2 == 0 ? R"(,"status":null)" : R"(,"status":"raid tonight")");
    if (start_time) info += R"(,"voice_start_time":null)";
    info += '}';
    first = false;
  }
  info += "]}";
  gateway_.SendTo(session, MakeDispatch("CHANNEL_INFO", guild_id, std::move(info)));
  return true;
}

}  // namespace shardd::simulator
