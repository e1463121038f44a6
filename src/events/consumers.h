#pragma once

#include <array>
#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "events/cursor.h"
#include "events/filter.h"

namespace shardd::events {

// Who a kept cursor belongs to: the n workers of one bot share a name. No partition is 0 of 1.
struct ConsumerKey {
  std::string name;
  Partition partition;

  friend auto operator<=>(const ConsumerKey&, const ConsumerKey&) = default;
};

// 1 to kMaxConsumerNameBytes printable characters of ASCII without blanks.
bool IsConsumerName(std::string_view name);
inline constexpr size_t kMaxConsumerNameBytes = 100;

// The cursors that the server keeps for named consumers, in a file of fixed size whose space is
// reserved when it is opened: a slot a consumer with two copies, of which each change overwrites
// the older one, so that a write that is torn leaves the one before. A change survives the process
// the moment that its call returns (though not the machine).
//
// A consumer that has neither been connected nor acknowledged anything for `ttl` is forgotten: it
// is neither listed nor acknowledged. Its slot stays until another consumer needs it, and a stream
// of its name goes on there, so that nothing is skipped in silence.
//
// Thread-safe. REQUIRES: one process at a time (DataDir).
class Consumers {
 public:
  struct Options {
    std::string path;
    std::chrono::nanoseconds ttl{0};
    const Clock* clock = nullptr;  // outlives the consumers
  };
  // Makes the file where there is none. What is damaged or has been cut off is dropped, with a
  // warning in the server's log.
  //   INVALID_ARGUMENT    a format that this version does not know; the file is as it was
  //   RESOURCE_EXHAUSTED  no space
  //   UNAVAILABLE         the file cannot be made, opened or read
  static absl::StatusOr<std::unique_ptr<Consumers>> Open(Options options);
  ~Consumers();
  Consumers(const Consumers&) = delete;
  Consumers& operator=(const Consumers&) = delete;

  struct Stream {
    Cursor kept;
    bool is_new = false;  // nothing was kept: `start` is, from here on
    uint64_t number = 0;  // grows from stream to stream
  };
  // A stream of the consumer opens; each one is to be closed.
  //   RESOURCE_EXHAUSTED  all slots belong to consumers that are not forgotten
  //   UNAVAILABLE         the file cannot be written to
  absl::StatusOr<Stream> OpenStream(const ConsumerKey& key, const Cursor& start);
  void CloseStream(const ConsumerKey& key);
  // Whether this opening of the file has dropped consumers, whose names nobody knows: any name that
  // is new may be one of theirs.
  bool has_lost_some() const { return has_lost_some_; }
  // Number of the newest stream of the consumer; 0: there was none.
  uint64_t newest_stream(const ConsumerKey& key) const;

  // Keeps `cursor`, unless what is kept is newer. One of another log counts as older, and so does
  // one beyond `end`, which can be nobody's. REQUIRES: `cursor` is of the present log.
  //   NOT_FOUND    no consumer of this name and partition, or a forgotten one
  //   UNAVAILABLE  the file cannot be written to
  absl::Status Ack(const ConsumerKey& key, const Cursor& cursor, uint64_t end);

  struct Consumer {
    ConsumerKey key;
    Cursor kept;
    bool connected = false;
  };
  // Those that are not forgotten, by name and partition.
  std::vector<Consumer> List() const;

  // To be called now and then: connected consumers are not forgotten, also should the process end.
  void KeepConnected();

  // Layout, for tests.
  static constexpr size_t kCapacity = 1024;
  static constexpr size_t kRecordBytes = 160;
  static constexpr size_t kSlotBytes = 2 * kRecordBytes;
  static constexpr size_t kSlotsOffset = 4096;
  static constexpr size_t kFileBytes = kSlotsOffset + kCapacity * kSlotBytes;

 private:
  struct Slot {
    ConsumerKey key;  // no name: empty
    Cursor kept;
    int64_t last_seen_unix_nanos = 0;
    uint64_t number = 0;    // of the newest copy
    uint8_t next_copy = 0;  // where the next one goes
    uint32_t open_streams = 0;
    uint64_t newest_stream = 0;
  };

  Consumers(Options options, int fd) : options_(std::move(options)), fd_(fd) {}
  absl::Status Read();
  void Take(size_t slot, const unsigned char* bytes, size_t* damaged);

  // All REQUIRE mutex_.
  int64_t Now() const { return UnixNanos(options_.clock->Wall()); }
  bool IsForgotten(const Slot& slot, int64_t now) const;
  // The slot of `key`; none: nullptr.
  Slot* Find(const ConsumerKey& key);
  // An empty slot, or that of the consumer that was forgotten first; none: nullptr.
  Slot* FindFree(int64_t now);
  // Takes `changed` for what is in `slot`, once it is in the file.
  absl::Status Write(Slot& slot, Slot changed);

  const Options options_;
  const int fd_;
  bool has_lost_some_ = false;  // set by Read alone
  mutable std::mutex mutex_;
  uint64_t next_number_ = 1;
  uint64_t next_stream_ = 1;
  std::array<Slot, kCapacity> slots_;
  std::map<ConsumerKey, size_t> by_key_;
};

}  // namespace shardd::events
