"""The wire stays what was released: `buf` compares proto/ with the descriptors of the last release.

A release replaces them: `.venv/bin/buf build proto -o proto/released.binpb --exclude-source-info`.
"""

import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.support import model_files

PROTO = model_files.ROOT / "proto"
RELEASED = PROTO / "released.binpb"


def buf(*arguments) -> subprocess.CompletedProcess:
    program = pathlib.Path(sys.executable).with_name("buf")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


def breaking(folder: pathlib.Path) -> str:
    """What `folder` breaks of the last release; empty where nothing is."""
    run = buf("breaking", folder, "--against", RELEASED)
    assert run.returncode in (0, 100), run.stderr
    return run.stdout


def test_nothing_released_is_broken():
    assert breaking(PROTO) == ""


def test_names_follow_the_rules():
    run = buf("lint", PROTO)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("rpc Tokenize(", "rpc Tokenise(", 'RPC "Tokenize"'),
        ("string request_id = 1;", "string request_id = 999;", '"1" with name "request_id"'),
        ("optional int64 max_tokens", "optional int32 max_tokens", 'from "int64" to "int32"'),
        ("ATTENTION_MODE_FULL = 2", "ATTENTION_MODE_FULL = 3", 'enum value "2"'),
    ],
)
def test_breakage_is_found(tmp_path, before, after, found):
    folder = tmp_path / "proto"
    shutil.copytree(PROTO, folder)
    file = folder / "nsa/v1/inference.proto"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    assert found in breaking(folder)


def test_additions_are_no_breakage(tmp_path):
    folder = tmp_path / "proto"
    shutil.copytree(PROTO, folder)
    file = folder / "nsa/v1/inference.proto"
    text = file.read_text()
    file.write_text(text.replace("string request_id = 1;", "string request_id = 1;\n string added = 999;", 1))
    assert breaking(folder) == ""
