"""docs/api.md is what the protos say, complete, and its links lead somewhere."""

import re
import shutil
import sys

import pytest

from tests.support import model_files, server

DOCS = model_files.ROOT / "docs"
sys.path.insert(0, str(DOCS))

import generate_api  # noqa: E402

PAGE = (DOCS / "api.md").read_text(encoding="utf-8")


def test_the_file_is_what_the_protos_say():
    assert generate_api.main(["--check"]) == 0


def test_a_stale_file_is_seen(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(generate_api, "PAGE", tmp_path / "api.md")
    assert generate_api.main(["--check"]) == 1
    (tmp_path / "api.md").write_text(PAGE + "more")
    assert generate_api.main(["--check"]) == 1
    assert "generate_api.py" in capsys.readouterr().out


@pytest.mark.parametrize("change", [
    ("string request_id = 1;", "string request_name = 1;"),
    ("// Lower runs first. [0]", "// Higher runs first. [0]"),
    ("rpc Tokenize(", "rpc Tokenise("),
    ("ATTENTION_MODE_FULL = 2;  // reaches", "ATTENTION_MODE_FULL = 2;  // hardly reaches"),
])  # fmt: skip
def test_a_change_of_a_proto_changes_it(tmp_path, change):
    shutil.copytree(model_files.ROOT / "proto", tmp_path / "proto")
    file = tmp_path / "proto/nsa/v1/inference.proto"
    text = file.read_text()
    assert change[0] in text
    file.write_text(text.replace(*change))
    assert generate_api.page(tmp_path / "proto") != PAGE


def test_every_method_message_and_field_is_there():
    def expect(message, outer=""):
        name = outer + message.name
        section = re.search(rf"^### {re.escape(name)}$(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
        assert section, name
        for field in message.fields:
            assert f"| `{field.name}` = {field.number} |" in section[1], f"{name}.{field.name}"
        for nested in message.nested_types:
            expect(nested, f"{name}.")

    file = server.pb().DESCRIPTOR
    for message in file.message_types_by_name.values():
        expect(message)
    for method in file.services_by_name["InferenceService"].methods:
        assert f"### {method.name}\n" in PAGE


def test_links_lead_somewhere():
    anchors = {re.sub(r"[^a-z0-9]", "", title.lower()) for title in re.findall(r"^#+ (.*)$", PAGE, re.M)}
    links = re.findall(r"\]\(#([^)]*)\)", PAGE)
    assert len(links) > 30
    assert set(links) <= anchors
