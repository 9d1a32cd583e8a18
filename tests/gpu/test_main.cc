// GoogleTest's main for tests whose kernels run on a GPU.

#include <gtest/gtest.h>

#include <cstdio>

#include "tests/gpu/test_memory.h"

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;  // as ctest is told
  testing::InitGoogleTest(&argc, argv);
  if (!testing::GTEST_FLAG(list_tests) && !nsa::gpu::UseDeviceMemory()) {
    std::puts("no GPU: skipped");
    return kSkipped;
  }
  return RUN_ALL_TESTS();
}
