#include "events/filter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "common/shard_id.h"
#include "common/status.h"
#include "events/event_type.h"
#include "events/round.h"

namespace shardd::events {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t Guild(uint64_t number) { return number << 22; }

// An event as the log has it: an index entry and a record.
struct Encoded {
  explicit Encoded(const NewEvent& event) { round.Add(event); }
  const IndexEntry& entry() const { return round.entries().front(); }
  std::string_view record() const {
    return {reinterpret_cast<const char*>(round.data()), entry().length};
  }
  Round round;
};

NewEvent Event(std::string_view type, uint64_t guild_id, ShardId shard = {0, 1}) {
  return {.shard = shard,
          .session = 1,
          .sequence = type.starts_with(kOwnTypePrefix) ? uint64_t{0} : 7,
          .guild_id = guild_id,
          .received_unix_nanos = 1,
          .type = type,
          .data = R"({"t":"READY"})"};
}

bool Matches(const FilterSpec& spec, const NewEvent& event) {
  const auto filter = Filter::Make(spec);
  EXPECT_TRUE(filter.ok()) << filter.status();
  const Encoded encoded(event);
  return filter->MayMatch(encoded.entry()) && filter->Confirm(encoded.entry(), encoded.record());
}

FilterSpec Partitioned(uint32_t index, uint32_t count) {
  FilterSpec spec;
  spec.partition = Partition{.index = index, .count = count};
  return spec;
}

TEST(EventTypeTest, IsFoundInARecordOfAnySize) {
  for (const size_t size : {0, 1, 127, 128, 100'000}) {
    const std::string data(size, 'x');
    NewEvent event = Event("GUILD_CREATE", Guild(3), {1000, 4000});
    event.sequence = UINT64_MAX;
    event.data = data;
    const Encoded encoded(event);
    EXPECT_EQ(TypeOf(encoded.record()), "GUILD_CREATE");
  }
}

TEST(EventTypeTest, IsEmptyForWhatIsNoRecord) {
  const Encoded encoded(Event("GUILD_CREATE", Guild(3)));
  const std::string record(encoded.record());
  EXPECT_EQ(TypeOf(""), "");
  EXPECT_EQ(TypeOf(std::string(100, '\xff')), "");
  EXPECT_EQ(TypeOf(std::string("\x0a\x7f")), "");
  for (size_t size = 0; size < record.size(); ++size) {
    EXPECT_EQ(TypeOf(std::string_view(record).substr(0, size)), "") << size;
  }
  std::mt19937_64 random(1);
  for (int i = 0; i < 10'000; ++i) {
    std::string damaged = record;
    damaged[random() % damaged.size()] = static_cast<char>(random());
    TypeOf(damaged);  // must only not read beyond it
  }
}

TEST(FilterTest, WithoutConditionsMatchesAll) {
  EXPECT_TRUE(Filter::Make({})->matches_all());
  FilterSpec spec = Partitioned(0, 1);
  spec.shard_count = 3;
  EXPECT_TRUE(Filter::Make(spec)->matches_all());
  EXPECT_TRUE(Matches(spec, Event("READY", 0)));
}

TEST(FilterTest, TypesAreComparedByName) {
  const FilterSpec spec = {.types = {"READY", "MESSAGE_CREATE", "SHARDD_SESSION_LOST"}};
  EXPECT_TRUE(Matches(spec, Event("READY", 0)));
  EXPECT_TRUE(Matches(spec, Event("MESSAGE_CREATE", Guild(1))));
  EXPECT_TRUE(Matches(spec, Event("SHARDD_SESSION_LOST", 0)));
  EXPECT_FALSE(Matches(spec, Event("SHARDD_SHARD_STATE", 0))) << "only those that are named";
  EXPECT_FALSE(Matches(spec, Event("MESSAGE_DELETE", Guild(1))));
}

TEST(FilterTest, TypesWhoseHashesAgreeAreToldApart) {
  const auto filter = Filter::Make({.types = {"READY"}});
  const Encoded encoded(Event("RESUMED", 0));
  IndexEntry entry = encoded.entry();
  entry.type_hash = TypeHash("READY");
  EXPECT_TRUE(filter->MayMatch(entry));
  EXPECT_FALSE(filter->Confirm(entry, encoded.record()));
}

TEST(FilterTest, NamedGuildsLeaveOutAllWithoutAGuild) {
  const FilterSpec spec = {.guild_ids = {Guild(5), Guild(7)}};
  EXPECT_TRUE(Matches(spec, Event("X", Guild(5))));
  EXPECT_TRUE(Matches(spec, Event("X", Guild(7))));
  EXPECT_FALSE(Matches(spec, Event("X", Guild(6))));
  EXPECT_FALSE(Matches(spec, Event("READY", 0)));
  EXPECT_FALSE(Matches(spec, Event("SHARDD_SESSION_LOST", 0)));
  EXPECT_FALSE(Matches({.guild_ids = {0}}, Event("READY", 0)));
}

TEST(FilterTest, ShardsMeanDiscordsFormulaWithTheirCountWhateverCountRuns) {
  const FilterSpec spec = {.shard_ids = {1, 3}, .shard_count = 4};
  for (uint64_t guild = 1; guild < 40; ++guild) {
    const bool wanted = guild % 4 == 1 || guild % 4 == 3;
    EXPECT_EQ(Matches(spec, Event("X", Guild(guild), {0, 1})), wanted) << guild;
    EXPECT_EQ(Matches(spec, Event("X", Guild(guild) + 4711, {7, 16})), wanted) << guild;
  }
}

TEST(FilterTest, AnEventWithoutAGuildIsOfItsOwnShardOrOfShard0) {
  const FilterSpec first = {.shard_ids = {0}, .shard_count = 4};
  const FilterSpec last = {.shard_ids = {3}, .shard_count = 4};
  EXPECT_TRUE(Matches(last, Event("READY", 0, {3, 4})));
  EXPECT_FALSE(Matches(first, Event("READY", 0, {3, 4})));
  EXPECT_TRUE(Matches(first, Event("READY", 0, {3, 8})));
  EXPECT_FALSE(Matches(last, Event("READY", 0, {3, 8})));
  EXPECT_TRUE(Matches(last, Event("SHARDD_SHARD_STATE", 0, {3, 4})));
}

TEST(FilterTest, PartitionsHoldEveryGuildOnceAndShardDsOwnEventsEach) {
  for (const uint32_t count : {2u, 3u, 7u, 100u}) {
    for (uint64_t guild = 0; guild < 150; ++guild) {
      uint32_t hits = 0;
      uint32_t own = 0;
      for (uint32_t index = 0; index < count; ++index) {
        const FilterSpec spec = Partitioned(index, count);
        const bool hit = Matches(spec, Event("X", Guild(guild) + 99));
        EXPECT_EQ(hit, guild % count == index);
        hits += hit;
        own += Matches(spec, Event("SHARDD_SESSION_LOST", 0));
      }
      EXPECT_EQ(hits, 1u);
      EXPECT_EQ(own, count);
    }
  }
}

TEST(FilterTest, DiscordsEventsWithoutAGuildAreOfPartition0ThoughTheirSequenceMayBe0) {
  NewEvent ready = Event("READY", 0);
  ready.sequence = 0;
  EXPECT_TRUE(Matches(Partitioned(0, 2), ready));
  EXPECT_FALSE(Matches(Partitioned(1, 2), ready));
}

TEST(FilterTest, AllConditionsMustHold) {
  FilterSpec spec = {.types = {"X"},
                     .shard_ids = {1},
                     .shard_count = 2,
                     .guild_ids = {Guild(1), Guild(3), Guild(4)},
                     .partition = Partition{.index = 0, .count = 3}};
  EXPECT_TRUE(Matches(spec, Event("X", Guild(3))));
  EXPECT_FALSE(Matches(spec, Event("Y", Guild(3))));
  EXPECT_FALSE(Matches(spec, Event("X", Guild(1)))) << "another partition";
  EXPECT_FALSE(Matches(spec, Event("X", Guild(4)))) << "another shard";
  EXPECT_FALSE(Matches(spec, Event("X", Guild(9)))) << "a guild that is not named";
}

TEST(FilterTest, TheModuloWithoutADivisionIsOne) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 200'000; ++i) {
    const auto divisor = static_cast<uint32_t>(1 + random() % kMaxShardCount);
    const uint64_t guild_id = random() >> random() % 64;
    ASSERT_EQ(GuildModulo(divisor).Of(guild_id), ShardForGuild(guild_id, divisor))
        << guild_id << " " << divisor;
  }
  for (uint32_t divisor = 1; divisor <= kMaxShardCount; ++divisor) {
    const GuildModulo modulo(divisor);
    for (const uint64_t guild_id : {uint64_t{0}, UINT64_MAX, UINT64_MAX - (uint64_t{1} << 22),
                                    uint64_t{divisor} << 22, (uint64_t{divisor} << 22) - 1}) {
      ASSERT_EQ(modulo.Of(guild_id), ShardForGuild(guild_id, divisor)) << guild_id;
    }
  }
}

TEST(FilterTest, TakesAsManyEntriesAsItSaysAndNoMore) {
  FilterSpec spec;
  for (uint64_t i = 1; i <= Filter::kMaxListed; ++i) {
    spec.guild_ids.push_back(Guild(i));
    spec.types.push_back("TYPE_" + std::to_string(i));
    spec.shard_ids.push_back(static_cast<uint32_t>(i));
  }
  spec.shard_count = 10'001;
  EXPECT_TRUE(Matches(spec, Event("TYPE_10000", Guild(77))));
  EXPECT_FALSE(Matches(spec, Event("TYPE_10001", Guild(77))));
  EXPECT_FALSE(Matches(spec, Event("TYPE_10000", Guild(10'001))));
  spec.types.push_back("ONE_MORE");
  EXPECT_THAT(std::string(Message(Filter::Make(spec).status())),
              HasSubstr("filter.types has 10001"));
}

}  // namespace
}  // namespace shardd::events
