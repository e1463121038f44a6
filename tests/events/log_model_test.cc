#include <gtest/gtest.h>

#include <deque>
#include <random>
#include <string>

#include "events/log.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::events {
namespace {

// Random appends, reads and held runs against the simplest log there can be: a deque of everything.
class LogModelTest : public ::testing::TestWithParam<uint64_t> {};

TEST_P(LogModelTest, BehavesAsADequeOfEverything) {
  std::mt19937_64 random(GetParam());
  const auto below = [&](uint64_t bound) { return random() % bound; };
  auto log = *Log::Open({.retain_bytes = kMinRetainBytes + below(4) * 100'000});
  std::deque<std::string> model;
  std::deque<std::pair<events::Run, std::string>> held;
  Round round;
  uint64_t sequence = 0;

  for (int step = 0; step < 3000; ++step) {
    if (below(3) == 0) {
      for (uint64_t i = below(40); i > 0; --i) {
        const uint64_t size = below(200) == 0 ? below(300'000) : below(2000);
        std::string data(size + 2, static_cast<char>('a' + below(26)));
        round.Add({.shard = {.id = 0, .count = 1},
                   .session = 1,
                   .sequence = ++sequence,
                   .guild_id = sequence,
                   .type = "X",
                   .data = data});
        model.push_back(std::move(data));
      }
      log->Append(round);
      ASSERT_EQ(log->end(), model.size());
      continue;
    }
    const uint64_t from = below(model.size() + 1);
    const ReadLimits limits = {
        .max_events = static_cast<uint32_t>(1 + below(50)),
        .max_bytes = static_cast<uint32_t>(1 + below(100'000)),
        .max_event_bytes = below(2) == 0 ? 0 : static_cast<uint32_t>(below(2000))};
    auto run = log->Read(from, limits);
    ASSERT_EQ(run.first, std::max(from, log->oldest()));
    ASSERT_LE(run.count, limits.max_events);
    if (run.first < log->end()) {
      ASSERT_FALSE(run.empty());
    }
    v1::EventBatch batch;
    ASSERT_TRUE(batch.ParseFromArray(run.bytes().data(), static_cast<int>(run.bytes().size())));
    ASSERT_EQ(static_cast<uint64_t>(batch.events_size()), run.count);
    if (batch.events_size() > 1) {
      ASSERT_LE(run.bytes().size(), limits.max_bytes);
    }
    for (int i = 0; i < batch.events_size(); ++i) {
      const v1::Event& event = batch.events(i);
      const uint64_t offset = run.first + static_cast<uint64_t>(i);
      ASSERT_EQ(event.offset(), offset);
      ASSERT_EQ(event.sequence(), offset + 1);
      const bool too_large =
          limits.max_event_bytes > 0 && model[offset].size() > limits.max_event_bytes;
      ASSERT_EQ(event.data(), too_large ? std::string() : model[offset]);
      ASSERT_EQ(event.data_bytes(), model[offset].size());
    }
    if (run.pin && below(20) == 0) {
      std::string bytes(run.bytes());
      held.emplace_back(std::move(run), std::move(bytes));
    }
    if (held.size() > 4) {
      ASSERT_EQ(held.front().first.bytes(), held.front().second);
      held.pop_front();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, LogModelTest, ::testing::Range<uint64_t>(1, 9));

}  // namespace
}  // namespace shardd::events
