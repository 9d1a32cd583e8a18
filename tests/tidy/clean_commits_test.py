"""What a slow check must see again after a change, in a repository of four files."""

import pytest

from tests.tidy import clean_commits

FILES = {"a.cc": '#include "a.h"\n', "a.h": '#include "deep/b.h"\n#include <vector>\n', "deep/b.h": "// b\n",
         "c.cc": "// c\n", ".settings": "x\n"}  # fmt: skip
SOURCES = ["a.cc", "c.cc"]


@pytest.fixture
def root(tmp_path):
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    clean_commits.git("init", "--quiet", root=tmp_path)
    commit(tmp_path)
    return tmp_path


def commit(root) -> None:
    clean_commits.git("add", ".", root=root)
    clean_commits.git("-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "-m", "x", root=root)


def check_of(root, tool="1") -> clean_commits.Check:
    clean_commits.dependencies.cache_clear()
    return clean_commits.Check("lint", tool, [".settings"], commits=root / "commits.json", root=root)


def test_everything_until_it_was_seen(root):
    assert check_of(root).to_see(SOURCES) == SOURCES
    check_of(root).record(SOURCES)
    assert check_of(root).to_see(SOURCES) == []


@pytest.mark.parametrize(
    "path, seen", [("a.cc", ["a.cc"]), ("deep/b.h", ["a.cc"]), ("c.cc", ["c.cc"]), (".settings", SOURCES)]
)
@pytest.mark.parametrize("committed", [False, True])
def test_what_changed_and_what_includes_it(root, path, seen, committed):
    check_of(root).record(SOURCES)
    (root / path).write_text(FILES[path] + "// changed\n")
    if committed:
        commit(root)
    assert check_of(root).to_see(SOURCES) == seen


def test_a_header_that_is_gone_or_new(root):
    check_of(root).record(SOURCES)
    (root / "deep/b.h").unlink()
    assert check_of(root).to_see(SOURCES) == ["a.cc"]
    (root / "c.cc").write_text('#include "new.h"\n')
    assert check_of(root).to_see(SOURCES) == SOURCES


def test_a_new_header_that_git_does_not_know(root):
    check_of(root).record(SOURCES)
    (root / "c.cc").write_text('#include "new.h"\n')
    commit(root)
    check_of(root).record(SOURCES)
    (root / "new.h").write_text("// new\n")
    assert check_of(root).to_see(SOURCES) == ["c.cc"]


def test_what_no_build_had_stays_to_be_seen(root):
    check_of(root).record(["a.cc"])
    assert check_of(root).to_see(SOURCES) == ["c.cc"]


def test_everything_by_another_tool_or_in_a_clone_that_lacks_the_commit(root):
    check_of(root).record(SOURCES)
    assert check_of(root, tool="2").to_see(SOURCES) == SOURCES
    record = root / "commits.json"
    record.write_text(record.read_text().replace(clean_commits.git("rev-parse", "HEAD", root=root).strip(), "0" * 40))
    assert check_of(root).to_see(SOURCES) == SOURCES


def test_a_changed_tree_is_not_recorded(root):
    (root / "c.cc").write_text("// changed\n")
    with pytest.raises(AssertionError, match="c.cc"):
        check_of(root).record(SOURCES)
