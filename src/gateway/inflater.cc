#include "gateway/inflater.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "gateway/envelope.h"

namespace shardd::gateway {
namespace {

constexpr size_t kFirstCapacity = 64u << 10;
constexpr size_t kKeptCapacity = 4u << 20;
// What a step of inflating may write at once: enough for most events.
constexpr size_t kStep = 16u << 10;

class PlainInflater final : public Inflater {
 public:
  explicit PlainInflater(size_t max_message_bytes) : Inflater(false, max_message_bytes) {}

 private:
  Result Inflate(std::string_view message, MessageBuffer* out) override {
    out->Append(message.substr(0, max_message_bytes_));
    return message.size() > max_message_bytes_ ? Result::kTooLarge : Result::kMessage;
  }
};

class ZlibInflater final : public Inflater {
 public:
  explicit ZlibInflater(size_t max_message_bytes) : Inflater(true, max_message_bytes) {
    usable_ = inflateInit2(&stream_, MAX_WBITS) == Z_OK;
  }
  ~ZlibInflater() override { inflateEnd(&stream_); }

 private:
  Result Inflate(std::string_view message, MessageBuffer* out) override {
    if (!usable_) return Result::kError;
    if (!is_continuation()) {
      tail_.clear();
      if (!ended_ && !BeginsStream(message)) {
        // The stream goes on.
      } else if (inflateReset(&stream_) != Z_OK) {
        return Result::kError;
      }
      ended_ = false;
    }
    // zlib counts in 32 bits; the bound on a WebSocket message is far below.
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(message.data()));
    stream_.avail_in = static_cast<uInt>(message.size());
    while (!ended_) {
      stream_.next_out = reinterpret_cast<Bytef*>(out->Reserve(kStep));
      stream_.avail_out = static_cast<uInt>(RoomFor(*out));
      const auto room = stream_.avail_out;
      const int result = inflate(&stream_, Z_SYNC_FLUSH);
      out->Grow(room - stream_.avail_out);
      if (out->size() > max_message_bytes_) return Result::kTooLarge;
      if (result == Z_STREAM_END) {
        ended_ = true;
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        return Result::kError;
      }
      if (stream_.avail_in == 0 && stream_.avail_out != 0) break;
      if (result == Z_BUF_ERROR && stream_.avail_out != 0) return Result::kError;
    }
    // Discord ends each payload, not each message, with these four bytes; they may be cut in two by
    // a message's end.
    tail_.append(message.substr(message.size() - std::min<size_t>(message.size(), 4)));
    if (tail_.size() > 4) tail_.erase(0, tail_.size() - 4);
    constexpr std::string_view kSyncFlush("\x00\x00\xff\xff", 4);
    const bool at_boundary = ended_ || tail_ == kSyncFlush;
    return at_boundary && out->size() > 0 ? Result::kMessage : Result::kIncomplete;
  }

  // Whether a message at a payload's beginning starts with a zlib header (RFC 1950, section 2.2).
  // In a stream that goes on, a byte whose low half is 8 would be a stored block with padding that
  // is not zero, which no encoder writes.
  static bool BeginsStream(std::string_view message) {
    if (message.size() < 2) return false;
    const unsigned method = static_cast<unsigned char>(message[0]);
    const unsigned flags = static_cast<unsigned char>(message[1]);
    return (method & 0x0f) == 8 && (method >> 4) <= 7 && (method * 256 + flags) % 31 == 0 &&
           (flags & 0x20) == 0;
  }

  z_stream stream_{};
  bool usable_ = false;
  bool ended_ = true;  // the first message begins the stream
  std::string tail_;   // the last four bytes of the payload so far
};

class ZstdInflater final : public Inflater {
 public:
  explicit ZstdInflater(size_t max_message_bytes)
      : Inflater(true, max_message_bytes), context_(ZSTD_createDCtx()) {
    // The window is the peer's choice and memory of ours: Discord's was 256 KiB where it was seen,
    // 8 MiB is bearable.
    constexpr int kWindowLogMax = 23;
    usable_ = context_ != nullptr && !ZSTD_isError(ZSTD_DCtx_setParameter(
                                         context_.get(), ZSTD_d_windowLogMax, kWindowLogMax));
  }

 private:
  struct Free {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };

  Result Inflate(std::string_view message, MessageBuffer* out) override {
    if (!usable_) return Result::kError;
    // As a block's header these bytes would mean a raw block of 390,821 bytes, three times what
    // zstd allows: it is a new frame.
    constexpr std::string_view kMagic("\x28\xb5\x2f\xfd", 4);
    if (message.starts_with(kMagic)) ZSTD_DCtx_reset(context_.get(), ZSTD_reset_session_only);
    ZSTD_inBuffer in{message.data(), message.size(), 0};
    size_t result = 0;
    for (;;) {
      ZSTD_outBuffer to{out->Reserve(kStep), 0, 0};
      to.size = RoomFor(*out);
      result = ZSTD_decompressStream(context_.get(), &to, &in);
      if (ZSTD_isError(result)) return Result::kError;
      out->Grow(to.pos);
      if (out->size() > max_message_bytes_) return Result::kTooLarge;
      if (in.pos == in.size && to.pos < to.size) break;
    }
    // Discord puts one payload into one message and flushes, so input ends where a frame (0) or a
    // block does: what zstd asks for next is then a block's header, whole. Within a block it asks
    // for the block's rest and a header.
    constexpr size_t kBlockHeader = 3;
    const bool at_boundary = result == 0 || result == kBlockHeader;
    return at_boundary && out->size() > 0 ? Result::kMessage : Result::kIncomplete;
  }

  std::unique_ptr<ZSTD_DCtx, Free> context_;
  bool usable_ = false;
};

}  // namespace

void MessageBuffer::Clear() {
  size_ = 0;
  if (capacity_ > kKeptCapacity) {
    capacity_ = 0;
    bytes_.reset();
  }
}

void MessageBuffer::Append(std::string_view bytes) {
  Reserve(bytes.size());
  if (!bytes.empty()) std::memcpy(bytes_.get() + size_, bytes.data(), bytes.size());
  size_ += bytes.size();
}

char* MessageBuffer::Reserve(size_t least) {
  if (bytes_ == nullptr || room() < least) {
    const size_t capacity = std::max({kFirstCapacity, capacity_ * 2, size_ + least + kJsonPadding});
    auto grown = std::make_unique_for_overwrite<char[]>(capacity);
    if (size_ > 0) std::memcpy(grown.get(), bytes_.get(), size_);
    bytes_ = std::move(grown);
    capacity_ = capacity;
  }
  return bytes_.get() + size_;
}

size_t MessageBuffer::room() const {
  return capacity_ < size_ + kJsonPadding ? 0 : capacity_ - size_ - kJsonPadding;
}

std::unique_ptr<Inflater> Inflater::Create(Compression compression, size_t max_message_bytes) {
  switch (compression) {
    case Compression::kNone:
      return std::make_unique<PlainInflater>(max_message_bytes);
    case Compression::kZlibStream:
      return std::make_unique<ZlibInflater>(max_message_bytes);
    case Compression::kZstdStream:
      return std::make_unique<ZstdInflater>(max_message_bytes);
  }
  return nullptr;
}

Inflater::Result Inflater::Feed(std::string_view message, bool is_text, MessageBuffer* out) {
  if (!first_is_text_) first_is_text_ = is_text;
  if (compressed_ && is_text != *first_is_text_) return Result::kError;
  if (is_text) {
    out->Clear();
    out->Append(message.substr(0, max_message_bytes_));
    return message.size() > max_message_bytes_ ? Result::kTooLarge : Result::kMessage;
  }
  if (!mid_payload_) {
    out->Clear();
    const Result result = Inflate(message, out);
    mid_payload_ = result == Result::kIncomplete;
    if (mid_payload_) std::swap(*out, unfinished_);
    return result;
  }
  // Not through `out`, so that a payload in many small parts is not copied with each of them.
  const Result result = Inflate(message, &unfinished_);
  mid_payload_ = result == Result::kIncomplete;
  if (!mid_payload_) *out = std::exchange(unfinished_, MessageBuffer());
  return result;
}

Inflater::Result Inflater::FeedBeginning(std::string_view beginning, bool is_text,
                                         MessageBuffer* out) {
  const Result result = Feed(beginning, is_text, out);
  if (result == Result::kError) return result;
  if (result == Result::kIncomplete) *out = std::exchange(unfinished_, MessageBuffer());
  return Result::kTooLarge;
}

}  // namespace shardd::gateway
