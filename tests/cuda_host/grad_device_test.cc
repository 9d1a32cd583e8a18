// The device of kernels/grad as callers of the C API get it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "kernels/c_api.h"
#include "tests/cuda_host/device_memory.h"
#include "tests/cuda_host/grad_world.h"
#include "tests/kernels/grad_call.h"

namespace nsa::kernels::grad {
namespace {

using testing::HasSubstr;

// Pointers of a call are typed as floats whatever their elements are.
const float* In(Elements& elements) { return static_cast<const float*>(elements.data()); }
float* Out(Elements& elements) { return static_cast<float*>(elements.data()); }

TEST(CudaGradDeviceTest, TheCApiGivesTheBitsOfTheOperators) {
  const ContextHandle handle(nsa_context_create_cuda());
  ASSERT_NE(handle, nullptr) << nsa_last_error();
  ASSERT_EQ(nsa_context_set_stream(handle.get(), nullptr), 0) << nsa_last_error();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const GradFunctions& functions : kGradFunctions) {
      const RoundedBatch batch(SmallGradCase(functions.branch), dtype);
      const DeviceResults expected = RunDevice(*OpenDevice(), batch, dtype);
      Elements q(dtype, batch.q), k(dtype, batch.k), v(dtype, batch.v);
      Elements grad_out(dtype, batch.grad_out), out(dtype, batch.out);
      Elements grad_q(dtype, batch.q), grad_k(dtype, batch.k), grad_v(dtype, batch.v);
      std::vector<float> lse(batch.lse.size());
      std::vector<int32_t> selected = batch.selected;
      nsa_grad_attention call = SizesOfCall(batch);
      call.dtype = dtype == DType::kF32 ? NSA_FLOAT32 : NSA_BFLOAT16;
      call.q = In(q);
      call.k = In(k);
      call.v = In(v);
      call.selected = selected.data();
      call.out = Out(out);
      call.lse = lse.data();
      call.grad_out = In(grad_out);
      call.grad_q = Out(grad_q);
      call.grad_k = Out(grad_k);
      call.grad_v = Out(grad_v);
      ASSERT_EQ(functions.forward(handle.get(), &call), 0) << nsa_last_error();
      ASSERT_EQ(functions.backward(handle.get(), &call), 0) << nsa_last_error();
      EXPECT_EQ(expected.out, out.values());
      EXPECT_EQ(expected.lse, lse);
      EXPECT_EQ(expected.selected, selected);
      EXPECT_EQ(expected.grad_q, grad_q.values());
      EXPECT_EQ(expected.grad_k, grad_k.values());
      EXPECT_EQ(expected.grad_v, grad_v.values());
    }
  }
}

/// A call that is refused before any pointer is read.
class CudaGradRefusalTest : public testing::Test {
 protected:
  void Expect(const nsa_grad_attention& call, const char* words) {
    EXPECT_EQ(nsa_grad_window_attention_forward(handle_.get(), &call), -1);
    EXPECT_THAT(nsa_last_error(), HasSubstr(words));
  }

  const ContextHandle handle_{nsa_context_create_cuda()};
  const RoundedBatch batch_{SmallGradCase(Branch::kWindow), DType::kF32};
  nsa_grad_attention call_ = SizesOfCall(batch_);
};

TEST_F(CudaGradRefusalTest, WhatKernelsCannotCount) {
  call_.head_dim_k = 4090;
  Expect(call_, "more than 4096 together");
  call_.head_dim_k = 16;
  call_.num_q_heads = call_.num_kv_heads = 1 << 20;
  const std::vector<int64_t> cu_seqlens = {0, 1 << 11};
  call_.cu_seqlens = cu_seqlens.data();
  call_.num_sequences = 1;
  Expect(call_, "fewer than 2^31 heads of tokens");
}

TEST_F(CudaGradRefusalTest, TooLittleMemory) {
  cuda_host::SetDeviceBytes(64);
  std::vector<float> some(batch_.q.size() + batch_.k.size() + batch_.out.size());
  call_.q = call_.k = call_.v = some.data();
  call_.out = call_.lse = some.data();
  Expect(call_, "bytes of free memory");
  cuda_host::SetDeviceBytes(int64_t{2} << 30);
}

}  // namespace
}  // namespace nsa::kernels::grad
