"""Families that transformers implements: our logits beside its own, in float32."""

import dataclasses

import numpy as np
import pytest

from tests.support import nsa_eval, tiny_folder

pytestmark = pytest.mark.oracle

LENGTHS = [1, 15, 16, 17, 63, 64, 65, 1000, 4100]
TOLERANCE = 2e-3
EXACT = nsa_eval.Attention("full", kv_cache_dtype="f32")

SIZES = dict(
    vocab_size=tiny_folder.VOCABULARY,
    hidden_size=96,
    intermediate_size=160,
    num_hidden_layers=2,
    max_position_embeddings=8192,
    pad_token_id=None,
    bos_token_id=1,
    eos_token_id=2,
)


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    family: str  # of transformers: its configuration class and model class
    settings: dict = dataclasses.field(default_factory=dict, hash=False)


def heads(group: int, head_dim: int, kv_heads: int = 2) -> dict:
    return dict(
        num_attention_heads=group * kv_heads, num_key_value_heads=kv_heads, head_dim=head_dim
    )


def rope(**settings) -> dict:
    return dict(rope_parameters=dict(rope_theta=10000.0, **settings))


CASES = [
    *(Case(f"group-{g}", "Llama", dict(heads(g, 32), hidden_size=112 if g == 7 else 96))
      for g in (1, 2, 3, 4, 7, 16)),
    *(Case(f"head-{d}", "Llama", heads(2, d)) for d in (64, 80, 96, 128, 256)),
    Case("tied", "Llama", dict(heads(2, 32), tie_word_embeddings=True)),
    Case("biases", "Llama", dict(heads(2, 32), attention_bias=True, mlp_bias=True)),
    Case("linear", "Llama", dict(heads(2, 32), **rope(rope_type="linear", factor=4.0))),
    Case(
        "llama3",
        "Llama",
        dict(
            heads(2, 64),
            **rope(
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=1024,
            ),
        ),
    ),
    Case(
        "yarn",
        "Llama",
        dict(
            heads(2, 64),
            **rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=2048),
        ),
    ),
    Case("mistral", "Mistral", dict(heads(4, 32), sliding_window=None)),
    Case("mistral-window", "Mistral", dict(heads(4, 32), sliding_window=100)),
    Case("qwen2", "Qwen2", dict(num_attention_heads=6, num_key_value_heads=2)),
    Case(
        "qwen2-window",
        "Qwen2",
        dict(
            num_attention_heads=6,
            num_key_value_heads=2,
            use_sliding_window=True,
            sliding_window=70,
            max_window_layers=1,
        ),
    ),
    Case("qwen3", "Qwen3", heads(2, 32)),
    Case(
        "gemma3",
        "Gemma3Text",
        dict(
            heads(4, 32, kv_heads=1),
            num_hidden_layers=6,
            sliding_window=64,
            query_pre_attn_scalar=24,
            hidden_activation="gelu_pytorch_tanh",
        ),
    ),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def checkpoint(request, tmp_path_factory):
    """The folder and, for LENGTHS' longest, tokens and logits of the reference."""
    import torch
    import transformers

    case = request.param
    config = getattr(transformers, f"{case.family}Config")(**dict(SIZES, **case.settings))
    config._attn_implementation = "eager"
    name = {"Gemma3Text": "Gemma3"}.get(case.family, case.family)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    folder = tiny_folder.write(tmp_path_factory.mktemp(case.name) / "model", model)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(3, tiny_folder.VOCABULARY, (LENGTHS[-1],), generator=generator)
    with torch.no_grad():
        logits = model(tokens[None]).logits[0].float().numpy()
    return folder, tokens.tolist(), logits


def check(ours: np.ndarray, expected: np.ndarray) -> None:
    worst = np.abs(ours - expected).max()
    print(f"largest difference {worst:.2e}, largest logit {np.abs(expected).max():.1f}")
    assert worst <= TOLERANCE


@pytest.mark.parametrize("length", LENGTHS)
def test_logits(checkpoint, length):
    folder, tokens, expected = checkpoint
    result = nsa_eval.evaluate(tokens[:length], EXACT, logits_from=0, model=folder)
    assert expected[:length].std() > 0.3
    check(result.logits, expected[:length])


@pytest.mark.parametrize("chunk", [1, 37])
def test_cached_decode_and_chunks(checkpoint, chunk):
    folder, tokens, expected = checkpoint
    length = 200 if chunk == 1 else 1000
    result = nsa_eval.evaluate(
        tokens[:length], EXACT, logits_from=0, max_step_tokens=chunk, model=folder
    )
    check(result.logits, expected[:length])
