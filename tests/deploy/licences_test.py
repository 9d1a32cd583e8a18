"""THIRD_PARTY.md names what the programs link."""

import re
import subprocess

from tests.support import model_files

LIST = (model_files.ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")


def linked() -> list[str]:
    programs = [model_files.tool(name) for name in ("nsa_server", "nsa_client")]
    script = model_files.ROOT / "deploy/image/linked_packages.sh"
    run = subprocess.run([script, *programs], check=True, capture_output=True, text=True)
    return run.stdout.split()


def test_the_list_is_what_is_linked():
    assert re.findall(r"^\| (lib\S+|zlib1g) \|", LIST, re.MULTILINE) == linked()


def test_each_entry_has_a_licence():
    rows = re.findall(r"^\| (?!package|source|---)(.*) \|$", LIST, re.MULTILINE)
    assert len(rows) > 20
    assert [row for row in rows if len([cell for cell in row.split("|") if cell.strip()]) != 3] == []


def test_what_a_build_compiles_in_is_listed():
    third_party = model_files.ROOT / ".deps/sentencepiece/third_party"
    for folder in third_party.iterdir():
        assert not folder.is_dir() or f"third_party/{folder.name} " in LIST, folder.name


def test_the_licence_is_whole():
    text = (model_files.ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
