#include "kernels/c_api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "tests/kernels/grad_batch.h"
#include "tests/kernels/grad_call.h"

namespace nsa::kernels::grad {
namespace {

using testing::HasSubstr;

nsa_grad_attention CallOf(GradBatch<float>& batch) {
  nsa_grad_attention call = SizesOfCall(batch);
  call.q = batch.q.data();
  call.k = batch.k.data();
  call.v = batch.v.data();
  call.selected = batch.selected.data();
  call.out = batch.out.data();
  call.lse = batch.lse.data();
  call.grad_out = batch.grad_out.data();
  call.grad_q = batch.grad_q.data();
  call.grad_k = batch.grad_k.data();
  call.grad_v = batch.grad_v.data();
  return call;
}

TEST(CApiTest, GivesTheBitsOfTheOperators) {
  const ContextHandle handle(nsa_context_create(2));
  ASSERT_NE(handle, nullptr) << nsa_last_error();
  kernels::cpu::Context context(1);
  for (const GradFunctions& pair : kGradFunctions) {
    GradBatch<float> expected(SmallGradCase(pair.branch)), actual(SmallGradCase(pair.branch));
    cpu::AttentionForward(context, expected.input, expected.output());
    cpu::AttentionBackward(context, expected.input, expected.gradients());
    const nsa_grad_attention call = CallOf(actual);
    ASSERT_EQ(pair.forward(handle.get(), &call), 0) << nsa_last_error();
    ASSERT_EQ(pair.backward(handle.get(), &call), 0) << nsa_last_error();
    EXPECT_EQ(expected.out, actual.out);
    EXPECT_EQ(expected.lse, actual.lse);
    EXPECT_EQ(expected.selected, actual.selected);
    EXPECT_EQ(expected.grad_q, actual.grad_q);
    EXPECT_EQ(expected.grad_k, actual.grad_k);
    EXPECT_EQ(expected.grad_v, actual.grad_v);
  }
}

class CApiRefusalTest : public testing::Test {
 protected:
  void Expect(GradFunction function, const nsa_grad_attention& call, const std::string& words) {
    EXPECT_EQ(function(handle_.get(), &call), -1);
    EXPECT_THAT(nsa_last_error(), HasSubstr(words));
  }

  ContextHandle handle_{nsa_context_create(1)};
  GradBatch<float> batch_{SmallGradCase(Branch::kSelected)};
  nsa_grad_attention call_ = CallOf(batch_);
};

TEST_F(CApiRefusalTest, Sizes) {
  const auto with = [&](int64_t nsa_grad_attention::* field, int64_t value) {
    nsa_grad_attention call = call_;
    call.*field = value;
    return call;
  };
  const GradFunction selected = nsa_grad_selected_attention_forward;
  Expect(selected, with(&nsa_grad_attention::size, 8), "another version");
  Expect(selected, with(&nsa_grad_attention::num_sequences, -1), "num_sequences is -1");
  Expect(selected, with(&nsa_grad_attention::num_q_heads, 0), "num_q_heads is 0");
  Expect(selected, with(&nsa_grad_attention::num_q_heads, 65), "more than 64-fold");
  Expect(selected, with(&nsa_grad_attention::head_dim_k, -3), "head_dim_k is -3");
  Expect(selected, with(&nsa_grad_attention::sel_block_size, 48), "sel_block_size is neither");
  const GradFunction cmp = nsa_grad_cmp_attention_backward;
  Expect(cmp, with(&nsa_grad_attention::compression_length, 33), "no multiple");
  Expect(cmp, with(&nsa_grad_attention::sel_block_size, 8), "no multiple of compression_stride");
  Expect(cmp, with(&nsa_grad_attention::num_local_blocks, -1), "num_local_blocks is -1");
  const GradFunction window = nsa_grad_window_attention_forward;
  Expect(window, with(&nsa_grad_attention::window_size, 0), "window_size is 0");
}

TEST_F(CApiRefusalTest, PointersAndScale) {
  nsa_grad_attention call = call_;
  call.q = nullptr;
  Expect(nsa_grad_window_attention_forward, call, "q is null");
  call = call_;
  call.lse = nullptr;
  Expect(nsa_grad_window_attention_forward, call, "lse is null");
  call = call_;
  call.grad_v = nullptr;
  Expect(nsa_grad_window_attention_backward, call, "grad_v is null");
  call = call_;
  call.scale = 0;
  Expect(nsa_grad_window_attention_backward, call, "scale");
  EXPECT_EQ(nsa_grad_window_attention_forward(nullptr, &call_), -1);
  EXPECT_EQ(nsa_grad_window_attention_forward(handle_.get(), nullptr), -1);
}

TEST_F(CApiRefusalTest, SequencesAndSelection) {
  const std::vector<int64_t> falling = {0, 90, 50}, late = {1, 90, 130};
  nsa_grad_attention call = call_;
  call.cu_seqlens = falling.data();
  Expect(nsa_grad_window_attention_forward, call, "sequence 1 has -40 tokens");
  call.cu_seqlens = late.data();
  Expect(nsa_grad_window_attention_forward, call, "cu_seqlens[0] is 1");
  // The second sequence has one block.
  batch_.selected[100 * 4] = 1;
  Expect(nsa_grad_selected_attention_forward, call_, "selected[100] has block 1");
  batch_.selected[100 * 4] = -2;
  Expect(nsa_grad_selected_attention_backward, call_, "selected[100] has block -2");
}

TEST_F(CApiRefusalTest, TypesAndStreamsOfTheCpu) {
  nsa_grad_attention call = call_;
  call.dtype = NSA_BFLOAT16;
  Expect(nsa_grad_window_attention_forward, call, "bfloat16, which this context does not serve");
  call.dtype = 7;
  Expect(nsa_grad_window_attention_forward, call, "dtype is 7");
  EXPECT_EQ(nsa_context_set_stream(handle_.get(), nullptr), -1);
  EXPECT_THAT(nsa_last_error(), HasSubstr("no streams"));
  EXPECT_EQ(nsa_context_set_stream(nullptr, nullptr), -1);
}

TEST_F(CApiRefusalTest, WithoutAGpu) {
  const ContextHandle handle(nsa_context_create_cuda());
  if (handle != nullptr) GTEST_SKIP() << "there is a GPU";
  EXPECT_STRNE(nsa_last_error(), "");
}

TEST_F(CApiRefusalTest, Threads) {
  EXPECT_EQ(nsa_context_create(0), nullptr);
  EXPECT_THAT(nsa_last_error(), HasSubstr("num_threads is 0"));
}

// As callers were written before there were types.
TEST(CApiTest, AStructWithoutATypeIsFloat32) {
  const ContextHandle handle(nsa_context_create(1));
  GradBatch<float> expected(SmallGradCase(Branch::kWindow)), actual(SmallGradCase(Branch::kWindow));
  const nsa_grad_attention whole = CallOf(expected);
  nsa_grad_attention call = CallOf(actual);
  call.size = offsetof(nsa_grad_attention, dtype);
  call.dtype = 7;  // lies behind the caller's struct
  ASSERT_EQ(nsa_grad_window_attention_forward(handle.get(), &whole), 0) << nsa_last_error();
  ASSERT_EQ(nsa_grad_window_attention_forward(handle.get(), &call), 0) << nsa_last_error();
  EXPECT_EQ(expected.out, actual.out);
  EXPECT_EQ(expected.lse, actual.lse);
}

TEST(CApiTest, Windows) {
  const ContextHandle handle(nsa_context_create(2));
  const std::vector<int64_t> cu_seqlens = {0, 12, 15};
  const std::vector<float> x(15 * 2 * 3, 1.5f), position(8 * 3, 0.5f);
  std::vector<float> gathered(2 * 2 * 8 * 3), mean(2 * 2 * 3), grad_x(x), grad_position(position);
  nsa_grad_windows call = {};
  call.size = sizeof(call);
  call.num_sequences = 2;
  call.cu_seqlens = cu_seqlens.data();
  call.num_heads = 2;
  call.head_dim = 3;
  call.compression_length = 8;
  call.compression_stride = 4;
  call.x = x.data();
  call.position = position.data();
  call.windows = gathered.data();
  call.grad_windows = gathered.data();
  call.grad_x = grad_x.data();
  call.grad_position = grad_position.data();
  ASSERT_EQ(nsa_grad_gather_windows_forward(handle.get(), &call), 0) << nsa_last_error();
  EXPECT_THAT(gathered, testing::Each(2.0f));
  ASSERT_EQ(nsa_grad_gather_windows_backward(handle.get(), &call), 0) << nsa_last_error();
  EXPECT_THAT(grad_position, testing::Each(8.0f));
  EXPECT_EQ(grad_x[0], 2.0f);
  EXPECT_EQ(grad_x[4 * 6], 4.0f);
  EXPECT_EQ(grad_x[12 * 6], 0.0f);
  call.windows = mean.data();
  ASSERT_EQ(nsa_grad_mean_windows_forward(handle.get(), &call), 0) << nsa_last_error();
  EXPECT_THAT(mean, testing::Each(1.5f));
  call.grad_windows = mean.data();
  ASSERT_EQ(nsa_grad_mean_windows_backward(handle.get(), &call), 0) << nsa_last_error();
  EXPECT_EQ(grad_x[4 * 6], 2 * 1.5f / 8);
  call.windows = nullptr;
  EXPECT_EQ(nsa_grad_mean_windows_forward(handle.get(), &call), -1);
  EXPECT_THAT(nsa_last_error(), HasSubstr("windows is null"));
}

}  // namespace
}  // namespace nsa::kernels::grad
