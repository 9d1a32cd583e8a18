"""The load on llama.cpp's server, beside nsa_client's on ours: one plan, one arithmetic. Without llama-server."""

import http.server
import json
import math
import subprocess
import threading
import time

import pytest

from tests.bench import serving_beside
from tests.support import llama_server, load_plan, load_report, model_files, server, tiny_model

SLO = {"ttft_ms": 1000, "itl_ms": 500}
COMPLETE, REFUSE, HOLD, SHORT, UNFINISHED, BROKEN = range(6)  # what the fake does, by a prompt's first id


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tiny_model.write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    with server.running(path, max_context=4096) as running:
        yield running


class FakeLlamaServer(http.server.ThreadingHTTPServer):
    """Answers /completion in llama-server's words; TOKEN_S between tokens."""

    TOKEN_S = 0.05
    request_queue_size = 128
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.bodies: list[dict] = []
        self.num_open = self.most_open = self.num_left = 0

    def count(self, change: int) -> None:
        with self.lock:
            self.num_open += change
            self.most_open = max(self.most_open, self.num_open)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words) -> None:
        pass

    def event(self, data: dict, cut: int = 0) -> None:
        """One event, in two chunks of HTTP where `cut` is given."""
        text = b"data: " + json.dumps(data).encode() + b"\n\n"
        for piece in (text[:cut], text[cut:]) if cut else (text,):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        way, count = body["prompt"][0], body["n_predict"]
        with self.server.lock:
            self.server.bodies.append(body)
        self.server.count(1)
        try:
            self.answer(way, count - (way == SHORT), len(body["prompt"]))
        finally:
            self.server.count(-1)

    def answer(self, way: int, count: int, prompt: int) -> None:
        if way == REFUSE:
            self.send_error(503)
            return
        if way == HOLD:
            if not self.rfile.read(1):
                self.server.num_left += 1
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for token in range(count):
            time.sleep(self.server.TOKEN_S)
            self.event({"content": "x", "tokens": [token], "stop": False}, cut=9 if token else 0)
        if way == BROKEN:
            self.close_connection = True
            return
        if way != UNFINISHED:
            self.event({"content": "", "tokens": [], "stop": True, "tokens_predicted": count,
                        "tokens_evaluated": prompt, "timings": {"cache_n": 2}})  # fmt: skip
        self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def fake():
    running = FakeLlamaServer()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def request(way: int, arrival_s: float = 0.0, output_tokens: int = 3, **fields) -> dict:
    return {"arrival_s": arrival_s, "token_ids": [way, 7], "output_tokens": output_tokens} | fields


def played(fake, requests: list[dict], **how) -> tuple[dict, list[load_report.Record]]:
    """The report and the records by index."""
    records = llama_server.send(fake.server_address, requests, **how)
    return load_report.report(records, SLO), sorted(records, key=lambda record: record.index)


def test_a_completion_is_timed_token_by_token(fake):
    report, (record,) = played(fake, [request(COMPLETE, arrival_s=0.1)])
    assert record.code == "OK" and record.output_tokens == 3 and record.prompt_tokens == 2
    assert record.cached_tokens == 2 and report["tokens"] == {"prompt": 2, "cached": 2, "output": 3}
    assert record.scheduled_s == 0.1 <= record.sent_s < record.first_token_s <= record.last_token_s <= record.end_s
    assert record.ttft_s >= 0.9 * fake.TOKEN_S and len(record.gaps_s) == 2
    assert sum(record.gaps_s) == pytest.approx(record.last_token_s - record.first_token_s)
    assert record.last_token_s - record.first_token_s >= 1.8 * fake.TOKEN_S
    (body,) = fake.bodies
    assert body["prompt"] == [COMPLETE, 7] and body["n_predict"] == 3
    assert body["temperature"] == 0 and body["ignore_eos"] and body["cache_prompt"] and body["stream"]


def test_a_slow_server_delays_no_arrival(fake):
    fake.TOKEN_S = 0.5
    report, records = played(fake, [request(COMPLETE, arrival_s=0.01 * i, output_tokens=1) for i in range(40)])
    assert report["requests"]["completed"] == 40 and fake.most_open == 40
    for i, record in enumerate(records):
        assert record.scheduled_s == 0.01 * i <= record.sent_s
    assert report["send_delay_s"]["p50"] < 0.1


def test_a_closed_loop_has_no_more_users_than_asked(fake):
    report, records = played(fake, [request(COMPLETE) for _ in range(12)], concurrency=3)
    assert report["requests"]["completed"] == 12 and fake.most_open == 3
    assert all(record.scheduled_s <= record.sent_s < record.scheduled_s + 0.1 for record in records)
    report, _ = played(fake, [request(COMPLETE) for _ in range(1000)], concurrency=2, seconds=0.4)
    assert 2 < report["requests"]["sent"] <= 2 * (0.4 / (3 * fake.TOKEN_S) + 1)


def test_what_fails_is_told_apart(fake):
    ways = (COMPLETE, REFUSE, SHORT, UNFINISHED, BROKEN)
    report, records = played(fake, [request(way) for way in ways])
    assert [record.code for record in records] == ["OK", "RESOURCE_EXHAUSTED", "INTERNAL", "INTERNAL", "UNAVAILABLE"]
    assert report["requests"] == {"sent": 5, "completed": 1, "rejected": 1, "failed": 3}
    assert report["goodput"]["requests"] == 1 and report["ttft_s"]["count"] == 1
    assert "ended after 2 tokens" in records[2].message
    report, _ = played(fake, [])
    assert report["requests"]["sent"] == 0 and report["throughput"]["requests_per_s"] == 0


def test_no_server_is_a_failure_not_a_hang():
    address = ("127.0.0.1", llama_server.free_port())
    (record,) = llama_server.send(address, [request(COMPLETE)])
    assert record.code == "UNAVAILABLE"


def test_a_deadline_closes_the_connection(fake):
    report, (record, done) = played(
        fake, [request(HOLD, arrival_s=0.1, deadline_ms=200), request(COMPLETE, 0.1, deadline_ms=5000)]
    )
    assert record.code == "DEADLINE_EXCEEDED" and 0.2 <= record.e2e_s < 1
    assert done.code == "OK" and report["requests"]["failed"] == 1
    deadline = time.monotonic() + 10
    while not fake.num_left:
        assert time.monotonic() < deadline, "the server never saw the connection end"
        time.sleep(0.01)


def client_load(address: str, *words: str) -> dict:
    command = [model_files.tool("nsa_client"), "load", f"--server={address}", "--json", *words]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)


def lines(path) -> list[dict]:
    return sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda line: line["index"])


def as_record(line: dict) -> load_report.Record:
    """A line of nsa_client's --trace_out, of a completion of at most two tokens: so the longest gap is the only one."""
    record = load_report.Record(line["index"], line["scheduled_s"], line["sent_s"], end_s=line["end_s"])
    record.code, record.output_tokens = line["code"], line["output_tokens"]
    record.prompt_tokens = line["prompt_tokens"] if record.ok else 0
    record.cached_tokens = line["cached_tokens"]
    if "ttft_s" in line:
        record.first_token_s = line["scheduled_s"] + line["ttft_s"]
        record.last_token_s = record.first_token_s + line["max_itl_s"]
        record.gaps_s = [line["max_itl_s"]] if line["output_tokens"] == 2 else []
    return record


def same(ours, theirs, path="") -> None:
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), path
        for key in ours:
            same(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9), path
    else:
        assert ours == theirs, path


def test_the_arithmetic_is_nsa_clients(tiny, tmp_path):
    """Every figure of its report, made again of its records."""
    words = ["--rate=150", "--num_requests=120", "--prompt_tokens=uniform:5:400", "--output_tokens=uniform:1:2"]
    words += ["--deadline_ms=0:3,12:1"]
    first = client_load(tiny.address, *words)
    ttft_ms, itl_ms = 1000 * first["ttft_s"]["p50"], 1000 * first["itl_s"]["p90"]
    slo = {"ttft_ms": ttft_ms, "itl_ms": itl_ms, "tpot_ms": 2 * itl_ms, "e2e_ms": 3 * ttft_ms}
    out = tmp_path / "requests.jsonl"
    limits = [f"--slo_{name}={limit!r}" for name, limit in slo.items()]
    theirs = client_load(tiny.address, *words, *limits, f"--trace_out={out}")
    written = lines(out)
    records = [as_record(line) for line in written]
    assert 0 < theirs["goodput"]["requests"] < theirs["requests"]["completed"]
    for line, record in zip(written, records, strict=True):
        assert load_report.met(record, slo) == line["good"]
    ours = load_report.report(records, slo)
    ours.pop("messages")
    same(ours, {key: theirs[key] for key in ours})


def test_quantiles_are_linear_between_neighbours():
    found = load_report.summarize([4.0, 1.0, 2.0, 3.0])
    quantiles = {"p50": 2.5, "p90": pytest.approx(3.7), "p99": pytest.approx(3.97)}
    assert found == {"count": 4, "mean": 2.5, "max": 4} | quantiles
    assert set(load_report.summarize([]).values()) == {0}


@pytest.mark.parametrize("limit,good", [(200, True), (199.9, False)])
@pytest.mark.parametrize("name", ["ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"])
def test_each_limit_alone_decides(name, limit, good):
    record = load_report.Record(0, 1.0, 1.0)
    record.on_tokens({"ttft_ms": 1.2}.get(name, 1.0), 1)
    record.on_tokens(record.first_token_s + {"itl_ms": 0.2, "tpot_ms": 0.2}.get(name, 0.0), 1)
    record.end_s = max(record.last_token_s, {"e2e_ms": 1.2}.get(name, 1.0))
    limit = limit * (1 + 1e-12)  # sums of times are rounded
    assert load_report.met(record, {name: limit}) == good
    record.code = "DEADLINE_EXCEEDED"
    assert not load_report.met(record, {})


def drawn(tiny, count: int) -> load_plan.Plan:
    words = ["--prompt_tokens=uniform:70:90", "--shared_prefix_tokens=64", "--output_tokens=uniform:1:3"]
    return load_plan.Plan.draw(tiny.address, count, *words)


def test_a_plan_is_dealt_out_once(tiny):
    plan = drawn(tiny, 60)
    arrivals = [request["arrival_s"] for request in plan.requests]
    closed = plan.take(10)
    assert all(request["arrival_s"] == 0 for request in closed)
    fast = plan.take_arrivals(50, 0.4, deadline_ms=9)
    assert 5 < len(fast) < 45 and all(request["deadline_ms"] == 9 for request in fast)
    for request, arrival in zip(fast, arrivals[10:]):
        assert request["arrival_s"] == pytest.approx((arrival - arrivals[9]) / 50)
    assert fast[-1]["arrival_s"] < 0.4 <= (arrivals[10 + len(fast)] - arrivals[9]) / 50
    (slow,) = plan.take_arrivals(1e-6, 0.1)
    prompts = [tuple(request["token_ids"]) for request in (*closed, *fast, slow)]
    assert prompts == [tuple(request["token_ids"]) for request in plan.requests[: len(prompts)]]
    assert len({prompt[:64] for prompt in prompts}) == 1 and len(set(prompts)) == len(prompts)
    for way in (lambda: plan.take(60), lambda: plan.take_arrivals(1e-3, 1e9)):
        with pytest.raises(RuntimeError, match="used up"):
            way()


def test_both_servers_are_asked_the_same(tiny, fake, tmp_path):
    fake.TOKEN_S = 0.0
    requests = drawn(tiny, 40).take_arrivals(60, 0.4, deadline_ms=20_000)
    trace, out = load_plan.write(requests, tmp_path / "trace.jsonl"), tmp_path / "requests.jsonl"
    ours = client_load(tiny.address, f"--trace_file={trace}", f"--trace_out={out}")
    for request in requests:
        request["token_ids"][0] = COMPLETE  # of a page that both have
    theirs, records = played(fake, requests)
    assert ours["requests"] == theirs["requests"]
    assert ours["requests"]["completed"] == len(requests)
    for kind in ("prompt", "output"):
        assert ours["tokens"][kind] == theirs["tokens"][kind]
    asked = {tuple(body["prompt"]): body["n_predict"] for body in fake.bodies}
    assert asked == {tuple(request["token_ids"]): request["output_tokens"] for request in requests}
    for request, line, record in zip(requests, lines(out), records, strict=True):
        assert request["arrival_s"] == line["scheduled_s"] == record.scheduled_s
        assert line["max_tokens"] == record.output_tokens == request["output_tokens"]
        assert line["prompt_tokens"] == record.prompt_tokens == len(request["token_ids"])
        assert line["deadline_ms"] == 20_000


def test_ratios_say_how_many_times_better():
    def report(good: float, p50: float) -> dict:
        return {"throughput": {"requests_per_s": 2 * good}, "goodput": {"requests_per_s": good},
                "ttft_s": {"count": int(p50 > 0), "p50": p50, "p99": 2 * p50},
                "requests": {"rejected": 1, "failed": 2}}  # fmt: skip

    table = serving_beside.Table()
    table.add(1.0, report(0.9, 0.5), report(0.3, 2.0))
    table.add(2.0, report(1.8, 0.5), report(0.0, 0.0))
    table.add(3.0, None, report(0.1, 9.0))
    assert table.goodput("ours") == {1.0: 0.9, 2.0: 1.8}
    assert table.goodput("theirs") == {1.0: 0.3, 2.0: 0.0, 3.0: 0.1}
    assert serving_beside.ratio(3, 2) == 1.5 and serving_beside.ratio(1, 0) == math.inf
    for numbers in ((0, 0), (1, math.nan), (math.nan, 1)):
        assert math.isnan(serving_beside.ratio(*numbers))
    assert math.isnan(serving_beside.numbers(None)["goodput"])
    assert serving_beside.shared_rates(1.0) == [0.5, 0.9]
    assert serving_beside.shared_rates(1.0, 0.1) == pytest.approx([0.085, 0.5, 0.9])
