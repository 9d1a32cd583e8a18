"""More than memory holds: pages that go to a file and come back, and faults on the way."""

import os
import random
import signal
import subprocess
import time

import grpc
import pytest

from tests.support import model_files, server, tiny_model

PAGES = 40


def flags(folder, **more):
    """Memory for 2,560 tokens, and compressed rows of four times as much in the file."""
    rows = 4 * PAGES * tiny_model.ROW_BYTES / tiny_model.PAGE_BYTES
    return {
        "max_context": 2048,
        "kv_cache_gib": tiny_model.gib(PAGES + rows),
        "kv_spill_dir": folder,
        "kv_spill_gib": tiny_model.gib(4 * PAGES),
    } | more


def prompt(number: int) -> list[int]:
    draw = random.Random(number)
    return [3 + draw.randrange(200) for _ in range(1100)]


def ask(number: int):
    request = server.request(prompt(number), 700, temperature=1.0)
    request.sampling.seed = number
    request.stopping.ignore_eos = True
    return request


@pytest.fixture(scope="module")
def alone(tiny_server):
    return [server.generate(tiny_server, ask(number)).token_ids for number in range(4)]


def test_together_more_than_memory_as_alone(tiny_path, tmp_path, alone):
    with server.running(tiny_path, **flags(tmp_path)) as running:
        results = server.generate_together(running, [ask(number) for number in range(4)])
        assert [result.token_ids for result in results] == alone
        assert all(len(tokens) == 700 for tokens in alone)
        metrics = running.metrics()
        assert metrics['nsa:kv_spill_bytes_total{direction="out"}'] > 5 * 2 * 8192
        assert metrics['nsa:kv_spill_bytes_total{direction="in"}'] > 0
        assert metrics["vllm:num_preemptions_total"] > 0
        assert metrics["vllm:prompt_tokens_recomputed_total"] == 0
        assert list(tmp_path.iterdir()) == []
        running.wait_idle()
        # Idle prefixes stay in memory and in the file until they are flushed.
        assert running.metrics()['nsa:kv_pages{state="spilled"}'] > 0
        assert running.stub.FlushCache(server.pb().FlushCacheRequest(), timeout=60).num_pages_dropped > PAGES
        running.wait_idle()
        deadline = time.monotonic() + 10
        while running.metrics()['nsa:kv_pages{state="spilled"}'] > 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_context_beyond_memory_as_with_all_of_it(tiny_path, tmp_path):
    """3,500 tokens in memory for 1,500: what is selected comes back by page and layer. Memory must hold at least what a
    row can select."""
    blocks = {"num_selected_blocks": 16}
    request = server.request([3 + number * 7 % 200 for number in range(3300)], 200, temperature=1.0)
    request.sampling.seed = 5
    request.stopping.ignore_eos = True
    with server.running(tiny_path, max_context=4096, kv_cache_gib=tiny_model.gib(65), **blocks) as whole:
        expected = server.generate(whole, request).token_ids
    pages, spilled = 24, 120
    beyond = flags(
        tmp_path,
        max_context=4096,
        kv_cache_gib=tiny_model.gib(pages + spilled * tiny_model.ROW_BYTES / tiny_model.PAGE_BYTES),
        kv_spill_gib=tiny_model.gib(spilled),
        **blocks,
    )
    with server.running(tiny_path, **beyond) as running:
        assert running.load().num_pages_total < 30
        result = server.generate(running, request)
        assert (result.status, result.token_ids) == (grpc.StatusCode.OK, expected)
        metrics = running.metrics()
        assert metrics["nsa:kv_slot_misses_total"] > 100
        assert metrics["nsa:kv_interrupted_rows_total"] > 100
        assert metrics["vllm:prompt_tokens_recomputed_total"] == 0
        full = server.request([5] * 2000, 10)
        full.attention.mode = server.pb().ATTENTION_MODE_FULL
        refused = server.generate(running, full)
        assert refused.status == grpc.StatusCode.INVALID_ARGUMENT
        running.wait_idle()


def test_a_killed_server_leaves_no_file(tiny_path, tmp_path):
    with server.running(tiny_path, **flags(tmp_path)) as running:
        calls = [running.stub.Generate(ask(number), timeout=60) for number in range(4)]
        while running.metrics()['nsa:kv_spill_bytes_total{direction="out"}'] == 0:
            time.sleep(0.05)
        running.process.kill()
        running.wait_ended()
        del calls
    assert list(tmp_path.iterdir()) == []


def test_faults_need_the_flag(tiny_path, tmp_path, monkeypatch):
    monkeypatch.setenv("NSA_FAULTS", "spill_write=1")
    refused = server.Server(tiny_path, **flags(tmp_path))
    assert refused.wait_ended() == 2
    assert "NSA_FAULTS" in refused.output()
    monkeypatch.setenv("NSA_FAULTS", "everything=1")
    unclear = server.Server(tiny_path, **flags(tmp_path), allow_test_faults=True)
    assert unclear.wait_ended() != 0
    assert "'everything'" in unclear.output()


@pytest.mark.parametrize(
    "faults",
    [
        "spill_write=0.01,spill_read=0.01,spill_short=0.1,allocation=0.02,preempt_every=50",
        "spill_slow=0.1,step_slow=0.01,delay_ms=5,preempt=0.02",
        "drop_stream=0.002,preempt_every=30",
    ],
)
def test_faults_and_killed_clients_end_nothing_else(tiny_path, tmp_path, monkeypatch, alone, faults):
    monkeypatch.setenv("NSA_FAULTS", faults)
    with server.running(tiny_path, **flags(tmp_path), allow_test_faults=True) as running:
        client = [model_files.tool("nsa_client"), "complete", f"--server={running.address}"]
        killed = subprocess.Popen(
            [*client, "--prompt_file=-", "--max_tokens=900"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        killed.stdin.write(b"to be killed " * 60)
        killed.stdin.close()
        killed.stdout.read(1)
        os.kill(killed.pid, signal.SIGKILL)
        killed.stdout.close()
        killed.wait()
        results = server.generate_together(running, [ask(number) for number in range(4)])
        for result, tokens in zip(results, alone, strict=True):
            assert result.status == grpc.StatusCode.OK, result.details
            assert result.num_finished == 1
            if result.reason == "aborted":
                tokens = tokens[: len(result.token_ids)]
            assert result.token_ids == tokens
        running.wait_idle()
        assert running.process.poll() is None
