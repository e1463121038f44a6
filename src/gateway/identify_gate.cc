#include "gateway/identify_gate.h"

#include <algorithm>
#include <utility>

namespace shardd::gateway {
namespace {

// How far back spent starts are remembered: far longer than an answer of /gateway/bot is on its
// way.
constexpr std::chrono::minutes kRemembered{10};

}  // namespace

IdentifyGate::IdentifyGate(std::chrono::milliseconds window) : window_(window) {}

void IdentifyGate::SetLimits(uint32_t max_concurrency, uint32_t total, uint32_t remaining,
                             std::chrono::milliseconds reset_after, SteadyTime read_at,
                             SteadyTime now) {
  Due due;
  {
    const std::lock_guard lock(mutex_);
    RegroupLocked(std::max<uint32_t>(max_concurrency, 1));
    const auto since = std::ranges::count_if(spent_, [&](SteadyTime t) { return t > read_at; });
    total_ = total;
    remaining_ = remaining - std::min(remaining, static_cast<uint32_t>(since));
    // 0 while nothing has been used of the day's starts: then there is nothing to be reset.
    resets_at_.reset();
    if (reset_after.count() > 0) resets_at_ = read_at + reset_after;
    AdmitAllLocked(&due, now);
  }
  Call(std::move(due));
}

IdentifyGate::Ticket IdentifyGate::Enter(uint32_t shard_id, Admit admit, SteadyTime now) {
  Due due;
  Ticket ticket = 0;
  {
    const std::lock_guard lock(mutex_);
    ticket = ++last_ticket_;
    bucket_of_[ticket] = shard_id % max_concurrency_;
    Bucket& bucket = BucketLocked(shard_id);
    bucket.places.push_back({ticket, shard_id, std::move(admit)});
    RefillLocked(now);
    AdmitLocked(bucket, &due, now);
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
    RefillLocked(now);
    // The start that this one did not spend may be what another bucket waits for.
    AdmitAllLocked(&due, now);
  }
  Call(std::move(due));
}

void IdentifyGate::Identified(Ticket ticket, SteadyTime now) {
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
    bucket.last_identify = now;
    if (remaining_ > 0) --remaining_;
    spent_.push_back(now);
    while (spent_.front() < now - kRemembered) spent_.pop_front();
    RefillLocked(now);
    AdmitLocked(bucket, &due, now);
  }
  Call(std::move(due));
}

void IdentifyGate::Tick(SteadyTime now) {
  Due due;
  {
    const std::lock_guard lock(mutex_);
    RefillLocked(now);
    AdmitAllLocked(&due, now);
  }
  Call(std::move(due));
}

uint32_t IdentifyGate::remaining(SteadyTime now) const {
  const std::lock_guard lock(mutex_);
  return resets_at_ && now >= *resets_at_ ? total_ : remaining_;
}

size_t IdentifyGate::waiting() const {
  const std::lock_guard lock(mutex_);
  return bucket_of_.size();
}

void IdentifyGate::AdmitLocked(Bucket& bucket, Due* due, SteadyTime now) {
  if (bucket.places.empty()) return;
  Place& first = bucket.places.front();
  if (first.admitted || remaining_ <= admitted_) return;
  first.admitted = true;
  ++admitted_;
  SteadyTime not_before = now;
  if (bucket.last_identify) not_before = std::max(now, *bucket.last_identify + window_);
  due->emplace_back(std::move(first.admit), not_before);
}

void IdentifyGate::AdmitAllLocked(Due* due, SteadyTime now) {
  for (auto& [index, bucket] : buckets_) AdmitLocked(bucket, due, now);
}

void IdentifyGate::RefillLocked(SteadyTime now) {
  if (!resets_at_ || now < *resets_at_) return;
  remaining_ = total_;
  resets_at_.reset();
}

// Another max_concurrency: other buckets. All of them then count from the latest IDENTIFY of any,
// and whoever was admitted stays so.
void IdentifyGate::RegroupLocked(uint32_t max_concurrency) {
  if (max_concurrency == max_concurrency_) return;
  max_concurrency_ = max_concurrency;
  std::vector<Place> places;
  std::optional<SteadyTime> latest = last_before_regroup_;
  for (auto& [index, bucket] : buckets_) {
    for (Place& place : bucket.places) places.push_back(std::move(place));
    if (bucket.last_identify)
      latest = std::max(latest.value_or(*bucket.last_identify), *bucket.last_identify);
  }
  buckets_.clear();
  bucket_of_.clear();
  last_before_regroup_ = latest;
  std::ranges::sort(places, [](const Place& a, const Place& b) {
    return std::pair(!a.admitted, a.ticket) < std::pair(!b.admitted, b.ticket);
  });
  for (Place& place : places) {
    bucket_of_[place.ticket] = place.shard_id % max_concurrency;
    BucketLocked(place.shard_id).places.push_back(std::move(place));
  }
}

IdentifyGate::Bucket& IdentifyGate::BucketLocked(uint32_t shard_id) {
  const auto [found, is_new] = buckets_.try_emplace(shard_id % max_concurrency_);
  if (is_new) found->second.last_identify = last_before_regroup_;
  return found->second;
}

void IdentifyGate::Call(Due due) {
  for (auto& [admit, not_before] : due) admit(not_before);
}

}  // namespace shardd::gateway
