"""Runs clang-tidy over the sources of a build, two at a time, and remembers what was clean.

    .venv/bin/python -m tests.tidy.clang_tidy [--all] [--record] [PATH-PREFIX...]

A source is looked at again when it, a header of ours that it includes, a .proto, .clang-tidy, this file or
the tool changes: since the commit that clean_commits.json names, or since this build saw it clean. --all
looks at every source; --record, after that, has clean_commits.json name HEAD. Prints a count as its
last line; ends with 1 where anything is found.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import subprocess
import sys

from tests.support import model_files
from tests.tidy import clean_commits, files

CLEAN = model_files.build_dir() / "clang-tidy-clean.json"
SETTINGS = [".clang-tidy", ".proto", "tests/tidy/clang_tidy.py"]
# Warnings are gcc's to give, in the build; here only checks are errors.
EXTRA = ["--extra-arg=-Wno-unknown-warning-option", "--extra-arg=-Wno-error"]


def tool() -> str:
    beside = pathlib.Path(sys.executable).with_name("clang-tidy")
    return str(beside) if beside.exists() else "clang-tidy"


def fingerprint(source: str, version: str) -> str:
    digest = hashlib.sha256(version.encode())
    settings = {path for path in files.tracked() if path.endswith(tuple(SETTINGS))}
    for path in sorted(clean_commits.dependencies(source) | settings):
        if (files.ROOT / path).is_file():
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


def sources_of_build() -> tuple[list[str], str]:
    """And the options of the compiler that say how they are read."""
    database = json.loads((model_files.build_dir() / "compile_commands.json").read_text())
    built = {pathlib.Path(entry["directory"], entry["file"]) for entry in database}
    words = {word for entry in database for word in entry["command"].split() if word.startswith(("-D", "-std"))}
    sources = [source for source in sorted(files.with_suffix(".cc")) if files.ROOT / source in built]
    return sources, " ".join(sorted(words))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("prefixes", nargs="*")
    arguments = parser.parse_args()
    sources, options = sources_of_build()
    sources = [source for source in sources if source.startswith(tuple(arguments.prefixes or [""]))]
    version = clean_commits.version_of(tool())
    check = clean_commits.Check("clang-tidy", f"{version} {options}", SETTINGS)
    clean = json.loads(CLEAN.read_text()) if CLEAN.exists() else {}
    prints = {source: fingerprint(source, version) for source in sources}
    if arguments.all:
        todo = sources
    else:
        todo = [source for source in check.to_see(sources) if clean.get(source) != prints[source]]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for source, said in zip(todo, pool.map(lint, todo)):
            if said:
                failed += 1
                print(said, flush=True)
                clean.pop(source, None)
            else:
                clean[source] = prints[source]
            CLEAN.write_text(json.dumps(clean, indent=1))
    print(f"clang-tidy: {len(sources)} sources, {len(todo)} looked at, {failed} with findings")
    if arguments.record:
        assert arguments.all and not arguments.prefixes and not failed, "not every source seen and clean"
        check.record(sources)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
