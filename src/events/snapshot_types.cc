#include "events/snapshot_types.h"

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "events/index_entry.h"

namespace shardd::events {
namespace {

namespace ondemand = simdjson::ondemand;

constexpr SnapshotType Row(std::string_view name, SnapshotRole role,
                           SnapshotFamily family = SnapshotFamily::kNone,
                           std::string_view id_key = {}, std::string_view id_object = {}) {
  return {name, role, family, id_key, id_object, TypeHash(name)};
}

// What GUILD_CREATE tells of a guild, and what changes it: not its members, presences and voice
// states, which change too often, and may be asked for.
// https://discord.com/developers/docs/events/gateway-events
constexpr auto kTypes = [] {
  using enum SnapshotRole;
  using F = SnapshotFamily;
  return std::to_array<SnapshotType>({
      Row("READY", kReady),
      Row("SHARDD_SESSION_LOST", kLoss),
      Row("SHARDD_OVERSIZE", kLoss),
      Row("GUILD_CREATE", kGuildCreate, F::kAvailability),
      Row("GUILD_DELETE", kGuildDelete, F::kAvailability),
      Row("GUILD_UPDATE", kUpdate, F::kGuild),
      Row("GUILD_EMOJIS_UPDATE", kUpdate, F::kEmojis),
      Row("GUILD_STICKERS_UPDATE", kUpdate, F::kStickers),
      Row("CHANNEL_CREATE", kCreate, F::kChannel, "id"),
      Row("CHANNEL_UPDATE", kUpdate, F::kChannel, "id"),
      Row("CHANNEL_DELETE", kDelete, F::kChannel, "id"),
      Row("CHANNEL_PINS_UPDATE", kUpdate, F::kChannel, "channel_id"),
      Row("VOICE_CHANNEL_STATUS_UPDATE", kUpdate, F::kChannel, "id"),
      Row("VOICE_CHANNEL_START_TIME_UPDATE", kUpdate, F::kChannel, "id"),
      Row("THREAD_CREATE", kCreate, F::kThread, "id"),
      Row("THREAD_UPDATE", kUpdate, F::kThread, "id"),
      Row("THREAD_DELETE", kDelete, F::kThread, "id"),
      Row("THREAD_LIST_SYNC", kEach, F::kThread),
      Row("THREAD_MEMBER_UPDATE", kUpdate, F::kThread, "id"),
      // Not the whole list of members, which no snapshot has, but their newest number.
      Row("THREAD_MEMBERS_UPDATE", kUpdate, F::kThread, "id"),
      Row("GUILD_ROLE_CREATE", kCreate, F::kRole, "id", "role"),
      Row("GUILD_ROLE_UPDATE", kUpdate, F::kRole, "id", "role"),
      Row("GUILD_ROLE_DELETE", kDelete, F::kRole, "role_id"),
      Row("GUILD_SOUNDBOARD_SOUND_CREATE", kCreate, F::kSound, "sound_id"),
      Row("GUILD_SOUNDBOARD_SOUND_UPDATE", kUpdate, F::kSound, "sound_id"),
      Row("GUILD_SOUNDBOARD_SOUND_DELETE", kDelete, F::kSound, "sound_id"),
      Row("GUILD_SOUNDBOARD_SOUNDS_UPDATE", kEach, F::kSound),
      Row("STAGE_INSTANCE_CREATE", kCreate, F::kStage, "id"),
      Row("STAGE_INSTANCE_UPDATE", kUpdate, F::kStage, "id"),
      Row("STAGE_INSTANCE_DELETE", kDelete, F::kStage, "id"),
      Row("GUILD_SCHEDULED_EVENT_CREATE", kCreate, F::kScheduledEvent, "id"),
      Row("GUILD_SCHEDULED_EVENT_UPDATE", kUpdate, F::kScheduledEvent, "id"),
      Row("GUILD_SCHEDULED_EVENT_DELETE", kDelete, F::kScheduledEvent, "id"),
  });
}();
static_assert(kTypes.size() < kNoSnapshotType);

// By the hash's low bits; so few types that hardly two of them share a place.
constexpr size_t kPlaces = 1024;
constexpr auto kByHash = [] {
  std::array<std::array<uint8_t, 2>, kPlaces> table{};
  for (auto& place : table) place.fill(kNoSnapshotType);
  for (size_t i = 0; i < kTypes.size(); ++i) {
    auto& place = table[kTypes[i].hash % kPlaces];
    place[place[0] == kNoSnapshotType ? 0 : 1] = static_cast<uint8_t>(i);
  }
  return table;
}();
static_assert(
    [] {
      for (size_t i = 0; i < kTypes.size(); ++i) {
        const auto& place = kByHash[kTypes[i].hash % kPlaces];
        if (place[0] != i && place[1] != i) return false;
      }
      return true;
    }(),
    "three types share a place");

uint64_t Snowflake(simdjson::simdjson_result<ondemand::value> value) {
  std::string_view text;
  if (value.get_string().get(text)) return 0;
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() ? number : 0;
}

}  // namespace

uint8_t FindSnapshotType(uint32_t type_hash) {
  for (const uint8_t number : kByHash[type_hash % kPlaces]) {
    if (number != kNoSnapshotType && kTypes[number].hash == type_hash) return number;
  }
  return kNoSnapshotType;
}

const SnapshotType& SnapshotTypeAt(uint8_t number) { return kTypes[number]; }

class SnapshotFactReader::Parser {
 public:
  SnapshotFacts Read(const SnapshotType& type, std::string_view data) {
    SnapshotFacts facts;
    padded_.reserve(data.size() + simdjson::SIMDJSON_PADDING);
    padded_.assign(data);
    ondemand::document document;
    ondemand::object object;
    if (parser_.iterate(padded_.data(), padded_.size(), padded_.capacity()).get(document) ||
        document.get_object().get(object)) {
      return facts;
    }
    switch (type.role) {
      case SnapshotRole::kReady:
        facts.has_guilds = ReadGuilds(object, &facts.guilds);
        break;
      case SnapshotRole::kLoss:
        facts.goes_on = GoesOn(object);
        break;
      case SnapshotRole::kGuildCreate:
      case SnapshotRole::kGuildDelete:
        if (object.find_field_unordered("unavailable").get_bool().get(facts.unavailable)) {
          facts.unavailable = false;
        }
        break;
      default:
        if (type.id_key.empty()) break;
        if (!type.id_object.empty() &&
            object.find_field_unordered(type.id_object).get_object().get(object)) {
          break;
        }
        facts.id = Snowflake(object.find_field_unordered(type.id_key));
    }
    return facts;
  }

 private:
  static bool ReadGuilds(ondemand::object& ready, std::vector<uint64_t>* guilds) {
    ondemand::array array;
    if (ready.find_field_unordered("guilds").get_array().get(array)) return false;
    for (auto element : array) {
      ondemand::object guild;
      if (element.get_object().get(guild)) return false;
      const uint64_t id = Snowflake(guild.find_field_unordered("id"));
      if (id == 0) return false;
      guilds->push_back(id);
    }
    std::ranges::sort(*guilds);
    return true;
  }

  static bool GoesOn(ondemand::object& loss) {
    std::string_view text;
    if (!loss.find_field_unordered("reason").get_string().get(text)) {
      return text.starts_with("SEQUENCE_GAP");
    }
    return !loss.find_field_unordered("type").get_string().get(text) &&
           FindSnapshotType(TypeHash(text)) != kNoSnapshotType;
  }

  ondemand::parser parser_;
  std::string padded_;
};

SnapshotFactReader::SnapshotFactReader() : parser_(std::make_unique<Parser>()) {}
SnapshotFactReader::~SnapshotFactReader() = default;

SnapshotFacts SnapshotFactReader::Read(const SnapshotType& type, std::string_view data) {
  const SnapshotFacts facts = parser_->Read(type, data);
  constexpr size_t kKeptBytes = size_t{4} << 20;
  if (data.size() > kKeptBytes) parser_ = std::make_unique<Parser>();
  return facts;
}

}  // namespace shardd::events
