"""docs/security.md: what it names is there, its numbers are the code's, and its commands work."""

import re
import subprocess

import grpc
import pytest

from tests.support import model_files, server

ROOT = model_files.ROOT
GUIDE = (ROOT / "docs/security.md").read_text(encoding="utf-8")


def test_flags_are_known():
    known = "".join((ROOT / name).read_text() for name in ("server/flags.cc", "client/channel.cc"))
    flags = set(re.findall(r"--([a-z]\w+)", GUIDE))
    assert len(flags) > 15
    assert [flag for flag in flags - {"help"} if f", {flag}," not in known] == []


def test_files_that_it_names_are_there():
    names = set(re.findall(r"`((?:deploy|docs)/[\w./*-]+)`", GUIDE))
    assert len(names) >= 3
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(("said", "file", "written"), [
    ("(64 MiB)", "server/flags.cc", "max_message_bytes, 64 << 20"),
    ("tokenized | 256; grammars 32", "server/intake.cc",
     r"kMaxQueuedPrompts = 256;[\s\S]*kMaxQueuedGrammars = 32;"),
    ("stop strings, biases, choices, bad words | 16, 1,024, 128, 128", "server/convert.cc",
     r"kMaxStops = 16;[\s\S]*kMaxBadWords = 128;[\s\S]*kMaxBiases = 1024;\n.*kMaxChoices = 128;"),
    ("slow reader | 64", "server/call_sink.h", "kMaxOutbox = 64;"),
    ("65,536 wait", "server/tracing/trace_file.h", "max_queued_spans = 1 << 16;"),
    ("runs as user 10001", "Dockerfile", "USER 10001"),
    ("drop all capabilities", "deploy/k8s/base/deployment.yaml", r"capabilities:\s+drop: \[ALL\]"),
    ("both files are looked at each second", "server/security/credentials.cc", "kRefreshSeconds = 1;"),
])  # fmt: skip
def test_its_numbers_are_the_codes(said, file, written):
    assert said in " ".join(GUIDE.split()) or said in GUIDE
    assert re.search(written, (ROOT / file).read_text()), f"{file} says otherwise than '{said}'"


def test_its_commands_make_keys_that_work(tiny_path, tmp_path):
    ((making, naming),) = re.findall(r"^    (head -c .*)\n    (printf .*)$", GUIDE, re.MULTILINE)
    subprocess.run(["sh", "-ec", f"{making}\n{naming}"], cwd=tmp_path, check=True, timeout=60)
    key = (tmp_path / "key").read_text()
    assert len(key) == 44 and key not in (tmp_path / "keys").read_text()
    with server.running(tiny_path, max_context=2048, api_keys_file=tmp_path / "keys") as running:
        message = server.request("x", 1)
        allowed = (("authorization", f"Bearer {key}"),)
        assert server.collect(running.stub.Generate(message, metadata=allowed, timeout=60)).finished
        refused = server.collect(running.stub.Generate(message, timeout=60))
        assert refused.status == grpc.StatusCode.UNAUTHENTICATED
