// Decode attention alone: one query row after a long context, through a plan's operators, layer
// after layer, nothing of which is in a cache. One JSON object.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_split.h"
#include "engine/attention/plan.h"
#include "engine/attention/rope_table.h"
#include "engine/kv_cache.h"
#include "engine/memory.h"
#include "engine/page_pool.h"
#include "kernels/backend.h"
#include "nlohmann/json.hpp"
#include "tests/tools/profiling_backend.h"
#include "tests/tools/read_bandwidth.h"

ABSL_FLAG(std::string, plans, "full,paper,training_free", "full, paper, training_free");
ABSL_FLAG(int64_t, context, 65536, "tokens in the cache before the query");
ABSL_FLAG(int32_t, num_q_heads, 9, "query heads");
ABSL_FLAG(int32_t, num_kv_heads, 3, "KV heads");
ABSL_FLAG(int32_t, head_dim_k, 64, "of queries and keys");
ABSL_FLAG(int32_t, head_dim_v, 64, "of values");
ABSL_FLAG(int32_t, num_selected_blocks, 0, "n of training_free; 0: its own");
ABSL_FLAG(int32_t, num_threads, 0, "0: all usable cores");
ABSL_FLAG(int32_t, rounds, 5, "passes over all layers; the median counts");
ABSL_FLAG(int32_t, num_layers, 0, "0: as many as fill four times the last-level cache");
ABSL_FLAG(std::string, page_order, "pool",
          "how the context's pages lie in the cache: pool (as the engine's pool gives them while "
          "other sequences come, grow and go), scattered, consecutive");
ABSL_FLAG(bool, cold, true, "empty the caches before each round");
ABSL_FLAG(std::string, kv_cache_dtype, "bf16", "f16, bf16 or int8");

namespace nsa::tools {
namespace {

using engine::AttentionPlan;
using engine::AttentionShape;
using engine::AttentionSpec;
using kernels::DType;
using kernels::kPageSize;

constexpr int64_t kTrainedContext = 8192;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

AttentionSpec SpecOf(const std::string& name) {
  if (name == "full") return engine::FullAttentionSpec();
  if (name == "training_free") {
    AttentionSpec spec = engine::TrainingFreeSpec(kTrainedContext);
    const int32_t n = absl::GetFlag(FLAGS_num_selected_blocks);
    if (n > 0) spec.num_selected_blocks = n;
    return spec;
  }
  AttentionSpec paper;  // l = 32, d = 16, l' = 64, n = 16, w = 512: the paper's, and the defaults
  paper.sparse = true;
  paper.compressed_values = true;
  return paper;
}

std::vector<float> RandomFloats(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& x : values) x = normal(generator);
  return values;
}

/// Pages of the cache that holds a context of so many.
int32_t NumPages(int64_t context_pages) { return static_cast<int32_t>(4 * context_pages); }

/// A context's pages from a pool that others use as well. Sequences take their prompts in chunks,
/// then grow by single pages and end, in turns and while the pool is all but full; after 50,000
/// turns as many of them end as the context needs, which takes its chunks while the others go on.
std::vector<int32_t> PagesOfBusyPool(int64_t context_pages) {
  constexpr int kChunkPages = 8;
  engine::PagePool pool(NumPages(context_pages));
  std::mt19937 random(1);
  struct Sequence {
    std::vector<int32_t> pages;
    size_t prompt = 0;  // pages
  };
  std::vector<Sequence> others(16);
  const auto grow = [&](std::vector<int32_t>& pages, int count, size_t prompt) {
    for (; count > 0; --count) {
      const size_t expected = std::max(prompt, pages.size() + 1) - pages.size();
      const auto page =
          pool.Allocate(pages.empty() ? -1 : pages.back(), static_cast<int32_t>(expected));
      if (!page.has_value()) return false;
      pages.push_back(*page);
    }
    return true;
  };
  const auto end = [&](Sequence& sequence) {
    for (const int32_t page : sequence.pages) pool.Release(page);
    const double share = std::generate_canonical<double, 32>(random);
    const double longest = static_cast<double>(context_pages) / 2;
    sequence = {.pages = {}, .prompt = static_cast<size_t>(std::pow(longest, share))};
  };
  const auto any = [&]() -> Sequence& { return others[random() % others.size()]; };
  const auto turn = [&] {
    Sequence& sequence = any();
    const size_t size = sequence.pages.size();
    if (size > sequence.prompt * 9 / 8) return end(sequence);
    const int count = size < sequence.prompt ? kChunkPages : 1;
    while (!grow(sequence.pages, count, sequence.prompt)) end(any());
  };
  for (int i = 0; i < 50000; ++i) turn();
  while (pool.num_free() < context_pages * 21 / 20) end(any());
  std::vector<int32_t> context;
  while (static_cast<int64_t>(context.size()) < context_pages) {
    grow(context, kChunkPages, static_cast<size_t>(context_pages));
    turn();
  }
  context.resize(static_cast<size_t>(context_pages));
  return context;
}

std::vector<int32_t> PageTable(const std::string& order, int64_t context_pages) {
  if (order == "pool") return PagesOfBusyPool(context_pages);
  std::vector<int32_t> pages(static_cast<size_t>(context_pages));
  std::iota(pages.begin(), pages.end(), 0);
  if (order == "scattered") std::shuffle(pages.begin(), pages.end(), std::mt19937(1));
  return pages;
}

/// Pages of a run of consecutive ones, on average.
double MeanRun(const std::vector<int32_t>& pages) {
  double num_runs = 1;
  for (size_t i = 1; i < pages.size(); ++i) num_runs += pages[i] == pages[i - 1] + 1 ? 0 : 1;
  return static_cast<double>(pages.size()) / num_runs;
}

/// A cache of random keys and values, and one query.
class DecodeWorld {
 public:
  DecodeWorld(const AttentionSpec& spec, const AttentionShape& shape, DType dtype, int64_t context,
              int num_layers, kernels::Backend& backend)
      : spec_(spec),
        shape_(shape),
        context_(context),
        num_layers_(num_layers),
        backend_(backend),
        plan_(*AttentionPlan::Resolve(spec, shape)),
        rope_(backend, engine::InverseFrequencies(10000, shape.head_dim_k), context + kPageSize),
        workspace_(backend, shape, 1, std::max(1, spec.num_selected_blocks)),
        table_(PageTable(absl::GetFlag(FLAGS_page_order), context / kPageSize + 1)) {
    const auto layout = engine::KvLayout::For(spec, shape, num_layers, dtype);
    cache_ = *engine::KvCache::Create(backend, layout, NumPages(context / kPageSize + 1));
    q_ = RandomFloats(int64_t{shape.num_q_heads} * shape.head_dim_k, 2);
    gates_ = RandomFloats(int64_t{shape.num_q_heads} * 3, 3);
    y_.resize(static_cast<size_t>(shape.num_q_heads * shape.head_dim_v));
    Fill();
  }

  /// One decoded token: all layers.
  void Step() {
    const kernels::AttentionSegment segment = {table_.data(), context_, 0, 1};
    const int32_t num_selected = std::max(1, spec_.num_selected_blocks);
    for (int layer = 0; layer < num_layers_; ++layer) {
      engine::AttentionInputs inputs;
      inputs.query = {q_.data(),
                      shape_.num_q_heads * shape_.head_dim_k,
                      shape_.num_q_heads,
                      shape_.scale,
                      &segment,
                      1,
                      {},
                      rope_.view()};
      inputs.branch_kv[0] = {.k = k_.data(), .v = v_.data(), .kv = cache_->view(layer)};
      inputs.k_stride = int64_t{shape_.num_kv_heads} * shape_.head_dim_k;
      inputs.v_stride = int64_t{shape_.num_kv_heads} * shape_.head_dim_v;
      inputs.row_num_selected_blocks = &num_selected;
      if (spec_.combination == engine::Combination::kGates && spec_.sparse) {
        inputs.gate_logits = gates_.data();
        inputs.gate_stride = int64_t{shape_.num_q_heads} * 3;
      }
      inputs.num_rows = 1;
      inputs.y = y_.data();
      plan_.Run(backend_, inputs, workspace_);
    }
  }

  double mean_page_run() const { return MeanRun(table_); }

  /// Bytes of the cache that one step reads.
  int64_t StepBytes() const {
    const engine::AttentionReads reads = plan_.CountReads(context_, spec_.num_selected_blocks);
    const kernels::PagedKv kv = cache_->view(0);
    const int64_t token =
        (kv.head_dim_k + kv.head_dim_v) * static_cast<int64_t>(kernels::SizeOf(kv.dtype)) +
        (kv.scale_offset >= 0 ? 8 : 0);
    const engine::KvLayout& layout = cache_->layout();
    const int64_t rows = std::max(1, layout.cmp_rows_per_page);
    const int64_t cmp_bytes = reads.cmp * layout.CmpSlotBytes() / rows;
    const int64_t bytes = kv.num_kv_heads * (reads.slc + reads.win) * token + cmp_bytes;
    return num_layers_ * bytes;
  }

 private:
  /// Writes the context's keys and values, and the compressed rows that belong to them.
  void Fill() {
    constexpr int64_t kChunk = 4096;
    k_ = RandomFloats(kChunk * shape_.num_kv_heads * shape_.head_dim_k, 4);
    v_ = RandomFloats(kChunk * shape_.num_kv_heads * shape_.head_dim_v, 5);
    for (int layer = 0; layer < num_layers_; ++layer) {
      const kernels::PagedKv kv = cache_->view(layer);
      for (int64_t t = 0; t < context_; t += kChunk) {
        const auto rows = static_cast<int32_t>(std::min(kChunk, context_ - t));
        const kernels::AttentionSegment segment = {table_.data(), t, 0, rows};
        backend_.RopeKvWrite({k_.data(), int64_t{shape_.num_kv_heads} * shape_.head_dim_k,
                              v_.data(), int64_t{shape_.num_kv_heads} * shape_.head_dim_v, &segment,
                              1, kv, rope_.view()});
        if (!spec_.sparse) continue;
        if (spec_.compression == engine::Compression::kPageClusters) {
          backend_.CmpCluster({&segment, 1, kv, spec_.num_clusters});
        } else {
          backend_.CmpPool({&segment, 1, kv, rope_.view(), spec_.compression_length,
                            spec_.compression_stride, spec_.pooled_keys});
        }
      }
    }
  }

  AttentionSpec spec_;
  AttentionShape shape_;
  int64_t context_;
  int num_layers_;
  kernels::Backend& backend_;
  AttentionPlan plan_;
  engine::RopeTable rope_;
  engine::AttentionWorkspace workspace_;
  std::vector<int32_t> table_;
  std::unique_ptr<engine::KvCache> cache_;
  std::vector<float> q_, k_, v_, gates_, y_;
};

int Run() {
  const int64_t context = absl::GetFlag(FLAGS_context);
  const AttentionShape shape = {.num_q_heads = absl::GetFlag(FLAGS_num_q_heads),
                                .num_kv_heads = absl::GetFlag(FLAGS_num_kv_heads),
                                .head_dim_k = absl::GetFlag(FLAGS_head_dim_k),
                                .head_dim_v = absl::GetFlag(FLAGS_head_dim_v),
                                .scale = 0.125f};
  const std::string dtype_name = absl::GetFlag(FLAGS_kv_cache_dtype);
  const DType dtype = dtype_name == "int8"  ? DType::kInt8
                      : dtype_name == "f16" ? DType::kF16
                                            : DType::kBF16;
  const int threads = absl::GetFlag(FLAGS_num_threads) > 0 ? absl::GetFlag(FLAGS_num_threads)
                                                           : engine::NumUsableCores();
  const double bandwidth = ReadBandwidthFromChild(threads);
  // What one KV head has in a page: the longest run that selected attention can read.
  const int64_t page_bytes = int64_t{kPageSize} * (shape.head_dim_k + shape.head_dim_v) *
                             static_cast<int64_t>(kernels::SizeOf(dtype));
  const double page_bandwidth = ReadBandwidthFromChild(threads, page_bytes);
  // Four times the last-level cache in all; a sparse plan reads a part of that, so the caches are
  // emptied before each round.
  const int64_t token_bytes =
      int64_t{shape.num_kv_heads} * (shape.head_dim_k + shape.head_dim_v) * 2;
  const int num_layers = absl::GetFlag(FLAGS_num_layers) > 0
                             ? absl::GetFlag(FLAGS_num_layers)
                             : static_cast<int>(std::clamp<int64_t>(
                                   OutOfCacheBytes() / (context * token_bytes) + 1, 1, 256));
  const CacheEvictor evictor;
  ProfilingBackend backend(kernels::MakeCpuBackend(threads));
  nlohmann::ordered_json result = {{"context", context},
                                   {"num_layers", num_layers},
                                   {"num_threads", threads},
                                   {"kv_cache_dtype", dtype_name},
                                   {"read_bandwidth_gb_s", bandwidth},
                                   {"read_bandwidth_of_pages_gb_s", page_bandwidth}};
  for (const auto& word : absl::StrSplit(absl::GetFlag(FLAGS_plans), ',')) {
    const std::string name(word);
    DecodeWorld world(SpecOf(name), shape, dtype, context, num_layers, backend);
    world.Step();
    backend.Reset();
    std::vector<double> rounds;
    for (int32_t i = 0; i < absl::GetFlag(FLAGS_rounds); ++i) {
      if (absl::GetFlag(FLAGS_cold)) evictor.Evict();
      const double began = Seconds();
      world.Step();
      rounds.push_back(Seconds() - began);
    }
    std::sort(rounds.begin(), rounds.end());
    const double median = rounds[rounds.size() / 2];
    result["mean_page_run"] = world.mean_page_run();
    result[name] = {{"seconds_per_layer", median / num_layers},
                    {"bytes_per_layer", world.StepBytes() / num_layers},
                    {"gb_per_s", static_cast<double>(world.StepBytes()) / median / 1e9}};
    const auto tell = [&](const char* key) {
      for (const auto& [op, profile] : backend.profiles()) {
        // A mean over rounds: what disturbs one shows here, and not in the median.
        result[name][key][op] = profile.seconds / static_cast<double>(rounds.size()) / num_layers;
      }
    };
    tell("mean_seconds_of_operator");
    backend.TakeApart(true);
    backend.Reset();
    for (size_t i = 0; i < rounds.size(); ++i) {
      if (absl::GetFlag(FLAGS_cold)) evictor.Evict();
      world.Step();
    }
    backend.TakeApart(false);
    tell("mean_seconds_of_operator_by_itself");
  }
  std::cout << result.dump() << std::endl;
  return 0;
}

}  // namespace
}  // namespace nsa::tools

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return nsa::tools::Run();
}
