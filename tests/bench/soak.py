"""Ten minutes of everything at once on a server of its own, as tests/e2e/soak_test.py has it for one.

    .venv/bin/python -m tests.bench.soak [--seconds 600] [--users 12] [--seed 1] [--faults WORDS]

A small random model, memory for two long requests and a file below it. Prints what was asked and how it ended, and the
server's memory, threads and files before and after. Ends with 1 where an answer is wrong, a request has no end or more
than one, pages are held that nobody uses, or memory has grown by more than 5 % and 16 MiB.
"""

import argparse
import os
import pathlib
import sys
import tempfile

from tests.support import server, soak, tiny_model

def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default=soak.FAULTS, help="NSA_FAULTS of the server; empty: none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_model.write(pathlib.Path(folder) / "tiny.gguf")
        answers = soak.answers_alone(path)
        if options.faults:
            os.environ["NSA_FAULTS"] = options.faults
        flags = soak.flags(folder) | {"allow_test_faults": bool(options.faults)}
        with server.running(path, **flags) as running:
            report = soak.soak(running, answers, options.seconds, options.users, options.seed, bool(options.faults))
            counters = running.metrics()
    print(report)
    for name in ("vllm:num_preemptions_total", *(f'nsa:kv_spill_bytes_total{{direction="{way}"}}' for way in ("out", "in"))):
        print(f"  {name} {counters[name]:.0f}")
    grown = report.after.rss_bytes - report.before.rss_bytes
    return 1 if report.errors or grown > 0.05 * report.before.rss_bytes + 16 * 2**20 else 0


if __name__ == "__main__":
    sys.exit(main())
