#include "server/gateway_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "support/rest_stub.h"

namespace shardd::server {
namespace {

using namespace std::chrono_literals;
using test::RestStub;

class NoSink final : public gateway::EventSink {
 public:
  void OnSessionOpened(const gateway::OpenedSession&) override {}
  void OnSessionEnded(ShardId, uint32_t) override {}
  void OnDispatch(const gateway::Dispatch&) override {}
  void OnStateChange(const gateway::ShardInfo&) override {}
  void OnSessionLost(const gateway::LostSession&) override {}
  void OnSkippedEvent(const gateway::SkippedEvent&) override {}
  void OnCrashLoop(const gateway::CrashLoop&) override {}
  void OnSilence(const gateway::ShardSilence&) override {}
  void OnHeartbeatAck(ShardId, SteadyTime) override {}
  void Flush() override {}
};

// The watch on a real clock, with periods of milliseconds.
class GatewayWatchTest : public ::testing::Test {
 protected:
  void Watch(std::vector<std::string> answers) {
    discord_ = std::make_unique<RestStub>(std::move(answers));
    options_.rest = {.api_url = discord_->api_url(), .token = "token"};
    watch_ = std::make_unique<GatewayWatch>(options_, director_, board_,
                                            [this](int code) { exit_code_ = code; });
  }
  ~GatewayWatchTest() override { watch_.reset(); }

  template <class Condition>
  static bool Eventually(Condition condition) {
    const auto until = SteadyClock::now() + 20s;
    while (!condition()) {
      if (SteadyClock::now() > until) return false;
      std::this_thread::sleep_for(1ms);
    }
    return true;
  }
  uint32_t Recommended() const {
    const auto bot = director_.overview().gateway_bot;
    return bot ? bot->recommended_shards : 0;
  }
  size_t requests() const { return discord_->requests().size(); }

  GatewayWatchOptions options_{.rest = {},
                               .interval = 1h,
                               .least_pause = 1ms,
                               .retry = {.first = 1ms, .longest = 5ms},
                               .spawn = false};
  gateway::ShardPool pool_{{}, [] { return std::make_unique<NoSink>(); }};
  const std::unique_ptr<events::Log> log_ =
      *events::Log::Open({.retain_bytes = events::kMinRetainBytes});
  ShardDirector director_{{}, pool_, *log_};
  ShardBoard board_;
  std::atomic<int> exit_code_ = -1;
  std::unique_ptr<RestStub> discord_;
  std::unique_ptr<GatewayWatch> watch_;
};

TEST_F(GatewayWatchTest, ReadsOnASchedule) {
  options_.interval = 20ms;
  Watch({RestStub::Bot(1, 1000, 900, 0, 1), RestStub::Bot(5, 1000, 800, 0, 16)});
  EXPECT_TRUE(Eventually([&] { return Recommended() == 5; }));
  EXPECT_TRUE(Eventually([&] { return director_.overview().session_budget.remaining == 800; }));
  EXPECT_EQ(director_.overview().session_budget.max_concurrency, 16u);
}

TEST_F(GatewayWatchTest, KeepsAskingWhileDiscordFailsAndKeepsWhatItKnows) {
  options_.interval = 5ms;
  const std::string bad = RestStub::Http("503 Unavailable", "<html>");
  Watch({bad, bad, RestStub::Http("200 OK", "<html>"), RestStub::Http("403 Forbidden", ""), "",
         RestStub::Bot(3, 1000, 700, 0, 1), bad});
  ASSERT_TRUE(Eventually([&] { return Recommended() == 3; }));
  const size_t asked = requests();
  ASSERT_TRUE(Eventually([&] { return requests() > asked + 3; }));
  EXPECT_EQ(Recommended(), 3u);
  EXPECT_EQ(director_.overview().session_budget.remaining, 700u);
  EXPECT_EQ(exit_code_, -1);
}

TEST_F(GatewayWatchTest, WaitsAsLongAs429Says) {
  Watch({RestStub::Http("429 Too Many Requests\r\nRetry-After: 1", ""),
         RestStub::Bot(1, 1000, 900, 0, 1)});
  ASSERT_TRUE(Eventually([&] { return requests() == 1; }));
  const SteadyTime first = SteadyClock::now();
  ASSERT_TRUE(Eventually([&] { return requests() == 2; }));
  EXPECT_GE(SteadyClock::now() - first, 900ms);
}

TEST_F(GatewayWatchTest, AsksNothingDuringA429OfHoursAndCanBeStopped) {
  options_.interval = 1ms;
  Watch({RestStub::Bot(1, 1000, 900, 0, 1),
         RestStub::Http("429 Too Many Requests\r\nRetry-After: 46263", "")});
  ASSERT_TRUE(Eventually([&] { return requests() == 2; }));
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(requests(), 2u);
  const SteadyTime before = SteadyClock::now();
  watch_.reset();
  EXPECT_LT(SteadyClock::now() - before, 5s);
}

TEST_F(GatewayWatchTest, A401AtTheStartEndsTheProcess) {
  const std::string rejected = RestStub::Http("401 Unauthorized", R"({"code":0})");
  Watch({RestStub::Http("500 Oops", ""), rejected});
  EXPECT_TRUE(Eventually([&] { return exit_code_ == 3; }));
}

TEST_F(GatewayWatchTest, A401LaterIsAskedAgainOnTheScheduleAlone) {
  options_.interval = 300ms;
  Watch({RestStub::Bot(1, 1000, 900, 0, 1), RestStub::Http("401 Unauthorized", "")});
  ASSERT_TRUE(Eventually([&] { return requests() == 2; }));
  const SteadyTime second = SteadyClock::now();
  ASSERT_TRUE(Eventually([&] { return requests() == 3; }));
  EXPECT_GE(SteadyClock::now() - second, 200ms);
  EXPECT_EQ(exit_code_, -1);
}

}  // namespace
}  // namespace shardd::server
