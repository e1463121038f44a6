#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <string>

#include "simulator/simulator.h"

namespace shardd::simulator {
namespace {

// Discord's advice is to keep a shard well under the 2500 guilds that it may have.
constexpr uint32_t kGuildsPerShard = 1000;

int Run(SimulatorOptions options) {
  if (options.recommended_shards == 0) {
    options.recommended_shards = options.guilds / kGuildsPerShard + 1;
  }
  // Blocked before the simulator's thread starts, so that both wait for sigwait() below.
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGINT);
  sigaddset(&ending, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ending, nullptr);

  const Simulator simulator(std::move(options));
  std::printf("listening on %s\n", simulator.api_url().c_str());
  if (const std::string path = simulator.certificate_path(); !path.empty()) {
    std::printf("certificate authority: %s\n", path.c_str());
  }
  std::fflush(stdout);
  int signal = 0;
  sigwait(&ending, &signal);
  return 0;
}

int Main(int argc, char** argv) {
  SimulatorOptions options;
  options.rate = 100;
  options.recommended_shards = 0;
  int64_t heartbeat_interval = options.heartbeat_interval.count();
  int64_t identify_window = options.identify_window.count();

  CLI::App app("A simulated Discord for gateway clients: REST and gateway on one loopback port.",
               "discord-sim");
  app.add_option("--port", options.port, "Port on 127.0.0.1; 0 picks one")->capture_default_str();
  app.add_option("--guilds", options.guilds, "How many guilds there are")
      ->check(CLI::Range(0u, 1'000'000u))
      ->capture_default_str();
  app.add_option("--rate", options.rate, "Events a second over all guilds")
      ->check(CLI::Range(0.0, 10'000'000.0))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Same seed, same guilds and events")
      ->capture_default_str();
  app.add_option("--shards", options.recommended_shards,
                 "Shards that /gateway/bot recommends; 0: one per 1000 guilds")
      ->check(CLI::Range(0u, kMaxShardCount))
      ->capture_default_str();
  app.add_option("--max-concurrency", options.max_concurrency, "Identify buckets")
      ->check(CLI::Range(1u, kMaxShardCount))
      ->capture_default_str();
  app.add_option("--identify-window", identify_window,
                 "Milliseconds between two IDENTIFYs of a bucket")
      ->check(CLI::Range(int64_t{0}, int64_t{3'600'000}))
      ->capture_default_str();
  app.add_option("--token", options.token, "The only token that is accepted; any, if not given");
  app.add_flag("--tls", options.tls, "https and wss, with a certificate made at start");
  app.add_option("--heartbeat-interval", heartbeat_interval, "Milliseconds between heartbeats")
      ->check(CLI::Range(int64_t{10}, int64_t{3'600'000}))
      ->capture_default_str();
  app.add_option("--session-starts", options.session_starts_total,
                 "IDENTIFYs a day before the token is reset")
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    app.exit(error);
    return 2;
  }
  options.heartbeat_interval = std::chrono::milliseconds(heartbeat_interval);
  options.identify_window = std::chrono::milliseconds(identify_window);
  try {
    return Run(std::move(options));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "discord-sim: %s\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace shardd::simulator

int main(int argc, char** argv) { return shardd::simulator::Main(argc, argv); }
