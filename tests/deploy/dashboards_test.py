"""The dashboards' JSON: what Grafana needs of it, and that it is what the table says. (Grafana itself is no package of
Debian or PyPI; the expressions are evaluated in prometheus_test.py.)"""

import itertools
import json
import re

import pytest

from tests.support.deploy import generate, panels

FILES = [generate.HERE / f"{dashboard.uid}.json" for dashboard in panels.DASHBOARDS]
# Grafana's own, of the units that the table uses.
UNITS = {"s", "short", "none", "percentunit", "reqps", "tps", "ops", "rps", "Bps"}


def shown(path) -> list[dict]:
    return json.loads(path.read_text())["panels"]


def test_the_files_are_what_the_table_says():
    assert generate.main(["--check"]) == 0


def test_a_stale_file_is_seen(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(generate, "outputs", lambda: {tmp_path / "x.json": "new\n"})
    (tmp_path / "x.json").write_text("old\n")
    assert generate.main(["--check"]) == 1
    assert "generate.py" in capsys.readouterr().out


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_have_numbers_and_places_of_their_own(path):
    numbers = [panel["id"] for panel in shown(path)]
    assert len(set(numbers)) == len(numbers)
    places = [panel["gridPos"] for panel in shown(path)]
    for place in places:
        assert place["x"] + place["w"] <= generate.COLUMNS
    for a, b in itertools.combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, (a, b)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_are_complete(path):
    for panel in shown(path):
        if panel["type"] == "row":
            continue
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters)) and letters
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_variables_are_defined(path):
    whole = json.loads(path.read_text())
    defined = {variable["name"] for variable in whole["templating"]["list"]}
    used = set()
    for panel in whole["panels"]:
        for target in panel.get("targets", []):
            used |= set(re.findall(r"\$(\w+)", target["expr"]))
    assert used - {"__rate_interval"} <= defined


def test_titles_differ_in_a_dashboard():
    for dashboard in panels.DASHBOARDS:
        titles = [panel.title for row in dashboard.rows for panel in row.panels]
        assert len(set(titles)) == len(titles), dashboard.title
