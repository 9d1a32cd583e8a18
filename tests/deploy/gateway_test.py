"""SMG for real: the client that users have (PyPI `openai`) → SMG, started by deploy/gateway.sh → two servers with
the default model."""

import concurrent.futures
import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import openai
import pytest

from tests.support import gateway, model_files, server

PAGE = 64
QUESTION = "The three largest islands of the Mediterranean are"
LONG = 3000  # tokens: some ten seconds and more


@pytest.fixture(scope="module")
def fleet():
    with gateway.fleet() as pair:
        yield pair


@pytest.fixture
def client(fleet):
    return fleet[0].client()


def complete(client, prompt: str, max_tokens: int = 8, **options):
    """Of exactly so many tokens, unless a string stops it."""
    settings = {"model": "smol", "temperature": 0, "extra_body": {"ignore_eos": True}} | options
    return client.completions.create(prompt=prompt, max_tokens=max_tokens, **settings)


def document(number: int, num_facts: int = 24) -> str:
    return f"Report {number}. " + " ".join(f"Line {i} says {i * number}." for i in range(num_facts))


def until(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not after {seconds} s: {what}"
        time.sleep(0.05)


def hits(servers) -> list[float]:
    return [one.metrics()["vllm:prefix_cache_hits_total"] for one in servers]


def test_completion_is_the_servers_own(fleet, client):
    """Template, tokenizer, special tokens and text are the same on either way."""
    answer = complete(client, QUESTION, 24)
    request = server.request(QUESTION, 24)
    request.stopping.ignore_eos = True
    own = server.generate(fleet[1][0], request)
    assert answer.choices[0].text == own.text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == own.finished.usage.prompt_tokens
    assert answer.usage.completion_tokens == 24
    assert [model.id for model in client.models.list()] == ["smol"]


def test_chat_is_the_servers_own(fleet, client):
    messages = [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "Which colour has snow? ☃"},
    ]
    answer = client.chat.completions.create(model="smol", messages=messages, max_tokens=30, temperature=0)
    request = server.request("", 30)
    request.ClearField("prompt")
    for message in messages:
        request.chat.messages.add(role=message["role"], content=message["content"].encode())
    own = server.generate(fleet[1][1], request)
    assert answer.choices[0].message.content == own.text
    assert answer.usage.prompt_tokens == own.finished.usage.prompt_tokens
    assert answer.choices[0].finish_reason == ("stop" if own.reason == "stop" else "length")


def test_streams_come_in_parts(client):
    whole = complete(client, QUESTION, 24).choices[0].text
    parts = list(complete(client, QUESTION, 24, stream=True, stream_options={"include_usage": True}))
    texts = [part.choices[0].text for part in parts if part.choices]
    assert "".join(texts) == whole and len([text for text in texts if text]) > 10
    assert parts[-1].usage.completion_tokens == 24
    messages = [{"role": "user", "content": "Count to five."}]
    options = {"model": "smol", "messages": messages, "max_tokens": 20, "temperature": 0}
    chunks = client.chat.completions.create(stream=True, **options)
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == client.chat.completions.create(**options).choices[0].message.content


def test_options_reach_the_model(client):
    stopped = complete(client, "A, B, C, D, E, F, G, H, A, B, C,", 40, stop=["F"]).choices[0]
    assert stopped.finish_reason == "stop" and "F" not in stopped.text and "E" in stopped.text
    choices = complete(client, QUESTION, 6, n=3, temperature=1.0, seed=5).choices
    assert sorted(choice.index for choice in choices) == [0, 1, 2]
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    messages = [{"role": "user", "content": "A person, as JSON."}]
    options = {"model": "smol", "messages": messages, "temperature": 0}
    answer = client.chat.completions.create(max_tokens=60, response_format=form, **options)
    assert isinstance(json.loads(answer.choices[0].message.content)["age"], int)
    logprobs = client.chat.completions.create(max_tokens=3, logprobs=True, top_logprobs=2, **options)
    tokens = logprobs.choices[0].logprobs.content
    assert [len(token.top_logprobs) for token in tokens] == [2, 2, 2]
    with pytest.raises(openai.BadRequestError, match="max_tokens is 100000"):
        complete(client, QUESTION, 100_000)


TEXTS = (
    "", "plain words", "  two  spaces\n\n\tand a tab ", "I'll, we've, he'd; they're!", "1234567 89,0.5",
    "Ünïcödé – “quotes” … 中文字符 かな 한글 العربية 👩‍👩‍👧 e\u0301", "<|im_start|>user\nhi<|im_end|>",
    "def f(x):\n    return x**2  # \u00a0 no-break\u2003em", "a" * 300, "\u1680\u180e\u200b\ufeff",
)  # fmt: skip


def test_the_gateway_tokenizes_as_the_server(fleet):
    """By the tokenizer that GetTokenizer made of a GGUF file."""
    for text in TEXTS:
        body = json.dumps({"model": "smol", "prompt": text}).encode()
        request = urllib.request.Request(
            f"{fleet[0].url}/v1/tokenize", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=gateway.TIMEOUT_S) as reply:
            theirs = json.load(reply)["tokens"]
        ours = fleet[1][0].stub.Tokenize(server.pb().TokenizeRequest(text=text.encode()))
        assert theirs == list(ours.token_ids), text


def test_a_client_that_leaves_costs_nothing_more(fleet, client):
    gone = complete(client, QUESTION, LONG, stream=True)
    for _, _ in zip(range(3), gone, strict=False):
        pass
    gone.close()
    with pytest.raises(openai.APITimeoutError):
        complete(fleet[0].client(timeout=1), QUESTION, LONG)
    for one in fleet[1]:
        one.wait_idle(15)
    ended = [one.metrics()['vllm:request_success_total{finished_reason="abort"}'] for one in fleet[1]]
    assert sum(ended) >= 2


def test_prompts_go_where_their_beginning_is(fleet, client):
    servers = fleet[1]
    before = hits(servers)
    documents = [document(number) for number in range(11, 15)]
    found = 0
    for turn in range(3):
        for text in documents:
            usage = complete(client, f"{text} Question {turn}:", 2).usage
            cached = usage.prompt_tokens_details.cached_tokens
            if turn > 0:
                # All of the document but its last, unfinished page.
                assert cached >= usage.prompt_tokens - 2 * PAGE, (turn, cached, usage)
            found += cached
    after = hits(servers)
    assert sum(after) - sum(before) == found
    assert all(b > a for a, b in zip(before, after, strict=True)), "one replica has them all"


def test_the_gateway_learns_of_pages_by_events_alone(fleet, client):
    """Prompts that went past it: only the servers can have told where they are."""
    for number, one in enumerate(fleet[1]):
        for attempt in range(2):
            text = document(100 + 10 * number + attempt)
            own = server.generate(one, server.request(f"{text} First:", 2))
            time.sleep(0.5)  # for the event's way
            usage = complete(client, f"{text} Second:", 2).usage
            cached = usage.prompt_tokens_details.cached_tokens
            assert cached >= own.finished.usage.prompt_tokens - 2 * PAGE, (number, attempt, usage)


def hold(one):
    """A request past the gateway that takes a place until it is cancelled."""
    request = server.request([9] * 50, LONG)
    request.stopping.ignore_eos = True
    return one.stub.Generate(request)


@pytest.fixture
def slow_steps(monkeypatch):
    """Flags of servers whose steps take their time, and not the processor's."""
    monkeypatch.setenv("NSA_FAULTS", "step_slow=1,delay_ms=40")
    return {"allow_test_faults": "true"}


def test_a_full_queue_is_429(tiny_path, slow_steps):
    limits = {"max_running_requests": 1, "max_queued_requests": 1}
    with gateway.fleet(model=tiny_path, **limits, **slow_steps) as (front, servers):
        client = front.client()
        calls = []
        for one in servers:
            calls.append(hold(one))
            until(lambda one=one: one.load().num_running, 20, "one runs")
            calls.append(hold(one))
            until(lambda one=one: one.load().num_waiting, 20, "one waits")
        with pytest.raises(openai.RateLimitError):
            complete(client, QUESTION)
        with pytest.raises(openai.RateLimitError):
            next(iter(complete(client, QUESTION, stream=True)))
        refused = [one.metrics()['vllm:admission_rejections_total{reason="queue_full"}'] for one in servers]
        assert sum(refused) >= 2
        for call in calls:
            call.cancel()
        # A client that comes back when it is told to is served.
        assert complete(front.client(max_retries=8), QUESTION).usage.completion_tokens == 8


IN_TURN = ("--policy", "round_robin")  # whatever the prompts are


def stream_to_end(client, number: int, on_part) -> str:
    """"done", or the error's kind."""
    try:
        for part in complete(client, f"Story {number}: once", 120, stream=True):
            on_part(part)
        return "done"
    except (openai.APIError, ConnectionError) as error:
        return type(error).__name__


def test_a_killed_replica_takes_its_own_streams_alone(slow_steps):
    with gateway.fleet(*IN_TURN, **slow_steps) as (front, servers):
        client, parts = front.client(), threading.Semaphore(0)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            streams = [
                pool.submit(stream_to_end, client, i, lambda part: parts.release()) for i in range(8)
            ]
            until(lambda: all(one.load().num_running >= 2 for one in servers), 30, "both are at work")
            for _ in range(20):
                parts.acquire()
            running = [one.load().num_running + one.load().num_waiting for one in servers]
            servers[0].process.kill()
            # New ones are answered at once, by the other.
            answers = [complete(client, f"Number {i} is", 4) for i in range(6)]
            assert all(answer.usage.completion_tokens == 4 for answer in answers)
            ended = [stream.result() for stream in streams]
        assert len([e for e in ended if e != "done"]) <= running[0], (ended, running)
        assert ended.count("done") >= running[1], (ended, running)
        assert len(set(ended)) > 1, "none was running there"
        servers[1].wait_idle()


def test_a_frozen_replica_is_left_out_until_it_answers(tiny_path):
    checks = ("--health-check-interval-secs", "1", "--health-check-timeout-secs", "1")
    with gateway.fleet(*IN_TURN, *checks, model=tiny_path) as (front, servers):
        client = front.client(timeout=2)
        frozen = servers[0]
        os.kill(frozen.process.pid, signal.SIGSTOP)
        try:
            begin, in_a_row, failed = time.monotonic(), 0, 0
            while in_a_row < 6:
                assert time.monotonic() < begin + 40, "requests still go there"
                try:
                    complete(client, f"{time.monotonic()} is", 2)
                    in_a_row += 1
                except (openai.APITimeoutError, openai.InternalServerError):
                    in_a_row, failed = 0, failed + 1
        finally:
            os.kill(frozen.process.pid, signal.SIGCONT)
        frozen.wait_idle()  # what waited there was given up
        before = frozen.metrics()['vllm:request_success_total{finished_reason="length"}']

        def comes_back() -> bool:
            complete(client, f"{time.monotonic()} was", 2)
            return frozen.metrics()['vllm:request_success_total{finished_reason="length"}'] > before

        until(comes_back, 40, "it is asked again")


LOCUST = """
from locust import FastHttpUser, task

class Asker(FastHttpUser):
    @task
    def ask(self):
        body = {"model": "smol", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
        with self.client.post("/v1/completions", json=body, catch_response=True) as reply:
            if reply.json()["usage"]["completion_tokens"] != 8:
                reply.failure("not all tokens")
"""


def test_locust_drives_it(fleet, tmp_path):
    script = tmp_path / "locustfile.py"
    script.write_text(LOCUST)
    locust = pathlib.Path(sys.executable).with_name("locust")
    command = [locust, "-f", script, "--headless", "--users", "4", "--spawn-rate", "4", "--run-time", "6s",
               "--stop-timeout", "20s", "--host", fleet[0].url, "--csv", tmp_path / "figures"]  # fmt: skip
    run = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    with open(tmp_path / "figures_stats.csv") as file:
        total = {row["Name"]: row for row in csv.DictReader(file)}["Aggregated"]
    assert int(total["Request Count"]) > 0 and int(total["Failure Count"]) == 0, total
    print(f"locust: {total['Requests/s']} requests/s, median {total['50%']} ms, p99 {total['99%']} ms")


def test_the_script_says_what_is_wrong(tmp_path):
    front = gateway.SCRIPT
    environment = os.environ | {"NSA_CACHE_DIR": str(tmp_path)}

    def said(*arguments) -> tuple[int, str]:
        run = subprocess.run([front, *arguments], capture_output=True, text=True, env=environment, timeout=200)
        return run.returncode, run.stdout + run.stderr

    assert said("--no-such")[0] == 2
    assert "deploy/gateway.sh HOST:PORT" in said("--help")[1]
    code, text = said()
    assert code == 1 and "no server's address" in text
    assert said("--stop")[0] == 0
    code, text = said("127.0.0.1:1", "--", "--no-such-flag")
    assert code == 1 and "did not start" in text


def test_the_image_has_the_same_gateway():
    pinned = (model_files.ROOT / "deploy/image/gateway-requirements.txt").read_text()
    assert "smg==1.13.0" in pinned
    assert "smg-grpc-proto==0.4.28" in pinned
    assert "smg-grpc-proto==0.4.28" in (model_files.ROOT / "tests/requirements.txt").read_text()
