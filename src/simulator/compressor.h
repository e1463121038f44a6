#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace shardd::simulator {

// How payloads of one connection become WebSocket messages. Holds the compression context of that
// connection: https://discord.com/developers/docs/events/gateway#transport-compression.
// Thread-compatible.
class Compressor {
 public:
  virtual ~Compressor() = default;

  // Takes the beginning of a payload, and appends what is ready of it; Compress() takes the rest.
  virtual void Begin(std::string_view part, std::string& out) = 0;
  // Appends one payload's bytes, flushed so that the reader can inflate all of it.
  virtual void Compress(std::string_view payload, std::string& out) = 0;
  // Binary messages when it compresses, text when it does not.
  virtual bool binary() const { return true; }
  virtual std::string_view name() const = 0;
};

// `name` as in the query: "" (none), "zlib-stream" or "zstd-stream"; nullptr for any other.
// complete_frames: each payload is a zlib stream or zstd frame of its own, as some third-party
// servers do.
std::unique_ptr<Compressor> MakeCompressor(std::string_view name, bool complete_frames);

}  // namespace shardd::simulator
