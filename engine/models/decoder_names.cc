#include "engine/models/decoder_names.h"

namespace nsa::engine {

DecoderNames GgufNames() {
  return {.embedding = "token_embd",
          .output_norm = "output_norm",
          .head = "output",
          .layer_prefix = "blk.",
          .attention_norm = "attn_norm",
          .q = "attn_q",
          .k = "attn_k",
          .v = "attn_v",
          .output = "attn_output",
          .q_norm = "",
          .k_norm = "",
          .gates = "",
          .post_attention_norm = "",
          .branch_kv = {},
          .gate_hidden = "",
          .compress_k = "",
          .compress_v = "",
          .ffn_norm = "ffn_norm",
          .gate = "ffn_gate",
          .up = "ffn_up",
          .down = "ffn_down",
          .post_ffn_norm = ""};
}

DecoderNames TransformersNames() {
  return {.embedding = "model.embed_tokens",
          .output_norm = "model.norm",
          .head = "lm_head",
          .layer_prefix = "model.layers.",
          .attention_norm = "input_layernorm",
          .q = "self_attn.q_proj",
          .k = "self_attn.k_proj",
          .v = "self_attn.v_proj",
          .output = "self_attn.o_proj",
          .q_norm = "",
          .k_norm = "",
          .gates = "",
          .post_attention_norm = "",
          .branch_kv = {},
          .gate_hidden = "",
          .compress_k = "",
          .compress_v = "",
          .ffn_norm = "post_attention_layernorm",
          .gate = "mlp.gate_proj",
          .up = "mlp.up_proj",
          .down = "mlp.down_proj",
          .post_ffn_norm = ""};
}

}  // namespace nsa::engine
