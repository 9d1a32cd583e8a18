"""The repository's own files, as git lists them, and how checks report."""

import functools
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
CPP = (".cc", ".h", ".cu", ".cuh")
SOURCES = CPP + (".py", ".sh", ".cmake", ".proto")


@functools.cache
def tracked() -> tuple[str, ...]:
    """Paths relative to the root, of what is committed or staged and still there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return tuple(path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file())


def with_suffix(*suffixes: str) -> list[str]:
    return [path for path in tracked() if path.endswith(suffixes)]


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def expect_none(findings: list[str], rule: str) -> None:
    """Fails with every finding on a line of its own, after the rule that they break."""
    assert not findings, f"{rule}\n  " + "\n  ".join(findings)


def read_head(path: str, size: int) -> bytes:
    with open(ROOT / path, "rb") as file:
        return file.read(size)
