"""Several completions of one prompt on one stream, and what the model thinks of its tokens."""

import math

import grpc
import pytest

from tests.support import server


def read(running, message):
    """(tokens by index, `finished` by index, logprobs by index, prompt logprobs)."""
    tokens, ends, logprobs, prompt = {}, {}, {}, []
    for response in running.stub.Generate(message, timeout=120):
        event = response.WhichOneof("event")
        if event == "delta":
            delta = response.delta
            assert delta.index not in ends, "a delta behind the end"
            tokens.setdefault(delta.index, []).extend(delta.token_ids)
            logprobs.setdefault(delta.index, []).extend(delta.logprobs)
        elif event == "finished":
            assert response.finished.index not in ends, "two ends"
            ends[response.finished.index] = response.finished
        elif event == "prompt_logprobs":
            assert response.prompt_logprobs.position == len(prompt) + 1
            prompt.extend(response.prompt_logprobs.tokens)
    return tokens, ends, logprobs, prompt


def test_each_choice_has_its_index_and_its_end(real_server):
    message = server.request("The sky is blue because " * 40, 12, temperature=1.0)
    message.sampling.seed = 3
    message.sampling.n = 4
    tokens, ends, _, _ = read(real_server, message)
    assert sorted(ends) == sorted(tokens) == [0, 1, 2, 3]
    assert len({tuple(t) for t in tokens.values()}) == 4, "draws of their own"
    for index, finished in ends.items():
        assert finished.usage.generated_tokens == len(tokens[index])
        assert finished.usage.prompt_tokens == ends[0].usage.prompt_tokens
    message.sampling.n = 1
    alone, _, _, _ = read(real_server, message)
    assert alone[0] == tokens[0]
    real_server.wait_idle()


def test_metrics_count_the_prompt_once(real_server):
    before = real_server.metrics()
    message = server.request("A prompt of its own, which nobody has sent. " * 20, 3)
    message.sampling.n = 5
    _, ends, _, _ = read(real_server, message)
    after = real_server.metrics()

    def gained(name):
        return after[name] - before.get(name, 0)

    assert gained("vllm:prompt_tokens_total") == ends[0].usage.prompt_tokens
    assert gained("vllm:generation_tokens_total") == 15
    real_server.wait_idle()


@pytest.mark.parametrize("num_top", [0, 5])
def test_logprobs(real_server, num_top):
    message = server.request("One, two, three, four, five,", 6)
    message.sampling.logprobs = num_top
    message.sampling.prompt_logprobs = num_top
    tokens, ends, logprobs, prompt = read(real_server, message)
    assert [one.token.token_id for one in logprobs[0]] == tokens[0]
    assert len(prompt) == ends[0].usage.prompt_tokens - 1
    for one in logprobs[0] + prompt:
        assert one.token.logprob <= 0 and math.isfinite(one.token.logprob)
        assert one.token.token
        assert len(one.top) == num_top
        assert sum(math.exp(top.logprob) for top in one.top) <= 1.0001
        if num_top:
            assert (one.rank <= num_top) == (one.token.token_id in [t.token_id for t in one.top])
    assert all(one.rank == 1 for one in logprobs[0]), "greedy"


def test_a_client_that_leaves_takes_all_choices_along(real_server):
    message = server.request("On and on " * 10, 4000, temperature=1.0)
    message.sampling.n = 6
    message.stopping.ignore_eos = True
    call = real_server.stub.Generate(message, timeout=120)
    next(iter(call))
    call.cancel()
    with pytest.raises(grpc.RpcError):
        list(call)
    real_server.wait_idle()
