#include "gateway/gateway_bot.h"

#include "absl/status/status.h"

namespace shardd::gateway {

absl::StatusOr<GatewayBot> FetchGatewayBot(const RestOptions&, std::stop_token) {
  return absl::UnavailableError("not built yet");
}

}  // namespace shardd::gateway
