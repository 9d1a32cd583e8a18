"""Measures models through the server, and draws what it finds.

    .venv-training/bin/python -m training.evaluate --model nsa-tiny=build/models/nsa_tiny
        [--model twin=build/models/nsa_tiny_full] [--model smollm2=PATH.gguf,attention=full]
        [--run nsa-tiny=build/training/nsa_tiny] [--run twin=build/training/nsa_tiny_full]
        [--suites needle,ruler,selection,losses] [--lengths 4096,8192,16384,32768,65536] [--samples 5]
        [--selection_lengths 8192,32768] [--words build/models/nsa_tiny] [--output docs/quality]

A --model is a name, a path, and flags of nsa_server; `selection` varies the first one's n and w, and `needle` is drawn for
it. The words of the tasks are the tokens of --words, a folder that training.export wrote: by default the first model. Every
answer is greedy, to a text that was in no training. Writes results.json, results.md and pictures; results of other suites
and of other models stay as they are, so that a slow model can be asked less, in a run of its own.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import sys
import tempfile

import numpy as np

from tests.support import server
from training import report, tasks, text, tokenizer

SUITES = ("needle", "ruler", "selection", "losses")
DEPTHS = tuple((i + 0.5) / 10 for i in range(10))
SEED = 2_000_003  # of no training run and no validation
# The kinds of RULER, and how they are asked here.
RULER = {
    "single": ("pass_key", {}),
    "multi-key": ("multi_key", dict(num_needles=16, num_questions=1)),
    "multi-value": ("multi_value", dict(num_needles=4, num_values=4)),
    "multi-query": ("multi_query", dict(num_needles=16, num_queries=4)),
    "variables": ("variables", dict(num_chains=2, num_hops=3)),
    "common words": ("common_words", {}),
}
MAX_ANSWER_TOKENS = 80
SELECTED_BLOCKS = (4, 8, 16, 32)
WINDOW_SIZES = (64, 128, 256, 512, 1024)


@dataclasses.dataclass(frozen=True)
class Model:
    name: str
    path: pathlib.Path
    flags: dict[str, str]

    @classmethod
    def parse(cls, words: str) -> "Model":
        name, _, rest = words.partition("=")
        path, *flags = rest.split(",")
        if not name or not path or any("=" not in flag for flag in flags):
            raise argparse.ArgumentTypeError(f"{words!r} is no NAME=PATH[,FLAG=VALUE…]")
        return cls(name, pathlib.Path(path), dict(flag.split("=", 1) for flag in flags))


@dataclasses.dataclass(frozen=True)
class Result:
    suite: str
    model: str
    task: str
    length: int  # tokens of the prompt and the answer, at most
    score: float  # 0 to 1: the share of what was asked for that the answer holds
    depth: float = -1.0
    setting: str = ""
    expected: str = ""
    answer: str = ""


def items(task: str, expected: str) -> list[str]:
    """What an answer must hold."""
    if task == "multi_query":
        return [word.strip(".") for word in expected.split() if word.strip(".").isdigit()]
    return [word.strip() for word in expected.split(",")]


def score(task: str, expected: str, answer: str) -> float:
    """A single item must be what the answer begins with, and end there; of several, the share that it holds counts."""
    wanted = items(task, expected)
    if len(wanted) == 1:
        answer = answer.strip()
        ends = not answer[len(wanted[0]) : len(wanted[0]) + 1].isalnum()
        return float(answer.startswith(wanted[0]) and ends)
    found = answer.replace(",", " ").replace(".", " ").split()
    return sum(item in found for item in wanted) / len(wanted)


class Served:
    """A model behind a server of its own."""

    def __init__(self, running: server.Server, source: tasks.Source):
        self.running, self.source = running, source
        info = running.stub.GetModelInfo(server.pb().GetModelInfoRequest(), timeout=30)
        self.max_context = info.max_context

    def encode(self, sample: tasks.Sample) -> tasks.Encoded:
        """By the model's own tokenizer."""
        request = server.pb().TokenizeRequest(text=sample.text.encode())
        ids = self.running.stub.Tokenize(request, timeout=60).token_ids
        return tasks.Encoded(np.array(ids), np.zeros(len(ids), bool), sample)

    def ask(self, task: str, seed: list[int], length: int, **options) -> tuple[float, str, str]:
        """(score, expected, answer)."""
        # Where the context ends with the length, the answer needs room in it.
        fits = min(length, self.max_context - MAX_ANSWER_TOKENS)
        sample = tasks.fit(task, seed, fits, self.source, self.encode, **options).sample
        (expected,) = sample.expected()
        request = server.request(sample.prompt(), max_tokens=min(MAX_ANSWER_TOKENS, 8 + len(expected)))
        done = server.generate(self.running, request, timeout=3600)
        if done.finished is None:
            raise RuntimeError(f"{task} at {length}: {done.status}: {done.details}")
        return score(task, expected, done.text), expected, done.text


@contextlib.contextmanager
def served(model: Model, source: tasks.Source, longest: int):
    """With room for the longest prompt, where the model reaches that far."""
    flags = {"max_context": longest + 128} | model.flags
    try:
        with server.running(model.path, **flags) as running:
            yield Served(running, source)
    except RuntimeError as error:
        # A full-attention model does not go beyond what it was trained for.
        if "max_context" not in str(error) or "max_context" in model.flags:
            raise
        with server.running(model.path, **model.flags) as running:
            yield Served(running, source)


def source_of(folder: pathlib.Path, texts: str) -> tasks.Source:
    """Words of the folder's tokenizer, haystacks of the manual that is held out."""
    held_out = text.Corpus(text.documents(texts).validation, np.zeros(0, np.uint16))
    return tasks.Source(tokenizer.read(folder / "tokenizer.model").words, held_out.sample_text, 1.0)


def needle_results(model: Model, source: tasks.Source, lengths: list[int]):
    with served(model, source, max(lengths)) as asked:
        for length in lengths:
            for i, depth in enumerate(DEPTHS):
                found = asked.ask("pass_key", [SEED, length, i], length, depth=depth)
                yield Result("needle", model.name, "pass_key", length, found[0], depth, "", *found[1:])


def ruler_results(model: Model, source: tasks.Source, lengths: list[int], samples: int):
    with served(model, source, max(lengths)) as asked:
        for length in (length for length in lengths if length <= asked.max_context):
            for name, (task, options) in RULER.items():
                for i in range(samples):
                    found = asked.ask(task, [SEED, length, i], length, **options)
                    yield Result("ruler", model.name, name, length, found[0], -1.0, "", *found[1:])


@contextlib.contextmanager
def changed(folder: pathlib.Path, **fields):
    """A folder whose config.json differs in fields of its section `nsa`."""
    with tempfile.TemporaryDirectory() as made:
        for path in folder.resolve().iterdir():
            if path.name != "config.json":
                (pathlib.Path(made) / path.name).symlink_to(path)
        document = json.loads((folder / "config.json").read_text())
        document["nsa"] |= fields
        (pathlib.Path(made) / "config.json").write_text(json.dumps(document))
        yield pathlib.Path(made)


def selection_results(model: Model, source: tasks.Source, lengths: list[int], samples: int):
    """One named key of 16, with other n and w than the model was trained with."""
    settings = [("n", "num_selected_blocks", value) for value in SELECTED_BLOCKS]
    settings += [("w", "window_size", value) for value in WINDOW_SIZES]
    task, options = RULER["multi-key"]
    for letter, field, value in settings:
        with changed(model.path, **{field: value}) as folder:
            varied = dataclasses.replace(model, path=folder)
            with served(varied, source, max(lengths)) as asked:
                for length in lengths:
                    for i in range(2 * samples):
                        found = asked.ask(task, [SEED, length, i], length, **options)
                        setting = f"{letter}={value}"
                        yield Result("selection", model.name, task, length, found[0], -1.0, setting, *found[1:])


def measure(options, suite: str):
    source = source_of(options.words or options.model[0].path, options.text)
    if suite == "needle":
        yield from needle_results(options.model[0], source, options.lengths)
    if suite == "ruler":
        for model in options.model:
            yield from ruler_results(model, source, options.lengths, options.samples)
    if suite == "selection":
        yield from selection_results(options.model[0], source, options.selection_lengths, options.samples)


def numbers(words: str) -> list[int]:
    return [int(word) for word in words.split(",") if word]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Model.parse, action="append", default=[])
    parser.add_argument("--run", type=Model.parse, action="append", default=[], help="NAME=FOLDER of a training run")
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--lengths", type=numbers, default=[4096, 8192, 16384, 32768, 65536])
    parser.add_argument("--selection_lengths", type=numbers, default=[8192, 32768])
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--words", type=pathlib.Path, help="folder whose tokens are the words of the tasks")
    parser.add_argument("--text", default="", help="folder of texts, as in the configuration")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("docs/quality"))
    options = parser.parse_args()
    options.suites = options.suites.split(",")
    if unknown := set(options.suites) - set(SUITES):
        parser.error(f"--suites: no {', '.join(sorted(unknown))}; known are {', '.join(SUITES)}")
    if not options.model and set(options.suites) != {"losses"}:
        parser.error("--model is needed for all suites but losses")
    return options


def main() -> int:
    options = arguments()
    store = report.Store(options.output)
    for suite in options.suites:
        if suite == "losses":
            store.set_losses({run.name: run.path for run in options.run})
            continue
        rows = []
        for result in measure(options, suite):
            rows.append(dataclasses.asdict(result))
            where = f"depth {result.depth:.0%}" if result.depth >= 0 else result.setting
            print(
                f"{suite} {result.model} {result.task} {result.length} {where}: {result.score:.2f}, "
                f"expected {result.expected!r}, got {result.answer!r}",
                file=sys.stderr,
            )
        store.set_rows(suite, rows)
    store.write()
    print(options.output / "results.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
