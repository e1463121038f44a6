#include "server/rpc_error.h"

#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "document.h"
#include "shardd/v1/shardd.grpc.pb.h"

namespace shardd::server {
namespace {

using ::testing::IsEmpty;

struct Answer {
  grpc::Status status;
  std::map<std::string, std::string> trailers;
};

// Answers each Locate with one status.
class FailingService final : public v1::ShardControl::CallbackService {
 public:
  explicit FailingService(absl::Status status) : status_(std::move(status)) {}
  grpc::ServerUnaryReactor* Locate(grpc::CallbackServerContext* context, const v1::LocateRequest*,
                                   v1::LocateResponse*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(status_, *context));
    return reactor;
  }

 private:
  const absl::Status status_;
};

// What a caller sees of a status, over a channel within this process.
Answer Convert(const absl::Status& status) {
  FailingService service(status);
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  const auto stub = v1::ShardControl::NewStub(server->InProcessChannel({}));
  grpc::ClientContext context;
  v1::LocateResponse response;
  Answer answer{.status = stub->Locate(&context, {}, &response), .trailers = {}};
  for (const auto& [key, value] : context.GetServerTrailingMetadata()) {
    answer.trailers[{key.data(), key.size()}] = {value.data(), value.size()};
  }
  server->Shutdown(std::chrono::system_clock::now());
  return answer;
}

TEST(RpcErrorTest, CarriesCodeMessageAndReason) {
  const auto answer = Convert(
      Error(absl::StatusCode::kNotFound, reason::kShardNotFound, "shard 3/4 was never spawned"));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(answer.status.error_message(), "shard 3/4 was never spawned");
  EXPECT_EQ(answer.trailers,
            (std::map<std::string, std::string>{{"shardd-reason", "SHARD_NOT_FOUND"}}));
}

TEST(RpcErrorTest, SaysInMillisecondsHowLongToWaitWhereThatHelps) {
  const auto answer = Convert(Error(absl::StatusCode::kUnavailable, reason::kGatewayNotKnown,
                                    "ask again", std::chrono::seconds(2)));
  EXPECT_EQ(answer.trailers.at("shardd-retry-after-ms"), "2000");
}

TEST(RpcErrorTest, GivesEachCodeItsNumber) {
  for (int code = 1; code <= 16; ++code) {
    const auto status = Error(static_cast<absl::StatusCode>(code), reason::kInternal, "m");
    EXPECT_EQ(static_cast<int>(Convert(status).status.error_code()), code);
  }
}

TEST(RpcErrorTest, SaysInternalWhereTheFinderKnewNoReason) {
  const auto answer = Convert(absl::InternalError("x"));
  EXPECT_EQ(answer.trailers.at("shardd-reason"), "INTERNAL");
}

TEST(RpcErrorTest, HasNothingToSayAboutSuccess) {
  const auto answer = Convert(absl::OkStatus());
  EXPECT_TRUE(answer.status.ok());
  EXPECT_THAT(answer.trailers, IsEmpty());
}

TEST(RpcErrorTest, WithReasonKeepsCodeAndMessage) {
  const absl::Status status =
      WithReason(absl::InvalidArgumentError("no cursor"), reason::kCursorMalformed);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "no cursor");
  EXPECT_EQ(ReasonOf(status), "CURSOR_MALFORMED");
  EXPECT_EQ(ReasonOf(absl::InternalError("x")), "");
}

TEST(RpcErrorTest, DocumentsEachReasonInATableAndNoOther) {
  const std::string header = test::ReadAll(SHARDD_RPC_ERROR_H);
  const auto defined = test::FindBetween(header, " = \"", "\"");
  EXPECT_EQ(defined.size(), test::FindBetween(header, "std::string_view k", " ").size());
  EXPECT_GE(defined.size(), 17u);
  EXPECT_EQ(defined, test::FindBetween(test::ReadAll(SHARDD_DOCS "/errors.md"), "\n| `", "`"));
}

}  // namespace
}  // namespace shardd::server
