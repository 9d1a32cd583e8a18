"""What a stream gives, and how its parts join to completions."""

import dataclasses
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
class Delta:
    """More of completion `index`. Whole characters; token ids only with the option token_ids."""

    text: str
    token_ids: tuple[int, ...] = ()
    index: int = 0


@dataclasses.dataclass(frozen=True)
class Finish:
    """The end of completion `index`. For "stop": the token or the string that it stopped at."""

    reason: Literal["stop", "length", "abort"]
    usage: Usage
    request_id: str
    stop_token_id: int | None = None
    stop_string: str | None = None
    index: int = 0


Event = Progress | Delta | Finish


@dataclasses.dataclass(frozen=True)
class Completion:
    """A whole completion."""

    text: str
    token_ids: tuple[int, ...]
    finish: Finish

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


def from_message(message: pb.GenerateResponse) -> Event | None:
    """None for an event that this version does not know."""
    match message.WhichOneof("event"):
        case "prefill_progress":
            progress = message.prefill_progress
            return Progress(progress.processed_tokens, progress.prompt_tokens)
        case "delta":
            delta = message.delta
            return Delta(delta.text, tuple(delta.token_ids), delta.index)
        case "finished":
            return _finish(message.finished)
    return None


class Collector:
    """Joins a stream's events; `completions` after its end, by index."""

    def __init__(self):
        self._texts: dict[int, list[str]] = {}
        self._token_ids: dict[int, list[int]] = {}
        self._ends: dict[int, Finish] = {}

    def add(self, event: Event) -> None:
        if isinstance(event, Delta):
            self._texts.setdefault(event.index, []).append(event.text)
            self._token_ids.setdefault(event.index, []).extend(event.token_ids)
        elif isinstance(event, Finish):
            self._ends[event.index] = event

    def completions(self) -> list[Completion]:
        return [
            Completion(
                "".join(self._texts.get(index, [])), tuple(self._token_ids.get(index, [])), end
            )
            for index, end in sorted(self._ends.items())
        ]
