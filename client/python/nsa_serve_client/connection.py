"""What both clients share: connection, TLS, the API key, when to try again."""

import dataclasses
import pathlib
import random
import time
from collections.abc import Callable, Mapping, Sequence

import grpc
from nsa.v1 import inference_pb2_grpc

from nsa_serve_client import errors
from nsa_serve_client.requests import Prompt, generate_request

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
_RETRIED = (errors.ResourceExhaustedError, errors.UnavailableError)


@dataclasses.dataclass(frozen=True)
class Tls:
    """PEM files. `ca` signed the server's certificate; `cert` and `key` are for mutual TLS."""

    ca: str | pathlib.Path
    cert: str | pathlib.Path | None = None
    key: str | pathlib.Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        def read(path):
            return None if path is None else pathlib.Path(path).read_bytes()

        return grpc.ssl_channel_credentials(read(self.ca), read(self.key), read(self.cert))


@dataclasses.dataclass(frozen=True)
class Retry:
    """How often a call that was refused before its first message is made again.

    A full server says when to come back, which is heeded (one that does not say could never serve the
    call); waits for one that does not answer double from `first_wait_s`. A
    quarter is drawn on top, so that clients do not come back together. No wait outlives the timeout.
    """

    max_attempts: int = 5
    first_wait_s: float = 0.2
    longest_wait_s: float = 10.0

    def wait_s(self, error: errors.CallError, attempt: int, deadline: float | None) -> float | None:
        """Seconds to wait after failure number `attempt` (from 1), or None: do not try again."""
        if not isinstance(error, _RETRIED) or attempt >= self.max_attempts:
            return None
        wait = error.retry_after_s
        if wait is None and isinstance(error, errors.ResourceExhaustedError):
            return None  # it can never be served
        if wait is None:
            wait = self.first_wait_s * 2 ** (attempt - 1)
        wait = min(wait, self.longest_wait_s) * random.uniform(1, 1.25)
        if deadline is not None and time.monotonic() + wait >= deadline:
            return None
        return wait


def deadline_after(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def seconds_left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def metadata(api_key: str | None, tenant: str | None) -> Sequence[tuple[str, str]]:
    pairs = []
    if api_key is not None:
        pairs.append(("authorization", f"Bearer {api_key}"))
    if tenant is not None:
        pairs.append(("nsa-tenant", tenant))
    return tuple(pairs)


class ClientBase:
    """A client's channel, made by `module`: grpc or grpc.aio."""

    def __init__(self, module, address: str, tls: Tls | None, headers, retry: Retry):
        if tls:
            self._channel = module.secure_channel(address, tls.credentials(), CHANNEL_OPTIONS)
        else:
            self._channel = module.insecure_channel(address, CHANNEL_OPTIONS)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self._metadata = headers
        self._retry = retry

    def _generate(self, prompt: Prompt, timeout: float | None, options: Mapping[str, object]):
        """What a stream is made of: how to start its call, when to try again, until when."""
        options = dict(options)
        traceparent = options.pop("traceparent", None)
        headers = self._metadata
        if traceparent is not None:
            headers = (*headers, ("traceparent", traceparent))
        request = generate_request(prompt, options)
        deadline = deadline_after(timeout)

        def start():
            return self._stub.Generate(request, timeout=seconds_left(deadline), metadata=headers)

        return start, self._retry, deadline


class StreamBase:
    """A stream's call, which may be made again until its first message has come."""

    def __init__(self, start: Callable[[], grpc.Call], retry: Retry, deadline: float | None):
        self._start, self._retry, self._deadline = start, retry, deadline
        self._attempt = 1
        self._begun = False
        self._call = start()

    def _wait_s(self, error: errors.CallError) -> float:
        """Seconds until the next try. Raises the error where there is none."""
        wait = None
        if not self._begun:
            wait = self._retry.wait_s(error, self._attempt, self._deadline)
        if wait is None:
            raise error from None
        return wait

    def _restart(self) -> None:
        self._attempt += 1
        self._call = self._start()

    def close(self) -> None:
        self._call.cancel()

    def __del__(self) -> None:
        call = getattr(self, "_call", None)
        if call is not None:
            call.cancel()
