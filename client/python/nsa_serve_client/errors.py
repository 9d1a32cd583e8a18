"""A call's failure as an exception: one class for each gRPC status that a caller may act on."""

import grpc


class CallError(Exception):
    """A call that did not end well. `code`: gRPC's status; the text is the server's."""

    def __init__(self, code: grpc.StatusCode, details: str, retry_after_s: float | None = None):
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details
        #: What the server told to wait before another try; None: it did not.
        self.retry_after_s = retry_after_s


class InvalidRequestError(CallError):
    """A field is out of range; the text names it, its value and the range."""


class UnauthenticatedError(CallError):
    """The API key or the client's certificate is missing or not known."""


class AlreadyExistsError(CallError):
    """A running request has this request_id."""


class ResourceExhaustedError(CallError):
    """A queue or the server is full, and tries were used up."""


class DeadlineExceededError(CallError):
    """The timeout passed, or the server saw that it would."""


class CallCancelledError(CallError):
    """The call was cancelled: by `close`, or by the server."""


class UnavailableError(CallError):
    """No server answers, or it shuts down."""


_CLASSES = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
}


def from_rpc(error: grpc.RpcError) -> CallError:
    """The exception for what gRPC raised."""
    retry_after_s = None
    for key, value in error.trailing_metadata() or ():
        if key == "retry-after-ms" and str(value).isdigit():
            retry_after_s = int(value) / 1000
    kind = _CLASSES.get(error.code(), CallError)
    return kind(error.code(), error.details() or "", retry_after_s)
