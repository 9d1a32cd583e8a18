#include "engine/models/nsa_paper.h"

#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/models/decoder_config.h"

namespace nsa::engine {
namespace {

constexpr int64_t kMaxSize = 1 << 20;

template <typename T>
struct Field {
  const char* key;
  T& target;
  int64_t low = 0;
  int64_t high = 0;
};

absl::Status ReadSizes(const ConfigSource& source, std::span<const Field<int>> fields) {
  for (const Field<int>& field : fields) {
    const auto value =
        GetBoundedOr(source, absl::StrCat("nsa.", field.key), field.low, field.high, field.target);
    if (!value.ok()) return value.status();
    field.target = static_cast<int>(*value);
  }
  return absl::OkStatus();
}

absl::Status ReadSwitches(const ConfigSource& source, std::span<const Field<bool>> fields) {
  for (const Field<bool>& field : fields) {
    const auto value = GetBoolOr(source, absl::StrCat("nsa.", field.key), field.target);
    if (!value.ok()) return value.status();
    field.target = *value;
  }
  return absl::OkStatus();
}

/// Sizes by the paper's (§4.1) where the configuration has none.
absl::StatusOr<AttentionSpec> ReadSpec(const ConfigSource& source) {
  AttentionSpec spec;
  spec.sparse = true;
  spec.compression = Compression::kLearned;
  spec.compressed_values = true;
  spec.branch_kv = true;
  spec.combination = Combination::kGates;
  int window = static_cast<int>(spec.window_size);
  const Field<int> sizes[] = {{"compression_length", spec.compression_length, 1, kMaxSize},
                              {"compression_stride", spec.compression_stride, 1, kMaxSize},
                              {"selection_block_size", spec.sel_block_size, 1, kMaxSize},
                              {"num_selected_blocks", spec.num_selected_blocks, 1, kMaxSize},
                              {"num_initial_blocks", spec.num_initial_blocks, 0, kMaxSize},
                              {"num_local_blocks", spec.num_local_blocks, 0, kMaxSize},
                              {"window_size", window, 1, 1 << 30}};
  if (absl::Status status = ReadSizes(source, sizes); !status.ok()) return status;
  spec.window_size = window;
  const Field<bool> switches[] = {
      {"rope_cmp", spec.rope_cmp}, {"rope_slc", spec.rope_slc}, {"rope_win", spec.rope_win}};
  if (absl::Status status = ReadSwitches(source, switches); !status.ok()) return status;
  if (absl::Status status = Validate(spec); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(source.path(), ": ", status.message()));
  }
  return spec;
}

DecoderNames Names() {
  DecoderNames names = TransformersNames();
  names.k = names.v = "";
  names.branch_kv = {{"self_attn.cmp_k_proj", "self_attn.cmp_v_proj"},
                     {"self_attn.slc_k_proj", "self_attn.slc_v_proj"},
                     {"self_attn.win_k_proj", "self_attn.win_v_proj"}};
  names.gate_hidden = "self_attn.gate.up_proj";
  names.gates = "self_attn.gate.down_proj";
  names.compress_k = "self_attn.compress_k";
  names.compress_v = "self_attn.compress_v";
  return names;
}

}  // namespace

absl::StatusOr<DecoderDescription> DescribeNsaPaperFolder(const ModelFolder& folder) {
  const ConfigSource& source = folder.config();
  DecoderKeys keys = TransformersKeys();
  if (source.Has("v_head_dim")) keys.head_dim_v = "v_head_dim";
  auto description =
      DescribeFolder(folder, "nsa_paper", FolderLayout{.keys = keys, .names = Names()});
  if (!description.ok()) return description.status();
  ModelConfig& config = description->config;
  auto spec = ReadSpec(source);
  if (!spec.ok()) return spec.status();
  config.native_attention = *spec;
  struct HiddenSize {
    const char* key;
    int32_t& target;
  };
  for (const auto& [key, target] :
       {HiddenSize{"nsa.gate_hidden_size", config.gate_hidden_size},
        HiddenSize{"nsa.compression_hidden_size", config.compress_hidden_size}}) {
    const auto size = GetBounded(source, key, 1, kMaxSize);
    if (!size.ok()) return size.status();
    target = static_cast<int32_t>(*size);
  }
  return description;
}

}  // namespace nsa::engine
