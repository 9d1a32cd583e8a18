"""The client for asyncio: sync.Client with `await` and `async for`."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Unpack

import grpc
from nsa.v1 import inference_pb2 as pb

from nsa_serve_client import connection, errors, events
from nsa_serve_client.requests import Message, Options, Prompt, chat_messages


class AsyncStream(connection.StreamBase, AsyncIterator[events.Event]):
    """A running request's events, of which the last is a Finish (one for each of its n completions).

    The request ends on the server when the stream is closed: at the end of an `async with` block, by
    `close`, or when nobody holds it any more, as after a `break` out of `async for`.
    """

    async def __anext__(self) -> events.Event:
        while True:
            try:
                message = await self._call.read()
            except grpc.RpcError as error:
                await asyncio.sleep(self._wait_s(errors.from_rpc(error)))
                self._restart()
                continue
            if message is grpc.aio.EOF:
                raise StopAsyncIteration
            self._begun = True
            event = events.from_message(message)
            if event is not None:
                return event

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(self, *_) -> None:
        self.close()


class AsyncClient(connection.ClientBase):
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
        super().__init__(grpc.aio, address, tls, headers, retry)

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_) -> None:
        await self.close()

    def stream(
        self,
        prompt: Prompt,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> AsyncStream:
        """Starts a completion of text or token ids."""
        return AsyncStream(*self._generate(prompt, timeout, options))

    def stream_chat(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> AsyncStream:
        """Starts the assistant's next turn, through the model's own chat template."""
        return self.stream(chat_messages(messages), timeout=timeout, **options)

    async def completions(
        self,
        prompt: Prompt,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> list[events.Completion]:
        """All `n` completions, when they are whole."""
        collector = events.Collector()
        async with self.stream(prompt, timeout=timeout, **options) as stream:
            async for event in stream:
                collector.add(event)
        return collector.completions()

    async def complete(
        self,
        prompt: Prompt,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> events.Completion:
        """The completion (the first of n), when it is whole."""
        return (await self.completions(prompt, timeout=timeout, **options))[0]

    async def chat(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> events.Completion:
        return await self.complete(chat_messages(messages), timeout=timeout, **options)

    async def _call(self, method, request, timeout: float | None = 60):
        deadline = connection.deadline_after(timeout)
        attempt = 1
        while True:
            try:
                return await method(
                    request, timeout=connection.seconds_left(deadline), metadata=self._metadata
                )
            except grpc.RpcError as rpc_error:
                error = errors.from_rpc(rpc_error)
                wait = self._retry.wait_s(error, attempt, deadline)
                if wait is None:
                    raise error from None
            await asyncio.sleep(wait)
            attempt += 1

    async def tokenize(self, text: str | bytes) -> list[int]:
        text = text.encode() if isinstance(text, str) else text
        return list((await self._call(self._stub.Tokenize, pb.TokenizeRequest(text=text))).token_ids)

    async def detokenize(self, token_ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        request = pb.DetokenizeRequest(
            token_ids=token_ids, skip_special_tokens=skip_special_tokens
        )
        return (await self._call(self._stub.Detokenize, request)).text

    async def model_info(self) -> pb.GetModelInfoResponse:
        return await self._call(self._stub.GetModelInfo, pb.GetModelInfoRequest())

    async def server_info(self) -> pb.GetServerInfoResponse:
        return await self._call(self._stub.GetServerInfo, pb.GetServerInfoRequest())

    async def load(self) -> pb.GetLoadResponse:
        return await self._call(self._stub.GetLoad, pb.GetLoadRequest())

    async def abort(self, request_id: str) -> None:
        await self._call(self._stub.Abort, pb.AbortRequest(request_id=request_id))

    async def flush_cache(self) -> int:
        """Drops cached prefixes; the number of pages."""
        reply = await self._call(self._stub.FlushCache, pb.FlushCacheRequest())
        return reply.num_pages_dropped
