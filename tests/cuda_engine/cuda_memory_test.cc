// Too little memory on the device, which the emulator can have.

#include <gtest/gtest.h>

#include <cstdint>

#include "engine/loaded_model.h"
#include "kernels/backend.h"
#include "tests/cuda_host/device_memory.h"
#include "tests/engine/tiny_folder.h"

namespace nsa::engine {
namespace {

TEST(CudaMemoryTest, ADeviceWithoutRoomToBeginSaysSo) {
  cuda_host::SetDeviceBytes(1000);
  const kernels::CudaDevice device = kernels::OpenCudaDevice();
  cuda_host::SetDeviceBytes(int64_t{2} << 30);
  EXPECT_EQ(device.backend, nullptr);
  EXPECT_NE(device.error.find("too little free memory"), std::string::npos) << device.error;
}

TEST(CudaMemoryTest, TooLittleMemoryIsSaidAtTheStart) {
  const TinyFolder folder;
  cuda_host::SetDeviceBytes(int64_t{3} << 20);
  EngineOptions options;
  options.model_path = folder.path();
  options.device = Device::kCuda;
  options.kv_cache_gib = 0.01;
  const auto loaded = LoadModelWithCache(options);
  cuda_host::SetDeviceBytes(int64_t{2} << 30);
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(loaded.status().message().find("not enough memory"), std::string::npos)
      << loaded.status();
}

}  // namespace
}  // namespace nsa::engine
