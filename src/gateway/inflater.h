#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "gateway/compression.h"

namespace shardd::gateway {

// The largest payload that is taken unless the configuration says otherwise. A READY or
// GUILD_CREATE can be several MB; a few hundred bytes of compressed input can claim to be
// gigabytes.
inline constexpr size_t kDefaultMaxMessageBytes = 64u << 20;

// Where messages are inflated to: one for all connections of a thread, since a message is used up
// before the next is read. Always has kJsonPadding readable bytes behind its contents.
// Thread-compatible.
class MessageBuffer {
 public:
  std::string_view view() const { return {bytes_.get(), size_}; }
  size_t size() const { return size_; }
  // Empties it; gives memory back that only a rare large message needed.
  void Clear();
  void Append(std::string_view bytes);
  // At least `least` writable bytes behind the contents; of them, Grow(n) makes n contents.
  char* Reserve(size_t least);
  size_t room() const;
  void Grow(size_t bytes) { size_ += bytes; }

 private:
  size_t size_ = 0;
  size_t capacity_ = 0;
  std::unique_ptr<char[]> bytes_;
};

// Turns what comes over one connection into payloads:
// https://discord.com/developers/docs/events/gateway#transport-compression. Lives as long as the
// connection, since its compression context does. Thread-compatible.
//
// Servers that are not Discord's are let do as they do: send text although compression was asked
// for, begin a new stream or frame with any message, and end each one. Whether a server compresses
// is said by its first message: a connection on which that changes is not in step any more.
class Inflater {
 public:
  enum class Result {
    kMessage,     // `out` holds one payload
    kIncomplete,  // the payload goes on in the next message
    // After these the connection is of no further use.
    kTooLarge,  // over the bound; `out` holds the payload's beginning
    kError,     // broken
  };

  // `max_message_bytes` bounds a payload, inflated or not; nothing is inflated
  // beyond it.
  static std::unique_ptr<Inflater> Create(Compression compression, size_t max_message_bytes);
  Inflater(bool compressed, size_t max_message_bytes)
      : max_message_bytes_(max_message_bytes), compressed_(compressed) {}
  virtual ~Inflater() = default;

  // Takes one WebSocket message.
  Result Feed(std::string_view message, bool is_text, MessageBuffer* out);
  // Takes the beginning of a WebSocket message that is too large to be read whole: kTooLarge with
  // what that beginning inflates to, or kError.
  Result FeedBeginning(std::string_view beginning, bool is_text, MessageBuffer* out);

 protected:
  // Appends what `message` inflates to; kTooLarge as soon as that is one byte over the bound.
  virtual Result Inflate(std::string_view message, MessageBuffer* out) = 0;

  // True in the midst of a payload that is split over messages.
  bool is_continuation() const { return mid_payload_; }

  // What may be written into `out` at once. More than 0 as long as `out` is within the bound.
  size_t RoomFor(const MessageBuffer& out) const {
    return std::min(out.room(), max_message_bytes_ + 1 - out.size());
  }

  const size_t max_message_bytes_;

 private:
  const bool compressed_;
  std::optional<bool> first_is_text_;
  MessageBuffer unfinished_;  // the beginning of a payload that is not complete
  bool mid_payload_ = false;
};

}  // namespace shardd::gateway
