#include "rescale/alignment_model.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"

namespace shardd::rescale::test {
namespace {

using std::chrono::milliseconds;
using State = Alignment::SourceState;

constexpr milliseconds kTick{50};
constexpr milliseconds kBeat{2000};

// Something that happens in a guild.
struct Happening {
  milliseconds at{0};
  uint64_t guild = 0;
  uint64_t key = 0;  // of its content
  Matching matching = Matching::kUnique;
  Producer producer = Producer::kGuild;
  bool is_guild = false;  // GUILD_CREATE or GUILD_DELETE
  bool on[2] = {true, true};
  size_t id = 0;
};

class Model {
 public:
  explicit Model(const ModelOptions& options)
      : options_(options),
        random_(options.seed),
        alignment_(options.alignment, options.old_count, options.new_count) {}

  ModelResult Run() {
    Happen();
    for (uint32_t shard = 0; shard < options_.old_count; ++shard) PlanOld(shard);
    for (uint32_t shard = 0; shard < options_.new_count; ++shard) PlanNew(shard);
    Go();
    Compare();
    return result_;
  }

 private:
  struct Step {
    milliseconds at{0};
    uint64_t order = 0;
    std::function<void()> act{};
  };

  bool Chance(double share) { return std::uniform_real_distribution<>(0, 1)(random_) < share; }
  int64_t Below(int64_t bound) {
    return bound <= 0 ? 0 : std::uniform_int_distribution<int64_t>(0, bound - 1)(random_);
  }
  milliseconds Lag() { return milliseconds(Below(options_.largest_lag.count() + 1)); }
  static SteadyTime Time(milliseconds at) { return SteadyTime(std::chrono::hours(1)) + at; }
  uint64_t GuildAt(uint64_t index) const { return (index + 1) << 22; }
  uint32_t ShardOf(uint64_t guild, int side) const {
    return ShardForGuild(guild, side == 0 ? options_.old_count : options_.new_count);
  }

  // ---- What happens ----

  void Happen() {
    std::vector<uint64_t> plain;
    uint64_t next_key = 1;
    std::vector<milliseconds> times;
    for (uint32_t i = 0; i < options_.events; ++i) {
      times.emplace_back(Below(options_.span.count()));
    }
    std::sort(times.begin(), times.end());
    for (const milliseconds at : times) {
      Happening event{.at = at, .guild = GuildAt(static_cast<uint64_t>(Below(options_.guilds)))};
      event.key = next_key++;
      if (Chance(options_.interaction_share)) {
        event.producer = Producer::kInteraction;
      } else if (Chance(options_.plain_share)) {
        event.matching = Matching::kByContent;
        if (!plain.empty() && Chance(options_.equal_share / options_.plain_share)) {
          event.key = plain[plain.size() - 1 -
                            static_cast<size_t>(
                                Below(std::min<int64_t>(4, static_cast<int64_t>(plain.size()))))];
        }
        if (options_.all_equal && !plain.empty()) event.key = plain.front();
        plain.push_back(event.key);
      }
      if (Chance(options_.one_sided_share)) event.on[Below(2)] = false;
      happenings_.push_back(event);
    }
    // What is told of guilds is equal each time.
    const auto guild_event = [&](uint64_t guild, milliseconds at, uint64_t key) {
      happenings_.push_back({.at = at,
                             .guild = guild,
                             .key = key,
                             .matching = Matching::kByContent,
                             .is_guild = true});
    };
    for (uint32_t i = 0; i < options_.joins; ++i) {
      const uint64_t guild = GuildAt(options_.guilds + i);
      const milliseconds joined(Below(options_.span.count()));
      joins_[guild] = joined;
      guild_event(guild, joined, guild + 1);
      for (int k = 0; k < 10; ++k) {
        Happening event{.at = joined + milliseconds(1 + Below(4000)), .guild = guild};
        event.key = next_key++;
        happenings_.push_back(event);
      }
    }
    for (uint32_t i = 0; i < options_.outages; ++i) {
      const uint64_t guild = GuildAt(static_cast<uint64_t>(Below(options_.guilds)));
      const milliseconds begin(Below(options_.span.count()));
      const milliseconds end = begin + milliseconds(1 + Below(6000));
      std::erase_if(happenings_, [&](const Happening& each) {
        return each.guild == guild && each.at >= begin && each.at <= end;
      });
      guild_event(guild, begin, guild + 2);
      guild_event(guild, end, guild + 1);
      outages_[guild].emplace_back(begin, end);
    }
    std::stable_sort(happenings_.begin(), happenings_.end(),
                     [](const auto& a, const auto& b) { return a.at < b.at; });
    for (size_t i = 0; i < happenings_.size(); ++i) happenings_[i].id = i + 1;
    truth_ = happenings_;
  }

  bool IsOut(uint64_t guild, milliseconds at) const {
    const auto found = outages_.find(guild);
    if (found == outages_.end()) return false;
    return std::ranges::any_of(found->second, [&](const auto& outage) {
      return at >= outage.first && at < outage.second;
    });
  }

  // The happenings in the order in which a session of this side gets them.
  std::vector<Happening> Of(int side, uint32_t shard) {
    std::vector<Happening> mine;
    for (const Happening& each : happenings_) {
      if (each.on[side] && ShardOf(each.guild, side) == shard) mine.push_back(each);
    }
    if (side != swapped_side_) return mine;
    for (size_t i = 0; i + 1 < mine.size(); ++i) {
      if (!Chance(options_.swap_share)) continue;
      size_t next = i + 1;
      while (next < mine.size() && mine[next].guild != mine[i].guild) ++next;
      if (next == mine.size() || mine[next].is_guild || mine[i].is_guild) continue;
      if (mine[next].at - mine[i].at > milliseconds(500)) continue;
      Happening moved = mine[i];
      moved.at = mine[next].at;
      mine.insert(mine.begin() + static_cast<std::ptrdiff_t>(next) + 1, moved);
      mine.erase(mine.begin() + static_cast<std::ptrdiff_t>(i));
      swaps_.insert({moved.guild, moved.key});
      i = next;
    }
    return mine;
  }

  // ---- When it comes ----

  void At(milliseconds at, std::function<void()> act) {
    steps_.push_back({at, ++order_, std::move(act)});
  }

  // A connection that delivers in order, late, and not at all for a while.
  struct Line {
    milliseconds last{0};
    std::vector<std::pair<milliseconds, milliseconds>> away;
    milliseconds Deliver(milliseconds at) {
      at = std::max(at, last);
      for (const auto& [from, to] : away) {
        if (at >= from && at < to) at = to;
      }
      return last = at;
    }
  };

  void Drops(Line& line, int side, uint32_t shard, milliseconds from) {
    for (uint32_t i = 0; i < options_.drops; ++i) {
      const milliseconds begin = from + milliseconds(Below(options_.span.count()));
      const milliseconds end = begin + milliseconds(50 + Below(4000));
      if (std::ranges::any_of(line.away, [&](const auto& away) {
            return begin <= away.second && end >= away.first;
          })) {
        continue;
      }
      line.away.emplace_back(begin, end);
      At(begin, [=, this] { SetState(side, shard, State::kAway); });
      // RESUMED comes behind what was missed.
      At(end + milliseconds(1), [=, this] { SetState(side, shard, State::kReady); });
    }
    std::sort(line.away.begin(), line.away.end());
  }

  // Beats from `from` to `to`; each ACK behind what was sent before it.
  void Session(int side, uint32_t shard, std::vector<Happening> events, milliseconds from,
               milliseconds to, Line& line) {
    std::vector<Happening> all;
    for (const Happening& each : events) {
      if (each.at >= from && each.at < to) all.push_back(each);
    }
    std::vector<milliseconds> beats;
    for (milliseconds beat = from + milliseconds(Below(kBeat.count()));
         beat < options_.span + milliseconds(60'000); beat += kBeat) {
      if (beat < to) beats.push_back(beat);
    }
    size_t next = 0;
    milliseconds queued{0};
    for (const milliseconds beat : beats) {
      for (; next < all.size() && all[next].at <= beat; ++next) {
        const milliseconds at = line.Deliver(all[next].at + Lag());
        queued = at;
        At(at, [this, side, shard, event = all[next]] { Arrive(side, shard, event); });
      }
      if (std::ranges::any_of(line.away, [&](const auto& away) {
            return beat >= away.first && beat < away.second;
          })) {
        continue;
      }
      const milliseconds ack = line.Deliver(std::max(queued, beat));
      At(ack, [=, this] { alignment_.SetFresh(static_cast<Side>(side), shard, Time(beat)); });
    }
    for (; next < all.size(); ++next) {
      const milliseconds at = line.Deliver(all[next].at + Lag());
      At(at, [this, side, shard, event = all[next]] { Arrive(side, shard, event); });
    }
  }

  void PlanOld(uint32_t shard) {
    At(milliseconds(-100'000), [=, this] { SetState(0, shard, State::kReady); });
    std::vector<Happening> events = Of(0, shard);
    Line line;
    if (!options_.loses_old_session) {
      Drops(line, 0, shard, milliseconds(0));
      Session(0, shard, events, milliseconds(-100'000), milliseconds::max(), line);
      return;
    }
    // The end of the first session; what happens until the next one is open never comes.
    const milliseconds end(options_.span.count() / 3 + Below(options_.span.count() / 3));
    const milliseconds opening = end + milliseconds(Below(2000));
    const milliseconds open = opening + milliseconds(100 + Below(1000));
    // What was on its way is lost with it.
    Line first;
    first.away.emplace_back(end, milliseconds(1'000'000));
    SessionUntil(0, shard, events, end, first);
    At(end, [=, this] { SetState(0, shard, State::kAbsent); });
    At(opening, [=, this] { SetState(0, shard, State::kOpening); });
    OpenNew(0, shard, events, open);
  }

  void SessionUntil(int side, uint32_t shard, const std::vector<Happening>& events,
                    milliseconds end, Line& line) {
    for (const Happening& each : events) {
      if (each.at >= end) break;
      const milliseconds at = line.Deliver(each.at + Lag());
      if (at >= end) break;
      At(at, [this, side, shard, each] { Arrive(side, shard, each); });
    }
  }

  // A session whose READY comes at `open`; each guild begins for it a little later.
  void OpenNew(int side, uint32_t shard, const std::vector<Happening>& events, milliseconds open) {
    Line line;
    line.last = open;
    const std::vector<uint64_t> guilds = GuildsOf(side, shard, open);
    At(open, [=, this] {
      SetState(side, shard, State::kReady);
      alignment_.SetGuilds(static_cast<Side>(side), shard, guilds);
    });
    std::map<uint64_t, milliseconds> begins;
    std::vector<Happening> stream;
    milliseconds begin = open - milliseconds(50);
    for (const uint64_t guild : guilds) {
      begin += milliseconds(Below(300));
      begins[guild] = begin;
      stream.push_back({.at = begin,
                        .guild = guild,
                        .key = guild + (IsOut(guild, begin) ? 2 : 1),
                        .matching = Matching::kByContent,
                        .is_guild = true});
    }
    for (const Happening& each : events) {
      const auto found = begins.find(each.guild);
      const milliseconds from = found == begins.end() ? open - milliseconds(50) : found->second;
      if (each.at > from) stream.push_back(each);
    }
    std::stable_sort(stream.begin(), stream.end(),
                     [](const auto& a, const auto& b) { return a.at < b.at; });
    Drops(line, side, shard, begin + milliseconds(2500));
    Session(side, shard, stream, milliseconds(-100'000), milliseconds::max(), line);
  }

  std::vector<uint64_t> GuildsOf(int side, uint32_t shard, milliseconds at) const {
    std::vector<uint64_t> guilds;
    for (uint32_t i = 0; i < options_.guilds; ++i) {
      if (ShardOf(GuildAt(i), side) == shard) guilds.push_back(GuildAt(i));
    }
    for (const auto& [guild, joined] : joins_) {
      if (ShardOf(guild, side) == shard && joined <= at - milliseconds(50)) guilds.push_back(guild);
    }
    return guilds;
  }

  void PlanNew(uint32_t shard) {
    const milliseconds identify(Below(options_.span.count() / 4));
    const milliseconds open = identify + milliseconds(100 + Below(1000));
    const std::vector<Happening> events = Of(1, shard);
    At(identify, [=, this] { SetState(1, shard, State::kOpening); });
    if (!options_.loses_new_session) {
      OpenNew(1, shard, events, open);
      return;
    }
    // The first session ends before all that happened in it has come.
    const milliseconds end = open + milliseconds(500 + Below(4000));
    const milliseconds again = end + milliseconds(200 + Below(2000));
    Line first;
    first.last = open;
    const std::vector<uint64_t> guilds = GuildsOf(1, shard, open);
    At(open, [=, this] {
      SetState(1, shard, State::kReady);
      alignment_.SetGuilds(Side::kNew, shard, guilds);
    });
    std::vector<Happening> stream;
    for (const uint64_t guild : guilds) {
      stream.push_back({.at = open,
                        .guild = guild,
                        .key = guild + (IsOut(guild, open) ? 2 : 1),
                        .matching = Matching::kByContent,
                        .is_guild = true});
    }
    for (const Happening& each : events) {
      if (each.at > open) stream.push_back(each);
    }
    SessionUntil(1, shard, stream, end, first);
    At(end, [=, this] { SetState(1, shard, State::kAbsent); });
    At(end + milliseconds(100), [=, this] { SetState(1, shard, State::kOpening); });
    OpenNew(1, shard, events, again);
  }

  // ---- What comes of it ----

  void SetState(int side, uint32_t shard, State state) {
    std::vector<uint32_t> released, settled;
    alignment_.SetState(static_cast<Side>(side), shard, state, Time(now_), &released, &settled);
    Write(released);
    for (const uint32_t id : settled) held_.erase(id);
  }

  void Arrive(int side, uint32_t shard, const Happening& event) {
    if (ended_ && side != (switched_ ? 1 : 0)) return;
    came_.insert(event.id);
    std::vector<uint32_t> released, settled;
    const auto outcome = alignment_.OnEvent(
        {.side = static_cast<Side>(side),
         .shard = shard,
         .guild_id = event.guild,
         .identity = {event.matching, event.producer, {.high = 0, .low = event.key}},
         .is_guild = event.is_guild,
         .at = Time(now_)},
        &released, &settled);
    Write(released);
    for (const uint32_t id : settled) held_.erase(id);
    switch (outcome.verdict) {
      case Alignment::Verdict::kAppend:
      case Alignment::Verdict::kAppendEarly:
        log_.push_back(event);
        break;
      case Alignment::Verdict::kHold:
        held_[outcome.held] = event;
        break;
      case Alignment::Verdict::kDrop:
      case Alignment::Verdict::kDropCopy:
        break;
    }
  }

  void Write(const std::vector<uint32_t>& released) {
    for (const uint32_t id : released) {
      log_.push_back(held_.at(id));
      held_.erase(id);
    }
  }

  void Tick() {
    std::vector<uint32_t> released, settled;
    alignment_.Tick(Time(now_), &released, &settled);
    Write(released);
    for (const uint32_t id : settled) held_.erase(id);
    if (ended_) return;
    if (!switched_) {
      if (now_ < wanted_) return;
      if (options_.cancels) return End();
      if (!alignment_.WhyNotSwitch(Time(now_)).empty()) return;
      released.clear();
      settled.clear();
      alignment_.Switch(Time(now_), &released, &settled);
      Write(released);
      for (const uint32_t id : settled) held_.erase(id);
      switched_ = true;
      switched_at_ = now_;
    } else if (alignment_.HasDrained() || now_ - switched_at_ > milliseconds(40'000)) {
      End();
    }
  }

  void End() {
    std::vector<uint32_t> released, settled;
    alignment_.End(&released, &settled);
    Write(released);
    held_.clear();
    ended_ = true;
  }

  void Go() {
    wanted_ = milliseconds(Below(options_.span.count()));
    for (milliseconds at(0); at < options_.span + milliseconds(100'000); at += kTick) {
      At(at, [this] { Tick(); });
    }
    std::sort(steps_.begin(), steps_.end(), [](const Step& a, const Step& b) {
      return std::pair(a.at, a.order) < std::pair(b.at, b.order);
    });
    for (const Step& step : steps_) {
      now_ = step.at;
      step.act();
    }
    result_.switched = switched_;
    result_.counts = alignment_.counts();
  }

  void Tell(const std::string& what) {
    if (result_.told.empty()) result_.told = what;
  }

  void Compare() {
    using Lane = std::pair<uint64_t, int>;
    std::map<Lane, std::vector<uint64_t>> want, got;
    std::set<std::pair<uint64_t, uint64_t>> single;
    for (const Happening& each : truth_) {
      // What only the side that is not asked brings.
      if (!each.on[0] || !each.on[1]) single.insert({each.guild, each.key});
      // A session was lost, and the other side was not there to bring it.
      if (!came_.contains(each.id)) continue;
      want[{each.guild, static_cast<int>(each.producer)}].push_back(each.key);
    }
    for (const Happening& each : log_) {
      got[{each.guild, static_cast<int>(each.producer)}].push_back(each.key);
    }
    for (const auto& [lane, keys] : got) {
      if (!want.contains(lane)) want[lane];
    }
    for (const auto& [lane, keys] : want) {
      std::map<uint64_t, int64_t> balance;
      for (const uint64_t key : keys) ++balance[key];
      for (const uint64_t key : got[lane]) --balance[key];
      bool same = true;
      for (const auto& [key, count] : balance) {
        const bool is_guild = key == lane.first + 1 || key == lane.first + 2;
        // Only one side had it, and that one was not in charge, or not open yet.
        if (single.contains({lane.first, key}) && count > 0) continue;
        // A session that opens tells of its guilds.
        if (is_guild && count < 0 && options_.loses_old_session) continue;
        if (count > 0) {
          result_.lost += static_cast<uint64_t>(count);
          Tell(absl::StrCat("lost ", key, " of ", lane.first >> 22));
        }
        if (count < 0) {
          result_.doubled += static_cast<uint64_t>(-count);
          Tell(absl::StrCat("doubled ", key, " of ", lane.first >> 22));
        }
        same = same && count == 0;
      }
      if (!same) continue;
      const auto common = [&](const std::vector<uint64_t>& all) {
        std::vector<uint64_t> kept;
        for (const uint64_t key : all) {
          const bool is_guild = key == lane.first + 1 || key == lane.first + 2;
          if (is_guild && options_.loses_old_session) continue;
          if (!single.contains({lane.first, key}) && !swaps_.contains({lane.first, key})) {
            kept.push_back(key);
          }
        }
        return kept;
      };
      const auto in_order = common(keys), came = common(got[lane]);
      if (in_order != came) {
        ++result_.reordered;
        std::string text = absl::StrCat("reordered guild ", lane.first >> 22, ":");
        const auto at = std::ranges::mismatch(in_order, came);
        text += absl::StrCat(" ", at.in1 == in_order.end() ? 0 : *at.in1, " expected, ",
                             at.in2 == came.end() ? 0 : *at.in2, " came");
        Tell(text);
      } else if (keys != got[lane]) {
        ++result_.late;
      }
    }
  }

  const ModelOptions options_;
  std::mt19937_64 random_;
  Alignment alignment_;
  std::vector<Happening> happenings_, truth_;
  std::map<uint64_t, milliseconds> joins_;
  std::map<uint64_t, std::vector<std::pair<milliseconds, milliseconds>>> outages_;
  std::set<std::pair<uint64_t, uint64_t>> swaps_;
  const int swapped_side_ = static_cast<int>(Below(2));
  std::vector<Step> steps_;
  uint64_t order_ = 0;
  milliseconds now_{0}, wanted_{0}, switched_at_{0};
  bool switched_ = false, ended_ = false;
  std::map<uint32_t, Happening> held_;
  std::vector<Happening> log_;
  std::set<size_t> came_;
  ModelResult result_;
};

}  // namespace

ModelResult RunModel(const ModelOptions& options) { return Model(options).Run(); }

}  // namespace shardd::rescale::test
