#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/config.h"

namespace shardd::server {

// All of shardd but the process around it: log, shards, gRPC and admin listeners. Made, stopped and
// destroyed by one thread.
class Server {
 public:
  // Listens, then goes on with the shards of an earlier process and asks Discord for the gateway.
  // `on_fatal` is called at most once, on some thread, when the process should end with that code;
  // it must not block.
  //   INVALID_ARGUMENT  the configuration does not hold, such as a certificate that cannot be read,
  //                     or --data-dir is another bot's
  //   UNAVAILABLE       an address cannot be listened on, or --data-dir not be used
  //   FAILED_PRECONDITION, RESOURCE_EXHAUSTED  another process has --data-dir; its disk is full
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Config& config,
                                                       std::function<void(int exit_code)> on_fatal);
  // Stop()
  ~Server();

  // Where gRPC is served, with the port that was picked: "127.0.0.1:50051", "unix:PATH".
  const std::string& address() const;
  // The same of /healthz and /readyz; empty: off.
  const std::string& admin_address() const;

  // Closes the shards so that their sessions stay resumable, lets streams deliver what the log
  // holds, then ends all; cuts what is left after --drain-timeout. Idempotent.
  void Stop();

 private:
  class Parts;
  explicit Server(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace shardd::server
