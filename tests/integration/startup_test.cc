// How the process starts and ends: what it says, the exit codes that scripts rely on, and where it
// listens.

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "simulator/certificate.h"
#include "simulator/simulator.h"
#include "support/event_stream.h"
#include "support/shardd_process.h"

namespace shardd {
namespace {

using simulator::Simulator;
using simulator::SimulatorOptions;
using test::Eventually;
using test::ShardDProcess;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using Flags = std::vector<std::string>;

constexpr char kToken[] = "MTk4NjIyNDgz.Cl2FMQ.s3cret";
// No stop has anything to wait for here, so it takes far less than --drain-timeout.
constexpr std::chrono::seconds kSoon{5};
// More often than any of these tests lets something happen.
constexpr uint32_t kForever = 1'000'000;

Flags operator+(Flags one, const Flags& other) {
  one.insert(one.end(), other.begin(), other.end());
  return one;
}

const Flags kListenAnywhere = {"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"};

std::unique_ptr<ShardDProcess> Start(const Flags& flags, const std::string& token = kToken) {
  ShardDProcess::Variables variables;
  if (!token.empty()) variables["DISCORD_TOKEN"] = token;
  return std::make_unique<ShardDProcess>(flags, variables);
}

// The server against a simulated Discord.
std::unique_ptr<ShardDProcess> StartWith(const Simulator& discord, const Flags& flags = {},
                                         const std::string& token = kToken) {
  return Start(kListenAnywhere + Flags{"--api-url", discord.api_url()} + flags, token);
}

SimulatorOptions WithShards(uint32_t shards) {
  SimulatorOptions options;
  options.guilds = 10;
  options.recommended_shards = shards;
  options.max_concurrency = 16;
  return options;
}

// Waits for the end with this code, and for this text in what it wrote to standard error.
void ExpectExit(ShardDProcess& process, int code, const std::vector<std::string>& texts) {
  EXPECT_EQ(process.WaitForExit(), code) << process.err();
  for (const std::string& text : texts)
    EXPECT_TRUE(process.WaitForLog(text)) << text << "\n" << process.err();
}

void ExpectCleanStop(ShardDProcess& process, int signal = SIGTERM) {
  process.Signal(signal);
  EXPECT_EQ(process.WaitForExit(kSoon), 0) << process.err();
}

// A port of 127.0.0.1 where connections are taken and never answered.
class SilentPort {
 public:
  SilentPort() : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(socket_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(socket_, 16), 0);
    EXPECT_EQ(getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~SilentPort() {
    if (connection_ >= 0) close(connection_);
    close(socket_);
  }
  SilentPort(const SilentPort&) = delete;
  SilentPort& operator=(const SilentPort&) = delete;

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  // Waits until somebody has connected and sent something.
  bool WaitForRequest() {
    pollfd ready{.fd = socket_, .events = POLLIN, .revents = 0};
    constexpr int kPatienceMs = 20'000;
    if (poll(&ready, 1, kPatienceMs) != 1) return false;
    connection_ = accept(socket_, nullptr, nullptr);
    ready.fd = connection_;
    return poll(&ready, 1, kPatienceMs) == 1;
  }

 private:
  const int socket_;
  int connection_ = -1;
  uint16_t port_ = 0;
};

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "shardd-startup-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string Write(const std::string& name, const std::string& content) const {
    std::ofstream(path(name)) << content;
    return path(name);
  }
  std::string path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// The whole answer of an HTTP request; "" where there is none.
std::string Ask(const std::string& admin_address, const std::string& target,
                const std::string& method = "GET") {
  const size_t colon = admin_address.rfind(':');
  if (colon == std::string::npos) return "";
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(std::stoi(admin_address.substr(colon + 1))));
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::string answer;
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
    const std::string request = method + " " + target + " HTTP/1.1\r\nHost: x\r\n\r\n";
    if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) ==
        static_cast<ssize_t>(request.size())) {
      char buffer[1024];
      for (ssize_t n; (n = recv(fd, buffer, sizeof buffer, 0)) > 0;)
        answer.append(buffer, static_cast<size_t>(n));
    }
  }
  close(fd);
  return answer;
}

int Code(const std::string& answer) {
  constexpr size_t kBeforeCode = sizeof("HTTP/1.1 ") - 1;
  return answer.size() > kBeforeCode + 3 ? std::stoi(answer.substr(kBeforeCode, 3)) : 0;
}

v1::StatsResponse Stats(const std::string& address) {
  grpc::ClientContext context;
  v1::StatsResponse response;
  const auto status = test::Connect(address)->Stats(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

std::vector<std::string> ShardNames(const std::string& address) {
  std::vector<std::string> names;
  const v1::StatsResponse stats = Stats(address);
  for (const auto& shard : stats.shards()) {
    names.push_back(ToString(ShardId{.id = shard.shard_id(), .count = shard.shard_count()}));
  }
  return names;
}

// ---- Flags and configuration ----

TEST(StartupTest, EndsWith2WithoutATokenAndSaysWhatToDo) {
  const auto process = Start(kListenAnywhere, "");
  ExpectExit(*process, 2, {"DISCORD_TOKEN", "--token-file", "--simulate"});
  EXPECT_THAT(process->out(), IsEmpty());
}

TEST(StartupTest, EndsWith2NamingTheFlagThatDoesNotHold) {
  const TemporaryDirectory directory;
  const std::string unknown_key = directory.Write("unknown", "thread = 2\n");
  const std::string bad_value = directory.Write("bad", "threads = two\n");
  struct Case {
    Flags flags;
    std::vector<std::string> texts;
  };
  const std::vector<Case> cases = {
      {{"--threads", "-1"}, {"--threads", "'-1'"}},
      {{"--threads", "18446744073709551616"}, {"--threads", "too large"}},
      {{"--thread", "1"}, {"--thread", "no such flag"}},
      {{"--listen="}, {"--listen", "empty"}},
      {{"--threads"}, {"--threads", "needs a value"}},
      {{"--intents", "GUILDS,GUILD_MESAGES"}, {"--intents", "GUILD_MESAGES", "GUILD_MESSAGES"}},
      {{"--shard-count", "2", "--shard-ids", "2"}, {"--shard-ids", "--shard-count"}},
      {{"--config", directory.path("none")}, {"--config", "none"}},
      {{"--config", directory.path("")}, {"--config", "cannot read"}},
      {{"--config", unknown_key}, {"--config", "'thread'"}},
      {{"--config", bad_value}, {"--threads", bad_value, "'two'"}},
      {{"--token-file", directory.path("")}, {"--token-file", "cannot read"}},
      {{"--tls-cert", directory.path(""), "--tls-key", bad_value}, {"--tls-cert", "cannot read"}},
      {{"--listen", "0.0.0.0:0"}, {"--listen", "--tls-cert", "--insecure-listen"}},
      {{"--simulate", "--api-url", "http://127.0.0.1:1"}, {"--simulate", "--api-url"}},
  };
  for (const Case& each : cases) {
    const auto process = Start(each.flags);
    ExpectExit(*process, 2, each.texts);
    EXPECT_THAT(process->out(), IsEmpty());
  }
}

TEST(StartupTest, EndsWith2NamingTheVariableThatDoesNotHold) {
  ShardDProcess process({}, {{"DISCORD_TOKEN", kToken}, {"SHARDD_THREADS", ""}});
  ExpectExit(process, 2, {"--threads", "SHARDD_THREADS"});
}

TEST(StartupTest, PrintsHelpAndVersionToStandardOutput) {
  for (const auto& [flag, text] :
       {std::pair("--help", "--listen"), {"-h", "--listen"}, {"--version", "shardd "}}) {
    const auto process = Start({flag}, "");
    EXPECT_EQ(process->WaitForExit(), 0);
    EXPECT_TRUE(
        Eventually([&, text = text] { return process->out().find(text) != std::string::npos; }));
    EXPECT_THAT(process->err(), IsEmpty());
  }
}

// ---- Listening ----

TEST(StartupTest, EndsWith1WhereAnotherProgramListens) {
  const SilentPort taken;
  const auto process = Start(
      {"--listen", taken.address(), "--admin-listen", "off", "--api-url", "http://127.0.0.1:1"});
  ExpectExit(*process, 1, {taken.address(), "--listen"});
  EXPECT_THAT(process->out(), Not(HasSubstr("listening")));
}

TEST(StartupTest, EndsWith1WhereAnotherShardDListens) {
  const Simulator discord(WithShards(1));
  const auto first = StartWith(discord);
  ASSERT_NE(first->address(), "") << first->err();
  const auto second = Start(
      {"--listen", first->address(), "--admin-listen", "off", "--api-url", discord.api_url()});
  ExpectExit(*second, 1, {first->address()});
  ExpectCleanStop(*first);
}

TEST(StartupTest, EndsWith1WhereTheAdminPortIsTaken) {
  const SilentPort taken;
  const auto process = Start({"--listen", "127.0.0.1:0", "--admin-listen", taken.address(),
                              "--api-url", "http://127.0.0.1:1"});
  ExpectExit(*process, 1, {taken.address(), "--admin-listen"});
}

TEST(StartupTest, ListensOnAUnixSocket) {
  const Simulator discord(WithShards(1));
  const TemporaryDirectory directory;
  const std::string address = "unix:" + directory.path("shardd.sock");
  const auto process =
      Start({"--listen", address, "--admin-listen", "off", "--api-url", discord.api_url()});
  ASSERT_EQ(process->address(), address) << process->err();
  EXPECT_THAT(process->out(), Not(HasSubstr("health on")));
  EXPECT_EQ(Stats(address).server().environment(), "production");
  ExpectCleanStop(*process);
}

TEST(StartupTest, ListensOnIpv6) {
  const Simulator discord(WithShards(1));
  const auto process =
      Start({"--listen", "[::1]:0", "--admin-listen", "off", "--api-url", discord.api_url()});
  if (process->address().empty() && !std::filesystem::exists("/proc/net/if_inet6")) {
    GTEST_SKIP() << "this machine has no IPv6";
  }
  ASSERT_THAT(process->address(), testing::StartsWith("[::1]:")) << process->err();
  EXPECT_EQ(Stats(process->address()).server().environment(), "production");
}

TEST(StartupTest, ServesTlsToClientsThatTrustItsCertificateAndNothingInPlain) {
  const Simulator discord(WithShards(1));
  const simulator::Certificate certificate = simulator::MakeCertificate();
  const simulator::TemporaryFile leaf(certificate.leaf);
  const simulator::TemporaryFile key(certificate.key);
  const auto process = StartWith(discord, {"--tls-cert", leaf.path(), "--tls-key", key.path()});
  ASSERT_NE(process->address(), "") << process->err();

  const auto call = [&](const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    const auto stub =
        v1::ShardControl::NewStub(grpc::CreateChannel(process->address(), credentials));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::StatsResponse response;
    return stub->Stats(&context, {}, &response);
  };
  const auto trusting = [](const std::string& authority) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = authority;
    return grpc::SslCredentials(options);
  };
  const auto status = call(trusting(certificate.authority));
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(call(trusting(simulator::MakeCertificate().authority)).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(call(grpc::InsecureChannelCredentials()).error_code(), grpc::StatusCode::UNAVAILABLE);
  ExpectCleanStop(*process);
}

TEST(StartupTest, ListensOffThisMachineWithACertificateOrWhenTold) {
  const Simulator discord(WithShards(1));
  const simulator::Certificate certificate = simulator::MakeCertificate();
  const simulator::TemporaryFile leaf(certificate.leaf);
  const simulator::TemporaryFile key(certificate.key);
  for (const Flags& flags :
       {Flags{"--tls-cert", leaf.path(), "--tls-key", key.path()}, Flags{"--insecure-listen"}}) {
    const auto process = Start(Flags{"--listen", "0.0.0.0:0", "--admin-listen", "off", "--no-spawn",
                                     "--api-url", discord.api_url()} +
                               flags);
    EXPECT_THAT(process->address(), testing::StartsWith("0.0.0.0:")) << process->err();
  }
}

TEST(StartupTest, RefusesACertificateThatIsNoneAndAKeyThatDoesNotFit) {
  const simulator::TemporaryFile none(
      "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n");
  const simulator::Certificate certificate = simulator::MakeCertificate();
  const simulator::TemporaryFile leaf(certificate.leaf);
  const simulator::TemporaryFile key(certificate.key);
  const simulator::TemporaryFile other_key(simulator::MakeCertificate().key);
  const auto refuses = [](const std::string& cert_path, const std::string& key_path,
                          const std::string& flag) {
    const auto process =
        Start(kListenAnywhere + Flags{"--api-url", "http://127.0.0.1:1", "--tls-cert", cert_path,
                                      "--tls-key", key_path});
    EXPECT_EQ(process->WaitForExit(), 2);
    EXPECT_TRUE(process->WaitForLog(flag + ": '")) << process->err();
  };
  refuses(none.path(), key.path(), "--tls-cert");
  refuses(leaf.path(), none.path(), "--tls-key");
  refuses(leaf.path(), other_key.path(), "--tls-key");
}

// ---- Discord at the start ----

TEST(StartupTest, EndsWith3WhereDiscordRejectsTheToken) {
  SimulatorOptions options = WithShards(1);
  options.token = "another";
  const Simulator discord(options);
  const auto process = StartWith(discord);
  ExpectExit(*process, 3, {"401", "DISCORD_TOKEN", "--token-file"});
  EXPECT_EQ(discord.counters().gateway_bot_requests, 1u);
}

TEST(StartupTest, ListensAtOnceAndGetsReadyLaterWhereDiscordIsDownAtFirst) {
  Simulator discord(WithShards(1));
  discord.AnswerGatewayBotWith(503, kForever);
  const auto process = StartWith(discord);
  ASSERT_NE(process->address(), "") << process->err();
  EXPECT_TRUE(discord.WaitUntil([&] { return discord.counters().gateway_bot_requests >= 2; }));
  EXPECT_TRUE(process->WaitForLog("503"));
  EXPECT_THAT(ShardNames(process->address()), IsEmpty());
  discord.AnswerGatewayBotWith(503, 0);
  EXPECT_TRUE(discord.WaitForSessions(1, 1)) << process->err();
  EXPECT_TRUE(Eventually([&] { return Code(Ask(process->admin_address(), "/readyz")) == 200; }));
  EXPECT_THAT(ShardNames(process->address()), ElementsAre("0/1"));
}

TEST(StartupTest, SpawnsAsManyShardsAsDiscordRecommends) {
  const Simulator discord(WithShards(3));
  const auto process = StartWith(discord, {"--shard-count", "auto"});
  EXPECT_TRUE(discord.WaitForSessions(3, 3)) << process->err();
  EXPECT_THAT(ShardNames(process->address()), ElementsAre("0/3", "1/3", "2/3"));
}

TEST(StartupTest, SpawnsMoreShardsWhereEachShouldHaveFewerGuilds) {
  const Simulator discord(WithShards(2));
  const auto process = StartWith(discord, {"--guilds-per-shard", "500"});
  EXPECT_TRUE(discord.WaitForSessions(4, 4)) << process->err();
}

TEST(StartupTest, SpawnsItsShareOfTheShardsOnly) {
  const Simulator discord(WithShards(1));
  const auto process = StartWith(discord, {"--shard-ids", "0-1", "--shard-count", "4"});
  EXPECT_TRUE(discord.WaitForSessions(4, 2)) << process->err();
  // Ready, so no other is on its way.
  EXPECT_TRUE(Eventually([&] { return Code(Ask(process->admin_address(), "/readyz")) == 200; }));
  EXPECT_THAT(ShardNames(process->address()), ElementsAre("0/4", "1/4"));
  EXPECT_EQ(discord.Sessions().size(), 2u);
}

TEST(StartupTest, EndsWith2WhereItsShareLiesBeyondWhatDiscordRecommends) {
  const Simulator discord(WithShards(2));
  const auto process = StartWith(discord, {"--shard-ids", "1-2"});
  ExpectExit(*process, 2, {"--shard-ids"});
  EXPECT_THAT(discord.Sessions(), IsEmpty());
}

TEST(StartupTest, SpawnsNothingBeforeItIsToldWithNoSpawn) {
  const Simulator discord(WithShards(1));
  const auto process = StartWith(discord, {"--no-spawn"});
  ASSERT_NE(process->address(), "");
  EXPECT_TRUE(Eventually([&] { return Code(Ask(process->admin_address(), "/readyz")) == 200; }));
  EXPECT_THAT(ShardNames(process->address()), IsEmpty());

  grpc::ClientContext context;
  v1::SpawnResponse response;
  EXPECT_TRUE(test::Connect(process->address())->Spawn(&context, {}, &response).ok());
  EXPECT_TRUE(discord.WaitForSessions(1, 1));
}

TEST(StartupTest, SimulatesDiscordWithoutAnythingElse) {
  const auto process = Start(kListenAnywhere + Flags{"--simulate"}, "");
  ASSERT_NE(process->address(), "") << process->err();
  EXPECT_TRUE(Eventually([&] { return Code(Ask(process->admin_address(), "/readyz")) == 200; }))
      << process->err();
  const auto stub = test::Connect(process->address());
  test::EventStream stream(*stub, test::FromEarliest());
  EXPECT_TRUE(stream.WaitForEvents(150)) << "READY, 100 guilds, and traffic";
  ExpectCleanStop(*process);
}

TEST(StartupTest, SimulatesAsManyShardsAsTheGuildsNeed) {
  const auto process =
      Start(kListenAnywhere + Flags{"--simulate", "--simulate-guilds", "2501"}, "");
  ASSERT_NE(process->address(), "") << process->err();
  EXPECT_TRUE(Eventually([&] { return Code(Ask(process->admin_address(), "/readyz")) == 200; }))
      << process->err();
  EXPECT_TRUE(process->WaitForLog("shards=3"));
}

// ---- Stopping ----

TEST(StartupTest, StopsOnEitherSignalWhileAllIsWell) {
  for (const int signal : {SIGTERM, SIGINT}) {
    const Simulator discord(WithShards(2));
    const auto process = StartWith(discord);
    ASSERT_TRUE(discord.WaitForSessions(2, 2)) << process->err();
    ExpectCleanStop(*process, signal);
    // So that the next process resumes: 1000 would end the sessions.
    EXPECT_EQ(discord.counters().client_closes.count(1000), 0u);
  }
}

TEST(StartupTest, StopsWhileASubscriberReads) {
  const Simulator discord(WithShards(1));
  const auto process = StartWith(discord);
  ASSERT_NE(process->address(), "");
  const auto stub = test::Connect(process->address());
  test::EventStream stream(*stub, test::FromEarliest());
  ASSERT_TRUE(stream.WaitForEvents(1));
  ExpectCleanStop(*process);
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(stream.reason(), "SERVER_STOPPING");
}

TEST(StartupTest, StopsWhileDiscordAnswersWithFailures) {
  for (const int signal : {SIGTERM, SIGINT}) {
    Simulator discord(WithShards(1));
    discord.AnswerGatewayBotWith(503, kForever);
    const auto process = StartWith(discord);
    ASSERT_TRUE(process->WaitForLog("trying again")) << process->err();
    ExpectCleanStop(*process, signal);
  }
}

TEST(StartupTest, StopsWhileDiscordDoesNotAnswer) {
  SilentPort silent;
  const auto process = Start(kListenAnywhere + Flags{"--api-url", "http://" + silent.address()});
  ASSERT_NE(process->address(), "") << process->err();
  ASSERT_TRUE(silent.WaitForRequest());
  ExpectCleanStop(*process);
}

TEST(StartupTest, StopsWhileNobodyListensWhereDiscordShouldBe) {
  const auto process = Start(kListenAnywhere + Flags{"--api-url", "http://127.0.0.1:1"});
  ASSERT_TRUE(process->WaitForLog("trying again")) << process->err();
  ExpectCleanStop(*process);
}

TEST(StartupTest, StopsWhileAShardWaitsForHello) {
  Simulator discord(WithShards(1));
  discord.SilenceNextHellos(kForever);
  const auto process = StartWith(discord);
  ASSERT_TRUE(discord.WaitUntil([&] { return discord.counters().open_connections > 0; }))
      << process->err();
  ExpectCleanStop(*process);
}

TEST(StartupTest, StopsWhileAShardWaitsForReady) {
  Simulator discord(WithShards(1));
  discord.IgnoreNextIdentifies(kForever);
  const auto process = StartWith(discord);
  ASSERT_NE(process->address(), "") << process->err();
  ASSERT_TRUE(Eventually([&] {
    const auto stats = Stats(process->address());
    return stats.shards_size() == 1 && stats.shards(0).state() == v1::SHARD_STATE_IDENTIFYING;
  })) << process->err();
  ExpectCleanStop(*process);
}

TEST(StartupTest, StopsWhileAShardBacksOff) {
  Simulator discord(WithShards(1));
  discord.RefuseNextConnections(kForever);
  const auto process = StartWith(discord);
  ASSERT_NE(process->address(), "") << process->err();
  ASSERT_TRUE(Eventually([&] {
    const auto stats = Stats(process->address());
    return stats.shards_size() == 1 && stats.shards(0).state() == v1::SHARD_STATE_BACKING_OFF;
  })) << process->err();
  ExpectCleanStop(*process);
}

TEST(StartupTest, StopsOnASignalThatComesWhileItStarts) {
  const Simulator discord(WithShards(1));
  const auto process =
      Start(kListenAnywhere + Flags{"--api-url", discord.api_url(), "--log-level", "debug"});
  // Logged first of all, so signals are blocked by then.
  ASSERT_TRUE(process->WaitForLog("starting"));
  ExpectCleanStop(*process);
}

// ---- The data directory and the session starts in it ----

TEST(StartupTest, EndsWith1WhereAnotherShardDHasTheDataDir) {
  const Simulator discord(WithShards(1));
  const TemporaryDirectory directory;
  const Flags data_dir = {"--data-dir", directory.path("data")};
  const auto first = StartWith(discord, data_dir);
  ASSERT_NE(first->address(), "") << first->err();
  const auto second = StartWith(discord, data_dir);
  ExpectExit(*second, 1, {"process " + std::to_string(first->pid()), "--data-dir"});
  ExpectCleanStop(*first);
  const auto third = StartWith(discord, data_dir);
  EXPECT_NE(third->address(), "") << third->err();
}

TEST(StartupTest, EndsWith1WhereTheDataDirCannotBeMade) {
  const TemporaryDirectory directory;
  const std::string path = directory.Write("file", "") + "/data";
  const auto process = Start(kListenAnywhere + Flags{"--data-dir", path});
  ExpectExit(*process, 1, {path, "--data-dir"});
}

uint32_t Remaining(const std::string& address) {
  return Stats(address).session_budget().remaining();
}

// Killed at any moment of its start, again and again, and its sessions thrown away: Discord sees no
// IDENTIFY too early, and what is left is what Discord says.
TEST(StartupTest, KillsLoseNoSessionStartAndNoSpacing) {
  SimulatorOptions options = WithShards(4);
  options.max_concurrency = 2;
  options.session_starts_total = 100;
  options.session_starts_remaining = 100;
  Simulator discord(options);
  const TemporaryDirectory directory;
  // Asked again soon: an IDENTIFY just before an answer counts twice until the next one.
  const Flags data_dir = {"--data-dir", directory.path("data"), "--gateway-bot-interval", "1s",
                          "--reset-generation"};
  for (uint64_t kills = 1; kills <= 3; ++kills) {
    const auto process = StartWith(discord, data_dir);
    ASSERT_TRUE(discord.WaitUntil([&] { return discord.counters().identifies >= 2 * kills; },
                                  std::chrono::seconds(30)))
        << process->err();
    process->Signal(SIGKILL);
    ASSERT_EQ(process->WaitForExit(), 128 + SIGKILL);
  }
  const auto process = StartWith(discord, data_dir);
  ASSERT_TRUE(discord.WaitUntil([&] { return discord.counters().identifies >= 10; },
                                std::chrono::seconds(40)))
      << process->err();
  EXPECT_EQ(discord.counters().identifies_refused, 0u);
  EXPECT_EQ(discord.counters().token_resets, 0u);
  const std::string address = process->address();
  EXPECT_TRUE(Eventually([&] { return Remaining(address) == discord.session_starts_remaining(); }))
      << Remaining(address) << " " << discord.session_starts_remaining();
}

// A supervisor that restarts what crashes must not cost the bot its token.
TEST(StartupTest, ACrashLoopLeavesTheReserve) {
  SimulatorOptions options = WithShards(2);
  options.session_starts_total = 6;
  Simulator discord(options);
  const TemporaryDirectory directory;
  const Flags flags = {
      "--data-dir", directory.path("data"), "--identify-reserve", "2", "--gateway-bot-interval",
      "1s",         "--reset-generation"};
  for (int crash = 0; crash < 2; ++crash) {
    const uint64_t before = discord.counters().identifies;
    const auto process = StartWith(discord, flags);
    ASSERT_TRUE(discord.WaitUntil([&] { return discord.counters().identifies == before + 2; },
                                  std::chrono::seconds(30)))
        << process->err();
    process->Signal(SIGKILL);
    ASSERT_EQ(process->WaitForExit(), 128 + SIGKILL);
  }
  const auto process = StartWith(discord, flags);
  ASSERT_TRUE(process->WaitForLog("not all shards run yet")) << process->err();
  EXPECT_TRUE(process->WaitForLog("kept for shards that lose their session"));
  EXPECT_EQ(discord.counters().identifies, 4u);
  EXPECT_EQ(discord.counters().token_resets, 0u);
  EXPECT_EQ(discord.session_starts_remaining(), 2u);
}

TEST(StartupTest, ReadsTheGatewayAgainOnItsSchedule) {
  Simulator discord(WithShards(1));
  const auto process = StartWith(discord, {"--gateway-bot-interval", "1s", "--no-spawn"});
  const std::string address = process->address();
  ASSERT_TRUE(Eventually([&] { return Stats(address).recommended_shards() == 1; }));
  discord.SetRecommendedShards(7);
  EXPECT_TRUE(Eventually([&] { return Stats(address).recommended_shards() == 7; }));
  // It takes neither shards nor process with it.
  discord.SetToken("another");
  EXPECT_TRUE(process->WaitForLog("rejects the token now (401)")) << process->err();
  EXPECT_EQ(Stats(address).recommended_shards(), 7u);
  ExpectCleanStop(*process);
}

// ---- What it says ----

TEST(StartupTest, NeverSaysTheToken) {
  const TemporaryDirectory directory;
  const std::string file = directory.Write("token", std::string("Bot ") + kToken + "\n");
  for (const Flags& flags : {Flags{}, Flags{"--token-file", file}}) {
    for (const char* format : {"text", "json"}) {
      Simulator discord(WithShards(1));
      const auto process =
          StartWith(discord, flags + Flags{"--log-level", "debug", "--log-format", format});
      ASSERT_TRUE(discord.WaitForSessions(1, 1)) << process->err();
      discord.DropConnections();
      ASSERT_TRUE(discord.WaitUntil([&] { return discord.counters().resumes > 0; }))
          << process->err();
      // Discord does not know the token any more.
      discord.SetToken("another");
      discord.CloseWith({}, 4004, "Authentication failed.");
      ASSERT_TRUE(Eventually([&] {
        const auto stats = Stats(process->address());
        return stats.shards_size() == 1 && stats.shards(0).state() == v1::SHARD_STATE_FAILED;
      }));
      EXPECT_THAT(Stats(process->address()).DebugString(), Not(HasSubstr("s3cret")));
      ExpectCleanStop(*process);
      ASSERT_TRUE(process->WaitForLog("stopped"));
      EXPECT_THAT(process->out() + process->err(), Not(HasSubstr("s3cret")));
    }
  }
}

TEST(StartupTest, NeverSaysATokenThatDiscordRejects) {
  SimulatorOptions options = WithShards(1);
  options.token = "another";
  const Simulator discord(options);
  const auto process = StartWith(discord, {"--log-level", "debug"});
  EXPECT_EQ(process->WaitForExit(), 3);
  ASSERT_TRUE(process->WaitForLog("stopped"));
  EXPECT_THAT(process->out() + process->err(), Not(HasSubstr("s3cret")));
}

TEST(StartupTest, LogsOneJsonObjectALine) {
  Simulator discord(WithShards(1));
  discord.AnswerGatewayBotWith(503, 1);
  const auto process = StartWith(discord, {"--log-level", "debug", "--log-format", "json"});
  ASSERT_TRUE(discord.WaitForSessions(1, 1)) << process->err();
  discord.CloseWith({}, 4000, "a \"quoted\" reason\nof two lines");
  ASSERT_TRUE(discord.WaitUntil([&] { return discord.counters().resumes > 0; })) << process->err();
  ExpectCleanStop(*process);
  ASSERT_TRUE(process->WaitForLog("\"stopped\""));

  std::istringstream lines(process->err());
  size_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    boost::json::error_code error;
    const auto value = boost::json::parse(line, error);
    ASSERT_FALSE(error) << line;
    const auto& object = value.as_object();
    for (const char* key : {"time", "level", "message"}) {
      ASSERT_TRUE(object.contains(key) && object.at(key).is_string()) << line;
    }
  }
  EXPECT_GE(count, 5u);
}

TEST(StartupTest, TellsItsHealthOverPlainHttpThroughItsLife) {
  Simulator discord(WithShards(1));
  discord.AnswerGatewayBotWith(503, kForever);
  const auto process = StartWith(discord);
  const std::string admin = process->admin_address();
  ASSERT_THAT(admin, testing::StartsWith("http://127.0.0.1:")) << process->err();

  // Discord has not answered yet.
  EXPECT_THAT(Ask(admin, "/healthz"), AllOf(HasSubstr("200 OK"), HasSubstr("\r\n\r\nok\n")));
  EXPECT_THAT(Ask(admin, "/readyz"), AllOf(HasSubstr(" 503 "), HasSubstr("not ready: ")));
  discord.AnswerGatewayBotWith(503, 0);

  ASSERT_TRUE(Eventually([&] { return Code(Ask(admin, "/readyz")) == 200; })) << process->err();
  EXPECT_THAT(Ask(admin, "/readyz"), HasSubstr("\r\n\r\nready\n"));

  // It resumes, which is no reason to take traffic away.
  discord.DropConnections();
  ASSERT_TRUE(discord.WaitUntil([&] {
    EXPECT_EQ(Code(Ask(admin, "/readyz")), 200);
    return discord.counters().resumes > 0;
  })) << process->err();

  // A shard that Discord ends for good.
  discord.CloseWith({}, 4014, "Disallowed intent(s).");
  ASSERT_TRUE(Eventually([&] { return Code(Ask(admin, "/readyz")) == 503; })) << process->err();
  EXPECT_THAT(Ask(admin, "/readyz"), HasSubstr("shard 0/1 is FAILED"));
  EXPECT_EQ(Code(Ask(admin, "/healthz")), 200);

  ExpectCleanStop(*process);
  EXPECT_EQ(Ask(admin, "/healthz"), "");
}

TEST(StartupTest, AnswersNothingButHealthOnTheAdminPort) {
  const Simulator discord(WithShards(1));
  const auto process = StartWith(discord);
  const std::string admin = process->admin_address();
  ASSERT_NE(admin, "") << process->err();
  EXPECT_EQ(Code(Ask(admin, "/")), 404);
  EXPECT_EQ(Code(Ask(admin, "/healthz/")), 404);
  EXPECT_EQ(Code(Ask(admin, "/healthz", "POST")), 405);
  EXPECT_THAT(Ask(admin, "/healthz", "HEAD"), testing::EndsWith("\r\n\r\n"));
  // More than a header may have, and what is no HTTP: neither answer matters, the next one does.
  Ask(admin, "/" + std::string(100'000, 'x'));
  Ask(admin, "\r\n\r\n", "\x16\x03\x01");
  EXPECT_EQ(Code(Ask(admin, "/healthz")), 200);
}

}  // namespace
}  // namespace shardd
