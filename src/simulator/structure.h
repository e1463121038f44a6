#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "simulator/dispatch.h"
#include "simulator/guilds.h"
#include "simulator/random.h"
#include "simulator/simulator.h"

namespace shardd::simulator {

// How guilds change: channels and roles that come, are renamed and go, guilds that are renamed,
// left, joined again, and out of order for a while. Keeps what is true after it. The n-th change is
// the same in every run with this seed and these guilds. Thread-compatible.
class Structure {
 public:
  // Keeps a reference.
  Structure(const Guilds& guilds, uint64_t seed);

  // The bot is a member of it.
  bool IsJoined(size_t guild) const { return places_[guild] != Place::kLeft; }
  // ...and it is not out of order.
  bool IsAvailable(size_t guild) const { return places_[guild] == Place::kHere; }
  // `d` of its GUILD_CREATE today.
  std::string CreateData(size_t guild) const { return guilds_.CreateData(guild, edits_[guild]); }

  // The next change and the guild that it is of. REQUIRES: there are guilds.
  struct Change {
    size_t guild = 0;
    DispatchPtr event;
  };
  Change Next();

  std::vector<GuildState> States() const;

 private:
  enum class Place { kHere, kUnavailable, kLeft };

  std::string MoveData(size_t guild, Dispatch& event);
  void ChangeChannel(size_t guild, Dispatch& event);
  void ChangeRole(size_t guild, Dispatch& event);
  void Rename(size_t guild, Dispatch& event);
  uint64_t NewId();
  std::string NewName();

  const Guilds& guilds_;
  Random random_;
  uint64_t now_;  // a clock of its own, a millisecond a change
  std::vector<Place> places_;
  std::vector<GuildEdits> edits_;
};

}  // namespace shardd::simulator
