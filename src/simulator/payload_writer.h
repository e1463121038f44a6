#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "simulator/compressor.h"
#include "simulator/connection.h"
#include "simulator/dispatch.h"
#include "simulator/protocol.h"
#include "simulator/simulator.h"

namespace shardd::simulator {

// Turns payloads into the WebSocket messages of one connection: Discord's key order, the
// compression, and cuts where they are wished. Loop-bound; `connection` and `options` outlive it.
class PayloadWriter {
 public:
  // `compress` as Compressor knows it.
  PayloadWriter(Connection& connection, const SimulatorOptions& options, std::string_view compress);

  void WriteDispatch(uint64_t sequence, const Dispatch& dispatch);
  // Any payload but a dispatch; `data` is the JSON of `d`.
  void WriteOp(Op op, std::string_view data);
  void WritePayload(std::string_view payload);

  std::string_view compression() const { return compressor_->name(); }

 private:
  void WriteBomb(uint64_t sequence, const Dispatch& dispatch);
  // What message_ holds.
  void Send();

  Connection& connection_;
  const SimulatorOptions& options_;
  const std::unique_ptr<Compressor> compressor_;
  std::string payload_;  // reused
  std::string message_;  // reused
};

}  // namespace shardd::simulator
