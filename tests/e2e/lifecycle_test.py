"""Probes, metrics, clients that vanish, and the end of a server."""

import os
import signal
import socket
import subprocess
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support import model_files, server

SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICE = "nsa.v1.InferenceService"


def health(running, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(running.channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


def endless(prompt, **fields):
    request = server.request(prompt, 8000, **fields)
    request.stopping.ignore_eos = True
    return request


def test_health(tiny_server):
    assert health(tiny_server) == SERVING
    assert health(tiny_server, SERVICE) == SERVING
    with pytest.raises(grpc.RpcError) as error:
        health(tiny_server, "no.such.Service")
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


def test_services_that_are_not_served_are_unimplemented_at_once(tiny_server):
    """Gateways probe for several engines' services and wait for the answer."""
    for method in ("/vllm.grpc.engine.NoSuch/HealthCheck", "/nsa.v1.InferenceService/NoSuch"):
        call = tiny_server.channel.unary_unary(method)
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as error:
            call(b"", timeout=10)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert time.monotonic() - began < 2


def test_reflection_lists_the_services(tiny_server):
    stub = reflection_pb2_grpc.ServerReflectionStub(tiny_server.channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(stub.ServerReflectionInfo(iter([ask]), timeout=10))
    names = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


METRICS = [
    "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
    "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total", "vllm:prompt_tokens_cached_total",
    "vllm:prompt_tokens_recomputed_total", "vllm:num_preemptions_total",
    "vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_draft_tokens_total",
    "vllm:spec_decode_num_accepted_tokens_total",
    "vllm:time_to_first_token_seconds_count", "vllm:inter_token_latency_seconds_count",
    "vllm:request_time_per_output_token_seconds_count", "vllm:e2e_request_latency_seconds_count",
    "vllm:request_queue_time_seconds_count", "vllm:request_prefill_time_seconds_count",
    "vllm:request_decode_time_seconds_count", "vllm:request_inference_time_seconds_count",
    "vllm:request_prompt_tokens_count", "vllm:request_generation_tokens_count",
    "vllm:request_params_max_tokens_count", "vllm:iteration_tokens_total_count",
    'nsa:attention_tokens_read_total{branch="cmp"}', 'nsa:attention_tokens_read_total{branch="slc"}',
    'nsa:attention_tokens_read_total{branch="win"}', "nsa:attention_tokens_full_total",
    'nsa:page_selection_total{page_age="0"}', 'nsa:page_selection_total{page_age="64-127"}',
    "nsa:decode_step_seconds_count", "nsa:prefill_chunk_seconds_count", "nsa:step_batch_size_count",
    'nsa:kv_pages{state="free"}', 'nsa:kv_pages{state="active"}', 'nsa:kv_pages{state="cached"}',
]  # fmt: skip


def test_metrics_count_what_was_done(tiny_path):
    with server.running(tiny_path, max_context=16384) as running:
        result = server.generate(running, server.request([5] * 100, 10))
        other = endless([6] * 5000)
        other.stopping.max_tokens = 30
        assert server.generate(running, other).reason == "length"
        call = running.stub.Generate(endless([7] * 3000), timeout=60)
        next(call)
        call.cancel()
        running.wait_idle()
        values = running.metrics()
        assert not [name for name in METRICS if name not in values]
        generated = len(result.token_ids) + 30
        assert values["vllm:generation_tokens_total"] >= generated
        assert values["vllm:request_prompt_tokens_count"] == 3
        assert values['vllm:request_success_total{finished_reason="abort"}'] == 1
        assert values['vllm:request_success_total{finished_reason="length"}'] >= 1
        # Sparse attention at 5,000 tokens reads less than full attention would.
        read = sum(v for k, v in values.items() if k.startswith("nsa:attention_tokens_read_total"))
        assert 0 < read < values["nsa:attention_tokens_full_total"]
        # The first page is always read: from 5,000 tokens on it stands 64 pages back or more.
        assert values['nsa:page_selection_total{page_age="64-127"}'] > 0
        assert values['nsa:page_selection_total{page_age="0"}'] == 0  # the window's
        pages = [values[f'nsa:kv_pages{{state="{state}"}}'] for state in ("free", "active", "cached")]
        assert sum(pages) == running.load().num_pages_total
        assert 'vllm:cache_config_info{block_size="64"' in "\n".join(values)


def test_a_killed_client_frees_its_pages(tiny_server):
    client = subprocess.Popen(
        [model_files.tool("nsa_client"), "complete", f"--server={tiny_server.address}",
         "--prompt=the sky", "--max_tokens=16000", "--ignore_eos", "--json"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    client.stdout.readline()
    assert tiny_server.load().num_running == 1
    client.send_signal(signal.SIGKILL)
    client.wait()
    tiny_server.wait_idle(timeout=10)


def test_a_connection_cut_in_mid_request(tiny_server):
    """A client whose half of the connection is gone: bytes of a request, then a reset."""
    host, port = tiny_server.address.rsplit(":", 1)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    for _ in range(5):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(preface + b"\x00\x40\x00\x01\x04\x00\x00\x00\x01" + os.urandom(100))
            linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert server.generate(tiny_server, server.request("x", 2)).status == grpc.StatusCode.OK


def start_stream(running, request):
    """A stream that has begun, and the thread's result when it ends."""
    call = running.stub.Generate(request, timeout=120)
    began, results = threading.Event(), []

    def read() -> None:
        results.append(server.collect(call, lambda tokens: began.set()))

    reader = threading.Thread(target=read)
    reader.start()
    assert began.wait(60)
    return reader, results


def test_sigterm_finishes_what_runs_and_refuses_the_rest(tiny_path):
    with server.running(tiny_path, max_context=16384) as running:
        request = endless([5] * 200)
        reader, results = start_stream(running, request)
        running.terminate()
        deadline = time.monotonic() + 5
        while health(running) == SERVING:
            assert time.monotonic() < deadline, "health still says SERVING"
        refused = server.generate(running, server.request("x", 2))
        assert refused.status == grpc.StatusCode.UNAVAILABLE, refused.details
        reader.join()
        assert results[0].status == grpc.StatusCode.OK, results[0].details
        assert results[0].reason == "length" and len(results[0].token_ids) == 8000
        assert running.wait_ended() == 0


def test_sigterm_with_nothing_to_do_ends_at_once(tiny_path):
    with server.running(tiny_path, max_context=1024) as running:
        began = time.monotonic()
        running.terminate()
        assert running.wait_ended(20) == 0
        assert time.monotonic() - began < 5


def test_drain_ends_at_its_limit(tiny_path):
    with server.running(tiny_path, max_context=32768, drain_timeout_s=0.3) as running:
        request = endless([5] * 200)
        request.stopping.max_tokens = 32_000
        reader, results = start_stream(running, request)
        running.terminate()
        running.wait_ended(20)
        reader.join()
        # Told that it was ended, one way or the other, and not left hanging.
        assert results[0].reason == "aborted" or results[0].status != grpc.StatusCode.OK


def test_a_second_sigterm_aborts(tiny_path):
    with server.running(tiny_path, max_context=32768, drain_timeout_s=120) as running:
        request = endless([5] * 200)
        request.stopping.max_tokens = 32_000
        reader, results = start_stream(running, request)
        running.terminate()
        time.sleep(0.3)
        assert running.process.poll() is None
        began = time.monotonic()
        running.terminate()
        assert running.wait_ended(20) != 0
        assert time.monotonic() - began < 10
        reader.join()
        assert results[0].reason == "aborted" or results[0].status != grpc.StatusCode.OK
