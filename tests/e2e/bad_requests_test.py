"""Requests that cannot be served: each a clear status, and the server as before."""

import math
import socket
import time

import grpc
import pytest

from tests.support import model_files, server

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(autouse=True)
def unharmed(tiny_server):
    """After each, a plain request works and no page is held."""
    yield
    result = server.generate(tiny_server, server.request("the sky", 3))
    assert result.status == grpc.StatusCode.OK, result.details
    tiny_server.wait_idle()


def refused(running, message, *words: str, code=INVALID) -> None:
    result = server.generate(running, message)
    assert result.status == code, f"{result.status} {result.details}"
    assert not result.token_ids
    for word in words:
        assert word in result.details, result.details


FLOATS = [
    ("temperature", [-0.1, 100.5, math.nan, math.inf, -math.inf]),
    ("top_p", [0.0, -1.0, 1.01, math.nan, math.inf]),
    ("min_p", [-0.01, 1.01, math.nan]),
    ("presence_penalty", [-2.01, 2.01, math.nan, -math.inf]),
    ("frequency_penalty", [-2.01, 2.01, math.nan, math.inf]),
    ("repetition_penalty", [0.0, -1.0, 10.1, math.nan, math.inf]),
]


@pytest.mark.parametrize("field,value", [(f, v) for f, values in FLOATS for v in values])
def test_sampling_out_of_range(tiny_server, field, value):
    message = server.request("the sky", 4)
    setattr(message.sampling, field, value)
    shown = "nan" if math.isnan(value) else "inf" if math.isinf(value) else f"{value:.4g}"
    refused(tiny_server, message, field, shown, "expected")


def edit_top_k(message):
    message.sampling.top_k = -1


def edit_bias_value(message):
    message.sampling.logit_bias.add(token_id=5, bias=100.5)


def edit_bias_nan(message):
    message.sampling.logit_bias.add(token_id=5, bias=math.nan)


def edit_bias_token(message):
    message.sampling.logit_bias.add(token_id=261, bias=1)


def edit_bias_twice(message):
    message.sampling.logit_bias.add(token_id=5, bias=1)
    message.sampling.logit_bias.add(token_id=5, bias=2)


def edit_allowed(message):
    message.sampling.allowed_token_ids.append(-1)


def edit_max_tokens(message):
    message.stopping.max_tokens = 0


def edit_max_tokens_negative(message):
    message.stopping.max_tokens = -(2**62)


def edit_max_tokens_beyond_context(message):
    message.stopping.max_tokens = 2**62


def edit_min_tokens(message):
    message.stopping.min_tokens = 5


def edit_stop_empty(message):
    message.stopping.stop.append("")


def edit_stop_many(message):
    message.stopping.stop.extend(str(i) for i in range(17))


def edit_stop_long(message):
    message.stopping.stop.append("x" * 1025)


def edit_stop_token(message):
    message.stopping.stop_token_ids.append(2**31 - 1)


def edit_request_id(message):
    message.request_id = "x" * 257


def edit_blocks(message):
    message.attention.num_selected_blocks = -1


def edit_blocks_many(message):
    message.attention.num_selected_blocks = 2**31 - 1


def edit_mode(message):
    message.attention.mode = 17


def edit_bad_words(message):
    message.sampling.bad_words.append("")


FIELDS = [
    (edit_top_k, "top_k"),
    (edit_bias_value, "logit_bias"),
    (edit_bias_nan, "logit_bias"),
    (edit_bias_token, "261"),
    (edit_bias_twice, "logit_bias[1]"),
    (edit_allowed, "allowed_token_ids"),
    (edit_max_tokens, "max_tokens"),
    (edit_max_tokens_negative, "max_tokens"),
    (edit_max_tokens_beyond_context, "max_tokens"),
    (edit_min_tokens, "min_tokens"),
    (edit_stop_empty, "stop"),
    (edit_stop_many, "stop"),
    (edit_stop_long, "stop"),
    (edit_stop_token, "stop_token_ids"),
    (edit_request_id, "request_id"),
    (edit_blocks, "num_selected_blocks"),
    (edit_blocks_many, "num_selected_blocks"),
    (edit_mode, "mode"),
    (edit_bad_words, "bad_words"),
]


@pytest.mark.parametrize("edit,word", FIELDS, ids=[edit.__name__[5:] for edit, _ in FIELDS])
def test_field_out_of_range(tiny_server, edit, word):
    message = server.request("the sky", 4)
    edit(message)
    refused(tiny_server, message, word)


@pytest.mark.parametrize(
    "field,value",
    [(f, v) for f, vs in {"n": (0, 129), "logprobs": (-1, 21), "prompt_logprobs": (-1, 21)}.items() for v in vs],
)
def test_counts_out_of_range(tiny_server, field, value):
    message = server.request("the sky", 4)
    setattr(message.sampling, field, value)
    refused(tiny_server, message, f"sampling.{field} is {value}", "expected")


def test_structured_output_must_say_something(tiny_server):
    message = server.request("the sky", 4)
    message.structured_output.SetInParent()
    refused(tiny_server, message, "structured_output is empty")
    message.structured_output.json_object = True
    message.stopping.ignore_eos = True
    refused(tiny_server, message, "stopping.ignore_eos")


def test_empty_prompts(tiny_server):
    refused(tiny_server, server.request("", 4), "prompt", "empty")
    message = server.request("x", 4)
    message.token_ids.SetInParent()
    refused(tiny_server, message, "prompt", "empty")
    message = server.request("x", 4)
    message.ClearField("prompt")
    refused(tiny_server, message, "prompt")
    message = server.request("x", 4)
    message.chat.SetInParent()
    refused(tiny_server, message, "chat")


@pytest.mark.parametrize("token", [-1, 261, 2**31 - 1, -(2**31)])
def test_token_ids_out_of_range(tiny_server, token):
    refused(tiny_server, server.request([5, token, 6], 4), "token_ids[1]", str(token), "260")


def test_prompts_beyond_the_context(tiny_server):
    refused(tiny_server, server.request([5] * 16384, 1), "16384", "max_context")
    refused(tiny_server, server.request("x " * 20_000, 1), "max_context")
    result = server.generate(tiny_server, server.request([5] * 16383, 1))
    assert result.status == grpc.StatusCode.OK, "one token fewer fits"


def test_prompts_beyond_any_context_are_refused_by_bytes(tiny_server):
    """Before they are tokenized."""
    refused(
        tiny_server, server.request("x" * 2_000_000, 1), "bytes",
        code=grpc.StatusCode.RESOURCE_EXHAUSTED,
    )  # fmt: skip


def test_oversize_message(tiny_path):
    with server.running(tiny_path, max_message_bytes=4096) as running:
        result = server.generate(running, server.request("x" * 5000, 1))
        assert result.status == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert server.generate(running, server.request("x", 1)).status == grpc.StatusCode.OK


@pytest.mark.parametrize(
    "text",
    [b"\xff", b"\xc3", b"abc\xe2\x82", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"a\x00b", b"\xc0\xaf"],
)
def test_invalid_utf8_is_tokenized_byte_by_byte(tiny_server, text):
    """Any bytes are a prompt, and come back as they went in."""
    answer = tiny_server.stub.Tokenize(server.pb().TokenizeRequest(text=text), timeout=30)
    assert answer.count == len(answer.token_ids) > 0
    result = server.generate(tiny_server, server.request(text, 3))
    assert result.status == grpc.StatusCode.OK, result.details
    assert result.finished.usage.prompt_tokens == answer.count


def test_garbage_on_the_port(tiny_server):
    host, port = tiny_server.address.rsplit(":", 1)
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 4096, bytes(range(256)) * 16):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(garbage)


def test_same_request_id_twice(tiny_server):
    long = server.request([5] * 9000, 2000, request_id="one")
    long.stopping.ignore_eos = True
    call = tiny_server.stub.Generate(long, timeout=120)
    next(call)
    refused(
        tiny_server, server.request("x", 1, request_id="one"), "one",
        code=grpc.StatusCode.ALREADY_EXISTS,
    )  # fmt: skip
    assert call.is_active(), "the first one goes on"
    call.cancel()


def test_detokenize_checks_its_ids(tiny_server):
    with pytest.raises(grpc.RpcError) as error:
        tiny_server.stub.Detokenize(server.pb().DetokenizeRequest(token_ids=[5, 999]), timeout=30)
    assert error.value.code() == INVALID and "999" in error.value.details()


def test_full_queue_says_when_to_come_back(tiny_path):
    with server.running(
        tiny_path, max_running_requests=1, max_queued_requests=2, max_context=16384
    ) as running:
        long = server.request([5] * 8000, 8000)
        long.stopping.ignore_eos = True
        calls = [running.stub.Generate(long, timeout=120)]
        next(calls[0])
        calls += [running.stub.Generate(long, timeout=120) for _ in range(8)]
        # Two of the eight may wait; the others are refused at once.
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and sum(call.done() for call in calls) < 6:
            time.sleep(0.02)
        refusals = [call for call in calls if call.done()]
        assert [call.code() for call in refusals] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 6
        for call in refusals:
            assert int(dict(call.trailing_metadata())["retry-after-ms"]) > 0
        rejections = running.metrics()['vllm:admission_rejections_total{reason="queue_full"}']
        assert rejections == 6
        for call in calls:
            call.cancel()
        running.wait_idle()


def test_model_tools_agree(tiny_server, tiny_path):
    """The server's Tokenize is the tokenizer that the oracles compare."""
    text = "the quick brown fox: 123, ünïcode 漢字 🙂\n\n  the end"
    answer = tiny_server.stub.Tokenize(
        server.pb().TokenizeRequest(text=text.encode(), add_special_tokens=False), timeout=30
    )
    assert list(answer.token_ids) == model_files.encode([text], tiny_path, special_tokens=True)[0]
    back = tiny_server.stub.Detokenize(
        server.pb().DetokenizeRequest(token_ids=answer.token_ids), timeout=30
    )
    assert back.text == text
