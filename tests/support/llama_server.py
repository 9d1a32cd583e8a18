"""llama.cpp's own server as a process, and a load on it: what `nsa_client load` does to nsa_server, by the same rules.

tests/bench/build_llama_server.sh builds the program. Requests are lines of a trace with token_ids (load_plan.py) and go
to /completion, greedy and streamed, over a connection each. In an open loop each leaves at its arrival whatever became
of those before, in a closed one each user asks when answered; a request past its deadline_ms is given up by closing its
connection, which llama-server takes for a cancel.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from tests.support import load_report, model_files

PROGRAM = model_files.ROOT / "build" / "llama.cpp" / "bin" / "llama-server"
START_TIMEOUT_S = 120
PAUSE_AFTER_FAILURE_S = 0.1
# Of the last event; without them it would repeat the prompt's text.
FIELDS = ["stop", "stop_type", "tokens_predicted", "tokens_evaluated", "timings"]
CODES = {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 503: "RESOURCE_EXHAUSTED"}


class Failure(Exception):
    """A request that ended otherwise than completed."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


def body(request: dict) -> bytes:
    """Greedy, so that neither side draws; to the asked length; with what the slot has of the prompt, which is the
    server's choice unless the request names one by id_slot."""
    slot = {"id_slot": request["id_slot"]} if "id_slot" in request else {}
    return json.dumps(
        slot
        | {
            "prompt": request["token_ids"],
            "n_predict": request["output_tokens"],
            "temperature": 0,
            "samplers": ["temperature"],
            "ignore_eos": True,
            "cache_prompt": True,
            "return_tokens": True,
            "stream": True,
            "response_fields": FIELDS,
        },
        separators=(",", ":"),
    ).encode()


async def chunks(reader: asyncio.StreamReader):
    """The pieces of a chunked HTTP body as they come."""
    while line := await reader.readline():
        size = int(line.split(b";")[0], 16)
        if size == 0:
            return
        yield await reader.readexactly(size)
        await reader.readline()
    raise Failure("UNAVAILABLE", "the connection ended within an answer")


async def read_head(reader: asyncio.StreamReader) -> int:
    """An answer's status; leaves its body to be read."""
    line = await reader.readline()
    if not line:
        raise Failure("UNAVAILABLE", "the connection ended without an answer")
    while (await reader.readline()).strip():
        pass
    return int(line.split()[1])


class Load:
    """One run. Records come in the order of the requests' ends."""

    def __init__(self, host: str, port: int):
        self.host, self.port = host, port
        self.records: list[load_report.Record] = []

    def now(self) -> float:
        return time.monotonic() - self.origin

    async def send(self, request: dict, index: int, scheduled_s: float, message: bytes) -> load_report.Record:
        record = load_report.Record(index, scheduled_s, sent_s=self.now())
        deadline_s = request.get("deadline_ms", 0) / 1000
        left = scheduled_s + deadline_s - self.now() if deadline_s else None
        try:
            async with asyncio.timeout(left):
                await self._exchange(record, request, message)
        except TimeoutError:
            record.code, record.message = "DEADLINE_EXCEEDED", "given up"
        except (OSError, asyncio.IncompleteReadError) as error:
            record.code, record.message = "UNAVAILABLE", str(error)
        except Failure as error:
            record.code, record.message = error.code, str(error)
        record.end_s = self.now()
        self.records.append(record)
        return record

    async def _exchange(self, record: load_report.Record, request: dict, message: bytes) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            head = f"POST /completion HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(message)}\r\n\r\n"
            writer.write(head.encode() + message)
            status = await read_head(reader)
            if status != 200:
                text = (await reader.read(2000)).decode(errors="replace")
                raise Failure(CODES.get(status, "INTERNAL"), text)
            rest, last = b"", None
            async for piece in chunks(reader):
                now = self.now()
                *events, rest = (rest + piece).split(b"\n\n")
                for event in events:
                    last = self._take(record, now, event) or last
            self._finish(record, request, last)
        finally:
            writer.close()

    def _take(self, record: load_report.Record, now: float, event: bytes) -> dict | None:
        """Counts the tokens of an event; returns the last event of a request."""
        if not event.startswith(b"data: {"):
            if event.startswith(b"error: "):
                raise Failure("INTERNAL", event.decode(errors="replace"))
            return None
        data = json.loads(event.removeprefix(b"data: "))
        if "error" in data:
            raise Failure("INTERNAL", str(data["error"]))
        if data.get("stop"):
            return data
        if data.get("tokens"):
            record.on_tokens(now, len(data["tokens"]))
        return None

    def _finish(self, record: load_report.Record, request: dict, last: dict | None) -> None:
        if last is None:
            raise Failure("INTERNAL", "the stream ended without its last message")
        if last["tokens_predicted"] != request["output_tokens"]:
            raise Failure("INTERNAL", f"ended after {last['tokens_predicted']} tokens: {last.get('stop_type')}")
        record.prompt_tokens = last["tokens_evaluated"]
        record.cached_tokens = last["timings"]["cache_n"]
        record.output_tokens = last["tokens_predicted"]

    async def open_loop(self, requests: list[dict]) -> None:
        self.origin = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for index, request in enumerate(requests):
                message = body(request)  # made before its time has come, so that making it delays nothing
                await asyncio.sleep(request["arrival_s"] - self.now())
                group.create_task(self.send(request, index, request["arrival_s"], message))

    async def closed_loop(self, requests: list[dict], users: int, seconds: float) -> None:
        self.origin = time.monotonic()
        left = collections.deque(enumerate(requests))

        async def user() -> None:
            while left and self.now() < seconds:
                index, request = left.popleft()
                record = await self.send(request, index, self.now(), body(request))
                if not record.ok:
                    await asyncio.sleep(PAUSE_AFTER_FAILURE_S)

        async with asyncio.TaskGroup() as group:
            for _ in range(users):
                group.create_task(user())


def send(
    address: tuple[str, int], requests: list[dict], concurrency: int = 0, seconds: float = float("inf")
) -> list[load_report.Record]:
    """Sends a trace to the server at (host, port): open loop, or closed with `concurrency` users, where no request
    begins after `seconds`. Returns when all have ended."""
    load = Load(*address)
    asyncio.run(load.closed_loop(requests, concurrency, seconds) if concurrency else load.open_loop(requests))
    return load.records


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class LlamaServer:
    """One llama-server process on a loopback port. `words` are its flags."""

    def __init__(self, model: pathlib.Path, *words: str):
        self.address = ("127.0.0.1", free_port())
        self.log = tempfile.TemporaryFile("w+")
        command = [PROGRAM, "--model", model, "--host", self.address[0], "--port", self.address[1], *words]
        self.process = subprocess.Popen(
            [str(word) for word in command], stdout=self.log, stderr=subprocess.STDOUT, text=True
        )

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def wait_ready(self) -> None:
        """Until it answers. RuntimeError with its words where it ends instead."""
        deadline = time.monotonic() + START_TIMEOUT_S
        url = "http://{}:{}/health".format(*self.address)
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, OSError):
                with urllib.request.urlopen(url, timeout=10) as reply:
                    if reply.status == 200:
                        return
            time.sleep(0.1)
        raise RuntimeError(f"llama-server is not ready ({self.process.poll()}): {self.output()[-3000:]}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()


@contextlib.contextmanager
def running(model: pathlib.Path, *words: str):
    server = LlamaServer(model, *words)
    try:
        server.wait_ready()
        yield server
    finally:
        server.close()
