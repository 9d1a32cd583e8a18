"""Mixed load on one server, every answer checked, and the server afterwards as it was before.

Users of many kinds, each on a thread and a channel of its own, draw what they do next from their own seed. What a
greedy request gives in the crowd must be what it gave alone.
"""

import collections
import contextlib
import dataclasses
import pathlib
import random
import threading
import time

import grpc

from tests.support import server, tiny_model

MAX_CONTEXT = 2048
KNOWN_PROMPTS = 6
PAGES = 60  # of memory: 3,840 tokens, about two long requests
FAULTS = (
    "spill_write=0.02,spill_read=0.02,spill_short=0.1,allocation=0.01,"
    "step_slow=0.01,delay_ms=5,preempt=0.01,drop_stream=0.01"
)
# What a refusal under load may be: a full queue, or memory.
BUSY = {grpc.StatusCode.RESOURCE_EXHAUSTED}


def prompt(number: int, size: int) -> list[int]:
    draw = random.Random(number)
    return [3 + draw.randrange(200) for _ in range(size)]


def known(number: int):
    """One of few requests whose greedy answer is known; half of them share their first 512 tokens."""
    ids = prompt(0, 512) + prompt(number, 100) if number % 2 else prompt(number, 150 * (number + 1))
    message = server.request(ids, 60)
    message.stopping.ignore_eos = True
    return message


def answers_alone(model: pathlib.Path) -> list[list[int]]:
    with server.running(model, max_context=MAX_CONTEXT) as running:
        found = [server.generate(running, known(number)).token_ids for number in range(KNOWN_PROMPTS)]
    assert all(len(tokens) == 60 for tokens in found)
    return found


def flags(spill_dir) -> dict:
    """Of a server whose memory and queue are soon full."""
    return {
        "max_context": MAX_CONTEXT,
        "kv_cache_gib": tiny_model.gib(1.2 * PAGES),
        "kv_spill_dir": spill_dir,
        "kv_spill_gib": tiny_model.gib(2 * PAGES),
        "max_queued_requests": 8,
    }


@dataclasses.dataclass
class Resources:
    """Of a server's process."""

    rss_bytes: int
    threads: int
    files: int

    @classmethod
    def of(cls, pid: int) -> "Resources":
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        files = len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
        return cls(int(fields["VmRSS"].split()[0]) * 1024, int(fields["Threads"]), files)


class User:
    """One thread of requests. `outcomes` counts what it did by kind and end; `errors` holds what should not be."""

    def __init__(self, running: server.Server, answers: list[list[int]], seed: int, faulty: bool):
        self.address, self.answers, self.faulty = running.address, answers, faulty
        self.draw = random.Random(seed)
        self.outcomes: collections.Counter = collections.Counter()
        self.errors: list[str] = []
        self._connect()

    def _connect(self) -> None:
        options = [*server.CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(self.address, options=options)
        self.stub = server.stubs()[1].InferenceServiceStub(self.channel)

    def run(self, until: float) -> None:
        kinds = [name for name in dir(self) if name.startswith("ask_")]
        while time.monotonic() < until:
            kind = self.draw.choice(kinds)
            try:
                self.outcomes[kind.removeprefix("ask_"), getattr(self, kind)()] += 1
            except (AssertionError, grpc.RpcError) as error:
                self.errors.append(f"{kind}: {type(error).__name__} {error}")
        self.channel.close()

    def _end(self, result: server.Result, *allowed: grpc.StatusCode, finished: int = 1) -> str:
        """The name of how it ended; AssertionError where it may not end so."""
        if result.status != grpc.StatusCode.OK:
            assert result.status in {*allowed, *BUSY}, f"{result.status}: {result.details}"
            return result.status.name
        assert result.num_finished == finished, f"{result.num_finished} ends"
        return result.reason

    def _random_request(self, max_tokens: int):
        message = server.request(prompt(self.draw.randrange(1 << 30), self.draw.randrange(1, 700)), max_tokens)
        message.sampling.temperature = self.draw.choice([0.0, 1.0])
        message.sampling.seed = self.draw.randrange(1 << 30)
        message.stopping.ignore_eos = True
        return message

    def ask_known(self) -> str:
        number = self.draw.randrange(KNOWN_PROMPTS)
        result = server.collect(self.stub.Generate(known(number), timeout=300))
        end = self._end(result)
        if end == "aborted":
            assert self.faulty, "aborted, and nobody asked for it"
            assert result.token_ids == self.answers[number][: len(result.token_ids)]
        elif result.status == grpc.StatusCode.OK:
            assert result.token_ids == self.answers[number], "another answer than alone"
        return end

    def ask_several(self) -> str:
        message = self._random_request(self.draw.randrange(1, 40))
        message.sampling.n, message.sampling.logprobs = 3, 2
        return self._end(server.collect(self.stub.Generate(message, timeout=300)), finished=3)

    def ask_with_stop(self) -> str:
        message = self._random_request(200)
        message.stopping.stop.extend(["e", "th"])
        return self._end(server.collect(self.stub.Generate(message, timeout=300)))

    def ask_structured(self) -> str:
        message = self._random_request(50)
        message.stopping.ignore_eos = False
        message.structured_output.choice.options.extend(["left", "right", "neither of the two"])
        result = server.collect(self.stub.Generate(message, timeout=300))
        if result.reason == "stop":
            assert result.text in ("left", "right", "neither of the two"), result.text
        return self._end(result)

    def ask_and_cancel(self) -> str:
        call = self.stub.Generate(self._random_request(1000), timeout=300)
        left = self.draw.randrange(30)
        if left == 0:
            call.cancel()

        def read(token_ids) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                call.cancel()

        return self._end(server.collect(call, read), grpc.StatusCode.CANCELLED)

    def ask_and_vanish(self) -> str:
        """The connection breaks, as where a client is killed."""
        call = self.stub.Generate(self._random_request(1000), timeout=300)
        with contextlib.suppress(grpc.RpcError, StopIteration):
            for _ in range(self.draw.randrange(5)):
                next(call)
        self.channel.close()
        self._connect()
        return "gone"

    def ask_and_abort(self) -> str:
        message = self._random_request(1000)
        message.request_id = f"soak-{self.draw.randrange(1 << 60)}"
        call = self.stub.Generate(message, timeout=300)
        abort = server.pb().AbortRequest(request_id=message.request_id)
        asked = False

        def read(token_ids) -> None:
            nonlocal asked
            if not asked:
                self.stub.Abort(abort, timeout=60)
                asked = True

        return self._end(server.collect(call, read), grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED)

    def ask_with_deadline(self) -> str:
        call = self.stub.Generate(self._random_request(1000), timeout=self.draw.choice([0.01, 0.1, 0.5]))
        return self._end(server.collect(call), grpc.StatusCode.DEADLINE_EXCEEDED)

    def ask_slowly(self) -> str:
        slow = lambda token_ids: time.sleep(0.02)  # noqa: E731
        return self._end(server.collect(self.stub.Generate(self._random_request(60), timeout=300), slow))

    def ask_too_much(self) -> str:
        message = server.request(prompt(1, MAX_CONTEXT + self.draw.randrange(1000)), 10)
        result = server.collect(self.stub.Generate(message, timeout=300))
        assert result.status in {grpc.StatusCode.INVALID_ARGUMENT, *BUSY}, f"{result.status}: {result.details}"
        return result.status.name

    def ask_nonsense(self) -> str:
        message = self._random_request(10)
        match self.draw.randrange(4):
            case 0:
                message.sampling.top_p = float("nan")
            case 1:
                message.stopping.stop.append("x" * 100_000)
            case 2:
                message.structured_output.regex = "(" * 5000
            case 3:
                message.token_ids.ids.append(-1)
        result = server.collect(self.stub.Generate(message, timeout=300))
        assert result.status in {grpc.StatusCode.INVALID_ARGUMENT, *BUSY}, f"{result.status}: {result.details}"
        return result.status.name

    def ask_how_it_is(self) -> str:
        self.stub.GetLoad(server.pb().GetLoadRequest(), timeout=60)
        if self.draw.random() < 0.1:
            self.stub.FlushCache(server.pb().FlushCacheRequest(), timeout=60)
        return "OK"


@dataclasses.dataclass
class Report:
    seconds: float
    outcomes: collections.Counter
    errors: list[str]
    before: Resources
    after: Resources

    @property
    def num_requests(self) -> int:
        return sum(self.outcomes.values())

    def __str__(self) -> str:
        kinds = sorted({kind for kind, _ in self.outcomes})
        lines = [f"{self.num_requests} requests in {self.seconds:.0f} s, {len(self.errors)} errors"]
        for kind in kinds:
            ends = {end: count for (of, end), count in sorted(self.outcomes.items()) if of == kind}
            lines.append(f"  {kind}: " + ", ".join(f"{count} {end}" for end, count in ends.items()))
        lines.append(f"  before {self.before}")
        lines.append(f"  after  {self.after}")
        return "\n".join(lines + self.errors[:20])


def drain(running: server.Server) -> None:
    """Until nothing runs and no page is held, cached prefixes dropped."""
    deadline = time.monotonic() + 120
    while True:
        load = running.load()
        if load.num_running == 0 and load.num_waiting == 0:
            break
        assert time.monotonic() < deadline, f"not idle: {load}"
        time.sleep(0.05)
    running.stub.FlushCache(server.pb().FlushCacheRequest(), timeout=60)
    running.wait_idle(60)


def crowd(running, answers, seconds: float, num_users: int, seed: int, faulty: bool) -> list[User]:
    users = [User(running, answers, 1000 * seed + i, faulty) for i in range(num_users)]
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=user.run, args=(until,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 600)
        assert not thread.is_alive(), "a request has no end"
    return users


def soak(running: server.Server, answers, seconds: float, num_users: int = 12, seed: int = 1, faulty=False) -> Report:
    """A fifth of the time warms up: what the server keeps from then on, it must not keep more of."""
    users = crowd(running, answers, seconds / 5, num_users, seed, faulty)
    drain(running)
    before, began = Resources.of(running.process.pid), time.monotonic()
    users += crowd(running, answers, seconds * 4 / 5, num_users, seed + 1, faulty)
    took = time.monotonic() - began
    drain(running)
    after = Resources.of(running.process.pid)
    outcomes, errors = collections.Counter(), []
    for user in users:
        outcomes += user.outcomes
        errors += user.errors
    return Report(took, outcomes, errors, before, after)
