"""What a run is told: TOML into dataclasses, every field checked.

A file may name another as its `base`, whose fields then hold where it has none of its own: so the full-attention twin
has the data, the order and the token count of the model that it is compared with, by construction.
"""

import dataclasses
import hashlib
import json
import pathlib
import tomllib
import typing

TASKS = (
    "pass_key",
    "multi_key",
    "multi_value",
    "multi_query",
    "lookup",
    "variables",
    "counting",
    "copying",
    "common_words",
)
SHAPES = ("linear", "cosine")


class ConfigError(ValueError):
    """A configuration that cannot be run. The message names file, field, value and what is allowed."""


def expect(condition: bool, field: str, value, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{field} is {value!r}, expected {allowed}")


def expect_in(config, low: float, high: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        expect(low <= value <= high, name, value, f"{low:g} to {high:g}")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    vocabulary_size: int = 8192
    sample_bytes: int = 8_000_000  # of text that it is trained on

    def check(self) -> None:
        expect_in(self, 300, 65536, "vocabulary_size")
        expect_in(self, 10_000, 1 << 30, "sample_bytes")


@dataclasses.dataclass(frozen=True)
class Model:
    """Sizes as config.json has them; the sparse ones are those of engine/models/README.md."""

    attention: str = "nsa"  # or "full": the twin
    hidden_size: int = 128
    ffn_size: int = 384
    num_layers: int = 3
    num_q_heads: int = 4
    num_kv_heads: int = 1
    head_dim: int = 64
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    max_context: int = 131072
    qkv_bias: bool = True
    previous_token_layers: int = 1  # the first ones: their heads begin by looking one, two, … tokens back
    copying_layers: int = 1  # those behind them: they begin by copying what followed the same tokens before
    gate_hidden_size: int = 32
    compression_hidden_size: int = 128
    compression_length: int = 32
    compression_stride: int = 16
    sel_block_size: int = 64
    num_selected_blocks: int = 16
    num_initial_blocks: int = 1
    num_local_blocks: int = 2
    window_size: int = 512

    def check(self) -> None:
        expect(self.attention in ("nsa", "full"), "attention", self.attention, "nsa or full")
        sizes = ("hidden_size", "ffn_size", "num_layers", "num_q_heads", "num_kv_heads", "gate_hidden_size")
        expect_in(self, 1, 65536, *sizes, "compression_length", "compression_stride", "sel_block_size")
        expect_in(self, 2, 256, "head_dim")
        expect(self.head_dim % 2 == 0, "head_dim", self.head_dim, "an even number, which rotation needs")
        expect_in(self, 64, 1 << 24, "max_context")
        expect_in(self, 1, 1 << 30, "window_size", "num_selected_blocks")
        expect_in(self, 0, self.num_selected_blocks, "num_initial_blocks", "num_local_blocks")
        expect_in(self, 0, self.num_layers, "previous_token_layers")
        expect_in(self, 0, self.num_layers - self.previous_token_layers, "copying_layers")
        expect_in(self, 1.0, 1e9, "rope_theta")
        expect_in(self, 0.0, 1.0, "rms_norm_eps")
        divides = self.num_q_heads % self.num_kv_heads == 0
        expect(divides, "num_q_heads", self.num_q_heads, f"a multiple of num_kv_heads ({self.num_kv_heads})")
        for name in ("compression_length", "sel_block_size"):
            value = getattr(self, name)
            multiple = value % self.compression_stride == 0
            expect(multiple, name, value, f"a multiple of compression_stride ({self.compression_stride})")
        fits = 64 % self.sel_block_size == 0 or self.sel_block_size % 64 == 0
        pages = "a divisor or a multiple of 64, the tokens of a page"
        expect(fits, "sel_block_size", self.sel_block_size, pages)
        needs = 2 * self.head_dim
        wide, allowed = self.compression_hidden_size >= needs, f"at least {needs}: φ begins as the mean"
        expect(wide, "compression_hidden_size", self.compression_hidden_size, allowed)
        roomy, allowed = self.hidden_size >= self.head_dim, f"at least head_dim ({self.head_dim})"
        expect(roomy or self.previous_token_layers == 0, "hidden_size", self.hidden_size, allowed)
        needs_bias = self.qkv_bias or self.previous_token_layers == 0
        expect(needs_bias, "qkv_bias", self.qkv_bias, "true where previous_token_layers is above 0")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Muon for matrices and AdamW for the rest, or AdamW for everything."""

    kind: str = "muon"
    matrix_rate: float = 0.02  # of Muon
    learning_rate: float = 0.003  # of AdamW
    choice_rate: float = 1.0  # factor of both for what makes compressed keys, by which blocks are chosen
    weight_decay: float = 0.0
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip_norm: float = 1.0  # of the whole gradient
    selection_weight: float = 0.2  # of what teaches compression to choose blocks (training/selection.py)
    selection_rows: int = 128  # of a step, at which choices are judged
    precision: str = "float32"  # or "bfloat16": matrix products under autocast, the rest as it is

    def check(self) -> None:
        expect(self.kind in ("muon", "adamw"), "kind", self.kind, "muon or adamw")
        expect_in(self, 1e-8, 10.0, "matrix_rate", "learning_rate")
        expect_in(self, 0.0, 100.0, "choice_rate")
        expect_in(self, 0.0, 1.0, "weight_decay", "momentum", "beta1", "beta2", "epsilon")
        expect_in(self, 1e-3, 1e6, "clip_norm")
        expect_in(self, 0.0, 1000.0, "selection_weight")
        expect_in(self, 1, 1 << 20, "selection_rows")
        known = ("float32", "bfloat16")
        expect(self.precision in known, "precision", self.precision, " or ".join(known))


@dataclasses.dataclass(frozen=True)
class Data:
    text_share: float = 0.5  # of sequences; the others are generated tasks
    answer_weight: float = 2.0  # of an answer's token in the loss; a token of text has 1
    real_haystack_share: float = 0.5  # of haystacks; the others are repeated filler sentences
    tasks: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(TASKS, 1.0))

    def check(self) -> None:
        expect_in(self, 0.0, 1.0, "text_share", "real_haystack_share")
        expect_in(self, 0.0, 1000.0, "answer_weight")
        for name, share in self.tasks.items():
            expect(name in TASKS, "tasks", name, "names of " + ", ".join(TASKS))
            expect(0 <= share < 1e6, f"tasks.{name}", share, "a share of 0 or more")
        some = self.text_share == 1 or sum(self.tasks.values()) > 0
        expect(some, "tasks", self.tasks, "a share above 0 for some task, or text_share = 1")


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of the curriculum. Each step draws one of `lengths` and holds `tokens_per_step` / length sequences."""

    name: str = ""
    steps: int = 0
    lengths: tuple[int, ...] = ()
    tokens_per_step: int = 0
    rate: tuple[float, ...] = (1.0, 1.0)  # the learning rate's factor at the phase's begin and end
    shape: str = "linear"  # or "cosine", between the two
    text_share: float = -1.0  # −1: data.text_share
    num_selected_blocks: int = 0  # 0: the model's; fewer make selection choose in short sequences already

    def check(self) -> None:
        expect(self.name != "", "name", self.name, "a name")
        expect_in(self, 1, 1 << 30, "steps", "tokens_per_step")
        expect(len(self.lengths) > 0, "lengths", self.lengths, "at least one length")
        for length in self.lengths:
            expect(128 <= length <= self.tokens_per_step, "lengths", length, "128 to tokens_per_step")
        good = len(self.rate) == 2 and min(self.rate) >= 0 and max(self.rate) <= 10
        expect(good, "rate", self.rate, "two factors of 0 to 10: at the begin and at the end")
        expect(self.shape in SHAPES, "shape", self.shape, " or ".join(SHAPES))
        expect(self.text_share == -1 or 0 <= self.text_share <= 1, "text_share", self.text_share, "0 to 1")
        expect_in(self, 0, 1 << 30, "num_selected_blocks")


@dataclasses.dataclass(frozen=True)
class Report:
    log_every: int = 10
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    validate_every: int = 100
    validation_lengths: tuple[int, ...] = (512, 2048, 8192)
    validation_sequences: int = 8  # of text for each length, and of each task for the first two

    def check(self) -> None:
        expect_in(self, 1, 1 << 30, "log_every", "checkpoint_every", "keep_checkpoints", "validate_every")
        expect_in(self, 1, 4096, "validation_sequences")
        expect(len(self.validation_lengths) > 0, "validation_lengths", (), "at least one length")
        for length in self.validation_lengths:
            expect(128 <= length <= 1 << 24, "validation_lengths", length, "128 to 2^24")


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = ""
    seed: int = 1
    text: str = ""  # a folder of texts; empty: what fetch_text.sh fetches
    stop_after: str = ""  # a phase; empty: the last one
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    data: Data = dataclasses.field(default_factory=Data)
    phases: tuple[Phase, ...] = ()
    report: Report = Report()

    def check(self) -> None:
        expect(self.name != "", "name", self.name, "a name")
        expect_in(self, 0, 2**63 - 1, "seed")
        expect(len(self.phases) > 0, "phases", (), "at least one [[phases]]")
        names = [phase.name for phase in self.phases]
        expect(len(set(names)) == len(names), "phases", names, "names that differ")
        expect(self.stop_after in ("", *names), "stop_after", self.stop_after, f"one of {', '.join(names)}")
        for phase in self.phases:
            fits = max(phase.lengths) <= self.model.max_context
            allowed = f"at most max_context ({self.model.max_context})"
            expect(fits, f"phase {phase.name}: lengths", phase.lengths, allowed)
            n, least = phase.num_selected_blocks, self.model.num_initial_blocks + self.model.num_local_blocks
            enough, allowed = n == 0 or n > least, f"0, or more than the {least} that are forced"
            expect(enough, f"phase {phase.name}: num_selected_blocks", n, allowed)

    def run_phases(self) -> tuple[Phase, ...]:
        """Those up to stop_after."""
        if not self.stop_after:
            return self.phases
        return self.phases[: [phase.name for phase in self.phases].index(self.stop_after) + 1]

    def num_steps(self) -> int:
        return sum(phase.steps for phase in self.run_phases())

    def fingerprint(self) -> str:
        """Of all that decides the sequence of losses; a run that is resumed must have the same."""
        fields = dataclasses.asdict(self)
        for name in ("name", "text", "stop_after", "report"):
            fields.pop(name)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _value(kind, value, where: str):
    """`value` of a TOML document as `kind`. ConfigError where it is of another."""
    if dataclasses.is_dataclass(kind):
        return _table(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        expect(isinstance(value, list), where, value, "an array")
        return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        expect(isinstance(value, dict), where, value, "a table")
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    expect(right, where, value, names[kind])
    return value


def _table(kind, table, where: str):
    expect(isinstance(table, dict), where, table, "a table")
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    for key in table:
        expect(key in hints, f"{prefix}{key}", table[key], f"no such field; known are {', '.join(hints)}")
    made = kind(**{key: _value(hints[key], value, prefix + key) for key, value in table.items()})
    try:
        made.check()
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from None
    return made


def _merge(base: dict, over: dict) -> dict:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _read(path: pathlib.Path, seen: tuple[pathlib.Path, ...] = ()) -> dict:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: base leads back to this file")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no TOML: {error}") from None
    base = document.pop("base", None)
    if base is None:
        return document
    expect(isinstance(base, str), f"{path}: base", base, "a path beside this file")
    return _merge(_read(path.parent / base, (*seen, path.resolve())), document)


def from_document(document: dict) -> Config:
    """Of a document as TOML or JSON give it. ConfigError says what is wrong with it."""
    return _table(Config, document, "")


def load(path: pathlib.Path) -> Config:
    """The configuration of a file. ConfigError says what is wrong with it."""
    path = pathlib.Path(path)
    document = _read(path)
    document.setdefault("name", path.stem)
    try:
        return from_document(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None

