#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gateway/event_sink.h"

namespace shardd::gateway {

struct RecordedDispatch {
  ShardId shard;
  uint32_t session = 0;
  uint64_t sequence = 0;
  uint64_t guild_id = 0;
  std::string type;
  std::string data;
};

struct RecordedLoss {
  ShardId shard;
  uint32_t session = 0;
  uint64_t last_sequence = 0;
  std::string reason;
};

struct RecordedOpening {
  ShardId shard;
  uint32_t session = 0;
  std::string id;
  std::string resume_url;
  uint64_t intents = 0;
};

struct RecordedEnd {
  ShardId shard;
  uint32_t session = 0;
};

struct RecordedSkip {
  ShardId shard;
  uint64_t sequence = 0;
  std::string type;
};

struct RecordedCrashLoop {
  ShardId shard;
  uint32_t deaths = 0;
  uint64_t restarts = 0;
  std::string reason;
};

// Remembers what the sinks of a pool were told; only what was flushed counts as told. Thread-safe.
class Recorder {
 public:
  // A sink for one worker. REQUIRES: the recorder outlives it.
  std::unique_ptr<EventSink> MakeSink() { return std::make_unique<Sink>(this); }

  std::vector<RecordedDispatch> Dispatches(ShardId shard, uint32_t session) const {
    const std::lock_guard lock(mutex_);
    std::vector<RecordedDispatch> found;
    for (const RecordedDispatch& each : told_.dispatches) {
      if (each.shard == shard && each.session == session) found.push_back(each);
    }
    return found;
  }
  size_t dispatch_count() const {
    const std::lock_guard lock(mutex_);
    return told_.dispatches.size();
  }
  std::vector<RecordedLoss> losses() const {
    const std::lock_guard lock(mutex_);
    return told_.losses;
  }
  std::vector<RecordedOpening> openings() const {
    const std::lock_guard lock(mutex_);
    return told_.openings;
  }
  std::vector<RecordedEnd> ends() const {
    const std::lock_guard lock(mutex_);
    return told_.ends;
  }
  std::vector<RecordedSkip> skips() const {
    const std::lock_guard lock(mutex_);
    return told_.skips;
  }
  std::vector<RecordedCrashLoop> crash_loops() const {
    const std::lock_guard lock(mutex_);
    return told_.crash_loops;
  }
  std::vector<ShardId> silences() const {
    const std::lock_guard lock(mutex_);
    return told_.silences;
  }
  // When the heartbeats that were acknowledged were sent.
  std::vector<SteadyTime> acks(ShardId shard) const {
    const std::lock_guard lock(mutex_);
    std::vector<SteadyTime> found;
    for (const auto& [whose, sent] : told_.acks) {
      if (whose == shard) found.push_back(sent);
    }
    return found;
  }
  std::vector<ShardInfo> states(ShardId shard) const {
    const std::lock_guard lock(mutex_);
    std::vector<ShardInfo> found;
    for (const ShardInfo& each : told_.states) {
      if (each.shard == shard) found.push_back(each);
    }
    return found;
  }
  uint64_t flushes() const {
    const std::lock_guard lock(mutex_);
    return flushes_;
  }

  // Waits until `condition`, which may call any method of this class, holds; false after 10 s.
  bool WaitUntil(const std::function<bool()>& condition) const {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!condition()) {
      std::unique_lock lock(mutex_);
      if (std::chrono::steady_clock::now() > until) return false;
      // What a condition asks of others does not wake this up.
      changed_.wait_for(lock, std::chrono::milliseconds(2));
    }
    return true;
  }

 private:
  struct Told {
    std::vector<RecordedDispatch> dispatches;
    std::vector<RecordedOpening> openings;
    std::vector<RecordedEnd> ends;
    std::vector<RecordedLoss> losses;
    std::vector<ShardInfo> states;
    std::vector<RecordedSkip> skips;
    std::vector<RecordedCrashLoop> crash_loops;
    std::vector<ShardId> silences;
    std::vector<std::pair<ShardId, SteadyTime>> acks;
  };

  template <class T>
  static void Move(std::vector<T>* from, std::vector<T>* to) {
    for (T& each : *from) to->push_back(std::move(each));
    from->clear();
  }

  class Sink final : public EventSink {
   public:
    explicit Sink(Recorder* recorder) : recorder_(recorder) {}
    void OnSessionOpened(const OpenedSession& opened) override {
      pending_.openings.push_back({opened.shard, opened.session, std::string(opened.id),
                                   std::string(opened.resume_url), opened.intents});
    }
    void OnSessionEnded(ShardId shard, uint32_t session) override {
      pending_.ends.push_back({shard, session});
    }
    void OnDispatch(const Dispatch& d) override {
      pending_.dispatches.push_back(
          {d.shard, d.session, d.sequence, d.guild_id, std::string(d.type), std::string(d.data)});
    }
    void OnStateChange(const ShardInfo& shard) override { pending_.states.push_back(shard); }
    void OnSessionLost(const LostSession& lost) override {
      pending_.losses.push_back(
          {lost.shard, lost.session, lost.last_sequence, std::string(lost.reason)});
    }
    void OnSkippedEvent(const SkippedEvent& skipped) override {
      pending_.skips.push_back({skipped.shard, skipped.sequence, std::string(skipped.type)});
    }
    void OnCrashLoop(const CrashLoop& loop) override {
      pending_.crash_loops.push_back(
          {loop.shard, loop.deaths, loop.restarts, std::string(loop.reason)});
    }
    void OnSilence(const ShardSilence& silence) override {
      pending_.silences.push_back(silence.shard);
    }
    void OnHeartbeatAck(ShardId shard, SteadyTime sent) override {
      pending_.acks.push_back({shard, sent});
    }
    void Flush() override {
      const std::lock_guard lock(recorder_->mutex_);
      Move(&pending_.dispatches, &recorder_->told_.dispatches);
      Move(&pending_.openings, &recorder_->told_.openings);
      Move(&pending_.ends, &recorder_->told_.ends);
      Move(&pending_.losses, &recorder_->told_.losses);
      Move(&pending_.states, &recorder_->told_.states);
      Move(&pending_.skips, &recorder_->told_.skips);
      Move(&pending_.crash_loops, &recorder_->told_.crash_loops);
      Move(&pending_.silences, &recorder_->told_.silences);
      Move(&pending_.acks, &recorder_->told_.acks);
      ++recorder_->flushes_;
      recorder_->changed_.notify_all();
    }

   private:
    Recorder* const recorder_;
    Told pending_;
  };

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  Told told_;
  uint64_t flushes_ = 0;
};

}  // namespace shardd::gateway
