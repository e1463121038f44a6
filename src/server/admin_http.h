#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/parse.h"

namespace shardd::server {

// GET /healthz and /readyz for load balancers and kubelets, over plain HTTP, on a thread of its
// own.
class AdminHttp {
 public:
  // `why_not_ready` answers "" when the server is ready; called on the thread of this object.
  // UNAVAILABLE when the address cannot be listened on.
  static absl::StatusOr<std::unique_ptr<AdminHttp>> Start(
      const ListenAddress& address, std::function<std::string()> why_not_ready);
  ~AdminHttp();

  uint16_t port() const;

 private:
  class Impl;
  explicit AdminHttp(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace shardd::server
