#!/usr/bin/env python3
"""PyTorch's scaled_dot_product_attention on the shapes of attention_bench.cc: decode steps and prefills.

    python3 tests/gpu/torch_peer.py [--contexts 8192,65536] [--batches 1,8,32]
        [--prefills 8192,16384,32768,65536] [--rounds 21]

Prints one JSON object. For each shape every backend that takes it is timed, and the best counts: decode with
the query heads of a KV head as rows of one product, so that the cache is read once, and with enable_gqa; as a
CUDA graph over several layers of caches, so that none stays in L2.
"""

import argparse
import json
import statistics
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

Q_HEADS, KV_HEADS, HEAD_DIM = 64, 4, 128
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
L2_SHARES = 4


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def graph_seconds(step, rounds: int) -> float:
    """The median replay of step() as a graph, by events."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times = []
    for _ in range(rounds + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times[1:])


def best_of(ways: dict, rounds: int, num_layers: int) -> dict:
    """Microseconds a layer of each way under each backend; what a backend does not take is left out."""
    us = {}
    for way, step in ways.items():
        for name, backend in BACKENDS.items():
            try:
                with sdpa_kernel(backend):
                    us[f"{name} {way}"] = graph_seconds(step, rounds) / num_layers * 1e6
            except RuntimeError as error:
                us[f"{name} {way}"] = None
                print(f"{name} {way}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
            torch.cuda.synchronize()
    taken = {way: value for way, value in us.items() if value is not None}
    best = min(taken, key=taken.get) if taken else None
    return {"best": best, "us": taken.get(best), "all_us": us}


def decode(context: int, batch: int, rounds: int) -> dict:
    bytes_a_layer = 2 * 2 * batch * KV_HEADS * context * HEAD_DIM
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    num_layers = L2_SHARES * l2 // bytes_a_layer + 1
    q = random(batch, Q_HEADS, 1, HEAD_DIM)
    rows = q.reshape(batch, KV_HEADS, Q_HEADS // KV_HEADS, HEAD_DIM)
    shape = (batch, KV_HEADS, context, HEAD_DIM)
    caches = [(random(*shape), random(*shape)) for _ in range(num_layers)]

    def heads_as_rows():
        for key, value in caches:
            scaled_dot_product_attention(rows, key, value)

    def grouped():
        for key, value in caches:
            scaled_dot_product_attention(q, key, value, enable_gqa=True)

    result = best_of({"heads as rows": heads_as_rows, "enable_gqa": grouped}, rounds, num_layers)
    return {"context": context, "batch": batch, "num_layers": num_layers} | result


def prefill(context: int, rounds: int) -> dict:
    q = random(1, Q_HEADS, context, HEAD_DIM)
    key, value = (random(1, KV_HEADS, context, HEAD_DIM) for _ in range(2))

    def causal():
        scaled_dot_product_attention(q, key, value, is_causal=True, enable_gqa=True)

    return {"context": context} | best_of({"enable_gqa": causal}, rounds, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contexts", type=numbers, default=[8192, 65536])
    parser.add_argument("--batches", type=numbers, default=[1, 8, 32])
    parser.add_argument("--prefills", type=numbers, default=[8192, 16384, 32768, 65536])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", help="writes there instead of to standard output")
    options = parser.parse_args()
    torch.manual_seed(1)
    with torch.inference_mode():
        result = {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(0),
            "decode": [
                decode(context, batch, options.rounds)
                for context in options.contexts
                for batch in options.batches
            ],
            "prefill": [prefill(context, min(options.rounds, 5)) for context in options.prefills],
        }
    text = json.dumps(result, indent=1)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
