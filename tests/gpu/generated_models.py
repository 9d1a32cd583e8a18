"""Checkpoint folders made on the spot, of token ids alone: one that retrieves, and one of a real model's sizes.

    python3 -m tests.gpu.generated_models FOLDER    writes the latter

A GPU machine has no network and holds no model; these need numpy.
"""

import json
import pathlib
import struct
import sys
from collections.abc import Iterator

import numpy as np

# What the retrieving model knows: tokens 0 … 9 are keys that a text may hide, one asks for the key.
NUM_KEYS = 10
QUESTION = 10
FIRST_FILLER = 11
VOCABULARY = 64

HIDDEN, HEAD_DIM, Q_HEADS, KV_HEADS = 64, 64, 4, 2
IS_KEY, ASKS = 0, 1 + NUM_KEYS  # hidden dimensions; between them one for each key
SCORE = 40.0  # of the question against a key; a filler's is about 0


def write_safetensors(
    path: pathlib.Path, tensors: Iterator[tuple[str, np.ndarray]], dtype: str = "F32"
) -> None:
    """float32 as "F32", or cut to "BF16". Tensors are written as they come; the header, whose size is known only
    then, joins them in a second file."""
    header, offset = {}, 0
    body = path.with_suffix(".body")
    with open(body, "wb") as file:
        for name, array in tensors:
            raw = np.ascontiguousarray(array, "<f4")
            if dtype == "BF16":
                raw = (raw.view("<u4") >> 16).astype("<u2")
            file.write(raw.tobytes())
            header[name] = {
                "dtype": dtype,
                "shape": list(array.shape),
                "data_offsets": [offset, offset + raw.nbytes],
            }
            offset += raw.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file, open(body, "rb") as tail:
        file.write(struct.pack("<Q", len(text)) + text)
        while chunk := tail.read(1 << 24):
            file.write(chunk)
    body.unlink()


def _config(**fields) -> dict:
    return {
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": Q_HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e9,
        "vocab_size": VOCABULARY,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    } | fields


def _retrieval_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One layer that attends from the question to the key, wherever it stands, and copies it.

    Query and key meet in the last rotary pair, which turns by less than 10⁻³ over 64k tokens. All else is small
    noise, so that pages differ.
    """
    noise = 0.02
    embedding = np.zeros((VOCABULARY, HIDDEN))
    embedding[:NUM_KEYS, IS_KEY] = 1
    embedding[np.arange(NUM_KEYS), 1 + np.arange(NUM_KEYS)] = 1
    embedding[QUESTION, ASKS] = 1
    fillers = VOCABULARY - FIRST_FILLER
    embedding[FIRST_FILLER:, ASKS + 1 :] = rng.standard_normal((fillers, HIDDEN - ASKS - 1))
    embedding[FIRST_FILLER:] /= np.linalg.norm(embedding[FIRST_FILLER:], axis=1, keepdims=True)
    # RMSNorm makes unit vectors √HIDDEN long, and a key's two dimensions each √(HIDDEN/2).
    gain = (SCORE * np.sqrt(HEAD_DIM) / (HIDDEN / np.sqrt(2))) ** 0.5
    q = noise * rng.standard_normal((Q_HEADS, HEAD_DIM, HIDDEN))
    k = noise * rng.standard_normal((KV_HEADS, HEAD_DIM, HIDDEN))
    v = np.zeros((KV_HEADS, HEAD_DIM, HIDDEN))
    o = np.zeros((HIDDEN, Q_HEADS, HEAD_DIM))
    q[:, HEAD_DIM - 1, ASKS] = gain
    k[:, HEAD_DIM - 1, IS_KEY] = gain
    for key in range(NUM_KEYS):
        v[:, key, 1 + key] = 1
        o[1 + key, :, key] = 1 / Q_HEADS
    head = np.zeros((VOCABULARY, HIDDEN))
    head[np.arange(NUM_KEYS), 1 + np.arange(NUM_KEYS)] = 1
    layer = "model.layers.0."
    return {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": np.ones(HIDDEN),
        "lm_head.weight": head,
        layer + "input_layernorm.weight": np.ones(HIDDEN),
        layer + "self_attn.q_proj.weight": q.reshape(-1, HIDDEN),
        layer + "self_attn.k_proj.weight": k.reshape(-1, HIDDEN),
        layer + "self_attn.v_proj.weight": v.reshape(-1, HIDDEN),
        layer + "self_attn.o_proj.weight": o.reshape(HIDDEN, -1),
        layer + "post_attention_layernorm.weight": np.ones(HIDDEN),
        layer + "mlp.gate_proj.weight": np.zeros((HIDDEN, HIDDEN)),
        layer + "mlp.up_proj.weight": np.zeros((HIDDEN, HIDDEN)),
        layer + "mlp.down_proj.weight": np.zeros((HIDDEN, HIDDEN)),
    }


def write_tokenizer(folder: pathlib.Path) -> None:
    """For builds that have tokenizers: every id a word of its own, none of which a text needs."""
    model = {"type": "BPE", "vocab": {f"t{i}": i for i in range(VOCABULARY)}, "merges": []}
    document = {"added_tokens": [], "model": model, "decoder": {"type": "ByteLevel"}}
    document["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    (folder / "tokenizer.json").write_text(json.dumps(document))


def write_retrieval(folder: pathlib.Path, family: str, max_context: int) -> pathlib.Path:
    """`family`: "llama", whose trained length is an eighth of `max_context` (training-free NSA reads 8 times that far),
    or "llama-nsa", trained with NSA's three gated branches."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = _retrieval_weights(np.random.default_rng(3))
    if family == "llama-nsa":
        weights["model.layers.0.self_attn.g_proj.weight"] = np.zeros((3 * Q_HEADS, HIDDEN))
        config = _config(model_type=family, block_size=16, block_counts=16, window_size=128,
                         max_position_embeddings=max_context)  # fmt: skip
    else:
        config = _config(max_position_embeddings=max_context // 8)
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    write_safetensors(folder / "model.safetensors", iter(weights.items()))
    return folder


def probe(context: int, depth: int, seed: int = 0) -> tuple[list[int], int]:
    """Tokens with one key at `depth` per cent and the question at their end; the key."""
    rng = np.random.default_rng(1000 * context + depth + seed)
    tokens = rng.integers(FIRST_FILLER, VOCABULARY, context).tolist()
    key = int(rng.integers(NUM_KEYS))
    tokens[min(context - 2, context * depth // 100)] = key
    tokens[-1] = QUESTION
    return tokens, key


def write_sized(folder: pathlib.Path, num_layers: int = 8, max_context: int = 131072) -> pathlib.Path:
    """Random bf16 weights of llama-nsa with the sizes of NSA's paper per layer but for its experts: 64 query and 4 KV
    heads of 128; about 70 million parameters a layer."""
    hidden, ffn, q_heads, kv_heads, dim, vocabulary = 2048, 5632, 64, 4, 128, 32000
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)

    def random(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((rows, columns), np.float32) / columns**0.5

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        yield "model.embed_tokens.weight", random(vocabulary, hidden)
        for i in range(num_layers):
            layer = f"model.layers.{i}."
            yield layer + "input_layernorm.weight", np.ones(hidden, np.float32)
            yield layer + "post_attention_layernorm.weight", np.ones(hidden, np.float32)
            yield layer + "self_attn.q_proj.weight", random(q_heads * dim, hidden)
            yield layer + "self_attn.k_proj.weight", random(kv_heads * dim, hidden)
            yield layer + "self_attn.v_proj.weight", random(kv_heads * dim, hidden)
            yield layer + "self_attn.o_proj.weight", random(hidden, q_heads * dim)
            yield layer + "self_attn.g_proj.weight", random(3 * q_heads, hidden)
            yield layer + "mlp.gate_proj.weight", random(ffn, hidden)
            yield layer + "mlp.up_proj.weight", random(ffn, hidden)
            yield layer + "mlp.down_proj.weight", random(hidden, ffn)
        yield "model.norm.weight", np.ones(hidden, np.float32)
        yield "lm_head.weight", random(vocabulary, hidden)

    config = _config(model_type="llama-nsa", hidden_size=hidden, intermediate_size=ffn,
                     num_hidden_layers=num_layers, num_attention_heads=q_heads,
                     num_key_value_heads=kv_heads, head_dim=dim, vocab_size=vocabulary,
                     block_size=32, block_counts=32, window_size=512, rope_theta=5e5,
                     max_position_embeddings=max_context)  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors(), "BF16")
    return folder


if __name__ == "__main__":
    write_sized(pathlib.Path(sys.argv[1]))
