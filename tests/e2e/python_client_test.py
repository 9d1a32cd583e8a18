"""The Python client as its users have it: built as a wheel, installed apart, against a real server."""

import asyncio
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import pytest

from tests.support import model_files, server

ROOT = model_files.ROOT
EXAMPLES = ROOT / "client" / "python" / "examples"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> pathlib.Path:
    """A folder that holds the wheel's content. Built from a copy: setuptools writes beside its sources."""
    root = tmp_path_factory.mktemp("client")
    for name in ("client/python", "proto"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "CMakeLists.txt", root)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", root / "dist",
         root / "client/python"],
        check=True, capture_output=True, timeout=240,
    )  # fmt: skip
    (wheel,) = (root / "dist").glob("nsa_serve_client-*-py3-none-any.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", root / "site", wheel],
        check=True,
        timeout=240,
    )
    return root / "site"


@pytest.fixture(scope="module")
def nsa(installed):
    """The installed package. nsa.v1 is the one that the tests' own stubs are, or its equal."""
    server.stubs()
    sys.path.insert(0, str(installed))
    try:
        import nsa_serve_client

        yield nsa_serve_client
    finally:
        sys.path.remove(str(installed))


@pytest.fixture
def client(nsa, tiny_server):
    with nsa.Client(tiny_server.address) as made:
        yield made


def test_the_wheel_is_typed_and_has_no_more_than_it_needs(installed):
    assert (installed / "nsa_serve_client/py.typed").is_file()
    assert (installed / "nsa/v1/inference_pb2.pyi").is_file()
    assert not (installed / "setup.py").exists()
    names = {path.name for path in (installed / "nsa_serve_client").glob("*.py")}
    sources = (ROOT / "client/python/nsa_serve_client").glob("*.py")
    assert names == {path.name for path in sources}


def test_completion_is_that_of_the_plain_stub(nsa, client, tiny_server):
    wanted = server.generate(tiny_server, server.request("abc", 9))
    got = client.complete("abc", max_tokens=9, temperature=0, token_ids=True)
    assert (got.text, list(got.token_ids)) == (wanted.text, wanted.token_ids)
    assert got.finish.reason == wanted.reason
    assert got.usage.prompt_tokens == wanted.finished.usage.prompt_tokens
    ids = client.tokenize("abc")
    assert client.detokenize(ids) == "abc"
    assert client.complete(b"abc", max_tokens=9, temperature=0).text == wanted.text
    assert isinstance(client.model_info().num_pages, int)
    assert client.load().num_pages_total > 0
    assert client.server_info().healthy
    assert client.flush_cache() >= 0
    client.abort("nobody")


def test_options_reach_the_server(nsa, client):
    ended = client.complete(
        "abc", max_tokens=50, temperature=0, logit_bias={5: 100.0}, allowed_token_ids=[5, 6],
        token_ids=True, ignore_eos=True,
    )  # fmt: skip
    assert set(ended.token_ids) == {5} and ended.finish.reason == "length"
    stopped = client.complete("abc", max_tokens=50, temperature=0, allowed_token_ids=[5, 6],
                              stop_token_ids=[5, 6])  # fmt: skip
    assert stopped.finish.reason == "stop" and stopped.finish.stop_token_id in (5, 6)
    first, second = (
        client.complete("abc", max_tokens=20, seed=7, ignore_eos=True).text for _ in range(2)
    )
    assert first == second
    with pytest.raises(TypeError, match="temprature"):
        client.complete("abc", temprature=1)
    with pytest.raises(ValueError, match="dense"):
        client.complete("abc", attention="dense")


def test_every_field_of_a_request_has_its_option(nsa):
    """A field that the API gains must not be forgotten here."""
    from nsa.v1 import inference_pb2 as pb
    from nsa_serve_client import requests

    def names(message, *others):
        return {field.name for field in message.DESCRIPTOR.fields} - set(others)

    wanted = (
        names(pb.SamplingParams) | names(pb.StoppingParams) | names(pb.ResponseOptions)
        | names(pb.StructuredOutput) | names(pb.AttentionParams, "mode") | {"attention"}
        | names(pb.GenerateRequest, "text", "token_ids", "chat", "sampling", "stopping", "response",
                "attention", "structured_output")
    )  # fmt: skip
    assert set(requests.Options.__annotations__) == wanted | {"traceparent"}


def test_log_probabilities_of_both_kinds(nsa, client, tiny_server):
    options = {"max_tokens": 4, "temperature": 0, "ignore_eos": True, "token_ids": True}
    made = client.completions("abc", n=2, logprobs=2, prompt_logprobs=1, **options)
    assert len(made) == 2 and made[0].prompt_logprobs == made[1].prompt_logprobs
    for completion in made:
        assert [t.token_id for t in completion.logprobs] == list(completion.token_ids)
        for token in completion.logprobs:
            assert token.logprob <= 0 and token.rank == 1, "the best token was taken"
            assert len(token.top) == 2 and token.top[0].token_id == token.token_id
            assert isinstance(token.token, bytes)
    assert len(made[0].prompt_logprobs) == made[0].usage.prompt_tokens - 1
    assert all(len(token.top) == 1 for token in made[0].prompt_logprobs)
    events = list(client.stream("abc", prompt_logprobs=0, **options))
    assert isinstance(events[0], nsa.PromptLogprobs) and events[0].position == 1
    assert not any(e.logprobs for e in events if isinstance(e, nsa.Delta))

    async def run():
        async with nsa.AsyncClient(tiny_server.address) as asynchronous:
            return await asynchronous.complete("abc", logprobs=2, **options)

    assert asyncio.run(run()).logprobs == made[0].logprobs


def test_forms_of_completions(nsa, client):
    made = client.completions("abc", choice=["yes", "no"], n=3, max_tokens=20)
    assert {completion.text for completion in made} <= {"yes", "no"}
    assert client.complete("abc", regex="[ab]{3}", max_tokens=20).text.strip("ab") == ""
    assert client.complete("abc", grammar='root ::= "x" "y"', max_tokens=20).text == "xy"
    schema = '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}'
    assert client.complete("abc", json_schema=schema, max_tokens=200).text.startswith("{")
    with pytest.raises(nsa.InvalidRequestError, match="structured_output"):
        client.complete("abc", regex="(", max_tokens=3)


def test_the_callers_trace_goes_with_the_call(nsa, tiny_path, tmp_path):
    path = tmp_path / "traces.jsonl"
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with server.running(tiny_path, max_context=2048, trace_file=path, trace_ratio=0) as running:
        with nsa.Client(running.address) as traced:
            traced.complete("abc", max_tokens=1, traceparent=f"00-{trace}-00f067aa0ba902b7-01")
            traced.complete("abc", max_tokens=1)
        running.terminate()
        assert running.wait_ended() == 0
    (line,) = path.read_text().splitlines()
    assert trace in line


def test_errors_have_classes_and_the_servers_words(nsa, client):
    with pytest.raises(nsa.InvalidRequestError, match="top_p") as error:
        client.complete("abc", max_tokens=1, top_p=2.0)
    assert error.value.code.name == "INVALID_ARGUMENT"
    with pytest.raises(nsa.DeadlineExceededError):
        client.complete("abc", max_tokens=16000, ignore_eos=True, timeout=0.3)
    began = time.monotonic()
    with nsa.Client("127.0.0.1:1", retry=nsa.Retry(max_attempts=2, first_wait_s=0.1)) as nobody:
        with pytest.raises(nsa.UnavailableError):
            nobody.load()
    assert 0.1 <= time.monotonic() - began < 20


def test_a_break_ends_the_request_on_the_server(nsa, client, tiny_server):
    def first_of(stream):
        for event in stream:
            if isinstance(event, nsa.Delta):
                break

    first_of(client.stream("abc", max_tokens=16000, ignore_eos=True))
    tiny_server.wait_idle()
    with client.stream("abc", max_tokens=16000, ignore_eos=True) as held:
        first_of(held)
        assert client.load().num_running == 1
    tiny_server.wait_idle()
    with pytest.raises(nsa.CallCancelledError):
        next(held)


def test_progress_and_chat(nsa, client, real_server):
    with nsa.Client(real_server.address) as real:
        messages = [{"role": "user", "content": "Say hello. " * 200}]
        events = list(real.stream_chat(messages, max_tokens=4, prefill_progress=True))
        assert isinstance(events[0], nsa.Progress) and isinstance(events[-1], nsa.Finish)
        assert events[0].prompt_tokens == events[-1].usage.prompt_tokens
        assert real.chat(messages, max_tokens=4, temperature=0).text


def test_a_full_server_is_tried_again_as_it_says(nsa, tiny_path):
    flags = {"max_context": 16384, "max_running_requests": 1, "max_queued_requests": 1}
    with server.running(tiny_path, **flags) as running:
        with nsa.Client(running.address, retry=nsa.Retry(max_attempts=1)) as hasty:
            long = {"max_tokens": 16000, "ignore_eos": True}
            first = hasty.stream("a", **long)
            while not isinstance(next(first), nsa.Delta):
                pass
            second = hasty.stream("b", **long)
            while hasty.load().num_waiting == 0:
                time.sleep(0.01)
            with pytest.raises(nsa.ResourceExhaustedError) as error:
                hasty.complete("c", max_tokens=1)
            assert error.value.retry_after_s is not None
        with nsa.Client(running.address, retry=nsa.Retry(longest_wait_s=0.3)) as patient:
            timer = threading.Timer(0.3, lambda: (first.close(), second.close()))
            timer.start()
            assert patient.complete("c", max_tokens=1, timeout=60).usage.generated_tokens == 1
            timer.join()
            with pytest.raises(nsa.CallError):
                patient.complete("d" * 20000, max_tokens=1, timeout=5)


def test_the_same_with_asyncio(nsa, tiny_server, client):
    wanted = client.complete("abc", max_tokens=9, temperature=0)

    async def run():
        async with nsa.AsyncClient(tiny_server.address) as asynchronous:
            got = await asyncio.gather(
                *(asynchronous.complete("abc", max_tokens=9, temperature=0) for _ in range(8))
            )
            assert {completion.text for completion in got} == {wanted.text}
            assert await asynchronous.tokenize("abc") == client.tokenize("abc")
            with pytest.raises(nsa.InvalidRequestError, match="min_p"):
                await asynchronous.complete("abc", min_p=2.0)
            async with asynchronous.stream("abc", max_tokens=16000, ignore_eos=True) as stream:
                async for event in stream:
                    if isinstance(event, nsa.Delta):
                        break
            task = asyncio.create_task(
                asynchronous.complete("abc", max_tokens=16000, ignore_eos=True)
            )
            while (await asynchronous.load()).num_running == 0:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await asynchronous.model_info()).num_pages > 0

    asyncio.run(run())
    tiny_server.wait_idle()


def example(installed, name: str, *arguments: str, text: str = "") -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        input=text, capture_output=True, text=True, timeout=240,
        env=os.environ | {"PYTHONPATH": str(installed), "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_examples(installed, real_server, tmp_path):
    to = f"--server={real_server.address}"
    assert len(example(installed, "chat.py", to, "--max_tokens=5", text="Hello\n\n").strip()) > 0
    document = tmp_path / "document"
    document.write_text("The key is blue. " * 300)
    text = example(installed, "document.py", to, "--max_tokens=4", str(document), "What?", "Which?")
    known = [int(line.split(", ")[1].split()[0]) for line in text.splitlines() if "known" in line]
    assert known[0] == 0 and known[1] > 1000
    lines = example(installed, "many.py", to, "--max_tokens=3", text="one\ntwo\nthree\n")
    assert len(lines.strip().splitlines()) == 3
