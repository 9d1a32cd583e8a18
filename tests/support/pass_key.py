"""Pass-key retrieval: a five-digit key hidden in filler or in real text, and whether the model finds it.

The prompts have the task's usual form, each part on a line of its own (the needle in the running line,
or a blank line before the question, and even full attention misses keys at 4k tokens). They continue as
raw text, or as a user's turn of the checkpoint's chat template.
"""

import dataclasses
import random

import numpy as np

from tests.support import compare, model_files, nsa_eval
from training.tasks import FILLER, NEEDLE, NUM_DIGITS, QUESTION
from training.tasks import INTRODUCTION as TASK

CHAT = (
    "<|im_start|>user\n{prompt}What is the pass key?<|im_end|>\n<|im_start|>assistant\nThe pass key is"
)


@dataclasses.dataclass(frozen=True)
class Probe:
    """A prompt as token ids and the ids of the key that should follow it."""

    context: int  # wished length in tokens
    depth: int  # per cent of the haystack before the needle
    key: str
    prompt: list[int]
    answer: list[int]  # of " 12345": what precedes the digits, then the digits


@dataclasses.dataclass(frozen=True)
class Answer:
    hit: bool  # greedy decoding gives the key
    logprob: float  # mean over the key's digits, given the right ones before


def filler_haystack(num_chars: int) -> str:
    return FILLER * (num_chars // len(FILLER) + 1)


def manual_haystack(num_chars: int, part: int = 0) -> str:
    """Prose of the policy manual, from behind its table of contents; parts begin 40,000 letters apart."""
    begin = 20_000 + 40_000 * part
    return model_files.manual_text()[begin : begin + num_chars]


def make_probe(haystack, context: int, depth: int, *, chat: bool = False, seed: int = 0) -> Probe:
    """A prompt of at most `context` tokens, and no more than a few sentences fewer."""
    model = model_files.model_path()
    key = str(random.Random(1_000_000 * seed + 1000 * context + depth).randrange(10_000, 100_000))
    needle = NEEDLE.format(key=key)
    # A first guess of the length from a sample, then cut to fit: text is not tokens.
    text = haystack(8 * context)
    sample = len(model_files.encode([text[:20_000]], model)[0]) / len(text[:20_000])
    num_chars = int(context / sample)
    while True:
        prompt_text = compose(text[:num_chars], needle, depth, chat)
        texts = [prompt_text, f"{prompt_text} {key}"]
        prompt, whole = model_files.encode(texts, model, chat, begin=True)
        if len(whole) <= context:
            break
        num_chars -= max(16, int((len(whole) - context) / sample))
    if whole[: len(prompt)] != prompt:
        raise ValueError("the key changes the tokens of the question before it")
    return Probe(context, depth, key, prompt, whole[len(prompt) :])


def compose(haystack: str, needle: str, depth: int, chat: bool) -> str:
    """The needle goes to the end of the sentence or paragraph nearest below `depth`."""
    at = haystack.rfind(". ", 0, len(haystack) * depth // 100) + 2
    if at < 2:
        at = 0
    body = f"{haystack[:at]}\n{needle}\n{haystack[at:]}\n"
    if chat:
        return CHAT.format(prompt=TASK + body)
    return TASK + body + QUESTION


def ask(probe: Probe, attention: nsa_eval.Attention, num_threads: int = 0) -> Answer:
    """One pass over prompt and key: logits before each token of the key. Greedy decoding gives the
    key exactly where each of its tokens is the best one given those before it (cached decode
    equals full forward bit for bit, which has tests of its own)."""
    tokens = probe.prompt + probe.answer
    result = nsa_eval.evaluate(
        tokens,
        attention,
        logits_from=len(probe.prompt) - 1,
        num_threads=num_threads,
    )
    rows = result.logits[:-1]
    best = rows.argmax(axis=1)
    logprobs = compare.logprobs(rows, np.asarray(probe.answer))
    return Answer(
        hit=best.tolist() == probe.answer, logprob=float(logprobs[-NUM_DIGITS:].mean())
    )


def generate(probe: Probe, attention: nsa_eval.Attention, num_threads: int = 0):
    """Greedy decoding itself, token by token: (hit, text, measured)."""
    result = nsa_eval.evaluate(
        probe.prompt, attention, generate=len(probe.answer) + 4, num_threads=num_threads
    )
    text = model_files.decode(result.generated, model_files.model_path())
    return text.strip().startswith(probe.key), text, result
