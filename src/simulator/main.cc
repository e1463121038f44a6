#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <exception>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "simulator/fault_script.h"
#include "simulator/simulator.h"

namespace shardd::simulator {
namespace {

// Discord's advice is to keep a shard well under the 2500 guilds that it may have.
constexpr uint32_t kGuildsPerShard = 1000;

using Millis = std::chrono::milliseconds;

// Until one of the signals; does what the script says meanwhile.
void WaitForSignal(const sigset_t& ending, Simulator& simulator, FaultScript& script) {
  script.Start(SteadyClock::now());
  int signal = -1;
  while (signal < 0) {
    if (script.empty()) {
      sigwait(&ending, &signal);
      continue;
    }
    const auto wait = std::max(std::chrono::nanoseconds(0),
                               std::chrono::nanoseconds(script.Next() - SteadyClock::now()));
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(wait);
    timespec timeout{};
    timeout.tv_sec = seconds.count();
    timeout.tv_nsec = (wait - seconds).count();
    signal = sigtimedwait(&ending, nullptr, &timeout);
    script.Run(simulator, SteadyClock::now());
  }
}

int Run(SimulatorOptions options, FaultScript& script) {
  if (options.recommended_shards == 0) {
    options.recommended_shards = options.guilds / kGuildsPerShard + 1;
  }
  // Blocked before the simulator's thread starts, so that both wait for sigwait() below.
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGINT);
  sigaddset(&ending, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ending, nullptr);

  Simulator simulator(std::move(options));
  std::printf("listening on %s\n", simulator.api_url().c_str());
  if (const std::string path = simulator.certificate_path(); !path.empty()) {
    std::printf("certificate authority: %s\n", path.c_str());
  }
  std::fflush(stdout);
  WaitForSignal(ending, simulator, script);
  return 0;
}

// The command line's own words for what SimulatorOptions and Simulator document.
class Flags {
 public:
  Flags() {
    options.rate = 100;
    options.recommended_shards = 0;
    AddWorld();
    AddLimits();
    AddFaults();
  }

  // The faults that were asked for by the clock.
  FaultScript Script() const {
    FaultScript script;
    const auto every = [&](const Millis& period, FaultScript::Fault fault) {
      if (period.count() > 0) script.Every(period, std::move(fault));
    };
    every(drop_, [](Simulator& s, const Target& target) { s.DropConnections(target); });
    every(reconnect_, [](Simulator& s, const Target& target) { s.SendReconnect(target); });
    every(invalid_session_, [resumable = resumable_](Simulator& s, const Target& target) {
      s.SendInvalidSession(target, resumable);
    });
    every(close_,
          [code = close_code_](Simulator& s, const Target& target) { s.CloseWith(target, code); });
    every(heartbeat_, [](Simulator& s, const Target& target) { s.RequestHeartbeat(target); });
    return script;
  }

  CLI::App app{"A simulated Discord for gateway clients: REST and gateway on one loopback port.",
               "discord-sim"};
  SimulatorOptions options;

 private:
  // TIME: a number with ms, s, m or h; milliseconds without.
  CLI::Option* AddTime(const std::string& name, Millis& time, int64_t least,
                       const std::string& help) {
    const auto set = [&time](int64_t value) { time = Millis(value); };
    auto* option = app.add_option_function<int64_t>(name, set, help);
    if (time.count() > 0) option->default_str(std::to_string(time.count()) + "ms");
    const std::map<std::string, int64_t> units = {
        {"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}};
    CLI::AsNumberWithUnit to_millis(units, CLI::AsNumberWithUnit::CASE_SENSITIVE, "TIME");
    CLI::Range in_range(least, int64_t{30} * 24 * 3'600'000);
    return option->transform(to_millis.description(""))
        ->check(in_range.description(""))
        ->type_name("TIME");
  }

  void SetLags(const std::vector<std::string>& lags) {
    for (const std::string& text : lags) {
      uint32_t count = 0, least = 0, most = 0;
      int end = 0;
      const int found = std::sscanf(text.c_str(), "%u:%u:%u%n", &count, &least, &most, &end);
      if (found != 3 || static_cast<size_t>(end) != text.size()) {
        throw CLI::ValidationError("--lag", "not COUNT:MIN:MAX: " + text);
      }
      options.lags[count] = {Millis(least), Millis(most)};
    }
  }

  void AddWorld() {
    app.add_option("--port", options.port, "Port on 127.0.0.1; 0 picks one")->capture_default_str();
    app.add_flag("--tls", options.tls, "https and wss, with a certificate made at start");
    app.add_option("--token", options.token, "The only token that is accepted; any, if not given");
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
  }

  void AddLimits() {
    app.add_option("--max-concurrency", options.max_concurrency, "Identify buckets")
        ->check(CLI::Range(1u, kMaxShardCount))
        ->capture_default_str();
    AddTime("--identify-window", options.identify_window, 0, "Between two IDENTIFYs of a bucket");
    app.add_option("--session-starts", options.session_starts_total,
                   "IDENTIFYs a day before the token is reset")
        ->capture_default_str();
    AddTime("--day", options.session_starts_day, 1, "How long such a day is");
    AddTime("--heartbeat-interval", options.heartbeat_interval, 10, "Between two heartbeats");
    AddTime("--resume-window", options.resume_window, 0,
            "How long a session without connection is kept");
    app.add_option("--replay-events", options.replay_events,
                   "Dispatches kept for a RESUME; discord: max(100, min(3500, guilds * 75))")
        ->transform(CLI::Transformer(std::map<std::string, std::string>{{"discord", "0"}}))
        ->capture_default_str();
  }

  void AddFaults() {
    const std::string group = "Faults, the --...-every ones for one connected session in turn";
    const auto every = [&](const char* name, Millis& period, const char* help) {
      AddTime(name, period, 1, help)->group(group);
    };
    every("--drop-every", drop_, "Reset a connection");
    every("--reconnect-every", reconnect_, "Send op 7");
    every("--invalid-session-every", invalid_session_, "Send op 9 and end the session");
    app.add_flag("--invalid-session-resumable", resumable_,
                 "Such an op 9 is true, and the session stays")
        ->group(group);
    every("--close-every", close_, "Close a connection");
    app.add_option("--close-code", close_code_, "With this code; 0: without one")
        ->check(CLI::Range(0, 4999))
        ->capture_default_str()
        ->group(group);
    every("--heartbeat-requests-every", heartbeat_, "Send op 1");
    const auto no_acks = [this](int64_t) { options.acknowledge_heartbeats = false; };
    app.add_flag_function("--no-acks", no_acks, "Heartbeats are not acknowledged")->group(group);
    app.add_option_function<std::vector<std::string>>(
           "--lag", [this](const std::vector<std::string>& lags) { SetLags(lags); },
           "COUNT:MIN:MAX, milliseconds by which dispatches of this shard count are late; again "
           "for another count")
        ->type_name("LAG")
        ->group(group);
    app.add_option("--equal-payloads", options.equal_payloads,
                   "Share of events that are byte for byte what came before")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str()
        ->group(group);
    app.add_flag("--permute-keys", options.permute_keys,
                 "Each session gets the keys of guilds' events in an order of its own")
        ->group(group);
    app.add_option("--split-messages", options.split_messages,
                   "Cut each compressed message over so many WebSocket messages")
        ->check(CLI::Range(1u, 1000u))
        ->capture_default_str()
        ->group(group);
    app.add_option("--split-fragments", options.split_fragments,
                   "Cut each WebSocket message into so many frames")
        ->check(CLI::Range(1u, 1000u))
        ->capture_default_str()
        ->group(group);
    app.add_option("--drip", options.drip_bytes, "Write so many bytes at a time; 0: all at once")
        ->capture_default_str()
        ->group(group);
    options.drip_pause = Millis(10);
    AddTime("--drip-pause", options.drip_pause, 0, "With this pause between")->group(group);
  }

  Millis drop_{0};
  Millis reconnect_{0};
  Millis invalid_session_{0};
  Millis close_{0};
  Millis heartbeat_{0};
  bool resumable_ = false;
  uint16_t close_code_ = 4000;
};

int Main(int argc, char** argv) {
  Flags flags;
  try {
    flags.app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return flags.app.exit(success);
  } catch (const CLI::ParseError& error) {
    flags.app.exit(error);
    return 2;
  }
  FaultScript script = flags.Script();
  try {
    return Run(std::move(flags.options), script);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "discord-sim: %s\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace shardd::simulator

int main(int argc, char** argv) { return shardd::simulator::Main(argc, argv); }
