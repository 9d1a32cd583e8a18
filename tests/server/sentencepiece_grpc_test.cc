// SentencePiece carries protobuf 3.14, the server protobuf 3.21: both at work in one process.

#include <google/protobuf/arena.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/message_differencer.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/tokenizer/tokenizer.h"

namespace nsa {
namespace {

using google::protobuf::ListValue;
using google::protobuf::Struct;

// Answers a Struct with its own fields and their number.
class EchoService final : public grpc::CallbackGenericService {
  class Reactor final : public grpc::ServerGenericBidiReactor {
   public:
    Reactor() { StartRead(&request_); }
    void OnReadDone(bool ok) override {
      if (!ok) return Finish(grpc::Status::OK);
      Struct message;
      if (!grpc::SerializationTraits<Struct>::Deserialize(&request_, &message).ok()) {
        return Finish({grpc::StatusCode::INVALID_ARGUMENT, "not a Struct"});
      }
      const double size = message.fields_size();
      (*message.mutable_fields())["size"].set_number_value(size);
      bool own_buffer = false;
      grpc::SerializationTraits<Struct>::Serialize(message, &response_, &own_buffer);
      StartWriteAndFinish(&response_, {}, grpc::Status::OK);
    }
    void OnDone() override { delete this; }

   private:
    grpc::ByteBuffer request_;
    grpc::ByteBuffer response_;
  };

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new Reactor();
  }
};

Struct MessageOf(const std::vector<int32_t>& ids, const std::string& text) {
  Struct message;
  (*message.mutable_fields())["text"].set_string_value(text);
  ListValue* list = (*message.mutable_fields())["ids"].mutable_list_value();
  for (int32_t id : ids) list->add_values()->set_number_value(id);
  return message;
}

// One call over the wire; whether the answer is the message and its size.
bool Echo(grpc::GenericStub& stub, const Struct& message) {
  grpc::ByteBuffer request;
  bool own_buffer = false;
  grpc::SerializationTraits<Struct>::Serialize(message, &request, &own_buffer);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  grpc::ByteBuffer response;
  grpc::Status status;
  auto call = stub.PrepareUnaryCall(&context, "/nsa.test.Echo/Echo", request, &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  if (!queue.Next(&tag, &ok) || !ok || !status.ok()) return false;
  // On an arena: that is where the two versions' layouts differ most.
  google::protobuf::Arena arena;
  Struct* answer = google::protobuf::Arena::CreateMessage<Struct>(&arena);
  if (!grpc::SerializationTraits<Struct>::Deserialize(&response, answer).ok()) return false;
  if (answer->fields().at("size").number_value() != message.fields_size()) return false;
  answer->mutable_fields()->erase("size");
  return google::protobuf::util::MessageDifferencer::Equals(*answer, message);
}

std::string ModelPath() {
  const char* root = std::getenv("NSA_SOURCE_DIR");
  return std::string(root == nullptr ? "." : root) + "/tests/golden/tokenizer/tiny_unigram.model";
}

TEST(SentencePieceAndGrpc, WorkInOneProcessFromManyThreads) {
  EchoService service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterCallbackGenericService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  const auto channel =
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials());
  const auto shared = engine::LoadSentencePieceModel(ModelPath());
  ASSERT_TRUE(shared.ok()) << shared.status();

  std::atomic<int> num_good = 0;
  constexpr int kNumThreads = 4;
  constexpr int kNumRounds = 50;
  std::vector<std::thread> threads;
  for (int t = 0; t < kNumThreads; ++t) {
    threads.emplace_back([&, t] {
      grpc::GenericStub stub(channel);
      for (int round = 0; round < kNumRounds; ++round) {
        // Loading parses a ModelProto while other threads parse Structs.
        const auto own = engine::LoadSentencePieceModel(ModelPath());
        const std::string text = "Thread " + std::to_string(t) + ", round " +
                                 std::to_string(round) +
                                 " \xF0\x9F\x98\x80 \xE6\xBC\xA2\xE5\xAD\x97";
        const engine::EncodeOptions options = {.add_special_tokens = false};
        const std::vector<int32_t> ids = (*shared)->Encode(text, options);
        const bool same = own.ok() && (*own)->Encode(text, options) == ids;
        const bool echoed = Echo(stub, MessageOf(ids, text));
        num_good += same && echoed && (*shared)->Decode(ids, false) == text;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_good, kNumThreads * kNumRounds);
  server->Shutdown();
}

}  // namespace
}  // namespace nsa
