"""Completions of a given form."""

import json
import re

import grpc
import pytest

from tests.support import server

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


def ask(running, fill, max_tokens=120, temperature=1.0, prompt="Answer: ", **sampling):
    message = server.request(prompt, max_tokens, temperature=temperature)
    message.sampling.seed = 11
    for name, value in sampling.items():
        setattr(message.sampling, name, value)
    fill(message.structured_output)
    return server.generate(running, message)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_json_schema(real_server, temperature):
    result = ask(real_server, lambda s: setattr(s, "json_schema", json.dumps(SCHEMA)), 200, temperature)
    assert result.status == grpc.StatusCode.OK, result.details
    assert result.reason == "stop", result.text
    value = json.loads(result.text)
    assert isinstance(value["name"], str) and isinstance(value["age"], int)


def test_regex_choice_and_grammar(real_server):
    result = ask(real_server, lambda s: setattr(s, "regex", r"[0-9]{4}-[0-9]{2}-[0-9]{2}"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", result.text), result.text
    result = ask(real_server, lambda s: s.choice.options.extend(["definitely", "never"]))
    assert result.text in ("definitely", "never")
    result = ask(real_server, lambda s: setattr(s, "grammar", 'root ::= "x" ("=" [0-9]){2,3} "!"'))
    assert re.fullmatch(r"x(=\d){2,3}!", result.text), result.text
    assert result.reason == "stop"


def test_json_object_until_the_limit(real_server):
    result = ask(real_server, lambda s: setattr(s, "json_object", True), 20)
    assert result.status == grpc.StatusCode.OK, result.details
    assert result.text.lstrip().startswith("{")


def test_several_choices_each_keep_to_the_form(real_server):
    message = server.request("Answer: ", 60, temperature=1.5)
    message.sampling.n = 4
    message.structured_output.regex = "[a-f]{3}[0-9]+;"
    texts = {}
    for response in real_server.stub.Generate(message, timeout=120):
        texts.setdefault(response.delta.index, []).append(response.delta.text)
    for text in map("".join, texts.values()):
        assert re.fullmatch("[a-f]{3}[0-9]+;?", text), text
    real_server.wait_idle()


def test_tokenizers_without_such_words(tiny_server):
    """A random model over another vocabulary."""
    result = ask(tiny_server, lambda s: setattr(s, "regex", "(ab|cd){3}"))
    assert result.status == grpc.StatusCode.OK, result.details
    assert re.fullmatch("(ab|cd){3}", result.text), result.text


def test_others_do_not_see_it(real_server):
    plain = server.request("The sky is", 24)
    alone = server.generate(real_server, plain)
    shaped = server.request("The sky is", 24, temperature=1.0)
    shaped.structured_output.json_schema = json.dumps(SCHEMA)
    together = server.generate_together(real_server, [plain, shaped, plain])
    assert together[0].token_ids == together[2].token_ids == alone.token_ids


HOSTILE = {
    "json_schema": [
        "{", "[" * 100_000, '{"type":"nothing"}', '{"$ref":"#"}', '{"type":"array","minItems":100000000}',
        '{"anyOf":[{},' * 150 + "{}" + "]}" * 150,
    ],
    "regex": ["(", "(" * 5000 + ")" * 5000, "(a{1,1000}){1,1000}", "(a|aa)*" * 50 + "b", "a" * 10_000_000],
    "grammar": ["root ::= root root", "nothing", "root ::= missing", 'root ::= "a"{1,1000000000}'],
}  # fmt: skip


@pytest.mark.parametrize("field,text", [(f, t) for f, texts in HOSTILE.items() for t in texts])
def test_hostile_texts_get_a_status_and_harm_nobody(tiny_server, field, text):
    result = ask(tiny_server, lambda s: setattr(s, field, text), 4)
    assert result.status in (
        grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED,
    ), result.details  # fmt: skip
    if result.status != grpc.StatusCode.OK:
        assert "structured_output" in result.details, result.details
    assert server.generate(tiny_server, server.request("the sky", 3)).status == grpc.StatusCode.OK
    tiny_server.wait_idle()
