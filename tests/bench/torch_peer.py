"""PyTorch's scaled_dot_product_attention for one query row after a long context, in a process of its own.

    .venv-oracles/bin/python -m tests.bench.torch_peer --context 65536 --num_threads 2 --num_layers 22
        [--num_q_heads 9] [--num_kv_heads 3] [--head_dim_k 64] [--head_dim_v 64] [--rounds 5]

Prints one JSON object: seconds a layer for each element type and way of sharing KV heads. Every layer has keys and
values of its own, so that no cache holds them.
"""

import argparse
import json
import statistics
import time


def seconds_per_layer(shape, dtype, grouped: bool, rounds: int) -> float:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    kv = shape.num_kv_heads
    q = torch.randn(1, shape.num_q_heads, 1, shape.head_dim_k).to(dtype)
    key = torch.randn(1, kv, shape.context, shape.head_dim_k).to(dtype)
    value = torch.randn(1, kv, shape.context, shape.head_dim_v).to(dtype)
    keys = [key.clone() for _ in range(shape.num_layers)]
    values = [value.clone() for _ in range(shape.num_layers)]
    group = shape.num_q_heads // kv
    times = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            began = time.monotonic()
            for k, v in zip(keys, values):
                if grouped:
                    scaled_dot_product_attention(q, k, v, enable_gqa=True)
                else:
                    # The query heads of a KV head as rows of one product: the cache is read once.
                    scaled_dot_product_attention(q.reshape(1, kv, group, -1), k, v)
            times.append((time.monotonic() - began) / shape.num_layers)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--context", type=int, default=65536)
    parser.add_argument("--num_threads", type=int, required=True)
    parser.add_argument("--num_layers", type=int, default=22)
    parser.add_argument("--num_q_heads", type=int, default=9)
    parser.add_argument("--num_kv_heads", type=int, default=3)
    parser.add_argument("--head_dim_k", type=int, default=64)
    parser.add_argument("--head_dim_v", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.num_threads)
    torch.manual_seed(1)
    result = {}
    for name, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16), ("f32", torch.float32)):
        for grouped in (True, False):
            key = f"{name} {'enable_gqa' if grouped else 'heads as rows'}"
            result[key] = seconds_per_layer(options, dtype, grouped, options.rounds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
