"""Spans of requests in --trace_file, request ids in the log, names of threads."""

import json
import pathlib
import time

import grpc
import pytest
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.semconv._incubating.attributes import (
    error_attributes,
    gen_ai_attributes,
    rpc_attributes,
)

from tests.support import otlp, server

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "a prompt that no trace may hold"
STAGES = ("prepare", "queue", "prefill", "decode", "stream")


def parent(flags: str = "01"):
    return (("traceparent", f"00-{TRACE_ID}-{SPAN_ID}-{flags}"),)


def generate(running, message, metadata=(), timeout: float = 120) -> server.Result:
    return server.collect(running.stub.Generate(message, metadata=metadata, timeout=timeout))


def wait_for(path: pathlib.Path, num_traces: int) -> dict[str, otlp.Trace]:
    """By request, once so many are there: the end is written behind the client's back."""
    deadline = time.monotonic() + 20
    while True:
        traces = otlp.read(path) if path.exists() else []
        if len(traces) >= num_traces or time.monotonic() > deadline:
            assert len(traces) == num_traces, [trace.id for trace in traces]
            found = {trace.id: trace for trace in traces}
            assert len(found) == num_traces, "a request ended twice"
            return found
        time.sleep(0.05)


@pytest.fixture
def traced(tiny_path, tmp_path):
    path = tmp_path / "traces.jsonl"
    with server.running(tiny_path, max_context=16384, max_step_tokens=256,
                        trace_file=path) as running:  # fmt: skip
        running.trace_path = path
        yield running


def test_the_stages_of_a_request(traced):
    prompt = list(range(3, 103)) * 10
    message = server.request(prompt, 12, request_id="mine")
    message.stopping.ignore_eos = True
    result = generate(traced, message, parent() + (("tracestate", "vendor=1"),))
    assert result.status == grpc.StatusCode.OK
    trace = wait_for(traced.trace_path, 1)["mine"]
    root = trace.root
    assert root.trace_id.hex() == TRACE_ID and root.parent_span_id.hex() == SPAN_ID
    assert root.kind == trace_pb2.Span.SPAN_KIND_SERVER
    assert root.trace_state == "vendor=1" and root.flags & 0x300 == 0x300
    assert root.name.startswith("text_completion tiny")
    assert trace.status == "OK" and root.status.code == 0
    assert trace.attributes["rpc.method"] == "nsa.v1.InferenceService/Generate"
    assert trace.attributes["gen_ai.usage.input_tokens"] == len(prompt)
    assert trace.attributes["gen_ai.usage.output_tokens"] == 12
    assert trace.attributes["gen_ai.request.max_tokens"] == 12
    assert trace.attributes["gen_ai.request.temperature"] == 0
    assert trace.attributes["gen_ai.response.finish_reasons"] == ["length"]
    stages = [trace.by_name[name][0] for name in STAGES]
    assert all(len(trace.by_name[name]) == 1 for name in STAGES)
    assert all(span.parent_span_id == root.span_id for span in stages)
    prepare, queue, prefill, decode, stream = stages
    assert prepare.end_time_unix_nano == queue.start_time_unix_nano
    assert queue.end_time_unix_nano == prefill.start_time_unix_nano
    assert prefill.end_time_unix_nano == decode.start_time_unix_nano
    assert stream.start_time_unix_nano >= prefill.start_time_unix_nano
    chunks = trace.by_name["chunk"]
    assert len(chunks) >= 4, "of at most 256 tokens"
    position = 0
    for chunk, after in zip(chunks, chunks[1:] + [None], strict=True):
        assert chunk.parent_span_id == prefill.span_id
        said = otlp.attributes(chunk)
        assert said["nsa.chunk.position"] == position
        position += said["nsa.chunk.num_tokens"]
        assert after is None or chunk.end_time_unix_nano <= after.start_time_unix_nano
    assert position == len(prompt)
    # What the client hears is what the spans say.
    seconds = (prefill.end_time_unix_nano - prefill.start_time_unix_nano) / 1e9
    assert seconds == pytest.approx(result.finished.usage.prefill_seconds, abs=1e-5)
    first = trace.attributes["gen_ai.response.time_to_first_chunk"]
    assert first == pytest.approx(
        (prefill.end_time_unix_nano - root.start_time_unix_nano) / 1e9, abs=1e-5
    )


def test_names_are_those_of_the_conventions(traced):
    known = {
        value
        for module in (gen_ai_attributes, rpc_attributes, error_attributes)
        for name, value in vars(module).items()
        if isinstance(value, str) and name.isupper()
    }
    message = server.request(SECRET, 4, request_id="all")
    message.sampling.top_p = 0.9
    message.sampling.top_k = 5
    message.sampling.seed = 3
    message.sampling.n = 2
    message.sampling.presence_penalty = 0.1
    message.sampling.frequency_penalty = 0.1
    message.structured_output.json_object = True
    message.priority = 1
    assert generate(traced, message).status == grpc.StatusCode.OK
    trace = wait_for(traced.trace_path, 1)["all"]
    assert len(trace.by_name["decode"]) == 2
    assert [otlp.attributes(span)["nsa.choice.index"] for span in trace.by_name["queue"]] == [0, 1]
    assert trace.attributes["gen_ai.request.choice.count"] == 2
    assert len(trace.attributes["gen_ai.response.finish_reasons"]) == 2
    for span in trace.spans:
        for key in otlp.attributes(span):
            assert key in known or key.startswith("nsa."), key
    assert not trace.root.parent_span_id
    assert "prompt that" not in traced.trace_path.read_text()


def test_every_end_is_there_once_with_its_status(traced):
    def slow(name: str):
        message = server.request([5, 6, 7] * 40, 8000, request_id=name)
        message.stopping.ignore_eos = True
        return message

    call = traced.stub.Generate(slow("cancelled"), timeout=60)
    next(iter(call))
    call.cancel()
    assert generate(traced, slow("expired"), timeout=0.3).status == (
        grpc.StatusCode.DEADLINE_EXCEEDED
    )
    aborted = traced.stub.Generate(slow("aborted"), timeout=60)
    next(iter(aborted))
    traced.stub.Abort(server.pb().AbortRequest(request_id="aborted"), timeout=20)
    assert server.collect(aborted).reason == "aborted"
    invalid = server.request("x", 4, request_id="invalid", temperature=-1)
    assert generate(traced, invalid).status == grpc.StatusCode.INVALID_ARGUMENT
    assert generate(traced, server.request("x", 4, request_id="good")).status == (
        grpc.StatusCode.OK
    )
    traces = wait_for(traced.trace_path, 5)
    assert {name: trace.status for name, trace in traces.items()} == {
        "cancelled": "CANCELLED",
        "expired": "DEADLINE_EXCEEDED",
        "aborted": "OK",
        "invalid": "INVALID_ARGUMENT",
        "good": "OK",
    }
    assert traces["cancelled"].attributes["gen_ai.response.finish_reasons"] == ["abort"]
    assert traces["expired"].root.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert traces["expired"].attributes["error.type"] == "DEADLINE_EXCEEDED"
    assert traces["invalid"].root.status.code == 0 and not traces["invalid"].by_name["queue"]
    traced.wait_idle()
    written = traced.metrics()['nsa:trace_spans_total{outcome="written"}']
    assert written == sum(len(trace.spans) for trace in traces.values())


def test_what_is_not_sampled_leaves_nothing(tiny_path, tmp_path):
    path = tmp_path / "traces.jsonl"
    with server.running(tiny_path, max_context=2048, trace_file=path, trace_ratio=0) as running:
        generate(running, server.request("x", 2, request_id="none"))
        generate(running, server.request("x", 2, request_id="not"), parent("00"))
        for value in ("", "00", f"00-{TRACE_ID}-{SPAN_ID}", f"00-{'0' * 32}-{SPAN_ID}-01",
                      f"ff-{TRACE_ID}-{SPAN_ID}-01", "x" * 5000):  # fmt: skip
            result = generate(
                running, server.request("x", 2, request_id="bad"), (("traceparent", value),)
            )
            assert result.status == grpc.StatusCode.OK, value
        generate(running, server.request("x", 2, request_id="yes"), parent())
        assert list(wait_for(path, 1)) == ["yes"]


def test_off_unless_asked_for(tiny_server):
    generate(tiny_server, server.request("x", 2), parent())
    metrics = tiny_server.metrics()
    for outcome in ("written", "queue_full", "write_failed"):
        assert metrics[f'nsa:trace_spans_total{{outcome="{outcome}"}}'] == 0
    names = thread_names(tiny_server)
    assert "nsa-trace" not in names


def test_a_full_disk_hurts_nobody(tiny_path):
    with server.running(tiny_path, max_context=2048, trace_file="/dev/full") as running:
        for _ in range(20):
            assert generate(running, server.request("x", 2)).status == grpc.StatusCode.OK
        deadline = time.monotonic() + 20
        lost = 'nsa:trace_spans_total{outcome="write_failed"}'
        while running.metrics()[lost] < 20 * 6 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running.metrics()[lost] >= 20 * 6
        said = [line for line in running.lines if "--trace_file takes no spans" in line]
        assert len(said) == 1 and "No space left" in said[0], running.output()
        running.terminate()
        assert running.wait_ended() == 0


def test_a_file_that_cannot_be_is_refused_at_the_start(tiny_path, tmp_path):
    with pytest.raises(RuntimeError, match="ended with 2.*--trace_file is"):
        with server.running(tiny_path, trace_file=tmp_path / "none" / "x"):
            pass


def test_each_log_line_about_a_request_names_it(tiny_path):
    with server.running(tiny_path, max_context=2048, log_requests="true",
                        log_format="json") as running:  # fmt: skip
        good = server.request(SECRET, 3, request_id="mine")
        assert generate(running, good, parent()).status == grpc.StatusCode.OK
        nameless = generate(running, server.request(SECRET, 3))
        bad = server.request(SECRET, -1, request_id="line\nbreak")
        assert generate(running, bad).status == grpc.StatusCode.INVALID_ARGUMENT
        running.terminate()
        assert running.wait_ended() == 0
        objects = [json.loads(line) for line in running.lines if line.startswith("{")]
        lines = {line["request_id"]: line for line in objects if "request_id" in line}
        assert set(lines) == {"mine", nameless.finished.request_id, "line\nbreak"}
        assert lines["mine"]["trace_id"] == TRACE_ID
        assert lines["mine"]["message"].startswith("OK (length): ")
        assert "trace_id" not in lines["line\nbreak"]
        assert lines["line\nbreak"]["message"].startswith("INVALID_ARGUMENT")
        assert SECRET not in running.output()


def thread_names(running) -> set[str]:
    tasks = pathlib.Path(f"/proc/{running.process.pid}/task")
    return {(task / "comm").read_text().strip() for task in tasks.iterdir()}


def test_threads_have_names(tiny_path, tmp_path):
    """So that `top -H` and `perf` tell who works."""
    with server.running(tiny_path, max_context=2048, num_threads=3, kv_spill_dir=tmp_path,
                        kv_spill_gib=0.01, trace_file=tmp_path / "t") as running:  # fmt: skip
        message = server.request("x", 2)
        message.structured_output.regex = "[ab]+"
        generate(running, message)
        assert thread_names(running) >= {
            "nsa_server", "nsa-engine", "nsa-cpu-1", "nsa-cpu-2", "nsa-spill", "nsa-mask",
            "nsa-tokenize", "nsa-grammar", "nsa-trace",
        }  # fmt: skip
