// One inflater, zlib's or zstd's (FUZZ_COMPRESSION). The first byte of the input chooses the bound
// and what the rest is:
//   hostile      messages as they came: a byte each for length and kind (see ReadPart), then bytes
//   round trip   payloads, which are compressed as Discord does and, with zlib, cut into messages;
//                each must come out as it went in

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "check.h"
#include "gateway/inflater.h"

namespace shardd::gateway {
namespace {

using Result = Inflater::Result;

constexpr Compression kCompression = Compression::FUZZ_COMPRESSION;
constexpr size_t kBounds[] = {1, 100, 5'000, 1'000'000};

struct Part {
  bool is_text = false;
  std::string_view bytes;
};

// 0 to 250: a binary message of so many bytes. 251: one of 16 times what the next byte says. 252:
// all that is left. 253 on: a text of what the next byte says.
Part ReadPart(std::string_view* input) {
  const auto take_byte = [input] {
    if (input->empty()) return size_t{0};
    const auto byte = static_cast<unsigned char>(input->front());
    input->remove_prefix(1);
    return size_t{byte};
  };
  Part part;
  size_t size = take_byte();
  if (size == 251) {
    size = 16 * take_byte();
  } else if (size == 252) {
    size = input->size();
  } else if (size > 252) {
    part.is_text = true;
    size = take_byte();
  }
  part.bytes = input->substr(0, size);
  input->remove_prefix(part.bytes.size());
  return part;
}

void Hostile(std::string_view input, size_t bound) {
  const auto inflater = Inflater::Create(kCompression, bound);
  MessageBuffer buffer;
  while (!input.empty()) {
    const Part part = ReadPart(&input);
    // The last one as if it were too large to be read whole.
    const Result result = input.empty() && bound == kBounds[1]
                              ? inflater->FeedBeginning(part.bytes, part.is_text, &buffer)
                              : inflater->Feed(part.bytes, part.is_text, &buffer);
    switch (result) {
      case Result::kMessage:
        CHECK_THAT(buffer.size() <= bound);
        break;
      case Result::kTooLarge:
        CHECK_THAT(buffer.size() <= bound + 1);
        return;
      case Result::kIncomplete:
        break;
      case Result::kError:
        return;
    }
  }
}

class Compressor {
 public:
  Compressor() : zstd_(ZSTD_createCCtx()) {
    deflateInit2(&zlib_, 6, Z_DEFLATED, 15, 8, Z_DEFAULT_STRATEGY);
    ZSTD_CCtx_setParameter(zstd_, ZSTD_c_windowLog, 18);
    ZSTD_CCtx_setParameter(zstd_, ZSTD_c_contentSizeFlag, 0);
  }
  ~Compressor() {
    deflateEnd(&zlib_);
    ZSTD_freeCCtx(zstd_);
  }

  std::string Compress(std::string_view text) {
    std::string out(compressBound(text.size()) + ZSTD_compressBound(text.size()) + 64, '\0');
    if (kCompression == Compression::kZlibStream) {
      zlib_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
      zlib_.avail_in = static_cast<uInt>(text.size());
      zlib_.next_out = reinterpret_cast<Bytef*>(out.data());
      zlib_.avail_out = static_cast<uInt>(out.size());
      deflate(&zlib_, Z_SYNC_FLUSH);
      out.resize(out.size() - zlib_.avail_out);
    } else {
      ZSTD_inBuffer in{text.data(), text.size(), 0};
      ZSTD_outBuffer to{out.data(), out.size(), 0};
      ZSTD_compressStream2(zstd_, &to, &in, ZSTD_e_flush);
      out.resize(to.pos);
    }
    return out;
  }

 private:
  z_stream zlib_{};
  ZSTD_CCtx* zstd_;
};

void RoundTrip(std::string_view input, size_t bound) {
  const auto inflater = Inflater::Create(kCompression, bound);
  MessageBuffer buffer;
  Compressor compressor;
  while (!input.empty()) {
    const std::string_view payload = ReadPart(&input).bytes;
    if (payload.empty()) continue;
    const std::string bytes = compressor.Compress(payload);
    std::string_view left = bytes;
    Result result = Result::kIncomplete;
    // Discord cuts payloads of zlib-stream alone. A part that happens to end as payloads do cannot
    // be told from one, so none is made here.
    const size_t cut = input.empty() ? 0 : static_cast<unsigned char>(input.front());
    if (kCompression == Compression::kZlibStream && cut > 0 && cut < bytes.size() &&
        !bytes.substr(0, cut).ends_with(std::string_view("\x00\x00\xff\xff", 4))) {
      result = inflater->Feed(left.substr(0, cut), false, &buffer);
      CHECK_THAT(result == Result::kIncomplete || payload.size() > bound);
      left.remove_prefix(cut);
    }
    if (result == Result::kIncomplete) result = inflater->Feed(left, false, &buffer);
    if (payload.size() > bound) {
      CHECK_THAT(result == Result::kTooLarge);
      CHECK_THAT(buffer.view() == payload.substr(0, bound + 1));
      return;
    }
    CHECK_THAT(result == Result::kMessage);
    CHECK_THAT(buffer.view() == payload);
  }
}

}  // namespace
}  // namespace shardd::gateway

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shardd::gateway;
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t bound = kBounds[data[0] / 2 % std::size(kBounds)];
  if (data[0] % 2 == 0) {
    Hostile(input, bound);
  } else {
    RoundTrip(input, bound);
  }
  return 0;
}
