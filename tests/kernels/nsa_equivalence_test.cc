#include "kernels/ops/cmp_attn.h"
#include "kernels/ops/full_attn.h"
#include "kernels/ops/merge.h"
#include "kernels/ops/score_topk.h"
#include "kernels/ops/sel_attn.h"
#include "kernels/ops/sparse_attn.h"
#include "kernels/ops/win_attn.h"
#include "tests/kernels/attention_cases.h"

/// The operators together: what must come out the same by two ways.
namespace nsa::kernels {
namespace {

/// How a layer's attention is put together (algorithm.md §2).
struct Layer {
  std::string name;
  int64_t window_size;
  int num_selected_blocks;
  bool disjoint;  // selection and page-aligned window, one softmax; else gated with cmp_attn
  bool limited;   // max_page_distance holds for reading too
  int64_t max_page_distance;
  int num_clusters = 0;  // > 0: instead of windows
  int64_t decay_page_distance = -1;
  bool reads_window = false;  // disjoint, and one pass over both
  bool keeps_scores = false;  // of cmp_attn for score_topk
};

/// One sequence and its activations; its cache starts empty (NaN).
class LayerWorld {
 public:
  LayerWorld(const AttentionCase& c, int64_t num_tokens)
      : c_(c),
        num_tokens_(num_tokens),
        rope_(c.rotary_dim, num_tokens / kPageSize + 2),
        table_(num_tokens / kPageSize + 1) {
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), std::mt19937(4));
    q_ = RandomFloats(num_tokens * num_q_heads() * c.head_dim_k, 1);
    k_ = RandomFloats(num_tokens * c.num_kv_heads * c.head_dim_k, 2);
    v_ = RandomFloats(num_tokens * c.num_kv_heads * c.head_dim_v, 3);
    gates_ = RandomFloats(num_tokens * num_q_heads() * 3, 4);
  }

  /// Operators are called one by one, in the place of SparseAttn.
  void TakeApart() { apart_ = true; }
  /// Nothing that has a key of this token gets a finite score.
  void BreakKey(int64_t token) {
    k_[static_cast<size_t>(token * c_.num_kv_heads * c_.head_dim_k)] = NAN;
  }

  int num_q_heads() const { return c_.group * c_.num_kv_heads; }
  int64_t RowFloats() const { return int64_t{num_q_heads()} * c_.head_dim_v; }

  /// y [num_tokens, num_q_heads · head_dim_v], the tokens given in chunks that end at `ends`.
  std::vector<float> Run(Backend& backend, const Layer& layer, const std::vector<int64_t>& ends) {
    AttentionCase c = c_;
    c.num_clusters = layer.num_clusters;
    TestCache cache(c, static_cast<int64_t>(table_.size()));
    std::vector<float> y(num_tokens_ * RowFloats());
    int64_t begin = 0;
    for (const int64_t end : ends) {
      const AttentionSegment segment = {table_.data(), begin, 0, static_cast<int32_t>(end - begin)};
      RunChunk(backend, layer, cache, segment, y.data() + begin * RowFloats());
      begin = end;
    }
    return y;
  }

  /// Full attention over the same tokens.
  std::vector<float> RunFull(Backend& backend) {
    TestCache cache(c_, static_cast<int64_t>(table_.size()));
    const AttentionSegment segment = {table_.data(), 0, 0, static_cast<int32_t>(num_tokens_)};
    Write(backend, {}, cache, segment);
    std::vector<float> y(num_tokens_ * RowFloats()), lse(num_tokens_ * num_q_heads());
    backend.FullAttn({Query(cache, segment), {y.data(), lse.data()}});
    return y;
  }

 private:
  void Write(Backend& backend, const Layer& layer, TestCache& cache,
             const AttentionSegment& segment) {
    const int64_t t = segment.position;
    const int64_t k_stride = int64_t{c_.num_kv_heads} * c_.head_dim_k;
    const int64_t v_stride = int64_t{c_.num_kv_heads} * c_.head_dim_v;
    backend.RopeKvWrite({k_.data() + t * k_stride, k_stride, v_.data() + t * v_stride, v_stride,
                         &segment, 1, cache.view(), rope_.view()});
    if (layer.num_clusters > 0) {
      backend.CmpCluster({&segment, 1, cache.view(), layer.num_clusters});
      return;
    }
    backend.CmpPool(
        {&segment, 1, cache.view(), rope_.view(), c_.length, c_.stride, c_.pooled_keys});
  }

  AttentionQuery Query(const TestCache& cache, const AttentionSegment& segment) const {
    const int64_t stride = int64_t{num_q_heads()} * c_.head_dim_k;
    return {q_.data() + segment.position * stride,
            stride,
            num_q_heads(),
            1.0f / std::sqrt(static_cast<float>(c_.head_dim_k)),
            &segment,
            1,
            cache.view(),
            rope_.view()};
  }

  void RunChunk(Backend& backend, const Layer& layer, TestCache& cache,
                const AttentionSegment& segment, float* y) {
    Write(backend, layer, cache, segment);
    const AttentionQuery query = Query(cache, segment);
    std::vector<float> out[3], lse[3];
    for (int b = 0; b < 3; ++b) {
      out[b].resize(segment.num_rows * RowFloats());
      lse[b].resize(segment.num_rows * num_q_heads());
    }
    const auto branch = [&](int b) { return BranchOutput{out[b].data(), lse[b].data()}; };
    std::vector<int32_t> selected(segment.num_rows * c_.num_kv_heads * layer.num_selected_blocks);
    std::vector<int32_t> num_selected(segment.num_rows * c_.num_kv_heads);
    const int64_t disjoint_window = layer.disjoint ? layer.window_size : 0;

    SparseAttnParams params;
    if (layer.num_clusters == 0) {
      params.cmp = {query, c_.length, c_.stride, layer.max_page_distance, branch(0), {}};
    }
    std::vector<float> scores;
    if (layer.keeps_scores) {
      const int64_t stride =
          CmpScoreStride((segment.position + segment.num_rows) / kPageSize + 1, c_.stride);
      scores.resize(static_cast<size_t>(segment.num_rows * num_q_heads() * stride));
      params.cmp->scores = params.score.cmp_scores = {scores.data(), stride};
    }
    params.score.query = query;
    params.score.length = c_.length;
    params.score.stride = c_.stride;
    params.score.sel_block_size = c_.sel_block_size;
    params.score.num_clusters = layer.num_clusters;
    params.score.max_page_distance = layer.max_page_distance;
    params.score.decay_page_distance = layer.decay_page_distance;
    params.score.cmp_lse = layer.disjoint ? nullptr : lse[0].data();
    params.score.num_selected_blocks = layer.num_selected_blocks;
    params.score.window_size = disjoint_window;
    params.score.selected = selected.data();
    params.score.num_selected = num_selected.data();
    params.sel = {
        query,           c_.sel_block_size,   layer.num_selected_blocks,
        selected.data(), num_selected.data(), layer.limited ? layer.max_page_distance : -1,
        disjoint_window, layer.reads_window,  branch(1)};
    if (layer.reads_window) {
      params.sel.result.out = y;
    } else {
      params.win = {query, layer.window_size, layer.disjoint, branch(2)};
      params.merge = MergeOf(layer, segment, branch, y);
    }
    if (apart_) return backend.Backend::SparseAttn(params);
    backend.SparseAttn(params);
  }

  template <typename Branch>
  MergeParams MergeOf(const Layer& layer, const AttentionSegment& segment, const Branch& branch,
                      float* y) const {
    MergeParams merge;
    merge.num_branches = layer.disjoint ? 2 : 3;
    for (int b = 0; b < merge.num_branches; ++b) {
      merge.branches[b] = branch(layer.disjoint ? b + 1 : b);
    }
    if (!layer.disjoint) {
      merge.gate_logits = gates_.data() + segment.position * num_q_heads() * 3;
      merge.gate_stride = num_q_heads() * 3;
    }
    merge.num_rows = segment.num_rows;
    merge.num_q_heads = num_q_heads();
    merge.head_dim_v = c_.head_dim_v;
    merge.y = y;
    merge.y_stride = RowFloats();
    return merge;
  }

  AttentionCase c_;
  int64_t num_tokens_;
  TestRope rope_;
  std::vector<int32_t> table_;
  std::vector<float> q_, k_, v_, gates_;
  bool apart_ = false;
};

constexpr int64_t kNumTokens = 640;

AttentionCase SmallCase() {
  return {.name = "",
          .dtype = DType::kBF16,
          .num_kv_heads = 1,
          .group = 3,
          .head_dim_k = 32,
          .head_dim_v = 48,
          .rotary_dim = 32};
}

std::vector<Layer> Layers() {
  return {{"TrainingFree", 128, 3, true, true, 2, 8, 3, true},
          {"TrainingFreeMerged", 128, 3, true, true, 2, 8, 3},
          {"TrainingFreeByMeans", 128, 3, true, true, 2},
          {"InfLlm", 128, 4, true, false, -1},
          {"Paper", 129, 5, false, false, -1},
          {"PaperKeepingScores", 129, 5, false, false, -1, 0, -1, false, true}};
}

/// Chunk ends: `all` of the tokens at once, or one token a call around what `steps` says.
std::vector<int64_t> ChunksOf(int64_t size) {
  std::vector<int64_t> ends;
  for (int64_t end = size; end < kNumTokens; end += size) ends.push_back(end);
  ends.push_back(kNumTokens);
  return ends;
}

// The cache holds NaN in every place not yet written, so a look into the future would show.
TEST(NsaEquivalenceTest, CachedDecodeEqualsFullForwardBitForBit) {
  for (const Layer& layer : Layers()) {
    AttentionCase of_int8 = SmallCase();
    of_int8.dtype = DType::kInt8;
    const AttentionCase small_blocks = {.name = "",
                                        .num_kv_heads = 2,
                                        .group = 1,
                                        .head_dim_k = 16,
                                        .head_dim_v = 16,
                                        .rotary_dim = 16,
                                        .length = 16,
                                        .stride = 16,
                                        .sel_block_size = layer.limited ? 64 : 16};
    for (const AttentionCase& base : {SmallCase(), of_int8, small_blocks}) {
      SCOPED_TRACE(layer.name);
      LayerWorld world(base, kNumTokens);
      const auto backend = MakeCpuBackend(2);
      const std::vector<float> expected = world.Run(*backend, layer, {kNumTokens});
      for (const float x : expected) ASSERT_TRUE(std::isfinite(x));
      // One token at a time passes every page and window border: 511, 512, 513, 575, 576, 577 …
      for (const int64_t size : {1, 7, 64, 100}) {
        EXPECT_TRUE(SameBits(world.Run(*backend, layer, ChunksOf(size)), expected)) << size;
      }
      EXPECT_TRUE(SameBits(world.Run(*backend, layer, {511, 512, 513, 575, 576, 577, kNumTokens}),
                           expected));
      EXPECT_TRUE(SameBits(world.Run(*MakeCpuBackend(1), layer, ChunksOf(13)), expected));
    }
  }
}

// Parts of different operators run at the same time; a broken score leaves fewer blocks chosen than
// were expected when they were laid out.
TEST(NsaEquivalenceTest, OneCallHasTheBitsOfOperatorsOneByOne) {
  for (const Layer& layer : Layers()) {
    SCOPED_TRACE(layer.name);
    for (const bool is_broken : {false, true}) {
      LayerWorld world(SmallCase(), kNumTokens);
      if (is_broken) world.BreakKey(100);
      LayerWorld apart = world;
      apart.TakeApart();
      for (const int num_threads : {1, 2, 5}) {
        const auto backend = MakeCpuBackend(num_threads);
        for (const int64_t size : {int64_t{1}, int64_t{7}, kNumTokens}) {
          EXPECT_TRUE(SameBits(world.Run(*backend, layer, ChunksOf(size)),
                               apart.Run(*backend, layer, ChunksOf(size))))
              << num_threads << " threads, chunks of " << size;
        }
      }
    }
  }
}

TEST(NsaEquivalenceTest, ReferenceDecodeEqualsFullForwardBitForBit) {
  for (const Layer& layer : Layers()) {
    SCOPED_TRACE(layer.name);
    LayerWorld world({.name = "",
                      .num_kv_heads = 1,
                      .group = 2,
                      .head_dim_k = 8,
                      .head_dim_v = 8,
                      .rotary_dim = 8},
                     kNumTokens);
    const auto backend = MakeReferenceBackend();
    const std::vector<float> expected = world.Run(*backend, layer, {kNumTokens});
    EXPECT_TRUE(SameBits(world.Run(*backend, layer, ChunksOf(1)), expected));
  }
}

TEST(NsaEquivalenceTest, CpuEqualsReferenceThroughALayer) {
  for (const Layer& layer : Layers()) {
    SCOPED_TRACE(layer.name);
    LayerWorld world(SmallCase(), kNumTokens);
    ExpectClose(world.Run(*MakeCpuBackend(2), layer, {kNumTokens}),
                world.Run(*MakeReferenceBackend(), layer, {kNumTokens}), kTolerance);
  }
}

// Where n blocks and the window hold everything, sparse is full attention, and a limit that no page
// passes changes nothing.
TEST(NsaEquivalenceTest, EverythingSelectedEqualsFullAttention) {
  for (const bool reference : {true, false}) {
    const auto backend = reference ? MakeReferenceBackend() : MakeCpuBackend(2);
    LayerWorld world(SmallCase(), kNumTokens);
    const std::vector<float> full = world.RunFull(*backend);
    for (const int64_t window_size : {64, 128, 512}) {
      SCOPED_TRACE(window_size);
      const std::vector<float> absolute =
          world.Run(*backend, {"", window_size, 16, true, false, -1}, {kNumTokens});
      const std::vector<float> limited =
          world.Run(*backend, {"", window_size, 16, true, true, 9}, {kNumTokens});
      ExpectClose(absolute, full, 1e-5f);
      EXPECT_TRUE(SameBits(limited, absolute));
    }
  }
}

// A window that holds everything is full attention too, and bit for bit.
TEST(NsaEquivalenceTest, WideWindowEqualsFullAttentionBitForBit) {
  AttentionWorld world(SmallCase());
  AttentionResult full = world.MakeResult(), window = world.MakeResult();
  const auto backend = MakeCpuBackend(2);
  backend->FullAttn({world.Query(world.segments()), full.branch()});
  for (const bool page_aligned : {false, true}) {
    backend->WinAttn({world.Query(world.segments()), 4096, page_aligned, window.branch()});
    ExpectSameBits(window, full);
  }
}

}  // namespace
}  // namespace nsa::kernels
