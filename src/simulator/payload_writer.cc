#include "simulator/payload_writer.h"

#include <algorithm>

#include "simulator/json_text.h"

namespace shardd::simulator {

PayloadWriter::PayloadWriter(Connection& connection, const SimulatorOptions& options,
                             std::string_view compress)
    : connection_(connection),
      options_(options),
      compressor_(MakeCompressor(options.quirks.ignore_compress ? "" : compress,
                                 options.quirks.complete_frames)) {}

void PayloadWriter::WriteDispatch(uint64_t sequence, const Dispatch& dispatch) {
  if (dispatch.bomb_bytes != 0) return WriteBomb(sequence, dispatch);
  payload_.clear();
  if (options_.quirks.data_first) {
    Append(payload_, R"({"d":)", dispatch.data, R"(,"op":0,"s":)", sequence, R"(,"t":")",
           dispatch.type, "\"}");
  } else {
    Append(payload_, R"({"t":")", dispatch.type, R"(","s":)", sequence, R"(,"op":0,"d":)",
           dispatch.data, "}");
  }
  WritePayload(payload_);
}

void PayloadWriter::WriteOp(Op op, std::string_view data) {
  const auto number = static_cast<int64_t>(op);
  payload_.clear();
  if (options_.quirks.bare_hello) {
    Append(payload_, R"({"op":)", number, R"(,"d":)", data, "}");
  } else if (options_.quirks.data_first) {
    Append(payload_, R"({"d":)", data, R"(,"op":)", number, R"(,"s":null,"t":null})");
  } else {
    Append(payload_, R"({"t":null,"s":null,"op":)", number, R"(,"d":)", data, "}");
  }
  WritePayload(payload_);
}

void PayloadWriter::WritePayload(std::string_view payload) {
  if (connection_.frozen()) return;
  if (!compressor_->binary()) return connection_.Send(false, payload, options_.split_fragments);
  message_.clear();
  compressor_->Compress(payload, message_);
  Send();
}

void PayloadWriter::WriteBomb(uint64_t sequence, const Dispatch& dispatch) {
  if (connection_.frozen()) return;
  payload_.clear();
  Append(payload_, R"({"t":")", dispatch.type, R"(","s":)", sequence, R"(,"op":0,"d":{"x":")");
  constexpr std::string_view kTail = R"("}})";
  const size_t frame = payload_.size() + kTail.size();
  size_t filling = dispatch.bomb_bytes > frame ? dispatch.bomb_bytes - frame : 0;
  message_.clear();
  compressor_->Begin(payload_, message_);
  const std::string block(std::min<size_t>(filling, 64 * 1024), 'a');
  while (filling > 0) {
    const size_t size = std::min(filling, block.size());
    compressor_->Begin(std::string_view(block).substr(0, size), message_);
    filling -= size;
  }
  compressor_->Compress(kTail, message_);
  Send();
}

void PayloadWriter::Send() {
  const bool binary = compressor_->binary();
  // A text message has to be whole: no client puts them together.
  const size_t wanted = binary ? options_.split_messages : 1;
  const size_t parts = std::clamp<size_t>(wanted, 1, std::max<size_t>(message_.size(), 1));
  for (size_t i = 0; i < parts; ++i) {
    const size_t begin = message_.size() * i / parts;
    const size_t end = message_.size() * (i + 1) / parts;
    connection_.Send(binary, std::string_view(message_).substr(begin, end - begin),
                     options_.split_fragments);
  }
}

}  // namespace shardd::simulator
