"""Reads lines of OTLP/JSON with OpenTelemetry's own messages (PyPI opentelemetry-proto)."""

import base64
import collections
import json
import pathlib

from google.protobuf import json_format
from opentelemetry.proto.trace.v1 import trace_pb2

HEX_FIELDS = ("traceId", "spanId", "parentSpanId")


def _with_bytes(value):
    """OTLP writes ids in hexadecimal digits, protobuf's JSON bytes in base64: the one difference."""
    if isinstance(value, list):
        return [_with_bytes(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: base64.b64encode(bytes.fromhex(item)).decode() if key in HEX_FIELDS
        else _with_bytes(item)
        for key, item in value.items()
    }  # fmt: skip


def parse(line: str) -> trace_pb2.TracesData:
    """A line, whose every field must be known and of its type."""
    return json_format.ParseDict(_with_bytes(json.loads(line)), trace_pb2.TracesData())


def value_of(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(item) for item in value.array_value.values]
    return getattr(value, kind)


def attributes(span) -> dict:
    found = {item.key: value_of(item.value) for item in span.attributes}
    assert len(found) == len(span.attributes), "a key twice"
    return found


class Trace:
    """The spans of one request: `root`, and `by_name` all others."""

    def __init__(self, spans):
        ids = {span.span_id for span in spans}
        roots = [span for span in spans if span.parent_span_id not in ids]
        assert len(roots) == 1 and len(ids) == len(spans), spans
        self.root, self.spans = roots[0], list(spans)
        self.by_name = collections.defaultdict(list)
        for span in spans:
            if span is not self.root:
                self.by_name[span.name].append(span)
        self.attributes = attributes(self.root)
        self.id = self.attributes["gen_ai.response.id"]
        self.status = self.attributes["rpc.response.status_code"]

    def check(self) -> None:
        """Ids, parents and times are what they must be."""
        by_id = {span.span_id: span for span in self.spans}
        for span in self.spans:
            assert len(span.trace_id) == 16 and any(span.trace_id)
            assert len(span.span_id) == 8 and any(span.span_id)
            assert span.trace_id == self.root.trace_id
            assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.flags & 1, "what is written is sampled"
            parent = by_id.get(span.parent_span_id)
            if parent is not None:
                assert parent.start_time_unix_nano <= span.start_time_unix_nano, span
                assert span.end_time_unix_nano <= parent.end_time_unix_nano, span


def read(path: pathlib.Path) -> list[Trace]:
    """Of each request, in the order of their ends; checked."""
    by_trace = collections.defaultdict(list)
    for line in path.read_text().splitlines():
        for resource in parse(line).resource_spans:
            names = {item.key: value_of(item.value) for item in resource.resource.attributes}
            assert names["service.name"] == "nsa-serve" and names["service.version"]
            for scope in resource.scope_spans:
                for span in scope.spans:
                    by_trace[span.trace_id, names["service.instance.id"]].append(span)
    traces = [Trace(spans) for spans in by_trace.values()]
    for trace in traces:
        trace.check()
    return traces
