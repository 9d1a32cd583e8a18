"""The transformers library's llama in float32 PyTorch, with a GGUF file's dequantised weights.

Independent of numpy_llama: another implementation of the architecture, rope in halves instead of
neighbours, so that the row order of Q and K is checked as well.
"""

import pathlib

import gguf
import numpy as np
import torch
import transformers


def unpermute(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """From GGUF's order of rows (neighbours rotate together) to halves that rotate together."""
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


def load(path: pathlib.Path) -> transformers.LlamaForCausalLM:
    reader = gguf.GGUFReader(path)
    field = lambda name: reader.fields[f"llama.{name}"].contents()
    heads, kv_heads = field("attention.head_count"), field("attention.head_count_kv")
    state = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        stem = tensor.name.removesuffix(".weight")
        layer = ""
        if stem.startswith("blk."):
            _, number, stem = stem.split(".")
            layer = f"model.layers.{number}."
        if stem in ("attn_q", "attn_k"):
            weight = unpermute(weight, heads if stem == "attn_q" else kv_heads)
        state[f"{layer}{NAMES[stem]}.weight"] = torch.from_numpy(np.ascontiguousarray(weight))
    tied = "lm_head.weight" not in state
    vocabulary, hidden = state["model.embed_tokens.weight"].shape
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        max_position_embeddings=field("context_length"),
        rope_parameters={"rope_type": "default", "rope_theta": field("rope.freq_base")},
        tie_word_embeddings=tied,
    )
    model = transformers.LlamaForCausalLM(config).float().eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - ({"lm_head.weight"} if tied else set()):
        raise ValueError(f"weights do not fit: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    return model


def logits(path: pathlib.Path, tokens: list[int]) -> np.ndarray:
    """float32 [tokens, vocabulary]."""
    with torch.inference_mode():
        return load(path)(torch.tensor([tokens])).logits[0].float().numpy()
