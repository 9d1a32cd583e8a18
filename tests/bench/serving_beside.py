"""nsa_server and llama.cpp's server under the same requests: `overload` and `shared` of tests/bench/serving.py.

Both get the lines of one plan (load_plan.py): the same pieces of the policy manual by token ids, greedy, to the same
length, at the same moments, from clients that give up after six times the goal for the first token. What counts is
counted alike (load_report.py). Each server has all of the machine's threads while the other is not asked, and shares
them with its client.
"""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import subprocess
import tempfile

from tests.support import llama_server, load_plan, load_report, model_files, server

OUR_CACHE_GIB = 6

SHORT = ["--prompt_tokens=uniform:200:800", "--output_tokens=uniform:20:60"]
SHORT_CONTEXT = 1024
SHORT_PLAN = 8000  # requests
SHORT_SLO = {"ttft_ms": 5000, "itl_ms": 1000}
OVERLOAD = 3.0
SHARES = (0.6, 0.8, 1.0, OVERLOAD)  # of our capacity, asked of both
OWN_SHARES = (0.8, OVERLOAD)  # of theirs, asked of them alone
KEPT_LIMIT = 0.9

PROMPT, PREFIX, OUTPUT = 8192, 6144, 64
LONG = [f"--prompt_tokens={PROMPT}", f"--shared_prefix_tokens={PREFIX}", f"--output_tokens={OUTPUT}"]
LONG_PLAN = 500
LONG_TTFT_MS = 5000
SLOTS = 4
FEWEST_REQUESTS = 8  # of a run at a low rate, which then takes longer
GOODPUT_LIMIT = 3.0


class Ours:
    """nsa_server. Flags as keyword arguments."""

    name = "nsa-serve"

    def __init__(self, options, **flags):
        self.running = server.running(options.model, num_threads=options.num_threads, **flags)

    def __enter__(self):
        self.server = self.running.__enter__()
        return self

    def __exit__(self, *failure) -> None:
        self.running.__exit__(*failure)

    def play(self, requests: list[dict], slo: dict, concurrency: int = 0, seconds: float = math.inf) -> dict:
        """The report of a run: open loop at the requests' arrivals, or closed with so many users."""
        command = [model_files.tool("nsa_client"), "load", f"--server={self.server.address}", "--json"]
        command += ["--temperature=0", *(f"--slo_{name}={limit}" for name, limit in slo.items())]
        command += [f"--concurrency={concurrency}"] if concurrency else []
        command += [f"--duration_s={seconds}"] if math.isfinite(seconds) else []
        with tempfile.TemporaryDirectory() as folder:
            trace = load_plan.write(requests, pathlib.Path(folder) / "trace.jsonl")
            words = [str(word) for word in (*command, f"--trace_file={trace}")]
            run = subprocess.run(words, capture_output=True, text=True)
        if not run.stdout.strip():
            raise RuntimeError(run.stderr)
        return json.loads(run.stdout)

    def prime(self, request: dict) -> None:
        self.play([request], {}, concurrency=1)


class LlamaCpp:
    """llama-server with a context of its own for each of `slots`: a request finds the shared prefix in the slot that had
    one like it, and nothing is copied to and fro between requests."""

    name = "llama.cpp"

    def __init__(self, options, slots: int, context: int, *words: str):
        self.slots = slots
        context = math.ceil(context / 256) * 256
        threads = str(options.num_threads)
        flags = ["--threads", threads, "--threads-batch", threads, "--parallel", str(slots), "--no-kv-unified"]
        flags += ["--ctx-size", str(slots * context), "--flash-attn", "on", "--cache-ram", "0"]
        # A slot holds no more than the model was trained for.
        flags += ["--override-kv", f"llama.context_length=int:{context}", "--log-verbosity", "2", "--offline"]
        self.running = llama_server.running(options.model, *flags, *words)

    def __enter__(self):
        self.server = self.running.__enter__()
        return self

    def __exit__(self, *failure) -> None:
        self.running.__exit__(*failure)

    def play(self, requests: list[dict], slo: dict, concurrency: int = 0, seconds: float = math.inf) -> dict:
        records = llama_server.send(self.server.address, requests, concurrency, seconds)
        arrivals = "closed" if concurrency else "trace"
        return load_report.report(records, slo, server=self.name, arrivals=arrivals, concurrency=concurrency)

    def prime(self, request: dict) -> None:
        """Each slot reads it, one after the other: left to choose, the server gives a slot that has it already."""
        for slot in range(self.slots):
            report = self.play([request | {"id_slot": slot}], {}, concurrency=1)
            if report["requests"]["completed"] != 1:
                raise RuntimeError(f"slot {slot}: {report['messages']}")


def cell(number: float) -> str:
    return f"{'–':>8}" if math.isnan(number) else f"{number:8.3g}"


def ratio(numerator: float, denominator: float) -> float:
    """Infinite against nothing; NaN where a side was not measured."""
    if math.isnan(denominator):
        return math.nan
    return numerator / denominator if denominator > 0 else math.inf if numerator > 0 else math.nan


def numbers(report: dict | None) -> dict[str, float]:
    """What a table shows of a run; NaN of one that was not."""
    if report is None:
        return dict.fromkeys(("throughput", "p50", "p99", "goodput", "refused", "late"), math.nan)
    done = report["ttft_s"]["count"] > 0
    return {
        "throughput": report["throughput"]["requests_per_s"],
        "p50": report["ttft_s"]["p50"] if done else math.nan,
        "p99": report["ttft_s"]["p99"] if done else math.nan,
        "goodput": report["goodput"]["requests_per_s"],
        "refused": report["requests"]["rejected"],
        "late": report["requests"]["failed"],
    }


class Table:
    """Rows of both sides at equal arrivals. Without llama-server ours alone."""

    COLUMNS = ("throughput", "p50", "p99", "goodput")

    def __init__(self):
        self.rows: list[dict] = []
        titles = ("throughput, requests/s", "first token p50, s", "first token p99, s", "goodput, requests/s")
        print(f"{'':>20}" + "".join(f" | {title:^26}" for title in titles) + " | refused, late")
        print(f"{'arrivals a second':>20}" + f" | {'ours':>8} {'theirs':>8} {'ratio':>8}" * 4 + " | ours; theirs")

    def add(self, rate: float, ours: dict | None, theirs: dict | None) -> None:
        mine, other = numbers(ours), numbers(theirs)
        text = f"{rate:20.3f}"
        for name in self.COLUMNS:
            # A rate is better the higher, a time the lower.
            times = (other[name], mine[name]) if name in ("p50", "p99") else (mine[name], other[name])
            text += f" | {cell(mine[name])} {cell(other[name])} {cell(ratio(*times))}"
        counts = "; ".join(f"{side['refused']:.0f}, {side['late']:.0f}" for side in (mine, other))
        print(f"{text} | {counts.replace('nan', '–')}", flush=True)
        self.rows.append({"rate": rate, "ours": ours, "theirs": theirs})

    def goodput(self, side: str) -> dict[float, float]:
        return {row["rate"]: numbers(row[side])["goodput"] for row in self.rows if row[side]}


@contextlib.contextmanager
def both(options, ours: dict, slots: int, context: int, *words: str):
    """Both servers, the second None where llama-server is not built. Who does not run sleeps: each rate is measured on
    one, then on the other, so that a machine whose speed drifts does so for both."""
    with contextlib.ExitStack() as stack:
        mine = stack.enter_context(Ours(options, max_context=context, kv_cache_gib=OUR_CACHE_GIB, **ours))
        other = None
        if llama_server.PROGRAM.exists():
            other = stack.enter_context(LlamaCpp(options, slots, context, *words))
        else:
            print("llama-server is not built (tests/bench/build_llama_server.sh): ours alone")
        yield mine, other


def capacity(side, requests: list[dict], users: int, seconds: float) -> float:
    """Requests a second of a closed loop."""
    report = side.play(requests, {}, users, seconds)
    found, tokens = report["throughput"]["requests_per_s"], report["tokens"]
    cached = 100 * ratio(tokens["cached"], tokens["prompt"])
    print(f"  {side.name}: {found:.3f} requests/s with {users} users, {cached:.0f} % of the prompts cached", flush=True)
    if not found:
        raise RuntimeError(f"{side.name} completed nothing: {report['messages']}")
    return found


def goal(slo: dict[str, float]) -> str:
    words = {"ttft_ms": "first token within", "itl_ms": "no gap above"}
    return "good: " + ", ".join(f"{words[name]} {limit / 1000:.3g} s" for name, limit in slo.items())


def patience_ms(slo: dict[str, float]) -> float:
    """After which clients give up."""
    return 6 * slo["ttft_ms"]


def overload(options) -> bool:
    print(f"overload: prompts of 200 to 800 tokens, {goal(SHORT_SLO)}; runs of {options.seconds:g} s")
    with both(options, dict(target_first_token_ms=SHORT_SLO["ttft_ms"]), 8, SHORT_CONTEXT) as (ours, theirs):
        plan = load_plan.Plan.draw(ours.server.address, SHORT_PLAN, *SHORT, text=model_files.manual_text())
        closed = plan.take(600)
        ours_at = capacity(ours, closed, 8, options.seconds / 2)
        rates = {share * ours_at: True for share in SHARES}  # whether ours is asked too
        if theirs:
            theirs_at = capacity(theirs, closed, 8, options.seconds / 2)
            rates |= {share * theirs_at: False for share in OWN_SHARES}
        table = Table()
        for rate, all_sides in sorted(rates.items()):
            requests = plan.take_arrivals(rate, options.seconds, deadline_ms=patience_ms(SHORT_SLO))
            mine = ours.play(requests, SHORT_SLO) if all_sides else None
            table.add(rate, mine, theirs.play(requests, SHORT_SLO) if theirs else None)
    options.tables["overload"] = table.rows
    goodput = table.goodput("ours")
    kept = goodput[OVERLOAD * ours_at] / max(goodput.values())
    print(f"  at three times its capacity {100 * kept:.0f} % of our best goodput (limit {100 * KEPT_LIMIT:.0f} %)")
    if theirs:
        goodput = table.goodput("theirs")
        kept_theirs = ratio(goodput[OVERLOAD * theirs_at], max(goodput.values()))
        print(f"  and {100 * kept_theirs:.0f} % of theirs at three times theirs")
    return kept >= KEPT_LIMIT


def shared(options) -> bool:
    """The goal for the first token is one that llama-server keeps with room to spare where nothing else runs; gaps have
    none, for it would stop at each prompt that begins. What it completes in a closed loop, whenever, bounds its goodput
    at every rate and stands for its best; both are asked at a rate that it can keep."""
    print(f"shared: prompts of {PROMPT} tokens, {PREFIX} of them the same, {OUTPUT} out")
    with both(options, {}, SLOTS, PROMPT + OUTPUT + 1) as (ours, theirs):
        plan = load_plan.Plan.draw(ours.server.address, LONG_PLAN, *LONG, text=model_files.manual_text())
        first, alone, closed = plan.take(1)[0], plan.take(2), plan.take(60)
        sides = [side for side in (ours, theirs) if side]
        for side in sides:
            side.prime(first)
        ttft_ms = [1000 * side.play(alone, {}, 1)["ttft_s"]["p50"] for side in sides]
        slo = {"ttft_ms": max(LONG_TTFT_MS, 2.5 * ttft_ms[-1])}
        print(f"  first token alone after {' and '.join(f'{ms:.0f}' for ms in ttft_ms)} ms; {goal(slo)}")
        most = [capacity(side, closed, SLOTS, options.seconds / 2) for side in sides]
        table = Table()
        for rate in shared_rates(*most):
            seconds = max(options.seconds, FEWEST_REQUESTS / rate)
            requests = plan.take_arrivals(rate, seconds, deadline_ms=patience_ms(slo))
            # Beyond its capacity a run of theirs lasts as long as its clients have patience, and adds nothing.
            asked = theirs and rate <= most[1]
            table.add(rate, ours.play(requests, slo), theirs.play(requests, slo) if asked else None)
    options.tables["shared"] = table.rows
    if not theirs:
        return True
    mine, other = (max(table.goodput(side).values()) for side in ("ours", "theirs"))
    times = ratio(mine, max(other, most[1]))
    print(f"  best goodput {mine:.3f} requests/s; theirs {other:.3f}, its capacity {most[1]:.3f}:", end=" ")
    print(f"{times:.1f} times (limit {GOODPUT_LIMIT:g})")
    return times >= GOODPUT_LIMIT


def shared_rates(ours: float, theirs: float = math.nan) -> list[float]:
    """Below the capacity of each, so that each has a run in which it is at its best."""
    return sorted(rate for rate in (0.85 * theirs, 0.5 * ours, 0.9 * ours) if math.isfinite(rate))


MEASURES = {"overload": overload, "shared": shared}
