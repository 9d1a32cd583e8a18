"""proto/vllm is, field by field, what the gateway's own package has on the wire."""

import pathlib
import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2
from smg_grpc_proto.generated import common_pb2, vllm_engine_pb2

from tests.support import model_files

PROTO = model_files.ROOT / "proto"
FILES = {"vllm/common.proto": common_pb2, "vllm/vllm_engine.proto": vllm_engine_pb2}
# C++ messages have a method `descriptor`.
RENAMED = {("RemoteTensorHandle", "descriptor_bytes"): "descriptor"}


def ours(root: pathlib.Path = PROTO) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    program = pathlib.Path(sys.executable).with_name("buf")
    build = [program, "build", root, "--exclude-source-info", "-o", "-#format=binpb"]
    run = subprocess.run(build, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    files = descriptor_pb2.FileDescriptorSet.FromString(run.stdout).file
    return {file.name: file for file in files if file.name in FILES}


def theirs(name: str) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    FILES[name].DESCRIPTOR.CopyToProto(file)
    return file


def fields(message) -> dict:
    """name → what decides about the wire and about presence."""
    found = {}
    for field in message.field:
        name = RENAMED.get((message.name, field.name), field.name)
        oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
        found[name] = (field.number, field.type, field.label, field.type_name, oneof, field.proto3_optional)
    return found


def messages(parent, prefix: str = "") -> dict:
    """Nested ones as well: maps have their entries so."""
    found = {}
    for message in getattr(parent, "message_type", None) or getattr(parent, "nested_type", []):
        found[prefix + message.name] = (fields(message), [(r.start, r.end) for r in message.reserved_range])
        found |= messages(message, f"{prefix}{message.name}.")
    return found


def shape(file) -> dict:
    return {
        "package": file.package,
        "syntax": file.syntax,
        "messages": messages(file),
        "enums": {e.name: {v.name: v.number for v in e.value} for e in file.enum_type},
        "services": {
            s.name: {
                m.name: (m.input_type, m.output_type, m.client_streaming, m.server_streaming)
                for m in s.method
            }
            for s in file.service
        },
    }


@pytest.mark.parametrize("name", FILES)
def test_every_field_is_theirs(name):
    found, expected = shape(ours()[name]), shape(theirs(name))
    for part in expected:
        if part != "messages":
            assert found[part] == expected[part]
    assert found["messages"].keys() == expected["messages"].keys()
    for message, content in expected["messages"].items():
        assert found["messages"][message] == content, message


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("float top_p = 2;", "float top_p = 29;"),
        ("optional uint32 max_tokens = 8;", "uint32 max_tokens = 8;"),
        ("repeated uint32 output_ids = 1;", "repeated uint64 output_ids = 1;"),
        ("string finish_reason = 2;", "string finish_cause = 2;"),
        ("rpc Abort(AbortRequest)", "rpc Abort(HealthCheckRequest)"),
    ],
)
def test_a_difference_is_seen(tmp_path, before, after):
    root = tmp_path / "proto"
    (root / "vllm").mkdir(parents=True)
    for name in ("buf.yaml", *FILES):
        text = (PROTO / name).read_text()
        (root / name).write_text(text.replace(before, after))
    name = "vllm/vllm_engine.proto"
    assert (root / name).read_text() != (PROTO / name).read_text(), before
    assert shape(ours(root)[name]) != shape(theirs(name))
