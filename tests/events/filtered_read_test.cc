#include "events/filtered_read.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "shardd/v1/shardd.pb.h"

namespace shardd::events {
namespace {

constexpr uint64_t kRetain = kMinRetainBytes;

NewEvent Event(std::string_view type, uint64_t guild, std::string_view data = "{}") {
  return {.shard = {.id = 0, .count = 1},
          .session = 1,
          .sequence = 1,
          .guild_id = guild << 22,
          .received_unix_nanos = 1,
          .type = type,
          .data = data};
}

v1::EventBatch Parse(const Run& run) {
  v1::EventBatch batch;
  EXPECT_TRUE(batch.ParseFromArray(run.bytes().data(), static_cast<int>(run.bytes().size())));
  EXPECT_EQ(static_cast<uint64_t>(batch.events_size()), run.count);
  return batch;
}

class FilteredReadTest : public ::testing::Test {
 protected:
  void Append(const NewEvent& event) {
    round_.Add(event);
    log_->Append(round_);
  }
  events::Run Read(uint64_t from, const FilterSpec& spec, const ReadLimits& limits = {}) const {
    events::Run run = BeginRun(from);
    ReadFiltered(*log_, *Filter::Make(spec), limits, &run);
    return run;
  }

  std::unique_ptr<Log> log_ = *Log::Open({.retain_bytes = kRetain});
  Round round_;
};

TEST_F(FilteredReadTest, CopiesWhatMatchesAndPassesTheRest) {
  for (int i = 0; i < 10; ++i) Append(Event(i % 3 == 0 ? "A" : "B", 1));
  const events::Run run = Read(1, {.types = {"A"}});
  EXPECT_EQ(run.first, 1u);
  EXPECT_EQ(run.next, 10u);
  EXPECT_EQ(run.count, 3u);
  EXPECT_FALSE(run.full);
  EXPECT_FALSE(run.missing.has_value());
  const auto batch = Parse(run);
  EXPECT_EQ(batch.events(0).offset(), 3u);
  EXPECT_EQ(batch.events(2).offset(), 9u);
}

TEST_F(FilteredReadTest, GoesOnWhereItEnded) {
  events::Run run = BeginRun(0);
  const Filter filter = *Filter::Make({.types = {"A"}});
  ReadFiltered(*log_, filter, {}, &run);
  EXPECT_EQ(run.next, 0u);
  Append(Event("A", 1));
  ReadFiltered(*log_, filter, {}, &run);
  Append(Event("B", 1));
  Append(Event("A", 1));
  ReadFiltered(*log_, filter, {}, &run);
  EXPECT_EQ(run.count, 2u);
  EXPECT_EQ(run.next, 3u);
  EXPECT_EQ(Parse(run).events(1).offset(), 2u);
}

TEST_F(FilteredReadTest, StopsAtTheLimits) {
  const std::string data(1000, 'x');
  for (int i = 0; i < 20; ++i) Append(Event("A", 1, data));
  const FilterSpec all = {.types = {"A"}};
  const events::Run by_events = Read(0, all, {.max_events = 3});
  EXPECT_TRUE(by_events.full);
  EXPECT_EQ(by_events.count, 3u);
  EXPECT_EQ(by_events.next, 3u);
  const events::Run by_bytes = Read(0, all, {.max_bytes = 4000});
  EXPECT_TRUE(by_bytes.full);
  EXPECT_EQ(by_bytes.count, 3u);
  EXPECT_EQ(by_bytes.next, 3u);
  EXPECT_LE(by_bytes.bytes().size(), 4000u);
  EXPECT_EQ(Read(0, all, {.max_bytes = 10}).count, 1u) << "one larger event goes out whole";
}

TEST_F(FilteredReadTest, LeavesOutDataThatIsTooLargeForTheReader) {
  Append(Event("A", 1, std::string(101, 'x')));
  Append(Event("A", 1, std::string(100, 'x')));
  const auto batch = Parse(Read(0, {.types = {"A"}}, {.max_event_bytes = 100}));
  EXPECT_EQ(batch.events(0).data(), "");
  EXPECT_EQ(batch.events(0).data_bytes(), 101u);
  EXPECT_EQ(batch.events(1).data().size(), 100u);
}

TEST_F(FilteredReadTest, ExaminesNoMoreThanItsShareAtOnce) {
  log_ = *Log::Open({.retain_bytes = uint64_t{64} << 20});
  for (uint32_t i = 0; i < 2 * kMaxExamined; ++i) {
    round_.Add(Event("B", 1));
    if (round_.bytes() > (100 << 10)) log_->Append(round_);
  }
  round_.Add(Event("A", 1));
  log_->Append(round_);
  events::Run run = BeginRun(5);
  const Filter filter = *Filter::Make({.types = {"A"}});
  ReadFiltered(*log_, filter, {}, &run);
  EXPECT_EQ(run.next, 5 + kMaxExamined);
  EXPECT_EQ(run.count, 0u);
  EXPECT_FALSE(run.full);
  ReadFiltered(*log_, filter, {}, &run);
  EXPECT_EQ(run.next, log_->end());
  EXPECT_EQ(run.count, 1u);
}

TEST_F(FilteredReadTest, SaysWhatIsMissingBeforeWhatItFinds) {
  const std::string data(1000, 'x');
  for (int i = 0; i < 3000; ++i) Append(Event(i % 2 == 0 ? "A" : "B", 1, data));
  ASSERT_GT(log_->oldest(), 100u);
  const events::Run run = Read(100, {.types = {"A"}});
  ASSERT_TRUE(run.missing.has_value());
  EXPECT_EQ(run.missing->reason, MissingReason::kNotRetained);
  EXPECT_EQ(run.missing->events, log_->oldest() - 100);
  EXPECT_EQ(run.first, log_->oldest());
  EXPECT_GT(run.count, 0u);
}

TEST_F(FilteredReadTest, EndsARunBeforeWhatIsMissingInItsMiddle) {
  const std::string data(1000, 'x');
  const Filter filter = *Filter::Make({.types = {"A"}});
  for (int i = 0; i < 10; ++i) Append(Event("A", 1, data));
  events::Run run = BeginRun(0);
  ReadFiltered(*log_, filter, {}, &run);
  ASSERT_EQ(run.count, 10u);
  for (int i = 0; i < 3000; ++i) Append(Event("A", 1, data));
  ReadFiltered(*log_, filter, {}, &run);
  EXPECT_TRUE(run.full);
  EXPECT_EQ(run.count, 10u);
  EXPECT_EQ(run.next, 10u);
  run = BeginRun(run.next);
  ReadFiltered(*log_, filter, {}, &run);
  ASSERT_TRUE(run.missing.has_value());
  EXPECT_EQ(*run.missing->events, log_->oldest() - 10);
}

TEST_F(FilteredReadTest, WritersAndReadersRunBesideEachOther) {
  constexpr int kWriters = 2;
  constexpr int kRounds = 2000;
  std::atomic<int> running = kWriters;
  std::vector<std::thread> threads;
  for (int w = 0; w < kWriters; ++w) {
    threads.emplace_back([&, w] {
      Round round;
      for (int i = 0; i < kRounds; ++i) {
        for (int j = 0; j <= i % 5; ++j) {
          const std::string data(100 + (i * 37) % 900, 'x');
          round.Add(Event(j % 2 == 0 ? "A" : "B", static_cast<uint64_t>(w), data));
        }
        log_->Append(round);
      }
      running.fetch_sub(1);
    });
  }
  const Filter filter = *Filter::Make({.types = {"A"}});
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&] {
      for (uint64_t at = 0; running.load() > 0 || at < log_->end();) {
        events::Run run = BeginRun(at);
        ReadFiltered(*log_, filter, {.max_bytes = 8 << 10}, &run);
        uint64_t last = run.first;
        const v1::EventBatch batch = Parse(run);
        for (const auto& event : batch.events()) {
          ASSERT_EQ(event.type(), "A");
          ASSERT_GE(event.offset(), last);
          ASSERT_LT(event.offset(), run.next);
          last = event.offset() + 1;
        }
        at = run.next;
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

// Random events, random filters and random limits against a plain loop over decoded events.
class FilteredReadModelTest : public ::testing::TestWithParam<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Seeds, FilteredReadModelTest, ::testing::Range<uint64_t>(1, 9));

bool MatchesPlainly(const FilterSpec& spec, const v1::Event& event) {
  const auto contains = [](const auto& list, const auto& value) {
    return std::find(list.begin(), list.end(), value) != list.end();
  };
  const uint64_t guild = event.guild_id();
  if (!spec.types.empty() && !contains(spec.types, event.type())) return false;
  if (!spec.guild_ids.empty() && (guild == 0 || !contains(spec.guild_ids, guild))) return false;
  if (!spec.shard_ids.empty()) {
    const uint64_t shard = guild != 0 ? (guild >> 22) % spec.shard_count
                           : event.shard_count() == spec.shard_count ? event.shard_id()
                                                                     : 0;
    if (!contains(spec.shard_ids, shard)) return false;
  }
  return !spec.partition.has_value() || event.type().starts_with("SHARDD_") ||
         (guild >> 22) % spec.partition->count == spec.partition->index;
}

TEST_P(FilteredReadModelTest, GivesWhatAPlainLoopGives) {
  std::mt19937_64 random(GetParam());
  const auto below = [&](uint64_t n) { return random() % n; };
  const std::vector<std::string> types = {
      "MESSAGE_CREATE", "TYPING_START",       "READY",
      "GUILD_CREATE",   "SHARDD_SHARD_STATE", "SHARDD_SESSION_LOST"};
  const auto log = *Log::Open({.retain_bytes = 4 * kRetain});
  Round round;
  std::vector<v1::Event> model;
  const auto append = [&] {
    for (uint64_t i = below(40); i > 0; --i) {
      v1::Event event;
      event.set_type(types[below(types.size())]);
      const bool is_own = event.type().starts_with("SHARDD_");
      const bool has_guild = !is_own && event.type() != "READY" && below(8) > 0;
      event.set_guild_id(has_guild ? (below(30) + 1) << 22 | below(1000) : 0);
      event.set_sequence(is_own ? 0 : below(3));
      event.set_shard_count(static_cast<uint32_t>(1 + below(4)));
      event.set_shard_id(static_cast<uint32_t>(below(event.shard_count())));
      event.set_data(std::string(below(50) == 0 ? below(30'000) : below(300), 'x'));
      event.set_offset(model.size());
      round.Add({.shard = {.id = event.shard_id(), .count = event.shard_count()},
                 .session = 1,
                 .sequence = event.sequence(),
                 .guild_id = event.guild_id(),
                 .received_unix_nanos = 1,
                 .type = event.type(),
                 .data = event.data()});
      model.push_back(event);
    }
    log->Append(round);
  };
  const auto random_spec = [&] {
    FilterSpec spec;
    if (below(2) == 0) {
      for (uint64_t i = 1 + below(3); i > 0; --i) spec.types.push_back(types[below(types.size())]);
    }
    if (below(3) == 0) {
      for (uint64_t i = 1 + below(20); i > 0; --i) {
        spec.guild_ids.push_back(below(2) == 0 && !model.empty()
                                     ? model[below(model.size())].guild_id()
                                     : below(30) << 22);
      }
    }
    if (below(3) == 0) {
      spec.shard_count = static_cast<uint32_t>(1 + below(5));
      for (uint64_t i = 1 + below(3); i > 0; --i) {
        spec.shard_ids.push_back(static_cast<uint32_t>(below(spec.shard_count)));
      }
    }
    if (below(3) == 0) {
      const auto count = static_cast<uint32_t>(1 + below(5));
      spec.partition = Partition{.index = static_cast<uint32_t>(below(count)), .count = count};
    }
    return spec;
  };

  for (int step = 0; step < 200; ++step) {
    for (uint64_t i = below(5); i > 0; --i) append();
    const FilterSpec spec = random_spec();
    const Filter filter = *Filter::Make(spec);
    ReadLimits limits;
    limits.max_events = static_cast<uint32_t>(1 + below(60));
    limits.max_bytes = static_cast<uint32_t>(1 + below(60'000));
    limits.max_event_bytes = below(2) == 0 ? 0 : static_cast<uint32_t>(below(1000));
    uint64_t at = below(model.size() + 1);
    // Run by run, while some more is appended.
    int appends_left = 3;
    for (int runs = 0; runs < 50 && at < log->end(); ++runs) {
      events::Run run = BeginRun(at);
      do {
        ReadFiltered(*log, filter, limits, &run);
        if (appends_left > 0 && below(4) == 0) --appends_left, append();
      } while (!run.full && run.next < log->end() && below(4) > 0);
      if (run.missing.has_value()) {
        ASSERT_EQ(run.missing->reason, MissingReason::kNotRetained);
        ASSERT_EQ(run.missing->events, run.first - at);
      } else {
        ASSERT_EQ(run.first, at);
      }
      ASSERT_TRUE(run.next > at || run.missing.has_value());
      std::vector<const v1::Event*> expected;
      for (uint64_t offset = run.first; offset < run.next; ++offset) {
        if (MatchesPlainly(spec, model[offset])) expected.push_back(&model[offset]);
      }
      ASSERT_EQ(run.count, expected.size());
      ASSERT_LE(run.count, limits.max_events);
      if (run.count > 1) {
        ASSERT_LE(run.bytes().size(), limits.max_bytes);
      }
      const auto batch = Parse(run);
      for (size_t i = 0; i < expected.size(); ++i) {
        const v1::Event& event = batch.events(static_cast<int>(i));
        ASSERT_EQ(event.offset(), expected[i]->offset());
        ASSERT_EQ(event.type(), expected[i]->type());
        const bool too_large =
            limits.max_event_bytes > 0 && expected[i]->data().size() > limits.max_event_bytes;
        ASSERT_EQ(event.data(), too_large ? std::string() : expected[i]->data());
      }
      at = run.next;
    }
  }
}

}  // namespace
}  // namespace shardd::events
