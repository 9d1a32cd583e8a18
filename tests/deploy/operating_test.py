"""docs/operating.md: its formula is the engine's, its table follows the formula, each alert has its section."""

import re

import pytest
import yaml

from tests.support import model_files, prometheus, server

GUIDE = (model_files.ROOT / "docs/operating.md").read_text(encoding="utf-8")
ELEMENT_BYTES = {"f16": 2, "bf16": 2, "int8": 1, "f32": 4}
CLUSTERS = 8


def page_bytes(layers: int, kv_heads: int, head_dim: int, dtype: str, attention: str = "nsa") -> int:
    """The guide's formula, for training-free NSA and for full attention."""
    token = 2 * head_dim * ELEMENT_BYTES[dtype] + (8 if dtype == "int8" else 0)
    compressed = CLUSTERS * ((4 * head_dim + 4) if dtype == "f32" else (head_dim + 8))
    if attention == "full":
        compressed = 0
    return layers * kv_heads * (64 * token + compressed)


@pytest.mark.parametrize("attention", ["nsa", "full"])
@pytest.mark.parametrize("dtype", ELEMENT_BYTES)
@pytest.mark.parametrize("model", ["tiny", "default"])
def test_the_formula_is_the_engines(tiny_path, model, dtype, attention):
    path = tiny_path if model == "tiny" else model_files.model_path()
    flags = dict(max_context=2048, kv_cache_dtype=dtype, attention=attention, num_threads=1)
    with server.running(path, max_running_requests=2, **flags) as one:
        info = one.stub.GetModelInfo(server.pb().GetModelInfoRequest())
    expected = page_bytes(info.num_layers, info.num_kv_heads, info.head_dim, dtype, attention)
    assert info.kv_pool_bytes == expected * info.num_pages
    assert info.num_pages == 2 * 2048 // 64, "a pool for all requests that may run"


def table() -> list[list[str]]:
    rows = re.findall(r"^\| ((?:SmolLM|Llama).*) \|$", GUIDE, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows]


def test_the_table_follows_the_formula():
    assert len(table()) == 6
    for name, layers, heads, dim, dtype, page, token, whole in table():
        size = page_bytes(int(layers), int(heads), int(dim), dtype)
        assert page == f"{size:,}", name
        assert token == f"{size / 64 / 1024:.1f}", name
        assert whole == f"{size * 1024 / 2**30:.2f}", name


def test_each_alert_has_a_section():
    groups = yaml.safe_load((prometheus.CONFIG / "alerts.yaml").read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    assert re.findall(r"^### (\w+)$", GUIDE, re.MULTILINE) == alerts


def test_flags_are_known():
    sources = ("server/flags.cc", "client/channel.cc")
    known = "".join((model_files.ROOT / source).read_text() for source in sources)
    flags = set(re.findall(r"--([a-z]\w+_\w+|attention|model)\b", GUIDE))
    assert len(flags) > 8
    assert [flag for flag in flags if f", {flag}," not in known] == []


def test_files_that_it_names_are_there():
    names = set(re.findall(r"`((?:deploy|docs)/[\w./*-]+)`", GUIDE))
    assert len(names) > 5
    assert [name for name in names if not list(model_files.ROOT.glob(name))] == []
