#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "simulator/random.h"

namespace shardd::simulator {

// A user, as messages and members name it. Everything else about it follows from the id.
struct User {
  uint64_t id = 0;
};

// What has become of a guild since it was made.
struct GuildEdits {
  std::string name{};  // empty: as it was made
  // By id, of those that were made later or renamed; none: deleted.
  std::map<uint64_t, std::optional<std::string>> channels{};
  std::map<uint64_t, std::optional<std::string>> roles{};
};

// The guilds of the simulated world. Nothing of a guild but its id, size and weight is kept:
// channels, roles and members follow from its index by hashing, so a GUILD_CREATE and a later event
// agree. Same seed and sizes, same guilds. Thread-compatible.
class Guilds {
 public:
  struct Options {
    uint64_t seed = 1;
    uint32_t count = 100;
    uint32_t large = 0;  // the first so many have a GUILD_CREATE of at least large_bytes
    size_t large_bytes = 0;
  };

  explicit Guilds(const Options& options);

  const std::vector<uint64_t>& ids() const { return ids_; }
  // A guild's index, busy guilds more often. REQUIRES: there are guilds.
  size_t Pick(Random& random) const;

  uint64_t Channel(size_t guild, uint64_t which) const;
  uint64_t Role(size_t guild, uint64_t which) const;
  User Member(size_t guild, uint64_t which) const;
  uint32_t Channels(size_t guild) const;
  // Whether a guild's channel of this number is a voice channel.
  static bool IsVoice(uint64_t channel) { return channel % 4 == 3; }
  // Those who do something; `member_count` has the silent ones too. The first Members() of the
  // numbers below MemberCount() are the former.
  uint32_t Members(size_t guild) const;
  uint32_t MemberCount(size_t guild) const;
  User MemberNumber(size_t guild, uint32_t number) const;
  // A guild's index by its id.
  std::optional<uint32_t> Find(uint64_t id) const;

  // `d` of the guild's GUILD_CREATE.
  std::string CreateData(size_t guild, const GuildEdits& edits = {}) const;
  // What it is called, as it stands inside a JSON string.
  std::string Name(size_t guild, const GuildEdits& edits) const;
  // By id.
  std::map<uint64_t, std::string> ChannelNames(size_t guild, const GuildEdits& edits) const;
  std::map<uint64_t, std::string> RoleNames(size_t guild, const GuildEdits& edits) const;
  // One object.
  void AppendChannel(size_t guild, uint64_t id, std::string_view name, std::string& out) const;
  void AppendRole(size_t guild, uint64_t id, std::string_view name, std::string& out) const;
  // The inside of the array.
  void AppendRoles(size_t guild, const GuildEdits& edits, std::string& out) const;
  // The inside of the array of its soundboard sounds.
  void AppendSounds(size_t guild, std::string& out) const;

 private:
  uint64_t Hash(size_t guild, uint64_t kind, uint64_t which) const;
  void AppendMembers(size_t guild, size_t until, std::string& out) const;
  uint32_t Roles(size_t guild) const;
  void AppendChannels(size_t guild, const GuildEdits& edits, std::string& out) const;
  void AppendChannelObject(size_t guild, uint32_t number, uint64_t hash, uint64_t id,
                           std::string_view name, std::string& out) const;
  void AppendRoleObject(uint32_t number, uint64_t hash, uint64_t id, std::string_view name,
                        std::string& out) const;
  void AppendEmojis(size_t guild, std::string& out) const;

  uint64_t seed_;
  std::vector<uint64_t> ids_;
  std::unordered_map<uint64_t, uint32_t> index_of_;
  std::vector<size_t> create_bytes_;  // what the GUILD_CREATE aims at
  std::vector<double> weight_up_to_;  // running sum of how busy each guild is
};

std::string UserName(User user);
// `{"username":...}` and `"user":{...},"roles":[...],...` (the inside of a member), in Discord's
// key order.
void AppendUser(std::string& out, User user);
void AppendMember(std::string& out, const Guilds& guilds, size_t guild, User user, bool with_user);

}  // namespace shardd::simulator
