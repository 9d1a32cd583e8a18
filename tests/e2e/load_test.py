"""nsa_client load, beside what the server counts of it."""

import json
import math
import os
import pty
import signal
import subprocess
import time

import pytest

from tests.support import model_files, server

CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE = 1, 4, 8, 14
SHORT = ["--prompt_tokens=uniform:5:60", "--output_tokens=uniform:1:8"]


def command(address: str, *arguments: str) -> list:
    return [model_files.tool("nsa_client"), "load", f"--server={address}", *arguments]


def load(address: str, *arguments: str, code: int = 0) -> dict:
    """The report of a run that ends with `code`."""
    run = subprocess.run(command(address, "--json", *arguments), capture_output=True, timeout=120)
    assert run.returncode == code, run.stderr
    assert run.stdout.count(b"\n") == 1, "one object on one line"
    report = json.loads(run.stdout)
    check(report)
    return report


def check(report: dict) -> None:
    """What holds for every report."""
    requests = report["requests"]
    assert requests["sent"] == sum(report["codes"].values())
    assert requests["sent"] == requests["completed"] + requests["rejected"] + requests["failed"]
    assert requests["completed"] == report["codes"].get("OK", 0) == report["e2e_s"]["count"]
    assert requests["rejected"] == report["codes"].get("RESOURCE_EXHAUSTED", 0)
    assert report["goodput"]["requests"] <= requests["completed"]
    for name in ("ttft_s", "itl_s", "tpot_s", "e2e_s"):
        latency = report[name]
        assert 0 <= latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def grown(before: dict, after: dict, prefix: str) -> float:
    return sum(after[key] - before.get(key, 0) for key in after if key.startswith(prefix))


def test_counts_are_the_servers(tiny_server, tmp_path):
    before = tiny_server.metrics()
    path = tmp_path / "requests.jsonl"
    report = load(
        tiny_server.address, "--concurrency=4", "--num_requests=40", *SHORT, f"--trace_out={path}"
    )
    tiny_server.wait_idle()
    after = tiny_server.metrics()
    assert report["requests"] == {"sent": 40, "completed": 40, "rejected": 0, "failed": 0}
    assert grown(before, after, "vllm:request_success_total") == 40
    for kind, name in (("prompt", "prompt"), ("output", "generation")):
        assert report["tokens"][kind] == grown(before, after, f"vllm:{name}_tokens_total")
    assert report["ttft_s"]["count"] == grown(
        before, after, "vllm:time_to_first_token_seconds_count"
    )
    assert report["itl_s"]["count"] == report["tokens"]["output"] - 40
    records = lines(path)
    assert [r["index"] for r in sorted(records, key=lambda r: r["index"])] == list(range(40))
    assert sum(r["prompt_tokens"] for r in records) == report["tokens"]["prompt"]
    assert sum(r["output_tokens"] for r in records) == report["tokens"]["output"]
    assert all(r["output_tokens"] == r["max_tokens"] for r in records), "no end token ends one"
    assert math.isclose(max(r["e2e_s"] for r in records), report["e2e_s"]["max"])
    seconds = report["duration_s"]
    assert math.isclose(report["throughput"]["requests_per_s"], 40 / seconds)


def test_warmup_is_sent_but_not_counted(tiny_server):
    before = tiny_server.metrics()
    report = load(
        tiny_server.address, "--concurrency=2", "--num_requests=5", "--warmup_requests=7", *SHORT
    )
    tiny_server.wait_idle()
    assert report["requests"]["sent"] == report["ttft_s"]["count"] == 5
    assert report["warmup"] == {"requests": 7, "failed": 0}
    assert grown(before, tiny_server.metrics(), "vllm:request_success_total") == 12


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_open_loop_keeps_its_rate(tiny_server, tmp_path, arrivals):
    rate, count = 100, 150
    path = tmp_path / "requests.jsonl"
    arguments = [f"--rate={rate}", f"--arrivals={arrivals}", f"--num_requests={count}", *SHORT]
    report = load(tiny_server.address, *arguments, f"--trace_out={path}")
    assert report["requests"]["completed"] == count
    records = sorted(lines(path), key=lambda r: r["index"])
    last = records[-1]["scheduled_s"]
    sigma = math.sqrt(count) / rate if arrivals == "poisson" else 1e-9
    assert abs(last - count / rate) <= 4 * sigma
    assert all(r["sent_s"] >= r["scheduled_s"] for r in records)
    assert report["send_delay_s"]["p50"] < 0.02, "requests leave when they are due"
    # Latency counts from when a request was due, not from when it left.
    for record in records:
        assert math.isclose(record["e2e_s"], record["end_s"] - record["scheduled_s"], abs_tol=1e-9)
    again = tmp_path / "again.jsonl"
    load(tiny_server.address, *arguments, f"--trace_out={again}")
    planned = ("index", "scheduled_s", "prompt_tokens", "max_tokens")
    assert [[r[k] for k in planned] for r in records] == [
        [r[k] for k in planned] for r in sorted(lines(again), key=lambda r: r["index"])
    ]


def test_duration_ends_a_run(tiny_server):
    for mode in ("--rate=50", "--concurrency=2"):
        began = time.monotonic()
        report = load(tiny_server.address, mode, "--duration_s=0.5", *SHORT)
        assert report["requests"]["completed"] == report["requests"]["sent"] > 5
        assert time.monotonic() - began < 20


def test_goodput_is_what_meets_the_slo(tiny_server, tmp_path):
    arguments = ["--concurrency=4", "--num_requests=40", *SHORT]
    easy = load(
        tiny_server.address, *arguments, "--slo_ttft_ms=1e8", "--slo_itl_ms=1e8",
        "--slo_tpot_ms=1e8", "--slo_e2e_ms=1e8",
    )  # fmt: skip
    assert easy["goodput"]["requests"] == 40 and easy["goodput"]["fraction"] == 1
    assert set(easy["goodput"]["slo"]) == {"ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"}
    hard = load(tiny_server.address, *arguments, "--slo_e2e_ms=0.001")
    assert hard["goodput"]["requests"] == 0 and hard["requests"]["completed"] == 40
    path = tmp_path / "requests.jsonl"
    ttft_ms = 1000 * easy["ttft_s"]["p50"]
    itl_ms = 1000 * easy["itl_s"]["p90"]
    some = load(
        tiny_server.address, *arguments, f"--slo_ttft_ms={ttft_ms}", f"--slo_itl_ms={itl_ms}",
        f"--trace_out={path}",
    )  # fmt: skip
    good = [
        r for r in lines(path) if 1000 * r["ttft_s"] <= ttft_ms and 1000 * r["max_itl_s"] <= itl_ms
    ]
    assert some["goodput"]["requests"] == len(good) == sum(r["good"] for r in lines(path))
    rate = some["goodput"]["requests_per_s"]
    assert math.isclose(rate, len(good) / some["duration_s"])


def test_trace_file(tiny_server, tmp_path):
    trace = [
        {"arrival_s": 0.2 * i, "prompt_tokens": 70 + i, "output_tokens": 1 + i,
         "prefix_group": i % 2, "prefix_tokens": 64, "priority": i, "cache_salt": f"s{i}"}
        for i in range(5)
    ]  # fmt: skip
    path, out = tmp_path / "trace.jsonl", tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in trace))
    report = load(
        tiny_server.address, f"--trace_file={path}", "--trace_speed=2", f"--trace_out={out}"
    )
    assert report["arrivals"] == "trace"
    assert report["tokens"]["prompt"] == sum(t["prompt_tokens"] for t in trace)
    assert report["tokens"]["output"] == sum(t["output_tokens"] for t in trace)
    for request, record in zip(trace, sorted(lines(out), key=lambda r: r["index"])):
        assert math.isclose(record["scheduled_s"], request["arrival_s"] / 2, abs_tol=1e-9)
        for field in ("prompt_tokens", "prefix_group", "prefix_tokens", "priority", "cache_salt"):
            assert record[field] == request[field]
    first = load(tiny_server.address, f"--trace_file={path}", "--num_requests=2", "--concurrency=1")
    assert first["requests"]["completed"] == 2 and first["arrivals"] == "closed"


def test_a_plan_is_what_would_be_sent(tiny_server, tmp_path):
    drawn = ["--rate=200", "--num_requests=30", "--workload_seed=3", "--prompt_tokens=uniform:70:90",
             "--output_tokens=uniform:1:4", "--shared_prefix_tokens=64", "--num_prefixes=2"]  # fmt: skip
    plan, drawn_out, planned_out = (tmp_path / name for name in ("plan", "drawn", "planned"))
    before = tiny_server.metrics()
    run = subprocess.run(
        command(tiny_server.address, *drawn, f"--plan_out={plan}"), capture_output=True, timeout=60
    )
    assert run.returncode == 0 and run.stdout == b"", run.stderr
    assert grown(before, tiny_server.metrics(), "vllm:request_success_total") == 0, "none is sent"
    requests = lines(plan)
    assert len(requests) == 30
    prefixes = {(r["prefix_group"], tuple(r["token_ids"][:64])) for r in requests}
    assert len(prefixes) == 2 == len({group for group, _ in prefixes})
    assert len({tuple(r["token_ids"]) for r in requests}) == 30
    load(tiny_server.address, *drawn, f"--trace_out={drawn_out}")
    report = load(tiny_server.address, f"--trace_file={plan}", f"--trace_out={planned_out}")
    assert report["requests"]["completed"] == 30
    assert report["tokens"]["prompt"] == sum(len(r["token_ids"]) for r in requests)
    # The prompts were sent a moment ago: had the plan other ids, no page of these were cached.
    assert report["tokens"]["cached"] >= 30 * 64
    first, second = (sorted(lines(p), key=lambda r: r["index"]) for p in (drawn_out, planned_out))
    for request, record, again in zip(requests, first, second, strict=True):
        assert request["arrival_s"] == record["scheduled_s"] == again["scheduled_s"]
        assert request["output_tokens"] == record["output_tokens"] == again["output_tokens"]
        for field in ("prompt_tokens", "prefix_group", "prefix_tokens"):
            assert request[field] == record[field] == again[field]


def test_a_plan_ends_with_its_duration(tiny_server, tmp_path):
    plan = tmp_path / "plan"
    arguments = ["--rate=100", "--arrivals=constant", "--duration_s=0.255", *SHORT]
    subprocess.run(
        command(tiny_server.address, *arguments, f"--plan_out={plan}"), check=True, timeout=60
    )
    assert [r["arrival_s"] for r in lines(plan)] == [i / 100 for i in range(1, 26)]


def test_prompts_from_a_text(tiny_server, tmp_path):
    path = tmp_path / "text"
    path.write_bytes("the ünïcode 漢字 and the rest ".encode() * 50 + b"\xff")
    report = load(
        tiny_server.address, "--concurrency=2", "--num_requests=4", f"--text_file={path}",
        "--prompt_tokens=100", "--output_tokens=2", "--num_connections=3",
    )  # fmt: skip
    assert report["tokens"]["prompt"] == 400


def test_deadlines_are_counted(tiny_server):
    report = load(
        tiny_server.address, "--rate=100", "--num_requests=40", "--deadline_ms=50:1,0:1",
        "--prompt_tokens=20", "--output_tokens=3000",
    )  # fmt: skip
    late = report["codes"]["DEADLINE_EXCEEDED"]
    assert 5 < late < 35 and report["requests"]["completed"] == 40 - late
    tiny_server.wait_idle()


def test_an_overloaded_server_rejects_and_nothing_hangs(tiny_path):
    flags = dict(max_context=4096, max_running_requests=1, max_queued_requests=2)
    with server.running(tiny_path, **flags) as running:
        report = load(
            running.address, "--rate=500", "--num_requests=60", "--prompt_tokens=20",
            "--output_tokens=400",
        )  # fmt: skip
        requests = report["requests"]
        assert requests["sent"] == 60 and requests["failed"] == 0
        assert requests["rejected"] > 10 and requests["completed"] >= 3
        assert report["retry_after_ms"]["count"] == requests["rejected"]
        assert "full" in report["messages"]["RESOURCE_EXHAUSTED"]
        running.wait_idle()
        rejections = 'vllm:admission_rejections_total{reason="queue_full"}'
        assert running.metrics()[rejections] == requests["rejected"]
        # Users who are refused come back after the server's hint, of 100 ms at least: a closed loop
        # ends too.
        closed = load(
            running.address, "--concurrency=6", "--duration_s=1.5", "--prompt_tokens=20",
            "--output_tokens=400",
        )  # fmt: skip
        assert 0 < closed["requests"]["rejected"] <= 6 * (1.5 / 0.1 + 1)


def interrupted(arguments: list, address: str, when) -> tuple[int, dict]:
    """Exit code and report of a run that gets SIGINT once `when` is true."""
    process = subprocess.Popen(
        command(address, "--json", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 60
        while not when():
            assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    report = json.loads(output)
    check(report)
    return process.returncode, report


@pytest.mark.parametrize("mode", ["--rate=20", "--concurrency=5"])
def test_ctrl_c_reports_what_is_done_and_cancels_the_rest(tiny_server, mode):
    before = tiny_server.metrics()
    arguments = [mode, "--num_requests=1000000", "--prompt_tokens=20", "--output_tokens=2000"]

    def some_done() -> bool:
        done = grown(before, tiny_server.metrics(), "vllm:request_success_total")
        return done >= 2 and tiny_server.load().num_running > 0

    code, report = interrupted(arguments, tiny_server.address, some_done)
    assert code == 10 + CANCELLED
    assert report["interrupted"]
    assert report["requests"]["completed"] >= 2
    assert report["codes"]["CANCELLED"] == report["requests"]["failed"] >= 1
    tiny_server.wait_idle(timeout=10)


def test_timeout_ends_a_run(tiny_server):
    report = load(
        tiny_server.address, "--rate=50", "--num_requests=1000000", "--timeout_s=1",
        "--prompt_tokens=20", "--output_tokens=8", code=10 + DEADLINE_EXCEEDED,
    )  # fmt: skip
    assert report["timed_out"] and report["requests"]["completed"] > 5


@pytest.mark.parametrize("mode", ["--rate=100", "--concurrency=4"])
def test_a_server_that_dies_leaves_a_report(tiny_path, mode):
    with server.running(tiny_path, max_context=16384) as running:
        process = subprocess.Popen(
            command(
                running.address, "--json", mode, "--num_requests=100", "--prompt_tokens=20",
                "--output_tokens=2000",
            ),
            stdout=subprocess.PIPE,
        )  # fmt: skip
        while running.load().num_running < 2:
            time.sleep(0.01)
        running.process.kill()
        output, _ = process.communicate(timeout=60)
    report = json.loads(output)
    check(report)
    assert process.returncode == 10 + UNAVAILABLE
    assert report["requests"]["sent"] == 100
    assert report["codes"]["UNAVAILABLE"] >= 2


def test_no_server(tmp_path):
    run = subprocess.run(
        command("127.0.0.1:1", "--rate=1", "--num_requests=1", "--timeout_s=3"),
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert run.returncode in (10 + UNAVAILABLE, 10 + DEADLINE_EXCEEDED)
    assert run.stdout == b"" and b"nsa_client: " in run.stderr


def test_people_get_a_table_and_progress(tiny_server):
    """Progress is for a terminal on standard error; the report goes to standard output alone."""
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        command(tiny_server.address, "--rate=20", "--duration_s=1", *SHORT),
        stdout=subprocess.PIPE, stderr=other_end,
    )  # fmt: skip
    os.close(other_end)
    output, _ = process.communicate(timeout=60)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert process.returncode == 0
    assert " in flight, " in shown and shown.endswith("\x1b[K")
    for word in ("TTFT", "ITL", "TPOT", "E2E", "throughput", "goodput", "p99"):
        assert word in output.decode()


GOOD = ["--rate=1", "--num_requests=1"]


@pytest.mark.parametrize(
    "arguments,word",
    [
        ([], "--rate"),
        (["--rate=0", "--num_requests=1"], "--rate"),
        (["--concurrency=0", "--num_requests=1"], "--concurrency"),
        (["--rate=1", "--concurrency=1", "--num_requests=1"], "one of them"),
        (["--rate=1"], "--duration_s"),
        ([*GOOD, "--prompt_tokens=zipf:5"], "zipf:5"),
        ([*GOOD, "--prompt_tokens=16384"], "context"),
        ([*GOOD, "--prompt_tokens=normal:100000:1"], "fit"),
        ([*GOOD, "--shared_prefix_tokens=512"], "--shared_prefix_tokens"),
        ([*GOOD, "--text_file=no/such/file"], "--text_file"),
        ([*GOOD, "--text_file=."], "--text_file"),
        ([*GOOD, "--trace_out=no/such/folder/file"], "--trace_out"),
        ([*GOOD, "--plan_out=no/such/folder/file"], "--plan_out"),
        (["--trace_file=no/such/file"], "--trace_file"),
        ([*GOOD, "--prompt=x"], "--prompt"),
        ([*GOOD, "--max_tokens=5"], "--max_tokens"),
        ([*GOOD, "--ignore_eos"], "--ignore_eos"),
        ([*GOOD, "--timeout_s=-1"], "--timeout_s"),
        ([*GOOD, "--temperature=warm"], "temperature"),
        ([*GOOD, "more"], "more"),
    ],
)
def test_usage_errors_end_with_2(tiny_server, arguments, word):
    run = subprocess.run(command(tiny_server.address, *arguments), capture_output=True, timeout=60)
    assert run.returncode == 2, run.stderr
    assert word in run.stderr.decode() and run.stdout == b""


def test_refused_sampling_is_reported(tiny_server):
    report = load(tiny_server.address, *GOOD, "--temperature=1000", code=10 + 3)
    assert "temperature" in report["messages"]["INVALID_ARGUMENT"]


def test_flags_of_load_are_for_load_alone(tiny_server):
    run = subprocess.run(
        [model_files.tool("nsa_client"), "info", "--rate=5", f"--server={tiny_server.address}"],
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 2 and b"--rate" in run.stderr


def test_help_explains_load():
    run = subprocess.run(
        [model_files.tool("nsa_client"), "load", "--help"], capture_output=True, timeout=60
    )
    assert run.returncode == 0
    for word in ("--rate", "--trace_file", "lognormal", "prefix_group", "TPOT", "Goodput"):
        assert word in run.stdout.decode()
