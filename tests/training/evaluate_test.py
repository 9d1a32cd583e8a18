"""Answers are scored as they should be; every section is drawn; a tiny model goes the whole way through a server."""

import json

import pytest

pytest.importorskip("sentencepiece", reason="it is in training's environment")
pytest.importorskip("matplotlib", reason="it is in training's environment")

from training import evaluate, report  # noqa: E402

pytestmark = pytest.mark.training


@pytest.mark.parametrize(
    ("task", "expected", "answer", "score"),
    [
        ("pass_key", " 12345", " 12345. More", 1.0),
        ("pass_key", " 12345", " 12346", 0.0),
        ("pass_key", " 12345", " 123456", 0.0),
        ("pass_key", " 12345", " 12345", 1.0),
        ("pass_key", " 12345", " The key is 12345", 0.0),
        ("multi_value", " 11111, 22222", " 22222, 33333.", 0.5),
        ("multi_query", " The pass key of a is 11111. The one of b is 22222.", " The pass key of a is 11111.", 0.5),
        ("variables", " one, two, three", " one, three", 2 / 3),
        ("variables", " one, two", " ones, twos", 0.0),
    ],
)
def test_scores(task, expected, answer, score):
    assert evaluate.score(task, expected, answer) == pytest.approx(score)


def test_models_by_words():
    model = evaluate.Model.parse("a=some/path,attention=full,num_threads=1")
    assert (model.name, str(model.path), model.flags) == ("a", "some/path", {"attention": "full", "num_threads": "1"})
    for words in ("a", "=path", "a=path,full"):
        with pytest.raises(Exception, match="NAME=PATH"):
            evaluate.Model.parse(words)


def rows(suite: str) -> list[dict]:
    made = []
    for length in (4096, 65536):
        for number in range(3):
            made.append(
                dict(suite=suite, model="m", task="single", length=length, score=number / 2, depth=number / 3)
                | dict(setting=("n=4", "n=8", "w=64")[number], expected="", answer="")
            )
    return made


def test_every_section_is_written(tmp_path):
    store = report.Store(tmp_path)
    for suite in ("needle", "ruler", "selection"):
        store.set_rows(suite, rows(suite))
    store.results["losses"] = {"nsa": {"text 512": [[1, 3.0], [2, 2.0]]}, "twin": {"text 512": [[1, 3.5], [2, 2.5]]}}
    store.write()
    words = (tmp_path / "results.md").read_text()
    for expected in ("2 of 6 keys found", "| m | single | 50 | 50 |", "| n=8 | 50 | 50 |", "| twin | 2.5000 |"):
        assert expected in words
    pictures = {name: (tmp_path / name).read_bytes() for name in ("needle.svg", "selection.svg", "losses.svg")}
    again = report.Store(tmp_path)
    again.write()
    for name, picture in pictures.items():
        assert (tmp_path / name).read_bytes() == picture, "the same numbers give the same picture"
    assert json.loads((tmp_path / "results.json").read_text()) == store.results


def test_results_of_other_models_stay(tmp_path):
    store = report.Store(tmp_path)
    store.set_rows("ruler", rows("ruler"))
    store.set_rows("ruler", [row | dict(model="other", length=8192) for row in rows("ruler")[:3]])
    store.set_rows("ruler", [row | dict(score=1.0) for row in rows("ruler")])
    store.write()
    words = (tmp_path / "results.md").read_text()
    for expected in ("| model | task | 4k | 8k | 64k |", "| m | single | 100 | – | 100 |", "| other | single | – | 50 | – |"):
        assert expected in words
