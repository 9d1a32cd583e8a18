"""Time and memory of loading a checkpoint of about 1 GiB.

    .venv/bin/python -m tests.bench.load [--weight_dtype auto]

Writes a Hugging Face folder of random bfloat16 weights: a Llama whose output matrix is not its embedding, and a
tensor that no one asks for. Serves it with the file out of the page cache, then with it in. Ends with 1 where resident
memory is more than the packed weights and 10 %, the pool's pages in use, and what a server takes without a model.
"""

import argparse
import json
import os
import pathlib
import struct
import sys
import tempfile
import time

import numpy as np

from tests.support import model_files, server, tiny_folder

HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 2048, 5632, 8, 32, 8, 64, 32_000
UNUSED_ROWS = 50_000  # 195 MiB that nobody needs
BARE_BYTES = 64 << 20  # libraries, threads, activations


def shapes() -> dict[str, tuple[int, ...]]:
    result = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "vision.weight": (UNUSED_ROWS, HIDDEN)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        result |= {
            layer + "input_layernorm.weight": (HIDDEN,),
            layer + "self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
            layer + "self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            layer + "self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            layer + "self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
            layer + "post_attention_layernorm.weight": (HIDDEN,),
            layer + "mlp.gate_proj.weight": (FFN, HIDDEN),
            layer + "mlp.up_proj.weight": (FFN, HIDDEN),
            layer + "mlp.down_proj.weight": (HIDDEN, FFN),
        }
    return result | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def write_weights(path: pathlib.Path) -> None:
    header, offset = {}, 0
    for name, shape in shapes().items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    noise = np.random.default_rng(1).standard_normal(1 << 22, dtype="<f4") * 0.02
    block = (noise.view("<u4") >> 16).astype("<u2").tobytes()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes().items():
            size = 2 * int(np.prod(shape))
            while size > 0:
                file.write(block[:size])
                size -= len(block)
        file.flush()
        os.fsync(file.fileno())


def write_folder(folder: pathlib.Path) -> pathlib.Path:
    config = tiny_folder.llama_config() | dict(
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        vocab_size=VOCABULARY,
    )
    (folder / "config.json").write_text(json.dumps(config))
    tiny_folder.write_tokenizer(folder)
    write_weights(folder / "model.safetensors")
    return folder / "model.safetensors"


def forget(path: pathlib.Path) -> None:
    """Takes the file out of the page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def status_bytes(pid: int, name: str) -> int:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise KeyError(name)


def bytes_read(pid: int) -> int:
    lines = pathlib.Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def measure(folder: pathlib.Path, weight_dtype: str) -> dict:
    begin = time.monotonic()
    flags = dict(weight_dtype=weight_dtype, kv_cache_gib=1, max_context=1024)
    with server.running(folder, **flags) as running:
        ready = time.monotonic() - begin
        server.generate(running, server.request("the words", 1))
        first_token = time.monotonic() - begin
        info = running.stub.GetModelInfo(server.pb().GetModelInfoRequest())
        pid = running.process.pid
        return {
            "ready_s": round(ready, 2),
            "first_token_s": round(first_token, 2),
            "weight_bytes": info.weight_bytes,
            "pool_page_bytes": info.kv_pool_bytes // info.num_pages,
            "resident_bytes": status_bytes(pid, "VmRSS"),
            "peak_resident_bytes": status_bytes(pid, "VmHWM"),
            "bytes_read": bytes_read(pid),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weight_dtype", default="auto")
    options = parser.parse_args()
    model_files.tool("nsa_server")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        weights = write_folder(folder)
        good = True
        for cache in ("cold", "warm"):
            if cache == "cold":
                forget(weights)
            found = measure(folder, options.weight_dtype)
            allowed = 1.1 * found["weight_bytes"] + found["pool_page_bytes"] + BARE_BYTES
            good = good and found["resident_bytes"] <= allowed
            print(json.dumps({"cache": cache, "file_bytes": weights.stat().st_size} | found))
            print(
                f"{cache}: ready after {found['ready_s']} s, first token after {found['first_token_s']} s, resident "
                f"{found['resident_bytes'] / 2**20:.0f} MiB (peak {found['peak_resident_bytes'] / 2**20:.0f}, allowed "
                f"{allowed / 2**20:.0f}), weights {found['weight_bytes'] / 2**20:.0f} MiB"
            )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
