"""Hugging Face folders: served like any file, and refused with a reason where something is wrong."""

import json
import struct

import numpy as np
import pytest

from tests.e2e.bad_models_test import start_fails
from tests.support import server, tiny_folder


def answer(folder, **flags) -> list[int]:
    with server.running(folder, max_context=1024, **flags) as running:
        return list(server.generate(running, server.request("the words", 24)).token_ids)


def info(folder, **flags):
    with server.running(folder, max_context=1024, **flags) as running:
        return running.stub.GetModelInfo(server.pb().GetModelInfoRequest())


def test_shards_are_one_model(tmp_path):
    whole = tiny_folder.write_raw(tmp_path / "whole")
    parts = tiny_folder.write_raw(tmp_path / "parts", shards=3)
    tokens = answer(whole)
    assert len(tokens) >= 4
    assert answer(parts) == tokens


def test_info_says_what_was_loaded(tmp_path):
    folder = tiny_folder.write_raw(tmp_path / "tiny-llama")
    found = info(folder)
    assert (found.family, found.architecture, found.weight_type) == ("llama", "llama", "F32")
    assert found.tokenizer_kind == "bpe/tokenizer.json"
    assert found.attention_source == "default"
    assert found.num_parameters == sum(w.size for w in tiny_folder.llama_weights().values())
    rounded = info(folder, weight_dtype="q4_0")
    assert rounded.weight_bytes < found.weight_bytes / 5


@pytest.mark.parametrize("dtype", ["bf16", "q8_0", "q4_0"])
def test_weights_are_rounded_on_load(tmp_path, dtype):
    folder = tiny_folder.write_raw(tmp_path / "model")
    assert len(answer(folder, weight_dtype=dtype)) >= 4  # random weights may end a text


def gated_config(**changes) -> dict:
    config = tiny_folder.llama_config() | dict(
        model_type="llama-nsa", block_size=16, block_counts=8, window_size=64
    )
    return config | changes


def test_a_native_checkpoint_says_so(tmp_path):
    folder = tiny_folder.write_raw(
        tmp_path / "model", gated_config(), tiny_folder.llama_weights(gated=True)
    )
    found = info(folder)
    assert found.attention_source == "checkpoint"
    assert "gated" in found.attention and "l=16" in found.attention
    start_fails(folder, "gated", code=2, attention="full")


def sparse_config(**changes) -> dict:
    fields = dict(kernel_size=32, kernel_stride=16, block_size=64, window_size=128, topk=4)
    return tiny_folder.llama_config() | dict(
        model_type="minicpm",
        tie_word_embeddings=False,
        scale_emb=12,
        scale_depth=1.4,
        dim_model_base=32,
        sparse_config=fields | dict(init_blocks=1, dense_len=256) | changes,
    )


def test_sparse_attention_of_minicpm(tmp_path):
    folder = tiny_folder.write_raw(tmp_path / "model", sparse_config())
    found = info(folder)
    assert (found.family, found.attention_source) == ("minicpm", "checkpoint")
    for words in ("l=32 d=16", "n=6", "dense below 256", "selected alone"):
        assert words in found.attention
    assert len(answer(folder)) >= 4
    # It was trained from full attention and still has it.
    assert info(folder, attention="full").attention == "full"


@pytest.mark.parametrize(
    "changes,words",
    [
        (dict(window_size=0), ["window_size", "0"]),
        (dict(window_size=100), ["window_size", "100", "multiple of block_size 64"]),
        (dict(kernel_stride=24), ["compression_stride", "24", "divisor of 64"]),
        (dict(kernel_size=40), ["compression_length", "40"]),
        (dict(block_size=48, window_size=96), ["sel_block_size", "48"]),
        (dict(init_blocks=4), ["num_selected_blocks", "6", "forced"]),
        (dict(topk="64"), ["topk", "integer"]),
        (dict(use_nope=True), ["use_nope"]),
    ],
    ids=str,
)
def test_a_minicpm_that_contradicts_itself(tmp_path, changes, words):
    folder = tiny_folder.write_raw(tmp_path / "model", sparse_config(**changes))
    start_fails(folder, "config.json", *words)


def test_nsa_as_published(tmp_path):
    folder = tiny_folder.write_raw(
        tmp_path / "model", tiny_folder.nsa_paper_config(), tiny_folder.nsa_paper_weights()
    )
    found = info(folder)
    assert (found.family, found.attention_source) == ("nsa_paper", "checkpoint")
    assert "learned" in found.attention and "gated" in found.attention
    assert len(answer(folder)) >= 4


@pytest.mark.parametrize(
    "changes,words",
    [
        (dict(window_size=0), ["nsa.window_size", "0"]),
        (dict(compression_stride=24), ["compression_stride", "24", "divisor of 64"]),
        (dict(selection_block_size=24), ["sel_block_size", "24"]),
        (dict(num_selected_blocks=2), ["num_selected_blocks", "2", "forced"]),
        (dict(gate_hidden_size=None), ["nsa.gate_hidden_size"]),
        (dict(compression_hidden_size=0), ["nsa.compression_hidden_size", "0"]),
        (dict(rope_cmp=1), ["nsa.rope_cmp"]),
    ],
    ids=str,
)
def test_a_published_nsa_that_contradicts_itself(tmp_path, changes, words):
    config = tiny_folder.nsa_paper_config(**changes)
    folder = tiny_folder.write_raw(tmp_path / "model", config, tiny_folder.nsa_paper_weights())
    start_fails(folder, "config.json", *words)


@pytest.mark.parametrize(
    "name,shape",
    [
        ("self_attn.compress_k.position", (16, 32)),
        ("self_attn.compress_v.up_proj.weight", (24, 16 * 32)),
        ("self_attn.compress_k.down_proj.bias", (31,)),
        ("self_attn.gate.down_proj.weight", (2 * 3, 9)),
        ("self_attn.slc_v_proj.weight", (32, 64)),
    ],
)
def test_tensors_of_a_published_nsa(tmp_path, name, shape):
    weights = tiny_folder.nsa_paper_weights()
    tensor = f"model.layers.1.{name}"
    weights[tensor] = np.zeros(shape, "<f4")
    folder = tiny_folder.write_raw(tmp_path / "shape", tiny_folder.nsa_paper_config(), weights)
    if name.endswith("position"):
        assert len(answer(folder)) >= 4  # its shape is right
    else:
        start_fails(folder, tensor, "shape", "expected")
    del weights[tensor]
    if name.endswith("bias"):
        return  # may be absent
    folder = tiny_folder.write_raw(tmp_path / "gone", tiny_folder.nsa_paper_config(), weights)
    start_fails(folder, tensor, "is missing")


@pytest.mark.parametrize(
    "changes,words",
    [
        (dict(window_size=0), ["window_size", "0"]),
        (dict(block_size=48), ["48", "divisor of 64"]),
        (dict(block_counts=0), ["block_counts", "0"]),
        (dict(block_size="16"), ["block_size", "integer"]),
    ],
    ids=str,
)
def test_a_specification_that_contradicts_itself(tmp_path, changes, words):
    weights = tiny_folder.llama_weights(gated=True)
    folder = tiny_folder.write_raw(tmp_path / "model", gated_config(**changes), weights)
    start_fails(folder, "config.json", *words)


@pytest.mark.parametrize(
    "changes,words",
    [
        (dict(model_type="mamba"), ["'mamba'", "llama", "qwen3", "gemma3_text"]),
        (dict(num_key_value_heads=3), ["num_key_value_heads"]),
        (dict(hidden_size=None), ["hidden_size", "missing"]),
        (dict(num_hidden_layers=-1), ["num_hidden_layers", "-1"]),
        (dict(num_hidden_layers=3), ["model.layers.2.", "missing"]),
        (dict(hidden_act="relu"), ["hidden_act", "relu"]),
        (dict(rope_scaling=dict(rope_type="ntk", factor=2.0)), ["ntk"]),
        (dict(rope_scaling=dict(rope_type="linear", factor=0.5)), ["factor", "0.5"]),
        (dict(quantization_config=dict(quant_method="awq")), ["quantization_config"]),
        (dict(layer_types=["full_attention"]), ["layer_types"]),
        (dict(eos_token_id=100_000), ["100000"]),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be(tmp_path, changes, words):
    config = tiny_folder.llama_config() | changes
    start_fails(tiny_folder.write_raw(tmp_path / "model", config), *words)


def test_wrong_tensors(tmp_path):
    name = "model.layers.1.mlp.down_proj.weight"
    weights = tiny_folder.llama_weights()
    missing = {key: value for key, value in weights.items() if key != name}
    start_fails(tiny_folder.write_raw(tmp_path / "missing", weights=missing), name, "missing")
    shape = weights | {name: np.zeros((64, 96), "<f4")}
    start_fails(tiny_folder.write_raw(tmp_path / "shape", weights=shape), name, "[64, 96]", "[64, 128]")
    folder = tiny_folder.write_raw(tmp_path / "type")
    raw = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + size])
    header[name]["dtype"] = "I32"
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])
    start_fails(folder, name, "I32", "BF16")


def test_a_tokenizer_larger_than_the_embedding(tmp_path):
    weights = tiny_folder.llama_weights()
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[key] = weights[key][:100]
    start_fails(tiny_folder.write_raw(tmp_path / "model", weights=weights), "tokenizer", "100")


def test_cut_and_missing_files(tmp_path):
    folder = tiny_folder.write_raw(tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    for size in (0, 7, 8, 100, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:size])
        start_fails(folder, "model.safetensors")
    (folder / "model.safetensors").unlink()
    start_fails(folder, "model.safetensors", "index.json")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    start_fails(folder, "pickle")
    shards = tiny_folder.write_raw(tmp_path / "shards", shards=2)
    (shards / "model-00002-of-00002.safetensors").unlink()
    start_fails(shards, "model-00002-of-00002.safetensors")
    index = shards / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    start_fails(shards, "outside.safetensors", "in this folder")
    tokens = tiny_folder.write_raw(tmp_path / "tokens")
    (tokens / "tokenizer.json").unlink()
    start_fails(tokens, "tokenizer.json", "tokenizer.model")
    (tokens / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    start_fails(tokens, "tokenizer.json", "Unigram")
