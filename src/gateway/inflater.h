#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "gateway/compression.h"

namespace shardd::gateway {

// The largest payload that is taken, inflated or not. A READY or GUILD_CREATE can be several MB; a
// few hundred bytes of compressed input can claim to be gigabytes.
inline constexpr size_t kMaxMessageBytes = 64u << 20;

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
// for, begin a new stream or frame with any message, and end each one.
class Inflater {
 public:
  enum class Result {
    kMessage,     // `out` holds one payload
    kIncomplete,  // the payload goes on in the next message
    kError,       // broken, or larger than the bound; the connection is of no further use
  };

  static std::unique_ptr<Inflater> Create(Compression compression,
                                          size_t max_message_bytes = kMaxMessageBytes);
  explicit Inflater(size_t max_message_bytes) : max_message_bytes_(max_message_bytes) {}
  virtual ~Inflater() = default;

  // Takes one WebSocket message.
  Result Feed(std::string_view message, bool is_text, MessageBuffer* out);

 protected:
  // Appends what `message` inflates to.
  virtual Result Inflate(std::string_view message, MessageBuffer* out) = 0;

  // True in the midst of a payload that is split over messages.
  bool is_continuation() const { return mid_payload_; }

  const size_t max_message_bytes_;

 private:
  MessageBuffer unfinished_;  // the beginning of a payload that is not complete
  bool mid_payload_ = false;
};

}  // namespace shardd::gateway
