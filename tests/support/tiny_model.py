"""Small GGUF files made on the spot: random llamas, and files with something wrong.

Without the package gguf (a GPU machine has none) all but write() is there, which folders need.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import gguf

HIDDEN, FFN, LAYERS, Q_HEADS, KV_HEADS, HEAD_DIM = 64, 128, 2, 2, 1, 32
TRAINED_CONTEXT = 4096
ROW_BYTES = LAYERS * 320  # of a page: its compressed rows
PAGE_BYTES = LAYERS * 64 * 64 * 2 + ROW_BYTES  # K and V of 64 tokens too, in 16 bits


def gib(pages: float) -> float:
    """What so many pages of the KV cache take."""
    return pages * PAGE_BYTES / 2**30


def byte_tokens() -> list[str]:
    """The 256 letters that byte-level BPE writes bytes as: printable ones are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    names, spare = {}, 0
    for byte in range(256):
        if byte in printable:
            names[byte] = chr(byte)
        else:
            names[byte] = chr(256 + spare)
            spare += 1
    return [names[byte] for byte in range(256)]


def tokens() -> list[str]:
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_tokens(), "th", "the"]


END_TOKEN = 2


def write(
    path: pathlib.Path,
    *,
    architecture: str = "llama",
    nan_token: int | None = None,
    skip_tensor: str = "",
    wrong_shape: str = "",
    tensor_type: gguf.GGMLQuantizationType | None = None,
    seed: int = 7,
) -> pathlib.Path:
    """A llama of random weights with an output matrix of its own. `nan_token`'s embedding is NaN, so
    that prompts with it, and no others, give NaN logits."""
    import gguf

    rng = np.random.default_rng(seed)
    names = tokens()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(TRAINED_CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(Q_HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(names))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(names)
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(names) - 3)
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END_TOKEN)
    writer.add_add_bos_token(False)

    def add(name: str, *shape: int, value: float | None = None) -> None:
        if name == skip_tensor:
            return
        if name == wrong_shape:
            shape = (*shape[:-1], shape[-1] + 32)
        if value is None:
            weight = rng.standard_normal(shape, np.float32) * 0.3
        else:
            weight = np.full(shape, value, np.float32)
        if name == "token_embd.weight" and nan_token is not None:
            weight[nan_token] = np.nan
        if tensor_type is not None and name.endswith("attn_q.weight"):
            packed = np.zeros((shape[0], 84), np.uint8)
            writer.add_tensor(name, packed, raw_dtype=tensor_type)
            return
        writer.add_tensor(name, weight)

    add("token_embd.weight", len(names), HIDDEN)
    for layer in range(LAYERS):
        add(f"blk.{layer}.attn_norm.weight", HIDDEN, value=1)
        add(f"blk.{layer}.attn_q.weight", Q_HEADS * HEAD_DIM, HIDDEN)
        add(f"blk.{layer}.attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        add(f"blk.{layer}.attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        add(f"blk.{layer}.attn_output.weight", HIDDEN, Q_HEADS * HEAD_DIM)
        add(f"blk.{layer}.ffn_norm.weight", HIDDEN, value=1)
        add(f"blk.{layer}.ffn_gate.weight", FFN, HIDDEN)
        add(f"blk.{layer}.ffn_up.weight", FFN, HIDDEN)
        add(f"blk.{layer}.ffn_down.weight", HIDDEN, FFN)
    add("output_norm.weight", HIDDEN, value=1)
    add("output.weight", len(names), HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
