#include "simulator/structure.h"

#include <iterator>
#include <memory>
#include <utility>

#include "simulator/json_text.h"

namespace shardd::simulator {
namespace {

// 2026-02-01: later than everything that guilds were made with.
constexpr uint64_t kFirstChange = 1'769'904'000'000;

uint64_t PickFrom(const std::map<uint64_t, std::string>& things, Random& random) {
  auto picked = things.begin();
  std::advance(picked, random.Below(static_cast<uint32_t>(things.size())));
  return picked->first;
}

}  // namespace

Structure::Structure(const Guilds& guilds, uint64_t seed)
    : guilds_(guilds),
      random_(Mix(seed, 0x7374)),
      now_(kFirstChange),
      places_(guilds.ids().size(), Place::kHere),
      edits_(guilds.ids().size()) {}

uint64_t Structure::NewId() { return Snowflake(now_, random_.Next()); }

std::string Structure::NewName() {
  std::string name;
  AppendName(name, random_.Next());
  return name;
}

Structure::Change Structure::Next() {
  ++now_;
  size_t guild = guilds_.Pick(random_);
  // Those that are away stay so for a while.
  while (places_[guild] != Place::kHere && !random_.Percent(5)) guild = guilds_.Pick(random_);
  auto event = std::make_shared<Dispatch>();
  event->guild_id = guilds_.ids()[guild];
  const uint32_t point = random_.Below(100);
  if (places_[guild] != Place::kHere || point < 3) {
    event->data = MoveData(guild, *event);
  } else if (point < 60) {
    ChangeChannel(guild, *event);
  } else if (point < 92) {
    ChangeRole(guild, *event);
  } else {
    Rename(guild, *event);
  }
  return {guild, std::move(event)};
}

std::string Structure::MoveData(size_t guild, Dispatch& event) {
  if (places_[guild] != Place::kHere) {
    places_[guild] = Place::kHere;
    event.type = "GUILD_CREATE";
    return CreateData(guild);
  }
  const bool leaves = random_.Percent(50);
  places_[guild] = leaves ? Place::kLeft : Place::kUnavailable;
  event.type = "GUILD_DELETE";
  std::string data;
  Append(data, leaves ? R"({"id":")" : R"({"unavailable":true,"id":")", event.guild_id, "\"}");
  return data;
}

void Structure::ChangeChannel(size_t guild, Dispatch& event) {
  const auto channels = guilds_.ChannelNames(guild, edits_[guild]);
  auto& edits = edits_[guild].channels;
  const uint32_t point = random_.Below(100);
  const bool creates = channels.size() < 2 || (channels.size() < 500 && point < 25);
  const uint64_t channel = creates ? NewId() : PickFrom(channels, random_);
  if (!creates && point < 48) {
    event.type = "CHANNEL_DELETE";
    guilds_.AppendChannel(guild, channel, channels.at(channel), event.data);
    edits[channel] = std::nullopt;
  } else {
    event.type = creates ? "CHANNEL_CREATE" : "CHANNEL_UPDATE";
    edits[channel] = NewName();
    guilds_.AppendChannel(guild, channel, *edits[channel], event.data);
  }
  event.data.pop_back();
  Append(event.data, R"(,"guild_id":")", event.guild_id, "\"}");
}

void Structure::ChangeRole(size_t guild, Dispatch& event) {
  auto roles = guilds_.RoleNames(guild, edits_[guild]);
  roles.erase(event.guild_id);  // @everyone stays as it is
  auto& edits = edits_[guild].roles;
  const uint32_t point = random_.Below(100);
  const bool creates = roles.empty() || (roles.size() < 249 && point < 25);
  const uint64_t role = creates ? NewId() : PickFrom(roles, random_);
  if (!creates && point < 48) {
    event.type = "GUILD_ROLE_DELETE";
    edits[role] = std::nullopt;
    Append(event.data, R"({"role_id":")", role, R"(","guild_id":")", event.guild_id, "\"}");
    return;
  }
  event.type = creates ? "GUILD_ROLE_CREATE" : "GUILD_ROLE_UPDATE";
  edits[role] = NewName();
  event.data = R"({"role":)";
  guilds_.AppendRole(guild, role, *edits[role], event.data);
  Append(event.data, R"(,"guild_id":")", event.guild_id, "\"}");
}

void Structure::Rename(size_t guild, Dispatch& event) {
  event.type = "GUILD_UPDATE";
  edits_[guild].name = NewName();
  event.data = R"({"verification_level":1,"roles":[)";
  guilds_.AppendRoles(guild, edits_[guild], event.data);
  Append(event.data, R"(],"owner_id":")", guilds_.Member(guild, 0).id, R"(","name":")",
         edits_[guild].name, R"(","id":")", event.guild_id, R"(","features":["COMMUNITY"]})");
}

std::vector<GuildState> Structure::States() const {
  std::vector<GuildState> states;
  for (size_t guild = 0; guild < edits_.size(); ++guild) {
    if (!IsJoined(guild)) continue;
    states.push_back({.id = guilds_.ids()[guild],
                      .available = IsAvailable(guild),
                      .name = guilds_.Name(guild, edits_[guild]),
                      .channels = guilds_.ChannelNames(guild, edits_[guild]),
                      .roles = guilds_.RoleNames(guild, edits_[guild])});
  }
  return states;
}

}  // namespace shardd::simulator
