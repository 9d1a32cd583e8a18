"""The commits whose sources a slow check saw and found clean, all of them. What has not changed since, and includes
nothing that has, need not be seen again."""

import functools
import json
import pathlib
import re
import subprocess
from collections.abc import Iterable

from tests.tidy import files

COMMITS = files.ROOT / "tests/tidy/clean_commits.json"


@functools.cache
def dependencies(source: str, root: pathlib.Path = files.ROOT) -> frozenset[str]:
    """What `source` includes by quotes, directly or not, by paths from the root, there or not; itself too."""
    found: set[str] = set()
    todo = [source]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        if (root / path).is_file():
            todo += re.findall(r'#\s*include\s*"([^"]+)"', (root / path).read_text(encoding="utf-8"))
    return frozenset(found)


def git(*arguments: str, root: pathlib.Path = files.ROOT) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def changed_since(commit: str, root: pathlib.Path = files.ROOT) -> set[str] | None:
    """Paths of files that differ from the commit's, gone or new ones too, tracked or not. None where the clone lacks
    it."""
    try:
        listed = git("diff", "--name-only", "--no-renames", "-z", commit, root=root)
        listed += git("ls-files", "--others", "--exclude-standard", "-z", root=root)
    except subprocess.CalledProcessError:
        return None
    return {path for path in listed.split("\0") if path}


def version_of(tool: str) -> str:
    """The first number of three parts in what it says of itself."""
    said = subprocess.run([tool, "--version"], check=True, capture_output=True, text=True).stdout
    return re.search(r"\d+\.\d+\.\d+", said)[0]


class Check:
    """A check by its name, its `tool` (version and options), and endings of paths that are its `settings`: where one of
    these changed, it must see everything."""

    def __init__(self, name: str, tool: str, settings: Iterable[str], *, commits: pathlib.Path = COMMITS,
                 root: pathlib.Path = files.ROOT):  # fmt: skip
        self._name, self._tool, self._settings = name, tool, tuple(settings)
        self._commits, self._root = commits, root

    def _known(self) -> dict:
        return json.loads(self._commits.read_text()) if self._commits.exists() else {}

    def to_see(self, sources: Iterable[str]) -> list[str]:
        seen = self._known().get(self._name)
        changed = changed_since(seen["commit"], self._root) if seen and seen["tool"] == self._tool else None
        if changed is None or any(path.endswith(self._settings) for path in changed):
            return list(sources)
        changed |= set(seen["unseen"])
        return [source for source in sources if changed & dependencies(source, self._root)]

    def record(self, sources: Iterable[str]) -> None:
        """After it saw all `sources` as HEAD has them and found nothing. Those of the same endings that it did not see,
        which no build may have had, stay to be seen. AssertionError where the tree is another."""
        changed = git("status", "--porcelain", "--untracked-files=no", root=self._root).splitlines()
        others = [line for line in changed if not line.endswith(self._commits.name)]
        assert not others, f"not what HEAD has: {others}"
        commit = git("rev-parse", "HEAD", root=self._root).strip()
        endings = tuple({pathlib.Path(source).suffix for source in sources})
        tracked = git("ls-files", "-z", root=self._root).split("\0")
        unseen = sorted(path for path in set(tracked) - set(sources) if path.endswith(endings))
        known = self._known() | {self._name: {"commit": commit, "tool": self._tool, "unseen": unseen}}
        self._commits.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
