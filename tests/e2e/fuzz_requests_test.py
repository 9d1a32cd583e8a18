"""Every field of every request, seeded: one clear status, in bounded time, and nobody else notices."""

import random
import time

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor

from tests.support import server

CLEAR = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ALREADY_EXISTS,
}
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 3e38, -3e38, float("nan"), float("inf"), float("-inf")]
INTEGERS = [0, 1, -1, 2, 5, 64, 127, 128, 129, 260, 261, 4096, 2**31 - 1, -(2**31)]
WIDE = INTEGERS + [2**63 - 1, -(2**63), 2**32]
TEXTS = [
    "", "a", "the sky", "\x00", "\x01\n", "漢字🙂", "x" * 300, "y" * 70_000, "(a|aa)*" * 30, "[0-9]{1,99999}",
    '{"$ref":"#"}', '{"type":"object"}', "root ::= root", 'root ::= "a"', "[" * 3000, "\\",
]  # fmt: skip


def value_of(random_, field):
    kind = field.type
    if kind in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return random_.choice(FLOATS)
    if kind == FieldDescriptor.TYPE_BOOL:
        return random_.random() < 0.5
    if kind == FieldDescriptor.TYPE_STRING:
        return random_.choice(TEXTS)
    if kind == FieldDescriptor.TYPE_BYTES:
        return random_.choice([t.encode() for t in TEXTS] + [b"\xff\xfe", bytes(range(256))])
    if kind == FieldDescriptor.TYPE_UINT64:
        return random_.choice([0, 1, 2**64 - 1])
    if kind == FieldDescriptor.TYPE_INT64:
        return random_.choice(WIDE)
    if kind == FieldDescriptor.TYPE_ENUM:
        return random_.choice([0, 1, 2, 3, 99, -1])
    return random_.choice(INTEGERS)


def mutate(random_, message, depth=0):
    """Sets one field, somewhere below; a repeated one to many, sometimes to very many."""
    field = random_.choice(message.DESCRIPTOR.fields)
    repeated = field.is_repeated
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        child = getattr(message, field.name)
        for _ in range(random_.choice([1, 2, 200]) if repeated else 1):
            target = child.add() if repeated else child
            if not repeated:
                target.SetInParent()
            mutate(random_, target, depth + 1)
        return
    if not repeated:
        setattr(message, field.name, value_of(random_, field))
        return
    count = random_.choice([1, 2, 16, 129, 5000])
    value = value_of(random_, field)
    same = random_.random() < 0.5
    values = [value if same else value_of(random_, field) for _ in range(count)]
    getattr(message, field.name).extend(values)


def status_of(call):
    try:
        list(call)
        return grpc.StatusCode.OK, ""
    except grpc.RpcError as error:
        return error.code(), error.details()


@pytest.mark.parametrize("seed", range(6))
def test_generate(tiny_server, seed):
    random_ = random.Random(seed)
    expected = server.generate(tiny_server, server.request("the sky", 4)).token_ids
    for round_ in range(150):
        message = server.request("the sky", 4)
        for _ in range(random_.choice([1, 1, 2, 4])):
            mutate(random_, message)
        if message.stopping.max_tokens > 64 and random_.random() < 0.9:
            message.stopping.max_tokens = 64
        if message.sampling.n > 8:
            message.stopping.max_tokens = 2
        began = time.monotonic()
        status, details = status_of(tiny_server.stub.Generate(message, timeout=240))
        assert status in CLEAR, f"seed {seed} round {round_}: {status} {details}"
        assert status == grpc.StatusCode.OK or details
        assert time.monotonic() - began < 120
    assert server.generate(tiny_server, server.request("the sky", 4)).token_ids == expected
    tiny_server.wait_idle()


@pytest.mark.parametrize("method", ["Tokenize", "Detokenize", "Abort", "GetModelInfo", "GetServerInfo", "GetLoad"])
def test_other_calls(tiny_server, method):
    random_ = random.Random(method)
    request = getattr(server.pb(), f"{method}Request")
    for _ in range(60 if request.DESCRIPTOR.fields else 1):
        message = request()
        for _ in range(random_.choice([0, 1, 3]) if request.DESCRIPTOR.fields else 0):
            mutate(random_, message)
        try:
            getattr(tiny_server.stub, method)(message, timeout=60)
        except grpc.RpcError as error:
            assert error.code() in CLEAR, f"{message}: {error.code()} {error.details()}"
    tiny_server.wait_idle()


def test_a_stop_string_of_ten_megabytes(tiny_server):
    message = server.request("the sky", 4)
    message.stopping.stop.append("s" * (10 << 20))
    status, details = status_of(tiny_server.stub.Generate(message, timeout=60))
    assert status == grpc.StatusCode.INVALID_ARGUMENT
    assert "stopping.stop[0] has 10485760 bytes" in details
    assert len(details) < 1000


def test_bytes_that_are_no_message(tiny_server):
    """Not even protobuf: gRPC itself says so, and its callback API says UNIMPLEMENTED."""
    random_ = random.Random(5)
    for _ in range(30):
        garbage = random_.randbytes(random_.choice([1, 10, 1000]))
        call = tiny_server.channel.unary_stream("/nsa.v1.InferenceService/Generate")
        status, _ = status_of(call(garbage, timeout=60))
        assert status in CLEAR | {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED}
    assert server.generate(tiny_server, server.request("the sky", 3)).status == grpc.StatusCode.OK
