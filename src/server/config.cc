#include "server/config.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/status.h"
#include "events/log.h"
#include "events/snapshots.h"
#include "gateway/intents.h"
#include "gateway/payload.h"
#include "server/version.h"

namespace shardd::server {
namespace {

constexpr uint32_t kMostThreads = 64;
constexpr uint32_t kMostDefaultThreads = 8;
constexpr uint64_t kMostRetainBytes = uint64_t{1} << 42;
constexpr std::chrono::seconds kMostBatchDelay{1};
constexpr std::chrono::minutes kMostDrainTimeout{10};
constexpr std::chrono::seconds kLeastGatewayBotInterval{1};
constexpr std::chrono::hours kMostGatewayBotInterval{24};
// A READY of 2500 guilds has 120 KB. Events that are larger are skipped, so a sensible bound is far
// above this.
constexpr uint64_t kLeastMaxMessageBytes = uint64_t{256} << 10;
constexpr uint32_t kMostGuildsPerShard = 2500;  // Discord's own limit
constexpr uint32_t kMostSubscribers = 100'000;
// Leaves what IDENTIFY takes beside it, the token above all, of Discord's 4096 bytes a payload.
constexpr size_t kMostPresenceBytes = 3072;
constexpr std::chrono::seconds kLeastConsumerTtl{1};
constexpr std::chrono::hours kMostConsumerTtl{24 * 365};
constexpr std::chrono::hours kMostTimeout{1};
constexpr std::chrono::hours kMostCrashLoopTime{24};
constexpr std::chrono::hours kMostSilence{24};
constexpr std::chrono::milliseconds kLeastTime{1};
constexpr uint32_t kMostCrashLoopDeaths = 1000;
constexpr std::chrono::minutes kMostRescaleDrain{10};
constexpr std::chrono::hours kMostRescaleTimeout{24};
// A heartbeat proves a session fresh, and goes out every two seconds.
constexpr std::chrono::milliseconds kLeastRescaleLag{100};
constexpr std::chrono::minutes kMostRescaleLag{5};
constexpr uint64_t kLeastRescaleHeldBytes = uint64_t{64} << 10;
constexpr uint64_t kMostRescaleHeldBytes = uint64_t{16} << 30;

absl::Status Invalid(std::string message) { return absl::InvalidArgumentError(message); }

// One setting: its name, its default as text (none: not set), its help, and what to do with a text
// that was given.
struct Setting {
  std::string name;
  std::optional<std::string> default_text;
  std::string help;
  std::function<absl::Status(const std::string& text)> apply;
  bool is_switch = false;

  std::string flag() const { return "--" + name; }
  std::string variable() const {
    return "SHARDD_" + absl::AsciiStrToUpper(absl::StrReplaceAll(name, {{"-", "_"}}));
  }
};

template <typename T, typename U>
absl::Status Store(const absl::StatusOr<T>& parsed, U& target) {
  if (parsed.ok()) target = static_cast<U>(*parsed);
  return parsed.status();
}

absl::Status StoreText(const std::string& text, std::string& target) {
  if (text.empty()) return Invalid("is empty");
  target = text;
  return absl::OkStatus();
}

template <typename T>
absl::Status StoreChoice(const std::string& text,
                         const std::vector<std::pair<std::string, T>>& choices, T& target) {
  std::string names;
  for (const auto& [name, value] : choices) {
    if (text == name) {
      target = value;
      return absl::OkStatus();
    }
    absl::StrAppend(&names, names.empty() ? "" : ", ", name);
  }
  return Invalid(absl::StrCat("'", text, "' is not one of ", names));
}

// A time of `least` or more; a fraction of a millisecond counts as a whole one.
absl::Status StoreTime(const std::string& text, std::chrono::milliseconds least,
                       std::chrono::milliseconds most, std::chrono::milliseconds& target) {
  const auto parsed = ParseDuration(text, most);
  if (!parsed.ok()) return parsed.status();
  if (*parsed < least) return Invalid(absl::StrCat("'", text, "' is too short"));
  target = std::chrono::ceil<std::chrono::milliseconds>(*parsed);
  return absl::OkStatus();
}

absl::Status StoreApiUrl(const std::string& text, std::string& target) {
  if (!text.starts_with("http://") && !text.starts_with("https://")) {
    return Invalid(absl::StrCat("'", text, "' is not a URL such as https://discord.com/api/v10"));
  }
  // Sessions and the ledger are of the URL as it stands here: a slash more is the same Discord.
  target = text;
  while (target.ends_with('/') && !target.ends_with("://")) target.pop_back();
  return absl::OkStatus();
}

absl::Status StorePresence(const std::string& text, std::string& target) {
  if (text.size() > kMostPresenceBytes) {
    return Invalid(absl::StrCat("has ", text.size(), " bytes: it can have ", kMostPresenceBytes,
                                ", since IDENTIFY must carry it"));
  }
  if (!gateway::IsPresence(text)) {
    return Invalid(
        "is not a presence that Discord takes: one JSON object with status (online, dnd, idle, "
        "invisible or offline), and perhaps activities (each with name and type), since and afk");
  }
  target = text;
  return absl::OkStatus();
}

// All settings, each writing into `config` when it is applied.
std::vector<Setting> Settings(Config& config, std::string& token_file) {
  const auto threads = std::clamp(std::thread::hardware_concurrency(), 1u, kMostDefaultThreads);
  return {
      {"token-file", std::nullopt,
       "File that holds the bot's token. Without it, the environment variable DISCORD_TOKEN does.",
       [&](const auto& text) { return StoreText(text, token_file); }},
      {"api-url", "https://discord.com/api/v10",
       "Discord's REST API, where the gateway is asked for.",
       [&](const auto& text) { return StoreApiUrl(text, config.api_url); }},
      {"intents", "all-unprivileged",
       "Discord's intents: names with commas between them, a number, or all-unprivileged.",
       [&](const auto& text) { return Store(gateway::ParseIntents(text), config.intents); }},
      {"presence", std::nullopt,
       "The bot's presence, as JSON: {\"status\":\"idle\",\"activities\":[],...}, the d of op 3.",
       [&](const auto& text) { return StorePresence(text, config.presence); }},
      {"shard-count", "auto",
       "Shards that the whole bot is split into; auto: as Discord recommends.",
       [&](const auto& text) {
         if (text == "auto") {
           config.shard_count.reset();
           return absl::OkStatus();
         }
         return Store(ParseNumber(text, 1, kMaxShardCount), config.shard_count.emplace());
       }},
      {"shard-ids", std::nullopt, "The shards that this server holds, such as 0-3,7. Default: all.",
       [&](const auto& text) { return Store(ParseShardIds(text), config.shard_ids); }},
      {"guilds-per-shard", std::nullopt,
       "With --shard-count auto: guilds that a shard should have, instead of Discord's 1000.",
       [&](const auto& text) {
         return Store(ParseNumber(text, 1, kMostGuildsPerShard), config.guilds_per_shard);
       }},
      {"identify-reserve", "10%",
       "Session starts that only shards which lost their session may use: a number, or a share of "
       "the day's such as 10%.",
       [&](const auto& text) { return Store(ParseReserve(text), config.identify_reserve); }},
      {"gateway-bot-interval", "10m",
       "How often Discord is asked for its recommended shards and the session starts left.",
       [&](const auto& text) {
         const auto parsed = ParseDuration(text, kMostGatewayBotInterval);
         if (parsed.ok() && *parsed < kLeastGatewayBotInterval) return Invalid("is less than 1s");
         if (parsed.ok()) {
           config.gateway_bot_interval =
               std::chrono::duration_cast<std::chrono::milliseconds>(*parsed);
         }
         return parsed.status();
       }},
      {"compression", "zstd-stream",
       "Transport compression from Discord: zstd-stream, zlib-stream (less memory) or none.",
       [&](const auto& text) {
         return StoreChoice<gateway::Compression>(
             text,
             {{"zstd-stream", gateway::Compression::kZstdStream},
              {"zlib-stream", gateway::Compression::kZlibStream},
              {"none", gateway::Compression::kNone}},
             config.compression);
       }},
      {"max-message-bytes", std::nullopt,
       "The largest payload that is taken from Discord, inflated or not. Default: 64MiB, or what a "
       "smaller --retain-bytes has room for.",
       [&](const auto& text) {
         return Store(ParseSize(text, kLeastMaxMessageBytes, events::kMaxDataBytes),
                      config.max_message_bytes);
       }},
      {"listen", "127.0.0.1:50051",
       "Where gRPC is served: HOST:PORT or unix:PATH; port 0 picks one.",
       [&](const auto& text) { return Store(ParseListenAddress(text), config.listen); }},
      {"admin-listen", "127.0.0.1:9464",
       "Where /healthz and /readyz are served: HOST:PORT, or off.",
       [&](const auto& text) {
         if (text == "off") {
           config.admin_listen.reset();
           return absl::OkStatus();
         }
         const auto address = ParseListenAddress(text);
         if (address.ok() && address->is_unix()) return Invalid("takes HOST:PORT or off");
         return Store(address, config.admin_listen.emplace());
       }},
      {"insecure-listen", "false", "Allow --listen off this machine without TLS.",
       [&](const auto& text) { return Store(ParseBool(text), config.insecure_listen); }, true},
      {"tls-cert", std::nullopt, "PEM file with the certificate (chain) that --listen shows.",
       [&](const auto& text) { return StoreText(text, config.tls_cert); }},
      {"tls-key", std::nullopt, "PEM file with the private key of --tls-cert.",
       [&](const auto& text) { return StoreText(text, config.tls_key); }},
      {"data-dir", std::nullopt,
       "Where state is kept. Default: $STATE_DIRECTORY, else ./shardd-data; a fresh temporary one "
       "with --simulate. See docs/data-dir.md.",
       [&](const auto& text) { return StoreText(text, config.data_dir); }},
      {"retain-bytes", "2GiB",
       "Bytes of events that the log keeps; on disk it takes a sixteenth more.",
       [&](const auto& text) {
         return Store(ParseSize(text, events::kMinRetainBytes, kMostRetainBytes),
                      config.retain_bytes);
       }},
      {"snapshot-bytes", "1GiB",
       "Most bytes on disk for the guilds' present state, which streams with `snapshot` start "
       "with. "
       "0: off.",
       [&](const auto& text) {
         const auto parsed = ParseSize(text, 0, kMostRetainBytes);
         if (parsed.ok() && *parsed > 0 && *parsed < events::Snapshots::kMinBytes) {
           return Invalid(absl::StrCat("is ", *parsed, ": it can be 0, or 4MiB and more"));
         }
         return Store(parsed, config.snapshot_bytes);
       }},
      {"batch-delay", "1ms",
       "How long events may be collected before they are passed on: more batching, less CPU. 0: "
       "not at all.",
       [&](const auto& text) {
         return Store(ParseDuration(text, kMostBatchDelay), config.batch_delay);
       }},
      {"threads", std::to_string(threads),
       "Threads that hold gateway connections. Default: cores, at most 8.",
       [&](const auto& text) { return Store(ParseNumber(text, 1, kMostThreads), config.threads); }},
      {"connect-timeout", "10s",
       "For each address of Discord's gateway, and again for TLS and the WebSocket handshake.",
       [&](const auto& text) {
         return StoreTime(text, kLeastTime, kMostTimeout, config.timings.connect_timeout);
       }},
      {"hello-timeout", "10s", "How long a new connection may take to say HELLO.",
       [&](const auto& text) {
         return StoreTime(text, kLeastTime, kMostTimeout, config.timings.hello_timeout);
       }},
      {"identify-timeout", "60s",
       "How long IDENTIFY may stay unanswered. Coming back sooner spends another session start.",
       [&](const auto& text) {
         return StoreTime(text, kLeastTime, kMostTimeout, config.timings.identify_timeout);
       }},
      {"resume-timeout", "30s", "How long RESUME may bring neither an event nor RESUMED.",
       [&](const auto& text) {
         return StoreTime(text, kLeastTime, kMostTimeout, config.timings.resume_timeout);
       }},
      {"silence-after", "5m",
       "A shard that delivers nothing against its own rate is resumed once, after this time at the "
       "soonest. 0: never.",
       [&](const auto& text) {
         return StoreTime(text, std::chrono::milliseconds(0), kMostSilence,
                          config.timings.silence_after);
       }},
      {"crash-loop-deaths", "3",
       "A shard that dies this often within --crash-loop-window pauses for --crash-loop-pause.",
       [&](const auto& text) {
         return Store(ParseNumber(text, 1, kMostCrashLoopDeaths), config.crash_guard.deaths);
       }},
      {"crash-loop-window", "5m", "See --crash-loop-deaths.",
       [&](const auto& text) {
         return StoreTime(text, kLeastTime, kMostCrashLoopTime, config.crash_guard.window);
       }},
      {"crash-loop-pause", "2m", "See --crash-loop-deaths.",
       [&](const auto& text) {
         return StoreTime(text, kLeastTime, kMostCrashLoopTime, config.crash_guard.pause);
       }},
      {"shard-respawn", "true", "Start shards that died again; false: they wait for Spawn.",
       [&](const auto& text) { return Store(ParseBool(text), config.crash_guard.respawn); }, true},
      {"max-subscribers", "1000", "Streams of Events and Watch that may be open at the same time.",
       [&](const auto& text) {
         return Store(ParseNumber(text, 1, kMostSubscribers), config.max_subscribers);
       }},
      {"consumer-ttl", "168h",
       "A named consumer that neither reads nor acknowledges for so long is forgotten.",
       [&](const auto& text) {
         const auto parsed = ParseDuration(text, kMostConsumerTtl);
         if (parsed.ok() && *parsed < kLeastConsumerTtl) return Invalid("is less than 1s");
         return Store(parsed, config.consumer_ttl);
       }},
      {"drain-timeout", "10s", "How long a stop may take before streams and connections are cut.",
       [&](const auto& text) {
         const auto parsed = ParseDuration(text, kMostDrainTimeout);
         if (parsed.ok()) {
           config.drain_timeout = std::chrono::duration_cast<std::chrono::milliseconds>(*parsed);
         }
         return parsed.status();
       }},
      {"rescale-drain", "5s",
       "How long the old shards stay open after a rescale's switch, for answers to commands.",
       [&](const auto& text) {
         return StoreTime(text, std::chrono::milliseconds(0), kMostRescaleDrain,
                          config.rescale_drain);
       }},
      {"rescale-timeout", "10m",
       "How long a rescale may take, from all new shards being READY to its switch, before it is "
       "rolled back.",
       [&](const auto& text) {
         return StoreTime(text, kLeastTime, kMostRescaleTimeout, config.rescale_timeout);
       }},
      {"rescale-lag", "5s",
       "How far one generation may be behind the other before an event counts as lost by it.",
       [&](const auto& text) {
         return StoreTime(text, kLeastRescaleLag, kMostRescaleLag, config.rescale_lag);
       }},
      {"rescale-held-bytes", "64MiB",
       "Most memory for events that wait for a rescale's switch; full, it is rolled back.",
       [&](const auto& text) {
         return Store(ParseSize(text, kLeastRescaleHeldBytes, kMostRescaleHeldBytes),
                      config.rescale_held_bytes);
       }},
      {"rescale-max-unmatched", "0.001",
       "Share of events, of the last minute, that may come over one generation alone for a rescale "
       "to switch.",
       [&](const auto& text) { return Store(ParseReal(text, 1), config.rescale_max_unmatched); }},
      {"no-spawn", "false", "Start no shards until Spawn is called.",
       [&](const auto& text) { return Store(ParseBool(text), config.no_spawn); }, true},
      {"reset-generation", "false",
       "Forget the shards that --data-dir knows, and start those of the flags with new sessions.",
       [&](const auto& text) { return Store(ParseBool(text), config.reset_generation); }, true},
      {"environment", "production", "A name for this installation, shown in Stats.",
       [&](const auto& text) { return StoreText(text, config.environment); }},
      {"log-level", "info", "debug, info, warn or error.",
       [&](const auto& text) {
         return StoreChoice<log::Level>(text,
                                        {{"debug", log::Level::kDebug},
                                         {"info", log::Level::kInfo},
                                         {"warn", log::Level::kWarn},
                                         {"error", log::Level::kError}},
                                        config.log_level);
       }},
      {"log-format", "text", "text or json.",
       [&](const auto& text) {
         return StoreChoice<log::Format>(
             text, {{"text", log::Format::kText}, {"json", log::Format::kJson}}, config.log_format);
       }},
      {"simulate", "false",
       "Run against a simulated Discord inside this process; no token is needed.",
       [&](const auto& text) { return Store(ParseBool(text), config.simulate); }, true},
      {"simulate-guilds", "100", "Guilds of the simulated Discord.",
       [&](const auto& text) {
         return Store(ParseNumber(text, 1, 1'000'000), config.simulate_guilds);
       }},
      {"simulate-rate", "50", "Dispatches a second of the simulated Discord.",
       [&](const auto& text) { return Store(ParseReal(text, 1e6), config.simulate_rate); }},
  };
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  char buffer[4096];
  // A directory opens, and fails only here; iterators on the buffer would throw.
  while (file.read(buffer, sizeof buffer) || file.gcount() > 0) {
    text.append(buffer, static_cast<size_t>(file.gcount()));
  }
  if (!file.is_open() || file.bad()) return Invalid(absl::StrCat("cannot read '", path, "'"));
  return text;
}

// The file's keys and texts. Not CLI11's: there the file would win over the environment, keys that
// it does not know would be ignored, and blanks would cut a value.
absl::StatusOr<std::map<std::string, std::string>> ReadConfigFile(
    const std::string& path, const std::vector<Setting>& settings) {
  const auto text = ReadFile(path);
  if (!text.ok()) return text.status();
  auto pairs = ParseKeyValues(*text);
  if (!pairs.ok())
    return Invalid(absl::StrCat("'", path, "', ", std::string(Message(pairs.status()))));
  for (const auto& [key, value] : *pairs) {
    const auto known = [&key = key](const Setting& setting) { return setting.name == key; };
    if (std::none_of(settings.begin(), settings.end(), known)) {
      return Invalid(absl::StrCat("'", path, "' has the unknown key '", key,
                                  "': keys are flags without their dashes"));
    }
  }
  return std::map<std::string, std::string>(pairs->begin(), pairs->end());
}

absl::Status ReadToken(const std::string& token_file, const Environment& environment,
                       Config& config) {
  std::string token;
  if (!token_file.empty()) {
    auto text = ReadFile(token_file);
    if (!text.ok())
      return Invalid(absl::StrCat("--token-file: ", std::string(Message(text.status()))));
    token = *std::move(text);
  } else {
    token = environment("DISCORD_TOKEN").value_or("");
  }
  token = std::string(absl::StripAsciiWhitespace(token));
  constexpr std::string_view kPrefix = "Bot ";
  if (token.starts_with(kPrefix)) token.erase(0, kPrefix.size());
  if (token == "Bot") token.clear();  // the prefix of nothing
  if (config.simulate) {
    config.token = "simulated";
    return absl::OkStatus();
  }
  if (token.empty()) {
    return Invalid(
        "no token: set the environment variable DISCORD_TOKEN or --token-file to your bot's token, "
        "or try "
        "--simulate, which needs none");
  }
  // It goes into an HTTP header, so nothing but printable characters may stand in it.
  if (!std::all_of(token.begin(), token.end(),
                   [](unsigned char c) { return c > 0x20 && c < 0x7f; })) {
    return Invalid(
        "the token holds characters that no token has: check DISCORD_TOKEN or --token-file");
  }
  config.token = std::move(token);
  return absl::OkStatus();
}

absl::Status CheckTogether(const Config& config) {
  if (config.shard_count.has_value()) {
    for (const uint32_t id : config.shard_ids) {
      if (id >= *config.shard_count) {
        return Invalid(absl::StrCat("--shard-ids: shard ", id,
                                    " does not exist among --shard-count ", *config.shard_count));
      }
    }
    if (config.guilds_per_shard > 0) {
      return Invalid("--guilds-per-shard: has a meaning with --shard-count auto only");
    }
  }
  const uint64_t largest = events::LargestData(config.retain_bytes);
  if (config.max_message_bytes > largest) {
    return Invalid(absl::StrCat("--max-message-bytes: an event of ", config.max_message_bytes,
                                " bytes would not fit into a log of --retain-bytes ",
                                config.retain_bytes, ", which takes ", largest,
                                ": lower the first, or raise the second"));
  }
  if (config.tls_cert.empty() != config.tls_key.empty()) {
    return Invalid("--tls-cert and --tls-key: give both or none");
  }
  if (!config.tls_cert.empty()) {
    for (const auto& [flag, path] :
         {std::pair("--tls-cert: ", config.tls_cert), {"--tls-key: ", config.tls_key}}) {
      const auto text = ReadFile(path);
      if (!text.ok()) return Invalid(absl::StrCat(flag, std::string(Message(text.status()))));
    }
  }
  if (!config.listen.is_loopback() && config.tls_cert.empty() && !config.insecure_listen) {
    return Invalid(absl::StrCat("--listen: '", config.listen.text,
                                "' can be reached from other machines, and whoever reaches it can "
                                "read every event: give --tls-cert and --tls-key, or "
                                "--insecure-listen if the network is yours"));
  }
  return absl::OkStatus();
}

// What CLI11 would take, or refuse in words that do not help.
absl::Status CheckArguments(const std::vector<std::string>& arguments,
                            const std::vector<Setting>& settings) {
  std::set<std::string> given;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const std::string flag = argument.substr(0, argument.find('='));
    if (flag.starts_with("--") && !given.insert(flag).second)
      return Invalid(flag + ": is given twice");
    // CLI11 takes `--flag=` for a flag whose value is the next argument.
    if (flag.starts_with("--") && argument == flag + "=") return Invalid(flag + ": is empty");
    // ... and the next flag for the value of one that lacks its own.
    const auto takes_value = [&](const Setting& s) { return !s.is_switch && s.flag() == argument; };
    if (argument != "--config" && std::none_of(settings.begin(), settings.end(), takes_value))
      continue;
    if (i + 1 == arguments.size() || arguments[i + 1].starts_with("--")) {
      return Invalid(absl::StrCat(argument, ": needs a value"));
    }
    ++i;
  }
  return absl::OkStatus();
}

// Repeats a flag's name alone: what stands beside it may be a token.
absl::Status Unexpected(const std::vector<std::string>& arguments) {
  for (const std::string& argument : arguments) {
    if (!argument.starts_with('-')) continue;
    const std::string flag = argument.substr(0, argument.find('='));
    return Invalid(absl::StrCat(
        flag, ": there is no such flag; --help lists all of them",
        flag == "--token" ? ". A token goes into DISCORD_TOKEN or a --token-file, where no "
                            "list of processes shows it"
                          : ""));
  }
  return Invalid(
      "there is an argument that is no flag: values follow their flag, and a switch's value is "
      "given as "
      "--switch=false; --help lists all flags");
}

}  // namespace

Environment ProcessEnvironment() {
  return [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    if (value == nullptr) return std::nullopt;
    return value;
  };
}

absl::StatusOr<Config> LoadConfig(const std::vector<std::string>& arguments,
                                  const Environment& environment) {
  Config config;
  std::string token_file;
  const std::vector<Setting> settings = Settings(config, token_file);

  CLI::App app(
      "shardd holds a Discord bot's gateway connections and serves their events over gRPC.\n"
      "Each flag --some-name is also the environment variable SHARDD_SOME_NAME and the key "
      "some-name of "
      "--config.",
      "shardd");
  std::map<std::string, std::string> given;
  std::string config_file;
  CLI::Option* config_option =
      app.add_option("--config", config_file, "File with `key = value` lines.")
          ->option_text("FILE");
  for (const Setting& setting : settings) {
    std::string help = setting.help;
    if (setting.default_text.has_value() && setting.default_text != "false") {
      absl::StrAppend(&help, " [", *setting.default_text, "]");
    }
    if (setting.is_switch) {
      app.add_flag(setting.flag(), given[setting.name], help);
    } else {
      app.add_option(setting.flag(), given[setting.name], help)->option_text("TEXT");
    }
  }
  app.set_version_flag("--version", std::string("shardd ") + kVersion);
  if (auto status = CheckArguments(arguments, settings); !status.ok()) return status;
  try {
    // CLI11 takes the arguments from the back.
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    return absl::CancelledError(app.help());
  } catch (const CLI::CallForVersion& version) {
    return absl::CancelledError(absl::StrCat(version.what(), "\n"));
  } catch (const CLI::ExtrasError&) {
    return Unexpected(app.remaining());
  } catch (const CLI::ParseError& error) {
    return Invalid(error.what());
  }

  std::string config_source = "--config: ";
  bool has_config = config_option->count() > 0;
  if (const auto variable = environment("SHARDD_CONFIG"); !has_config && variable.has_value()) {
    has_config = true;
    config_file = *variable;
    config_source = "--config (from SHARDD_CONFIG): ";
  }
  std::map<std::string, std::string> from_file;
  if (has_config) {
    if (config_file.empty()) return Invalid(config_source + "is empty");
    auto values = ReadConfigFile(config_file, settings);
    if (!values.ok())
      return Invalid(absl::StrCat(config_source, std::string(Message(values.status()))));
    from_file = *std::move(values);
  }

  for (const Setting& setting : settings) {
    std::optional<std::string> text = setting.default_text;
    std::string source = setting.flag();
    if (app.count(setting.flag()) > 0) {
      text = given[setting.name];
    } else if (const auto value = environment(setting.variable().c_str()); value.has_value()) {
      text = value;
      absl::StrAppend(&source, " (from ", setting.variable(), ")");
    } else if (const auto found = from_file.find(setting.name); found != from_file.end()) {
      text = found->second;
      absl::StrAppend(&source, " (from ", config_file, ")");
    }
    if (!text.has_value()) continue;
    if (const absl::Status status = setting.apply(*text); !status.ok()) {
      return Invalid(absl::StrCat(source, ": ", std::string(Message(status))));
    }
  }

  if (config.simulate && (app.count("--api-url") > 0 || environment("SHARDD_API_URL").has_value() ||
                          from_file.contains("api-url"))) {
    return Invalid(
        "--simulate and --api-url: give one of them, since --simulate brings a Discord of its own");
  }
  if (config.max_message_bytes == 0) {
    config.max_message_bytes = std::min<uint64_t>(gateway::kDefaultMaxMessageBytes,
                                                  events::LargestData(config.retain_bytes));
  }
  if (auto status = CheckTogether(config); !status.ok()) return status;
  if (auto status = ReadToken(token_file, environment, config); !status.ok()) return status;
  if (config.data_dir.empty() && !config.simulate) {
    config.data_dir = environment("STATE_DIRECTORY").value_or("");
    if (config.data_dir.empty()) config.data_dir = "shardd-data";
  }
  return config;
}

}  // namespace shardd::server
