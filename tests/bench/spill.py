"""Two long sequences in memory for one, with a file below it.

    .venv/bin/python -m tests.bench.spill [--context 65536] [--prompt 32000] [--answer 1500]
        [--folder DIR] [--limit 1.5]

Asks two different questions one after the other, then both at once. With `prompt` near half of the
context both are read together, and grow beyond memory while they answer; with a prompt as long as
the context the second waits for the first. Ends with 1 where answers differ, or where both at once
take more than `limit` times as long as one after the other.
"""

import argparse
import sys
import tempfile
import time

from tests.support import model_files, server

PAGE_TOKENS = 64
OUT, IN = (f'nsa:kv_spill_bytes_total{{direction="{way}"}}' for way in ("out", "in"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--context", type=int, default=65_536)
    parser.add_argument("--prompt", type=int, default=32_000)
    parser.add_argument("--answer", type=int, default=1_500)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--page_bytes", type=int, default=1_526_400, help="of the model, slots and rows")
    parser.add_argument("--limit", type=float, default=1.5)
    options = parser.parse_args()
    path = model_files.model_path()
    tokens = model_files.encode([model_files.manual_text()], path)[0]
    while len(tokens) < 2 * options.prompt:
        tokens = tokens + tokens
    pages = options.context // PAGE_TOKENS + 1

    def ask(number: int):
        message = server.request(
            tokens[number * options.prompt : (number + 1) * options.prompt], options.answer, temperature=0
        )
        message.bypass_prefix_cache = True
        message.stopping.ignore_eos = True
        return message

    # A tenth more memory holds the compressed rows of what is in the file.
    flags = {
        "max_context": options.context,
        "kv_cache_gib": 1.1 * pages * options.page_bytes / 2**30,
        "kv_spill_dir": options.folder,
        "kv_spill_gib": 2 * pages * options.page_bytes / 2**30,
    }
    with server.running(path, **flags) as running:
        began = time.monotonic()
        alone = [server.generate(running, ask(number), timeout=36_000) for number in (0, 1)]
        one_by_one = time.monotonic() - began
        before = running.metrics()
        began = time.monotonic()
        together = server.generate_together(running, [ask(0), ask(1)])
        at_once = time.monotonic() - began
        after = running.metrics()
        load = running.load()
    same = [result.token_ids for result in alone] == [result.token_ids for result in together]
    ratio = at_once / one_by_one

    def grown(name: str) -> float:
        return after[name] - before[name]

    print(
        f"2 x {options.prompt} + {options.answer} tokens, memory for {load.num_pages_total * PAGE_TOKENS}: "
        f"one by one {one_by_one:.1f} s, at once {at_once:.1f} s, ratio {ratio:.2f} (limit {options.limit}); "
        f"answers {'equal' if same else 'DIFFER'}; "
        f"preemptions {grown('vllm:num_preemptions_total'):.0f}, "
        f"recomputed {grown('vllm:prompt_tokens_recomputed_total'):.0f} tokens, "
        f"out {grown(OUT) / 2**20:.0f} MiB, "
        f"in {grown(IN) / 2**20:.0f} MiB"
    )
    return 0 if same and ratio <= options.limit else 1


if __name__ == "__main__":
    sys.exit(main())
