#include "events/state.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <iterator>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "events/control.h"
#include "events/log.h"

namespace shardd::events {
namespace {

constexpr ShardId kShard{.id = 1, .count = 2};

CopyKey Key(uint64_t n) {
  return {.guild_id = n, .producer = 1, .high = ~uint64_t{0} - n, .low = n << 40};
}

State Applied(const std::vector<StateChange>& changes) {
  State state;
  for (const StateChange& change : changes) Apply(change, &state);
  return state;
}

// The same by way of the disk.
State Replayed(const std::vector<StateChange>& changes) {
  State state;
  for (const StateChange& change : changes) {
    EXPECT_TRUE(ApplyControl(EncodeControl(change), &state));
  }
  return state;
}

State ThroughCheckpoint(const State& state) {
  State read;
  EXPECT_TRUE(ApplyControl(EncodeCheckpoint(state), &read));
  return read;
}

std::vector<StateChange> OfARescale() {
  return {GenerationBegun{.generation = 1, .shard_count = 2},
          ShardWanted{.shard = kShard, .wanted = true},
          SessionOpened{.shard = kShard, .session = 7, .id = "a", .resume_url = {}, .intents = 1},
          SessionNumbered{.session = 12},
          SessionNumbered{.session = 11},
          RescaleChanged{{.from_shard_count = 2,
                          .to_shard_count = 4,
                          .step = RescaleStep::kRunning,
                          .reason = "asked for"}},
          CopiesExpected{{{.key = Key(1), .unix_nanos = 50},
                          {.key = Key(2), .unix_nanos = -1},
                          {.key = Key(1), .unix_nanos = 40}}}};
}

TEST(StateTest, EveryChangeIsTheSameByWayOfTheDisk) {
  std::vector<StateChange> changes = OfARescale();
  EXPECT_EQ(Replayed(changes), Applied(changes));
  EXPECT_EQ(ThroughCheckpoint(Applied(changes)), Applied(changes));
  changes.push_back(CopyCame{.shard = kShard, .session = 7, .sequence = 9, .key = Key(1)});
  EXPECT_EQ(Replayed(changes), Applied(changes));
  EXPECT_EQ(ThroughCheckpoint(Applied(changes)), Applied(changes));
  changes.push_back(CopiesForgotten{});
  EXPECT_EQ(Replayed(changes), Applied(changes));
  EXPECT_TRUE(Replayed(changes).copies.empty());
}

TEST(StateTest, KnowsTheHighestNumberOfSessionsThatHaveGone) {
  std::vector<StateChange> changes = OfARescale();
  EXPECT_EQ(Applied(changes).session_floor, 12u);
  changes.push_back(
      SessionOpened{.shard = kShard, .session = 30, .id = "b", .resume_url = {}, .intents = 1});
  EXPECT_EQ(Applied(changes).session_floor, 12u);
  changes.push_back(GenerationBegun{.generation = 2, .shard_count = 4});
  EXPECT_EQ(Applied(changes).session_floor, 30u);
  EXPECT_TRUE(Applied(changes).shards.empty());
}

TEST(StateTest, ACopyThatComesTakesTheOldestOfItsKind) {
  State state = Applied(OfARescale());
  EXPECT_EQ(CountCopies(state), 3u);
  Apply(CopyCame{.shard = kShard, .session = 7, .sequence = 9, .key = Key(1)}, &state);
  EXPECT_EQ(state.copies.at(Key(1)), std::deque<int64_t>({50}));
  EXPECT_EQ(state.shards.at(kShard).session->last_sequence, 9u);
  Apply(CopyCame{.shard = kShard, .session = 7, .sequence = 10, .key = Key(3)}, &state);
  EXPECT_EQ(CountCopies(state), 2u);
  EXPECT_EQ(state.shards.at(kShard).session->last_sequence, 10u);
}

// A session that is new brings nothing that is in the log, and must not be taken to.
TEST(StateTest, NoCopiesAreExpectedOfAGenerationThatBegins) {
  std::vector<StateChange> changes = OfARescale();
  changes.push_back(GenerationBegun{.generation = 1, .shard_count = 0});
  EXPECT_TRUE(Applied(changes).copies.empty());
}

TEST(StateTest, ACopyOfAnEarlierSessionMovesNoSequence) {
  State state = Applied(OfARescale());
  Apply(CopyCame{.shard = kShard, .session = 6, .sequence = 99, .key = Key(1)}, &state);
  EXPECT_EQ(CountCopies(state), 2u);
  EXPECT_EQ(state.shards.at(kShard).session->last_sequence, 0u);
  Apply(CopyCame{.shard = {.id = 3, .count = 4}, .session = 7, .sequence = 99, .key = Key(2)},
        &state);
  EXPECT_EQ(state.shards.size(), 1u);
}

TEST(StateTest, KeepsTheNewestCopiesWhereThereAreTooMany) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 50; ++round) {
    State state;
    CopiesExpected expected;
    std::multiset<int64_t> times;
    for (uint64_t i = random() % 200; i > 0; --i) {
      const auto time = static_cast<int64_t>(random() % 40);
      times.insert(time);
      expected.copies.push_back({.key = Key(random() % 20), .unix_nanos = time});
    }
    Apply(expected, &state);
    const size_t most = random() % 200;
    const size_t left_out = KeepNewestCopies(most, &state);
    EXPECT_EQ(left_out, times.size() - std::min(times.size(), most));
    std::multiset<int64_t> kept;
    for (const auto& [key, of_key] : state.copies) {
      EXPECT_TRUE(std::ranges::is_sorted(of_key));
      EXPECT_FALSE(of_key.empty());
      kept.insert(of_key.begin(), of_key.end());
    }
    times.erase(times.begin(), std::next(times.begin(), static_cast<ptrdiff_t>(left_out)));
    EXPECT_EQ(kept, times);
  }
}

TEST(StateTest, NoMoreCopiesAreExpectedThanItsBound) {
  CopiesExpected expected;
  for (uint64_t i = 0; i < kMostExpectedCopies + 100; ++i) {
    expected.copies.push_back({.key = Key(i), .unix_nanos = static_cast<int64_t>(i)});
  }
  const State state = Replayed({expected});
  EXPECT_LE(CountCopies(state), kMostExpectedCopies);
  EXPECT_GE(CountCopies(state), kMostExpectedCopies / 2);
  EXPECT_FALSE(state.copies.contains(Key(99)));
  EXPECT_TRUE(state.copies.contains(Key(kMostExpectedCopies / 2)));
  EXPECT_TRUE(state.copies.contains(Key(kMostExpectedCopies + 99)));
}

// With each as an entry of its own; done anew each time a segment begins.
TEST(StateTest, CopiesBeyondTheBoundCostNoLookAtAllOthersEach) {
  State state;
  for (uint64_t i = 0; i < 4 * kMostExpectedCopies; ++i) {
    Apply(CopiesExpected{{{.key = Key(i), .unix_nanos = static_cast<int64_t>(i)}}}, &state);
    ASSERT_LE(CountCopies(state), kMostExpectedCopies);
  }
  size_t count = 0;
  for (const auto& [key, times] : state.copies) count += times.size();
  EXPECT_EQ(CountCopies(state), count);
  Apply(GenerationBegun{.generation = 1, .shard_count = 2}, &state);
  EXPECT_EQ(CountCopies(state), 0u);
}

TEST(StateTest, AReasonIsCutAtACharacter) {
  std::string reason;
  while (reason.size() < 2 * kMaxRescaleReasonBytes) reason += "x\u00e4\u20ac";
  const State state = Replayed({RescaleChanged{{.reason = reason}}});
  ASSERT_TRUE(state.rescale.has_value());
  const std::string& kept = state.rescale->reason;
  EXPECT_LE(kept.size(), kMaxRescaleReasonBytes);
  EXPECT_GT(kept.size(), kMaxRescaleReasonBytes - 4);
  EXPECT_EQ(kept, reason.substr(0, kept.size()));
  EXPECT_NE(static_cast<unsigned char>(reason[kept.size()]) & 0xc0, 0x80);
  const std::string bytes("\xff\x80 no text", 10);
  EXPECT_EQ(Replayed({RescaleChanged{{.reason = bytes}}}).rescale->reason, bytes);
}

TEST(StateTest, TakesWhateverStandsOnTheDisk) {
  std::mt19937_64 random(5);
  std::vector<std::string> payloads = {EncodeCheckpoint(Applied(OfARescale()))};
  for (const StateChange& change : OfARescale()) payloads.push_back(EncodeControl(change));
  payloads.push_back(
      EncodeControl(CopyCame{.shard = kShard, .session = 7, .sequence = 9, .key = Key(1)}));
  for (int round = 0; round < 20'000; ++round) {
    std::string payload = payloads[random() % payloads.size()];
    for (uint64_t i = random() % 4; i > 0; --i) {
      payload[random() % payload.size()] = static_cast<char>(random());
    }
    payload.resize(random() % (payload.size() + 1));
    State state = Applied(OfARescale());
    const State before = state;
    if (!ApplyControl(payload, &state)) {
      ASSERT_EQ(state, before);
    }
    if (state.rescale.has_value()) {
      ASSERT_LE(state.rescale->to_shard_count, kMaxShardCount);
      ASSERT_LE(static_cast<int>(state.rescale->step), static_cast<int>(RescaleStep::kFailed));
    }
    for (const auto& [key, times] : state.copies) ASSERT_FALSE(times.empty());
  }
}

// What begins a segment never keeps an event from fitting.
TEST(StateTest, BoundsLeaveRoomInASegment) {
  for (const uint64_t retain_bytes :
       {kMinRetainBytes, uint64_t{5} << 20, uint64_t{64} << 20, uint64_t{2} << 30}) {
    const uint64_t slot = retain_bytes / kSegmentsInRing;
    const uint64_t copies = MaxExpectedCopies(retain_bytes) * kExpectedCopyBytes;
    EXPECT_GT(MaxExpectedCopies(retain_bytes), 200u);
    EXPECT_LE(copies, slot / 8);
    EXPECT_LE(LargestData(retain_bytes) + copies + Segment::kHeaderBytes, 5 * slot);
    EXPECT_LE(LargestTransaction(retain_bytes) + copies + Segment::kHeaderBytes, 5 * slot);
  }
}

}  // namespace
}  // namespace shardd::events
