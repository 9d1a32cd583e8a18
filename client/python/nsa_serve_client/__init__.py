"""Client of nsa-serve: `Client` for threads, `AsyncClient` for asyncio. Both are safe to share."""

from nsa_serve_client.aio import AsyncClient, AsyncStream
from nsa_serve_client.connection import Retry, Tls
from nsa_serve_client.errors import (
    AlreadyExistsError,
    CallCancelledError,
    CallError,
    DeadlineExceededError,
    InvalidRequestError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from nsa_serve_client.events import (
    Completion,
    Delta,
    Event,
    Finish,
    Progress,
    PromptLogprobs,
    TokenLogprob,
    TokenLogprobs,
    Usage,
)
from nsa_serve_client.requests import Message, Options
from nsa_serve_client.sync import Client, Stream

__all__ = [
    "AlreadyExistsError",
    "AsyncClient",
    "AsyncStream",
    "CallCancelledError",
    "CallError",
    "Client",
    "Completion",
    "DeadlineExceededError",
    "Delta",
    "Event",
    "Finish",
    "InvalidRequestError",
    "Message",
    "Options",
    "Progress",
    "PromptLogprobs",
    "ResourceExhaustedError",
    "Retry",
    "Stream",
    "Tls",
    "TokenLogprob",
    "TokenLogprobs",
    "UnauthenticatedError",
    "UnavailableError",
    "Usage",
]
