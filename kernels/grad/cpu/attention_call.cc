#include "kernels/grad/cpu/attention_call.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "kernels/check.h"

namespace nsa::kernels::grad::cpu {

AttentionCall::AttentionCall(const AttentionInput<float>& input, int tile_queries)
    : input_(input), all_offsets_(static_cast<size_t>(tile_queries)) {
  const AttentionSpec& spec = input.spec;
  NSA_CHECK(input.heads.head_dim_k % kPadding == 0 && input.heads.head_dim_v % kPadding == 0);
  NSA_CHECK(input.heads.Group() <= kMaxGroup);
  if (input.branch == Branch::kSelected) {
    block_keys_ = std::min(kMaxBlockKeys, spec.sel_block_size);
    NSA_CHECK(spec.sel_block_size % block_keys_ == 0);
  }
  std::iota(all_offsets_.begin(), all_offsets_.end(), 0);
  key_begins_.push_back(0);
  block_begins_.push_back(0);
  for (int64_t s = 0; s < input.sequences.num_sequences; ++s) {
    const int64_t length = input.sequences.Length(s);
    const int64_t num_keys = input.NumKeys(length);
    key_begins_.push_back(key_begins_.back() + num_keys);
    block_begins_.push_back(block_begins_.back() + (num_keys + block_keys_ - 1) / block_keys_);
    for (int64_t first = 0; first < length; first += tile_queries) {
      const auto count = static_cast<int>(std::min<int64_t>(tile_queries, length - first));
      tiles_.push_back({s, first, count, first / tile_queries});
    }
  }
}

KeyRange AttentionCall::TileBlocks(const QueryTile& tile) const {
  const int64_t last = tile.first + tile.num_queries - 1;
  const int64_t begin = VisibleKeys(input_.branch, input_.spec, tile.first).begin / block_keys_;
  const int64_t end = VisibleKeys(input_.branch, input_.spec, last).end;
  return {begin, std::max(begin, (end + block_keys_ - 1) / block_keys_)};
}

int64_t AttentionCall::FirstPosition(int64_t block) const {
  const int64_t key = block * block_keys_;
  if (input_.branch != Branch::kCompressed) return key;
  return key * input_.spec.stride + input_.spec.length - 1;
}

void AttentionCall::MakeLists(const QueryTile& tile, int kv_head, TileLists& lists) const {
  const int n = input_.spec.num_selected_blocks;
  const int per_selected = input_.spec.sel_block_size / block_keys_;
  const int64_t num_blocks = NumBlocks(tile.sequence);
  const int64_t token = input_.sequences.Begin(tile.sequence) + tile.first;
  lists.begins.assign(static_cast<size_t>(num_blocks + 2), 0);
  // Calls body(query's offset, key block) for what the queries selected and can see.
  const auto for_each = [&](const auto& body) {
    for (int offset = 0; offset < tile.num_queries; ++offset) {
      const int64_t end = std::min(num_blocks, (tile.first + offset) / block_keys_ + 1);
      const int32_t* selected =
          input_.selected + ((token + offset) * input_.heads.num_kv_heads + kv_head) * n;
      for (int i = 0; i < n; ++i) {
        if (selected[i] < 0) continue;
        const int64_t begin = int64_t{selected[i]} * per_selected;
        for (int64_t block = begin; block < std::min(begin + per_selected, end); ++block) {
          body(offset, block);
        }
      }
    }
  };
  // Counted one place further on, so that filling moves each list's place to its end.
  for_each([&](int, int64_t block) { ++lists.begins[block + 2]; });
  for (int64_t block = 0; block < num_blocks; ++block) {
    lists.begins[block + 2] += lists.begins[block + 1];
  }
  lists.offsets.resize(static_cast<size_t>(lists.begins.back()));
  for_each([&](int offset, int64_t block) { lists.offsets[lists.begins[block + 1]++] = offset; });
  lists.begins.pop_back();
}

SeeingQueries AttentionCall::Seeing(const QueryTile& tile, int64_t block,
                                    const TileLists& lists) const {
  if (HasLists()) {
    const int32_t begin = lists.begins[block];
    return {lists.offsets.data() + begin, lists.begins[block + 1] - begin};
  }
  // Both ends of what a query sees rise with its position, so that the queries lie together.
  const int64_t first_key = block * block_keys_;
  const int64_t end_key = std::min(first_key + block_keys_, NumKeys(tile.sequence));
  const int64_t first = std::max(tile.first, FirstPosition(block));
  int64_t end = tile.first + tile.num_queries;
  if (input_.branch == Branch::kWindow) {
    end = std::min(end, end_key - 1 + input_.spec.window_size);
  }
  if (first >= end) return {};
  return {all_offsets_.data() + (first - tile.first), static_cast<int>(end - first)};
}

namespace {

// Rows of a packed block are read and written in tiles that stay in the L1 cache.
constexpr int kTransposeTile = 16;

void PackBlock(const float* from, int64_t from_stride, int num_keys, int dim, bool transposed,
               int width, float* to) {
  if (!transposed) {
    for (int key = 0; key < num_keys; ++key) {
      std::memcpy(to + int64_t{key} * dim, from + key * from_stride, sizeof(float) * dim);
    }
    std::fill(to + int64_t{num_keys} * dim, to + int64_t{width} * dim, 0.0f);
    return;
  }
  for (int i = 0; i < dim; i += kTransposeTile) {
    for (int key = 0; key < num_keys; ++key) {
      for (int j = i; j < i + kTransposeTile; ++j) {
        to[int64_t{j} * width + key] = from[key * from_stride + j];
      }
    }
    for (int j = i; j < i + kTransposeTile; ++j) {
      std::fill(to + int64_t{j} * width + num_keys, to + int64_t{j + 1} * width, 0.0f);
    }
  }
}

/// Calls body(kv_head, block of all, first key of all, number of keys), split over the threads.
template <typename Body>
void ForEachBlock(kernels::cpu::Context& context, const AttentionCall& call, Body&& body) {
  struct Place {
    int64_t first_key;
    int num_keys;
  };
  std::vector<Place> places;
  for (int64_t s = 0; s < call.input().sequences.num_sequences; ++s) {
    for (int64_t block = 0; block < call.NumBlocks(s); ++block) {
      const int64_t first = block * call.block_keys();
      const int64_t count = std::min<int64_t>(call.block_keys(), call.NumKeys(s) - first);
      places.push_back({call.KeyBegin(s) + first, static_cast<int>(count)});
    }
  }
  const int64_t num_blocks = call.num_blocks();
  context.pool.ParallelFor(num_blocks * call.heads().num_kv_heads, [&](int64_t task, int) {
    const int64_t block = task % num_blocks;
    body(static_cast<int>(task / num_blocks), block, places[block].first_key,
         places[block].num_keys);
  });
}

}  // namespace

PackedBlocks PackBlocks(kernels::cpu::Context& context, const AttentionCall& call,
                        const float* from, int dim, bool transposed,
                        kernels::cpu::Scratch& scratch) {
  const int64_t stride = int64_t{call.heads().num_kv_heads} * dim;
  PackedBlocks packed;
  packed.num_blocks = call.num_blocks();
  packed.size = int64_t{call.block_width()} * dim;
  packed.data = scratch.Get<float>(packed.num_blocks * packed.size * call.heads().num_kv_heads);
  ForEachBlock(context, call, [&](int kv_head, int64_t block, int64_t first_key, int num_keys) {
    PackBlock(from + first_key * stride + int64_t{kv_head} * dim, stride, num_keys, dim, transposed,
              call.block_width(), packed.Block(kv_head, block));
  });
  return packed;
}

void UnpackBlocks(kernels::cpu::Context& context, const AttentionCall& call,
                  const PackedBlocks& blocks, int dim, float* to) {
  const int num_kv_heads = call.heads().num_kv_heads;
  ForEachBlock(context, call, [&](int kv_head, int64_t block, int64_t first_key, int num_keys) {
    const float* from = blocks.Block(kv_head, block);
    for (int key = 0; key < num_keys; ++key) {
      std::memcpy(to + ((first_key + key) * num_kv_heads + kv_head) * dim,
                  from + int64_t{key} * dim, sizeof(float) * dim);
    }
  });
}

}  // namespace nsa::kernels::grad::cpu
