#ifndef NSA_ENGINE_MODELS_DECODER_NAMES_H_
#define NSA_ENGINE_MODELS_DECODER_NAMES_H_

#include <string>
#include <vector>

namespace nsa::engine {

struct KvNames {
  std::string k, v;
};

/// What a checkpoint calls its tensors, without the ".weight" or ".bias" at their end. Names of a
/// layer follow `layer_prefix` + index + ".". Empty: the model has no such tensor.
struct DecoderNames {
  std::string embedding;
  std::string output_norm;
  std::string head;  // where the file has no such tensor, the embedding serves (tied weights)
  std::string layer_prefix;

  std::string attention_norm, q, k, v, output;
  std::string q_norm, k_norm, gates, post_attention_norm;
  std::vector<KvNames> branch_kv;  // in the place of k and v, where branches have their own
  std::string gate_hidden;         // the gates' first layer
  // Learned compressions: tensors `.position`, `.up_proj` and `.down_proj` below these names.
  std::string compress_k, compress_v;
  std::string ffn_norm, gate, up, down, post_ffn_norm;

  /// Rotary pairs are (2i, 2i + 1) in the rows of Q and K, as llama's GGUF files have them, instead
  /// of (i, i + rotary_dim/2).
  bool interleaved_rope = false;
  /// The norms multiply by `weight + norm_offset` (Gemma's own files hold the weight less one).
  float norm_offset = 0;
};

/// GGUF's names, which all of its families share.
DecoderNames GgufNames();
/// Those that Llama's port in transformers set and most families took over.
DecoderNames TransformersNames();

}  // namespace nsa::engine

#endif  // NSA_ENGINE_MODELS_DECODER_NAMES_H_
