#pragma once

#include <string_view>

#include "simulator/controls.h"
#include "simulator/gateway.h"
#include "simulator/http.h"

namespace shardd::simulator {

// /simulator/...: what Simulator does from code, for clients in other languages.
// docs/simulator.md lists the orders. Loop-bound; `gateway` and `controls` outlive it.
class ControlApi {
 public:
  // All orders begin with it.
  static constexpr std::string_view kPath = "/simulator/";

  ControlApi(Gateway& gateway, Controls& controls) : gateway_(gateway), controls_(controls) {}

  http::Response Answer(const http::Request& request);

 private:
  http::Response Status() const;
  http::Response Commands(const http::Request& request) const;

  Gateway& gateway_;
  Controls& controls_;
};

}  // namespace shardd::simulator
