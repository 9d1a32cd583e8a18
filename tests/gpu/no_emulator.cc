// What tests/cuda_host/orders.h asks of the emulator, on a GPU: it has no orders to choose from, so
// that a launch is repeated and must give the same bits.

#include "tests/cuda_host/emulator.h"
#include "tests/cuda_host/streams.h"

namespace nsa::cuda_host {

bool IsEmulated() { return false; }
void SetOrder(Order) {}
std::vector<std::source_location> BarriersSeen() { return {}; }
void ForgetBarriers() {}
void SkipBarrier(const std::source_location*) {}
void SetCopyDelay(int) {}
StreamCounts CountsOfStreams() { return {}; }

}  // namespace nsa::cuda_host
