#include "server/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "document.h"
#include "events/log.h"
#include "gateway/intents.h"

namespace shardd::server {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

using Arguments = std::vector<std::string>;
using Variables = std::map<std::string, std::string>;

constexpr char kToken[] = "MTk4NjIyNDgz.Cl2FMQ.s3cret";

// A directory of its own for each test.
class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "shardd-config-XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
  }
  ~ConfigTest() override { std::filesystem::remove_all(directory_); }

  std::string Write(const std::string& name, const std::string& content) const {
    const std::string path = directory_ + "/" + name;
    std::ofstream(path) << content;
    return path;
  }

  static absl::StatusOr<Config> Load(const Arguments& arguments, const Variables& variables) {
    return LoadConfig(arguments, [&](const char* name) -> std::optional<std::string> {
      const auto found = variables.find(name);
      if (found == variables.end()) return std::nullopt;
      return found->second;
    });
  }

  // With a token, which is not what most tests are about.
  static absl::StatusOr<Config> LoadWithToken(const Arguments& arguments,
                                              Variables variables = {}) {
    variables.emplace("DISCORD_TOKEN", kToken);
    return Load(arguments, variables);
  }

  // "" where the configuration was taken.
  static std::string WhyNot(const absl::StatusOr<Config>& config) {
    if (config.ok()) return "";
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(Message(config.status()));
    EXPECT_THAT(message, Not(HasSubstr("s3cret")));
    return message;
  }

  std::string directory_;
};

std::string Join(const std::vector<uint32_t>& ids) {
  std::string text;
  for (const uint32_t id : ids) absl::StrAppend(&text, text.empty() ? "" : ",", id);
  return text;
}

// A flag, three different values with how each shows in the configuration, and how its default
// does.
struct Row {
  std::string name;
  std::vector<std::string> texts;
  std::vector<std::string> shown;
  std::string default_shown;
  std::function<std::string(const Config&)> show;
  // Texts that it must refuse, beside the empty one.
  std::vector<std::string> bad;
  // What must be given along with it.
  Arguments with;

  bool is_switch() const { return default_shown == "false" || default_shown == "true"; }
};

std::string Bool(bool value) { return value ? "true" : "false"; }

// Every flag but token-file, whose value shows as a token, and config. Paths of files stand for
// `directory`/FILE.
std::vector<Row> Rows(const std::string& directory) {
  const std::string a = directory + "/a", b = directory + "/b", c = directory + "/c";
  const auto threads = std::clamp(std::thread::hardware_concurrency(), 1u, 8u);
  return {
      {"api-url",
       {"http://a:1", "https://b", "http://c/api"},
       {"http://a:1", "https://b", "http://c/api"},
       "https://discord.com/api/v10",
       [](const Config& config) { return config.api_url; },
       {"discord.com", "ftp://a", "-1"},
       {}},
      {"intents",
       {"GUILDS", "guild_members", "5"},
       {"1", "2", "5"},
       std::to_string(gateway::kAllUnprivilegedIntents),
       [](const Config& config) { return std::to_string(config.intents); },
       {"GILDS", "-1", "18446744073709551616", "GUILDS,,GUILD_MESSAGES", "1.5"},
       {}},
      {"presence",
       {R"({"status":"idle"})", R"({"status":"dnd","activities":[]})", R"({"status":"online"})"},
       {R"({"status":"idle"})", R"({"status":"dnd","activities":[]})", R"({"status":"online"})"},
       "",
       [](const Config& config) { return config.presence; },
       {"idle", "{}", "{", "[]", "null", std::string(3073, 'x')},
       {}},
      {"shard-count",
       {"1", "65535", "auto"},
       {"1", "65535", "auto"},
       "auto",
       [](const Config& config) {
         return config.shard_count.has_value() ? std::to_string(*config.shard_count) : "auto";
       },
       {"0", "65536", "-1", "18446744073709551616", "Auto", "4 "},
       {}},
      {"shard-ids",
       {"0-3", "7", "1,0"},
       {"0,1,2,3", "7", "1,0"},
       "",
       [](const Config& config) { return Join(config.shard_ids); },
       {"-1", "3-1", "1,1", "65535", "99999999999999999999", "a"},
       {}},
      {"guilds-per-shard",
       {"1", "2500", "700"},
       {"1", "2500", "700"},
       "0",
       [](const Config& config) { return std::to_string(config.guilds_per_shard); },
       {"0", "2501", "-1", "18446744073709551616", "many"},
       {}},
      {"identify-reserve",
       {"50", "2.5%", "0"},
       {"50+0%", "0+2.5%", "0+0%"},
       "0+10%",
       [](const Config& config) {
         return absl::StrCat(config.identify_reserve.starts, "+", config.identify_reserve.percent,
                             "%");
       },
       {"-1", "101%", "-5%", "%", "some", "1000001", "18446744073709551616", "nan%"},
       {}},
      {"gateway-bot-interval",
       {"1s", "24h", "90"},
       {"1000", "86400000", "90000"},
       "600000",
       [](const Config& config) { return std::to_string(config.gateway_bot_interval.count()); },
       {"999ms", "0", "25h", "-1s", "99999999999999999999s", "often"},
       {}},
      {"compression",
       {"none", "zlib-stream", "zstd-stream"},
       {"0", "1", "2"},
       "2",
       [](const Config& config) {
         switch (config.compression) {
           case gateway::Compression::kNone:
             return "0";
           case gateway::Compression::kZlibStream:
             return "1";
           case gateway::Compression::kZstdStream:
             return "2";
         }
         return "";
       },
       {"zlib", "NONE", "-1", "gzip"},
       {}},
      {"max-message-bytes",
       {"256KiB", "256MiB", "1000000"},
       {"262144", "268435456", "1000000"},
       "67108864",
       [](const Config& config) { return std::to_string(config.max_message_bytes); },
       {"262143", "257MiB", "-1", "18446744073709551616", "64MB", "0"},
       {}},
      {"listen",
       {"127.0.0.1:1", "unix:/x", "[::1]:0"},
       {"127.0.0.1:1", "unix:/x", "[::1]:0"},
       "127.0.0.1:50051",
       [](const Config& config) { return config.listen.text; },
       {"50051", "127.0.0.1:-1", "127.0.0.1:65536", "127.0.0.1", "off", "unix:"},
       {}},
      {"admin-listen",
       {"127.0.0.1:1", "off", "0.0.0.0:2"},
       {"127.0.0.1:1", "off", "0.0.0.0:2"},
       "127.0.0.1:9464",
       [](const Config& config) {
         return config.admin_listen.has_value() ? config.admin_listen->text : "off";
       },
       {"9464", "unix:/x", "127.0.0.1:65536", "-1", "no"},
       {}},
      {"insecure-listen",
       {"true", "false", "yes"},
       {"true", "false", "true"},
       "false",
       [](const Config& config) { return Bool(config.insecure_listen); },
       {"maybe", "-1", "2"},
       {}},
      {"tls-cert",
       {a, b, c},
       {a, b, c},
       "",
       [](const Config& config) { return config.tls_cert; },
       {directory, directory + "/none"},
       {"--tls-key", a}},
      {"tls-key",
       {a, b, c},
       {a, b, c},
       "",
       [](const Config& config) { return config.tls_key; },
       {directory, directory + "/none"},
       {"--tls-cert", a}},
      {"data-dir",
       {"/a", "b c", "./d#1"},
       {"/a", "b c", "./d#1"},
       "shardd-data",
       [](const Config& config) { return config.data_dir; },
       {},
       {}},
      {"retain-bytes",
       {"1MiB", "3GiB", "1048577"},
       {"1048576", "3221225472", "1048577"},
       "2147483648",
       [](const Config& config) { return std::to_string(config.retain_bytes); },
       {"1048575", "4097GiB", "-1", "18446744073709551616", "2GB", "0"},
       {"--max-message-bytes", "256KiB"}},
      {"snapshot-bytes",
       {"0", "4MiB", "5GiB"},
       {"0", "4194304", "5368709120"},
       "1073741824",
       [](const Config& config) { return std::to_string(config.snapshot_bytes); },
       {"1", "4194303", "4097GiB", "-1", "18446744073709551616", "2GB"},
       {}},
      {"batch-delay",
       {"0", "1s", "500us"},
       {"0", "1000000", "500"},
       "1000",
       [](const Config& config) { return std::to_string(config.batch_delay.count()); },
       {"1001ms", "-1ms", "99999999999999999999s", "1 ms", "fast"},
       {}},
      {"threads",
       {"1", "64", "3"},
       {"1", "64", "3"},
       std::to_string(threads),
       [](const Config& config) { return std::to_string(config.threads); },
       {"0", "65", "-1", "4294967297", "18446744073709551616", "two"},
       {}},
      {"connect-timeout",
       {"1ms", "1h", "90"},
       {"1", "3600000", "90000"},
       "10000",
       [](const Config& config) { return std::to_string(config.timings.connect_timeout.count()); },
       {"0", "61m", "-1s", "99999999999999999999s", "soon"},
       {}},
      {"hello-timeout",
       {"1ms", "1h", "90"},
       {"1", "3600000", "90000"},
       "10000",
       [](const Config& config) { return std::to_string(config.timings.hello_timeout.count()); },
       {"0", "61m", "-1s", "99999999999999999999s", "soon"},
       {}},
      {"identify-timeout",
       {"1ms", "1h", "90"},
       {"1", "3600000", "90000"},
       "60000",
       [](const Config& config) { return std::to_string(config.timings.identify_timeout.count()); },
       {"0", "61m", "-1s", "99999999999999999999s", "soon"},
       {}},
      {"resume-timeout",
       {"1ms", "1h", "90"},
       {"1", "3600000", "90000"},
       "30000",
       [](const Config& config) { return std::to_string(config.timings.resume_timeout.count()); },
       {"0", "61m", "-1s", "99999999999999999999s", "soon"},
       {}},
      {"silence-after",
       {"0", "24h", "1us"},
       {"0", "86400000", "1"},
       "300000",
       [](const Config& config) { return std::to_string(config.timings.silence_after.count()); },
       {"25h", "-1s", "99999999999999999999s", "never"},
       {}},
      {"crash-loop-deaths",
       {"1", "1000", "5"},
       {"1", "1000", "5"},
       "3",
       [](const Config& config) { return std::to_string(config.crash_guard.deaths); },
       {"0", "1001", "-1", "4294967297", "often"},
       {}},
      {"crash-loop-window",
       {"1ms", "24h", "60"},
       {"1", "86400000", "60000"},
       "300000",
       [](const Config& config) { return std::to_string(config.crash_guard.window.count()); },
       {"0", "25h", "-1s", "99999999999999999999s", "long"},
       {}},
      {"crash-loop-pause",
       {"1ms", "24h", "60"},
       {"1", "86400000", "60000"},
       "120000",
       [](const Config& config) { return std::to_string(config.crash_guard.pause.count()); },
       {"0", "25h", "-1s", "99999999999999999999s", "long"},
       {}},
      {"shard-respawn",
       {"false", "true", "no"},
       {"false", "true", "false"},
       "true",
       [](const Config& config) { return Bool(config.crash_guard.respawn); },
       {"maybe", "-1", "2"},
       {}},
      {"max-subscribers",
       {"1", "100000", "7"},
       {"1", "100000", "7"},
       "1000",
       [](const Config& config) { return std::to_string(config.max_subscribers); },
       {"0", "100001", "-1", "4294967297", "all"},
       {}},
      {"consumer-ttl",
       {"1s", "8760h", "90m"},
       {"1", "31536000", "5400"},
       "604800",
       [](const Config& config) {
         return std::to_string(config.consumer_ttl / std::chrono::seconds(1));
       },
       {"0", "999ms", "8761h", "-1", "1d"},
       {}},
      {"drain-timeout",
       {"0", "10m", "5"},
       {"0", "600000", "5000"},
       "10000",
       [](const Config& config) { return std::to_string(config.drain_timeout.count()); },
       {"601s", "-1s", "99999999999999999999s", "soon"},
       {}},
      {"rescale-drain",
       {"0", "10m", "7"},
       {"0", "600000", "7000"},
       "5000",
       [](const Config& config) { return std::to_string(config.rescale_drain.count()); },
       {"601s", "-1s", "soon"},
       {}},
      {"rescale-timeout",
       {"1ms", "24h", "30"},
       {"1", "86400000", "30000"},
       "600000",
       [](const Config& config) { return std::to_string(config.rescale_timeout.count()); },
       {"0", "25h", "-1s"},
       {}},
      {"rescale-lag",
       {"100ms", "5m", "2"},
       {"100", "300000", "2000"},
       "5000",
       [](const Config& config) { return std::to_string(config.rescale_lag.count()); },
       {"99ms", "301s", "0"},
       {}},
      {"rescale-held-bytes",
       {"64KiB", "16GiB", "1MiB"},
       {"65536", "17179869184", "1048576"},
       "67108864",
       [](const Config& config) { return std::to_string(config.rescale_held_bytes); },
       {"65535", "17GiB", "-1"},
       {}},
      {"rescale-max-unmatched",
       {"0", "1", "0.25"},
       {"0.000", "1.000", "0.250"},
       "0.001",
       [](const Config& config) {
         return std::to_string(config.rescale_max_unmatched).substr(0, 5);
       },
       {"1.1", "-0.1", "1%"},
       {}},
      {"no-spawn",
       {"true", "false", "1"},
       {"true", "false", "true"},
       "false",
       [](const Config& config) { return Bool(config.no_spawn); },
       {"maybe", "-1", "2"},
       {}},
      {"reset-generation",
       {"true", "false", "1"},
       {"true", "false", "true"},
       "false",
       [](const Config& config) { return Bool(config.reset_generation); },
       {"maybe", "-1", "2"},
       {}},
      {"environment",
       {"staging", "blue, green", "x=y="},
       {"staging", "blue, green", "x=y="},
       "production",
       [](const Config& config) { return config.environment; },
       {},
       {}},
      {"log-level",
       {"debug", "warn", "error"},
       {"0", "2", "3"},
       "1",
       [](const Config& config) { return std::to_string(static_cast<int>(config.log_level)); },
       {"trace", "INFO", "-1", "3"},
       {}},
      {"log-format",
       {"json", "text", "json"},
       {"1", "0", "1"},
       "0",
       [](const Config& config) { return std::to_string(static_cast<int>(config.log_format)); },
       {"xml", "-1"},
       {}},
      {"simulate",
       {"true", "no", "yes"},
       {"true", "false", "true"},
       "false",
       [](const Config& config) { return Bool(config.simulate); },
       {"maybe", "-1", "2"},
       {}},
      {"simulate-guilds",
       {"1", "1000000", "7"},
       {"1", "1000000", "7"},
       "100",
       [](const Config& config) { return std::to_string(config.simulate_guilds); },
       {"0", "1000001", "-1", "4294967297", "few"},
       {}},
      {"simulate-rate",
       {"0", "2.5", "1000000"},
       {"0", "2.5", "1e+06"},
       "50",
       [](const Config& config) { return absl::StrCat(config.simulate_rate); },
       {"1000001", "-1", "nan", "inf", "1e999", "fast"},
       {}},
  };
}

std::string Variable(std::string name) {
  for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return "SHARDD_" + name;
}

class EachFlagTest : public ConfigTest {
 protected:
  EachFlagTest() {
    for (const char* name : {"a", "b", "c"}) Write(name, "PEM");
  }
};

std::set<std::string> FlagsInHelp() {
  const auto help = LoadConfig({"--help"}, [](const char*) { return std::nullopt; });
  std::set<std::string> flags;
  std::istringstream lines{std::string(Message(help.status()))};
  for (std::string line; std::getline(lines, line);) {
    line.erase(0, std::min(line.find_first_not_of(' '), line.size()));
    if (line.starts_with("-h,")) line.erase(0, 3);
    if (line.starts_with("--")) flags.insert(line.substr(2, line.find(' ') - 2));
  }
  return flags;
}

TEST_F(EachFlagTest, HasARowHere) {
  std::set<std::string> expected = {"help", "version", "config", "token-file"};
  for (const Row& row : Rows(directory_)) expected.insert(row.name);
  EXPECT_EQ(FlagsInHelp(), expected);
}

TEST_F(EachFlagTest, StandsInTheDocumentation) {
  const std::string text = test::ReadAll(SHARDD_DOCS "/configuration.md");
  EXPECT_EQ(test::FindBetween(text, "\n| `--", "`"), FlagsInHelp());
  for (const Row& row : Rows(directory_))
    EXPECT_THAT(text, HasSubstr("`" + Variable(row.name) + "`"));
}

TEST_F(EachFlagTest, WinsOverTheEnvironmentThatOverTheFileAndThatOverTheDefault) {
  for (const Row& row : Rows(directory_)) {
    const std::string flag = "--" + row.name;
    const std::string file = Write("config", row.name + " = " + row.texts[2] + "\n");
    const auto shown = [&](Arguments arguments, const Variables& variables) {
      arguments.insert(arguments.end(), row.with.begin(), row.with.end());
      const auto config = LoadWithToken(arguments, variables);
      EXPECT_TRUE(config.ok()) << row.name << ": " << config.status();
      return config.ok() ? row.show(*config) : "";
    };
    const Variables variable = {{Variable(row.name), row.texts[1]}};
    EXPECT_EQ(shown({flag + "=" + row.texts[0], "--config", file}, variable), row.shown[0]) << flag;
    EXPECT_EQ(shown({"--config", file}, variable), row.shown[1]) << flag;
    EXPECT_EQ(shown({"--config", file}, {}), row.shown[2]) << flag;
    // The middle value wins where it is the flag's, too: no value is stronger than another.
    EXPECT_EQ(
        shown({flag + "=" + row.texts[1], "--config", file}, {{Variable(row.name), row.texts[0]}}),
        row.shown[1])
        << flag;
    if (row.with.empty()) {
      EXPECT_EQ(shown({}, {}), row.default_shown) << flag;
    }
  }
}

TEST_F(EachFlagTest, TakesItsValueAsTheNextArgumentToo) {
  for (const Row& row : Rows(directory_)) {
    const bool is_switch = row.is_switch();
    Arguments arguments = row.with;
    arguments.push_back("--" + row.name);
    if (!is_switch) arguments.push_back(row.texts[0]);
    const auto config = LoadWithToken(arguments);
    ASSERT_TRUE(config.ok()) << row.name << ": " << config.status();
    EXPECT_EQ(row.show(*config), is_switch ? "true" : row.shown[0]) << row.name;
  }
}

TEST_F(EachFlagTest, RefusesBadTextsFromEverySourceNamingItself) {
  for (const Row& row : Rows(directory_)) {
    std::vector<std::string> bad = row.bad;
    bad.push_back("");
    for (const std::string& text : bad) {
      const auto named = [&](const Arguments& arguments, const Variables& variables = {}) {
        Arguments all = row.with;
        all.insert(all.end(), arguments.begin(), arguments.end());
        const std::string why = WhyNot(LoadWithToken(all, variables));
        EXPECT_THAT(why, StartsWith("--" + row.name)) << row.name << " '" << text << "'";
        return why;
      };
      const std::string file = Write("config", row.name + " = \"" + text + "\"\n");
      named({"--" + row.name + "=" + text});
      EXPECT_THAT(named({}, {{Variable(row.name), text}}),
                  testing::AnyOf(HasSubstr(Variable(row.name)), HasSubstr("cannot read")));
      EXPECT_THAT(named({"--config", file}),
                  testing::AnyOf(HasSubstr(file), HasSubstr("cannot read")));
      if (!row.is_switch()) named({"--" + row.name, text});
    }
  }
}

TEST_F(ConfigTest, APresenceThatDiscordWouldNotTakeIsRefused) {
  for (const std::string& text :
       {std::string(R"({"status":"busy"})"), std::string(R"([{"status":"idle"}])"),
        std::string(R"({"status":"idle"} x)"), std::string(R"({"status":"idle","afk":"no"})"),
        R"({"status":"idle","x":")" + std::string(3072, 'x') + "\"}"}) {
    EXPECT_THAT(WhyNot(LoadWithToken({"--presence", text})), StartsWith("--presence")) << text;
  }
}

TEST_F(EachFlagTest, RefusesToBeGivenTwice) {
  for (const Row& row : Rows(directory_)) {
    Arguments arguments = row.with;
    arguments.push_back("--" + row.name + "=" + row.texts[0]);
    arguments.push_back("--" + row.name + "=" + row.texts[1]);
    EXPECT_THAT(WhyNot(LoadWithToken(arguments)), HasSubstr("--" + row.name));
  }
}

TEST_F(EachFlagTest, RefusesToGoWithoutItsValue) {
  for (const Row& row : Rows(directory_)) {
    if (row.is_switch()) continue;
    EXPECT_THAT(WhyNot(LoadWithToken({"--" + row.name})), StartsWith("--" + row.name));
    // Not to be taken for the value.
    EXPECT_THAT(WhyNot(LoadWithToken({"--" + row.name, "--simulate"})),
                StartsWith("--" + row.name));
  }
}

TEST_F(ConfigTest, TellsAnUnknownFlagByName) {
  EXPECT_THAT(WhyNot(LoadWithToken({"--thread", "2"})),
              HasSubstr("--thread: there is no such flag"));
  EXPECT_THAT(WhyNot(LoadWithToken({"--verbose=1"})), HasSubstr("--verbose"));
  EXPECT_THAT(WhyNot(LoadWithToken({"-x"})), HasSubstr("-x"));
  EXPECT_THAT(WhyNot(LoadWithToken({"serve"})), HasSubstr("no flag"));
  EXPECT_THAT(WhyNot(LoadWithToken({""})), HasSubstr("no flag"));
  EXPECT_THAT(WhyNot(LoadWithToken({"--no-spawn", "false"})), HasSubstr("--switch=false"));
}

TEST_F(ConfigTest, TakesAValueThatEndsWithAnEqualsSign) {
  EXPECT_EQ(LoadWithToken({"--environment=a="})->environment, "a=");
  EXPECT_EQ(LoadWithToken({"--environment", "a="})->environment, "a=");
}

TEST_F(ConfigTest, RepeatsNothingThatMayBeATokenInAMessage) {
  EXPECT_THAT(WhyNot(LoadWithToken({"--token", kToken})),
              AllOf(HasSubstr("--token"), HasSubstr("DISCORD_TOKEN")));
  EXPECT_THAT(WhyNot(LoadWithToken({std::string("--token=") + kToken})), HasSubstr("--token"));
  EXPECT_NE(WhyNot(LoadWithToken({kToken})), "");
  const std::string file = Write("config", std::string("token = ") + kToken);
  EXPECT_THAT(WhyNot(LoadWithToken({"--config", file})), HasSubstr("unknown key 'token'"));
}

TEST_F(ConfigTest, RefusesAFileThatItCannotRead) {
  for (const std::string& path : {directory_, directory_ + "/none"}) {
    EXPECT_THAT(WhyNot(LoadWithToken({"--config", path})),
                AllOf(StartsWith("--config"), HasSubstr(path)));
    EXPECT_THAT(WhyNot(LoadWithToken({}, {{"SHARDD_CONFIG", path}})),
                AllOf(StartsWith("--config"), HasSubstr(path)));
  }
}

TEST_F(ConfigTest, RefusesAnEmptyNameOfAFile) {
  EXPECT_THAT(WhyNot(LoadWithToken({"--config="})), StartsWith("--config"));
  EXPECT_THAT(WhyNot(LoadWithToken({"--config", ""})), StartsWith("--config"));
  EXPECT_THAT(WhyNot(LoadWithToken({}, {{"SHARDD_CONFIG", ""}})),
              AllOf(StartsWith("--config"), HasSubstr("SHARDD_CONFIG")));
}

TEST_F(ConfigTest, FindsTheFileThroughTheEnvironmentUnlessTheFlagNamesAnother) {
  const std::string one = Write("one", "threads = 3\n");
  const std::string other = Write("other", "threads = 5\n");
  EXPECT_EQ(LoadWithToken({}, {{"SHARDD_CONFIG", one}})->threads, 3u);
  EXPECT_EQ(LoadWithToken({"--config", other}, {{"SHARDD_CONFIG", one}})->threads, 5u);
}

TEST_F(ConfigTest, RefusesAnUnknownKeyInTheFileAndOneTwice) {
  const auto why = [&](const std::string& content) {
    return WhyNot(LoadWithToken({"--config", Write("config", content)}));
  };
  EXPECT_THAT(why("thread = 2\n"), AllOf(StartsWith("--config"), HasSubstr("'thread'")));
  EXPECT_THAT(why("--threads = 2\n"), HasSubstr("'--threads'"));
  EXPECT_THAT(why("config = other\n"), HasSubstr("'config'"));
  EXPECT_THAT(why("intents = GUILDS\nintents = GUILD_MESSAGES\n"), HasSubstr("twice"));
  EXPECT_THAT(why("[server]\nthreads = 2\n"), AllOf(StartsWith("--config"), HasSubstr("line 1")));
}

TEST_F(ConfigTest, TakesValuesOfTheFileAsTheyStand) {
  const auto config = LoadWithToken({"--config", Write("config",
                                                       "environment = blue and green\n"
                                                       "data-dir = \"/var/lib/a # b\"\n"
                                                       "shard-ids = 0-1,3 # the first ones\n")});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->environment, "blue and green");
  EXPECT_EQ(config->data_dir, "/var/lib/a # b");
  EXPECT_THAT(config->shard_ids, ElementsAre(0, 1, 3));
}

TEST_F(ConfigTest, TakesTheTokenFromTheEnvironment) {
  EXPECT_EQ(Load({}, {{"DISCORD_TOKEN", kToken}})->token, kToken);
  EXPECT_EQ(Load({}, {{"DISCORD_TOKEN", absl::StrCat("Bot ", kToken)}})->token, kToken);
  EXPECT_EQ(Load({}, {{"DISCORD_TOKEN", absl::StrCat("  ", kToken, "\n")}})->token, kToken);
}

TEST_F(ConfigTest, TakesTheTokenFromAFileThatWinsOverTheEnvironment) {
  const std::string file = Write("token", "Bot from.the.file\r\n");
  EXPECT_EQ(Load({"--token-file", file}, {})->token, "from.the.file");
  EXPECT_EQ(Load({"--token-file", file}, {{"DISCORD_TOKEN", kToken}})->token, "from.the.file");
}

TEST_F(ConfigTest, FindsTheTokenFileByFlagEnvironmentAndFileInThatOrder) {
  const std::string flag = Write("flag", "from.flag");
  const std::string variable = Write("variable", "from.variable");
  const std::string config = Write("config", "token-file = " + Write("file", "from.file") + "\n");
  EXPECT_EQ(
      Load({"--token-file", flag, "--config", config}, {{"SHARDD_TOKEN_FILE", variable}})->token,
      "from.flag");
  EXPECT_EQ(Load({"--config", config}, {{"SHARDD_TOKEN_FILE", variable}})->token, "from.variable");
  EXPECT_EQ(Load({"--config", config}, {})->token, "from.file");
  EXPECT_THAT(WhyNot(Load({"--token-file", flag, "--token-file", variable}, {})),
              HasSubstr("--token-file"));
}

TEST_F(ConfigTest, SaysWhatToDoWithoutAToken) {
  const auto helps =
      AllOf(HasSubstr("DISCORD_TOKEN"), HasSubstr("--token-file"), HasSubstr("--simulate"));
  EXPECT_THAT(WhyNot(Load({}, {})), helps);
  for (const char* empty : {"", "  \n", "Bot ", "Bot"}) {
    SCOPED_TRACE(empty);
    EXPECT_THAT(WhyNot(Load({}, {{"DISCORD_TOKEN", empty}})), helps);
    EXPECT_THAT(WhyNot(Load({"--token-file", Write("token", empty)}, {{"DISCORD_TOKEN", kToken}})),
                helps);
  }
}

TEST_F(ConfigTest, NamesTheTokenFileThatItCannotRead) {
  for (const std::string& path : {directory_, directory_ + "/none"}) {
    EXPECT_THAT(WhyNot(LoadWithToken({"--token-file", path})),
                AllOf(StartsWith("--token-file"), HasSubstr(path)));
  }
  EXPECT_THAT(WhyNot(LoadWithToken({"--token-file", ""})), StartsWith("--token-file"));
  EXPECT_THAT(WhyNot(LoadWithToken({}, {{"SHARDD_TOKEN_FILE", ""}})), StartsWith("--token-file"));
}

TEST_F(ConfigTest, RefusesATokenThatCouldNotStandInAHeader) {
  for (const std::string& token :
       {std::string("s3cret token"), std::string("s3cret\r\nX: y"), std::string("s3crét"),
        std::string("s3cret\0x", 8), std::string("Bot Bot s3cret")}) {
    EXPECT_THAT(WhyNot(Load({}, {{"DISCORD_TOKEN", token}})),
                HasSubstr("characters that no token has"));
    EXPECT_THAT(WhyNot(Load({"--token-file", Write("token", token)}, {})),
                HasSubstr("characters that no token has"));
  }
}

TEST_F(ConfigTest, ASlashBehindTheApiUrlMakesItNoOther) {
  EXPECT_EQ(LoadWithToken({"--api-url", "http://a/api/v10//"})->api_url, "http://a/api/v10");
  EXPECT_EQ(LoadWithToken({"--api-url", "http://a:1/"})->api_url, "http://a:1");
}

TEST_F(ConfigTest, NeedsNoTokenToSimulate) {
  const auto config = Load({"--simulate"}, {});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->simulate);
  EXPECT_THAT(config->data_dir, IsEmpty());
  // A real token has no business in a simulation.
  EXPECT_NE(LoadWithToken({"--simulate"})->token, kToken);
}

TEST_F(ConfigTest, RefusesToSimulateADiscordThatIsNamed) {
  const auto both = AllOf(HasSubstr("--simulate"), HasSubstr("--api-url"));
  EXPECT_THAT(WhyNot(Load({"--simulate", "--api-url", "http://a"}, {})), both);
  EXPECT_THAT(WhyNot(Load({"--simulate"}, {{"SHARDD_API_URL", "http://a"}})), both);
  EXPECT_THAT(WhyNot(Load({"--simulate", "--config", Write("config", "api-url = http://a\n")}, {})),
              both);
  EXPECT_THAT(WhyNot(Load({"--api-url", "http://a"}, {{"SHARDD_SIMULATE", "yes"}})), both);
}

TEST_F(ConfigTest, RefusesShardIdsBeyondTheShardCount) {
  EXPECT_EQ(WhyNot(LoadWithToken({"--shard-ids", "0-3", "--shard-count", "4"})), "");
  EXPECT_THAT(WhyNot(LoadWithToken({"--shard-ids", "0-4", "--shard-count", "4"})),
              AllOf(StartsWith("--shard-ids"), HasSubstr("shard 4"), HasSubstr("--shard-count 4")));
  // What Discord recommends is not known yet.
  EXPECT_EQ(WhyNot(LoadWithToken({"--shard-ids", "0-9999"})), "");
}

TEST_F(ConfigTest, RefusesGuildsPerShardBesideAFixedCount) {
  EXPECT_THAT(WhyNot(LoadWithToken({"--guilds-per-shard", "500", "--shard-count", "4"})),
              StartsWith("--guilds-per-shard"));
  EXPECT_EQ(WhyNot(LoadWithToken({"--guilds-per-shard", "500", "--shard-count", "auto"})), "");
}

TEST_F(ConfigTest, ListensOffThisMachineOnlyWithTlsOrWhenTold) {
  const std::string pem = Write("pem", "PEM");
  for (const std::string address :
       {"0.0.0.0:0", "[::]:0", "10.0.0.1:0", "bots.example.net:0", "127.bots.example.net:0"}) {
    EXPECT_THAT(WhyNot(LoadWithToken({"--listen", address})),
                AllOf(StartsWith("--listen"), HasSubstr(address), HasSubstr("--tls-cert"),
                      HasSubstr("--insecure-listen")));
    EXPECT_EQ(WhyNot(LoadWithToken({"--listen", address, "--insecure-listen"})), "");
    EXPECT_EQ(WhyNot(LoadWithToken({"--listen", address, "--tls-cert", pem, "--tls-key", pem})),
              "");
  }
  for (const std::string address : {"127.0.0.1:0", "localhost:0", "[::1]:0", "unix:/tmp/x"}) {
    EXPECT_EQ(WhyNot(LoadWithToken({"--listen", address})), "");
  }
}

TEST_F(ConfigTest, RefusesALogThatTheLargestEventWouldNotFitInto) {
  EXPECT_THAT(WhyNot(LoadWithToken({"--retain-bytes", "64MiB", "--max-message-bytes", "64MiB"})),
              AllOf(HasSubstr("--max-message-bytes"), HasSubstr("--retain-bytes")));
  EXPECT_EQ(WhyNot(LoadWithToken({"--retain-bytes", "256MiB", "--max-message-bytes", "64MiB"})),
            "");
  EXPECT_EQ(WhyNot(LoadWithToken({"--retain-bytes", "2MiB", "--max-message-bytes", "512KiB"})), "");
}

TEST_F(ConfigTest, TakesTheLargestEventThatFitsWhereNobodySaysOtherwise) {
  EXPECT_EQ(LoadWithToken({})->max_message_bytes, size_t{64} << 20);
  EXPECT_EQ(LoadWithToken({"--retain-bytes", "16MiB"})->max_message_bytes,
            events::LargestData(16 << 20));
}

TEST_F(ConfigTest, WantsACertificateWithItsKey) {
  const std::string pem = Write("pem", "PEM");
  const auto both = AllOf(HasSubstr("--tls-cert"), HasSubstr("--tls-key"));
  EXPECT_THAT(WhyNot(LoadWithToken({"--tls-cert", pem})), both);
  EXPECT_THAT(WhyNot(LoadWithToken({"--tls-key", pem})), both);
}

TEST_F(ConfigTest, KeepsItsDataWhereTheServiceManagerSays) {
  EXPECT_EQ(LoadWithToken({}, {{"STATE_DIRECTORY", "/var/lib/shardd"}})->data_dir,
            "/var/lib/shardd");
  EXPECT_EQ(LoadWithToken({"--data-dir", "/x"}, {{"STATE_DIRECTORY", "/var/lib/shardd"}})->data_dir,
            "/x");
  EXPECT_EQ(LoadWithToken({}, {{"STATE_DIRECTORY", ""}})->data_dir, "shardd-data");
}

TEST_F(ConfigTest, AnswersHelpAndVersionWithoutATokenOrAnythingElse) {
  const auto help = Load({"--help"}, {});
  EXPECT_EQ(help.status().code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(std::string(Message(help.status())), HasSubstr("--listen"));
  EXPECT_TRUE(absl::IsCancelled(Load({"-h"}, {}).status()));
  EXPECT_TRUE(absl::IsCancelled(Load({"--threads", "none", "--help"}, {}).status()));

  const auto version = Load({"--version"}, {{"SHARDD_THREADS", "none"}});
  EXPECT_EQ(version.status().code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(std::string(Message(version.status())),
              testing::MatchesRegex("shardd [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

}  // namespace
}  // namespace shardd::server
