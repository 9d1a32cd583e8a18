"""Hugging Face folders of random weights, made on the spot by their families' own implementations."""

import json
import pathlib
import struct

import numpy as np

from tests.support import tiny_model

VOCABULARY = len(tiny_model.tokens())


def write_tokenizer(folder: pathlib.Path) -> None:
    """A byte-level tokenizer.json of tiny_model's tokens."""
    names = tiny_model.tokens()
    special = [name for name in names if name.startswith("<|")]
    document = {
        "version": "1.0",
        "added_tokens": [
            {"id": names.index(name), "content": name, "special": True, "normalized": False}
            for name in special
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "vocab": {name: i for i, name in enumerate(names) if name not in special},
            "merges": [["t", "h"], ["th", "e"]],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(document))


def write(folder: pathlib.Path, model, **save) -> pathlib.Path:
    """A transformers model (or one like it) with random weights that make it sharp: norms and biases
    are drawn too, so that one left out shows."""
    import torch

    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 2:
                parameter.copy_(noise * (1.2 / parameter.shape[1] ** 0.5))
            elif "norm" in name:
                parameter.copy_(parameter + 0.2 * noise)
            else:
                parameter.copy_(0.3 * noise)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, **save)
    write_tokenizer(folder)
    return folder


def safetensors(weights: dict[str, np.ndarray]) -> bytes:
    """The format's bytes, written out: float32, little endian."""
    header, data = {}, b""
    for name, array in weights.items():
        raw = np.ascontiguousarray(array, "<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HIDDEN, FFN, LAYERS, Q_HEADS, KV_HEADS, HEAD_DIM = 64, 128, 2, 2, 1, 32


def llama_config() -> dict:
    return dict(
        model_type="llama",
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=Q_HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        vocab_size=VOCABULARY,
        eos_token_id=tiny_model.END_TOKEN,
        hidden_act="silu",
    )


def llama_weights(seed: int = 7, gated: bool = False) -> dict[str, np.ndarray]:
    """Random weights; with `gated` those of llama-nsa."""
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype("<f4")

    weights = {"model.embed_tokens.weight": random(VOCABULARY, HIDDEN)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        weights |= {
            layer + "input_layernorm.weight": np.ones(HIDDEN, "<f4"),
            layer + "self_attn.q_proj.weight": random(Q_HEADS * HEAD_DIM, HIDDEN),
            layer + "self_attn.k_proj.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            layer + "self_attn.v_proj.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            layer + "self_attn.o_proj.weight": random(HIDDEN, Q_HEADS * HEAD_DIM),
            layer + "post_attention_layernorm.weight": np.ones(HIDDEN, "<f4"),
            layer + "mlp.gate_proj.weight": random(FFN, HIDDEN),
            layer + "mlp.up_proj.weight": random(FFN, HIDDEN),
            layer + "mlp.down_proj.weight": random(HIDDEN, FFN),
        }
        if gated:
            weights[layer + "self_attn.g_proj.weight"] = random(Q_HEADS * 3, HIDDEN)
    weights["model.norm.weight"] = np.ones(HIDDEN, "<f4")
    weights["lm_head.weight"] = random(VOCABULARY, HIDDEN)
    return weights


VALUE_DIM, GATE_HIDDEN, PHI_HIDDEN, LENGTH = 24, 8, 24, 16


def nsa_paper_config(**changes) -> dict:
    """NSA as published, small; `changes` are of its section."""
    section = dict(
        compression_length=LENGTH,
        compression_stride=8,
        compression_hidden_size=PHI_HIDDEN,
        selection_block_size=32,
        num_selected_blocks=4,
        window_size=64,
        gate_hidden_size=GATE_HIDDEN,
    )
    return llama_config() | dict(
        model_type="nsa_paper", v_head_dim=VALUE_DIM, nsa=section | changes
    )


def nsa_paper_weights(seed: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = {
        name: array for name, array in llama_weights(seed).items() if "self_attn" not in name
    }
    for i in range(LAYERS):
        shapes = {
            "q_proj.weight": (Q_HEADS * HEAD_DIM, HIDDEN),
            "o_proj.weight": (HIDDEN, Q_HEADS * VALUE_DIM),
            "gate.up_proj.weight": (GATE_HIDDEN, HIDDEN),
            "gate.down_proj.weight": (Q_HEADS * 3, GATE_HIDDEN),
        }
        for branch in ("cmp", "slc", "win"):
            shapes[f"{branch}_k_proj.weight"] = (KV_HEADS * HEAD_DIM, HIDDEN)
            shapes[f"{branch}_v_proj.weight"] = (KV_HEADS * VALUE_DIM, HIDDEN)
        for name, dim in (("compress_k", HEAD_DIM), ("compress_v", VALUE_DIM)):
            shapes[f"{name}.position"] = (LENGTH, dim)
            shapes[f"{name}.up_proj.weight"] = (PHI_HIDDEN, LENGTH * dim)
            shapes[f"{name}.down_proj.weight"] = (dim, PHI_HIDDEN)
            shapes[f"{name}.down_proj.bias"] = (dim,)
        for name, shape in shapes.items():
            array = (rng.standard_normal(shape) * 0.3).astype("<f4")
            weights[f"model.layers.{i}.self_attn.{name}"] = array
    return weights


def write_raw(
    folder: pathlib.Path, config: dict | None = None, weights: dict | None = None, shards: int = 1
) -> pathlib.Path:
    """A folder from a configuration and weights, by default a tiny llama; in several files with an
    index where `shards` > 1."""
    folder.mkdir(parents=True, exist_ok=True)
    config = llama_config() if config is None else config
    weights = llama_weights() if weights is None else weights
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors(weights))
        return folder
    names, index = list(weights), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        (folder / file).write_bytes(safetensors(part))
        index |= {name: file for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder
