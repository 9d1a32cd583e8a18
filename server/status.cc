#include "server/status.h"

#include <string>

#include "engine/admission.h"
#include "nsa/v1/status.pb.h"

namespace nsa::server {

grpc::Status ToGrpc(const absl::Status& status) {
  // The two enumerations have the same values by design.
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message(status.message());
  const auto delay = engine::RetryAfterOf(status);
  if (!delay.has_value()) return {code, message};
  const int64_t milliseconds = absl::ToInt64Milliseconds(*delay);
  v1::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(milliseconds / 1000);
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(milliseconds % 1000 * 1'000'000));
  v1::StatusDetails details;
  details.set_code(code);
  details.set_message(message);
  google::protobuf::Any& any = *details.add_details();
  any.set_type_url("type.googleapis.com/google.rpc.RetryInfo");
  any.set_value(info.SerializeAsString());
  return {code, message, details.SerializeAsString()};
}

grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace nsa::server
