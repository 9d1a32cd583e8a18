#ifndef NSA_SERVER_VLLM_STREAMS_H_
#define NSA_SERVER_VLLM_STREAMS_H_

#include <algorithm>
#include <memory>

#include "grpcpp/grpcpp.h"
#include "server/intake.h"
#include "server/outbox.h"
#include "server/status.h"
#include "server/vllm/kv_event_stream.h"
#include "server/vllm/tokenizer_bundle.h"
#include "server/vllm/wire.h"

namespace nsa::server {

/// One GetTokenizer call. gRPC deletes it through OnDone, after Finish.
class TokenizerCall final : public grpc::ServerWriteReactor<wire_common::GetTokenizerChunk> {
 public:
  static constexpr size_t kChunkBytes = size_t{64} << 10;

  /// Sends the archive; on a worker's thread.
  void Run(TokenizerBundle& bundle) {
    auto archive = bundle.Get();
    if (!archive.ok()) return Finish(ToGrpc(archive.status()));
    archive_ = *std::move(archive);
    WriteNext();
  }

  void OnWriteDone(bool ok) override {
    if (ok) return WriteNext();
    Finish({grpc::StatusCode::CANCELLED, "the client is gone"});
  }
  void OnDone() override { delete this; }

 private:
  void WriteNext() {
    const std::string& zip = archive_->zip;
    if (next_ == zip.size()) return Finish(grpc::Status::OK);
    const size_t num_bytes = std::min(kChunkBytes, zip.size() - next_);
    chunk_.set_data(zip.substr(next_, num_bytes));
    next_ += num_bytes;
    if (next_ == zip.size()) chunk_.set_sha256(archive_->sha256);
    StartWrite(&chunk_);
  }

  std::shared_ptr<const TokenizerArchive> archive_;
  wire_common::GetTokenizerChunk chunk_;
  size_t next_ = 0;  // byte of the archive
};

/// One SubscribeKvEvents call. Likewise.
class KvEventCall final : public grpc::ServerWriteReactor<wire_common::KvEventBatch>,
                          public MessageStream<wire_common::KvEventBatch> {
 public:
  explicit KvEventCall(engine::Engine* engine)
      : engine_(engine), events_(std::make_shared<KvEventStream>(this)) {}

  const std::shared_ptr<KvEventStream>& events() const { return events_; }

  // MessageStream.
  void StartWrite(const wire_common::KvEventBatch* message) override {
    grpc::ServerWriteReactor<wire_common::KvEventBatch>::StartWrite(message);
  }
  void Finish(const absl::Status& status) override {
    grpc::ServerWriteReactor<wire_common::KvEventBatch>::Finish(ToGrpc(status));
  }

  // Reactor. The subscriber waits for the metadata, whether anything is cached or not.
  void OnSendInitialMetadataDone(bool ok) override {
    if (ok) return engine_->WatchCache(events_);
    OnCancel();
  }
  void OnWriteDone(bool ok) override { events_->OnWriteDone(ok); }
  void OnCancel() override { events_->End(absl::CancelledError("the subscriber is gone")); }
  void OnDone() override { delete this; }

 private:
  engine::Engine* const engine_;
  const std::shared_ptr<KvEventStream> events_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_VLLM_STREAMS_H_
