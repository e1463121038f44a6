#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace shardd::events {

// What an event does to what a bot has to know of its guilds.
enum class SnapshotRole : uint8_t {
  kReady,        // a new session, with the list of its guilds
  kGuildCreate,  // all of a guild
  kGuildDelete,  // the guild has gone, or is unavailable
  kCreate,       // something of a guild: comes,
  kUpdate,       // is told anew in whole,
  kDelete,       // goes
  kEach,         // a change that no later one replaces
  kLoss,  // shardd says that events of a session are missing, which may have been any of these
};

// Things of a guild that have ids of their own, which are unique within one of these.
enum class SnapshotFamily : uint8_t {
  kNone,
  kAvailability,
  kGuild,
  kEmojis,
  kStickers,
  kChannel,
  kThread,
  kRole,
  kSound,
  kStage,
  kScheduledEvent,
};

// One row of the table of structural events (snapshot_types.cc), the only place that lists them.
struct SnapshotType {
  std::string_view name;
  SnapshotRole role;
  SnapshotFamily family = SnapshotFamily::kNone;
  std::string_view id_key{};     // at the top level of `d`; empty: there is one of these in a guild
  std::string_view id_object{};  // the object at the top level that has the key; empty: none
  uint32_t hash = 0;             // TypeHash(name)
};

// Number in the table; kNoSnapshotType for most events. Cheap: this is asked of every event. Two
// names may share a hash, so the name has to be compared.
inline constexpr uint8_t kNoSnapshotType = 0xff;
uint8_t FindSnapshotType(uint32_t type_hash);
const SnapshotType& SnapshotTypeAt(uint8_t number);

// What has to be known of an event's `d`.
struct SnapshotFacts {
  uint64_t id = 0;           // of the thing; 0: it has none, or none that can be read
  bool unavailable = false;  // of GUILD_CREATE and GUILD_DELETE
  bool goes_on = false;  // of kLoss: the session goes on, and an event of this table may be missing
  bool has_guilds = false;         // of READY: `guilds` could be read
  std::vector<uint64_t> guilds{};  // of READY, in ascending order
};

// Finds the facts. Keeps memory for the largest ordinary `d`. Thread-compatible.
class SnapshotFactReader {
 public:
  SnapshotFactReader();
  ~SnapshotFactReader();

  // What cannot be read stays as it is by default: what comes from Discord may be anything.
  SnapshotFacts Read(const SnapshotType& type, std::string_view data);

 private:
  class Parser;
  std::unique_ptr<Parser> parser_;
};

}  // namespace shardd::events
