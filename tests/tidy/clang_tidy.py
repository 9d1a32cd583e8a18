"""Runs clang-tidy over the sources of a build, two at a time, and remembers what was clean.

    .venv/bin/python -m tests.tidy.clang_tidy [PATH-PREFIX...]

A source is looked at again when it, a header of ours that it includes, .clang-tidy, or the tool
changes. Prints a count as its last line; ends with 1 where anything is found.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

from tests.support import model_files
from tests.tidy import files

CLEAN = model_files.build_dir() / "clang-tidy-clean.json"
# Warnings are gcc's to give, in the build; here only checks are errors.
EXTRA = ["--extra-arg=-Wno-unknown-warning-option", "--extra-arg=-Wno-error"]


def tool() -> str:
    beside = pathlib.Path(sys.executable).with_name("clang-tidy")
    return str(beside) if beside.exists() else "clang-tidy"


def dependencies(source: str, known: dict[str, set[str]]) -> set[str]:
    """Our own files that `source` includes, itself too."""
    if source not in known:
        known[source] = {source}
        path = files.ROOT / source
        if path.is_file():
            for name in re.findall(r'#\s*include\s*"([^"]+)"', path.read_text(encoding="utf-8")):
                if (files.ROOT / name).is_file():
                    known[source] |= dependencies(name, known)
    return known[source]


def fingerprint(source: str, version: str, known: dict[str, set[str]]) -> str:
    digest = hashlib.sha256(version.encode())
    for path in sorted(dependencies(source, known) | {".clang-tidy"}):
        digest.update(path.encode() + (files.ROOT / path).read_bytes())
    return digest.hexdigest()


def lint(source: str) -> str:
    """What clang-tidy says of one source; empty where it is clean."""
    run = subprocess.run(
        [tool(), "--quiet", "-p", str(model_files.build_dir()), *EXTRA, str(files.ROOT / source)],
        capture_output=True,
        text=True,
        cwd=files.ROOT,
    )
    return "" if run.returncode == 0 else run.stdout + run.stderr


def main(prefixes: list[str]) -> int:
    database = json.loads((model_files.build_dir() / "compile_commands.json").read_text())
    ours = set(files.with_suffix(".cc"))
    sources = set()
    for entry in database:
        path = pathlib.Path(entry["directory"], entry["file"])
        if path.is_relative_to(files.ROOT):
            sources.add(str(path.relative_to(files.ROOT)))
    sources = sorted(sources & ours)
    if prefixes:
        sources = [source for source in sources if source.startswith(tuple(prefixes))]
    version = subprocess.run([tool(), "--version"], capture_output=True, text=True).stdout
    clean = json.loads(CLEAN.read_text()) if CLEAN.exists() else {}
    known: dict[str, set[str]] = {}
    prints = {source: fingerprint(source, version, known) for source in sources}
    todo = [source for source in sources if clean.get(source) != prints[source]]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for source, said in zip(todo, pool.map(lint, todo)):
            if said:
                failed += 1
                print(said, flush=True)
            else:
                clean[source] = prints[source]
                CLEAN.write_text(json.dumps(clean, indent=1))
    print(f"clang-tidy: {len(sources)} sources, {len(todo)} looked at, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
