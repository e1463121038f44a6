#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "simulator/simulator.h"

namespace shardd::test {

// What a bot keeps of its guilds: takes in events in order, and compares with what is true.
class GuildCache {
 public:
  // `data` is the JSON of `d`. Events that say nothing of guilds are ignored; one of a guild that
  // is not known is counted.
  void Take(std::string_view type, std::string_view data);

  // By id; as Simulator::GuildStates() has them, but for the names, which are text here.
  const std::map<uint64_t, simulator::GuildState>& guilds() const { return guilds_; }
  uint64_t unknown() const { return unknown_; }

 private:
  std::map<uint64_t, simulator::GuildState> guilds_;
  uint64_t unknown_ = 0;
};

// What `told` has wrong, in words; empty: nothing.
std::string Differences(const std::map<uint64_t, simulator::GuildState>& told,
                        const std::map<uint64_t, simulator::GuildState>& truth);

// The same of the simulator's truth: by id, names as text.
std::map<uint64_t, simulator::GuildState> TrueGuilds(const simulator::Simulator& simulator);

}  // namespace shardd::test
