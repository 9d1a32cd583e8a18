"""From a prompt and options to nsa.v1's request."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypedDict

from nsa.v1 import inference_pb2 as pb

#: What a chat is made of: role ("system", "user", "assistant" …) and content.
Message = Mapping[Literal["role", "content"], str]


#: Text, token ids, or a chat.
Prompt = str | bytes | Sequence[int] | pb.ChatMessages


class Options(TypedDict, total=False):
    """What a request may ask for beside its prompt. What is absent is the server's to choose; ranges are
    the server's to check (`InvalidRequestError` names the field)."""

    # Sampling
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    allowed_token_ids: Iterable[int]
    bad_words: Iterable[str]
    seed: int
    n: int
    logprobs: int
    prompt_logprobs: int
    # Stopping
    max_tokens: int
    min_tokens: int
    stop: Iterable[str]
    stop_token_ids: Iterable[int]
    ignore_eos: bool
    include_stop_str_in_output: bool
    # The answer
    token_ids: bool
    prefill_progress: bool
    skip_special_tokens: bool
    spaces_between_special_tokens: bool
    # The form of the completion: one of these
    json_schema: str
    json_object: bool
    regex: str
    grammar: str
    choice: Iterable[str]
    # The attention of this request: "nsa" or "full", and its sparse budget in blocks of 64 tokens
    attention: Literal["nsa", "full"]
    num_selected_blocks: int
    # The rest
    request_id: str
    priority: int
    cache_salt: str
    bypass_prefix_cache: bool
    parse_special_tokens: bool
    add_special_tokens: bool
    # The caller's place in a trace (W3C traceparent), which the server's spans then join
    traceparent: str


_SAMPLING = {
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "allowed_token_ids", "bad_words", "seed", "n",
    "logprobs", "prompt_logprobs",
}  # fmt: skip
_STOPPING = {
    "max_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos", "include_stop_str_in_output",
}  # fmt: skip
_RESPONSE = {
    "token_ids", "prefill_progress", "skip_special_tokens", "spaces_between_special_tokens",
}  # fmt: skip
_STRUCTURED = {"json_schema", "json_object", "regex", "grammar"}
_REQUEST = {
    "request_id", "priority", "cache_salt", "bypass_prefix_cache", "parse_special_tokens",
    "add_special_tokens",
}  # fmt: skip
_MODES = {"nsa": pb.ATTENTION_MODE_NSA, "full": pb.ATTENTION_MODE_FULL}


def _set(message, name: str, value) -> None:
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        getattr(message, name).extend(value)
    else:
        setattr(message, name, value)


def _set_option(request: pb.GenerateRequest, name: str, value) -> None:
    if name in _SAMPLING:
        _set(request.sampling, name, value)
    elif name in _STOPPING:
        _set(request.stopping, name, value)
    elif name in _RESPONSE:
        _set(request.response, name, value)
    elif name in _STRUCTURED:
        _set(request.structured_output, name, value)
    elif name in _REQUEST:
        _set(request, name, value)
    elif name == "choice":
        request.structured_output.choice.options.extend(value)
    elif name == "logit_bias":
        for token_id, bias in value.items():
            request.sampling.logit_bias.add(token_id=token_id, bias=bias)
    elif name == "attention":
        if value not in _MODES:
            raise ValueError(f"attention is {value!r}, expected 'nsa' or 'full'")
        request.attention.mode = _MODES[value]
    elif name == "num_selected_blocks":
        request.attention.num_selected_blocks = value
    else:
        raise TypeError(f"no option {name!r}")


def chat_messages(messages: Iterable[Message]) -> pb.ChatMessages:
    chat = pb.ChatMessages()
    for message in messages:
        chat.messages.add(role=message["role"], content=message["content"].encode())
    return chat


def generate_request(prompt: Prompt, options: Mapping[str, object]) -> pb.GenerateRequest:
    """TypeError names an option that does not exist."""
    request = pb.GenerateRequest()
    if isinstance(prompt, pb.ChatMessages):
        request.chat.CopyFrom(prompt)
    elif isinstance(prompt, str):
        request.text = prompt.encode()
    elif isinstance(prompt, bytes):
        request.text = prompt
    else:
        request.token_ids.ids.extend(prompt)
    for name, value in options.items():
        if value is not None:
            _set_option(request, name, value)
    return request
