#include "simulator/guilds.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <utility>

#include "simulator/json_text.h"

namespace shardd::simulator {
namespace {

// Guild ids between the ends of 2015 and of 2025: 17 to 19 digits, as in the wild.
constexpr uint64_t kFirstGuild = 1'451'606'400'000;
constexpr uint64_t kLastGuild = 1'767'225'600'000;
constexpr size_t kSmallestCreate = 5'000;
constexpr size_t kLargestCreate = 512 * 1024;

// What Hash() is asked for.
enum Kind : uint64_t { kIdKind, kChannelKind, kRoleKind, kMemberKind, kSizeKind, kWeightKind };

uint64_t MillisOf(uint64_t snowflake) { return (snowflake >> 22) + kDiscordEpoch; }

void Apply(const std::map<uint64_t, std::optional<std::string>>& edits,
           std::map<uint64_t, std::string>& names) {
  for (const auto& [id, name] : edits) {
    if (name.has_value()) {
      names[id] = *name;
    } else {
      names.erase(id);
    }
  }
}

}  // namespace

Guilds::Guilds(const Options& options) : seed_(options.seed) {
  std::unordered_set<uint64_t> milliseconds;
  double weights = 0;
  for (size_t i = 0; i < options.count; ++i) {
    Random random(Hash(i, kIdKind, 0));
    uint64_t when = 0;
    // Distinct milliseconds, so that distinct guilds differ in what the shard formula looks at.
    do {
      when = kFirstGuild + random.Next() % (kLastGuild - kFirstGuild);
    } while (!milliseconds.insert(when).second);
    ids_.push_back(Snowflake(when, random.Next()));
    index_of_[ids_.back()] = static_cast<uint32_t>(i);

    // Pareto, shape 1.1: a median of 9 KB, one in a hundred over 300 KB.
    const double size =
        kSmallestCreate / std::pow(1 - Random(Hash(i, kSizeKind, 0)).Unit(), 1 / 1.1);
    create_bytes_.push_back(std::min(static_cast<size_t>(size), kLargestCreate));
    if (i < options.large) create_bytes_.back() = options.large_bytes;

    // Zipf-like: a few guilds make most of the events.
    const double rank = 1 + Random(Hash(i, kWeightKind, 0)).Unit() * options.count;
    weights += 1 / rank;
    weight_up_to_.push_back(weights);
  }
}

size_t Guilds::Pick(Random& random) const {
  const double point = random.Unit() * weight_up_to_.back();
  const auto found = std::upper_bound(weight_up_to_.begin(), weight_up_to_.end(), point);
  return std::min<size_t>(found - weight_up_to_.begin(), ids_.size() - 1);
}

uint64_t Guilds::Hash(size_t guild, uint64_t kind, uint64_t which) const {
  return Mix(seed_, (uint64_t{guild} << 8) | kind, which);
}

uint64_t Guilds::Channel(size_t guild, uint64_t which) const {
  const uint64_t number = which % Channels(guild);
  // Made some minutes after the guild, one after the other.
  return Snowflake(MillisOf(ids_[guild]) + 60'000 * (number + 1),
                   Hash(guild, kChannelKind, number));
}

uint64_t Guilds::Role(size_t guild, uint64_t which) const {
  const uint64_t number = which % Roles(guild);
  // The role @everyone has the guild's id.
  if (number == 0) return ids_[guild];
  return Snowflake(MillisOf(ids_[guild]) + 90'000 * (number + 1), Hash(guild, kRoleKind, number));
}

User Guilds::Member(size_t guild, uint64_t which) const {
  return MemberNumber(guild, static_cast<uint32_t>(which % Members(guild)));
}

User Guilds::MemberNumber(size_t guild, uint32_t number) const {
  Random random(Hash(guild, kMemberKind, number));
  const uint64_t when = kFirstGuild + random.Next() % (kLastGuild - kFirstGuild);
  return {Snowflake(when, random.Next())};
}

uint32_t Guilds::Channels(size_t guild) const {
  return static_cast<uint32_t>(std::clamp<size_t>(create_bytes_[guild] / 2500, 2, 500));
}

uint32_t Guilds::Members(size_t guild) const {
  return static_cast<uint32_t>(3 + create_bytes_[guild] / 600);
}

uint32_t Guilds::MemberCount(size_t guild) const {
  return Members(guild) * static_cast<uint32_t>(1 + Hash(guild, kIdKind, 1) % 20);
}

std::optional<uint32_t> Guilds::Find(uint64_t id) const {
  const auto found = index_of_.find(id);
  if (found == index_of_.end()) return std::nullopt;
  return found->second;
}

std::string UserName(User user) {
  std::string name;
  AppendName(name, Mix(user.id, 1));
  return name;
}

void AppendUser(std::string& out, User user) {
  const uint64_t hash = Mix(user.id, 1);
  Append(out, R"({"username":")", UserName(user));
  out += R"(","public_flags":)";
  AppendOne(out, hash % 4 == 0 ? 4194304u : 0u);
  if (hash % 5 == 0) {
    // A guild id inside a user: one more that is not the event's.
    Append(out, R"(,"primary_guild":{"tag":"WOLF","identity_guild_id":")",
           Snowflake(kFirstGuild + hash % 1'000'000'000, hash),
           R"(","identity_enabled":true,"badge":")");
    AppendHex(out, hash + 1);
    out += "\"}";
  } else {
    out += R"(,"primary_guild":null)";
  }
  Append(out, R"(,"id":")", user.id, R"(","global_name":)");
  if (hash % 3 == 0) {
    out += "null";
  } else {
    out += '"';
    AppendName(out, hash + 2);
    if (hash % 7 == 0) Append(out, " ", Emoji(hash >> 8));
    out += '"';
  }
  out += R"(,"display_name_styles":null,"discriminator":"0","collectibles":null,"clan":null,)"
         R"("avatar_decoration_data":null,"avatar":)";
  if (hash % 6 == 0) {
    out += "null}";
  } else {
    out += '"';
    AppendHex(out, hash + 3);
    out += "\"}";
  }
}

void AppendMember(std::string& out, const Guilds& guilds, size_t guild, User user, bool with_user) {
  const uint64_t hash = Mix(user.id, guild);
  if (with_user) {
    out += R"("user":)";
    AppendUser(out, user);
    out += ',';
  }
  out += R"("roles":[)";
  for (uint64_t i = 0; i < hash % 4; ++i) {
    Append(out, i == 0 ? "\"" : ",\"", guilds.Role(guild, (hash >> 8) + i), "\"");
  }
  out += R"(],"premium_since":null,"pending":false,"nick":)";
  if (hash % 4 == 0) {
    out += '"';
    AppendName(out, hash);
    out += '"';
  } else {
    out += "null";
  }
  out += R"(,"mute":false,"joined_at":")";
  AppendTime(out, MillisOf(guilds.ids()[guild]) + (hash >> 40) * 1000);
  out +=
      R"(","flags":0,"deaf":false,"communication_disabled_until":null,"banner":null,"avatar":null)";
}

void Guilds::AppendMembers(size_t guild, size_t until, std::string& out) const {
  for (uint32_t i = 0; i == 0 || out.size() < until; ++i) {
    if (i != 0) out += ',';
    out += '{';
    AppendMember(out, *this, guild, Member(guild, i), true);
    out += '}';
  }
}

uint32_t Guilds::Roles(size_t guild) const { return 4 + Channels(guild) / 2; }

std::string Guilds::Name(size_t guild, const GuildEdits& edits) const {
  if (!edits.name.empty()) return edits.name;
  std::string name;
  AppendName(name, Hash(guild, kIdKind, 1));
  name += R"( \"club\")";
  return name;
}

std::map<uint64_t, std::string> Guilds::ChannelNames(size_t guild, const GuildEdits& edits) const {
  std::map<uint64_t, std::string> names;
  for (uint32_t i = 0; i < Channels(guild); ++i) {
    AppendName(names[Channel(guild, i)], Hash(guild, kChannelKind, i + 1'000'000));
  }
  Apply(edits.channels, names);
  return names;
}

std::map<uint64_t, std::string> Guilds::RoleNames(size_t guild, const GuildEdits& edits) const {
  std::map<uint64_t, std::string> names;
  for (uint32_t i = 0; i < Roles(guild); ++i) {
    std::string& name = names[Role(guild, i)];
    if (i == 0) {
      name = "@everyone";
    } else {
      AppendName(name, Hash(guild, kRoleKind, i + 1'000'000));
    }
  }
  Apply(edits.roles, names);
  return names;
}

void Guilds::AppendChannels(size_t guild, const GuildEdits& edits, std::string& out) const {
  std::map<uint64_t, std::string> names = ChannelNames(guild, edits);
  const char* comma = "";
  for (uint32_t i = 0; i < Channels(guild); ++i) {
    const auto named = names.find(Channel(guild, i));
    if (named == names.end()) continue;
    out += std::exchange(comma, ",");
    AppendChannelObject(guild, i, Hash(guild, kChannelKind, i + 1'000'000), named->first,
                        named->second, out);
    names.erase(named);
  }
  for (const auto& [id, name] : names) {
    out += std::exchange(comma, ",");
    AppendChannel(guild, id, name, out);
  }
}

void Guilds::AppendChannel(size_t guild, uint64_t id, std::string_view name,
                           std::string& out) const {
  for (uint32_t i = 0; i < Channels(guild); ++i) {
    if (Channel(guild, i) != id) continue;
    return AppendChannelObject(guild, i, Hash(guild, kChannelKind, i + 1'000'000), id, name, out);
  }
  AppendChannelObject(guild, 0, Hash(guild, kChannelKind, id), id, name, out);
}

void Guilds::AppendChannelObject(size_t guild, uint32_t number, uint64_t hash, uint64_t id,
                                 std::string_view name, std::string& out) const {
  if (IsVoice(number)) {
    Append(out,
           R"({"version":1,"user_limit":0,"type":2,"rtc_region":null,"rate_limit_per_user":0,)",
           R"("position":)", number,
           R"(,"permission_overwrites":[],"parent_id":null,"nsfw":false,"name":")", name,
           R"(","last_message_id":null,"id":")", id, R"(","flags":0,"bitrate":64000})");
    return;
  }
  Append(out, R"({"version":)", hash % 1'000'000'000, R"(,"type":0,"topic":)");
  if (hash % 2 == 0) {
    Random random(hash);
    out += '"';
    AppendWords(out, random, 20);
    out += '"';
  } else {
    out += "null";
  }
  Append(out, R"(,"rate_limit_per_user":0,"position":)", number, R"(,"permission_overwrites":[)");
  for (uint64_t k = 0; k < hash % 3; ++k) {
    Append(out, k == 0 ? "" : ",", R"({"type":0,"id":")", Role(guild, k),
           R"(","deny":"2048","allow":"1024"})");
  }
  Append(out, R"(],"parent_id":null,"nsfw":false,"name":")", name, R"(","last_message_id":")",
         Snowflake(kLastGuild + hash % 1'000'000, hash), R"(","id":")", id, R"(","flags":0})");
}

void Guilds::AppendRoles(size_t guild, const GuildEdits& edits, std::string& out) const {
  std::map<uint64_t, std::string> names = RoleNames(guild, edits);
  const char* comma = "";
  for (uint32_t i = 0; i < Roles(guild); ++i) {
    const auto named = names.find(Role(guild, i));
    if (named == names.end()) continue;
    out += std::exchange(comma, ",");
    AppendRoleObject(i, Hash(guild, kRoleKind, i + 1'000'000), named->first, named->second, out);
    names.erase(named);
  }
  for (const auto& [id, name] : names) {
    out += std::exchange(comma, ",");
    AppendRole(guild, id, name, out);
  }
}

void Guilds::AppendRole(size_t guild, uint64_t id, std::string_view name, std::string& out) const {
  AppendRoleObject(1, Hash(guild, kRoleKind, id), id, name, out);
}

void Guilds::AppendRoleObject(uint32_t number, uint64_t hash, uint64_t id, std::string_view name,
                              std::string& out) const {
  Append(out, R"({"version":)", hash % 1'000'000'000,
         R"(,"unicode_emoji":null,"tags":{},"position":)", number,
         R"(,"permissions":"2248473465835073","name":")", name,
         R"(","mentionable":false,"managed":false,"id":")", id,
         R"(","icon":null,"hoist":false,"flags":0,"colors":{"tertiary_color":null,)",
         R"("secondary_color":null,"primary_color":)", hash % 0xFFFFFF, R"(},"color":)",
         hash % 0xFFFFFF, "}");
}

void Guilds::AppendEmojis(size_t guild, std::string& out) const {
  const uint32_t emojis = Channels(guild) / 2;
  for (uint32_t i = 0; i < emojis; ++i) {
    const uint64_t hash = Hash(guild, kRoleKind, i + 2'000'000);
    Append(out, i == 0 ? "" : ",", R"({"version":)", hash % 1'000'000'000,
           R"(,"roles":[],"require_colons":true,"name":")");
    AppendName(out, hash);
    Append(out, R"(","managed":false,"id":")", Snowflake(kFirstGuild + hash % 1'000'000'000, hash),
           R"(","available":true,"animated":false})");
  }
}

void Guilds::AppendSounds(size_t guild, std::string& out) const {
  const uint64_t sounds = Hash(guild, kRoleKind, 3'000'000) % 3;
  for (uint64_t i = 0; i < sounds; ++i) {
    const uint64_t hash = Hash(guild, kRoleKind, 3'000'001 + i);
    Append(out, i == 0 ? "" : ",", R"({"volume":1.0,"sound_id":")",
           Snowflake(kFirstGuild + hash % 1'000'000'000, hash), R"(","name":")");
    AppendName(out, hash);
    Append(out, R"(","guild_id":")", ids_[guild],
           R"(","emoji_name":null,"emoji_id":null,"available":true})");
  }
}

std::string Guilds::CreateData(size_t guild, const GuildEdits& edits) const {
  const uint64_t id = ids_[guild];
  const uint64_t hash = Hash(guild, kIdKind, 1);
  std::string rest;
  rest.reserve(create_bytes_[guild] / 2);
  rest += R"(],"voice_states":[],"vanity_url_code":null,"verification_level":1,)"
          R"("premium_progress_bar_enabled":false,"lazy":true,"roles":[)";
  AppendRoles(guild, edits, rest);
  Append(rest, R"(],"large":)", Members(guild) > 50 ? "true" : "false",
         R"(,"afk_channel_id":null,"stickers":[],"channels":[)");
  AppendChannels(guild, edits, rest);
  rest += R"(],"system_channel_flags":0,"features":["COMMUNITY","NEWS"],"inventory_settings":null,)"
          R"("safety_alerts_channel_id":null,"joined_at":")";
  AppendTime(rest, MillisOf(id) + hash % 1'000'000'000);
  rest += R"(","guild_scheduled_events":[],"splash":null,"discovery_splash":null,)"
          R"("rules_channel_id":null,"default_message_notifications":1,"presences":[],"emojis":[)";
  AppendEmojis(guild, rest);
  Append(rest, R"(],"application_id":null,"hub_type":null,"member_count":)", MemberCount(guild),
         R"(,"id":")", id,
         R"(","region":"deprecated","max_members":500000,"max_video_channel_users":25,)",
         R"("max_stage_video_channel_users":50,"public_updates_channel_id":null,"nsfw":false,)",
         R"("nsfw_level":0,"unavailable":false,"mfa_level":0,"preferred_locale":"en-US","icon":")");
  AppendHex(rest, hash + 1);
  rest += R"(","home_header":null,"description":null,"banner":null,"owner_id":")";
  Append(rest, Member(guild, 0).id, R"(","soundboard_sounds":[)");
  AppendSounds(guild, rest);
  Append(rest, R"(],"embedded_activities":[],"activity_instances":[],)",
         R"("stage_instances":[],"threads":[],"explicit_content_filter":2,"afk_timeout":300,)",
         R"("system_channel_id":")", Channel(guild, 0),
         R"(","latest_onboarding_question_id":null,"premium_subscription_count":)", hash % 30,
         R"(,"premium_tier":)", hash % 4, R"(,"incidents_data":null,"version":)",
         hash % 1'000'000'000'000, R"(,"name":")", Name(guild, edits), "\"}");

  // Members come first, as in captures, so the first "id" in the text is not the guild's; they fill
  // up what is left.
  std::string data = R"({"members":[)";
  data.reserve(create_bytes_[guild] + 1024);
  const size_t aim = create_bytes_[guild];
  AppendMembers(guild, aim > rest.size() ? aim - rest.size() : 0, data);
  data += rest;
  return data;
}

}  // namespace shardd::simulator
