"""Peak resident memory of one long sequence.

    .venv/bin/python -m tests.bench.memory [--context 65000] [--limit_gib 2.5]
        [--kv_cache_dtype int8]

Prefills and decodes with nsa_bench. Ends with 1 above the limit.
"""

import argparse
import json
import subprocess
import sys

from tests.support import model_files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--context", type=int, default=65_000)
    parser.add_argument("--limit_gib", type=float, default=2.5)
    parser.add_argument("--kv_cache_dtype", default="f16")
    options = parser.parse_args()
    run = subprocess.run(
        [
            model_files.tool("nsa_bench"),
            f"--model={model_files.model_path()}",
            f"--context={options.context}",
            f"--kv_cache_dtype={options.kv_cache_dtype}",
            "--decode_tokens=16",
            "--json",
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    measured = json.loads(run.stdout.splitlines()[-1])
    gib = measured["peak_rss_bytes"] / 2**30
    print(
        f"{options.context} tokens, {options.kv_cache_dtype}: peak {gib:.2f} GiB (limit {options.limit_gib}), "
        f"prefill {measured['prefill_tokens_per_s']:.0f} tokens/s, "
        f"decode {measured['decode_tokens_per_s']:.1f} tokens/s"
    )
    return 0 if gib <= options.limit_gib else 1


if __name__ == "__main__":
    sys.exit(main())
