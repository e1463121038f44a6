#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shardd::events {

// The file that a log lives in: a page that says what it is, and slots of equal size, of which a
// segment takes one or several. All its space is reserved when it is made, so that no later write
// can lack it; what is written to a mapping of it survives the process, though not the machine.
//
// Thread-compatible; Map() may be called by one thread while others use their mappings.
class LogFile {
 public:
  static constexpr size_t kPageBytes = 4096;

  // Bits of the first page. A version that does not know one leaves the file alone.
  //
  // Asides and copies that are expected: to go on without them would double events.
  static constexpr uint64_t kRescales = 1;
  static constexpr uint64_t kKnownFeatures = kRescales;

  struct Shape {
    uint64_t slot_bytes = 0;  // whole pages
    uint32_t slots = 0;

    uint64_t file_bytes() const { return kPageBytes + slot_bytes * slots; }
    friend bool operator==(const Shape&, const Shape&) = default;
  };

  // Makes a new file beside `path`; Install() puts it there.
  //   RESOURCE_EXHAUSTED  no space; the message has the figures
  //   UNAVAILABLE         it cannot be made
  static absl::StatusOr<std::unique_ptr<LogFile>> Make(const std::string& path, Shape shape,
                                                       uint64_t log_id);
  // In place of what was there, whole or not at all. Nothing to do for one that was opened.
  absl::Status Install();
  // The same in memory, for the life of the object and its mappings.
  static absl::StatusOr<std::unique_ptr<LogFile>> MakeInMemory(Shape shape, uint64_t log_id);

  // Opens what is there. A file that was cut is made whole again, with nothing in what was missing.
  //   NOT_FOUND         there is none
  //   INVALID_ARGUMENT  of a format that this version does not know; it is left as it is
  //   DATA_LOSS         its first page is damaged
  static absl::StatusOr<std::unique_ptr<LogFile>> Open(const std::string& path);

  ~LogFile();
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;

  const Shape& shape() const { return shape_; }
  uint64_t log_id() const { return log_id_; }
  // What was appended last may be missing: the machine went down without a Close(), the file was
  // cut, or its reader has found damage. The file remembers it until it is told, whoever dies.
  bool tail_may_be_lost() const { return tail_may_be_lost_; }
  absl::Status SetTailMayBeLost(bool may_be_lost);

  // What the file holds that not every version knows.
  uint64_t features() const { return features_; }
  // Before any of it is written.
  absl::Status AddFeatures(uint64_t features);

  // The bytes of `slots` slots from `slot` on, shared with the file; munmap() ends it.
  absl::StatusOr<uint8_t*> Map(uint32_t slot, uint32_t slots) const;

  // `header` is what a slot begins with that holds nothing.
  void Clear(uint32_t slot, std::string_view header) const;

  // Takes its name away: the space is given back when the last mapping ends.
  void Unlink();
  // All is on disk when this returns, and the next Open() believes so whatever becomes of the
  // machine.
  void Close();

 private:
  LogFile(std::string path, int fd, Shape shape, uint64_t log_id)
      : path_(std::move(path)), fd_(fd), shape_(shape), log_id_(log_id) {}
  // Whether all that was written is on disk.
  absl::Status WriteFirstPage(bool is_clean);

  std::string path_;  // empty: it has no name
  const int fd_;
  const Shape shape_;
  const uint64_t log_id_;
  bool is_installed_ = false;
  bool tail_may_be_lost_ = false;
  uint64_t features_ = 0;
};

}  // namespace shardd::events
