#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "events/index_entry.h"

namespace shardd::events {

// What a frame of kind kControl says; in IndexEntry::flags. Its `offset` is the position in the log
// that the file covers with it.
enum class SnapshotMark : uint8_t {
  kPosition = 1,           // nothing else
  kLeaveOut = 2,           // the record is the ids (u64) of guilds that cannot be told of any more
  kLeaveOutAll = 3,        // of no guild can be told any more
  kForgetOtherCounts = 4,  // shards of other counts than `shard_count` have gone, and so have the
                           // guilds whose ids (u64) are the record: nobody here has their shards
  kForgetReady = 5,        // of the shard
  kSwitched = 6,           // a rescale to `shard_count` has taken over
};

// A file of frames, one behind the other: an IndexEntry, and the record that it describes. Of an
// event the entry has what the log's has, but for `position` (0), `data_crc` (of all of the
// record) and `flags` (kUnavailable); its record is the log's with `snapshot` set, so it goes to
// clients as it stands. The file starts with a header that names its format and its log.
//
// Frames are appended; what a kill leaves at the end is cut when the file is opened. Appending is
// for one thread at a time; reading is for any, beside it.
class SnapshotFile {
 public:
  static constexpr uint32_t kVersion = 1;
  static constexpr uint64_t kHeaderBytes = 64;
  static constexpr uint64_t kFrameBytes = sizeof(IndexEntry);  // beside the record
  static constexpr uint8_t kUnavailable = 1;                   // SnapshotFacts::unavailable
  // What the file may have on disk beyond end().
  static constexpr uint64_t kHeadroom = 16 << 10;

  // An empty one in place of what has this name.
  //   UNAVAILABLE, RESOURCE_EXHAUSTED  it cannot be made
  static absl::StatusOr<std::shared_ptr<SnapshotFile>> Create(const std::string& path,
                                                              uint64_t log_id);
  //   NOT_FOUND         there is none, or none of this log; the message says which
  //   INVALID_ARGUMENT  a format that this version does not know; the file is as it was
  //   UNAVAILABLE       it cannot be read
  static absl::StatusOr<std::shared_ptr<SnapshotFile>> Open(const std::string& path,
                                                            uint64_t log_id);
  ~SnapshotFile();
  SnapshotFile(const SnapshotFile&) = delete;
  SnapshotFile& operator=(const SnapshotFile&) = delete;

  // Calls `visit` for each frame with its position; `intact`: the record is what was written. Ends
  // at the first frame that is not whole, and cuts the file there. Returns how many bytes were cut.
  using Visit = std::function<void(const IndexEntry& entry, std::string_view record,
                                   uint64_t position, bool intact)>;
  uint64_t Replay(const Visit& visit);

  // Appends a frame at end(); the record is `parts` one behind the other. Sets the entry's length
  // and checksums. Where it fails, the file is as it was.
  //   RESOURCE_EXHAUSTED  no space
  //   UNAVAILABLE         any other reason
  absl::Status Append(IndexEntry& entry, std::initializer_list<std::string_view> parts);

  // The frame at `position`.
  //   DATA_LOSS  it is not what was written
  absl::Status Read(uint64_t position, uint32_t length, IndexEntry* entry,
                    std::string* record) const;

  // Forgets all frames.
  absl::Status Clear();
  absl::Status Rename(const std::string& path);

  uint64_t end() const { return end_.load(std::memory_order_relaxed); }

 private:
  SnapshotFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  void KeepHeadroom();

  std::string path_;
  const int fd_;
  std::atomic<uint64_t> end_ = kHeaderBytes;
  uint64_t reserved_ = 0;
};

}  // namespace shardd::events
