"""What tests/gpu does where there is no GPU: its scripts, its report and its generated models."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from tests.gpu import engine_check, generated_models, parity, report
from tests.support import model_files

GPU = model_files.ROOT / "tests" / "gpu"


def has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    run = subprocess.run([GPU / "run.sh"], capture_output=True, text=True, env={"OUT": str(tmp_path)})
    assert (run.returncode, run.stderr) == (0, "no GPU: skipped\n")
    assert not list(tmp_path.iterdir())


def test_a_wrong_step_is_refused():
    run = subprocess.run([GPU / "run.sh", "everything"], capture_output=True, text=True)
    assert run.returncode == 2 and "unknown step everything" in run.stderr


def test_what_travels_is_small_and_static(tmp_path):
    target = tmp_path / "deps"
    subprocess.run([GPU / "pack_deps.sh", target], check=True, capture_output=True)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    assert size <= 40 << 20
    assert not list(target.rglob("*.so*"))
    for wanted in ("abslConfig.cmake", "GTestConfig.cmake", "nlohmann_jsonConfig.cmake"):
        assert len(list(target.rglob(wanted))) == 1, wanted


def test_kernels_configure_without_the_engine(tmp_path):
    has_cuda = shutil.which("nvcc") is not None
    command = ["cmake", "-S", model_files.ROOT, "-B", tmp_path, "-DNSA_BUILD_ENGINE=OFF",
               f"-DNSA_BUILD_CUDA={'ON' if has_cuda else 'OFF'}"]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("source", ["engine/tokenizer/ids_only/text.cc", "kernels/no_cpu.cc"])
def test_what_only_a_lean_build_has_compiles(source):
    compile_it = ["g++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(compile_it + [f"-I{model_files.ROOT}", model_files.ROOT / source], check=True)


def test_the_report_has_ratios_and_fails_with_a_step(tmp_path, monkeypatch, capsys):
    full = {"of_bandwidth": 0.8}
    decode = {"context": 65536, "batch": 1, "sparse_us": 10.0, "full_us": 80.0,
              "sparse_floor_us": 4.0, "operators": {"full_attn": full}}  # fmt: skip
    ours = {"device": "card", "read_bandwidth_gb_s": 3000.0, "decode": [decode]}
    theirs = {"decode": [{"context": 65536, "batch": 1, "us": 40.0}]}
    (tmp_path / "attention.json").write_text(json.dumps(ours))
    (tmp_path / "torch.json").write_text(json.dumps(theirs))
    monkeypatch.setattr("sys.argv", ["report.py", str(tmp_path)])
    for status, ends_with in ((0, 0), (77, 0), (1, 1), (124, 1)):
        (tmp_path / "steps.tsv").write_text(f"build\t0\t1.5\nparity\t{status}\t2.0\n")
        assert report.main() == ends_with
    summary = json.loads((tmp_path / "summary.json").read_text())
    (line,) = summary["attention"]
    assert (line["over_own_full"], line["over_torch"], line["of_floor"]) == (8.0, 4.0, 0.4)
    assert summary["steps"][1]["outcome"] == "out of time"
    assert "card" in capsys.readouterr().out


FAKE_TESTS = """#!/usr/bin/env python3
import json, os, sys
flags = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
if "--gtest_list_tests" in sys.argv:
    print("S.\\n  Good\\n  Wrong\\n  Dies/bf16  # GetParam() = 3")
    sys.exit()
wanted = flags["gtest_filter"]
if wanted in ("*", "S.Dies/bf16"):
    print("CUDA: an illegal memory access")
    os.abort()
test = {"classname": "S", "name": wanted.split(".")[1], "result": "COMPLETED", "exp": "0.9"}
if wanted == "S.Wrong":
    test["failures"] = [{"failure": "x != y"}]
with open(flags["gtest_output"].removeprefix("json:"), "w") as file:
    json.dump({"testsuites": [{"testsuite": [test]}]}, file)
"""


def test_of_a_program_that_dies_each_test_runs_alone(tmp_path):
    path = tmp_path / "gpu_fake_test"
    path.write_text(FAKE_TESTS)
    path.chmod(0o755)
    result = parity.run_program(parity.Program(path, 30))
    assert (result["tests"], result["skipped"]) == (3, 0)
    assert result["failures"]["S.Wrong"] == "x != y"
    assert "illegal memory access" in result["failures"]["S.Dies/bf16"]
    assert result["measured"] == {"Good exp": "0.9", "Wrong exp": "0.9"}


@pytest.mark.parametrize("family", ["llama", "llama-nsa"])
def test_the_generated_model_retrieves(tmp_path, family):
    """On the CPU. Where the text hides no key, none is found."""
    tool = engine_check.Tool(model_files.tool("nsa_eval"))
    model = generated_models.write_retrieval(tmp_path / family, family, 8 * 4096)
    tokens, key = generated_models.probe(3000, 40)
    answer = tool.run(model, tokens, "", "--attention=nsa", "--generate=1")
    assert int(answer) == key
    tokens[tokens.index(key)] = generated_models.FIRST_FILLER
    scores = tool.logits(model, tokens, "", "--attention=nsa")[-1]
    assert np.abs(scores[: generated_models.NUM_KEYS]).max() < 0.1
