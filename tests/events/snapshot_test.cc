#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "common/status.h"
#include "events/crc32c.h"
#include "events/log.h"
#include "events/snapshot_fixture.h"
#include "events/snapshot_follower.h"
#include "events/snapshots.h"
#include "shardd/v1/shardd.pb.h"
#include "support/temp_dir.h"

namespace shardd::events {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// ---- What a snapshot holds ----

TEST_F(SnapshotTest, HoldsReadyAndWhatMakesUpAGuildAndNothingElse) {
  Open();
  Append("READY", 0, ReadyData({kGuild}));
  const uint64_t created = AppendGuild(kGuild);
  Append("MESSAGE_CREATE", kGuild, R"({"id":"1"})");
  Append("CHANNEL_CREATE", kGuild, ChannelData(kGuild, 7, "new"));
  Append("GUILD_MEMBER_UPDATE", kGuild, "{}");
  Append("GUILD_ROLE_DELETE", kGuild, R"({"role_id":"9"})");
  Append("CHANNEL_CREATE", 0, R"({"id":"8"})");  // of a direct message
  const auto events = All();
  EXPECT_THAT(TypesOf(events),
              ElementsAre("READY", "GUILD_CREATE", "CHANNEL_CREATE", "GUILD_ROLE_DELETE"));
  const v1::Event& guild = events[1];
  EXPECT_EQ(guild.offset(), created);
  EXPECT_EQ(guild.data(), GuildData(kGuild));
  EXPECT_EQ(guild.data_bytes(), guild.data().size());
  EXPECT_EQ(guild.guild_id(), kGuild);
  EXPECT_EQ(guild.shard_count(), 1u);
  EXPECT_EQ(guild.session(), 1u);
  EXPECT_GT(guild.sequence(), 0u);
  EXPECT_EQ(guild.received_unix_nanos(), 1);
}

TEST_F(SnapshotTest, GuildCreateReplacesWhatWasThereOfTheGuild) {
  Open();
  Append("READY", 0, ReadyData({kGuild}));
  AppendGuild(kGuild);
  Append("CHANNEL_CREATE", kGuild, ChannelData(kGuild, 7, "new"));
  const uint64_t newest = AppendGuild(kGuild);
  const auto events = All();
  EXPECT_THAT(TypesOf(events), ElementsAre("READY", "GUILD_CREATE"));
  EXPECT_EQ(events[1].offset(), newest);
}

TEST_F(SnapshotTest, TellsWhatIsMissingInASessionThatGoesOn) {
  Open();
  const std::string gap = R"({"shard_id":0,"reason":"SEQUENCE_GAP: 5 to 9"})";
  Append("SHARDD_SESSION_LOST", 0, gap);
  Append("READY", 0, ReadyData({kGuild}));
  AppendGuild(kGuild);
  Append("SHARDD_SESSION_LOST", 0, gap);
  const uint64_t newest = Append("SHARDD_SESSION_LOST", 0, gap);
  Append("SHARDD_OVERSIZE", 0, R"({"sequence":7,"type":"MESSAGE_CREATE"})");
  Append("SHARDD_OVERSIZE", 0, R"({"sequence":8,"type":"GUILD_CREATE"})");
  Append("SHARDD_SESSION_LOST", 0, R"({"reason":"op 9"})");  // a READY will follow
  const auto events = All();
  EXPECT_THAT(TypesOf(events),
              ElementsAre("READY", "SHARDD_SESSION_LOST", "SHARDD_OVERSIZE", "GUILD_CREATE"));
  EXPECT_EQ(events[1].offset(), newest);
  Kill();
  Open();
  EXPECT_EQ(Types().size(), 4u);
  Append("READY", 0, ReadyData({kGuild}));
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_CREATE"));
}

TEST_F(SnapshotTest, GuildThatIsUnavailableStaysAndSaysSo) {
  Open();
  AppendGuild(kGuild);
  Append("GUILD_DELETE", kGuild, UnavailableData(kGuild));
  Append("GUILD_CREATE", kGuild, UnavailableData(kGuild));
  EXPECT_THAT(Types(), ElementsAre("GUILD_CREATE", "GUILD_DELETE", "GUILD_CREATE"));
}

TEST_F(SnapshotTest, GuildThatHasGoneIsTakenBackFromTheListOfReady) {
  Open();
  Append("READY", 0, ReadyData({kGuild}));
  AppendGuild(kGuild);
  AppendGuild(kGuild + 1);  // joined since
  Append("GUILD_DELETE", kGuild, GoneData(kGuild));
  Append("GUILD_DELETE", kGuild + 1, GoneData(kGuild + 1));
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_DELETE"));
  EXPECT_THAT(snapshots_->GuildsOf(kOnlyShard), IsEmpty());
  AppendGuild(kGuild);
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_CREATE"));
  EXPECT_THAT(snapshots_->GuildsOf(kOnlyShard), ElementsAre(kGuild));
}

TEST_F(SnapshotTest, NewSessionEndsTheGuildsThatItDoesNotList) {
  Open();
  Append("READY", 0, ReadyData({kGuild, kGuild + 1, kGuild + 2}));
  for (uint64_t i = 0; i < 3; ++i) AppendGuild(kGuild + i);
  Append("GUILD_DELETE", kGuild, GoneData(kGuild));
  const uint64_t ready = Append("READY", 0, ReadyData({kGuild + 2}));
  const auto events = All();
  EXPECT_THAT(TypesOf(events), ElementsAre("READY", "GUILD_CREATE"));
  EXPECT_EQ(events[0].offset(), ready);
  EXPECT_EQ(events[1].guild_id(), kGuild + 2);
}

TEST_F(SnapshotTest, ReadyWhoseListCannotBeReadLeavesItsGuildsOut) {
  Open();
  Append("READY", 0, ReadyData({kGuild}));
  AppendGuild(kGuild);
  Append("READY", 0, R"({"guilds":[{"id":5}]})");
  EXPECT_THAT(Types(), ElementsAre("READY"));
  EXPECT_EQ(snapshots_->GetStats().guilds_left_out, 1u);
  AppendGuild(kGuild);
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_CREATE"));
  EXPECT_EQ(snapshots_->GetStats().guilds_left_out, 0u);
}

TEST_F(SnapshotTest, ShardsOfOtherCountsStayUntilTheyAreForgotten) {
  Open();
  const uint64_t a = uint64_t{4} << 22;  // shard 0 of 2, and of 4
  const uint64_t b = uint64_t{6} << 22;  // shard 0 of 2, and 2 of 4
  Append("READY", 0, ReadyData({a, b}), {.id = 0, .count = 2});
  Append("GUILD_CREATE", a, GuildData(a), {.id = 0, .count = 2});
  Append("GUILD_CREATE", b, GuildData(b), {.id = 0, .count = 2});
  Append("READY", 0, ReadyData({a}), {.id = 0, .count = 4});
  Append("READY", 0, ReadyData({}), {.id = 2, .count = 4});
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_CREATE", "GUILD_CREATE", "READY", "READY"));
  snapshots_->ForgetOtherCounts(4);
  const auto events = All();
  EXPECT_THAT(TypesOf(events), ElementsAre("GUILD_CREATE", "READY", "READY"));
  EXPECT_EQ(events[0].guild_id(), a);
  Kill();
  Open();
  EXPECT_EQ(Types().size(), 3u);
}

TEST_F(SnapshotTest, ShardsOfAnEarlierGenerationGoWhenThoseOfTheNextAreReady) {
  Open();
  const uint64_t guild = uint64_t{4} << 22;
  const ShardId old{.id = 0, .count = 2}, now{.id = 0, .count = 4};
  const auto begin = [&](uint64_t generation, uint32_t count) {
    Round round;
    round.Add(GenerationBegun{.generation = generation, .shard_count = count});
    log_->Append(round);
  };
  begin(1, 2);
  Append("READY", 0, ReadyData({guild}), old);
  Append("GUILD_CREATE", guild, GuildData(guild), old);
  begin(2, 4);
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_CREATE"));
  const uint64_t ready = Append("READY", 0, ReadyData({guild}), now);
  const auto events = All();
  EXPECT_THAT(TypesOf(events), ElementsAre("GUILD_CREATE", "READY"));
  EXPECT_EQ(events[1].offset(), ready);
  Append("GUILD_CREATE", guild, GuildData(guild), now);
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_CREATE"));
}

TEST_F(SnapshotTest, GuildsOfShardsThatAnotherServerHasNowGo) {
  Open();
  const uint64_t mine = uint64_t{4} << 22, others = uint64_t{5} << 22;
  const ShardId old{.id = 0, .count = 1}, now{.id = 0, .count = 2};
  Append("READY", 0, ReadyData({mine, others}), old);
  Append("GUILD_CREATE", mine, GuildData(mine), old);
  Append("GUILD_CREATE", others, GuildData(others), old);
  EXPECT_EQ(Types().size(), 3u);
  Round round;
  round.Add(GenerationBegun{.generation = 2, .shard_count = 2});
  round.Add(ShardWanted{.shard = now, .wanted = true});
  log_->Append(round);
  Append("READY", 0, ReadyData({mine}), now);
  const auto events = All();
  EXPECT_THAT(TypesOf(events), ElementsAre("GUILD_CREATE", "READY"));
  EXPECT_EQ(events[0].guild_id(), mine);
  EXPECT_EQ(snapshots_->GetStats().guilds_left_out, 0u);
  Kill();
  Open();
  EXPECT_EQ(Types().size(), 2u);
}

TEST_F(SnapshotTest, TakesWhateverStandsInAnEvent) {
  Open();
  for (const char* data : {"{}", "[]", "5", "null", R"({"guilds":5})", R"({"guilds":[5]})",
                           R"({"id":5,"unavailable":"x","role":[]})", "{\"id\":\"", "{{{{"}) {
    for (const char* type : {"READY", "GUILD_CREATE", "GUILD_DELETE", "CHANNEL_UPDATE",
                             "GUILD_ROLE_UPDATE", "THREAD_LIST_SYNC"}) {
      Append(type, kGuild, data);
      Append(type, 0, data);
    }
  }
  All();
  AppendGuild(kGuild);
  EXPECT_EQ(All().back().data(), GuildData(kGuild));
}

// ---- The order, and what is asked for ----

TEST_F(SnapshotTest, GoesShardByShard) {
  Open();
  const ShardId first{.id = 0, .count = 2}, second{.id = 1, .count = 2};
  const uint64_t a = uint64_t{4} << 22, b = uint64_t{5} << 22, c = uint64_t{6} << 22;
  Append("READY", 0, ReadyData({b}), second);
  Append("GUILD_CREATE", b, GuildData(b), second);
  Append("READY", 0, ReadyData({a, c}), first);
  Append("GUILD_CREATE", c, GuildData(c), first);
  Append("GUILD_CREATE", a, GuildData(a), first);
  Append("CHANNEL_CREATE", a, ChannelData(a, 1, "x"), first);
  Append("GUILD_DELETE", c, GoneData(c), first);
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_DELETE", "GUILD_CREATE", "CHANNEL_CREATE",
                                   "READY", "GUILD_CREATE"));
}

TEST_F(SnapshotTest, GivesOnlyWhatIsWanted) {
  Open();
  Append("READY", 0, ReadyData({kGuild, kGuild + 1}));
  AppendGuild(kGuild);
  AppendGuild(kGuild + 1);
  Append("CHANNEL_CREATE", kGuild, ChannelData(kGuild, 1, "x"));
  const auto all = [&](const FilterSpec& spec) { return TypesOf(All(*Filter::Make(spec))); };
  EXPECT_THAT(all({.guild_ids = {kGuild}}), ElementsAre("GUILD_CREATE", "CHANNEL_CREATE"));
  EXPECT_THAT(all({.types = {"READY", "CHANNEL_CREATE"}}), ElementsAre("READY", "CHANNEL_CREATE"));
  EXPECT_THAT(all({.types = {"MESSAGE_CREATE"}}), IsEmpty());
  EXPECT_THAT(all({.shard_ids = {0}, .shard_count = 1}).size(), 4u);
  // Of no guild, and of another count: shard 0's.
  EXPECT_THAT(all({.shard_ids = {0}, .shard_count = 1000}), ElementsAre("READY"));
  size_t in_partitions = 0;
  for (uint32_t i = 0; i < 3; ++i) {
    in_partitions += all({.partition = Partition{.index = i, .count = 3}}).size();
  }
  EXPECT_EQ(in_partitions, 4u);
}

TEST_F(SnapshotTest, KeepsToTheLimits) {
  Open();
  Append("READY", 0, ReadyData({}));
  for (uint64_t i = 0; i < 100; ++i) {
    AppendGuild(kGuild + i, 2000);
    Append("CHANNEL_CREATE", kGuild + i, ChannelData(kGuild + i, 1, "x"));
  }
  const auto whole = All();
  ASSERT_EQ(whole.size(), 201u);
  const auto reading = snapshots_->Begin();
  const auto cut = Read(*reading, {.max_events = 7, .max_bytes = 5000, .max_event_bytes = 1000});
  ASSERT_EQ(cut.size(), whole.size());
  for (size_t i = 0; i < cut.size(); ++i) {
    EXPECT_EQ(cut[i].offset(), whole[i].offset());
    EXPECT_EQ(cut[i].data_bytes(), whole[i].data().size());
    EXPECT_EQ(cut[i].data(), whole[i].data().size() > 1000 ? "" : whole[i].data());
  }
}

TEST_F(SnapshotTest, ReadingTellsHowThingsStoodWhenItBegan) {
  Open();
  Append("READY", 0, ReadyData({}));
  for (uint64_t i = 0; i < 4; ++i) AppendGuild(kGuild + i);
  const auto reading = BeginAtEnd();
  EXPECT_EQ(reading->position(), log_->end());
  ASSERT_EQ(reading->Next({.max_events = 2})->count, 2u);
  AppendGuild(kGuild + 1);  // stands behind the position
  Append("CHANNEL_CREATE", kGuild + 2, ChannelData(kGuild + 2, 1, "x"));  // too
  Append("GUILD_DELETE", kGuild + 3, GoneData(kGuild + 3));               // too
  AppendGuild(kGuild + 9);                                                // too
  snapshots_->CatchUp();
  const auto rest = Read(*reading);
  ASSERT_EQ(rest.size(), 1u);
  EXPECT_EQ(rest[0].guild_id(), kGuild + 2);
  EXPECT_EQ(rest[0].type(), "GUILD_CREATE");
}

// ---- A tail is trimmed ----

TEST_F(SnapshotTest, SupersededEventsOfALongTailGo) {
  Open();
  Append("GUILD_CREATE", kGuild, GuildData(kGuild, {500}));
  for (int i = 0; i < 1000; ++i) {
    Append("CHANNEL_UPDATE", kGuild, ChannelData(kGuild, 500, std::to_string(i), 1000));
    Append("CHANNEL_PINS_UPDATE", kGuild, R"({"channel_id":"500"})");
    Append("GUILD_UPDATE", kGuild, GoneData(kGuild));
    const uint64_t channel = 100'000'000'000'000'000 + static_cast<uint64_t>(i);
    Append("CHANNEL_CREATE", kGuild, ChannelData(kGuild, channel, "short", 500));
    Append("CHANNEL_DELETE", kGuild, ChannelData(kGuild, channel, "short", 500));
  }
  const auto events = All();
  EXPECT_LT(events.size(), 300u);
  EXPECT_EQ(snapshots_->GetStats().guilds_left_out, 0u);
  std::string newest;
  for (const auto& event : events) {
    if (event.type() == "CHANNEL_UPDATE") newest = event.data();
  }
  EXPECT_EQ(newest, ChannelData(kGuild, 500, "999", 1000));
}

TEST_F(SnapshotTest, DeleteOfWhatTheGuildWasCreatedWithStays) {
  Open();
  const uint64_t channel = 100'000'000'000'000'000;
  Append("GUILD_CREATE", kGuild, GuildData(kGuild, {channel}));
  // Made while the GUILD_CREATE was: Discord tells of it in both.
  Append("CHANNEL_CREATE", kGuild, ChannelData(kGuild, channel, "x"));
  Append("CHANNEL_DELETE", kGuild, ChannelData(kGuild, channel, "x"));
  for (int i = 0; i < 300; ++i) {
    Append("CHANNEL_UPDATE", kGuild, ChannelData(kGuild, 7, std::to_string(i), 1000));
  }
  EXPECT_THAT(TypesOf(All()), ::testing::Contains("CHANNEL_DELETE"));
  EXPECT_THAT(TypesOf(All()), ::testing::Not(::testing::Contains("CHANNEL_CREATE")));
}

TEST_F(SnapshotTest, GuildWhoseTailOutgrowsAllBoundsIsLeftOut) {
  Open();
  Append("READY", 0, ReadyData({kGuild}));
  AppendGuild(kGuild);
  AppendGuild(kGuild + 1);
  for (int i = 0; i < 1200; ++i) {
    Append("CHANNEL_CREATE", kGuild,
           ChannelData(kGuild, 100 + static_cast<uint64_t>(i), "x", 1000));
  }
  const auto events = All();
  EXPECT_THAT(TypesOf(events), ElementsAre("READY", "GUILD_CREATE"));
  EXPECT_EQ(events[1].guild_id(), kGuild + 1);
  EXPECT_EQ(snapshots_->GetStats().guilds_left_out, 1u);
  Kill();
  Open();
  EXPECT_EQ(All().size(), 2u);
  EXPECT_EQ(snapshots_->GetStats().guilds_left_out, 1u);
  AppendGuild(kGuild);
  EXPECT_EQ(All().size(), 3u);
  EXPECT_EQ(snapshots_->GetStats().guilds_left_out, 0u);
}

// ---- Bounds ----

TEST_F(SnapshotTest, NeverTakesMoreOnDiskThanItMay) {
  constexpr uint64_t kMost = Snapshots::kMinBytes;
  Open(kMost);
  std::mt19937_64 random(1);
  uint64_t most = 0;
  size_t left_out = 0;
  for (int step = 0; step < 500; ++step) {
    const uint64_t guild = kGuild + random() % 40;
    if (random() % 3 == 0) {
      AppendGuild(guild, random() % 100'000);
    } else {
      Append("CHANNEL_UPDATE", guild, ChannelData(guild, 1 + random() % 5, "x", random() % 3000));
    }
    snapshots_->CatchUp();
    uint64_t disk = 0;
    for (const auto& file : fs::directory_iterator(dir_.path())) disk += fs::file_size(file);
    most = std::max(most, disk);
    ASSERT_LE(disk + SnapshotFile::kHeadroom, kMost);
    left_out += snapshots_->GetStats().guilds_left_out;
  }
  EXPECT_GT(most, kMost / 3);
  EXPECT_GT(left_out, 0u);
  const auto before = All();
  const auto stats = snapshots_->GetStats();
  EXPECT_LE(stats.bytes, Snapshots::Usable(kMost));
  Kill();
  Open(kMost);
  const auto after = All();
  ASSERT_EQ(before.size(), after.size());
  for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(before[i].offset(), after[i].offset());
}

TEST_F(SnapshotTest, LoweredBoundIsKeptToAndLeavesGuildsOutOnce) {
  constexpr uint64_t kMost = Snapshots::kMinBytes;
  Open();
  for (uint64_t i = 0; i < 100; ++i) AppendGuild(kGuild + i, 100'000);
  EXPECT_EQ(All().size(), 100u);
  Open(kMost);
  const auto stats = snapshots_->GetStats();
  EXPECT_LE(stats.disk_bytes, kMost / 2);
  EXPECT_LE(stats.bytes, Snapshots::Usable(kMost));
  EXPECT_GT(stats.guilds, 10u);
  EXPECT_EQ(stats.guilds + stats.guilds_left_out, 100u);
  // The file is not written anew for each change that no longer fits.
  const auto inode = [&] {
    struct stat about {};
    EXPECT_EQ(stat(path_.c_str(), &about), 0);
    return about.st_ino;
  };
  int rewrites = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    const auto before = inode();
    Append("CHANNEL_UPDATE", kGuild + i % 100, ChannelData(kGuild + i % 100, 1, "x", 500));
    snapshots_->CatchUp();
    if (inode() != before) ++rewrites;
    ASSERT_LE(snapshots_->GetStats().disk_bytes, kMost);
  }
  EXPECT_LE(rewrites, 2);
  EXPECT_GT(snapshots_->GetStats().guilds, 10u);
}

TEST_F(SnapshotTest, GuildThatDoesNotFitIsLeftOutAlone) {
  Open(Snapshots::kMinBytes);
  Append("READY", 0, ReadyData({kGuild, kGuild + 1}));
  AppendGuild(kGuild, 1000);
  AppendGuild(kGuild + 1, 3 << 20);
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_CREATE"));
  EXPECT_EQ(snapshots_->GetStats().guilds_left_out, 1u);
  AppendGuild(kGuild + 1, 1000);
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_CREATE", "GUILD_CREATE"));
}

TEST_F(SnapshotTest, GuildGivesWayToItsLargerSelf) {
  Open(Snapshots::kMinBytes);
  for (int i = 0; i < 20; ++i) AppendGuild(kGuild, 1'700'000 + static_cast<size_t>(i) * 1000);
  const auto events = All();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].data_bytes(), GuildData(kGuild, {}, 1'719'000).size());
}

TEST_F(SnapshotTest, WhatTheDiskHasNoSpaceForIsLeftOut) {
  Open();
  AppendGuild(kGuild);
  snapshots_->CatchUp();
  // Files may not grow beyond this; what is there can still be written to.
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {.rlim_cur = fs::file_size(path_) + 40'000, .rlim_max = before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  AppendGuild(kGuild + 1, 100'000);
  AppendGuild(kGuild + 2, 10);
  snapshots_->CatchUp();
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(snapshots_->GetStats().guilds_left_out, 1u);
  EXPECT_EQ(All().size(), 2u);
  AppendGuild(kGuild + 1, 100'000);
  EXPECT_EQ(All().size(), 3u);
}

// ---- Restarts and damage ----

TEST_F(SnapshotTest, GoesOnWhereTheFileStops) {
  Open();
  Append("READY", 0, ReadyData({kGuild}));
  AppendGuild(kGuild);
  snapshots_->CatchUp();
  Kill();
  Append("CHANNEL_CREATE", kGuild, ChannelData(kGuild, 7, "new"));
  Open();
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_CREATE", "CHANNEL_CREATE"));
}

TEST_F(SnapshotTest, OutlivesWhatTheLogKeeps) {
  log_ = *Log::Open({.retain_bytes = kMinRetainBytes});
  Open();
  Append("READY", 0, ReadyData({kGuild}));
  AppendGuild(kGuild);
  for (int i = 0; i < 5000; ++i) {
    Append("MESSAGE_CREATE", kGuild, std::string(1000, 'x'));
    if (i % 100 == 0) snapshots_->CatchUp();
  }
  ASSERT_GT(log_->oldest(), 100u);
  Kill();
  Open();
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_CREATE"));
}

TEST_F(SnapshotTest, WhatTheLogHasLostMayHaveBeenAnyGuilds) {
  log_ = *Log::Open({.retain_bytes = kMinRetainBytes});
  Open();
  Append("READY", 0, ReadyData({kGuild}));
  AppendGuild(kGuild);
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_CREATE"));
  for (int i = 0; i < 5000; ++i) Append("MESSAGE_CREATE", kGuild, std::string(1000, 'x'));
  EXPECT_THAT(Types(), ElementsAre("READY"));
  EXPECT_EQ(snapshots_->GetStats().guilds_left_out, 1u);
  Append("CHANNEL_CREATE", kGuild, ChannelData(kGuild, 7, "new"));
  EXPECT_THAT(Types(), ElementsAre("READY"));
  Kill();
  Open();
  EXPECT_EQ(snapshots_->GetStats().guilds_left_out, 1u);
  AppendGuild(kGuild);
  EXPECT_THAT(Types(), ElementsAre("READY", "GUILD_CREATE"));
}

TEST_F(SnapshotTest, FileOfAnotherLogIsMadeAnewFromWhatTheLogKeeps) {
  Open();
  AppendGuild(kGuild);
  AppendGuild(kGuild + 1);
  snapshots_->CatchUp();
  snapshots_.reset();
  log_ = *Log::Open({.retain_bytes = uint64_t{64} << 20});
  AppendGuild(kGuild + 2);
  Open();
  const auto events = All();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].guild_id(), kGuild + 2);
}

TEST_F(SnapshotTest, ForeignFormatIsRefusedAndLeftAsItIs) {
  Open();
  AppendGuild(kGuild);
  Kill();
  std::string bytes = BytesOf(path_);
  bytes[8] = 99;
  uint32_t crc = 0;
  std::memcpy(bytes.data() + 12, &crc, sizeof crc);
  crc = Crc32c(bytes.data(), SnapshotFile::kHeaderBytes);
  std::memcpy(bytes.data() + 12, &crc, sizeof crc);
  WriteBytes(path_, bytes);
  const auto opened = TryOpen();
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(Message(opened.status())), HasSubstr(path_));
  EXPECT_EQ(BytesOf(path_), bytes);
}

TEST_F(SnapshotTest, DamagedEventCostsItsGuildAlone) {
  Open();
  Append("READY", 0, ReadyData({kGuild, kGuild + 1}));
  for (uint64_t i = 0; i < 3; ++i) AppendGuild(kGuild + i, 1000);
  snapshots_->CatchUp();
  Kill();
  std::string bytes = BytesOf(path_);
  bytes[bytes.size() - 1500] ^= 1;  // in the second guild
  WriteBytes(path_, bytes);
  Open();
  EXPECT_EQ(All().size(), 3u);
  EXPECT_EQ(snapshots_->GetStats().guilds_left_out, 1u);
}

TEST_F(SnapshotTest, DamageUnderAReaderIsAnErrorAndThenLeftOut) {
  Open();
  for (uint64_t i = 0; i < 3; ++i) AppendGuild(kGuild + i, 1000);
  const auto reading = BeginAtEnd();
  std::string bytes = BytesOf(path_);
  bytes[bytes.size() - 1500] ^= 1;
  std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  EXPECT_EQ(reading->Next({}).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(All().size(), 2u);
  EXPECT_EQ(snapshots_->GetStats().guilds_left_out, 1u);
}

// Whatever is cut off its end, or changed in it, a file never tells anything wrong.
TEST_F(SnapshotTest, FileThatWasCutAnywhereIsMadeWholeFromTheLog) {
  Open();
  Append("READY", 0, ReadyData({kGuild, kGuild + 1}));
  AppendGuild(kGuild);
  AppendGuild(kGuild + 1);
  Append("CHANNEL_CREATE", kGuild, ChannelData(kGuild, 7, "new"));
  Append("GUILD_DELETE", kGuild + 1, GoneData(kGuild + 1));
  const auto whole = TypesOf(All());
  Kill();
  const std::string bytes = BytesOf(path_);
  for (size_t size = 0; size < bytes.size(); size += 7) {
    WriteBytes(path_, bytes.substr(0, size));
    Open();
    ASSERT_EQ(Types(), whole) << size;
  }
}

// ---- Against a model ----

class SnapshotModelTest : public SnapshotTest, public ::testing::WithParamInterface<uint64_t> {};

TEST_P(SnapshotModelTest, RebuildsWhatABotThatWasThereHas) {
  std::mt19937_64 random(GetParam());
  const auto below = [&](uint64_t bound) { return random() % bound; };
  const uint64_t max_bytes = below(2) == 0 ? Snapshots::kMinBytes : uint64_t{64} << 20;
  Open(max_bytes);
  Bot bot;
  std::map<uint32_t, std::vector<uint64_t>> ready;
  constexpr uint32_t kShards = 3;
  // Ids that a GUILD_CREATE and later events share.
  const auto channel_id = [&] { return 100'000'000'000'000'000 + below(12); };
  const auto append = [&](std::string_view type, uint64_t guild, const std::string& data) {
    Append(type, guild, data,
           {.id = static_cast<uint32_t>(guild >> 22) % kShards, .count = kShards});
    bot.Take(std::string(type), guild, data);
  };
  const uint64_t padding = max_bytes == Snapshots::kMinBytes ? 60'000 : 5'000;
  // The fewer guilds and the rarer their ends, the longer their tails.
  const uint64_t rarity = below(2) == 0 ? 1 : 30;
  const uint64_t guilds = 2 + below(30);
  const int steps = static_cast<int>(300 + below(3000));
  for (int step = 0; step < steps; ++step) {
    const uint64_t guild = (uint64_t{1000} + below(guilds)) << 22;
    switch (below(20)) {
      case 0:
        if (bot.guilds.contains(guild) && below(rarity) != 0) break;
        append("GUILD_CREATE", guild,
               GuildData(guild, {channel_id(), channel_id()}, below(padding)));
        break;
      case 1:
        if (below(rarity) != 0) break;
        append("GUILD_DELETE", guild, below(2) == 0 ? GoneData(guild) : UnavailableData(guild));
        break;
      case 2:
        append("GUILD_CREATE", guild, UnavailableData(guild));
        break;
      case 3: {
        if (below(5 * rarity) != 0) break;
        const auto shard = static_cast<uint32_t>(below(kShards));
        std::vector<uint64_t> named;
        for (uint64_t i = 0; i < guilds; ++i) {
          const uint64_t each = (uint64_t{1000} + i) << 22;
          if ((each >> 22) % kShards != shard) continue;
          if (below(6) == 0) {
            bot.guilds.erase(each);
          } else {
            named.push_back(each);
          }
        }
        Append("READY", 0, ReadyData(named), {.id = shard, .count = kShards});
        ready[shard] = named;
        break;
      }
      case 4:
        append("GUILD_UPDATE", guild, GoneData(guild));
        break;
      case 5:
      case 6:
        append("STAGE_INSTANCE_CREATE", guild, ChannelData(guild, channel_id(), "s"));
        break;
      case 7:
        append("STAGE_INSTANCE_DELETE", guild, ChannelData(guild, channel_id(), "s"));
        break;
      case 8:
      case 9:
      case 10:
        append("CHANNEL_DELETE", guild, ChannelData(guild, channel_id(), "gone", below(2000)));
        break;
      case 11:
      case 12:
      case 13:
        append("CHANNEL_CREATE", guild, ChannelData(guild, channel_id(), "c", below(2000)));
        break;
      case 14:
        append("MESSAGE_CREATE", 0, "{}");
        break;
      default:
        append("CHANNEL_UPDATE", guild,
               ChannelData(guild, channel_id(), std::to_string(step), below(2000)));
    }
    if (below(50) == 0) snapshots_->CatchUp();
    if (below(200) == 0) {
      Kill(below(3) == 0 ? below(20'000) : 0);
      Open(max_bytes);
    }
    if (below(100) != 0) continue;

    Bot rebuilt;
    std::map<uint32_t, std::vector<uint64_t>> listed;
    for (const auto& event : All()) {
      if (event.type() == "READY") {
        EXPECT_EQ(event.data(), ReadyData(ready[event.shard_id()]));
        listed[event.shard_id()] = {};
      } else {
        rebuilt.Take(event.type(), event.guild_id(), event.data());
      }
    }
    EXPECT_EQ(listed.size(), ready.size());
    for (const auto& [id, each] : rebuilt.guilds) {
      ASSERT_TRUE(bot.guilds.contains(id)) << id << " has gone, step " << step;
      ASSERT_EQ(each.unavailable, bot.guilds[id].unavailable);
      ASSERT_EQ(each.things, bot.guilds[id].things) << id << " step " << step;
    }
    const auto stats = snapshots_->GetStats();
    ASSERT_EQ(rebuilt.guilds.size(), stats.guilds);
    if (max_bytes > Snapshots::kMinBytes) {
      ASSERT_EQ(rebuilt.guilds.size(), bot.guilds.size());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SnapshotModelTest, ::testing::Range<uint64_t>(1, 25));

// ---- Threads ----

TEST_F(SnapshotTest, BeginsAtWhatHasBeenFollowedAndFollowsNothingItself) {
  Open();
  EXPECT_FALSE(snapshots_->has_caught_up());
  AppendGuild(kGuild, 1000);
  snapshots_->CatchUp();
  EXPECT_TRUE(snapshots_->has_caught_up());
  const uint64_t followed = snapshots_->position();
  AppendGuild(kGuild, 1000);
  const auto reading = snapshots_->Begin();
  EXPECT_EQ(reading->position(), followed);
  EXPECT_EQ(Read(*reading).size(), 1u);
}

TEST_F(SnapshotTest, ReadersAndFollowerGoOnBesideEachOther) {
  Open(Snapshots::kMinBytes);
  SnapshotFollower follower(*snapshots_, *log_);
  log_->SetListener([&] { follower.Signal(); });
  for (uint64_t i = 0; i < 20; ++i) AppendGuild(kGuild + i, 10'000);
  std::atomic<bool> done = false;
  std::vector<std::thread> readers;
  for (int k = 0; k < 2; ++k) {
    readers.emplace_back([&] {
      while (!done) {
        const auto reading = snapshots_->Begin();
        std::set<uint64_t> guilds;
        for (const auto& event : Read(*reading, {.max_bytes = 20'000})) {
          if (event.type() == "GUILD_CREATE") {
            EXPECT_TRUE(guilds.insert(event.guild_id()).second);
          } else {
            EXPECT_TRUE(guilds.contains(event.guild_id()));
          }
        }
        static_cast<void>(snapshots_->GetStats());
      }
    });
  }
  for (int i = 0; i < 1500; ++i) {
    const uint64_t guild = kGuild + static_cast<uint64_t>(i) % 20;
    if (i % 5 == 0) {
      AppendGuild(guild, 10'000);
    } else {
      Append("CHANNEL_UPDATE", guild, ChannelData(guild, 1, std::to_string(i), 500));
    }
  }
  done = true;
  for (auto& reader : readers) reader.join();
  follower.Stop();
  EXPECT_EQ(snapshots_->position(), log_->end());
  EXPECT_EQ(snapshots_->GetStats().guilds, 20u);
}

}  // namespace
}  // namespace shardd::events
