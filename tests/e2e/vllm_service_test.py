"""VllmEngine on the server's port, asked through the stubs of the gateway's own package."""

import hashlib
import io
import json
import random
import time
import zipfile

import grpc
import pytest
from smg_grpc_proto.generated import common_pb2, vllm_engine_pb2, vllm_engine_pb2_grpc

from tests.e2e.security_test import KEY, bearer, key_line
from tests.support import otlp, server

TIMEOUT_S = 120
PAGE = 64


def stub(channel):
    return vllm_engine_pb2_grpc.VllmEngineStub(channel)


def ask(ids, max_tokens: int, *, stream: bool = True, request_id: str = "", **sampling):
    sampling = {"temperature": 0.0, "max_tokens": max_tokens} | sampling
    return vllm_engine_pb2.GenerateRequest(
        request_id=request_id,
        stream=stream,
        tokenized=vllm_engine_pb2.TokenizedInput(input_ids=ids),
        sampling_params=vllm_engine_pb2.SamplingParams(**sampling),
    )


def read(call) -> dict[int, tuple[list[int], object]]:
    """index → (token ids, complete)."""
    ids, ended = {}, {}
    for message in call:
        if message.HasField("chunk"):
            chunk = message.chunk
            assert chunk.index not in ended and chunk.completion_tokens == len(chunk.token_ids)
            ids.setdefault(chunk.index, []).extend(chunk.token_ids)
        else:
            assert message.complete.index not in ended
            ended[message.complete.index] = message.complete
    return {index: (ids.get(index, list(done.output_ids)), done) for index, done in ended.items()}


def generate(running, request):
    return read(stub(running.channel).Generate(request, timeout=TIMEOUT_S))


def refusal(running, request) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as error:
        generate(running, request)
    return error.value


def tokens_of(running, text: str) -> list[int]:
    request = server.pb().TokenizeRequest(text=text.encode())
    return list(running.stub.Tokenize(request, timeout=TIMEOUT_S).token_ids)


def test_tokens_are_those_of_nsa_v1(real_server):
    prompt = tokens_of(real_server, "Rivers that end in a desert: the Okavango, the")
    expected = server.generate(real_server, server.request(prompt, 24))
    for stream in (True, False):
        ((ids, done),) = generate(real_server, ask(prompt, 24, stream=stream)).values()
        assert ids == expected.token_ids
        assert (done.finish_reason, done.completion_tokens) == ("length", 24)
        assert done.prompt_tokens == len(prompt)
    # Text is tokenized as there.
    request = ask([], 24)
    request.text = "Rivers that end in a desert: the Okavango, the"
    assert generate(real_server, request)[0][0] == expected.token_ids


def test_stops_choices_and_logprobs(real_server):
    prompt = tokens_of(real_server, "One, two, three, four, five, six, seven, eight, nine, ten. One,")
    stopped = generate(real_server, ask(prompt, 60, stop=["four"], skip_special_tokens=True))[0][1]
    assert (stopped.finish_reason, stopped.matched_stop_str) == ("stop", "four")
    ids = generate(real_server, ask(prompt, 8))[0][0]
    by_token = generate(real_server, ask(prompt, 60, stop_token_ids=[ids[3]]))[0]
    assert by_token[0] == ids[: ids.index(ids[3]) + 1]
    assert by_token[1].matched_token_id == ids[3]
    for stream in (True, False):
        choices = generate(
            real_server, ask(prompt, 5, stream=stream, n=3, temperature=1.0, seed=-7)
        )
        assert sorted(choices) == [0, 1, 2]
        assert all(len(ids) == 5 for ids, _ in choices.values())
    done = generate(real_server, ask(prompt, 4, stream=False, logprobs=2, prompt_logprobs=1))[0][1]
    assert list(done.output_logprobs.token_ids) == list(done.output_ids) == ids[:4]
    assert [len(top.token_ids) for top in done.output_logprobs.top_logprobs] == [2] * 4
    assert list(done.input_logprobs.token_ids) == prompt
    assert not done.input_logprobs.token_logprobs[0].HasField("value")
    assert all(p.HasField("value") and p.value <= 0 for p in done.input_logprobs.token_logprobs[1:])


def test_spans_name_this_protocols_method(tiny_path, tmp_path):
    path = tmp_path / "traces.jsonl"
    with server.running(tiny_path, trace_file=path) as running:
        generate(running, ask([5, 6, 7], 3, request_id="mine"))
    (trace,) = otlp.read(path)
    assert trace.attributes["rpc.method"] == "vllm.grpc.engine.VllmEngine/Generate"


def test_structured_output(real_server):
    prompt = tokens_of(real_server, "A person as JSON: ")
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    ids, done = generate(real_server, ask(prompt, 60, json_schema=json.dumps(schema)))[0]
    detokenize = server.pb().DetokenizeRequest(token_ids=ids, skip_special_tokens=True)
    text = real_server.stub.Detokenize(detokenize).text
    assert done.finish_reason == "stop" and isinstance(json.loads(text)["age"], int)
    assert refusal(real_server, ask(prompt, 9, regex="(")).code() == grpc.StatusCode.INVALID_ARGUMENT


def test_the_tokenizers_archive_is_whole(real_server):
    chunks = list(stub(real_server.channel).GetTokenizer(common_pb2.GetTokenizerRequest()))
    data = b"".join(chunk.data for chunk in chunks)
    assert [bool(chunk.sha256) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].sha256 == hashlib.sha256(data).hexdigest()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        named = {name: json.loads(archive.read(name)) for name in archive.namelist()}
    assert len(named["tokenizer.json"]["model"]["vocab"]) == 49152
    assert "chat_template" in named["tokenizer_config.json"]
    assert named["generation_config.json"]["eos_token_id"]


def bad_requests():
    """(what is wrong, request, words of the message)."""
    nan = float("nan")
    sampling = [
        ("temperature", -1.0), ("temperature", nan), ("top_p", 1.5), ("top_p", nan), ("min_p", 2.0),
        ("top_k", 2**31), ("frequency_penalty", 9.0), ("presence_penalty", -9.0),
        ("repetition_penalty", 11.0), ("max_tokens", 0), ("max_tokens", 2**32 - 1),
        ("min_tokens", 2**32 - 1), ("stop", [""]), ("stop", ["x" * 1025]), ("stop", ["x"] * 17),
        ("stop_token_ids", [2**32 - 1]), ("n", 129), ("n", 2**32 - 1), ("logprobs", -1),
        ("logprobs", 21), ("prompt_logprobs", -1), ("logit_bias", {-1: 1.0}),
        ("logit_bias", {3: 101.0}), ("logit_bias", {2**31 - 1: 1.0}), ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", -(2**31)), ("json_object", False),
    ]  # fmt: skip
    for field, value in sampling:
        request = ask([1, 2, 3], 8)
        request.sampling_params.MergeFrom(vllm_engine_pb2.SamplingParams(**{field: value}))
        yield field, request, field.removeprefix("json_")
    yield "regex", ask([1], 8, regex="a" * 300_000), "structured_output"
    for ids in ([], [2**32 - 1], [1] * 20_000):
        yield "ids", ask(ids, 8), "prompt"
    yield "id", ask([1], 8, request_id="x" * 257), "request_id"
    rank = ask([1], 8)
    rank.data_parallel_rank = -5
    yield "rank", rank, "data_parallel_rank"


def test_each_field_out_of_range_is_one_status(tiny_server):
    for name, request, word in bad_requests():
        for stream in (True, False):
            request.stream = stream
            error = refusal(tiny_server, request)
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, (name, error)
            assert word.split("_")[0] in error.details(), (name, error.details())
    for set_up in (
        lambda r: r.mm_inputs.SetInParent(),
        lambda r: r.extra_mm_inputs.add(),
        lambda r: r.media_refs.items.add(url="file:///etc/passwd"),
        lambda r: r.kv_transfer_params.SetInParent(),
        lambda r: setattr(r, "kv_transfer_params_json", "{}"),
        lambda r: setattr(r.sampling_params, "structural_tag", "{}"),
    ):
        request = ask([1], 8)
        set_up(request)
        assert refusal(tiny_server, request).code() == grpc.StatusCode.UNIMPLEMENTED
    tiny_server.wait_idle()
    assert generate(tiny_server, ask([1, 2], 3))[0][1].completion_tokens == 3


def test_noise_is_answered(tiny_server):
    noise = random.Random(7)
    methods = vllm_engine_pb2.DESCRIPTOR.services_by_name["VllmEngine"].methods
    for method in methods:
        for size in (1, 7, 300):
            call = tiny_server.channel.unary_stream(f"/vllm.grpc.engine.VllmEngine/{method.name}")
            answer = call(noise.randbytes(size), timeout=5)
            try:
                next(iter(answer), None)  # bytes may be a message, if only of unknown fields
            except grpc.RpcError as error:
                assert error.code() != grpc.StatusCode.UNKNOWN
            answer.cancel()
    tiny_server.wait_idle()


def test_abort_with_the_call_open_and_cancel_without_abort(real_server):
    vllm = stub(real_server.channel)
    for stream in (True, False):
        call = vllm.Generate(ask([5] * 300, 4000, stream=stream, request_id="a", ignore_eos=True))
        while not real_server.load().num_running:
            time.sleep(0.01)
        for _ in range(2):
            vllm.Abort(vllm_engine_pb2.AbortRequest(request_ids=["none", "a"]), timeout=TIMEOUT_S)
        assert read(call)[0][1].finish_reason == "abort"
        real_server.wait_idle()
        call = vllm.Generate(ask([5] * 300, 4000, stream=stream, request_id="a", ignore_eos=True))
        while not real_server.load().num_running:
            time.sleep(0.01)
        call.cancel()
        real_server.wait_idle()


class Subscriber:
    """Who follows the cache's events, as a gateway does."""

    def __init__(self, running):
        self.call = stub(running.channel).SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest())
        begin = time.monotonic()
        self.call.initial_metadata()
        self.waited_s = time.monotonic() - begin
        self.blocks: dict[int, tuple[int | None, list[int]]] = {}  # hash → (parent, tokens)
        self.last = 0

    def read_until(self, condition) -> None:
        while not condition():
            batch = next(self.call)
            assert batch.sequence_number == self.last + 1
            self.last = batch.sequence_number
            for event in batch.events:
                self.apply(event)

    def apply(self, event) -> None:
        if event.HasField("cleared"):
            self.blocks.clear()
        for block_hash in event.removed.block_hashes:
            del self.blocks[block_hash]
        stored = event.stored
        parent = stored.parent_block_hash if stored.HasField("parent_block_hash") else None
        for block in stored.blocks:
            assert block.block_hash not in self.blocks and block.block_size == PAGE
            assert parent is None or parent in self.blocks
            self.blocks[block.block_hash] = (parent, list(block.token_ids))
            parent = block.block_hash

    def texts(self) -> set[tuple[int, ...]]:
        """Each page with all that stands before it."""

        def whole(block_hash):
            parent, tokens = self.blocks[block_hash]
            return (whole(parent) if parent is not None else []) + tokens

        return {tuple(whole(block_hash)) for block_hash in self.blocks}


def pages_of(ids: list[int]) -> set[tuple[int, ...]]:
    return {tuple(ids[:end]) for end in range(PAGE, len(ids) + 1, PAGE)}


def test_events_say_what_is_cached(tiny_path):
    with server.running(tiny_path, max_context=4096) as running:
        early = Subscriber(running)
        assert early.waited_s < 2, "an idle server makes subscribers wait"
        first, second = [3] * 200, [3] * 130 + [4] * 100
        for prompt in (first, second):
            generate(running, ask(prompt, 2))
        expected = pages_of(first) | pages_of(second)
        early.read_until(lambda: early.texts() == expected)
        late = Subscriber(running)
        late.read_until(lambda: late.last == 1)
        assert late.texts() == expected
        salted = server.request([9] * 200, 2, cache_salt="mine")
        assert server.generate(running, salted).status == grpc.StatusCode.OK
        generate(running, ask([6] * 70, 2))
        late.read_until(lambda: late.texts() == expected | pages_of([6] * 70))
        assert stub(running.channel).FlushCache(common_pb2.FlushCacheRequest()).success
        for subscriber in (early, late):
            subscriber.read_until(lambda subscriber=subscriber: not subscriber.blocks)
        # A stream has no past: who had one must begin anew.
        request = common_pb2.SubscribeKvEventsRequest(start_sequence_number=3)
        with pytest.raises(grpc.RpcError) as error:
            next(stub(running.channel).SubscribeKvEvents(request))
        assert error.value.code() == grpc.StatusCode.OUT_OF_RANGE
        # Nobody's subscription holds up the end.
        begin = time.monotonic()
        running.terminate()
        assert running.wait_ended() == 0
        assert time.monotonic() - begin < 15
        with pytest.raises(grpc.RpcError) as error:
            early.read_until(lambda: False)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE


def test_keys_hold_here_and_not_on_the_gateways_address(tiny_path, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(key_line(KEY))
    flags = {"api_keys_file": keys, "gateway_listen": "127.0.0.1:0", "max_context": 2048}
    with server.running(tiny_path, **flags) as running:
        info = vllm_engine_pb2.GetModelInfoRequest()
        calls = (
            lambda vllm, **m: vllm.GetModelInfo(info, timeout=TIMEOUT_S, **m),
            lambda vllm, **m: list(vllm.Generate(ask([1, 2], 2), timeout=TIMEOUT_S, **m)),
            lambda vllm, **m: next(vllm.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest(), **m)),
            lambda vllm, **m: next(vllm.GetTokenizer(common_pb2.GetTokenizerRequest(), **m)),
        )
        address = running.gateway_address
        with grpc.insecure_channel(address) as channel:
            for call in calls:
                with pytest.raises(grpc.RpcError) as error:
                    call(stub(running.channel))
                assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
                assert call(stub(running.channel), metadata=bearer(KEY))
                assert call(stub(channel))
            with pytest.raises(grpc.RpcError) as error:
                server.stubs()[1].InferenceServiceStub(channel).GetLoad(server.pb().GetLoadRequest())
            assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_gateways_address_that_is_taken_is_said(tiny_path, tiny_server):
    with pytest.raises(RuntimeError, match="--gateway_listen"):
        with server.running(tiny_path, gateway_listen=tiny_server.address):
            pass
    with pytest.raises(RuntimeError, match="ended with 2.*--gateway_listen"):
        with server.running(tiny_path, gateway_listen="nowhere"):
            pass


def test_a_full_queue_is_refused_before_the_first_message(tiny_path):
    with server.running(tiny_path, max_context=4096, max_running_requests=1, max_queued_requests=1) as running:
        vllm = stub(running.channel)
        held = []
        for what in ("num_running", "num_waiting"):
            held.append(vllm.Generate(ask([7] * 100, 3900, ignore_eos=True)))
            deadline = time.monotonic() + TIMEOUT_S
            while not getattr(running.load(), what):
                assert time.monotonic() < deadline, what
                time.sleep(0.01)
        error = refusal(running, ask([8], 2, stream=False))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(error.trailing_metadata())["retry-after-ms"].isdigit()
        for call in held:
            call.cancel()
        running.wait_idle()
