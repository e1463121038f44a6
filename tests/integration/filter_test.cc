// Streams with filters get what they asked for, in order, and nothing else.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>

#include "common/shard_id.h"
#include "support/live_server.h"

namespace shardd {
namespace {

using grpc::StatusCode;
using test::EventStream;
using test::Eventually;
using ::testing::Pair;

std::vector<uint64_t> Offsets(const std::vector<v1::Event>& events) {
  std::vector<uint64_t> offsets;
  for (const auto& event : events) offsets.push_back(event.offset());
  return offsets;
}

class FilteredStreamTest : public test::LiveServer {
 protected:
  using Predicate = std::function<bool(const v1::Event&)>;

  // Reads with `filter` while events come, and expects what `wanted` finds among all of them.
  void ExpectMatches(const v1::Filter& filter, const Predicate& wanted) {
    SCOPED_TRACE(filter.ShortDebugString());
    v1::EventsRequest request = test::FromEarliest();
    *request.mutable_filter() = filter;
    auto filtered = Open(request);
    request.set_max_batch_events(3);
    request.set_max_delay_ms(5);
    auto in_small_batches = Open(request);
    ASSERT_TRUE(HasBegun(*filtered) && HasBegun(*in_small_batches));
    for (int i = 0; i < 10; ++i) discord_->EmitTraffic(100);
    std::vector<v1::Event> expected = ReadAll();
    std::erase_if(expected, std::not_fn(wanted));
    EXPECT_FALSE(expected.empty());
    for (EventStream* stream : {filtered.get(), in_small_batches.get()}) {
      ASSERT_TRUE(stream->WaitForEvents(expected.size()));
      EXPECT_EQ(Offsets(stream->events()), Offsets(expected));
      for (const auto& batch : stream->batches()) EXPECT_FALSE(batch.has_gap());
    }
    for (const auto& batch : in_small_batches->batches()) EXPECT_LE(batch.events_size(), 3);
  }
};

TEST_F(FilteredStreamTest, Types) {
  Start();
  v1::Filter filter;
  filter.add_types("MESSAGE_CREATE");
  filter.add_types("SHARDD_SHARD_STATE");
  ExpectMatches(filter, [](const v1::Event& event) {
    return event.type() == "MESSAGE_CREATE" || event.type() == "SHARDD_SHARD_STATE";
  });
}

TEST_F(FilteredStreamTest, Guilds) {
  Start();
  const std::set<uint64_t> guilds = {discord_->guild_ids()[3], discord_->guild_ids()[8]};
  v1::Filter filter;
  for (const uint64_t guild : guilds) filter.add_guild_ids(guild);
  ExpectMatches(filter, [&](const v1::Event& event) { return guilds.contains(event.guild_id()); });
}

TEST_F(FilteredStreamTest, ShardsOfTheRunningCount) {
  Start();
  v1::Filter filter;
  filter.add_shard_ids(1);
  ExpectMatches(filter, [](const v1::Event& event) { return event.shard_id() == 1; });
}

TEST_F(FilteredStreamTest, ShardsOfAnotherCountThanRuns) {
  Start();
  v1::Filter filter;
  filter.add_shard_ids(0);
  filter.add_shard_ids(3);
  filter.set_shard_count(5);
  ExpectMatches(filter, [](const v1::Event& event) {
    const uint32_t shard = ShardForGuild(event.guild_id(), 5);
    return shard == 0 || shard == 3;
  });
}

TEST_F(FilteredStreamTest, AllConditionsTogether) {
  Start();
  v1::Filter filter;
  filter.add_types("MESSAGE_CREATE");
  filter.add_types("GUILD_CREATE");
  filter.add_shard_ids(0);
  filter.mutable_partition()->set_count(2);
  filter.mutable_partition()->set_index(0);
  for (int i = 0; i < 10; ++i) filter.add_guild_ids(discord_->guild_ids()[static_cast<size_t>(i)]);
  ExpectMatches(filter, [&](const v1::Event& event) {
    const auto first = discord_->guild_ids().begin();
    return (event.type() == "MESSAGE_CREATE" || event.type() == "GUILD_CREATE") &&
           ShardForGuild(event.guild_id(), 2) == 0 &&
           std::find(first, first + 10, event.guild_id()) != first + 10;
  });
}

TEST_F(FilteredStreamTest, PartitionsTogetherGetEverythingOnceAndShardDsOwnEventsEach) {
  Start();
  constexpr uint32_t kCount = 3;
  std::vector<std::unique_ptr<EventStream>> parts;
  for (uint32_t index = 0; index < kCount; ++index) {
    v1::EventsRequest request = test::FromEarliest();
    request.mutable_filter()->mutable_partition()->set_count(kCount);
    request.mutable_filter()->mutable_partition()->set_index(index);
    parts.push_back(Open(request));
  }
  discord_->EmitTraffic(1000);
  const std::vector<v1::Event> events = ReadAll();
  const auto is_own = [](const v1::Event& event) { return event.type().starts_with("SHARDD_"); };
  const auto own = static_cast<size_t>(std::count_if(events.begin(), events.end(), is_own));
  std::set<uint64_t> seen;
  const auto total = [&] {
    size_t count = 0;
    for (const auto& part : parts) count += part->events().size();
    return count;
  };
  ASSERT_TRUE(Eventually([&] { return total() == events.size() + own * (kCount - 1); }))
      << total() << " of " << events.size() << " and " << own;
  for (uint32_t index = 0; index < kCount; ++index) {
    for (const auto& event : parts[index]->events()) {
      if (is_own(event)) continue;
      EXPECT_EQ((event.guild_id() >> 22) % kCount, index);
      EXPECT_TRUE(seen.insert(event.offset()).second);
    }
  }
  EXPECT_EQ(seen.size(), events.size() - own);
}

TEST_F(FilteredStreamTest, AStreamThatFindsNothingStillSaysWhereItStands) {
  Start();
  v1::EventsRequest request;
  request.mutable_filter()->add_types("NOTHING_OF_THIS_NAME");
  auto stream = Open(request);
  ASSERT_TRUE(HasBegun(*stream));
  const std::string begin = stream->cursor();
  discord_->EmitTraffic(50);
  EXPECT_TRUE(stream->WaitFor([&](const auto& batches) { return batches.back().cursor() != begin; },
                              std::chrono::seconds(6)));
  EXPECT_TRUE(stream->events().empty());
  // What was examined is not examined again.
  request.set_cursor(stream->cursor());
  request.clear_filter();
  auto behind = Open(request);
  ASSERT_TRUE(HasBegun(*behind));
  EXPECT_FALSE(behind->batches().front().has_gap());
}

TEST_F(FilteredStreamTest, AStreamThatIsFarBehindTellsItsProgress) {
  Start();
  auto all = Open(v1::EventsRequest());
  constexpr size_t kEvents = 100'000;
  for (size_t i = 0; i < kEvents; i += 5000) {
    discord_->EmitTraffic(5000);
    ASSERT_TRUE(all->WaitForEvents(i));
  }
  v1::EventsRequest request = test::FromEarliest();
  request.mutable_filter()->add_types("NOTHING_OF_THIS_NAME");
  auto stream = Open(request);
  // At once, and after 65,536 events; far sooner than an idle stream would.
  EXPECT_TRUE(stream->WaitFor([](const auto& batches) { return batches.size() >= 2; },
                              std::chrono::seconds(3)));
}

TEST_F(FilteredStreamTest, ABatchMayWaitForCompanyThatMatches) {
  Start();
  v1::EventsRequest request;
  request.set_max_delay_ms(300);
  request.mutable_filter()->mutable_partition()->set_count(2);
  auto stream = Open(request);
  ASSERT_TRUE(HasBegun(*stream));
  discord_->SetRate(300);
  ASSERT_TRUE(stream->WaitForEvents(100));
  EXPECT_LT(stream->batches().size(), 12u);
}

TEST_F(FilteredStreamTest, WhatMakesNoSenseIsRefused) {
  Launch({"--no-spawn"});
  v1::EventsRequest request;
  request.mutable_filter()->add_shard_ids(1);
  EXPECT_THAT(Refusal(request), Pair(StatusCode::FAILED_PRECONDITION, "NO_GENERATION"));
  request.mutable_filter()->set_shard_count(1);
  EXPECT_THAT(Refusal(request), Pair(StatusCode::INVALID_ARGUMENT, "FILTER_INVALID"));
  request.Clear();
  request.mutable_filter()->mutable_partition();
  EXPECT_THAT(Refusal(request), Pair(StatusCode::INVALID_ARGUMENT, "FILTER_INVALID"));
}

}  // namespace
}  // namespace shardd
