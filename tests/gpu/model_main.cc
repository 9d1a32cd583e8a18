// GoogleTest's main for tests of the engine on a GPU.

#include <gtest/gtest.h>

#include <cstdio>

#include "kernels/backend.h"

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;  // as ctest is told
  testing::InitGoogleTest(&argc, argv);
  if (!testing::GTEST_FLAG(list_tests)) {
    const nsa::kernels::CudaDevice device = nsa::kernels::OpenCudaDevice();
    if (device.backend == nullptr) {
      std::printf("no GPU: skipped (%s)\n", device.error.c_str());
      return kSkipped;
    }
  }
  return RUN_ALL_TESTS();
}
