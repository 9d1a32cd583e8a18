"""More requests than there is room for: who is refused, when, and with what hint."""

import contextlib
import subprocess
import threading
import time

import grpc
import pytest

from tests.support import model_files, server


@contextlib.contextmanager
def busy(path, **flags):
    """A server of one place, which a request without end has."""
    with server.running(path, max_context=16384, max_running_requests=1, **flags) as running:
        message = server.request([5] * 100, 16000)
        message.stopping.ignore_eos = True
        call = running.stub.Generate(message, timeout=300)
        next(iter(call))
        yield running, call
        call.cancel()
        running.wait_idle()


def queue(running, tenant, n=1):
    """A call that waits, or is refused at once."""
    message = server.request("the sky", 4)
    message.sampling.n = n
    return running.stub.Generate(message, timeout=300, metadata=[("nsa-tenant", tenant)])


def waiting(running, count):
    deadline = time.monotonic() + 30
    while running.load().num_waiting != count:
        assert time.monotonic() < deadline, running.load()
        time.sleep(0.01)


def refusal(call):
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    return error.value


def test_a_tenant_fills_its_own_part_of_the_queue(tiny_path):
    with busy(tiny_path, max_queued_requests=4, max_tenant_requests=2) as (running, endless):
        calls = [queue(running, "a"), queue(running, "a")]
        waiting(running, 2)
        assert "of this tenant is full: 2 requests" in refusal(queue(running, "a")).details()
        calls += [queue(running, "b"), queue(running, "b")]
        waiting(running, 4)
        assert "the queue is full: 4 requests" in refusal(queue(running, "c")).details()
        endless.cancel()
        for call in calls:
            assert list(call)[-1].HasField("finished")


def test_tokens_of_a_tenant(tiny_path):
    with busy(tiny_path, max_tenant_tokens=30) as (running, endless):
        call = queue(running, "a")
        waiting(running, 1)
        error = refusal(queue(running, "a", n=20))
        assert "tokens wait" in error.details() and "30" in error.details()
        endless.cancel()
        assert list(call)


def test_the_hint_is_a_retry_info(tiny_path):
    with busy(tiny_path, max_queued_requests=1) as (running, endless):
        call = queue(running, "")
        waiting(running, 1)
        metadata = dict(refusal(queue(running, "")).trailing_metadata())
        assert 100 <= int(metadata["retry-after-ms"]) <= 60_000
        assert b"type.googleapis.com/google.rpc.RetryInfo" in metadata["grpc-status-details-bin"]
        endless.cancel()
        assert list(call)


REFUSED_FOR_GOAL = 'vllm:admission_rejections_total{reason="first_token_goal"}'
ERRORS = 'vllm:request_success_total{finished_reason="error"}'


def long_prompt(running, number):
    """A call whose prompt begins like no other."""
    message = server.request([6 + number] + [5] * 1500, 2)
    return running.stub.Generate(message, timeout=300)


def test_a_first_token_that_would_come_too_late_is_refused(tiny_path, monkeypatch):
    # A step takes 50 ms, and a prompt some fifteen of them.
    monkeypatch.setenv("NSA_FAULTS", "step_slow=1,delay_ms=50")
    flags = {"allow_test_faults": True, "max_step_tokens": 100, "target_first_token_ms": 4000}
    with server.running(tiny_path, max_context=16384, **flags) as running:
        for number in range(3):
            assert list(long_prompt(running, number))[-1].HasField("finished")
        calls = [long_prompt(running, number) for number in range(10, 34)]
        done, refused = 0, []
        for call in calls:
            try:
                done += list(call)[-1].HasField("finished")
            except grpc.RpcError as error:
                refused.append(error)
        assert 1 <= done <= 12 and done + len(refused) == len(calls)
        for error in refused:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "the first token would come after" in error.details()
            metadata = dict(error.trailing_metadata())
            assert 100 <= int(metadata["retry-after-ms"]) <= 60_000
            assert b"type.googleapis.com/google.rpc.RetryInfo" in metadata["grpc-status-details-bin"]
        metrics = running.metrics()
        assert metrics['vllm:admission_rejections_total{reason="first_token_goal"}'] == len(refused)
        assert metrics['vllm:request_success_total{finished_reason="error"}'] == 0, "it has not failed"
        running.wait_idle()
        assert list(long_prompt(running, 99))[-1].HasField("finished"), "it has recovered"


def test_what_never_fits_has_no_hint(tiny_path):
    with server.running(tiny_path, max_context=64) as running:
        error = refusal(running.stub.Generate(server.request("x" * 100_000, 1), timeout=60))
        assert "retry-after-ms" not in dict(error.trailing_metadata())


def test_the_client_comes_back(tiny_path):
    with busy(tiny_path, max_queued_requests=1) as (running, endless):
        call = queue(running, "")
        waiting(running, 1)
        command = [
            model_files.tool("nsa_client"), "complete", "--prompt=the sky", "--max_tokens=3",
            f"--server={running.address}",
        ]  # fmt: skip
        at_once = subprocess.run([*command, "--retries=0"], capture_output=True, timeout=60)
        assert at_once.returncode == 18, at_once.stderr
        threading.Timer(0.5, endless.cancel).start()
        later = subprocess.run([*command, "--retries=30"], capture_output=True, timeout=120)
        assert later.returncode == 0, later.stderr
        assert b"the server is full; next try in" in later.stderr
        assert list(call)
