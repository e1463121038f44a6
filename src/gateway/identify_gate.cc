#include "gateway/identify_gate.h"

#include <algorithm>
#include <ctime>
#include <limits>
#include <utility>

#include "common/log.h"
#include "common/status.h"

namespace shardd::gateway {
namespace {

// Discord's session start limit is one of a day, which begins with its first IDENTIFY.
constexpr std::chrono::hours kDay{24};
// /gateway/bot's times are known as well as its answer is quick.
constexpr std::chrono::seconds kSlack{15};
// An IDENTIFY that was sent this long before /gateway/bot was asked may be missing in the answer.
constexpr std::chrono::seconds kInFlight{2};
// More starts a day than any bot of kMaxShardCount shards needs; beyond it the oldest are
// forgotten.
constexpr size_t kMostStarts = 1 << 17;
// Starts of which not even a lost session is worth the last: one in so many of the total.
constexpr uint32_t kLastRestDivisor = 100;
constexpr std::chrono::seconds kLedgerPause{5};

// `all` less `some`, or nothing.
uint64_t Less(uint64_t all, uint64_t some) { return all - std::min(all, some); }

std::string TimeText(WallTime time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

}  // namespace

uint32_t IdentifyReserve::Of(uint32_t total) const {
  return std::max(starts, static_cast<uint32_t>(total * percent / 100));
}

IdentifyGate::IdentifyGate(Options options, SteadyTime now) : options_(std::move(options)) {
  if (options_.ledger == nullptr) return;
  SessionStartLedger::Contents kept = options_.ledger->Load(now);
  starts_are_missing_ = !kept.complete;
  limits_ = kept.limits;
  starts_.assign(kept.starts.begin(), kept.starts.end());
  // Which bucket a start was in is not kept: max_concurrency may have been another.
  if (!starts_.empty()) last_before_regroup_ = starts_.back();
  if (starts_are_missing_) last_before_regroup_ = now;
}

void IdentifyGate::SetRefresh(std::function<void()> refresh) {
  const std::lock_guard lock(mutex_);
  refresh_ = std::move(refresh);
}

void IdentifyGate::SetLimits(const Reading& reading, SteadyTime now) {
  Due due;
  {
    const std::lock_guard lock(mutex_);
    SessionLimits limits{.total = reading.total,
                         .remaining = reading.remaining,
                         .max_concurrency = std::max<uint32_t>(reading.max_concurrency, 1),
                         .asked_at = reading.asked_at,
                         .renews_at = reading.read_at + reading.reset_after,
                         .day_had_begun = true,
                         .believed = reading.remaining,
                         .rise_from = {}};
    // 0 while nothing of the day has been used.
    const bool is_unused = reading.reset_after.count() <= 0;
    if (is_unused) {
      limits.day_had_begun = false;
      limits.renews_at = reading.asked_at + kDay;
    }
    limits.rise_from = limits.renews_at;
    // Starts are gone and the day is over: it was read just as the day ended, and the next answer
    // may well say more.
    if (is_unused && reading.remaining < reading.total) {
      limits.rise_from = reading.asked_at + kSlack;
    }
    if (limits_ && reading.asked_at < limits_->rise_from) {
      // Without those that the earlier answer may have lacked: most likely it did not, and what is
      // taken off twice here would be missing until the day ends.
      const uint64_t before = StartsSinceLocked(limits_->asked_at);
      const uint64_t after = StartsSinceLocked(reading.asked_at - kInFlight);
      const uint64_t left = Less(limits_->believed, Less(before, after));
      limits.believed = static_cast<uint32_t>(std::min<uint64_t>(limits.believed, left));
      limits.rise_from = std::min(limits.rise_from, limits_->rise_from);
    }
    RegroupLocked(limits.max_concurrency);
    limits_ = limits;
    starts_are_missing_ = false;
    fresh_since_ = reading.asked_at;
    refresh_asked_.reset();
    WriteLimitsLocked(now);
    WarnLocked(now);
    AdmitAllLocked(&due, now);
  }
  Call(std::move(due));
}

void IdentifyGate::KeepLimits(SteadyTime now) {
  Due due;
  {
    const std::lock_guard lock(mutex_);
    fresh_since_ = now;
    refresh_asked_.reset();
    AdmitAllLocked(&due, now);
  }
  Call(std::move(due));
}

IdentifyGate::Ticket IdentifyGate::Enter(uint32_t shard_id, Purpose purpose, Admit admit,
                                         SteadyTime now) {
  Due due;
  Ticket ticket = 0;
  {
    const std::lock_guard lock(mutex_);
    Bucket& bucket = BucketLocked(shard_id);
    ticket = ++last_ticket_;
    bucket_of_[ticket] = shard_id % (limits_ ? limits_->max_concurrency : 1);
    bucket.places.push_back({ticket, shard_id, purpose, std::move(admit)});
    if (IsStaleLocked(now)) AskLocked(&due, now);
    AdmitLocked(bucket, &due, now);
    WarnLocked(now);
  }
  Call(std::move(due));
  return ticket;
}

void IdentifyGate::Leave(Ticket ticket, SteadyTime now) {
  Due due;
  {
    const std::lock_guard lock(mutex_);
    const auto found = bucket_of_.find(ticket);
    if (found == bucket_of_.end()) return;
    Bucket& bucket = buckets_[found->second];
    bucket_of_.erase(found);
    const auto place = std::ranges::find(bucket.places, ticket, &Place::ticket);
    if (place->admitted) --admitted_;
    bucket.places.erase(place);
    // The start that this one did not spend may be what another bucket waits for.
    AdmitAllLocked(&due, now);
  }
  Call(std::move(due));
}

IdentifyGate::Verdict IdentifyGate::Identify(Ticket ticket, SteadyTime now) {
  Due due;
  Verdict verdict;
  {
    const std::lock_guard lock(mutex_);
    const auto found = bucket_of_.find(ticket);
    if (found == bucket_of_.end()) return verdict;
    Bucket& bucket = buckets_[found->second];
    const auto place = std::ranges::find(bucket.places, ticket, &Place::ticket);
    // After a change of max_concurrency a bucket may hold several that were admitted.
    if (bucket.last_identify && now < *bucket.last_identify + options_.window) {
      return {Verdict::kLater, *bucket.last_identify + options_.window};
    }
    if (place->admitted && CoversLocked(place->purpose, 0, now)) {
      const absl::Status written = options_.ledger == nullptr
                                       ? absl::OkStatus()
                                       : options_.ledger->WriteStart(place->shard_id, now);
      if (written.ok()) {
        verdict.kind = Verdict::kGranted;
        // Discord's day begins with its first IDENTIFY.
        if (limits_ && !limits_->day_had_begun) {
          limits_->day_had_begun = true;
          limits_->renews_at = now + kDay;
          WriteLimitsLocked(now);
        }
        bucket.last_identify = now;
        starts_.push_back(starts_.empty() ? now : std::max(now, starts_.back()));
        while (starts_.size() > kMostStarts || starts_.front() < now - kDay - 2 * kSlack) {
          starts_.pop_front();
        }
      } else {
        ledger_broken_until_ = now + kLedgerPause;
        log::Error(
            "no shard can identify, since session starts cannot be written down: free or repair "
            "the disk that holds --data-dir",
            {{"error", Message(written)}});
      }
    }
    if (place->admitted) --admitted_;
    bucket.places.erase(place);
    bucket_of_.erase(found);
    AdmitAllLocked(&due, now);
    WarnLocked(now);
  }
  Call(std::move(due));
  return verdict;
}

void IdentifyGate::Tick(SteadyTime now) {
  Due due;
  {
    const std::lock_guard lock(mutex_);
    if (refresh_asked_ && now >= *refresh_asked_ + options_.refresh_patience) {
      refresh_asked_.reset();
      fresh_since_ = now;
    }
    // In a long wave others may spend the same budget; and the day may end while shards wait for
    // it.
    const bool is_new_day = limits_ && now >= limits_->renews_at;
    if (IsStaleLocked(now) && !bucket_of_.empty() && (is_new_day || MayAdmitLocked(now))) {
      AskLocked(&due, now);
    }
    AdmitAllLocked(&due, now);
    WarnLocked(now);
  }
  Call(std::move(due));
}

std::string IdentifyGate::WhyWaiting(Ticket ticket, SteadyTime now) const {
  const std::lock_guard lock(mutex_);
  const auto found = bucket_of_.find(ticket);
  if (found == bucket_of_.end()) return "";
  const Bucket& bucket = buckets_.at(found->second);
  const auto place = std::ranges::find(bucket.places, ticket, &Place::ticket);
  if (place->admitted) return "";
  if (!limits_ || starts_are_missing_) return "Discord has not said yet how many starts are left";
  if (now < ledger_broken_until_) return "session starts cannot be written down: see the log";
  if (!CoversLocked(place->purpose, 0, now)) return SpentTextLocked(place->purpose, now);
  return "";
}

SessionBudget IdentifyGate::budget(SteadyTime now) const {
  const std::lock_guard lock(mutex_);
  SessionBudget budget;
  if (!limits_) return budget;
  budget.known = true;
  budget.total = limits_->total;
  budget.remaining = RemainingLocked(now);
  budget.reserve = KeptLocked().for_start;
  budget.max_concurrency = limits_->max_concurrency;
  if (now < limits_->renews_at && limits_->day_had_begun) budget.renews_at = limits_->renews_at;
  return budget;
}

size_t IdentifyGate::waiting() const {
  const std::lock_guard lock(mutex_);
  return bucket_of_.size();
}

// ---- What is left ----

uint64_t IdentifyGate::StartsSinceLocked(SteadyTime time) const {
  return static_cast<uint64_t>(starts_.end() - std::ranges::lower_bound(starts_, time));
}

uint32_t IdentifyGate::RemainingLocked(SteadyTime now) const {
  if (!limits_ || starts_are_missing_) return 0;
  const bool is_new_day = now >= limits_->renews_at;
  uint64_t left = std::numeric_limits<uint32_t>::max();
  // Without a total there is nothing to renew from.
  if (!is_new_day || limits_->total == 0) {
    const uint32_t said = now < limits_->rise_from ? limits_->believed : limits_->remaining;
    left = Less(said, StartsSinceLocked(limits_->asked_at - kInFlight));
  }
  if (limits_->total > 0) {
    // A new day begins with an IDENTIFY, so the present one began no more than a day ago.
    SteadyTime day_began = limits_->renews_at - kDay;
    if (is_new_day) day_began = now - kDay;
    if (is_new_day && limits_->day_had_begun) day_began = std::max(day_began, limits_->renews_at);
    left = std::min(left, Less(limits_->total, StartsSinceLocked(day_began - kSlack)));
  }
  return static_cast<uint32_t>(left);
}

IdentifyGate::Kept IdentifyGate::KeptLocked() const {
  if (!limits_) return {};
  const uint32_t reserve = options_.reserve.Of(limits_->total);
  return {.for_start = reserve,
          .for_recovery = std::min(reserve, limits_->total / kLastRestDivisor)};
}

bool IdentifyGate::CoversLocked(Purpose purpose, uint32_t promised, SteadyTime now) const {
  const Kept kept = KeptLocked();
  const uint64_t keep = purpose == Purpose::kStart ? kept.for_start : kept.for_recovery;
  return RemainingLocked(now) > keep + promised;
}

std::string IdentifyGate::SpentTextLocked(Purpose purpose, SteadyTime now) const {
  const uint32_t remaining = RemainingLocked(now);
  std::string text = remaining == 0
                         ? "all " + std::to_string(limits_->total) + " session starts are spent"
                         : std::to_string(remaining) + " of " + std::to_string(limits_->total) +
                               " session starts are left";
  if (options_.clock != nullptr && now < limits_->renews_at && limits_->day_had_begun) {
    text += " until " +
            TimeText(options_.clock->Wall() +
                     std::chrono::duration_cast<WallTime::duration>(limits_->renews_at - now));
  }
  if (remaining > 0) {
    text += purpose == Purpose::kStart
                ? ", and kept for shards that lose their session (--identify-reserve)"
                : ", and never used, since one too many resets the token";
  }
  return text;
}

// Said once each, until it is over.
void IdentifyGate::WarnLocked(SteadyTime now) {
  if (!limits_ || starts_are_missing_) return;
  const uint32_t remaining = RemainingLocked(now);
  const bool is_low = remaining < KeptLocked().for_start || remaining == 0;
  if (is_low && !std::exchange(warned_of_reserve_, true)) {
    log::Warn("few session starts are left: find out what starts sessions so often",
              {{"remaining", remaining}, {"total", limits_->total}});
  }
  if (!is_low) warned_of_reserve_ = false;

  const auto spent_for = [&]() -> std::optional<Purpose> {
    if (CoversLocked(Purpose::kStart, 0, now)) return std::nullopt;
    const bool recovery_waits = !CoversLocked(Purpose::kRecovery, 0, now);
    for (const auto& [index, bucket] : buckets_) {
      for (const Place& place : bucket.places) {
        if (place.admitted) continue;
        if (place.purpose == Purpose::kStart || recovery_waits) return place.purpose;
      }
    }
    return std::nullopt;
  }();
  if (spent_for && !std::exchange(warned_of_waiting_, true)) {
    log::Warn("shards wait for new session starts",
              {{"why", SpentTextLocked(*spent_for, now)}, {"shards", bucket_of_.size()}});
  }
  if (!spent_for) warned_of_waiting_ = false;
}

void IdentifyGate::WriteLimitsLocked(SteadyTime now) {
  if (options_.ledger == nullptr) return;
  const absl::Status written =
      options_.ledger->WriteLimits(*limits_, StartsSinceLocked(limits_->asked_at - kInFlight), now);
  // The starts are what counts; Discord is asked again before the next wave.
  if (!written.ok()) {
    log::Error("the session start limit cannot be written down", {{"error", Message(written)}});
  }
}

// ---- Who is let in ----

bool IdentifyGate::IsStaleLocked(SteadyTime now) const {
  return refresh_ && limits_ && (!fresh_since_ || now - *fresh_since_ > options_.fresh_for);
}

// Whether anybody here waits for a turn alone, and not for the budget.
bool IdentifyGate::MayAdmitLocked(SteadyTime now) const {
  if (CoversLocked(Purpose::kStart, 0, now)) return true;
  if (!CoversLocked(Purpose::kRecovery, 0, now)) return false;
  return std::ranges::any_of(buckets_, [](const auto& bucket) {
    return std::ranges::any_of(bucket.second.places, [](const Place& place) {
      return place.purpose == Purpose::kRecovery;
    });
  });
}

void IdentifyGate::AskLocked(Due* due, SteadyTime now) {
  if (refresh_asked_) return;
  refresh_asked_ = now;
  due->refresh = refresh_;
}

bool IdentifyGate::MustHoldLocked(SteadyTime now) const {
  return refresh_asked_ || now < ledger_broken_until_;
}

void IdentifyGate::AdmitLocked(Bucket& bucket, Due* due, SteadyTime now) {
  if (MustHoldLocked(now) || !CoversLocked(Purpose::kRecovery, admitted_, now)) return;
  if (std::ranges::any_of(bucket.places, &Place::admitted)) return;
  const bool covers_start = CoversLocked(Purpose::kStart, admitted_, now);
  const auto first = std::ranges::find_if(bucket.places, [&](const Place& place) {
    return covers_start || place.purpose == Purpose::kRecovery;
  });
  if (first == bucket.places.end()) return;
  first->admitted = true;
  ++admitted_;
  SteadyTime not_before = now;
  if (bucket.last_identify) not_before = std::max(now, *bucket.last_identify + options_.window);
  due->admitted.emplace_back(std::move(first->admit), not_before);
}

void IdentifyGate::AdmitAllLocked(Due* due, SteadyTime now) {
  for (auto& [index, bucket] : buckets_) AdmitLocked(bucket, due, now);
}

// Another max_concurrency: other buckets. All of them then count from the latest IDENTIFY of any,
// and whoever was admitted stays so.
void IdentifyGate::RegroupLocked(uint32_t max_concurrency) {
  if (limits_ ? max_concurrency == limits_->max_concurrency : max_concurrency == 1) return;
  std::vector<Place> places;
  for (auto& [index, bucket] : buckets_) {
    for (Place& place : bucket.places) places.push_back(std::move(place));
  }
  if (!starts_.empty()) {
    last_before_regroup_ = std::max(last_before_regroup_.value_or(starts_.back()), starts_.back());
  }
  buckets_.clear();
  bucket_of_.clear();
  std::ranges::sort(places, [](const Place& a, const Place& b) {
    return std::pair(!a.admitted, a.ticket) < std::pair(!b.admitted, b.ticket);
  });
  for (Place& place : places) {
    const uint32_t index = place.shard_id % max_concurrency;
    bucket_of_[place.ticket] = index;
    const auto [found, is_new] = buckets_.try_emplace(index);
    if (is_new) found->second.last_identify = last_before_regroup_;
    found->second.places.push_back(std::move(place));
  }
}

IdentifyGate::Bucket& IdentifyGate::BucketLocked(uint32_t shard_id) {
  const uint32_t index = shard_id % (limits_ ? limits_->max_concurrency : 1);
  const auto [found, is_new] = buckets_.try_emplace(index);
  if (is_new) found->second.last_identify = last_before_regroup_;
  return found->second;
}

void IdentifyGate::Call(Due due) {
  for (auto& [admit, not_before] : due.admitted) admit(not_before);
  if (due.refresh) due.refresh();
}

}  // namespace shardd::gateway
