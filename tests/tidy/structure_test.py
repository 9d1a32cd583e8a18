"""Where things are: READMEs, tests that mirror sources, header guards."""

import pathlib
import re

from tests.tidy import files

# Tests of what several sources promise together, by what they show.
ACROSS = {
    "tests/cuda_engine/cuda_ahead_test.cc",
    "tests/cuda_engine/cuda_memory_test.cc",
    "tests/cuda_engine/cuda_model_test.cc",
    "tests/cuda_engine/cuda_tier_test.cc",
    "tests/engine/choices_test.cc",
    "tests/engine/decode_work_test.cc",
    "tests/engine/overload_simulation_test.cc",
    "tests/engine/scheduler_slots_check_test.cc",
    "tests/engine/folder_mutations_test.cc",
    "tests/engine/lifecycle_test.cc",
    "tests/engine/nsa_definition_test.cc",
    "tests/kernels/nsa_equivalence_test.cc",
    "tests/server/sentencepiece_grpc_test.cc",
}


# Tests of kernels/cuda on an emulator, and of the emulator.
LAYER_OF = {"cuda_host": "kernels/cuda"}


def mirrored(test: str, tracked: set[str]) -> bool:
    """tests/LAYER/NAME_test.cc stands for a NAME.h or NAME.cc somewhere in LAYER."""
    path = pathlib.PurePosixPath(test)
    layer, name = path.parts[1], path.stem.removesuffix("_test")
    wanted = {f"{name}.h", f"{name}.cc", f"{name}-inl.h", f"{name}.cu", f"{name}.proto"}
    roots = (f"{LAYER_OF.get(layer, layer)}/", f"tests/{layer}/")
    return any(p.startswith(roots) and p.rsplit("/", 1)[-1] in wanted for p in tracked)


def test_tests_mirror_sources():
    tracked = set(files.tracked())
    findings = [
        test
        for test in files.with_suffix("_test.cc")
        if test not in ACROSS and not test.startswith("tests/e2e/") and not mirrored(test, tracked)
    ]
    files.expect_none(
        findings,
        "a test is named as the source that it tests, in the same layer; a test of several "
        "together is listed in ACROSS",
    )


def test_every_folder_says_what_it_is():
    """A README.md of its own; below the first level, and for CMake's, the parent's may name it."""
    tracked = set(files.tracked())
    folders = {str(pathlib.PurePosixPath(path).parent) for path in files.with_suffix(*files.SOURCES)}
    findings = []
    for folder in sorted(folders - {"."}):
        parent, _, name = folder.rpartition("/")
        readme = f"{parent}/README.md" if parent else "README.md"
        named = readme in tracked and f"{name}/" in files.read(readme)
        if f"{folder}/README.md" not in tracked and not (named and (parent or folder == "cmake")):
            findings.append(folder)
    files.expect_none(findings, "a folder has a README.md, or its parent's README.md names it")


def test_header_guards():
    findings = []
    for path in files.with_suffix(".h"):
        guard = "NSA_" + re.sub(r"[^A-Z0-9]", "_", path.upper()) + "_"
        text = files.read(path)
        # Highway's -inl.h files are included once per target, behind a guard that toggles.
        if path.endswith("-inl.h"):
            continue
        if f"#ifndef {guard}\n#define {guard}\n" not in text or f"#endif  // {guard}" not in text:
            findings.append(f"{path}: {guard}")
    files.expect_none(findings, "a header has the guard of its path")


def test_the_mirror_check_can_fail():
    tracked = {"kernels/cpu/gemm.cc", "engine/sampler.h"}
    assert mirrored("tests/kernels/gemm_test.cc", tracked)
    assert mirrored("tests/engine/sampler_test.cc", tracked)
    assert not mirrored("tests/engine/gemm_test.cc", tracked)
    assert mirrored("tests/cuda_host/glu_test.cc", {"kernels/cuda/glu.cu"})
    assert not mirrored("tests/cuda_host/gemm_test.cc", tracked)
