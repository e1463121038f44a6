#pragma once

#include <memory>
#include <optional>

#include "simulator/connection.h"
#include "simulator/control_api.h"
#include "simulator/controls.h"
#include "simulator/gateway.h"

namespace shardd::simulator {

// Discord's REST routes that a gateway client needs, the handshakes of the gateway itself, and
// the orders of ControlApi. Loop-bound; `gateway` and `controls` outlive it.
class HttpApi final : public RequestHandler {
 public:
  HttpApi(Gateway& gateway, Controls& controls) : gateway_(gateway), control_(gateway, controls) {}

  http::Response Answer(const http::Request& request) override;
  std::shared_ptr<WebSocketEvents> Accept(Connection& connection, const http::Request& request,
                                          std::optional<http::Response>& refusal) override;

 private:
  http::Response GatewayBot(const http::Request& request);

  Gateway& gateway_;
  ControlApi control_;
};

}  // namespace shardd::simulator
