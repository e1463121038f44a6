#pragma once

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/shard_id.h"
#include "simulator/simulator.h"
#include "support/event_stream.h"
#include "support/shardd_process.h"

namespace shardd::test {

// The real server with a simulated Discord of its own and a data directory that outlives it.
class LiveServer : public ::testing::Test {
 protected:
  LiveServer() {
    options_.guilds = 20;
    options_.max_concurrency = 16;
    options_.recommended_shards = 2;
    std::string pattern = (std::filesystem::temp_directory_path() / "shardd-live-XXXXXX").string();
    data_dir_ = mkdtemp(pattern.data());
  }
  ~LiveServer() override {
    server_.reset();
    std::filesystem::remove_all(data_dir_);
  }

  // Starts the server, and the simulator the first time.
  void Launch(std::vector<std::string> flags = {}) {
    if (discord_ == nullptr) discord_ = std::make_unique<simulator::Simulator>(options_);
    flags.insert(flags.end(),
                 {"--api-url", discord_->api_url(), "--listen", "127.0.0.1:0", "--admin-listen",
                  "off", "--intents", "all", "--data-dir", data_dir_});
    server_ = std::make_unique<ShardDProcess>(flags,
                                              ShardDProcess::Variables{{"DISCORD_TOKEN", "token"}});
    ASSERT_NE(server_->address(), "") << server_->err();
    stub_ = Connect(server_->address());
  }
  // The same, and waits until all shards have their guilds.
  void Start(std::vector<std::string> flags = {}) {
    ASSERT_NO_FATAL_FAILURE(Launch(std::move(flags)));
    ASSERT_TRUE(Eventually([&] {
      size_t ready = 0;
      const v1::StatsResponse stats = Stats();
      for (const auto& shard : stats.shards()) {
        ready += shard.state() == v1::SHARD_STATE_READY;
      }
      return ready == options_.recommended_shards;
    })) << server_->err();
    ASSERT_TRUE(discord_->WaitForSessions(options_.recommended_shards, options_.recommended_shards))
        << server_->err();
  }

  void Kill() {
    server_->Signal(SIGKILL);
    ASSERT_EQ(server_->WaitForExit(), 128 + SIGKILL);
  }

  v1::StatsResponse Stats() {
    grpc::ClientContext context;
    v1::StatsResponse stats;
    stub_->Stats(&context, {}, &stats);
    return stats;
  }

  // Status and reason.
  std::pair<grpc::StatusCode, std::string> Ack(const v1::AckRequest& request) {
    grpc::ClientContext context;
    v1::AckResponse response;
    const grpc::Status status = stub_->Ack(&context, request, &response);
    return {status.error_code(), ReasonOf(context)};
  }

  // All events from the oldest on to the last one that Discord has sent so far.
  std::vector<v1::Event> ReadAll() {
    const std::string marker = "MARKER_" + std::to_string(++markers_);
    std::set<uint32_t> shards;
    for (const uint64_t guild : discord_->guild_ids()) {
      if (!shards.insert(ShardForGuild(guild, options_.recommended_shards)).second) continue;
      discord_->Emit(marker, guild, "{\"guild_id\":\"" + std::to_string(guild) + "\"}");
    }
    EventStream stream(*stub_, FromEarliest());
    EXPECT_TRUE(stream.WaitFor([&](const auto& batches) {
      size_t found = 0;
      for (const auto& batch : batches) {
        for (const auto& event : batch.events()) found += event.type() == marker;
      }
      return found == shards.size();
    }));
    return stream.events();
  }

  std::unique_ptr<EventStream> Open(const v1::EventsRequest& request) {
    return std::make_unique<EventStream>(*stub_, request);
  }
  static bool HasBegun(EventStream& stream) {
    return stream.WaitFor([](const auto& batches) { return !batches.empty(); });
  }
  // How a stream that is refused ends.
  std::pair<grpc::StatusCode, std::string> Refusal(const v1::EventsRequest& request) {
    EventStream stream(*stub_, request);
    const grpc::Status status = stream.Finish();
    return {status.error_code(), stream.reason()};
  }

  simulator::SimulatorOptions options_;
  int markers_ = 0;
  std::string data_dir_;
  std::unique_ptr<simulator::Simulator> discord_;
  std::unique_ptr<ShardDProcess> server_;
  std::unique_ptr<v1::ShardControl::Stub> stub_;
};

}  // namespace shardd::test
