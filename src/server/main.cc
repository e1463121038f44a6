#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <system_error>
#include <thread>

#include "common/log.h"
#include "common/status.h"
#include "server/config.h"
#include "server/exit_code.h"
#include "server/server.h"
#include "server/version.h"
#include "simulator/simulator.h"

namespace shardd::server {
namespace {

// The main thread waits for these; every other thread inherits that they are blocked.
sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

// Beyond --drain-timeout, for what has been cut to end.
constexpr std::chrono::seconds kStopGrace{2};

// Ends the process when a stop takes longer than it may: whatever hangs, sessions are closed by
// then, and a supervisor should not have to wait.
void EndAfter(std::chrono::milliseconds time, int exit_code) {
  std::thread([time, exit_code] {
    std::this_thread::sleep_for(time);
    log::Warn("the stop takes too long; ending now");
    std::_Exit(exit_code);
  }).detach();
}

int Run(Config config) {
  log::Configure(config.log_level, config.log_format);
  std::unique_ptr<simulator::Simulator> discord;
  if (config.simulate) {
    simulator::SimulatorOptions options;
    options.guilds = config.simulate_guilds;
    options.rate = config.simulate_rate;
    // As Discord does: enough for what one shard may hold.
    constexpr uint32_t kGuildsPerShard = 1000;
    options.recommended_shards = config.shard_count.value_or(
        (config.simulate_guilds + kGuildsPerShard - 1) / kGuildsPerShard);
    options.max_concurrency = 16;
    try {
      discord = std::make_unique<simulator::Simulator>(options);
    } catch (const std::system_error& error) {
      log::Error("the simulated Discord cannot start", {{"error", error.what()}});
      return kExitFailed;
    }
    config.api_url = discord->api_url();
    log::Info("simulating Discord",
              {{"api_url", config.api_url}, {"guilds", config.simulate_guilds}});
  }
  log::Info("starting", {{"version", kVersion},
                         {"data_dir", config.data_dir.empty() ? "temporary" : config.data_dir}});

  // Set before the signal that wakes the main thread, so it needs no lock.
  static volatile std::sig_atomic_t exit_code = kExitClean;
  auto server = Server::Start(config, [](int code) {
    exit_code = code;
    kill(getpid(), SIGTERM);
  });
  if (!server.ok()) {
    log::Error("cannot start", {{"error", Message(server.status())}});
    return absl::IsInvalidArgument(server.status()) ? kExitBadConfiguration : kExitFailed;
  }
  std::printf("listening on %s\n", (*server)->address().c_str());
  if (!(*server)->admin_address().empty()) {
    std::printf("health on http://%s\n", (*server)->admin_address().c_str());
  }
  std::fflush(stdout);

  const sigset_t signals = StopSignals();
  int signal = 0;
  sigwait(&signals, &signal);
  // A second signal ends the process at once.
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  log::Info("stopping", {{"signal", signal}});
  EndAfter(config.drain_timeout + kStopGrace, exit_code);
  (*server)->Stop();
  log::Info("stopped");
  return exit_code;
}

}  // namespace
}  // namespace shardd::server

int main(int argc, char** argv) {
  using namespace shardd::server;
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  // A limit on the size of files is an error that is told, like a full disk.
  std::signal(SIGXFSZ, SIG_IGN);

  auto config = LoadConfig({argv + 1, argv + argc}, ProcessEnvironment());
  if (absl::IsCancelled(config.status())) {
    std::fputs(std::string(config.status().message()).c_str(), stdout);
    return kExitClean;
  }
  if (!config.ok()) {
    std::fprintf(stderr, "shardd: %s\n", std::string(config.status().message()).c_str());
    return kExitBadConfiguration;
  }
  return Run(*std::move(config));
}
