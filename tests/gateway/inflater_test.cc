#include "gateway/inflater.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"

namespace shardd::gateway {
namespace {

using Result = Inflater::Result;

// Real frames: discord-api-docs has none; these are twilight's captures.
constexpr std::string_view kZlibHello =
    "789c34c9410a83301005d0bbfc755262a9207315233235431b8851e2d85242eede6eba7bf02a1494cf940c8e3fb61d"
    "d4398300aa780a"
    "17bd0beb1cb34a797102ddba6bfffb590b2f021a317a3c58e5cd1fbb9760578ed90efd103c4cf558e352b6c383dcc5"
    "b509536b5f0000"
    "00ffff";
constexpr std::string_view kZlibAck = "aac665ab21d85690402d000000ffff";
constexpr std::string_view kZlibHelloText =
    R"({"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250,"_trace":["[\"gateway-prd-main-858d\",{\"micros\":0.0}]"]}})";
constexpr std::string_view kAckText = R"({"t":null,"s":null,"op":11,"d":null})";
constexpr std::string_view kZstdHello =
    "28b52ffd00406403004207191c7089737428d0cb55ffa74a4b7ecbdee7ff9712d3d4ab9097d2ff3304312247620224"
    "fd7a8d63cbe10b"
    "a22f85f106c952f55bcef7a4e29c5c6c827b0b5fc70f3db3759d1c25414019fab608c7cd2c492f13da2d1b0ef5ca51"
    "527aa77947ad3d"
    "8cbe0f030100244a12";
constexpr std::string_view kZstdHelloText =
    R"({"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250,"_trace":["[\"gateway-prd-us-east1-c-7s4x\",{\"micros\":0.0}]"]}})";

std::string FromHex(std::string_view hex) { return absl::HexStringToBytes(std::string(hex)); }

class ZlibStream {
 public:
  explicit ZlibStream(int level = 6) { deflateInit2(&stream_, level, Z_DEFLATED, 15, 8, 0); }
  ~ZlibStream() { deflateEnd(&stream_); }
  std::string Compress(std::string_view text, int flush = Z_SYNC_FLUSH) {
    std::string out(compressBound(text.size()) + 64, '\0');
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
    stream_.avail_in = static_cast<uInt>(text.size());
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(out.size());
    deflate(&stream_, flush);
    out.resize(out.size() - stream_.avail_out);
    return out;
  }

 private:
  z_stream stream_{};
};

class ZstdStream {
 public:
  explicit ZstdStream(int window_log = 18) : context_(ZSTD_createCCtx()) {
    ZSTD_CCtx_setParameter(context_, ZSTD_c_windowLog, window_log);
    ZSTD_CCtx_setParameter(context_, ZSTD_c_contentSizeFlag, 0);
  }
  ~ZstdStream() { ZSTD_freeCCtx(context_); }
  std::string Compress(std::string_view text, ZSTD_EndDirective end = ZSTD_e_flush) {
    std::string out(ZSTD_compressBound(text.size()) + 64, '\0');
    ZSTD_inBuffer in{text.data(), text.size(), 0};
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    ZSTD_compressStream2(context_, &to, &in, end);
    out.resize(to.pos);
    return out;
  }

 private:
  ZSTD_CCtx* context_;
};

std::string Noise(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text(size, ' ');
  for (char& c : text) c = static_cast<char>('a' + random() % 26);
  return text;
}

class InflaterTest : public ::testing::Test {
 protected:
  void Use(Compression compression, size_t bound = kDefaultMaxMessageBytes) {
    inflater_ = Inflater::Create(compression, bound);
  }
  Result Feed(std::string_view message, bool is_text = false) {
    return inflater_->Feed(message, is_text, &buffer_);
  }
  void ExpectMessage(std::string_view message, std::string_view text) {
    ASSERT_EQ(Feed(message), Result::kMessage);
    ASSERT_EQ(buffer_.view(), text);
  }

  std::unique_ptr<Inflater> inflater_;
  MessageBuffer buffer_;
};

TEST_F(InflaterTest, CapturedZlibFrames) {
  Use(Compression::kZlibStream);
  ExpectMessage(FromHex(kZlibHello), kZlibHelloText);
  ExpectMessage(FromHex(kZlibAck), kAckText);
}

TEST_F(InflaterTest, CapturedZstdFrame) {
  Use(Compression::kZstdStream);
  ExpectMessage(FromHex(kZstdHello), kZstdHelloText);
}

TEST_F(InflaterTest, OneStreamOfManyMessages) {
  ZlibStream zlib;
  ZstdStream zstd;
  for (const bool use_zlib : {true, false}) {
    Use(use_zlib ? Compression::kZlibStream : Compression::kZstdStream);
    for (int i = 0; i < 500; ++i) {
      const std::string text =
          "{\"i\":" + std::to_string(i) + ",\"x\":\"" + Noise(i * 7, i) + "\"}";
      ExpectMessage(use_zlib ? zlib.Compress(text) : zstd.Compress(text), text);
    }
  }
}

TEST_F(InflaterTest, AZlibPayloadSplitAnywhereIsJoined) {
  const std::string text = "{\"x\":\"" + Noise(300, 7) + "\"}";
  ZlibStream zlib;
  const std::string first = zlib.Compress(text);
  const std::string second = zlib.Compress(text);
  for (size_t cut = 1; cut < second.size(); ++cut) {
    Use(Compression::kZlibStream);
    ExpectMessage(first, text);
    ASSERT_EQ(Feed(second.substr(0, cut)), Result::kIncomplete) << cut;
    ExpectMessage(second.substr(cut), text);
  }
}

TEST_F(InflaterTest, AZlibPayloadInSingleBytesIsJoined) {
  const std::string text = "{\"x\":\"" + Noise(100, 9) + "\"}";
  Use(Compression::kZlibStream);
  ZlibStream zlib;
  for (int round = 0; round < 3; ++round) {
    const std::string bytes = zlib.Compress(text);
    for (size_t i = 0; i + 1 < bytes.size(); ++i) {
      ASSERT_EQ(Feed(bytes.substr(i, 1)), Result::kIncomplete);
    }
    ExpectMessage(bytes.substr(bytes.size() - 1), text);
  }
}

TEST_F(InflaterTest, ALargePayloadInManyPartsIsJoinedInLinearTime) {
  const std::string text = Noise(8 << 20, 5);
  Use(Compression::kZlibStream);
  ZlibStream zlib;
  const std::string bytes = zlib.Compress(text);
  constexpr size_t kPart = 64;
  const auto before = std::chrono::steady_clock::now();
  size_t at = 0;
  for (; at + kPart < bytes.size(); at += kPart) {
    ASSERT_EQ(Feed(std::string_view(bytes).substr(at, kPart)), Result::kIncomplete);
  }
  ExpectMessage(std::string_view(bytes).substr(at), text);
  // Copying what was there with each part would be 300 GB.
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(5));
  ExpectMessage(zlib.Compress("{}"), "{}");
}

TEST_F(InflaterTest, AZstdPayloadSplitWithinABlockIsJoined) {
  const std::string text = "{\"x\":\"" + Noise(300, 7) + "\"}";
  ZstdStream zstd;
  const std::string first = zstd.Compress(text);
  const std::string second = zstd.Compress(Noise(300, 8));
  for (size_t cut = 1; cut < second.size(); ++cut) {
    Use(Compression::kZstdStream);
    ExpectMessage(first, text);
    ASSERT_EQ(Feed(second.substr(0, cut)), Result::kIncomplete) << cut;
    ExpectMessage(second.substr(cut), Noise(300, 8));
  }
}

// Discord puts one payload into one message, of several blocks where it is large. A part that ends
// between two blocks cannot be told from a whole payload.
TEST_F(InflaterTest, AZstdPayloadOfSeveralBlocksInOneMessage) {
  Use(Compression::kZstdStream);
  ZstdStream zstd;
  for (const size_t size : {128 << 10, (128 << 10) + 1, 256 << 10, 1 << 20}) {
    ExpectMessage(zstd.Compress(Noise(size, size)), Noise(size, size));
  }
}

TEST_F(InflaterTest, AnEmptyMessageIsNothing) {
  ZlibStream zlib;
  ZstdStream zstd;
  for (const bool use_zlib : {true, false}) {
    Use(use_zlib ? Compression::kZlibStream : Compression::kZstdStream);
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(Feed(""), Result::kIncomplete);
      ExpectMessage(use_zlib ? zlib.Compress("{}") : zstd.Compress("{}"), "{}");
    }
  }
}

TEST_F(InflaterTest, EachZlibMessageFromAFreshStream) {
  Use(Compression::kZlibStream);
  for (const int level : {1, 6, 9}) {
    for (const int flush : {Z_SYNC_FLUSH, Z_FINISH}) {
      const std::string text = "{\"x\":\"" + Noise(200, level) + "\"}";
      ExpectMessage(ZlibStream(level).Compress(text, flush), text);
    }
  }
}

TEST_F(InflaterTest, EachZstdMessageAFrameOfItsOwn) {
  Use(Compression::kZstdStream);
  for (int i = 0; i < 5; ++i) {
    const std::string text = "{\"x\":\"" + Noise(200, i) + "\"}";
    ExpectMessage(ZstdStream().Compress(text, ZSTD_e_end), text);
    ExpectMessage(ZstdStream().Compress(text, ZSTD_e_flush), text);
  }
}

TEST_F(InflaterTest, TextComesAlthoughCompressionWasAskedFor) {
  for (const auto compression :
       {Compression::kNone, Compression::kZlibStream, Compression::kZstdStream}) {
    Use(compression);
    ASSERT_EQ(Feed(kAckText, true), Result::kMessage);
    EXPECT_EQ(buffer_.view(), kAckText);
  }
}

TEST_F(InflaterTest, LargeMessages) {
  const std::string text = Noise(3 << 20, 1) + std::string(5 << 20, 'z');
  Use(Compression::kZlibStream);
  ExpectMessage(ZlibStream().Compress(text), text);
  Use(Compression::kZstdStream);
  ExpectMessage(ZstdStream().Compress(text), text);
}

TEST_F(InflaterTest, TheBoundIsExact) {
  constexpr size_t kBound = 100'000;
  for (const size_t size : {kBound - 1, kBound, kBound + 1}) {
    const auto expected = size <= kBound ? Result::kMessage : Result::kTooLarge;
    const std::string text(size, 'x');
    Use(Compression::kNone, kBound);
    EXPECT_EQ(Feed(text), expected);
    EXPECT_EQ(Feed(text, true), expected);
    Use(Compression::kZlibStream, kBound);
    EXPECT_EQ(Feed(ZlibStream().Compress(text)), expected);
    Use(Compression::kZlibStream, kBound);
    EXPECT_EQ(Feed(text, true), expected);
    Use(Compression::kZstdStream, kBound);
    EXPECT_EQ(Feed(ZstdStream().Compress(text)), expected);
  }
}

// 32 MiB in 32 KiB, and less than that for zstd.
TEST_F(InflaterTest, ABombStopsAtTheBoundAndShowsItsBeginning) {
  constexpr size_t kBound = 1 << 20;
  const std::string text = "{\"t\":\"BOMB\"," + std::string(32 << 20, ' ');
  ZlibStream zlib;
  ZstdStream zstd;
  for (const bool use_zlib : {true, false}) {
    Use(use_zlib ? Compression::kZlibStream : Compression::kZstdStream, kBound);
    const std::string bomb = use_zlib ? zlib.Compress(text) : zstd.Compress(text);
    ASSERT_LT(bomb.size(), kBound);
    ASSERT_EQ(Feed(bomb), Result::kTooLarge);
    EXPECT_EQ(buffer_.size(), kBound + 1);
    EXPECT_TRUE(buffer_.view() == std::string_view(text).substr(0, kBound + 1));
  }
}

TEST_F(InflaterTest, ABombInManyMessagesStopsAtTheBoundToo) {
  constexpr size_t kBound = 100'000;
  Use(Compression::kZlibStream, kBound);
  ZlibStream zlib;
  std::string text = "{\"t\":\"BOMB\",";
  Result result = Feed(zlib.Compress(text, Z_PARTIAL_FLUSH));
  for (int i = 0; i < 1000 && result == Result::kIncomplete; ++i) {
    text += std::string(999, 'x');
    result = Feed(zlib.Compress(std::string(999, 'x'), Z_PARTIAL_FLUSH));
  }
  EXPECT_EQ(result, Result::kTooLarge);
  EXPECT_TRUE(buffer_.view() == text.substr(0, kBound + 1));
}

TEST_F(InflaterTest, TheBeginningOfAMessageThatIsTooLargeToBeRead) {
  const std::string text = R"({"t":"GUILD_CREATE","s":7,"op":0,"d":{)" + Noise(1 << 20, 1);
  const std::string_view beginning = std::string_view(text).substr(0, 1024);
  for (const auto compression :
       {Compression::kNone, Compression::kZlibStream, Compression::kZstdStream}) {
    Use(compression);
    ASSERT_EQ(inflater_->FeedBeginning(beginning, true, &buffer_), Result::kTooLarge);
    EXPECT_EQ(buffer_.view(), beginning);
  }
  Use(Compression::kZlibStream);
  ASSERT_EQ(inflater_->FeedBeginning(ZlibStream().Compress(text).substr(0, 1024), false, &buffer_),
            Result::kTooLarge);
  EXPECT_GT(buffer_.size(), 100u);
  EXPECT_TRUE(text.starts_with(buffer_.view()));
  Use(Compression::kZlibStream);
  EXPECT_EQ(inflater_->FeedBeginning(beginning, false, &buffer_), Result::kError);
}

TEST_F(InflaterTest, BrokenStreamsAreErrors) {
  Use(Compression::kZlibStream);
  EXPECT_EQ(Feed("this is not zlib"), Result::kError);
  Use(Compression::kZstdStream);
  EXPECT_EQ(Feed("this is not zstd"), Result::kError);
}

TEST_F(InflaterTest, AStreamThatBreaksInTheMiddleIsAnError) {
  for (const bool use_zlib : {true, false}) {
    Use(use_zlib ? Compression::kZlibStream : Compression::kZstdStream);
    ZlibStream zlib;
    ZstdStream zstd;
    for (int i = 0; i < 3; ++i) {
      ExpectMessage(use_zlib ? zlib.Compress("{}") : zstd.Compress("{}"), "{}");
    }
    // A block of the type that neither format has.
    EXPECT_EQ(Feed(use_zlib ? "\x07" : std::string_view("\x06\x00\x00", 3)), Result::kError);
  }
}

// What the first message shows holds for the connection. Servers that ignore `compress=` send text
// from HELLO on.
TEST_F(InflaterTest, ACompressedConnectionStaysAsItBegan) {
  ZlibStream zlib;
  ZstdStream zstd;
  for (const bool use_zlib : {true, false}) {
    const auto compression = use_zlib ? Compression::kZlibStream : Compression::kZstdStream;
    const std::string binary = use_zlib ? zlib.Compress("{}") : zstd.Compress("{}");
    Use(compression);
    ASSERT_EQ(Feed(binary), Result::kMessage);
    EXPECT_EQ(Feed("{}", true), Result::kError);
    Use(compression);
    ASSERT_EQ(Feed("{}", true), Result::kMessage);
    ASSERT_EQ(Feed("{}", true), Result::kMessage);
    EXPECT_EQ(Feed(binary), Result::kError);
  }
}

TEST_F(InflaterTest, MessagesThatInflateToNothingAreNothing) {
  Use(Compression::kZlibStream);
  const std::string nothing("\x00\x00\x00\xff\xff", 5);
  ZlibStream zlib;
  EXPECT_EQ(Feed("\x78\x9c"), Result::kIncomplete);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(Feed(nothing), Result::kIncomplete);
  ExpectMessage(zlib.Compress("{}").substr(2), "{}");
}

TEST_F(InflaterTest, AHugeZstdWindowIsRefused) {
  Use(Compression::kZstdStream);
  EXPECT_EQ(Feed(ZstdStream(23).Compress("{}")), Result::kMessage);
  Use(Compression::kZstdStream);
  EXPECT_EQ(Feed(ZstdStream(24).Compress("{}")), Result::kError);
}

TEST_F(InflaterTest, ChangedBytesAreNeverMoreThanAnError) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 3000; ++i) {
    const bool use_zlib = i % 2 == 0;
    Use(use_zlib ? Compression::kZlibStream : Compression::kZstdStream, 1 << 20);
    const std::string text = Noise(1 + random() % 2000, i);
    std::string bytes = use_zlib ? ZlibStream().Compress(text) : ZstdStream().Compress(text);
    for (int change = 0; change < 3; ++change) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    Feed(bytes);
    Feed(bytes);
  }
}

}  // namespace
}  // namespace shardd::gateway
