#ifndef NSA_SERVER_CALL_SINK_H_
#define NSA_SERVER_CALL_SINK_H_

#include <cstddef>

#include "engine/request.h"

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

}  // namespace nsa::server

#endif  // NSA_SERVER_CALL_SINK_H_
