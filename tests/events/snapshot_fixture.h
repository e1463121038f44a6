#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "events/log.h"
#include "events/snapshots.h"
#include "shardd/v1/shardd.pb.h"
#include "support/temp_dir.h"

namespace shardd::events {

inline constexpr uint64_t kGuild = 1'000'000'000'000'000'001;
inline constexpr ShardId kOnlyShard{.id = 0, .count = 1};

inline std::string Quoted(uint64_t id) { return "\"" + std::to_string(id) + "\""; }

inline std::string ReadyData(const std::vector<uint64_t>& guilds) {
  std::string data = R"({"v":10,"session_id":"abc","guilds":[)";
  for (const uint64_t guild : guilds) {
    if (guild != guilds.front()) data += ',';
    data += R"({"unavailable":true,"id":)" + Quoted(guild) + "}";
  }
  return data + "]}";
}

inline std::string GuildData(uint64_t guild, const std::vector<uint64_t>& channels = {},
                             size_t padding = 0) {
  std::string data = R"({"members":[],"unavailable":false,"channels":[)";
  for (const uint64_t channel : channels) {
    if (channel != channels.front()) data += ',';
    data += R"({"name":"old","id":)" + Quoted(channel) + "}";
  }
  return data + R"(],"padding":")" + std::string(padding, 'x') + R"(","id":)" + Quoted(guild) + "}";
}

inline std::string ChannelData(uint64_t guild, uint64_t channel, const std::string& name,
                               size_t padding = 0) {
  return R"({"name":")" + name + R"(","topic":")" + std::string(padding, 'x') + R"(","guild_id":)" +
         Quoted(guild) + R"(,"id":)" + Quoted(channel) + "}";
}

inline std::string GoneData(uint64_t guild) { return R"({"id":)" + Quoted(guild) + "}"; }
inline std::string UnavailableData(uint64_t guild) {
  return R"({"unavailable":true,"id":)" + Quoted(guild) + "}";
}

inline std::string BytesOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void WriteBytes(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::vector<v1::Event> Read(Snapshots::Reading& reading, ReadLimits limits = {}) {
  std::vector<v1::Event> events;
  while (true) {
    const auto next = reading.Next(limits);
    EXPECT_TRUE(next.ok()) << next.status();
    if (!next.ok()) return events;
    v1::EventBatch batch;
    EXPECT_TRUE(batch.ParseFromString(next->bytes));
    EXPECT_EQ(static_cast<uint64_t>(batch.events_size()), next->count);
    EXPECT_LE(next->count, limits.max_events);
    if (next->count > 1) {
      EXPECT_LE(next->bytes.size(), limits.max_bytes);
    }
    for (auto& event : *batch.mutable_events()) {
      EXPECT_TRUE(event.snapshot());
      EXPECT_LT(event.offset(), reading.position());
      events.push_back(std::move(event));
    }
    if (next->end) return events;
  }
}

class SnapshotTest : public ::testing::Test {
 protected:
  SnapshotTest() : log_(*Log::Open({.retain_bytes = uint64_t{64} << 20})) {}

  absl::StatusOr<std::unique_ptr<Snapshots>> TryOpen(uint64_t max_bytes = uint64_t{64} << 20) {
    return Snapshots::Open({.path = path_, .max_bytes = max_bytes, .log = log_.get()});
  }
  void Open(uint64_t max_bytes = uint64_t{64} << 20) {
    snapshots_.reset();
    auto opened = TryOpen(max_bytes);
    ASSERT_TRUE(opened.ok()) << opened.status();
    snapshots_ = *std::move(opened);
  }

  // As if the process had been killed now: the file is what it is.
  void Kill(size_t cut_bytes = 0) {
    std::string bytes = BytesOf(path_);
    bytes.resize(bytes.size() - std::min(cut_bytes, bytes.size()));
    snapshots_.reset();
    WriteBytes(path_, bytes);
  }

  uint64_t Append(std::string_view type, uint64_t guild, std::string_view data,
                  ShardId shard = kOnlyShard) {
    const uint64_t offset = log_->end();
    Round round;
    round.Add({.shard = shard,
               .session = 1,
               .sequence = ++sequence_,
               .guild_id = guild,
               .received_unix_nanos = 1,
               .type = type,
               .data = data});
    log_->Append(round);
    return offset;
  }
  uint64_t AppendGuild(uint64_t guild, size_t padding = 0) {
    return Append("GUILD_CREATE", guild, GuildData(guild, {}, padding));
  }

  std::vector<v1::Event> All(std::optional<Filter> filter = {}) {
    return Read(*BeginAtEnd(std::move(filter)));
  }
  std::unique_ptr<Snapshots::Reading> BeginAtEnd(std::optional<Filter> filter = {}) {
    snapshots_->CatchUp();
    return snapshots_->Begin(std::move(filter));
  }
  static std::vector<std::string> TypesOf(const std::vector<v1::Event>& events) {
    std::vector<std::string> types;
    for (const auto& event : events) types.push_back(event.type());
    return types;
  }
  std::vector<std::string> Types() { return TypesOf(All()); }

  test::TempDir dir_;
  const std::string path_ = dir_ / "snapshot";
  std::unique_ptr<Log> log_;
  std::unique_ptr<Snapshots> snapshots_;
  uint64_t sequence_ = 0;
};

// What is left of each guild when its events are taken in one after the other, as a bot does.
struct Bot {
  struct Guild {
    bool unavailable = false;
    std::map<std::string, std::string> things;  // by family and id
    friend bool operator==(const Guild&, const Guild&) = default;
  };
  std::map<uint64_t, Guild> guilds;

  static std::string IdIn(const std::string& data) {
    const size_t at = data.rfind("\"id\":\"") + 6;
    return data.substr(at, data.find('"', at) - at);
  }
  void Take(const std::string& type, uint64_t guild, const std::string& data) {
    const bool unavailable = data.find(R"("unavailable":true)") != data.npos;
    if (type == "GUILD_CREATE") {
      if (!unavailable) {
        guilds[guild] = {};
        // The channels that it was created with.
        for (size_t at = data.find("\"old\""); at != data.npos; at = data.find("\"old\"", at + 1)) {
          const size_t id = at + 12;
          guilds[guild].things["CHANNEL_" + data.substr(id, data.find('"', id) - id)] = "old";
        }
      } else if (guilds.contains(guild)) {
        guilds[guild].unavailable = true;
      }
    } else if (type == "GUILD_DELETE") {
      if (!unavailable) guilds.erase(guild);
      if (unavailable && guilds.contains(guild)) guilds[guild].unavailable = true;
    } else if (guilds.contains(guild)) {
      const std::string family = type.substr(0, type.rfind('_') + 1);
      const std::string key = family == "GUILD_" ? family : family + IdIn(data);
      if (type.ends_with("_DELETE")) {
        guilds[guild].things.erase(key);
      } else {
        guilds[guild].things[key] = data;
      }
    }
  }
};

}  // namespace shardd::events
