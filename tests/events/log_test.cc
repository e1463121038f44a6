#include "events/log.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <deque>
#include <fstream>
#include <string>
#include <thread>

#include "events/crc32c.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::events {
namespace {

NewEvent Event(uint64_t sequence, std::string_view data) {
  return {.shard = {.id = 0, .count = 1},
          .session = 1,
          .sequence = sequence,
          .received_unix_nanos = static_cast<int64_t>(sequence) * 1000,
          .type = "TYPING_START",
          .data = data};
}

class LogTest : public ::testing::Test {
 protected:
  void Open(uint64_t retain_bytes) {
    auto opened = Log::Open({.retain_bytes = retain_bytes});
    ASSERT_TRUE(opened.ok());
    log_ = *std::move(opened);
  }

  void Append(size_t data_bytes) {
    Round round;
    round.Add(Event(++sequence_, std::string(data_bytes, 'x')));
    log_->Append(round);
  }

  // Parses a run and checks that it holds what it says.
  static v1::EventBatch Parse(const events::Run& run) {
    v1::EventBatch batch;
    EXPECT_TRUE(batch.ParseFromArray(run.bytes().data(), static_cast<int>(run.bytes().size())));
    EXPECT_EQ(static_cast<uint64_t>(batch.events_size()), run.count);
    for (int i = 0; i < batch.events_size(); ++i) {
      EXPECT_EQ(batch.events(i).offset(), run.first + static_cast<uint64_t>(i));
      EXPECT_EQ(batch.events(i).sequence(), batch.events(i).offset() + 1);
    }
    return batch;
  }

  // Of this process, in bytes; what it has of the log's file is not among it.
  static uint64_t AnonymousMemory() {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
      if (word != "RssAnon:") continue;
      uint64_t kib = 0;
      status >> kib;
      return kib << 10;
    }
    return 0;
  }

  std::unique_ptr<Log> log_;
  uint64_t sequence_ = 0;
};

TEST_F(LogTest, ReadsWhatWasAppendedInOrder) {
  Open(kMinRetainBytes);
  EXPECT_TRUE(log_->Read(0, {}).empty());
  Round round;
  for (int i = 0; i < 10; ++i) round.Add(Event(++sequence_, "{}"));
  log_->Append(round);
  EXPECT_TRUE(round.empty());
  Append(5);
  EXPECT_EQ(log_->end(), 11u);
  const auto run = log_->Read(0, {});
  EXPECT_EQ(run.first, 0u);
  EXPECT_EQ(run.next, 11u);
  EXPECT_FALSE(run.full);
  Parse(run);
  EXPECT_EQ(Parse(log_->Read(7, {})).events_size(), 4);
  EXPECT_TRUE(log_->Read(11, {}).empty());
}

TEST_F(LogTest, StopsAtTheLimits) {
  Open(kMinRetainBytes);
  for (int i = 0; i < 20; ++i) Append(1000);
  const auto by_events = log_->Read(0, {.max_events = 3});
  EXPECT_EQ(by_events.count, 3u);
  EXPECT_TRUE(by_events.full);
  const auto by_bytes = log_->Read(0, {.max_bytes = 4000});
  EXPECT_EQ(by_bytes.count, 3u);
  EXPECT_LE(by_bytes.bytes().size(), 4000u);
  EXPECT_TRUE(by_bytes.full);
  const auto one_larger = log_->Read(0, {.max_bytes = 10});
  EXPECT_EQ(one_larger.count, 1u);
  const auto exact = log_->Read(18, {.max_events = 2});
  EXPECT_EQ(exact.count, 2u);
  EXPECT_FALSE(exact.full);
}

TEST_F(LogTest, LeavesOutDataThatIsTooLargeForTheReader) {
  Open(kMinRetainBytes);
  for (const size_t size : {10, 100, 101, 5000, 10}) Append(size);
  std::vector<std::pair<size_t, size_t>> sizes;
  for (uint64_t at = 0; at < log_->end();) {
    const auto run = log_->Read(at, {.max_event_bytes = 100});
    ASSERT_FALSE(run.empty());
    const v1::EventBatch batch = Parse(run);
    for (const auto& event : batch.events()) {
      sizes.emplace_back(event.data().size(), event.data_bytes());
    }
    at = run.next;
  }
  const std::vector<std::pair<size_t, size_t>> expected = {
      {10, 10}, {100, 100}, {0, 101}, {0, 5000}, {10, 10}};
  EXPECT_EQ(sizes, expected);
}

TEST_F(LogTest, ARunThatEndsWithItsSegmentIsFullSinceNothingCanJoinIt) {
  Open(kMinRetainBytes);
  for (int i = 0; i < 200; ++i) Append(1000);
  for (uint64_t at = 0; at < log_->end();) {
    const auto run = log_->Read(at, {.max_events = 1000, .max_bytes = 1 << 20});
    EXPECT_EQ(run.full, run.next < log_->end()) << run.next;
    at = run.next;
  }
}

TEST_F(LogTest, ForgetsTheOldestAndSaysWhereItStarts) {
  Open(kMinRetainBytes);
  for (int i = 0; i < 3000; ++i) Append(1000);
  EXPECT_GT(log_->oldest(), 1000u);
  EXPECT_LT(log_->oldest(), 3000u);
  const auto run = log_->Read(0, {});
  EXPECT_EQ(run.first, log_->oldest());
  ASSERT_TRUE(run.missing.has_value());
  EXPECT_EQ(run.missing->events, log_->oldest());
  EXPECT_EQ(run.missing->reason, MissingReason::kNotRetained);
  Parse(run);
  const Log::Stats stats = log_->GetStats();
  EXPECT_EQ(stats.oldest, log_->oldest());
  EXPECT_EQ(stats.end, 3000u);
  EXPECT_EQ(stats.events, 3000 - log_->oldest());
  EXPECT_EQ(log_->CountFrom(0), stats.events);
  EXPECT_EQ(log_->CountFrom(2990), 10u);
  EXPECT_LE(stats.bytes, kMinRetainBytes);
  EXPECT_GT(stats.bytes, kMinRetainBytes * 8 / 10);
  EXPECT_EQ(stats.oldest_received_unix_nanos, log_->ReceivedUnixNanos(log_->oldest()));
  EXPECT_EQ(log_->ReceivedUnixNanos(0), 0);
  EXPECT_EQ(log_->ReceivedUnixNanos(log_->end()), 0);
}

TEST_F(LogTest, TakesEventsOfManySizesBeyondASegments) {
  Open(kMinRetainBytes);
  Append(10);
  constexpr size_t kLargest = LargestData(kMinRetainBytes);
  for (const size_t size :
       {size_t{200'000}, kLargest, kLargest, size_t{10}, kLargest, size_t{70'000}, kLargest}) {
    Append(size);
    const auto run = log_->Read(log_->end() - 1, {});
    EXPECT_EQ(Parse(run).events(0).data_bytes(), size);
  }
  for (int i = 0; i < 2000; ++i) Append(1000);
  EXPECT_LE(log_->GetStats().bytes, kMinRetainBytes);
}

TEST_F(LogTest, SplitsARoundOverSegments) {
  Open(kMinRetainBytes);
  Round round;
  for (int i = 0; i < 700; ++i) round.Add(Event(++sequence_, std::string(1000, 'x')));
  log_->Append(round);
  uint64_t at = 0;
  while (at < log_->end()) {
    const auto run = log_->Read(at, {});
    ASSERT_EQ(run.first, at);
    Parse(run);
    at = run.next;
  }
  EXPECT_EQ(at, 700u);
}

TEST_F(LogTest, AHeldRunStaysAsItIsWhileTheLogGoesRound) {
  Open(kMinRetainBytes);
  for (int i = 0; i < 10; ++i) Append(1000);
  const auto held = log_->Read(0, {});
  const std::string before(held.bytes());
  for (int i = 0; i < 5000; ++i) Append(1000);
  EXPECT_GT(log_->oldest(), held.next);
  EXPECT_EQ(held.bytes(), before);
}

TEST_F(LogTest, ManyHeldRunsAndViewsStayAsTheyAreAndGiveTheirMemoryBack) {
  constexpr uint64_t kRetain = uint64_t{16} << 20;
  Open(kRetain);
  const auto go_round = [&](int times) {
    for (int i = 0; i < times * 16'000; ++i) {
      Round round;
      const std::string data(1000, static_cast<char>('a' + sequence_ % 26));
      round.Add(Event(++sequence_, data));
      log_->Append(round);
    }
  };
  const auto sum_of = [](const View& view) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < view.size(); ++i) {
      const auto record = view.record(i);
      sum = Crc32c(record.data(), record.size(), sum) + view.entry(i).length;
    }
    return sum;
  };
  go_round(2);
  const uint64_t before = AnonymousMemory();
  std::vector<std::pair<events::Run, uint32_t>> runs;
  std::vector<std::pair<View, uint32_t>> views;
  // Every other one, so that there are pages between them; by two readers.
  for (uint64_t at = log_->oldest(), i = 0; at < log_->end(); ++i) {
    const events::ReadLimits limits{.max_bytes = 64 << 10};
    const auto run = log_->Read(at, limits);
    at = run.next;
    if (i % 2 == 0) continue;
    const uint32_t sum = Crc32c(run.bytes().data(), run.bytes().size());
    for (int reader = 0; reader < 2; ++reader)
      runs.emplace_back(log_->Read(run.first, limits), sum);
  }
  for (uint64_t at = log_->end() - 500; at < log_->end();) {
    View view = log_->Look(at);
    at = view.next();
    const uint32_t sum = sum_of(view);
    views.emplace_back(std::move(view), sum);
  }
  const uint64_t held_in_log = AnonymousMemory();
  EXPECT_LT(held_in_log, before + (1 << 20)) << "to hold bytes of the log costs nothing";
  go_round(3);
  for (const auto& [run, sum] : runs) {
    ASSERT_EQ(Crc32c(run.bytes().data(), run.bytes().size()), sum) << run.first;
  }
  for (const auto& [view, sum] : views) ASSERT_EQ(sum_of(view), sum);
  EXPECT_GT(AnonymousMemory(), before + kRetain / 4) << "the log has left them these bytes";
  // In another order than they were taken in.
  for (size_t i = 0; i < runs.size(); i += 2) runs[i].first = events::Run();
  go_round(1);
  for (size_t i = 1; i < runs.size(); i += 2) {
    const auto& [run, sum] = runs[i];
    ASSERT_EQ(Crc32c(run.bytes().data(), run.bytes().size()), sum) << run.first;
  }
  runs.clear();
  views.clear();
  EXPECT_LT(AnonymousMemory(), before + (1 << 20));
}

TEST_F(LogTest, AHeldRunOutlivesTheLog) {
  Open(kMinRetainBytes);
  Append(1000);
  const auto held = log_->Read(0, {});
  const std::string before(held.bytes());
  log_.reset();
  EXPECT_EQ(held.bytes(), before);
}

TEST_F(LogTest, RecyclesItsMemoryWhateverTheSizeThatIsAskedFor) {
  const auto page_faults = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
  };
  Open(kMinRetainBytes + 1000);
  Round round;
  const std::string data(1000, 'x');
  const auto go_round = [&](int times) {
    for (int i = 0; i < times * 1000; ++i) {
      round.Add(Event(++sequence_, data));
      log_->Append(round);
    }
  };
  go_round(3);
  const auto before = page_faults();
  go_round(20);
  EXPECT_LT(page_faults() - before, 500)
      << "fresh memory costs several times what the copy into it does";
}

TEST_F(LogTest, StatsKnowTheOldestEventThoughItDidNotFitIntoTheFirstSegment) {
  Open(kMinRetainBytes);
  Append(200'000);
  EXPECT_EQ(log_->GetStats().oldest_received_unix_nanos, 1000);
}

TEST_F(LogTest, RefusesToBeTooSmall) {
  const auto opened = Log::Open({.retain_bytes = kMinRetainBytes - 1});
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(LogTest, WritersAndReadersRunBesideEachOther) {
  Open(kMinRetainBytes);
  constexpr int kWriters = 2;
  constexpr int kRounds = 3000;
  std::atomic<int> signals = 0;
  log_->SetListener([&] { signals.fetch_add(1, std::memory_order_relaxed); });
  std::atomic<int> running = kWriters;
  std::vector<std::thread> threads;
  for (int w = 0; w < kWriters; ++w) {
    threads.emplace_back([&, w] {
      Round round;
      uint64_t sequence = 0;
      for (int i = 0; i < kRounds; ++i) {
        for (int j = 0; j <= i % 5; ++j) {
          const std::string data(100 + (i * 37) % 900, 'x');
          NewEvent event = Event(++sequence, data);
          event.shard.id = static_cast<uint32_t>(w);
          round.Add(event);
        }
        log_->Append(round);
      }
      running.fetch_sub(1);
    });
  }
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&] {
      std::vector<uint64_t> last(kWriters, 0);
      uint64_t at = 0;
      std::deque<std::pair<events::Run, std::string>> held;
      while (running.load() > 0 || at < log_->end()) {
        auto run = log_->Read(at, {.max_bytes = 8 << 10});
        if (run.first > at) std::fill(last.begin(), last.end(), 0);
        v1::EventBatch batch;
        ASSERT_TRUE(batch.ParseFromArray(run.bytes().data(), static_cast<int>(run.bytes().size())));
        uint64_t offset = run.first;
        for (const auto& event : batch.events()) {
          ASSERT_EQ(event.offset(), offset++);
          uint64_t& previous = last[event.shard_id()];
          if (previous != 0) {
            ASSERT_EQ(event.sequence(), previous + 1);
          }
          previous = event.sequence();
        }
        ASSERT_EQ(offset, run.next);
        at = run.next;
        if (run.empty()) continue;
        std::string bytes(run.bytes());
        held.emplace_back(std::move(run), std::move(bytes));
        if (held.size() < 50) continue;
        ASSERT_EQ(held.front().first.bytes(), held.front().second);
        held.pop_front();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(signals.load(), kWriters * kRounds);
}

}  // namespace
}  // namespace shardd::events
