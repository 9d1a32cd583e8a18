"""Writes api.md from proto/nsa/v1/*.proto: python docs/generate_api.py [--check]. Needs PyPI's grpcio-tools.

What it says is what the protos' comments say. --check compares and changes nothing.
"""

import pathlib
import re
import sys
import tempfile

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent
PROTO = HERE.parent / "proto"
PAGE = HERE / "api.md"
HEAD = """# API reference

Written by `docs/generate_api.py` from `proto/nsa/v1/`; change the comments there. All services are on one port with
`grpc.health.v1.Health` and, unless it is off, server reflection; any other service answers UNIMPLEMENTED.

Metadata that a call may bring: `authorization: Bearer KEY` where the server has keys, `nsa-tenant` (for whom it is, where
it has none), `traceparent` and `tracestate` (W3C Trace Context). Words in brackets are defaults, which hold where a field
is absent.
"""
Field, File = descriptor_pb2.FieldDescriptorProto, descriptor_pb2.FileDescriptorProto
SCALARS = {number: name.removeprefix("TYPE_").lower() for name, number in Field.Type.items()}
# Numbers of fields in descriptor.proto, of which paths to comments are made.
MESSAGES, ENUMS, SERVICES = 4, 5, 6
OF_MESSAGE_FIELDS, OF_MESSAGE_NESTED, OF_MESSAGE_ENUMS = 2, 3, 4
OF_ENUM_VALUES, OF_SERVICE_METHODS = 2, 2


def read(folder: pathlib.Path) -> list[File]:
    """Descriptors with comments, the service's file first."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("nsa/v1/*.proto"))
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    with tempfile.NamedTemporaryFile() as out:
        arguments = ["protoc", f"-I{folder}", f"-I{include}", "--include_source_info"]
        if protoc.main([*arguments, f"--descriptor_set_out={out.name}", *names]) != 0:
            raise RuntimeError("protoc failed")
        files = descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(out.name).read_bytes()).file
    return sorted(files, key=lambda file: not file.service)


def joined(comment: str) -> str:
    return " ".join(comment.split())


def cell(text: str) -> str:
    """Free text in a table; what would look like markup stands as it is. In `code` only a bar would."""
    parts = text.replace("|", r"\|").split("`")
    parts[::2] = (re.sub(r"([<>*])", r"\\\1", part) for part in parts[::2])
    return "`".join(parts)


def anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


class Page:
    def __init__(self, file: File):
        self.file = file
        self.comments = {
            tuple(location.path): (
                joined(location.leading_comments), joined(location.trailing_comments)
            )
            for location in file.source_code_info.location
        }  # fmt: skip
        self.lines: list[str] = []

    def comment(self, *path: int) -> str:
        return " ".join(part for part in self.comments.get(path, ()) if part)

    def link(self, type_name: str) -> str:
        name = type_name.removeprefix(f".{self.file.package}.")
        if name.startswith("."):  # another package's
            return f"`{name[1:]}`"
        return f"[`{name}`](#{anchor(name)})"

    def type_of(self, field: Field) -> str:
        kind = self.link(field.type_name) if field.type_name else f"`{SCALARS[field.type]}`"
        return f"repeated {kind}" if field.label == Field.LABEL_REPEATED else kind

    def add(self, *lines: str) -> None:
        self.lines += lines

    def service(self, service, path: tuple[int, ...]) -> None:
        self.add(f"## Service `{self.file.package}.{service.name}`", "")
        for i, method in enumerate(service.method):
            stream = "stream of " if method.server_streaming else ""
            request, response = self.link(method.input_type), self.link(method.output_type)
            self.add(f"### {method.name}", "", f"{request} → {stream}{response}", "")
            if about := self.comment(*path, OF_SERVICE_METHODS, i):
                self.add(about, "")

    def message(self, message, path: tuple[int, ...], outer: str = "") -> None:
        name = outer + message.name
        self.add(f"### {name}", "")
        if about := self.comment(*path):
            self.add(about, "")
        if message.field:
            self.add("| field | type | meaning |", "| --- | --- | --- |")
            for i, field in enumerate(message.field):
                about = self.comment(*path, OF_MESSAGE_FIELDS, i)
                if field.HasField("oneof_index") and not field.proto3_optional:
                    choice = message.oneof_decl[field.oneof_index].name
                    about = f"One of `{choice}`. {about}".rstrip()
                self.add(f"| `{field.name}` = {field.number} | {self.type_of(field)} | {cell(about)} |")
            self.add("")
        else:
            self.add("No fields.", "")
        for i, nested in enumerate(message.nested_type):
            self.message(nested, (*path, OF_MESSAGE_NESTED, i), f"{name}.")
        for i, nested in enumerate(message.enum_type):
            self.enum(nested, (*path, OF_MESSAGE_ENUMS, i), f"{name}.")

    def enum(self, enum, path: tuple[int, ...], outer: str = "") -> None:
        self.add(f"### {outer}{enum.name}", "")
        if about := self.comment(*path):
            self.add(about, "")
        self.add("| value | meaning |", "| --- | --- |")
        for i, value in enumerate(enum.value):
            about = self.comment(*path, OF_ENUM_VALUES, i)
            self.add(f"| `{value.name}` = {value.number} | {cell(about)} |")
        self.add("")

    def text(self) -> str:
        for i, service in enumerate(self.file.service):
            self.service(service, (SERVICES, i))
        self.add(f"## Messages of `{self.file.name}`", "")
        for i, message in enumerate(self.file.message_type):
            self.message(message, (MESSAGES, i))
        for i, enum in enumerate(self.file.enum_type):
            self.enum(enum, (ENUMS, i))
        return "\n".join(self.lines).rstrip() + "\n"


def page(folder: pathlib.Path = PROTO) -> str:
    return "\n".join([HEAD, *(Page(file).text() for file in read(folder))])


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    text = page()
    if not arguments:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE} is not what the protos say: run docs/generate_api.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
