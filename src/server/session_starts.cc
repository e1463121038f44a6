#include "server/session_starts.h"

namespace shardd::server {
namespace {

// What the gate may look back: Discord's day, and some slack.
constexpr std::chrono::hours kLookBack{25};

}  // namespace

gateway::SessionStartLedger::Contents SessionStarts::Load(SteadyTime now) {
  events::Ledger::Contents kept = ledger_->Load(now, kLookBack);
  Contents contents{
      .complete = kept.complete, .limits = std::nullopt, .starts = std::move(kept.starts)};
  if (kept.limits) {
    contents.limits = gateway::SessionLimits{.total = kept.limits->total,
                                             .remaining = kept.limits->remaining,
                                             .max_concurrency = kept.limits->max_concurrency,
                                             .asked_at = kept.limits->asked_at,
                                             .renews_at = kept.limits->renews_at,
                                             .day_had_begun = kept.limits->day_had_begun,
                                             .believed = kept.limits->believed,
                                             .rise_from = kept.limits->rise_from};
  }
  return contents;
}

absl::Status SessionStarts::WriteStart(uint32_t shard_id, SteadyTime now) {
  return ledger_->WriteStart(shard_id, now);
}

absl::Status SessionStarts::WriteLimits(const gateway::SessionLimits& limits, uint64_t starts_since,
                                        SteadyTime now) {
  return ledger_->WriteLimits({.total = limits.total,
                               .remaining = limits.remaining,
                               .max_concurrency = limits.max_concurrency,
                               .asked_at = limits.asked_at,
                               .renews_at = limits.renews_at,
                               .day_had_begun = limits.day_had_begun,
                               .believed = limits.believed,
                               .rise_from = limits.rise_from},
                              starts_since, now);
}

}  // namespace shardd::server
