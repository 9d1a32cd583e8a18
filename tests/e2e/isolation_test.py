"""What runs beside a request never shows in its output, and what ends leaves nothing behind."""

import random
import threading
import time

import grpc
import pytest

from tests.support import model_files, server, tiny_model


@pytest.fixture(scope="module")
def manual_tokens():
    text = model_files.manual_text()[20_000:70_000]
    return model_files.encode([text], model_files.model_path())[0]


def test_four_streams_give_what_each_gives_alone(real_server, manual_tokens):
    requests = [
        server.request(manual_tokens[:150], 48),
        server.request(manual_tokens[2000:2450], 40),
        server.request(manual_tokens[3000:4000], 32, temperature=0.8),
        server.request(manual_tokens[4000:6100], 24, temperature=1.0),
    ]
    for number, request in enumerate(requests):
        request.sampling.seed = number
        request.stopping.ignore_eos = True
    alone = [server.generate(real_server, request) for request in requests]
    for request, result in zip(requests, alone):
        assert result.status == grpc.StatusCode.OK, result.details
        assert len(result.token_ids) == request.stopping.max_tokens and result.reason == "length"
    together = server.generate_together(real_server, requests)
    for number, (one, other) in enumerate(zip(alone, together)):
        assert one.token_ids == other.token_ids, f"stream {number} differs beside others"
        assert one.text == other.text
    real_server.wait_idle()


def test_seeds_matter(real_server, manual_tokens):
    """So that equal tokens above are no accident of a sampler that ignores its draw."""
    results = []
    for seed in (1, 2):
        request = server.request(manual_tokens[3000:3300], 24, temperature=1.0)
        request.sampling.seed = seed
        results.append(server.generate(real_server, request).token_ids)
    assert results[0] != results[1]


def test_cancelled_prefill_frees_its_pages_within_a_step(real_server, manual_tokens):
    real_server.wait_idle()
    request = server.request((manual_tokens * 2)[:12_000], 8)
    request.response.prefill_progress = True
    call = real_server.stub.Generate(request, timeout=300)
    try:
        # The first chunk is through, and the metrics have seen it before the second is.
        processed = [next(call).prefill_progress.processed_tokens for _ in range(3)]
        running = real_server.metrics()
    finally:
        call.cancel()
    assert 0 <= processed[0] < processed[-1] < 12_000
    assert running['nsa:kv_pages{state="active"}'] > 0
    real_server.wait_idle(timeout=60)
    after = real_server.metrics()
    chunks = "nsa:prefill_chunk_seconds_count"
    steps = after[chunks] - running[chunks]
    # The step that ran when the cancel came, and one that may have begun while it was on its way.
    assert steps <= 2, f"{steps} chunks of the cancelled prompt were still computed"
    assert after['nsa:kv_pages{state="active"}'] == 0
    key = 'vllm:request_success_total{finished_reason="abort"}'
    assert after[key] == running.get(key, 0) + 1


def test_deadline_ends_a_prefill(real_server, manual_tokens):
    began = time.monotonic()
    request = server.request((manual_tokens * 2)[:12_000], 8)
    result = server.generate(real_server, request, timeout=0.5)
    assert result.status == grpc.StatusCode.DEADLINE_EXCEEDED
    real_server.wait_idle(timeout=20)
    assert time.monotonic() - began < 20


def test_a_cancel_beside_a_stream_leaves_it_as_it_is(real_server, manual_tokens):
    request = server.request(manual_tokens[500:900], 60)
    request.stopping.ignore_eos = True
    alone = server.generate(real_server, request)
    other = real_server.stub.Generate(server.request(manual_tokens[5000:8000], 200), timeout=300)
    canceller = threading.Timer(0.4, other.cancel)
    canceller.start()
    beside = server.generate(real_server, request)
    canceller.join()
    assert beside.token_ids == alone.token_ids
    real_server.wait_idle()


def test_a_long_prompt_never_stops_another_stream(real_server, manual_tokens):
    """Between two chunks of the long prompt the running stream gets its token."""
    stream = server.request(manual_tokens[:100], 400)
    stream.stopping.ignore_eos = True
    running = real_server.stub.Generate(stream, timeout=300)
    times = []

    def read() -> None:
        server.collect(running, lambda tokens: times.extend([time.monotonic()] * len(tokens)))

    reader = threading.Thread(target=read)
    reader.start()
    while len(times) < 3:
        time.sleep(0.01)
    long = server.request(manual_tokens[1000:5000], 1)
    long.response.prefill_progress = True
    chunks = []
    for message in real_server.stub.Generate(long, timeout=300):
        if message.WhichOneof("event") == "prefill_progress":
            chunks.append(time.monotonic())
    during = [t for t in times if chunks[0] <= t <= chunks[-1]]
    running.cancel()
    reader.join()
    real_server.wait_idle()
    assert len(chunks) >= 7
    assert len(during) >= len(chunks) - 3, f"{len(during)} tokens beside {len(chunks)} chunks"


def test_nan_logits_fail_their_request_alone(tmp_path):
    model = tiny_model.write(tmp_path / "nan.gguf", nan_token=100)
    with server.running(model, max_context=4096) as running:
        good = server.request([5, 6, 7, 8] * 30, 300)
        good.stopping.ignore_eos = True
        alone = server.generate(running, good)
        assert len(alone.token_ids) == 300, alone.details
        bad = server.request([5, 6, 100, 8], 10)
        results = server.generate_together(running, [good, bad, good, bad])
        for result in results[0::2]:
            assert result.token_ids == alone.token_ids
        for result in results[1::2]:
            assert result.status == grpc.StatusCode.INTERNAL
            assert "NaN" in result.details or "nan" in result.details
        running.wait_idle()
        assert server.generate(running, good).token_ids == alone.token_ids


def one_of_many(running, generator: random.Random) -> server.Result:
    """A request with a fate of its own: to its end, cancelled, late, stopped, or refused."""
    prompt = [generator.randrange(3, 261) for _ in range(generator.choice([1, 63, 64, 65, 700]))]
    request = server.request(prompt, generator.randrange(1, 120), temperature=1.0)
    fate = generator.choice(["end", "cancel", "deadline", "stop", "abort", "refused"])
    if fate == "stop":
        request.stopping.stop.append("the")
    if fate == "refused":
        request.sampling.top_p = 7.0
    if fate == "abort":
        request.request_id = f"abort-{generator.random()}"
    call = running.stub.Generate(request, timeout=0.02 if fate == "deadline" else 60)
    timer = threading.Timer(generator.random() * 0.1, lambda: None)
    if fate == "cancel":
        timer = threading.Timer(generator.random() * 0.1, call.cancel)
    if fate == "abort":
        abort = server.pb().AbortRequest(request_id=request.request_id)
        timer = threading.Timer(generator.random() * 0.1, lambda: running.stub.Abort(abort))
    timer.start()
    result = server.collect(call)
    timer.join()
    if result.status == grpc.StatusCode.OK:
        assert result.num_finished == 1, "a stream that ended well has one terminal message"
    if fate == "refused":
        assert result.status == grpc.StatusCode.INVALID_ARGUMENT
    return result


def test_pages_come_back_after_any_mix(tiny_server):
    before = tiny_server.metrics()
    statuses, failures = [], []

    def worker(seed: int) -> None:
        generator = random.Random(seed)
        try:
            for _ in range(25):
                statuses.append(one_of_many(tiny_server, generator).status)
        except Exception as error:  # reported by the thread that asserts
            failures.append(error)

    threads = [threading.Thread(target=worker, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert len(statuses) == 200
    assert statuses.count(grpc.StatusCode.OK) > 20
    tiny_server.wait_idle()
    after = tiny_server.metrics()
    assert after['nsa:kv_pages{state="active"}'] == 0
    assert after["vllm:kv_cache_usage_perc"] == 0
    ended = [
        after[key] - before.get(key, 0)
        for key in after
        if key.startswith("vllm:request_success_total")
    ]
    # Refused ones never ran, late ones may not have been accepted; every other is counted once.
    refused = statuses.count(grpc.StatusCode.INVALID_ARGUMENT)
    assert statuses.count(grpc.StatusCode.OK) <= sum(ended) <= 200 - refused
