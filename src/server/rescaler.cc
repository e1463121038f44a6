#include "server/rescaler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/json_escape.h"
#include "common/log.h"
#include "common/shard_id.h"
#include "server/convert.h"
#include "server/rpc_error.h"

namespace shardd::server {
namespace {

using events::RescaleStep;
using gateway::ShardState;

constexpr std::string_view kEndedBeforeSwitch =
    "the server ended before the switch; the old generation goes on. Call Rescale again";

// "SWITCHED": the contract's name of a state without its prefix.
std::string RescaleStateName(v1::RescaleState state) {
  constexpr std::string_view kPrefix = "RESCALE_STATE_";
  return v1::RescaleState_Name(state).substr(kPrefix.size());
}

RescaleStep StepOf(v1::RescaleState state) {
  switch (state) {
    case v1::RESCALE_STATE_SWITCHED:
      return RescaleStep::kSwitched;
    case v1::RESCALE_STATE_DONE:
      return RescaleStep::kDone;
    case v1::RESCALE_STATE_CANCELLED:
      return RescaleStep::kCancelled;
    case v1::RESCALE_STATE_FAILED:
      return RescaleStep::kFailed;
    default:
      return RescaleStep::kRunning;
  }
}

absl::Status CheckRequest(const v1::RescaleRequest& request) {
  if (request.shard_count() > kMaxShardCount) {
    return Error(absl::StatusCode::kInvalidArgument, reason::kShardCountInvalid,
                 absl::StrCat("shard_count is ", request.shard_count(), ": it can be at most ",
                              kMaxShardCount));
  }
  if (request.guilds_per_shard() > kMostGuildsOnShard) {
    return Error(absl::StatusCode::kInvalidArgument, reason::kGuildsPerShardInvalid,
                 absl::StrCat("guilds_per_shard is ", request.guilds_per_shard(),
                              ": Discord lets no shard have more than ", kMostGuildsOnShard));
  }
  return absl::OkStatus();
}

std::string Describe(const gateway::ShardInfo& shard) {
  return absl::StrCat("shard ", ToString(shard.shard), " is ", std::string(StateName(shard.state)),
                      shard.reason.empty() ? "" : ": ", shard.reason);
}

void CopyProgress(const Overlap::Progress& progress, v1::RescaleStatus& status) {
  status.set_guilds(progress.guilds);
  status.set_guilds_aligned(progress.guilds_aligned);
  status.set_held_events(progress.held_events);
  status.set_held_bytes(progress.held_bytes);
  status.set_matched(progress.matched);
  status.set_unmatched(progress.unmatched);
  status.set_unmatched_share(progress.unmatched_share);
  status.set_expired(progress.expired);
  status.set_reordered(progress.reordered);
  status.set_doubled(progress.doubled);
  status.set_lost(progress.lost);
}

}  // namespace

Rescaler::Rescaler(RescalerOptions options, RescaleParts& parts, std::function<void()> on_change)
    : options_(std::move(options)),
      parts_(parts),
      on_change_(std::move(on_change)),
      retry_(options_.retry) {
  now_.set_state(v1::RESCALE_STATE_NONE);
  Publish();
  if (options_.tick.count() > 0) {
    thread_ = std::jthread([this](const std::stop_token& stop) { Loop(stop); });
  }
}

Rescaler::~Rescaler() { Stop(); }

void Rescaler::Loop(const std::stop_token& stop) {
  std::unique_lock lock(work_mutex_);
  while (work_.wait(lock, stop, [this] { return is_under_way() || is_carrying_; })) {
    if (stop.stop_requested()) return;
    lock.unlock();
    Tick();
    lock.lock();
    work_.wait_for(lock, stop, options_.tick, [] { return false; });
    if (stop.stop_requested()) return;
  }
}

bool Rescaler::is_before_switch() const {
  return now_.state() == v1::RESCALE_STATE_PLANNED ||
         now_.state() == v1::RESCALE_STATE_IDENTIFYING ||
         now_.state() == v1::RESCALE_STATE_ALIGNING;
}

bool Rescaler::is_under_way() const {
  return is_before_switch() || now_.state() == v1::RESCALE_STATE_SWITCHED;
}

// ---- What is asked for ----

absl::StatusOr<uint32_t> Rescaler::Target(const v1::RescaleRequest& request,
                                          const RescaleFacts& facts) const {
  if (request.shard_count() > 0) return request.shard_count();
  const uint32_t count =
      ChooseShardCount(facts, request.guilds_per_shard() > 0 ? request.guilds_per_shard()
                                                             : options_.guilds_per_shard);
  if (count > 0) return count;
  return Error(absl::StatusCode::kUnavailable, reason::kGatewayNotKnown,
               "Discord has not answered GET /gateway/bot yet, so its recommendation is not known: "
               "ask again, or pass shard_count",
               std::chrono::seconds(1));
}

v1::RescaleStatus Rescaler::Planned(const RescaleFacts& facts, uint32_t to) const {
  v1::RescaleStatus status;
  status.set_state(v1::RESCALE_STATE_PLANNED);
  status.set_from_shard_count(facts.shard_count);
  status.set_to_shard_count(to);
  *status.mutable_plan() = MakeRescalePlan(facts, to, options_.plan);
  return status;
}

bool Rescaler::AwaitsRetry(uint32_t to) const {
  return now_.state() == v1::RESCALE_STATE_FAILED && to == retry_target_ &&
         options_.clock->Steady() < retry_at_;
}

absl::StatusOr<v1::RescaleStatus> Rescaler::Rescale(const v1::RescaleRequest& request) {
  if (auto status = CheckRequest(request); !status.ok()) return status;
  const std::lock_guard work(work_mutex_);
  if (is_stopped_) {
    return Error(absl::StatusCode::kUnavailable, reason::kServerStopping,
                 "the server stops: call Rescale again when it is back");
  }
  if (is_under_way()) {
    if (request.shard_count() == 0 || request.shard_count() == now_.to_shard_count()) return now_;
    return Error(absl::StatusCode::kFailedPrecondition, reason::kRescaleRunning,
                 absl::StrCat("a rescale from ", now_.from_shard_count(), " to ",
                              now_.to_shard_count(), " shards is ", RescaleStateName(now_.state()),
                              ": wait for its end, or call CancelRescale before its switch"),
                 std::chrono::seconds(1));
  }
  const absl::Status check = parts_.Check();
  // That shards are stopped bears only on a rescale that would start their guilds.
  if (!check.ok() && ReasonOf(check) != reason::kShardNotRunning) return check;
  const RescaleFacts facts = parts_.Facts();
  const absl::StatusOr<uint32_t> target = Target(request, facts);
  if (!target.ok()) return target.status();
  if (*target == facts.shard_count) {
    v1::RescaleStatus done;
    done.set_state(v1::RESCALE_STATE_DONE);
    done.set_from_shard_count(*target);
    done.set_to_shard_count(*target);
    done.set_shards_ready(*target);
    done.set_reason("this count runs already");
    return done;
  }
  if (!check.ok()) return check;
  v1::RescaleStatus planned = Planned(facts, *target);
  if (request.dry_run()) return planned;
  if (AwaitsRetry(*target)) return now_;

  if (auto status = parts_.Begin(facts.shard_count, *target); !status.ok()) return status;
  if (retry_target_ != *target) retry_.Reset();
  retry_target_ = 0;
  now_ = std::move(planned);
  next_beat_ = SteadyTime::min();
  parts_.Write(Change(now_.state(), ""), "");
  log::Info("a rescale begins", {{"from_shard_count", now_.from_shard_count()},
                                 {"to_shard_count", now_.to_shard_count()},
                                 {"warnings", now_.plan().warnings_size()}});
  for (const std::string& warning : now_.plan().warnings()) {
    log::Warn("of the rescale's plan", {{"warning", warning}});
  }
  Publish();
  on_change_();
  work_.notify_all();
  return now_;
}

absl::StatusOr<v1::RescaleStatus> Rescaler::Cancel() {
  const std::lock_guard work(work_mutex_);
  if (now_.state() == v1::RESCALE_STATE_SWITCHED) {
    return Error(absl::StatusCode::kFailedPrecondition, reason::kRescaleSwitched,
                 absl::StrCat("the new generation of ", now_.to_shard_count(),
                              " shards is in charge already: wait until it is DONE; to go back, "
                              "call Rescale with ",
                              now_.from_shard_count()));
  }
  if (is_before_switch()) {
    End(v1::RESCALE_STATE_CANCELLED, "by CancelRescale");
  } else if (now_.has_retry_at()) {
    retry_target_ = 0;
    now_.clear_retry_at();
    Publish();
  }
  return now_;
}

v1::RescaleStatus Rescaler::status() const {
  const std::lock_guard lock(mutex_);
  return published_;
}

// ---- How it goes on ----

void Rescaler::Tick() {
  const std::lock_guard work(work_mutex_);
  if (is_stopped_) return;
  const SteadyTime now = options_.clock->Steady();
  // Also what goes through an old shard yet while it drains.
  if (is_carrying_ || now_.state() == v1::RESCALE_STATE_SWITCHED) {
    is_carrying_ = !parts_.SendOn();
  }
  if (is_under_way()) {
    if (now >= next_beat_) {
      next_beat_ = now + options_.beat;
      parts_.Beat(now_.from_shard_count(), now_.to_shard_count());
    }
    if (is_before_switch()) {
      TickBeforeSwitch(now);
    } else {
      TickAfterSwitch(now);
    }
    Publish();
  }
}

void Rescaler::TickBeforeSwitch(SteadyTime now) {
  if (now_.state() == v1::RESCALE_STATE_PLANNED) SetState(v1::RESCALE_STATE_IDENTIFYING, "");
  incoming_ = parts_.Shards(now_.to_shard_count());
  const Overlap::Progress progress = parts_.Tick(now);
  CopyProgress(progress, now_);
  const auto ready = std::ranges::count(incoming_, ShardState::kReady, &gateway::ShardInfo::state);
  now_.set_shards_ready(static_cast<uint32_t>(ready));
  if (const auto failure = WhyFailed(progress)) {
    End(v1::RESCALE_STATE_FAILED, *failure);
    return;
  }
  const bool all_ready = now_.shards_ready() == now_.to_shard_count();
  if (now_.state() == v1::RESCALE_STATE_IDENTIFYING && all_ready) {
    aligning_since_ = now;
    SetState(v1::RESCALE_STATE_ALIGNING, progress.waits_for);
  }
  if (!all_ready) {
    const auto first = std::ranges::find_if(
        incoming_, [](const auto& shard) { return shard.state != ShardState::kReady; });
    now_.set_reason(absl::StrCat(now_.shards_ready(), " of ", now_.to_shard_count(),
                                 " shards are READY",
                                 first == incoming_.end() ? "" : "; " + Describe(*first)));
  } else {
    now_.set_reason(progress.waits_for);
  }
  if (now_.state() == v1::RESCALE_STATE_ALIGNING) Align(progress, now);
}

// What makes it impossible, or hopeless, to go on.
std::optional<std::string> Rescaler::WhyFailed(const Overlap::Progress& progress) const {
  for (const gateway::ShardInfo& shard : incoming_) {
    if (shard.state == ShardState::kFailed || shard.state == ShardState::kCrashLoop) {
      return Describe(shard);
    }
  }
  return progress.failure;
}

void Rescaler::Align(const Overlap::Progress& progress, SteadyTime now) {
  const bool may_switch =
      now_.shards_ready() == now_.to_shard_count() && progress.waits_for.empty();
  if (may_switch) {
    const auto data = [this](uint64_t generation) {
      return EventData(v1::RESCALE_STATE_SWITCHED, "", generation);
    };
    const bool is_done = parts_.Switch(now, Change(v1::RESCALE_STATE_SWITCHED, ""), data);
    if (is_done) {
      switched_at_ = now;
      is_carrying_ = true;
      now_.set_state(v1::RESCALE_STATE_SWITCHED);
      now_.set_reason("the old generation drains");
      log::Info("the rescale has switched: the new generation is in charge",
                {{"from_shard_count", now_.from_shard_count()},
                 {"to_shard_count", now_.to_shard_count()},
                 {"generation", parts_.Generation()}});
      Publish();
      on_change_();
      return;
    }
  }
  if (now - aligning_since_ < options_.timeout) return;
  End(v1::RESCALE_STATE_FAILED,
      absl::StrCat("it could not switch within --rescale-timeout (",
                   std::chrono::ceil<std::chrono::seconds>(options_.timeout).count(),
                   " s): ", now_.reason().empty() ? "no moment was right for it" : now_.reason()));
}

void Rescaler::TickAfterSwitch(SteadyTime now) {
  CopyProgress(parts_.Tick(now), now_);
  const auto passed = now - switched_at_;
  if (passed < options_.drain) return;
  const bool has_drained = parts_.HasDrained();
  // While a new shard has no session, the old generation brings its events.
  const std::vector<gateway::ShardInfo> shards = parts_.Shards(now_.to_shard_count());
  const auto missing = std::ranges::find_if(
      shards, [](const auto& shard) { return shard.state != ShardState::kReady; });
  const bool is_covered = missing == shards.end();
  const bool has_time =
      passed < options_.drain + (is_covered ? options_.longest_wait : options_.timeout);
  if (has_time && (!has_drained || is_carrying_)) return;
  std::string reason;
  if (!is_covered) {
    reason = absl::StrCat("the old generation was closed though ", Describe(*missing));
  } else if (!has_drained) {
    reason = "the old generation was closed before the new one had brought all that it had brought";
  } else if (is_carrying_) {
    reason = "the old generation was closed before the bot was back in all calls";
  }
  if (!reason.empty()) log::Warn("the rescale does not wait any longer", {{"reason", reason}});
  End(v1::RESCALE_STATE_DONE, reason);
}

// Ends what is under way, in the one of both ways that its place before or behind the switch
// leaves.
void Rescaler::End(v1::RescaleState state, const std::string& reason) {
  if (is_before_switch()) {
    parts_.RollBack(now_.to_shard_count());
  } else {
    parts_.Retire(now_.from_shard_count());
  }
  now_.set_held_events(0);
  now_.set_held_bytes(0);
  if (state == v1::RESCALE_STATE_FAILED) {
    const std::chrono::milliseconds pause = retry_.Next();
    retry_target_ = now_.to_shard_count();
    retry_at_ = options_.clock->Steady() + pause;
    *now_.mutable_retry_at() = ToProto(options_.clock->Wall() + pause);
  } else {
    retry_.Reset();
  }
  SetState(state, reason);
}

void Rescaler::SetState(v1::RescaleState state, const std::string& reason) {
  now_.set_state(state);
  now_.set_reason(reason);
  parts_.Write(Change(state, reason), EventData(state, reason, parts_.Generation()));
  log::Write(state == v1::RESCALE_STATE_FAILED ? log::Level::kError : log::Level::kInfo,
             "the rescale is in another state",
             {{"state", RescaleStateName(state)},
              {"from_shard_count", now_.from_shard_count()},
              {"to_shard_count", now_.to_shard_count()},
              {"reason", reason}});
  Publish();
  on_change_();
}

void Rescaler::Publish() {
  const std::lock_guard lock(mutex_);
  published_ = now_;
}

events::RescaleChanged Rescaler::Change(v1::RescaleState state, const std::string& reason) const {
  return {.rescale = {.from_shard_count = now_.from_shard_count(),
                      .to_shard_count = now_.to_shard_count(),
                      .step = StepOf(state),
                      .reason = reason}};
}

std::string Rescaler::EventData(v1::RescaleState state, const std::string& reason,
                                uint64_t generation) const {
  return absl::StrCat("{\"state\":\"", RescaleStateName(state),
                      "\",\"from_shard_count\":", now_.from_shard_count(),
                      ",\"to_shard_count\":", now_.to_shard_count(), ",\"generation\":", generation,
                      ",\"reason\":\"", JsonEscape(reason), "\"}");
}

// ---- Where it ends with the server, and goes on with the next ----

void Rescaler::Stop() {
  thread_.request_stop();
  const std::lock_guard work(work_mutex_);
  if (std::exchange(is_stopped_, true)) return;
  if (is_before_switch()) {
    End(v1::RESCALE_STATE_FAILED,
        "the server was stopped before the switch; the old generation goes on. Call Rescale again");
  } else if (is_under_way()) {
    End(v1::RESCALE_STATE_DONE, "the server was stopped while the old generation drained");
  }
}

void Rescaler::Resume(const std::optional<events::RescaleRecord>& left) {
  if (!left.has_value()) return;
  const std::lock_guard work(work_mutex_);
  now_.set_from_shard_count(left->from_shard_count);
  now_.set_to_shard_count(left->to_shard_count);
  switch (left->step) {
    case RescaleStep::kRunning:
      SetState(v1::RESCALE_STATE_FAILED, std::string(kEndedBeforeSwitch));
      return;
    case RescaleStep::kSwitched:
      SetState(v1::RESCALE_STATE_DONE, "the server ended while the old generation drained");
      break;
    case RescaleStep::kDone:
      now_.set_state(v1::RESCALE_STATE_DONE);
      break;
    case RescaleStep::kCancelled:
      now_.set_state(v1::RESCALE_STATE_CANCELLED);
      break;
    case RescaleStep::kFailed:
      now_.set_state(v1::RESCALE_STATE_FAILED);
      break;
  }
  if (now_.state() == v1::RESCALE_STATE_DONE) now_.set_shards_ready(now_.to_shard_count());
  if (left->step != RescaleStep::kSwitched) now_.set_reason(left->reason);
  Publish();
}

}  // namespace shardd::server
