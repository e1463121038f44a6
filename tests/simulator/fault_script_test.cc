#include "simulator/fault_script.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "simulator/simulator.h"
#include "support/gateway_client.h"

namespace shardd::simulator {
namespace {

using std::chrono::hours, std::chrono::milliseconds, std::chrono::seconds;
using test::GatewayClient;

const SteadyTime kStart{hours(1)};

TEST(FaultScriptTest, TakesConnectedSessionsInTurnAndComesLateOnce) {
  Simulator simulator({.guilds = 0, .identify_window = milliseconds(0)});
  FaultScript script;
  EXPECT_TRUE(script.empty());
  std::vector<std::string> touched;
  script.Every(seconds(10), [&](Simulator&, const Target& t) { touched.push_back(t.session_id); });
  script.Every(seconds(25), [&](Simulator&, const Target&) { touched.emplace_back("slow"); });
  script.Start(kStart);
  script.Run(simulator, kStart + seconds(10));
  EXPECT_TRUE(touched.empty()) << "nobody is connected";

  GatewayClient a(simulator.port());
  GatewayClient b(simulator.port());
  GatewayClient gone(simulator.port());
  for (GatewayClient* client : {&a, &b, &gone}) {
    ASSERT_TRUE(client->Start({0, 1}).has_value());
  }
  gone.Close(4000);
  ASSERT_TRUE(simulator.WaitUntil([&] { return !simulator.Session({0, 1})->connected; }));
  EXPECT_EQ(script.Next(), kStart + seconds(20));
  script.Run(simulator, kStart + milliseconds(19'999));
  EXPECT_TRUE(touched.empty());
  for (const int second : {20, 30, 55}) script.Run(simulator, kStart + seconds(second));
  EXPECT_THAT(touched,
              testing::ElementsAre(a.session_id(), b.session_id(), "slow", a.session_id(), "slow"));
}

}  // namespace
}  // namespace shardd::simulator
