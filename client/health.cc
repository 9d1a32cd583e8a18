#include "client/health.h"

#include <string>

#include "grpcpp/generic/generic_stub.h"

namespace nsa::client {
namespace {

// grpc/health/v1/health.proto, HealthCheckResponse: field 1, a varint, is the status; 1: SERVING.
constexpr char kServing[] = "\x08\x01";

}  // namespace

grpc::Status CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                         std::chrono::system_clock::time_point deadline) {
  // Two bytes do not need the service's generated code.
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  context.set_deadline(deadline);
  const grpc::ByteBuffer request(nullptr, 0);
  const auto call =
      stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) return status;
  grpc::Slice reply;
  if (!response.DumpToSingleSlice(&reply).ok() ||
      std::string(reinterpret_cast<const char*>(reply.begin()), reply.size()) != kServing) {
    return {grpc::StatusCode::UNAVAILABLE, "the server is not serving"};
  }
  return status;
}

}  // namespace nsa::client
