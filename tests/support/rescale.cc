#include "support/rescale.h"

#include <grpcpp/client_context.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <tuple>
#include <utility>

#include "common/shard_id.h"
#include "support/canonical.h"
#include "support/event_stream.h"

namespace shardd::test {
namespace {

using simulator::EmittedEvent;
using simulator::SessionInfo;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr size_t kMostProblems = 20;
constexpr std::string_view kMarker = "MARKER";
constexpr std::string_view kInteraction = "INTERACTION_CREATE";

simulator::SimulatorOptions Prepared(simulator::SimulatorOptions discord) {
  discord.permute_keys = true;
  discord.record_digests = true;
  discord.record_emitted = true;
  if (discord.max_concurrency == 1) discord.max_concurrency = 64;
  // Often, and with time for a machine that has other work.
  discord.heartbeat_interval = milliseconds(2000);
  discord.heartbeat_tolerance = milliseconds(60'000);
  discord.replay_events = std::min<size_t>(discord.replay_events, 20'000);
  return discord;
}

// Of events that belong to the session that they come over.
bool IsOfSession(std::string_view type) {
  static const std::set<std::string_view> kTypes = {
      "READY",        "RESUMED",           "GUILD_MEMBERS_CHUNK", "VOICE_SERVER_UPDATE",
      "RATE_LIMITED", "SOUNDBOARD_SOUNDS", "CHANNEL_INFO"};
  return kTypes.contains(type);
}

// What has an order of its own within a guild.
using Lane = std::pair<uint64_t, bool>;
Lane LaneOf(uint64_t guild_id, std::string_view type) { return {guild_id, type == kInteraction}; }

std::string Name(const LogEntry& entry) {
  return entry.type + " of guild " + std::to_string(entry.guild_id) + ", offset " +
         std::to_string(entry.offset) + ", shard [" + std::to_string(entry.shard_id) + "," +
         std::to_string(entry.shard_count) + "] session " + std::to_string(entry.session) +
         " sequence " + std::to_string(entry.sequence);
}

double CpuSeconds(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(stat)), std::istreambuf_iterator<char>());
  // Behind the name, which may hold anything: state is field 3, utime 14, stime 15.
  const size_t name = text.rfind(')');
  if (name == std::string::npos) return 0;
  std::istringstream fields(text.substr(name + 2));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// Which of the simulator's sessions the server's session numbers are.
class SessionMatcher {
 public:
  explicit SessionMatcher(const simulator::Simulator& discord) {
    for (const SessionInfo& session : discord.Sessions()) {
      sent_[session.shard].push_back(discord.SentDigests(session.session_id));
    }
  }

  // Whether the event is what its session was sent under its number.
  bool IsSent(const LogEntry& entry) {
    const ShardId shard{entry.shard_id, entry.shard_count};
    const auto& sessions = sent_[shard];
    const auto matches = [&](size_t i) {
      return entry.sequence <= sessions[i].size() &&
             sessions[i][entry.sequence - 1].digest == entry.digest;
    };
    const auto [known, is_new] = of_number_.try_emplace({shard, entry.session}, 0);
    if (!is_new) return matches(known->second);
    for (size_t i = sessions.size(); i-- > 0;) {
      if (!matches(i)) continue;
      known->second = i;
      return true;
    }
    of_number_.erase(known);
    return false;
  }

 private:
  std::map<ShardId, std::vector<std::vector<simulator::SentDigest>>> sent_;
  std::map<std::pair<ShardId, uint32_t>, size_t> of_number_;
};

}  // namespace

RescaleRun::RescaleRun(RescaleOptions options)
    : options_(std::move(options)),
      socket_("unix:" + (dir_ / "socket")),
      discord_(std::make_unique<simulator::Simulator>(Prepared(options_.discord))),
      consumer_(socket_),
      pump_([this] { Pump(); }) {}

RescaleRun::~RescaleRun() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  pump_.join();
}

bool RescaleRun::Start(uint32_t shard_count, uint32_t held) {
  if (held == 0) held = shard_count;
  std::vector<std::string> arguments = {"--api-url",      discord_->api_url(),
                                        "--listen",       socket_,
                                        "--data-dir",     dir_ / "data",
                                        "--retain-bytes", std::to_string(256 << 20),
                                        "--intents",      options_.intents,
                                        "--shard-count",  std::to_string(shard_count),
                                        "--admin-listen", "off"};
  arguments.insert(arguments.end(), options_.flags.begin(), options_.flags.end());
  server_ = std::make_unique<ShardDProcess>(arguments,
                                            ShardDProcess::Variables{{"DISCORD_TOKEN", "token"}});
  if (server_->address().empty()) return false;
  stub_ = Connect(socket_);
  {
    const std::lock_guard lock(mutex_);
    pid_ = server_->pid();
  }
  return Eventually([&] {
    const v1::StatsResponse stats = Stats();
    uint32_t ready = 0;
    for (const auto& shard : stats.shards()) {
      ready += shard.shard_count() == shard_count && shard.state() == v1::SHARD_STATE_READY;
    }
    return ready == held && discord_->WaitForSessions(shard_count, held, milliseconds(0));
  });
}

void RescaleRun::Kill() {
  {
    const std::lock_guard lock(mutex_);
    pid_ = 0;
  }
  server_->Signal(SIGKILL);
  server_->WaitForExit();
}

void RescaleRun::Stop() {
  {
    const std::lock_guard lock(mutex_);
    pid_ = 0;
  }
  server_->Signal(SIGTERM);
  server_->WaitForExit();
}

void RescaleRun::SetLoad(bool on) {
  discord_->SetRate(on ? options_.rate : 0);
  std::unique_lock lock(mutex_);
  load_ = on;
  // Behind what it was about to emit.
  if (!on) pumped_.wait(lock, [this] { return !pumping_; });
}

void RescaleRun::Pump() {
  constexpr milliseconds kTurn{20};
  constexpr milliseconds kSampling{100};
  auto last = Clock::now();
  auto sampled = last;
  double structure = 0;
  double direct = 0;
  uint64_t directs = 0;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const bool load = load_;
    const pid_t pid = pid_;
    pumping_ = load;
    lock.unlock();
    const auto now = Clock::now();
    const double passed = std::chrono::duration<double>(now - last).count();
    last = now;
    if (load) {
      structure += passed * options_.structure_rate;
      direct += passed * options_.direct_rate;
      if (structure >= 1) discord_->EmitStructure(static_cast<size_t>(structure));
      structure -= static_cast<double>(static_cast<size_t>(structure));
      for (; direct >= 1; --direct) {
        // By id; some have nothing that tells one from the next.
        const std::string id = std::to_string(++directs);
        const bool is_message = directs % 8 != 0;
        discord_->Emit(is_message ? "MESSAGE_CREATE" : "TYPING_START", 0,
                       is_message ? R"({"id":")" + id + R"(","channel_id":"7"})"
                                  : R"({"user_id":"1","timestamp":5,"channel_id":"7"})");
      }
    }
    Collect();
    lock.lock();
    pumping_ = false;
    pumped_.notify_all();
    if (now - sampled >= kSampling) {
      sampled = now;
      if (pid != 0) samples_.push_back({UnixNanosNow(), CpuSeconds(pid), consumer_.size()});
    }
    lock.unlock();
    std::this_thread::sleep_for(kTurn);
    lock.lock();
  }
}

void RescaleRun::Collect() {
  const std::string own_user = R"("user_id":"872145673928011796")";
  std::unique_lock lock(mutex_);
  for (const EmittedEvent& event : discord_->TakeEmitted()) {
    if (event.shard_counts.empty() || IsOfSession(event.type)) continue;
    if (event.type == "VOICE_STATE_UPDATE" && event.data.find(own_user) != std::string::npos) {
      continue;
    }
    made_.push_back({event.type, event.guild_id, CanonicalDigest(event.type, event.data),
                     event.unix_nanos, event.shard_counts});
  }
}

RescaleRun::Answer RescaleRun::Rescale(uint32_t shard_count, bool dry_run) {
  v1::RescaleRequest request;
  request.set_shard_count(shard_count);
  request.set_dry_run(dry_run);
  return Rescale(request);
}

RescaleRun::Answer RescaleRun::Rescale(const v1::RescaleRequest& request) {
  grpc::ClientContext context;
  v1::RescaleResponse response;
  const grpc::Status status = stub_->Rescale(&context, request, &response);
  return {status.error_code(), ReasonOf(context), status.error_message(), response.rescale()};
}

RescaleRun::Answer RescaleRun::CancelRescale() {
  grpc::ClientContext context;
  v1::CancelRescaleResponse response;
  const grpc::Status status = stub_->CancelRescale(&context, {}, &response);
  return {status.error_code(), ReasonOf(context), status.error_message(), response.rescale()};
}

v1::StatsResponse RescaleRun::Stats(uint32_t shard_count) {
  grpc::ClientContext context;
  v1::StatsRequest request;
  request.set_shard_count(shard_count);
  v1::StatsResponse stats;
  stub_->Stats(&context, request, &stats);
  return stats;
}

uint32_t RescaleRun::Locate(uint64_t guild_id) {
  grpc::ClientContext context;
  v1::LocateRequest request;
  request.set_guild_id(guild_id);
  v1::LocateResponse response;
  stub_->Locate(&context, request, &response);
  return response.shard_count();
}

grpc::StatusCode RescaleRun::Send(uint64_t guild_id, uint32_t op, const std::string& data) {
  grpc::ClientContext context;
  v1::SendRequest request;
  request.set_guild_id(guild_id);
  request.set_op(op);
  request.set_data(data);
  v1::SendResponse response;
  return stub_->Send(&context, request, &response).error_code();
}

bool RescaleRun::WaitFor(v1::RescaleState state, milliseconds timeout) {
  bool reached = false;
  Eventually(
      [&] {
        const v1::RescaleState now = Stats().rescale().state();
        const bool is_over = now >= v1::RESCALE_STATE_DONE;
        const bool ends_so = state == now;
        reached = ends_so || (now >= state && now <= v1::RESCALE_STATE_DONE);
        return reached || (is_over && now != v1::RESCALE_STATE_DONE);
      },
      timeout);
  return reached;
}

std::vector<RescaleRun::Change> RescaleRun::changes() {
  std::vector<Change> changes;
  for (const LogEntry& entry : consumer_.entries()) {
    if (entry.type != "SHARDD_RESCALE") continue;
    const auto data = boost::json::parse(entry.data);
    changes.push_back({std::string(data.at("state").as_string()), entry.offset,
                       entry.received_unix_nanos, data.at("from_shard_count").to_number<uint32_t>(),
                       data.at("to_shard_count").to_number<uint32_t>()});
  }
  return changes;
}

bool RescaleRun::Settle() {
  SetLoad(false);
  const std::string number = std::to_string(++markers_);
  std::set<uint64_t> awaited;
  const auto emit = [&](uint64_t guild_id) {
    std::string text = R"({"id":")" + number + "\"";
    if (guild_id != 0) text += R"(,"guild_id":")" + std::to_string(guild_id) + "\"";
    text += "}";
    // Interactions do not keep their place among the others.
    for (const std::string_view type : {kMarker, kInteraction}) {
      const uint64_t canonical = CanonicalDigest(type, text);
      if (discord_->Emit(std::string(type), guild_id, text) > 0) awaited.insert(canonical);
    }
  };
  for (const uint64_t guild : discord_->guild_ids()) emit(guild);
  emit(0);
  size_t next = 0;
  const bool settled = Eventually([&] {
    for (const LogEntry& entry : consumer_.entries(next)) {
      ++next;
      awaited.erase(entry.canonical);
    }
    return awaited.empty();
  });
  Collect();
  return settled;
}

RescaleReport RescaleRun::Compare(const std::vector<uint32_t>& shard_counts) {
  RescaleReport report;
  const auto complain = [&](const std::string& problem) {
    if (report.problems.size() < kMostProblems) report.problems.push_back(problem);
  };
  struct Expected {
    size_t place = 0;  // in the lane
    const Made* made = nullptr;
  };
  struct Events {
    size_t count = 0;
    std::map<uint64_t, std::vector<Expected>> waiting;  // by canonical digest, newest first
    std::set<uint64_t> known;
    std::optional<size_t> newest;
  };
  std::map<Lane, Events> lanes;
  Collect();
  const std::unique_lock lock(mutex_);
  for (auto made = made_.rbegin(); made != made_.rend(); ++made) {
    const bool counts =
        shard_counts.empty() ||
        std::any_of(made->shard_counts.begin(), made->shard_counts.end(), [&](uint32_t count) {
          return std::find(shard_counts.begin(), shard_counts.end(), count) != shard_counts.end();
        });
    Events& lane = lanes[LaneOf(made->guild_id, made->type)];
    lane.known.insert(made->canonical);
    if (!counts) continue;
    // Counted from the end: places grow towards the beginning.
    lane.waiting[made->canonical].push_back({lane.count++, &*made});
  }

  SessionMatcher sessions(*discord_);
  std::map<std::tuple<uint32_t, uint32_t, uint32_t>, std::set<uint64_t>> starting;
  std::optional<std::pair<uint32_t, uint32_t>> switched;  // from, to
  uint32_t to = 0;
  const auto all_changes = [&] {
    std::map<uint64_t, std::pair<uint32_t, uint32_t>> switches;
    for (const LogEntry& entry : consumer_.entries()) {
      if (entry.type != "SHARDD_RESCALE") continue;
      const auto data = boost::json::parse(entry.data);
      if (data.at("state").as_string() != "SWITCHED") continue;
      switches[entry.offset] = {data.at("from_shard_count").to_number<uint32_t>(),
                                data.at("to_shard_count").to_number<uint32_t>()};
    }
    return switches;
  }();
  if (!all_changes.empty()) to = all_changes.begin()->second.second;
  for (const LogEntry& entry : consumer_.entries()) {
    if (const auto at = all_changes.find(entry.offset); at != all_changes.end()) {
      switched = at->second;
    }
    if (entry.sequence == 0) continue;
    const auto session = std::tuple(entry.shard_id, entry.shard_count, entry.session);
    if (!sessions.IsSent(entry)) {
      ++report.altered;
      complain(Name(entry) + " is not what its session was sent");
    }
    if (ShardForGuild(entry.guild_id, entry.shard_count) != entry.shard_id &&
        !(entry.guild_id == 0 && IsOfSession(entry.type))) {
      ++report.misplaced;
      complain(Name(entry) + " is not of its shard");
    }
    if (entry.type == "READY") {
      const auto ready = boost::json::parse(entry.data);
      for (const auto& guild : ready.at("guilds").as_array()) {
        starting[session].insert(std::stoull(std::string(guild.at("id").as_string())));
      }
    }
    if (IsOfSession(entry.type)) continue;
    if ((entry.type == "GUILD_CREATE" || entry.type == "GUILD_DELETE") &&
        starting[session].erase(entry.guild_id) > 0) {
      continue;
    }
    const auto lane = lanes.find(LaneOf(entry.guild_id, entry.type));
    if (lane == lanes.end() || !lane->second.known.contains(entry.canonical)) {
      // The bot's own voice state belongs to a session, too.
      if (entry.type == "VOICE_STATE_UPDATE") continue;
      ++report.unknown;
      complain(Name(entry) + " was not made");
      continue;
    }
    auto& waiting = lane->second.waiting[entry.canonical];
    if (waiting.empty()) {
      ++report.doubled;
      complain(Name(entry) + " came once more");
      continue;
    }
    const Expected expected = waiting.back();
    waiting.pop_back();
    ++report.events;
    auto& newest = lane->second.newest;
    if (newest.has_value() && expected.place > *newest) {
      ++report.reordered;
      if (report.reorderings.size() < kMostProblems) {
        report.reorderings.push_back(Name(entry) + " came behind a later event");
      }
    } else {
      newest = expected.place;
    }
    if (!switched.has_value() && to != 0 && entry.shard_count == to) ++report.early;
    if (switched.has_value() && entry.shard_count == switched->first) ++report.late;
    report.deliveries.push_back(
        {expected.made->unix_nanos, entry.received_unix_nanos, entry.arrived_unix_nanos});
  }
  for (const auto& [lane, events] : lanes) {
    for (const auto& [canonical, waiting] : events.waiting) {
      for (const Expected& expected : waiting) {
        ++report.lost;
        std::string counts;
        for (const uint32_t count : expected.made->shard_counts) {
          counts += " " + std::to_string(count);
        }
        complain(expected.made->type + " of guild " + std::to_string(lane.first) +
                 " is lost; sessions of" + counts + " had it, " +
                 std::to_string(expected.made->unix_nanos));
      }
    }
  }
  const LogFollower::Totals totals = consumer_.totals();
  report.gaps = totals.gaps;
  report.offset_breaks = totals.offset_breaks;
  return report;
}

uint64_t RescaleRun::ReadLogAgain() {
  const std::vector<LogEntry> got = consumer_.entries();
  const LogFollower again(socket_);
  if (!Eventually([&] { return again.size() >= got.size(); })) return got.size() - again.size();
  const std::vector<LogEntry> kept = again.entries();
  uint64_t differing = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    differing += got[i].offset != kept[i].offset || got[i].digest != kept[i].digest;
  }
  return differing;
}

std::vector<RescaleRun::Sample> RescaleRun::samples() {
  const std::lock_guard lock(mutex_);
  return samples_;
}

}  // namespace shardd::test
