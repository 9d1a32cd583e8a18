"""Starts nsa_server on free loopback ports and speaks nsa.v1 with it."""

import contextlib
import functools
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import grpc

from tests.support import model_files

START_TIMEOUT_S = 120


@functools.cache
def stubs():
    """(messages, services) of nsa/v1/inference.proto, generated now from the tree's own file."""
    from grpc_tools import protoc

    folder = tempfile.mkdtemp(prefix="nsa-stubs-")
    root = model_files.ROOT / "proto"
    status = protoc.main(
        ["protoc", f"--proto_path={root}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
        + [str(root / "nsa/v1/inference.proto")]
    )
    if status != 0:
        raise RuntimeError("protoc failed")
    sys.path.insert(0, folder)
    from nsa.v1 import inference_pb2, inference_pb2_grpc

    return inference_pb2, inference_pb2_grpc


def pb():
    return stubs()[0]


class Server:
    """One nsa_server process. Flags as keyword arguments."""

    def __init__(self, model: pathlib.Path | None = None, **flags):
        flags = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0"} | flags
        command = [model_files.tool("nsa_server"), f"--model={model or model_files.model_path()}"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_ready(self) -> "Server":
        """Until it says that it is ready. RuntimeError with its words where it ends instead."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            found = re.search(r"^ready on (\S+)$", self.output(), re.MULTILINE)
            if found:
                self.address = found.group(1)
                port = re.search(r"^metrics on port (\d+)$", self.output(), re.MULTILINE)
                gateways = re.search(r"^gateways on (\S+)$", self.output(), re.MULTILINE)
                self.gateway_address = gateways.group(1) if gateways else None
                self.metrics_url = f"http://127.0.0.1:{port.group(1)}/metrics" if port else None
                self.channel = grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS)
                self.stub = stubs()[1].InferenceServiceStub(self.channel)
                return self
            if self.process.poll() is not None:
                self._reader.join(5)
                raise RuntimeError(f"ended with {self.process.returncode}: {self.output()}")
            time.sleep(0.02)
        raise RuntimeError(f"not ready after {START_TIMEOUT_S} s: {self.output()}")

    def wait_ended(self, timeout: float = 60) -> int:
        code = self.process.wait(timeout)
        self._reader.join(5)
        return code

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        if hasattr(self, "channel"):
            self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def metrics(self) -> dict[str, float]:
        """'name{labels without model_name and engine}' → value."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as reply:
            return parse_metrics(reply.read().decode())

    def load(self):
        return self.stub.GetLoad(pb().GetLoadRequest(), timeout=30)

    def wait_idle(self, timeout: float = 30) -> None:
        """Until nothing runs and every page is free. AssertionError where it does not come."""
        deadline = time.monotonic() + timeout
        while True:
            load = self.load()
            idle = load.num_running == 0 and load.num_waiting == 0
            if idle and load.num_pages_free == load.num_pages_total:
                return
            assert time.monotonic() < deadline, f"not idle after {timeout} s: {load}"
            time.sleep(0.01)


CHANNEL_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@contextlib.contextmanager
def running(model: pathlib.Path | None = None, **flags):
    server = Server(model, **flags)
    try:
        yield server.wait_ready()
    finally:
        server.close()


def parse_metrics(text: str) -> dict[str, float]:
    values = {}
    for line in text.splitlines():
        found = re.match(r"^([\w:]+)(?:\{(.*)\})? (\S+)$", line)
        if not found or line.startswith("#"):
            continue
        labels = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found.group(2) or "")
        kept = ",".join(f'{k}="{v}"' for k, v in labels if k not in ("model_name", "engine"))
        values[f"{found.group(1)}{{{kept}}}" if kept else found.group(1)] = float(found.group(3))
    return values


def request(prompt, max_tokens: int, *, temperature: float = 0.0, **fields):
    """A GenerateRequest; `prompt` is text, bytes, or token ids. Further fields by name."""
    message = pb().GenerateRequest(**fields)
    if isinstance(prompt, list):
        message.token_ids.ids.extend(prompt)
    else:
        message.text = prompt.encode() if isinstance(prompt, str) else prompt
    message.sampling.temperature = temperature
    message.stopping.max_tokens = max_tokens
    message.response.token_ids = True
    return message


class Result:
    """What a stream gave until its end."""

    def __init__(self):
        self.token_ids: list[int] = []
        self.text = ""
        self.finished = None
        self.num_finished = 0
        self.status = None
        self.details = ""

    @property
    def reason(self) -> str:
        return self.finished.WhichOneof("reason") if self.finished else ""


def collect(call, on_tokens=lambda token_ids: None) -> Result:
    """Reads a stream to its end, whatever the end is; `on_tokens` sees tokens as they come."""
    result, ended = Result(), set()
    try:
        for message in call:
            event = message.WhichOneof("event")
            if event == "delta":
                assert message.delta.index not in ended, "a delta after the end"
                on_tokens(message.delta.token_ids)
                result.token_ids.extend(message.delta.token_ids)
                result.text += message.delta.text
            elif event == "finished":
                result.finished = message.finished
                result.num_finished += 1
                assert message.finished.index not in ended, "two ends"
                ended.add(message.finished.index)
        result.status = grpc.StatusCode.OK
    except grpc.RpcError as error:
        result.status, result.details = error.code(), error.details()
    return result


def generate(server: Server, message, timeout: float = 300) -> Result:
    return collect(server.stub.Generate(message, timeout=timeout))


def generate_together(server: Server, messages, timeout: float = 300) -> list[Result]:
    """All at the same time, each on a thread of its own."""
    results: list[Result | None] = [None] * len(messages)

    def run(index: int) -> None:
        results[index] = generate(server, messages[index], timeout)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(messages))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
