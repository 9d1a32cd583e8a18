"""Data: a batch is a function of the step; every task's answers are marked to the token."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("sentencepiece", reason="it is in training's environment")

from training import config as configuration  # noqa: E402
from training import tasks, text, tokenizer  # noqa: E402
from training.data import Stream, TrainingData, ValidationData, pack, phase_of  # noqa: E402

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def made(tiny_config):
    documents = text.documents(tiny_config.text)
    tokens = tokenizer.load(documents, tiny_config.tokenizer)
    return *text.corpora(documents, tokens), tokens


def same(a, b) -> bool:
    fields = [field.name for field in dataclasses.fields(a)]
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in fields)


def test_a_batch_is_a_function_of_its_step(tiny_config, made):
    training, _, tokens = made
    one, other = (TrainingData(tiny_config, training, tokens) for _ in range(2))
    in_order = [one.batch(step) for step in range(10)]
    for step in reversed(range(10)):
        assert same(other.batch(step), in_order[step])
    assert not any(np.array_equal(a.ids, b.ids) for a, b in zip(in_order, in_order[1:]))
    seeded = TrainingData(dataclasses.replace(tiny_config, seed=2), training, tokens)
    assert not np.array_equal(seeded.batch(0).ids, in_order[0].ids)


def test_batches_keep_their_phase(tiny_config, made):
    data = TrainingData(tiny_config, made[0], made[2])
    for step in range(10):
        phase, _ = phase_of(tiny_config.phases, step)
        lengths = np.diff(data.batch(step).cu_seqlens)
        assert lengths.max() <= max(phase.lengths) and lengths.sum() <= phase.tokens_per_step
    with pytest.raises(IndexError):
        data.batch(10)


def test_targets_and_weights(made):
    stream = Stream(configuration.Config(), made[0], made[2])
    sequences = [stream.text([1], 64), stream.task("copying", [2], 100), stream.task("pass_key", [3], 256)]
    batch = pack(sequences, 3.0)
    for sequence, begin, end in zip(sequences, batch.cu_seqlens, batch.cu_seqlens[1:]):
        assert batch.ids[begin] == tokenizer.BOS
        assert np.array_equal(batch.targets[begin : end - 1], batch.ids[begin + 1 : end])
        assert batch.weights[end - 1] == 0
        expected = np.ones(end - begin - 1) if sequence.is_text else 3.0 * sequence.is_answer[1:]
        assert np.array_equal(batch.weights[begin : end - 1], expected)


@pytest.mark.parametrize("length", [256, 1000, 4096])
@pytest.mark.parametrize("name", configuration.TASKS)
def test_answers_are_marked_to_the_token(made, name, length):
    corpus, _, tokens = made
    source = tasks.Source(tokens.words, corpus.sample_text, 0.5)
    for seed in range(4):
        encoded = tasks.fit(name, [seed], length, source, lambda sample: tasks.encode(sample, tokens))
        assert length * (0.2 if name in ("counting", "lookup", "copying") else 0.8) < len(encoded.ids) <= length
        assert encoded.ids.tolist() == [tokens.bos, *tokens.encode(encoded.sample.text)]
        marked, runs = encoded.is_answer, []
        edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(int)))
        for begin, end in edges.reshape(-1, 2):
            runs.append(tokens.decode(encoded.ids[begin:end]).strip())
        assert runs == [answer.strip() for answer in encoded.sample.expected()]
        # A prompt alone has the tokens that it has before its answer: what a server reads is what was trained.
        first = int(np.flatnonzero(marked)[0])
        assert [tokens.bos, *tokens.encode(encoded.sample.prompt())] == encoded.ids[:first].tolist()


def test_needles_stand_at_their_depth(made):
    corpus, _, tokens = made
    source = tasks.Source(tokens.words, corpus.sample_text, 1.0)
    for depth in (0.05, 0.5, 0.95):
        sample = tasks.pass_key(np.random.default_rng(1), 20_000, source, depth)
        key = sample.expected()[0].strip()
        assert sample.text.count(key) == 3
        assert abs(sample.text.index(f"The pass key is {key}") / len(sample.text) - depth) < 0.05


def test_validation_is_the_same_for_every_run(tiny_config, made):
    _, validation, tokens = made
    other = dataclasses.replace(tiny_config, seed=9)
    one, two = (list(ValidationData(c, validation, tokens).sets()) for c in (tiny_config, other))
    assert [name for name, _ in one] == [name for name, _ in two]
    for (_, a), (_, b) in zip(one, two):
        assert all(same(x, y) for x, y in zip(a, b, strict=True))


def test_held_out_text_is_in_no_training(tiny_config):
    documents = text.documents(tiny_config.text)
    assert documents.validation and not set(documents.validation) & set(documents.training)


def test_tokenizer_gives_every_text_back(made, tiny_config):
    tokens = made[2]
    for words in ("plain words", "  two  blanks and\n\ta tab", "ümläute, 漢字, 🙂 and 12345", "x\r"):
        assert tokens.decode(tokens.encode(words)) == words
    assert len(tokens.encode("12345")) == len(tokens.encode("1")) + 4
    documents = text.documents(tiny_config.text)
    assert tokenizer.train(documents, tiny_config.tokenizer) == tokens.model


def test_too_little_text(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(text.TextError, match="too little text"):
        text.read(tmp_path)
