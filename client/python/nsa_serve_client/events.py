"""What a stream gives, and how its parts join to completions."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from nsa.v1 import inference_pb2 as pb


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens and seconds of a request. `cached_tokens` of the prompt were found in the prefix cache."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float


@dataclasses.dataclass(frozen=True)
class Progress:
    """How much of the prompt has been read. Only with the option prefill_progress."""

    processed_tokens: int
    prompt_tokens: int


@dataclasses.dataclass(frozen=True)
class TokenLogprob:
    """A token, the bytes that it stands for (they may be part of a character), and the natural logarithm of
    its probability, as the model has it: before penalties, biases, bans and temperature."""

    token_id: int
    token: bytes
    logprob: float


@dataclasses.dataclass(frozen=True)
class TokenLogprobs(TokenLogprob):
    """A token of a text with its rank among all (1: the likeliest), and the likeliest in order."""

    rank: int
    top: tuple[TokenLogprob, ...] = ()


@dataclasses.dataclass(frozen=True)
class Delta:
    """More of completion `index`. Whole characters; token ids only with the option token_ids.

    `logprobs`, with the option of that name, come as tokens do: before the text where that lags behind.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    index: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclasses.dataclass(frozen=True)
class PromptLogprobs:
    """Of consecutive prompt tokens, the first of which is at `position`; all join to those from 1 on.
    Only with the option prompt_logprobs."""

    position: int
    tokens: tuple[TokenLogprobs, ...]


@dataclasses.dataclass(frozen=True)
class Finish:
    """The end of completion `index`. For "stop": the token or the string that it stopped at."""

    reason: Literal["stop", "length", "abort"]
    usage: Usage
    request_id: str
    stop_token_id: int | None = None
    stop_string: str | None = None
    index: int = 0


Event = Progress | PromptLogprobs | Delta | Finish


@dataclasses.dataclass(frozen=True)
class Completion:
    """A whole completion."""

    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    logprobs: tuple[TokenLogprobs, ...] = ()
    #: Of the prompt's tokens but the first; the same for each of n completions.
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()

    @property
    def usage(self) -> Usage:
        return self.finish.usage


_REASONS = {"stop": "stop", "length": "length", "aborted": "abort"}


def _finish(message: pb.Finished) -> Finish:
    cause = message.stop.WhichOneof("cause") if message.HasField("stop") else None
    usage = message.usage
    return Finish(
        reason=_REASONS[message.WhichOneof("reason")],
        usage=Usage(
            usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens,
            usage.queue_seconds, usage.prefill_seconds, usage.decode_seconds,
        ),
        request_id=message.request_id,
        stop_token_id=message.stop.token_id if cause == "token_id" else None,
        stop_string=message.stop.stop_string if cause == "stop_string" else None,
        index=message.index,
    )  # fmt: skip


def _logprobs(messages: Iterable[pb.TokenLogprobs]) -> tuple[TokenLogprobs, ...]:
    return tuple(
        TokenLogprobs(
            m.token.token_id, m.token.token, m.token.logprob, m.rank,
            tuple(TokenLogprob(t.token_id, t.token, t.logprob) for t in m.top),
        )
        for m in messages
    )  # fmt: skip


def from_message(message: pb.GenerateResponse) -> Event | None:
    """None for an event that this version does not know."""
    match message.WhichOneof("event"):
        case "prefill_progress":
            progress = message.prefill_progress
            return Progress(progress.processed_tokens, progress.prompt_tokens)
        case "delta":
            delta = message.delta
            return Delta(
                delta.text, tuple(delta.token_ids), delta.index, _logprobs(delta.logprobs)
            )
        case "prompt_logprobs":
            part = message.prompt_logprobs
            return PromptLogprobs(part.position, _logprobs(part.tokens))
        case "finished":
            return _finish(message.finished)
    return None


class Collector:
    """Joins a stream's events; `completions` after its end, by index."""

    def __init__(self):
        self._texts: dict[int, list[str]] = {}
        self._token_ids: dict[int, list[int]] = {}
        self._logprobs: dict[int, list[TokenLogprobs]] = {}
        self._prompt_logprobs: list[TokenLogprobs] = []
        self._ends: dict[int, Finish] = {}

    def add(self, event: Event) -> None:
        if isinstance(event, Delta):
            self._texts.setdefault(event.index, []).append(event.text)
            self._token_ids.setdefault(event.index, []).extend(event.token_ids)
            self._logprobs.setdefault(event.index, []).extend(event.logprobs)
        elif isinstance(event, PromptLogprobs):
            self._prompt_logprobs.extend(event.tokens)
        elif isinstance(event, Finish):
            self._ends[event.index] = event

    def completions(self) -> list[Completion]:
        return [
            Completion(
                "".join(self._texts.get(index, [])),
                tuple(self._token_ids.get(index, [])),
                end,
                tuple(self._logprobs.get(index, [])),
                tuple(self._prompt_logprobs),
            )
            for index, end in sorted(self._ends.items())
        ]
