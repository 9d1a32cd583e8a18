"""A prompt that begins as an earlier one costs its own tokens only, and answers the same."""

import time

import grpc
import pytest

from tests.support import model_files, server


@pytest.fixture(scope="module")
def document():
    text = model_files.manual_text()[100_000:130_000]
    return model_files.encode([text], model_files.model_path())[0]


def ask(running, tokens, **fields):
    request = server.request(tokens, 12, temperature=0)
    for name, value in fields.items():
        setattr(request, name, value)
    began = time.monotonic()
    result = server.generate(running, request)
    assert result.status == grpc.StatusCode.OK, result.details
    return result, time.monotonic() - began


def cached(result) -> int:
    return result.finished.usage.cached_tokens


def flush(running) -> int:
    return running.stub.FlushCache(server.pb().FlushCacheRequest(), timeout=60).num_pages_dropped


def test_the_second_question_costs_its_own_tokens(real_server, document):
    flush(real_server)
    before = real_server.metrics()
    first, _ = ask(real_server, document[:3000])
    again, _ = ask(real_server, document[:3000])
    other, _ = ask(real_server, document[:2500] + document[4000:4300])
    assert [cached(result) for result in (first, again, other)] == [0, 2944, 2496]
    assert again.token_ids == first.token_ids
    alone, _ = ask(real_server, document[:2500] + document[4000:4300], bypass_prefix_cache=True)
    assert cached(alone) == 0
    assert other.token_ids == alone.token_ids
    after = real_server.metrics()
    hits, queries = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"
    assert after[hits] - before[hits] == 2944 + 2496
    assert after[queries] - before[queries] == 3000 + 3000 + 2800
    assert after['nsa:kv_pages{state="cached"}'] > 0
    real_server.wait_idle()


def test_a_conversation_goes_on_behind_its_answer(real_server, document):
    flush(real_server)
    first, _ = ask(real_server, document[:1015])
    turn = document[:1015] + list(first.token_ids) + document[5000:5100]
    second, _ = ask(real_server, turn)
    assert cached(second) == 1024  # prompt and answer without its last token: 1,026


def test_salts_and_budgets_do_not_share(real_server, document):
    flush(real_server)
    ask(real_server, document[:1500], cache_salt="a")
    other, _ = ask(real_server, document[:1500], cache_salt="b")
    same, _ = ask(real_server, document[:1500], cache_salt="a")
    assert (cached(other), cached(same)) == (0, 1472)
    request = server.request(document[:1500], 4, temperature=0)
    request.cache_salt = "a"
    request.attention.num_selected_blocks = 4
    assert cached(server.generate(real_server, request)) == 0
    assert cached(server.generate(real_server, request)) == 1472


def test_flush_drops_what_nobody_uses(real_server, document):
    real_server.wait_idle()
    flush(real_server)
    ask(real_server, document[:640])
    assert flush(real_server) == 10  # 640 and 11 tokens
    assert flush(real_server) == 0
    again, _ = ask(real_server, document[:640])
    assert cached(again) == 0


def test_a_pool_full_of_cached_pages_serves_new_prompts(document):
    with server.running(max_context=2048, kv_cache_gib=0.0625) as running:
        pages = running.load().num_pages_total
        for number in range(4):
            result, _ = ask(running, document[number * 1500 : number * 1500 + 1900])
            assert cached(result) == 0
        load = running.load()
        assert (load.num_pages_free, load.num_pages_total) == (pages, pages)


def test_without_the_cache_nothing_is_kept(document):
    with server.running(max_context=2048, prefix_cache="false") as running:
        for _ in range(2):
            result, _ = ask(running, document[:640])
            assert cached(result) == 0
        assert flush(running) == 0
