#include "simulator/websocket.h"

#include <openssl/evp.h>
#include <openssl/sha.h>

#include <algorithm>

namespace shardd::simulator::websocket {
namespace {

constexpr size_t kLargestControlPayload = 125;

void AppendFrameHeader(uint8_t first, uint64_t size, std::string& out) {
  out += static_cast<char>(first);
  int length_bytes = 0;
  if (size < 126) {
    out += static_cast<char>(size);
  } else if (size <= 0xFFFF) {
    out += static_cast<char>(126);
    length_bytes = 2;
  } else {
    out += static_cast<char>(127);
    length_bytes = 8;
  }
  for (int i = length_bytes - 1; i >= 0; --i) {
    out += static_cast<char>(size >> (8 * i));
  }
}

bool IsControl(Opcode opcode) { return static_cast<uint8_t>(opcode) >= 8; }

bool IsKnown(uint8_t opcode) { return opcode <= 2 || (opcode >= 8 && opcode <= 10); }

}  // namespace

std::string AcceptKey(std::string_view key) {
  std::string text(key);
  text += "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  unsigned char digest[SHA_DIGEST_LENGTH];
  SHA1(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  unsigned char encoded[32];
  const int size = EVP_EncodeBlock(encoded, digest, sizeof digest);
  return {reinterpret_cast<char*>(encoded), static_cast<size_t>(size)};
}

void AppendHeader(Opcode opcode, uint64_t size, std::string& out) {
  AppendFrameHeader(0x80 | static_cast<uint8_t>(opcode), size, out);
}

void AppendMessage(Opcode opcode, std::string_view payload, uint32_t fragments, std::string& out) {
  const size_t count = std::clamp<size_t>(fragments, 1, std::max<size_t>(payload.size(), 1));
  for (size_t i = 0; i < count; ++i) {
    const size_t begin = payload.size() * i / count;
    const size_t end = payload.size() * (i + 1) / count;
    const bool last = i + 1 == count;
    const auto frame_opcode = static_cast<uint8_t>(i == 0 ? opcode : Opcode::kContinuation);
    AppendFrameHeader((last ? 0x80 : 0) | frame_opcode, end - begin, out);
    out += payload.substr(begin, end - begin);
  }
}

void AppendClose(uint16_t code, std::string_view reason, std::string& out) {
  std::string payload;
  if (code != 0) {
    payload += static_cast<char>(code >> 8);
    payload += static_cast<char>(code & 0xFF);
    payload += reason.substr(0, kLargestControlPayload - 2);
  }
  AppendMessage(Opcode::kClose, payload, 1, out);
}

Decoder::Result Decoder::Next(Message& message) {
  while (true) {
    const size_t over = std::min<uint64_t>(passing_over_, buffer_.size());
    buffer_.erase(0, over);
    passing_over_ -= over;
    if (buffer_.size() < 2) return Result::kNeedMore;
    const auto byte = [this](size_t i) { return static_cast<unsigned char>(buffer_[i]); };
    const bool final = (byte(0) & 0x80) != 0;
    const bool reserved = (byte(0) & 0x70) != 0;
    const bool masked = (byte(1) & 0x80) != 0;
    if (reserved || !masked || !IsKnown(byte(0) & 0x0F)) return Result::kProtocolError;
    const auto opcode = static_cast<Opcode>(byte(0) & 0x0F);

    uint64_t size = byte(1) & 0x7F;
    size_t header = 2;
    if (size >= 126) {
      const size_t length_bytes = size == 126 ? 2 : 8;
      header += length_bytes;
      if (buffer_.size() < header) return Result::kNeedMore;
      size = 0;
      for (size_t i = 0; i < length_bytes; ++i) size = (size << 8) | byte(2 + i);
    }
    if (IsControl(opcode)) {
      if (!final || size > kLargestControlPayload) return Result::kProtocolError;
    } else {
      if ((opcode == Opcode::kContinuation) != in_message_) return Result::kProtocolError;
      if (size > largest_message_ - partial_.payload.size()) {
        passing_over_ = std::min<uint64_t>(size, UINT64_MAX - header - 4) + header + 4;
        in_message_ = !final;
        partial_ = {};
        return Result::kTooLarge;
      }
    }
    const size_t whole = header + 4 + size;
    if (buffer_.size() < whole) return Result::kNeedMore;

    std::string payload = buffer_.substr(header + 4, size);
    for (size_t i = 0; i < payload.size(); ++i) payload[i] ^= buffer_[header + i % 4];
    buffer_.erase(0, whole);

    if (IsControl(opcode)) {
      message.opcode = opcode;
      message.payload = std::move(payload);
      return Result::kMessage;
    }
    if (opcode != Opcode::kContinuation) partial_.opcode = opcode;
    partial_.payload += payload;
    in_message_ = !final;
    if (final) {
      message = std::move(partial_);
      partial_ = {};
      return Result::kMessage;
    }
  }
}

}  // namespace shardd::simulator::websocket
