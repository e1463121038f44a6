#include "server/rpc_error.h"

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include "absl/strings/cord.h"

namespace shardd::server {
namespace {

// Names of the trailing metadata, and of the payloads that carry them within the process.
constexpr char kReasonKey[] = "shardd-reason";
constexpr char kRetryAfterKey[] = "shardd-retry-after-ms";

std::string PayloadOf(const absl::Status& status, const char* key) {
  const auto payload = status.GetPayload(key);
  return payload.has_value() ? std::string(*payload) : std::string();
}

}  // namespace

absl::Status Error(absl::StatusCode code, std::string_view reason, std::string_view message,
                   std::optional<std::chrono::milliseconds> retry_after) {
  return WithReason(absl::Status(code, std::string(message)), reason, retry_after);
}

absl::Status WithReason(absl::Status status, std::string_view reason,
                        std::optional<std::chrono::milliseconds> retry_after) {
  status.SetPayload(kReasonKey, absl::Cord(std::string(reason)));
  if (retry_after.has_value()) {
    status.SetPayload(kRetryAfterKey, absl::Cord(std::to_string(retry_after->count())));
  }
  return status;
}

std::string ReasonOf(const absl::Status& status) { return PayloadOf(status, kReasonKey); }

grpc::Status ToGrpc(const absl::Status& status, grpc::CallbackServerContext& context) {
  if (status.ok()) return grpc::Status::OK;
  const std::string reason = ReasonOf(status);
  context.AddTrailingMetadata(kReasonKey, reason.empty() ? std::string(reason::kInternal) : reason);
  const std::string retry_after = PayloadOf(status, kRetryAfterKey);
  if (!retry_after.empty()) context.AddTrailingMetadata(kRetryAfterKey, retry_after);
  // Abseil's codes are gRPC's, number by number.
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

}  // namespace shardd::server
