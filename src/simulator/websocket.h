#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// The server's side of RFC 6455 without I/O. Our own, since a library would not let us send what a
// misbehaving server sends (a close frame without a code, messages in odd pieces), nor many
// messages in one write.
namespace shardd::simulator::websocket {

enum class Opcode : uint8_t {
  kContinuation = 0,
  kText = 1,
  kBinary = 2,
  kClose = 8,
  kPing = 9,
  kPong = 10,
};

// The value of Sec-WebSocket-Accept for a client's Sec-WebSocket-Key.
std::string AcceptKey(std::string_view key);

// Appends the header of a whole message of this size, without the message.
void AppendHeader(Opcode opcode, uint64_t size, std::string& out);
// Appends one whole message, cut into `fragments` frames of about the same size.
void AppendMessage(Opcode opcode, std::string_view payload, uint32_t fragments, std::string& out);
// Appends a close frame; code 0: one without a code.
void AppendClose(uint16_t code, std::string_view reason, std::string& out);

struct Message {
  Opcode opcode = Opcode::kText;
  std::string payload;  // unmasked, put together from its fragments
};

// Takes a client's bytes as they come and gives its messages. Thread-compatible.
class Decoder {
 public:
  enum class Result { kMessage, kNeedMore, kProtocolError, kTooLarge };

  explicit Decoder(size_t largest_message) : largest_message_(largest_message) {}

  void Feed(const char* data, size_t size) { buffer_.append(data, size); }
  // After kProtocolError the connection is to be closed, and Next() not called again. A message
  // that is too large is passed over, so that the client's answer to a close frame can still be
  // read.
  Result Next(Message& message);

 private:
  const size_t largest_message_;
  std::string buffer_;
  uint64_t passing_over_ = 0;  // bytes of the frame that was too large, still to come
  Message partial_;
  bool in_message_ = false;
};

}  // namespace shardd::simulator::websocket
