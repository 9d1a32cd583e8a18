"""Generated tasks of retrieval and reasoning, as texts with their answers marked.

The kinds follow RULER (arXiv 2404.06654): needles with one or several keys, values and queries, variable tracking,
common words; and dense ones (lookup, copying, counting), which give many answers a sequence and so teach quickly what
the sparse ones then ask over long distances. A task is a function of random numbers and a budget of characters alone.
"""

import dataclasses
import string

import numpy as np

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
NEEDLE = "The pass key is {key}. Remember it. {key} is the pass key."
NAMED = "The pass key of {name} is {key}."
INTRODUCTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n"
)
QUESTION = "What is the pass key? The pass key is"
NUM_DIGITS = 5
MAX_NEEDLES = 32


class Sample:
    """A text that grows, and which parts of it are answers."""

    def __init__(self):
        self.text = ""
        self.answers: list[tuple[int, int]] = []  # characters [begin, end)

    def say(self, text: str) -> None:
        self.text += text

    def answer(self, text: str) -> None:
        """An answer begins with the space before its first word, so that a prompt never ends with one."""
        self.answers.append((len(self.text), len(self.text) + len(text)))
        self.text += text

    def prompt(self) -> str:
        """What stands before the first answer."""
        return self.text[: self.answers[0][0]]

    def expected(self) -> list[str]:
        return [self.text[begin:end] for begin, end in self.answers]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where tasks take words and haystacks from."""

    words: tuple[str, ...]
    real_text: object = None  # (rng, num_chars) -> str
    real_share: float = 0.0  # of haystacks; the others are filler

    def haystack(self, rng: np.random.Generator, num_chars: int) -> str:
        if rng.random() < self.real_share:
            return self.real_text(rng, num_chars)
        return FILLER * (max(0, num_chars) // len(FILLER) + 1)

    def names(self, rng: np.random.Generator, count: int) -> list[str]:
        """Different words."""
        return [self.words[i] for i in rng.permutation(len(self.words))[:count]]


def random_key(rng: np.random.Generator) -> str:
    return str(rng.integers(10 ** (NUM_DIGITS - 1), 10**NUM_DIGITS))


def hide(haystack: str, needles: list[str], depths) -> str:
    """Each needle on a line of its own, behind the sentence or line that ends nearest below its depth (0 to 1)."""
    places = []
    for needle, depth in zip(needles, depths):
        limit = int(len(haystack) * depth)
        place = max(haystack.rfind(". ", 0, limit) + 2, haystack.rfind("\n", 0, limit) + 1)
        places.append((place if place > 1 else 0, needle))
    parts, at = [], 0
    for place, needle in sorted(places, key=lambda item: item[0]):
        parts += [haystack[at:place].rstrip(" \n"), needle]
        at = place
    return "\n".join(part for part in (*parts, haystack[at:]) if part) + "\n"


def _hidden(rng, chars: int, source: Source, needles: list[str], depths=None) -> str:
    left = chars - sum(len(needle) + 1 for needle in needles)
    haystack = source.haystack(rng, max(0, left))[: max(0, left)]
    return hide(haystack, needles, rng.random(len(needles)) if depths is None else depths)


def pass_key(rng, chars: int, source: Source, depth: float | None = None) -> Sample:
    key = random_key(rng)
    left = chars - len(INTRODUCTION) - len(QUESTION) - 10
    sample = Sample()
    depths = None if depth is None else [depth]
    sample.say(INTRODUCTION + _hidden(rng, left, source, [NEEDLE.format(key=key)], depths) + QUESTION)
    sample.answer(f" {key}")
    sample.say(".")
    return sample


def _count(rng, chars: int, largest: int = MAX_NEEDLES) -> int:
    """How many needles: a power of two as often as another, as many as take a third of the budget at most."""
    fits = max(1, chars // 3 // 80)
    return int(min(fits, 2 ** rng.uniform(1, np.log2(largest))))


def multi_key(rng, chars: int, source: Source, num_needles: int = 0, num_questions: int = 0) -> Sample:
    """Several needles with names; some of them are asked for, one after another."""
    names = source.names(rng, num_needles or max(2, _count(rng, chars)))
    keys = [random_key(rng) for _ in names]
    asked = rng.permutation(len(names))[: num_questions or len(names)]
    needles = [NAMED.format(name=name, key=key) for name, key in zip(names, keys)]
    sample = Sample()
    sample.say(_hidden(rng, chars - 70 * len(asked), source, needles))
    for index in asked:
        sample.say(f"What is the pass key of {names[index]}? The pass key of {names[index]} is")
        sample.answer(f" {keys[index]}")
        sample.say(".\n")
    return sample


def multi_value(rng, chars: int, source: Source, num_values: int = 0, num_needles: int = 0) -> Sample:
    """One name with several keys among needles of other names; all its keys are asked for, in their order."""
    names = source.names(rng, num_needles or max(2, _count(rng, chars, 8)))
    count = num_values or int(rng.integers(2, 5))
    keys = [random_key(rng) for _ in range(count)]
    depths = np.sort(rng.random(count))
    needles = [NAMED.format(name=names[0], key=key) for key in keys]
    others = [NAMED.format(name=name, key=random_key(rng)) for name in names[1:]]
    sample = Sample()
    depths = np.concatenate([depths, rng.random(len(others))])
    sample.say(_hidden(rng, chars - 90, source, needles + others, depths))
    sample.say(f"What are all pass keys of {names[0]}? The pass keys of {names[0]} are")
    sample.answer(" " + ", ".join(keys))
    sample.say(".")
    return sample


def multi_query(rng, chars: int, source: Source, num_queries: int = 0, num_needles: int = 0) -> Sample:
    """Several of the needles are asked for in one question."""
    names = source.names(rng, num_needles or max(4, _count(rng, chars)))
    keys = [random_key(rng) for _ in names]
    needles = [NAMED.format(name=name, key=key) for name, key in zip(names, keys)]
    asked = rng.permutation(len(names))[: num_queries or int(rng.integers(2, 5))]
    sample = Sample()
    sample.say(_hidden(rng, chars - 160, source, needles))
    sample.say(f"What are the pass keys of {', '.join(names[i] for i in asked)}?")
    sample.answer("".join(f" The pass key of {names[i]} is {keys[i]}." for i in asked))
    return sample


def lookup(rng, chars: int, source: Source) -> Sample:
    """A list of pairs, then all of them in another order: half of the text is asked for."""
    count = max(2, min(len(source.words), chars // 2 // 14))
    names = source.names(rng, count)
    keys = [random_key(rng) for _ in names]
    sample = Sample()
    sample.say("".join(f"{name}: {key}\n" for name, key in zip(names, keys)) + "Again:\n")
    for index in rng.permutation(count):
        sample.say(f"{names[index]}:")
        sample.answer(f" {keys[index]}")
        sample.say("\n")
    return sample


def variables(rng, chars: int, source: Source, num_chains: int = 0, num_hops: int = 0) -> Sample:
    """Chains of assignments; all names that hold the first one's value, in their order."""
    chains = num_chains or max(1, min(4, chars // 600))
    hops = num_hops or int(rng.integers(1, 4))
    names = source.names(rng, chains * (hops + 1))
    values = [random_key(rng) for _ in range(chains)]
    needles, depths = [], []
    for i, value in enumerate(values):
        chain = names[i * (hops + 1) : (i + 1) * (hops + 1)]
        needles += [f"VAR {chain[0]} = {value}."]
        needles += [f"VAR {new} = VAR {old}." for old, new in zip(chain, chain[1:])]
        depths += np.sort(rng.random(hops + 1)).tolist()
    sample = Sample()
    sample.say(_hidden(rng, chars - 120, source, needles, depths))
    sample.say(f"Which variables hold {values[0]}? They are")
    sample.answer(" " + ", ".join(names[: hops + 1]))
    sample.say(".")
    return sample


def counting(rng, chars: int, source: Source) -> Sample:
    """How often some words stand in a list, each up to nine times."""
    num_words = max(8, chars // 8)
    asked = min(8, num_words // 8)
    names = source.names(rng, asked + 64)
    counts = rng.integers(1, 10, asked)
    listed = [name for name, count in zip(names, counts) for _ in range(count)][:num_words]
    listed += [names[asked + i] for i in rng.integers(0, 64, max(0, num_words - len(listed)))]
    listed = [listed[i] for i in rng.permutation(len(listed))]
    sample = Sample()
    sample.say("List: " + " ".join(listed) + "\n")
    for name in names[:asked]:
        sample.say(f"Number of times that {name} stands in the list:")
        sample.answer(f" {listed.count(name)}")
        sample.say("\n")
    return sample


def copying(rng, chars: int, source: Source) -> Sample:
    """Random words and digits, and once more."""
    count = max(4, chars // 2 // 8)
    letters = np.array(list(string.digits))
    tokens = [
        "".join(rng.choice(letters, 3)) if rng.random() < 0.2 else source.words[rng.integers(len(source.words))]
        for _ in range(count)
    ]
    sample = Sample()
    sample.say("Copy: " + " ".join(tokens) + "\nCopy:")
    sample.answer(" " + " ".join(tokens))
    return sample


def common_words(rng, chars: int, source: Source, num_common: int = 3) -> Sample:
    """The most frequent words of a list, in the order in which they first stand there."""
    num_words = max(16, chars // 8)
    rare = max(num_common, num_words // 8)
    names = source.names(rng, min(len(source.words), num_common + rare))
    common = [name for name in names[:num_common] for _ in range(max(3, num_words // 5 // num_common))]
    others = names[num_common:]
    listed = common + [others[i] for i in rng.integers(0, len(others), max(0, num_words - len(common)))]
    listed = [listed[i] for i in rng.permutation(len(listed))]
    found = sorted(names[:num_common], key=listed.index)
    sample = Sample()
    sample.say("List: " + " ".join(listed) + f"\nThe {num_common} most common words of the list are")
    sample.answer(" " + ", ".join(found))
    sample.say(".")
    return sample


BY_NAME = {
    function.__name__: function
    for function in (
        pass_key,
        multi_key,
        multi_value,
        multi_query,
        lookup,
        variables,
        counting,
        copying,
        common_words,
    )
}


@dataclasses.dataclass(frozen=True)
class Encoded:
    """int64 ids [tokens], the first of them <s>; is_answer [tokens]: of an answer; and the text behind it."""

    ids: np.ndarray
    is_answer: np.ndarray
    sample: Sample


def encode(sample: Sample, tokenizer) -> Encoded:
    """The whole text at once, as a server reads it: a token is an answer's where its end lies in one."""
    ids, ends = tokenizer.encode_with_ends(sample.text)
    is_answer = np.zeros(len(ids) + 1, bool)
    for begin, end in sample.answers:
        is_answer[1:] |= (ends > begin) & (ends <= end)
    return Encoded(np.concatenate([[tokenizer.bos], ids]), is_answer, sample)


FILLED = 0.9  # of the length that was asked for
TRIES = 10


def fit(name: str, seed: list[int], length: int, source: Source, encode, **options) -> Encoded:
    """A task of at most `length` tokens with <s>, and not many fewer unless it cannot be as long. The same for the same
    arguments. `encode`: Sample -> Encoded. ValueError where the task does not fit."""
    best, chars, previous = None, 2.0 * length, 0
    for _ in range(TRIES):
        sample = BY_NAME[name](np.random.default_rng(seed), int(chars), source, **options)
        encoded = encode(sample)
        found = len(encoded.ids)
        if found <= length and (best is None or found > len(best.ids)):
            best = encoded
        if best is not None and (len(best.ids) >= FILLED * length or found == previous):
            return best
        chars, previous = chars * 0.97 * length / found, found
    if best is None:
        raise ValueError(f"the task {name} does not fit in {length} tokens")
    return best
