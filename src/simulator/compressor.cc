#include "simulator/compressor.h"

#include <zlib.h>
#include <zstd.h>

#include <new>

namespace shardd::simulator {
namespace {

constexpr size_t kChunk = 16 * 1024;
// The descriptor of a captured frame names a window of 256 KiB.
constexpr int kZstdWindowLog = 18;

class Plain final : public Compressor {
 public:
  void Begin(std::string_view part, std::string& out) override { out += part; }
  void Compress(std::string_view payload, std::string& out) override { out += payload; }
  bool binary() const override { return false; }
  std::string_view name() const override { return "none"; }
};

class Zlib final : public Compressor {
 public:
  explicit Zlib(bool complete_frames) : complete_frames_(complete_frames) {
    // Level 6 and 15 window bits reproduce a captured HELLO byte for byte.
    if (deflateInit2(&stream_, 6, Z_DEFLATED, 15, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
      throw std::bad_alloc();
    }
  }
  ~Zlib() override { deflateEnd(&stream_); }
  Zlib(const Zlib&) = delete;
  Zlib& operator=(const Zlib&) = delete;

  void Begin(std::string_view part, std::string& out) override { Deflate(part, Z_NO_FLUSH, out); }
  void Compress(std::string_view payload, std::string& out) override {
    Deflate(payload, complete_frames_ ? Z_FINISH : Z_SYNC_FLUSH, out);
    if (complete_frames_) deflateReset(&stream_);
  }
  std::string_view name() const override { return "zlib-stream"; }

 private:
  void Deflate(std::string_view bytes, int flush, std::string& out) {
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
    stream_.avail_in = static_cast<uInt>(bytes.size());
    do {
      const size_t used = out.size();
      out.resize(used + kChunk);
      stream_.next_out = reinterpret_cast<Bytef*>(out.data() + used);
      stream_.avail_out = kChunk;
      deflate(&stream_, flush);
      out.resize(out.size() - stream_.avail_out);
    } while (stream_.avail_out == 0);
  }

  const bool complete_frames_;
  z_stream stream_{};
};

class Zstd final : public Compressor {
 public:
  explicit Zstd(bool complete_frames)
      : end_(complete_frames ? ZSTD_e_end : ZSTD_e_flush), context_(ZSTD_createCCtx()) {
    if (context_ == nullptr) throw std::bad_alloc();
    ZSTD_CCtx_setParameter(context_, ZSTD_c_windowLog, kZstdWindowLog);
    ZSTD_CCtx_setParameter(context_, ZSTD_c_checksumFlag, 0);
    ZSTD_CCtx_setParameter(context_, ZSTD_c_contentSizeFlag, 0);
  }
  ~Zstd() override { ZSTD_freeCCtx(context_); }
  Zstd(const Zstd&) = delete;
  Zstd& operator=(const Zstd&) = delete;

  void Begin(std::string_view part, std::string& out) override { Run(part, ZSTD_e_continue, out); }
  void Compress(std::string_view payload, std::string& out) override { Run(payload, end_, out); }
  std::string_view name() const override { return "zstd-stream"; }

 private:
  void Run(std::string_view bytes, ZSTD_EndDirective directive, std::string& out) {
    ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
    size_t left = 0;
    do {
      const size_t used = out.size();
      out.resize(used + kChunk);
      ZSTD_outBuffer room{out.data() + used, kChunk, 0};
      left = ZSTD_compressStream2(context_, &room, &in, directive);
      out.resize(used + room.pos);
      // Only an end is to bring out all that the context holds.
      if (directive == ZSTD_e_continue) left = in.size - in.pos;
    } while (left != 0 && ZSTD_isError(left) == 0);
  }

  const ZSTD_EndDirective end_;
  ZSTD_CCtx* const context_;
};

}  // namespace

std::unique_ptr<Compressor> MakeCompressor(std::string_view name, bool complete_frames) {
  if (name.empty()) return std::make_unique<Plain>();
  if (name == "zlib-stream") return std::make_unique<Zlib>(complete_frames);
  if (name == "zstd-stream") return std::make_unique<Zstd>(complete_frames);
  return nullptr;
}

}  // namespace shardd::simulator
