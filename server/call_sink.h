#ifndef NSA_SERVER_CALL_SINK_H_
#define NSA_SERVER_CALL_SINK_H_

#include <cstddef>

#include "engine/request.h"
#include "server/outbox.h"

namespace nsa::server {

/// Messages that may wait for a slow reader before its request pauses. Those of the step that then
/// runs, and the last ones, still come: an outbox holds a few more at most.
inline constexpr size_t kMaxOutbox = 64;

/// A Generate call's way out, in the words of one protocol.
class CallSink : public engine::OutputSink {
 public:
  /// True once the engine has ended the request, whose id another may then have.
  virtual bool engine_done() const = 0;
};

/// One that fills an outbox of a gRPC stream: a slow reader fills it, Ready() turns false, and his
/// request alone pauses. OutputSink calls come from the engine thread, the others from gRPC's; none
/// blocks.
template <typename Message>
class OutboxSink : public CallSink {
 public:
  bool Ready() const override { return outbox_.HasRoom(kMaxOutbox); }
  bool engine_done() const override { return outbox_.closed(); }
  void OnDone(const absl::Status& status, const engine::Finish& finish) override {
    if (status.ok()) OnChoiceDone(finish);
    outbox_.Close(status);
  }

  void OnWriteDone(bool ok) { outbox_.OnWriteDone(ok); }

 protected:
  /// `stream` lives until Finish has been called on it.
  explicit OutboxSink(MessageStream<Message>* stream) : outbox_(stream) {}
  Outbox<Message>& outbox() { return outbox_; }

 private:
  Outbox<Message> outbox_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_CALL_SINK_H_
