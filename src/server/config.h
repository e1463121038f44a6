#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/log.h"
#include "gateway/shard_pool.h"
#include "server/parse.h"

namespace shardd::server {

// Everything that a person can set, checked. Each flag --some-name is also the environment variable
// SHARDD_SOME_NAME and the key some-name of --config FILE; the flag wins over the environment, that
// over the file, that over the default.
struct Config {
  std::string token;  // without "Bot "; never printed
  std::string api_url;
  uint64_t intents = 0;
  std::string presence;                 // `d` of an op 3 (JSON); empty: none
  std::optional<uint32_t> shard_count;  // none: auto
  std::vector<uint32_t> shard_ids;      // empty: all
  uint32_t guilds_per_shard = 0;
  gateway::Compression compression = gateway::Compression::kZstdStream;
  size_t max_message_bytes = 0;
  ListenAddress listen;
  std::optional<ListenAddress> admin_listen;  // none: off
  bool insecure_listen = false;
  std::string tls_cert;  // PEM files; both or none
  std::string tls_key;
  std::string data_dir;  // empty with --simulate: a fresh temporary one
  gateway::IdentifyReserve identify_reserve;
  std::chrono::milliseconds gateway_bot_interval{0};
  uint64_t retain_bytes = 0;
  uint64_t snapshot_bytes = 0;  // 0: off
  std::chrono::microseconds batch_delay{0};
  uint32_t threads = 1;
  gateway::ShardTimings timings;
  gateway::CrashGuardOptions crash_guard;
  uint32_t max_subscribers = 0;
  std::chrono::nanoseconds consumer_ttl{0};
  std::chrono::milliseconds drain_timeout{0};
  std::chrono::milliseconds rescale_drain{0};
  std::chrono::milliseconds rescale_timeout{0};
  std::chrono::milliseconds rescale_lag{0};
  uint64_t rescale_held_bytes = 0;
  double rescale_max_unmatched = 0;  // a share, 0 to 1
  bool no_spawn = false;
  bool reset_generation = false;
  std::string environment;
  log::Level log_level = log::Level::kInfo;
  log::Format log_format = log::Format::kText;
  bool simulate = false;
  uint32_t simulate_guilds = 0;
  double simulate_rate = 0;
};

// Reads an environment variable; none when it is not set.
using Environment = std::function<std::optional<std::string>(const char* name)>;
Environment ProcessEnvironment();

// `arguments` without the program's name. INVALID_ARGUMENT names the flag and says what would be
// right.
//   CANCELLED  --help or --version was asked for; the message is what to print.
absl::StatusOr<Config> LoadConfig(const std::vector<std::string>& arguments,
                                  const Environment& environment);

}  // namespace shardd::server
