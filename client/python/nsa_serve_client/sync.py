"""The client for threads."""

import time
from collections.abc import Iterable, Iterator
from typing import Unpack

import grpc
from nsa.v1 import inference_pb2 as pb

from nsa_serve_client import connection, errors, events
from nsa_serve_client.requests import Message, Options, Prompt, chat_messages


class Stream(connection.StreamBase, Iterator[events.Event]):
    """A running request's events, of which the last is a Finish (one for each of its n completions).

    The request ends on the server when the stream is closed: at the end of a `with` block, by `close`,
    or when nobody holds it any more, as after a `break` out of `for event in client.stream(…)`.
    """

    def __next__(self) -> events.Event:
        while True:
            try:
                event = events.from_message(next(self._call))
            except StopIteration:
                raise
            except grpc.RpcError as error:
                time.sleep(self._wait_s(errors.from_rpc(error)))
                self._restart()
                continue
            self._begun = True
            if event is not None:
                return event

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class Client(connection.ClientBase):
    """A connection to one server. Timeouts in seconds; None: none. CallError where a call fails."""

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        api_key: str | None = None,
        tls: connection.Tls | None = None,
        tenant: str | None = None,
        retry: connection.Retry = connection.Retry(),
    ):
        headers = connection.metadata(api_key, tenant)
        super().__init__(grpc, address, tls, headers, retry)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def stream(
        self,
        prompt: Prompt,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Stream:
        """Starts a completion of text or token ids."""
        return Stream(*self._generate(prompt, timeout, options))

    def stream_chat(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Stream:
        """Starts the assistant's next turn, through the model's own chat template."""
        return self.stream(chat_messages(messages), timeout=timeout, **options)

    def completions(
        self,
        prompt: Prompt,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> list[events.Completion]:
        """All `n` completions, when they are whole."""
        collector = events.Collector()
        with self.stream(prompt, timeout=timeout, **options) as stream:
            for event in stream:
                collector.add(event)
        return collector.completions()

    def complete(
        self,
        prompt: Prompt,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> events.Completion:
        """The completion (the first of n), when it is whole."""
        return self.completions(prompt, timeout=timeout, **options)[0]

    def chat(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> events.Completion:
        return self.complete(chat_messages(messages), timeout=timeout, **options)

    def _call(self, method, request, timeout: float | None = 60):
        deadline = connection.deadline_after(timeout)
        attempt = 1
        while True:
            try:
                return method(
                    request, timeout=connection.seconds_left(deadline), metadata=self._metadata
                )
            except grpc.RpcError as rpc_error:
                error = errors.from_rpc(rpc_error)
                wait = self._retry.wait_s(error, attempt, deadline)
                if wait is None:
                    raise error from None
            time.sleep(wait)
            attempt += 1

    def tokenize(self, text: str | bytes) -> list[int]:
        text = text.encode() if isinstance(text, str) else text
        return list(self._call(self._stub.Tokenize, pb.TokenizeRequest(text=text)).token_ids)

    def detokenize(self, token_ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        request = pb.DetokenizeRequest(
            token_ids=token_ids, skip_special_tokens=skip_special_tokens
        )
        return self._call(self._stub.Detokenize, request).text

    def model_info(self) -> pb.GetModelInfoResponse:
        return self._call(self._stub.GetModelInfo, pb.GetModelInfoRequest())

    def server_info(self) -> pb.GetServerInfoResponse:
        return self._call(self._stub.GetServerInfo, pb.GetServerInfoRequest())

    def load(self) -> pb.GetLoadResponse:
        return self._call(self._stub.GetLoad, pb.GetLoadRequest())

    def abort(self, request_id: str) -> None:
        self._call(self._stub.Abort, pb.AbortRequest(request_id=request_id))

    def flush_cache(self) -> int:
        """Drops cached prefixes; the number of pages."""
        return self._call(self._stub.FlushCache, pb.FlushCacheRequest()).num_pages_dropped
