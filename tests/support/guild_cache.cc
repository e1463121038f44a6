#include "support/guild_cache.h"

#include <boost/json.hpp>

namespace shardd::test {
namespace {

namespace json = boost::json;

uint64_t Id(const json::value& value) { return std::stoull(std::string(value.as_string())); }
uint64_t IdOf(const json::value& object, const char* key = "id") { return Id(object.at(key)); }
std::string NameOf(const json::value& object) { return std::string(object.at("name").as_string()); }

std::string Unescaped(const std::string& inside) {
  return std::string(json::parse("\"" + inside + "\"").as_string());
}

}  // namespace

void GuildCache::Take(std::string_view type, std::string_view data) {
  const bool is_guild = type.starts_with("GUILD_CREATE") || type.starts_with("GUILD_UPDATE") ||
                        type.starts_with("GUILD_DELETE");
  const bool is_part = type.starts_with("CHANNEL_") || type.starts_with("GUILD_ROLE_");
  if (type == "READY") {
    const json::value ready = json::parse(json::string_view(data.data(), data.size()));
    for (const json::value& guild : ready.at("guilds").as_array()) {
      guilds_.try_emplace(IdOf(guild), simulator::GuildState{.id = IdOf(guild)})
          .first->second.available = false;
    }
    return;
  }
  if (!is_guild && !is_part) return;
  const json::value d = json::parse(json::string_view(data.data(), data.size()));
  const uint64_t id = IdOf(d, is_guild ? "id" : "guild_id");
  if (type == "GUILD_CREATE") {
    simulator::GuildState& guild = guilds_[id] = {.id = id, .name = NameOf(d)};
    for (const json::value& each : d.at("channels").as_array()) {
      guild.channels[IdOf(each)] = NameOf(each);
    }
    for (const json::value& each : d.at("roles").as_array()) guild.roles[IdOf(each)] = NameOf(each);
    return;
  }
  const auto found = guilds_.find(id);
  if (found == guilds_.end()) {
    ++unknown_;
    return;
  }
  simulator::GuildState& guild = found->second;
  if (type == "GUILD_DELETE") {
    if (d.as_object().contains("unavailable")) {
      guild.available = false;
    } else {
      guilds_.erase(found);
    }
  } else if (type == "GUILD_UPDATE") {
    guild.name = NameOf(d);
  } else if (type == "CHANNEL_CREATE" || type == "CHANNEL_UPDATE") {
    guild.channels[IdOf(d)] = NameOf(d);
  } else if (type == "CHANNEL_DELETE") {
    guild.channels.erase(IdOf(d));
  } else if (type == "GUILD_ROLE_CREATE" || type == "GUILD_ROLE_UPDATE") {
    guild.roles[IdOf(d.at("role"))] = NameOf(d.at("role"));
  } else if (type == "GUILD_ROLE_DELETE") {
    guild.roles.erase(IdOf(d, "role_id"));
  }
}

std::string Differences(const std::map<uint64_t, simulator::GuildState>& told,
                        const std::map<uint64_t, simulator::GuildState>& truth) {
  std::string text;
  const auto say = [&](uint64_t id, const char* what) {
    text += "guild " + std::to_string(id) + ": " + what + "\n";
  };
  for (const auto& [id, guild] : told) {
    if (!truth.contains(id)) say(id, "has gone, and is told");
  }
  for (const auto& [id, guild] : truth) {
    const auto found = told.find(id);
    if (found == told.end()) {
      say(id, "is not told");
      continue;
    }
    if (found->second.available != guild.available) say(id, "the other availability");
    if (found->second.name != guild.name) say(id, "another name");
    if (found->second.channels != guild.channels) say(id, "other channels");
    if (found->second.roles != guild.roles) say(id, "other roles");
  }
  return text;
}

std::map<uint64_t, simulator::GuildState> TrueGuilds(const simulator::Simulator& simulator) {
  std::map<uint64_t, simulator::GuildState> guilds;
  for (simulator::GuildState state : simulator.GuildStates()) {
    state.name = Unescaped(state.name);
    for (auto& [id, name] : state.channels) name = Unescaped(name);
    for (auto& [id, name] : state.roles) name = Unescaped(name);
    guilds[state.id] = std::move(state);
  }
  return guilds;
}

}  // namespace shardd::test
