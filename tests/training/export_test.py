"""What is exported is served: the engine's logits are those of the training code."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in training's environment")

from tests.support import nsa_eval, server  # noqa: E402
from training import checkpoint, export, train  # noqa: E402

pytestmark = pytest.mark.training
TOLERANCE = 2e-3


class Never:
    asked = False


@pytest.fixture(scope="module", params=["nsa", "full"])
def exported(request, tiny_config, tiny_twin, tmp_path_factory):
    """(model, folder) of a short run."""
    config = tiny_config if request.param == "nsa" else tiny_twin
    run, folder = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("folder")
    train.train(train.Run(config, run), config.num_steps(), Never())
    model, tokens, context = export.load_run(run)
    export.write(model, tokens, folder, context)
    return model, folder


@torch.no_grad()
def logits_of(model, ids: list[int]) -> np.ndarray:
    hidden = model(torch.tensor(ids), torch.tensor([0, len(ids)]))
    return (hidden @ model.output_matrix.T).numpy()


@pytest.mark.parametrize("length", [1, 7, 8, 17, 100, 250])
def test_served_logits_are_those_of_training(exported, length):
    model, folder = exported
    ids = [1, *np.random.default_rng(length).integers(3, 900, length - 1).tolist()]
    attention = nsa_eval.Attention("auto", kv_cache_dtype="f32")
    served = nsa_eval.evaluate(ids, attention, logits_from=0, model=folder).logits
    difference = np.abs(served - logits_of(model, ids)).max()
    print(f"largest difference {difference:.2e} at {length} tokens")
    assert difference <= TOLERANCE


def test_tokens_and_answers_are_the_servers(exported):
    model, folder = exported
    tokens = export.tokenizer.read(folder / "tokenizer.model")
    with server.running(folder, kv_cache_gib=0.1) as running:
        for words in ("The pass key is 12345.", "  blanks\n\tand a tab", "ümläut 漢字 🙂"):
            ids = [tokens.bos, *tokens.encode(words)]
            request = server.pb().TokenizeRequest(text=words.encode())
            assert list(running.stub.Tokenize(request, timeout=30).token_ids) == ids
            done = server.generate(running, server.request(words, max_tokens=1))
            assert done.token_ids == [int(logits_of(model, ids)[-1].argmax())]


def test_bfloat16_halves_the_file(exported, tmp_path):
    model, folder = exported
    export.write(model, (folder / "tokenizer.model").read_bytes(), tmp_path, 256, "bfloat16")
    sizes = [(f / "model.safetensors").stat().st_size for f in (folder, tmp_path)]
    assert sizes[1] < 0.6 * sizes[0]
    served = nsa_eval.evaluate([1, 5, 9], nsa_eval.Attention("auto"), logits_from=0, model=tmp_path).logits
    assert np.isfinite(served).all()


def test_what_was_written_is_read_again(exported):
    model, folder = exported
    again = export.read(folder)
    words = [export.model_json(config, 1000, 512) for config in (again.config, model.config)]
    assert words[0] == words[1]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_a_folder_without_checkpoints(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint"):
        export.load_run(tmp_path)
