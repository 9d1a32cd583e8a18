"""The reader of ptxas output sees spills, and compiles what CMake compiles."""

from tests.cuda_host import check_ptxas
from tests.tidy import files

OUTPUT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4goodv' for 'sm_90'
ptxas info    : Function properties for _Z4goodv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers, used 1 barriers, 32 bytes smem
ptxas info    : Compiling entry function '_Z3badv' for 'sm_100a'
ptxas info    : Function properties for _Z3badv
    24 bytes stack frame, 20 bytes spill stores, 28 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""


def test_spills_are_seen():
    good, bad = check_ptxas.parse(OUTPUT)
    assert (good.architecture, good.registers, good.shared) == (90, 30, 32)
    assert not good.complaint()
    assert (bad.architecture, bad.registers, bad.stack, bad.spills) == (100, 255, 24, 48)
    assert "_Z3badv on sm_100: 48 bytes of spills" in bad.complaint()


def test_flags_are_those_of_the_build():
    build = (files.ROOT / "kernels/cuda/CMakeLists.txt").read_text(encoding="utf-8")
    for flag in check_ptxas.FLAGS:
        assert flag in build, flag
    build = (files.ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    for number in check_ptxas.ARCHITECTURES:
        assert f" {number}" in build, number
