#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "events/snapshot_fixture.h"

namespace shardd::events {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

ShardId ShardOf(uint64_t guild, uint32_t count) {
  return {.id = ShardForGuild(guild, count), .count = count};
}

// A bot whose shards are changed in number, with all that its guilds go through meanwhile, and what
// a snapshot has to tell of it.
class SnapshotRescaleTest : public SnapshotTest {
 protected:
  // The list of a READY, as Discord would give it now.
  std::vector<uint64_t> MembersOf(ShardId shard) const {
    std::vector<uint64_t> guilds;
    for (const uint64_t guild : members_) {
      if (ShardOf(guild, shard.count) == shard) guilds.push_back(guild);
    }
    return guilds;
  }

  void BeginGeneration(uint32_t count) {
    Round round;
    round.Add(GenerationBegun{.generation = ++generation_, .shard_count = count});
    log_->Append(round);
    readys_.clear();
    count_ = count;
    for (uint32_t id = 0; id < count; ++id) Ready({.id = id, .count = count});
  }
  void Ready(ShardId shard) {
    readys_[shard] = MembersOf(shard);
    Append("READY", 0, ReadyData(readys_[shard]), shard);
  }

  // A new generation takes over, whose READYs came when they were put into `readys`.
  void Switch(uint32_t count, const std::map<ShardId, std::vector<uint64_t>>& readys) {
    Round round;
    round.Add(GenerationBegun{.generation = ++generation_, .shard_count = count});
    round.Add(RescaleChanged{{.from_shard_count = count_,
                              .to_shard_count = count,
                              .step = RescaleStep::kSwitched,
                              .reason = {}}});
    for (const auto& [shard, guilds] : readys) {
      round.Add(ShardWanted{.shard = shard, .wanted = true});
      round.Add(
          SessionOpened{.shard = shard, .session = 1, .id = "s", .resume_url = {}, .intents = 1});
      const std::string data = ReadyData(guilds);
      round.AddAside({.shard = shard, .session = 1, .sequence = 1, .type = "READY", .data = data});
    }
    round.Add({.shard = {.id = 0, .count = count}, .type = "SHARDD_RESCALE", .data = "{}"});
    round.CommitTogether();
    log_->Append(round);
    count_ = count;
    readys_ = readys;
  }
  std::map<ShardId, std::vector<uint64_t>> ReadysOf(uint32_t count) const {
    std::map<ShardId, std::vector<uint64_t>> readys;
    for (uint32_t id = 0; id < count; ++id) {
      readys[{.id = id, .count = count}] = MembersOf({.id = id, .count = count});
    }
    return readys;
  }

  void Tell(std::string_view type, uint64_t guild, const std::string& data, uint32_t count) {
    Append(type, guild, data, ShardOf(guild, count));
    bot_.Take(std::string(type), guild, data);
  }
  void Join(uint64_t guild, uint32_t count, size_t padding = 0) {
    members_.insert(guild);
    Tell("GUILD_CREATE", guild, GuildData(guild, {}, padding), count);
  }
  void Leave(uint64_t guild, uint32_t count) {
    members_.erase(guild);
    Tell("GUILD_DELETE", guild, GoneData(guild), count);
  }

  void CheckAll() {
    std::map<ShardId, std::vector<uint64_t>> readys;
    std::map<ShardId, std::set<uint64_t>> listed;
    std::set<uint64_t> created;
    Bot rebuilt;
    for (const auto& event : All()) {
      const ShardId shard{.id = event.shard_id(), .count = event.shard_count()};
      if (event.type() == "READY") {
        ASSERT_TRUE(readys_.contains(shard)) << ToString(shard);
        ASSERT_TRUE(readys.emplace(shard, readys_[shard]).second) << "told twice";
        ASSERT_EQ(event.data(), ReadyData(readys_[shard]));
        listed[shard] = {readys_[shard].begin(), readys_[shard].end()};
        continue;
      }
      const uint64_t guild = event.guild_id();
      const ShardId home = ShardOf(guild, count_);
      ASSERT_TRUE(readys.contains(home)) << "READY comes first";
      if (event.type() == "GUILD_CREATE" &&
          event.data().find(R"("unavailable":true)") == std::string::npos) {
        ASSERT_TRUE(created.insert(guild).second) << guild << " is told twice";
      }
      // It corrects the list.
      if (event.type() == "GUILD_DELETE" && !created.contains(guild)) {
        ASSERT_EQ(listed[home].erase(guild), 1u);
      }
      rebuilt.Take(event.type(), guild, event.data());
    }
    ASSERT_EQ(readys.size(), readys_.size());
    ASSERT_EQ(rebuilt.guilds.size(), bot_.guilds.size());
    for (const auto& [guild, state] : bot_.guilds) {
      ASSERT_TRUE(rebuilt.guilds.contains(guild)) << guild;
      ASSERT_EQ(rebuilt.guilds[guild], state) << guild;
    }
    for (const auto& [shard, guilds] : readys_) {
      for (const uint64_t guild : listed[shard]) ASSERT_TRUE(members_.contains(guild)) << guild;
      std::vector<uint64_t> known = snapshots_->GuildsOf(shard);
      std::ranges::sort(known);
      ASSERT_EQ(known, MembersOf(shard)) << ToString(shard);
    }
  }

  std::set<uint64_t> members_;
  Bot bot_;  // that has heard everything
  std::map<ShardId, std::vector<uint64_t>> readys_;
  uint32_t count_ = 0;
  uint64_t generation_ = 0;
};

TEST_F(SnapshotRescaleTest, NewShardsGoOnWithTheGuildsOfTheOldOnes) {
  Open();
  for (uint64_t i = 1; i <= 20; ++i) members_.insert(i << 22);
  BeginGeneration(2);
  for (uint64_t i = 1; i <= 19; ++i) Join(i << 22, 2);  // one is out of order
  Tell("CHANNEL_CREATE", 5 << 22, ChannelData(5 << 22, 7, "new"), 2);
  CheckAll();
  Switch(3, ReadysOf(3));
  Tell("CHANNEL_UPDATE", 5 << 22, ChannelData(5 << 22, 7, "newer"), 3);
  CheckAll();
  Kill();
  Open();
  CheckAll();
}

TEST_F(SnapshotRescaleTest, WhatHappensBehindTheNewReadysIsNotTakenBack) {
  Open();
  const uint64_t leaves = 1 << 22, joins = 2 << 22, comes_and_goes = 3 << 22, stays = 4 << 22;
  for (const uint64_t guild : {leaves, stays}) members_.insert(guild);
  BeginGeneration(1);
  for (const uint64_t guild : {leaves, stays}) Join(guild, 1);
  Join(comes_and_goes, 1);
  auto readys = ReadysOf(2);
  Leave(leaves, 1);
  Leave(comes_and_goes, 1);
  Join(joins, 2);  // the old shard has not brought it
  CheckAll();
  Switch(2, readys);
  CheckAll();
  EXPECT_THAT(snapshots_->GuildsOf({.id = 0, .count = 2}), UnorderedElementsAre(joins, stays));
  EXPECT_THAT(snapshots_->GuildsOf({.id = 1, .count = 2}), IsEmpty());
  EXPECT_THAT(snapshots_->GuildsOf({.id = 0, .count = 1}), IsEmpty());
  // The old shard still has something to say.
  Join(leaves, 1);
  Leave(stays, 1);
  CheckAll();
  Kill();
  Open();
  CheckAll();
}

TEST_F(SnapshotRescaleTest, WhatIsMissingInOldSessionsGoesWithThem) {
  Open();
  BeginGeneration(1);
  const std::string gap = R"({"reason":"SEQUENCE_GAP: 5 to 9"})";
  Append("SHARDD_SESSION_LOST", 0, gap);
  EXPECT_THAT(Types(), ElementsAre("READY", "SHARDD_SESSION_LOST"));
  Append("SHARDD_SESSION_LOST", 0, gap, {.id = 1, .count = 2});
  Switch(2, ReadysOf(2));
  Append("SHARDD_SESSION_LOST", 0, gap);
  EXPECT_THAT(Types(), ElementsAre("READY", "READY"));
  Append("SHARDD_SESSION_LOST", 0, gap, {.id = 1, .count = 2});
  EXPECT_THAT(Types(), ElementsAre("READY", "READY", "SHARDD_SESSION_LOST"));
}

TEST_F(SnapshotRescaleTest, AnOldShardThatIdentifiesOnceMoreChangesNothing) {
  Open();
  for (uint64_t i = 1; i <= 4; ++i) members_.insert(i << 22);
  BeginGeneration(1);
  for (uint64_t i = 1; i <= 4; ++i) Join(i << 22, 1);
  Switch(2, ReadysOf(2));
  snapshots_->CatchUp();
  Append("READY", 0, ReadyData({}), {.id = 0, .count = 1});
  Join(5 << 22, 1);
  CheckAll();
}

TEST_F(SnapshotRescaleTest, AGenerationThatBeginsAnewEndsWhatTheSwitchHasKept) {
  Open();
  for (uint64_t i = 1; i <= 8; ++i) members_.insert(i << 22);
  BeginGeneration(2);
  for (uint64_t i = 1; i <= 8; ++i) Join(i << 22, 2);
  Switch(4, ReadysOf(4));
  CheckAll();
  // As --reset-generation does; a guild has gone in between.
  members_.erase(3 << 22);
  bot_.guilds.erase(3 << 22);
  BeginGeneration(3);
  for (uint64_t i = 1; i <= 9; ++i) {
    if (i != 3) Join(i << 22, 3);
  }
  CheckAll();
  Switch(2, ReadysOf(2));
  CheckAll();
}

TEST_F(SnapshotRescaleTest, OutlivesThatTheFileIsWrittenAnew) {
  Open();
  for (uint64_t i = 1; i <= 20; ++i) members_.insert(i << 22);
  BeginGeneration(2);
  for (uint64_t i = 1; i <= 20; ++i) Join(i << 22, 2);
  auto readys = ReadysOf(5);
  for (uint64_t i = 15; i <= 20; ++i) Leave(i << 22, 2);
  Join(21 << 22, 2);
  Switch(5, readys);
  CheckAll();
  const uint64_t before = snapshots_->GetStats().disk_bytes;
  uint64_t most = before;
  bool written_anew = false;
  for (int i = 0; i < 2000 && !written_anew; ++i) {
    Join(1 << 22, 5, 30'000);
    snapshots_->CatchUp();
    const uint64_t bytes = snapshots_->GetStats().disk_bytes;
    written_anew = bytes < most;
    most = std::max(most, bytes);
  }
  ASSERT_TRUE(written_anew);
  CheckAll();
  Kill();
  Open();
  CheckAll();
  Ready({.id = 0, .count = 5});
  Switch(3, ReadysOf(3));
  CheckAll();
}

// The first READY of the switch is on disk, and the process dies.
TEST_F(SnapshotRescaleTest, AKillInTheMiddleOfASwitchIsMadeGood) {
  Open();
  for (uint64_t i = 1; i <= 20; ++i) members_.insert(i << 22);
  BeginGeneration(2);
  for (uint64_t i = 1; i <= 20; ++i) Join(i << 22, 2);
  snapshots_->CatchUp();
  const uint64_t before = snapshots_->GetStats().disk_bytes;
  auto readys = ReadysOf(5);
  Leave(4 << 22, 2);
  Switch(5, readys);
  Join(22 << 22, 5);
  snapshots_->CatchUp();
  const uint64_t after = snapshots_->GetStats().disk_bytes;
  Kill();
  const std::string whole = BytesOf(path_);
  for (uint64_t size = before; size < after; size += 37) {
    WriteBytes(path_, std::string_view(whole).substr(0, size));
    Open();
    CheckAll();
    if (HasFatalFailure()) return;
  }
}

// ---- Readings that are under way ----

class SnapshotRescaleReadingTest : public SnapshotRescaleTest,
                                   public ::testing::WithParamInterface<uint64_t> {};

TEST_P(SnapshotRescaleReadingTest, AReadingThatMeetsASwitchEndsWithTheGuildsAsTheyAre) {
  std::mt19937_64 random(GetParam());
  Open();
  for (uint64_t i = 1; i <= 60; ++i) members_.insert(i << 22);
  BeginGeneration(static_cast<uint32_t>(1 + random() % 8));
  for (uint64_t i = 1; i <= 50; ++i) Join(i << 22, count_);
  for (int i = 0; i < 100; ++i) {
    const uint64_t guild = (1 + random() % 50) << 22;
    Tell("CHANNEL_UPDATE", guild, ChannelData(guild, random() % 3, std::to_string(i)), count_);
  }
  const auto reading = BeginAtEnd();
  const uint64_t live_from = reading->position();
  const ReadLimits limits{.max_events = static_cast<uint32_t>(1 + random() % 9)};
  Bot told;
  std::set<std::pair<uint32_t, uint32_t>> readys;
  const auto read = [&](int batches) {
    for (; batches != 0; --batches) {
      const auto next = reading->Next(limits);
      ASSERT_TRUE(next.ok()) << next.status();
      ASSERT_FALSE(next->wait);
      v1::EventBatch batch;
      ASSERT_TRUE(batch.ParseFromString(next->bytes));
      for (const auto& event : batch.events()) {
        ASSERT_LT(event.offset(), reading->position());
        if (event.type() == "READY") readys.insert({event.shard_id(), event.shard_count()});
        if (event.guild_id() != 0) told.Take(event.type(), event.guild_id(), event.data());
      }
      if (next->end) return;
    }
  };
  for (uint64_t switches = 1 + random() % 2; switches > 0; --switches) {
    read(static_cast<int>(random() % 20));
    const auto count = static_cast<uint32_t>(1 + random() % 8);
    if (count == count_) continue;
    const uint32_t old = count_;
    const auto taking_over = ReadysOf(count);
    Leave((1 + random() % 20) << 22, old);
    Join((70 + random() % 20) << 22, old);
    Switch(count, taking_over);
    Tell("CHANNEL_UPDATE", 25 << 22, ChannelData(25 << 22, 1, "behind"), count);
    readys.clear();
    snapshots_->CatchUp();
  }
  read(-1);
  ASSERT_FALSE(HasFatalFailure());
  for (const auto& [shard, guilds] : readys_) {
    // Where the reading was at its end before the switch, there was none of them to tell.
    if (readys.empty()) break;
    EXPECT_TRUE(readys.contains({shard.id, shard.count})) << ToString(shard);
  }
  // Then comes the live part.
  for (uint64_t at = live_from; at < log_->end();) {
    const auto run = log_->Read(at, {});
    v1::EventBatch batch;
    ASSERT_TRUE(batch.ParseFromArray(run.bytes().data(), static_cast<int>(run.bytes().size())));
    for (const auto& event : batch.events()) {
      if (event.guild_id() != 0) told.Take(event.type(), event.guild_id(), event.data());
    }
    at = run.next;
  }
  EXPECT_EQ(told.guilds, bot_.guilds);
}

INSTANTIATE_TEST_SUITE_P(Seeds, SnapshotRescaleReadingTest, ::testing::Range<uint64_t>(1, 60));

TEST_F(SnapshotRescaleTest, AReadingWaitsForASwitchThatTheDiskHoldsUp) {
  Open();
  members_.insert(1 << 22);
  BeginGeneration(1);
  Join(1 << 22, 1);
  const auto reading = BeginAtEnd();
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit none = {.rlim_cur = snapshots_->GetStats().disk_bytes, .rlim_max = before.rlim_max};
  Switch(2, ReadysOf(2));
  setrlimit(RLIMIT_FSIZE, &none);
  snapshots_->CatchUp();
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_TRUE(reading->Next({})->wait);
  const SteadyTime deadline = SteadyClock::now() + std::chrono::seconds(10);
  while (reading->Next({.max_events = 1})->wait && SteadyClock::now() < deadline) {
    snapshots_->CatchUp();
  }
  CheckAll();
}

// ---- Against a model ----

class SnapshotRescaleModelTest : public SnapshotRescaleTest,
                                 public ::testing::WithParamInterface<uint64_t> {};

TEST_P(SnapshotRescaleModelTest, TellsEachGuildOnceWhateverTheSplit) {
  std::mt19937_64 random(GetParam());
  const auto below = [&](uint64_t bound) { return random() % bound; };
  const auto any_guild = [&] { return (uint64_t{1000} + below(60)) << 22; };
  const auto channel = [&] { return 100'000'000'000'000'000 + below(6); };
  const uint64_t padding = below(2) == 0 ? 200 : 100'000;
  Open();
  for (int i = 0; i < 40; ++i) members_.insert(any_guild());
  BeginGeneration(static_cast<uint32_t>(1 + below(12)));

  // `count`: of the shard that brings it.
  const auto act = [&](uint32_t count) {
    const uint64_t guild = any_guild();
    const bool is_member = members_.contains(guild);
    const bool is_known = bot_.guilds.contains(guild);
    switch (below(8)) {
      case 0:
        return Join(guild, count, below(padding));
      case 1:
        if (is_member && below(2) == 0) Leave(guild, count);
        return;
      case 2:
        if (is_known) Tell("GUILD_DELETE", guild, UnavailableData(guild), count);
        return;
      default:
        if (is_known) {
          Tell(below(3) == 0 ? "CHANNEL_DELETE" : "CHANNEL_UPDATE", guild,
               ChannelData(guild, channel(), std::to_string(below(1000))), count);
        }
    }
  };
  const auto pause = [&] {
    if (below(20) == 0) snapshots_->CatchUp();
    if (below(60) == 0) {
      Kill(below(2) == 0 ? below(3000) : 0);
      Open();
    }
    if (below(60) == 0) CheckAll();
  };
  for (int rescale = 0; rescale < 3; ++rescale) {
    const uint32_t from = count_;
    for (uint64_t i = below(150); i > 0; --i) {
      act(from);
      pause();
    }
    uint32_t to = from;
    while (to == from) to = static_cast<uint32_t>(1 + below(12));
    std::map<ShardId, std::vector<uint64_t>> readys;
    while (readys.size() < to) {
      const ShardId next{.id = static_cast<uint32_t>(readys.size()), .count = to};
      if (below(3) == 0) readys[next] = MembersOf(next);
      if (below(100) == 0) Ready({.id = static_cast<uint32_t>(below(from)), .count = from});
      act(below(20) == 0 ? to : from);
      pause();
    }
    for (uint64_t i = below(50); i > 0; --i) {
      act(below(20) == 0 ? to : from);
      pause();
    }
    Switch(to, readys);
    if (below(2) == 0) CheckAll();
    for (uint64_t i = below(150); i > 0; --i) {
      act(below(5) == 0 ? from : to);
      if (below(100) == 0) Ready({.id = static_cast<uint32_t>(below(to)), .count = to});
      pause();
      ASSERT_FALSE(HasFatalFailure());
    }
    CheckAll();
    Kill();
    Open();
    CheckAll();
    ASSERT_FALSE(HasFatalFailure());
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SnapshotRescaleModelTest, ::testing::Range<uint64_t>(1, 40));

}  // namespace
}  // namespace shardd::events
