"""Tables and pictures of what training.evaluate found."""

import json
import os
import pathlib

from training import plots
from training.progress import read_table


def mean_of(rows: list[dict], **fields) -> float | None:
    """The mean score of the rows with these fields."""
    scores = [row["score"] for row in rows if all(row[name] == value for name, value in fields.items())]
    return sum(scores) / len(scores) if scores else None


def distinct(rows: list[dict], name: str) -> list:
    """Values of a field in the order in which they first come."""
    return list(dict.fromkeys(row[name] for row in rows))


def markdown(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}"


def needle_section(rows: list[dict], folder: pathlib.Path) -> str:
    lengths, depths = distinct(rows, "length"), distinct(rows, "depth")
    values = [[mean_of(rows, length=length, depth=depth) for length in lengths] for depth in depths]
    plots.heat_map(
        values,
        [f"{depth:.0%}" for depth in depths],
        [plots.thousands(length) for length in lengths],
        folder / "needle.svg",
        title=f"{rows[0]['model']}: pass key found, per cent",
        xlabel="tokens",
        ylabel="depth",
    )
    found = sum(row["score"] == 1 for row in rows)
    return (
        f"## Needle in a haystack\n\n{found} of {len(rows)} keys found: five digits in text of a manual that was in no "
        "training, by depth and length.\n\n![depth and length](needle.svg)\n"
    )


def ruler_section(rows: list[dict], folder: pathlib.Path) -> str:
    lengths = sorted(distinct(rows, "length"))
    body = [
        [model, task, *(percent(mean_of(rows, model=model, task=task, length=length)) for length in lengths)]
        for model in distinct(rows, "model")
        for task in distinct(rows, "task")
    ]
    head = ["model", "task", *(plots.thousands(length) for length in lengths)]
    words = "Per cent of what was asked for that the answers hold; – where the model does not reach so far, or was not asked."
    return f"## Retrieval and reasoning by length\n\n{words}\n\n" + markdown(head, body)


def selection_section(rows: list[dict], folder: pathlib.Path) -> str:
    settings, lengths = distinct(rows, "setting"), distinct(rows, "length")
    body = [
        [setting, *(percent(mean_of(rows, setting=setting, length=length)) for length in lengths)]
        for setting in settings
    ]
    lines = {}
    for letter, word in (("n", "selected blocks"), ("w", "window")):
        chosen = [setting for setting in settings if setting.startswith(letter)]
        for length in lengths:
            up = [100 * mean_of(rows, setting=setting, length=length) for setting in chosen]
            lines[f"{word}, {plots.thousands(length)}"] = ([int(setting[2:]) for setting in chosen], up)
    plots.curves(lines, folder / "selection.svg", "one key of 16 found", "n or w", "per cent")
    words = "One named key of 16, per cent found, by the number of selected blocks n and the window w."
    head = ["setting", *(plots.thousands(length) for length in lengths)]
    table = markdown(head, body)
    return f"## Selected blocks and window\n\n{words}\n\n{table}\n![n and w](selection.svg)\n"


def losses_section(losses: dict, folder: pathlib.Path) -> str:
    """`losses`: run → set of held-out text → [[tokens, loss], …]."""
    lines = {
        f"{run}, {name}": tuple(zip(*points)) for run, sets in losses.items() for name, points in sets.items() if points
    }
    plots.curves(lines, folder / "losses.svg", "held-out text", "tokens of training", "loss (nats a token)")
    return f"## Loss\n\n![loss by tokens](losses.svg)\n\n{equal_tokens_table(losses)}"


def equal_tokens_table(losses: dict) -> str:
    """All runs where all of them have been: at the largest count of tokens that they share."""
    names = list(dict.fromkeys(name for sets in losses.values() for name in sets))
    shared = None
    for sets in losses.values():
        seen = {tokens for points in sets.values() for tokens, _ in points}
        shared = seen if shared is None else shared & seen
    if not shared:
        return "The runs share no count of tokens.\n"
    at = max(shared)
    body = [
        [run, *(f"{dict(sets[name])[at]:.4f}" if at in dict(sets.get(name, [])) else "–" for name in names)]
        for run, sets in losses.items()
    ]
    return f"At {at:,} tokens:\n\n" + markdown(["run", *names], body)


def read_losses(run: pathlib.Path) -> dict:
    sets: dict[str, list] = {}
    for row in read_table(run / "validation.csv"):
        if row["set"].startswith("text "):
            sets.setdefault(row["set"], []).append([int(row["tokens"]), float(row["loss"])])
    return sets


SECTIONS = {
    "losses": losses_section,
    "needle": needle_section,
    "ruler": ruler_section,
    "selection": selection_section,
}


class Store:
    """results.json of a folder, and what is made of it."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.path = folder, folder / "results.json"
        self.results = json.loads(self.path.read_text()) if self.path.exists() else {}

    def set_rows(self, suite: str, rows: list[dict]) -> None:
        """In place of what there was of these rows' models."""
        models = distinct(rows, "model")
        kept = [row for row in self.results.get(suite, []) if row["model"] not in models]
        self.results[suite] = kept + rows

    def set_losses(self, runs: dict[str, pathlib.Path]) -> None:
        self.results["losses"] = {name: read_losses(run) for name, run in runs.items()}

    def write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(self.results, indent=1) + "\n")
        os.replace(unfinished, self.path)
        found = {name: rows for name, rows in self.results.items() if rows}
        parts = [section(found[name], self.folder) for name, section in SECTIONS.items() if name in found]
        head = "# Quality\n\nWritten by `python -m training.evaluate`; every answer came through the server.\n\n"
        (self.folder / "results.md").write_text(head + "\n".join(parts))
