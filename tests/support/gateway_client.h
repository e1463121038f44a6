#pragma once

#include <boost/json.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/shard_id.h"

namespace shardd::test {

// Every documented intent.
inline constexpr uint64_t kAllIntents = 53608447;

struct Payload {
  int64_t op = -1;
  std::optional<uint64_t> sequence;
  std::string type;
  std::string text;  // the whole payload as it came, inflated
  std::string data;  // the JSON of `d`, byte for byte
  boost::json::value json;

  const boost::json::value& d() const { return json.at("d"); }
};

// A gateway client as plain as can be, to hold the simulator from outside: it does what it is told
// and nothing by itself. Blocking; every wait ends after a timeout. Not thread-safe.
class GatewayClient {
 public:
  struct Options {
    std::string query = "/?v=10&encoding=json";
    std::string compress{};  // "", "zlib-stream" or "zstd-stream"; added to the query
    std::string ca_path{};   // not empty: TLS, trusting this authority
    std::string user_agent = "shardd-test";
  };

  // Connects and shakes hands; see connected().
  explicit GatewayClient(uint16_t port) : GatewayClient(port, Options{}) {}
  GatewayClient(uint16_t port, Options options);
  ~GatewayClient();  // drops the connection without a close frame
  GatewayClient(const GatewayClient&) = delete;
  GatewayClient& operator=(const GatewayClient&) = delete;

  bool connected() const;

  // The next payload; none when the connection has ended or nothing came in time.
  std::optional<Payload> Read(std::chrono::milliseconds timeout = std::chrono::seconds(5));
  // Reads on to the next payload with this op, or dispatch of this type. What lies between is kept
  // in dispatches().
  std::optional<Payload> ReadOp(int64_t op);
  std::optional<Payload> ReadType(std::string_view type);
  // Reads until the connection ends: the server's close code, 1005 without one, 1006 without a
  // close frame, 0: it is still open after the timeout.
  uint16_t ReadClose(std::chrono::milliseconds timeout = std::chrono::seconds(5));

  void Send(std::string_view text);
  void Heartbeat(std::optional<uint64_t> sequence = std::nullopt);
  void Identify(ShardId shard, uint64_t intents = kAllIntents, std::string_view token = "token");
  void Resume(std::string_view session_id, uint64_t sequence, std::string_view token = "token");
  // Reads HELLO, identifies and reads on to READY.
  std::optional<Payload> Start(ShardId shard, uint64_t intents = kAllIntents);
  // A close frame; 0: without a code.
  void Close(uint16_t code);
  void Drop();

  // Every dispatch so far, in order.
  const std::vector<Payload>& dispatches() const { return dispatches_; }
  // Of the newest READY.
  const std::string& session_id() const { return session_id_; }
  std::vector<uint64_t> ready_guilds() const { return ready_guilds_; }
  uint64_t sequence() const { return sequence_; }
  size_t messages() const { return messages_; }  // WebSocket messages read
  bool binary() const { return binary_; }        // whether the last one was

 private:
  class Socket;
  class Inflater;

  void Note(const Payload& payload);

  std::unique_ptr<Socket> socket_;
  std::unique_ptr<Inflater> inflater_;
  std::vector<Payload> dispatches_;
  std::string session_id_;
  std::vector<uint64_t> ready_guilds_;
  uint64_t sequence_ = 0;
  size_t messages_ = 0;
  bool binary_ = false;
};

struct HttpAnswer {
  unsigned status = 0;  // 0: none came
  std::string body;
  std::string retry_after;
};

// One request to 127.0.0.1 over plain HTTP.
HttpAnswer Fetch(uint16_t port, std::string_view method, std::string_view target,
                 std::string_view authorization = {}, std::string_view body = {});

}  // namespace shardd::test
