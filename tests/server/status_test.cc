#include "server/status.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/time/time.h"
#include "engine/admission.h"
#include "nsa/v1/status.pb.h"

namespace nsa::server {
namespace {

TEST(StatusTest, CodeAndMessageStay) {
  EXPECT_EQ(ToGrpc(absl::OkStatus()).error_code(), grpc::StatusCode::OK);
  EXPECT_EQ(ToGrpc(absl::ResourceExhaustedError("x")).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ToGrpc(absl::UnauthenticatedError("x")).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(ToGrpc(absl::DataLossError("why")).error_message(), "why");
  EXPECT_TRUE(ToGrpc(absl::DataLossError("why")).error_details().empty());
}

TEST(StatusTest, ARetryHintBecomesRetryInfo) {
  const absl::Status full =
      engine::WithRetryAfter(absl::ResourceExhaustedError("full"), absl::Milliseconds(2350));
  const grpc::Status sent = ToGrpc(full);
  v1::StatusDetails details;
  ASSERT_TRUE(details.ParseFromString(sent.error_details()));
  EXPECT_EQ(details.code(), static_cast<int>(grpc::StatusCode::RESOURCE_EXHAUSTED));
  EXPECT_EQ(details.message(), "full");
  ASSERT_EQ(details.details_size(), 1);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.RetryInfo");
  v1::RetryInfo info;
  ASSERT_TRUE(info.ParseFromString(details.details(0).value()));
  EXPECT_EQ(info.retry_delay().seconds(), 2);
  EXPECT_EQ(info.retry_delay().nanos(), 350'000'000);
}

}  // namespace
}  // namespace nsa::server
