"""Sequences beyond memory, with a file below it: two in memory for one, or one in memory for a part.

    .venv/bin/python -m tests.bench.spill [--context 65536] [--prompt 32000] [--answer 1500]
        [--folder DIR] [--limit 1.5]
    .venv/bin/python -m tests.bench.spill --one [--context 16384] [--prompt 15000] [--answer 500] [--part 4]

Asks two different questions one after the other, then both at once. With `prompt` near half of the
context both are read together, and grow beyond memory while they answer; with a prompt as long as
the context the second waits for the first. Ends with 1 where answers differ, or where both at once
take more than `limit` times as long as one after the other.

With `--one` the same question is asked of a server whose memory holds the context, and of one whose memory holds a
`part`-th of it, by turns; so what a row selects comes and goes. Ends with 1 where answers differ.
"""

import argparse
import statistics
import sys
import tempfile
import time

from tests.support import model_files, server

PAGE_TOKENS = 64
# Not a limit: a server refuses early what a deadline leaves no time for.
PATIENCE_S = 36_000
OUT, IN = (f'nsa:kv_spill_bytes_total{{direction="{way}"}}' for way in ("out", "in"))
MISSES, INTERRUPTED = "nsa:kv_slot_misses_total", "nsa:kv_interrupted_rows_total"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", action="store_true", help="one sequence in memory for a part of it")
    parser.add_argument("--context", type=int)
    parser.add_argument("--prompt", type=int)
    parser.add_argument("--answer", type=int)
    parser.add_argument("--part", type=float, default=4, help="of memory, that --one has")
    parser.add_argument("--rounds", type=int, default=2, help="of --one")
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--page_bytes", type=int, default=1_526_400, help="of the model, slots and rows")
    parser.add_argument("--row_bytes", type=int, default=51_840, help="of these, of compressed rows")
    parser.add_argument("--limit", type=float, default=1.5)
    options = parser.parse_args()
    for name, value in {
        "context": (65_536, 16_384),
        "prompt": (32_000, 15_000),
        "answer": (1_500, 500),
    }.items():
        if getattr(options, name) is None:
            setattr(options, name, value[options.one])
    return options


def ask(tokens: list[int], number: int, options: argparse.Namespace, answer: int | None = None):
    message = server.request(
        tokens[number * options.prompt : (number + 1) * options.prompt], answer or options.answer, temperature=0
    )
    message.bypass_prefix_cache = True
    message.stopping.ignore_eos = True
    return message


def flags(options: argparse.Namespace, pages: float, spilled: float) -> dict:
    """Memory for `pages` and the compressed rows of those in the file."""
    memory = pages * options.page_bytes + spilled * options.row_bytes
    return {
        "max_context": options.context,
        "kv_cache_gib": memory / 2**30,
        "kv_spill_dir": options.folder,
        "kv_spill_gib": spilled * (options.page_bytes - options.row_bytes) / 2**30,
    }


def check(result: server.Result) -> None:
    """A request that was refused or has failed is no answer to compare."""
    if result.finished is None:
        raise RuntimeError(f"{result.status}: {result.details}")


def run_two(path, tokens: list[int], options: argparse.Namespace) -> int:
    pages = options.context // PAGE_TOKENS + 1
    with server.running(path, **flags(options, pages, 2 * pages)) as running:
        began = time.monotonic()
        alone = [server.generate(running, ask(tokens, number, options), timeout=PATIENCE_S) for number in (0, 1)]
        one_by_one = time.monotonic() - began
        before = running.metrics()
        began = time.monotonic()
        asked = [ask(tokens, number, options) for number in (0, 1)]
        together = server.generate_together(running, asked, timeout=PATIENCE_S)
        at_once = time.monotonic() - began
        after = running.metrics()
        load = running.load()
    for result in alone + together:
        check(result)
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
        f"slots missed {grown(MISSES):.0f}, "
        f"out {grown(OUT) / 2**20:.0f} MiB, "
        f"in {grown(IN) / 2**20:.0f} MiB"
    )
    return 0 if same and ratio <= options.limit else 1


def time_one(running: server.Server, tokens: list[int], options: argparse.Namespace) -> dict:
    """Seconds to the first token and for each one after it, the answer, and what was missed meanwhile."""
    told = []
    before = running.metrics()
    began = time.monotonic()
    call = running.stub.Generate(ask(tokens, 0, options), timeout=PATIENCE_S)

    def on_tokens(_) -> None:
        if not told:
            told.extend([time.monotonic() - began, running.metrics()])

    result = server.collect(call, on_tokens)
    check(result)
    whole = time.monotonic() - began
    after = running.metrics()
    first, middle = told
    names = {"misses": MISSES, "interrupted": INTERRUPTED, "out": OUT, "in": IN}
    return {
        "tokens": result.token_ids,
        "prefill": first,
        "decode": (whole - first) / (options.answer - 1),
        "at_prefill": {key: middle[name] - before[name] for key, name in names.items()},
        "at_decode": {key: after[name] - middle[name] for key, name in names.items()},
    }


def run_one(path, tokens: list[int], options: argparse.Namespace) -> int:
    pages = options.context // PAGE_TOKENS
    all_in_memory = flags(options, pages + 1, 0) | {"kv_spill_dir": "", "kv_spill_gib": 0}
    part = flags(options, pages / options.part, 2 * pages)
    answers, ratios = [], {"prefill": [], "decode": []}
    with server.running(path, **all_in_memory) as whole, server.running(path, **part) as beyond:
        memory = beyond.load().num_pages_total
        for _ in range(options.rounds):
            one, other = time_one(whole, tokens, options), time_one(beyond, tokens, options)
            answers += [one["tokens"], other["tokens"]]
            for phase, found in ratios.items():
                found.append(other[phase] / one[phase])
    same = all(answer == answers[0] for answer in answers)
    print(
        f"{options.prompt} + {options.answer} tokens, {-(-(options.prompt + options.answer) // PAGE_TOKENS)} pages, "
        f"in memory for {memory}: answers {'equal' if same else 'DIFFER'}; time against all in memory: "
        + ", ".join(f"{phase} {statistics.median(found):.2f}" for phase, found in ratios.items())
    )
    for phase, count in {"prefill": options.prompt, "decode": options.answer - 1}.items():
        counts = other[f"at_{phase}"]
        print(
            f"  {phase}, a token: slots missed {counts['misses'] / count:.2f}, rows that waited "
            f"{counts['interrupted'] / count:.2f}, in {counts['in'] / count / 1024:.0f} KiB, "
            f"out {counts['out'] / count / 1024:.0f} KiB"
        )
    return 0 if same else 1


def main() -> int:
    options = parse()
    path = model_files.model_path()
    tokens = model_files.encode([model_files.manual_text()], path)[0]
    while len(tokens) < 2 * options.prompt:
        tokens = tokens + tokens
    return (run_one if options.one else run_two)(path, tokens, options)


if __name__ == "__main__":
    sys.exit(main())
