#!/usr/bin/env python3
"""Compiles every kernel for every architecture with nvcc, and fails where ptxas spills registers.

    python3 -m tests.cuda_host.check_ptxas [--all] [--record] [--table]

Those whose sources changed since the commit that tests/tidy/clean_commits.json names, and all with --all; --record,
after that, has it name HEAD. Skips with a message where nvcc is not on PATH. --table prints what each kernel takes.
"""

import argparse
import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from tests.tidy import clean_commits, files

# As kernels/cuda/CMakeLists.txt and CMakeLists.txt have them; a test compares.
FLAGS = ["-std=c++20", "--expt-relaxed-constexpr", "--fmad=false", "-Werror=all-warnings"]
ARCHITECTURES = [80, 90, 100]
SETTINGS = ["kernels/cuda/CMakeLists.txt", "tests/cuda_host/check_ptxas.py"]
# Kernels that may spill, by a part of their names, and why. None so far.
ALLOWED: dict[str, str] = {}

ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)a?'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers.*")
SHARED = re.compile(r"(\d+) bytes smem")


@dataclasses.dataclass
class Kernel:
    """What ptxas says of one kernel on one architecture; sizes in bytes."""

    name: str
    architecture: int
    stack: int = 0
    spills: int = 0
    registers: int = 0
    shared: int = 0

    def complaint(self) -> str:
        if self.spills and not any(part in self.name for part in ALLOWED):
            return f"{self.name} on sm_{self.architecture}: {self.spills} bytes of spills"
        return ""


def parse(text: str) -> list[Kernel]:
    """Reads the output of ptxas -v."""
    kernels: list[Kernel] = []
    for line in text.splitlines():
        if entry := ENTRY.search(line):
            kernels.append(Kernel(entry[1], int(entry[2])))
        elif not kernels:
            continue
        elif spills := SPILLS.search(line):
            kernels[-1].stack = int(spills[1])
            kernels[-1].spills = int(spills[2]) + int(spills[3])
        elif used := USED.search(line):
            kernels[-1].registers = int(used[1])
            shared = SHARED.search(line)
            kernels[-1].shared = int(shared[1]) if shared else 0
    return kernels


def compile_kernels(nvcc: str, source: str, architecture: int, folder: str) -> list[Kernel]:
    # The host's part is the same for each.
    output = "-c" if architecture == ARCHITECTURES[0] else "-cubin"
    target = pathlib.Path(folder, f"{pathlib.Path(source).stem}.{architecture}")
    command = [nvcc, *FLAGS, f"-gencode=arch=compute_{architecture},code=sm_{architecture}", "-Xptxas=-v",
               f"-I{files.ROOT}", output, files.ROOT / source, "-o", target]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{source} does not compile for sm_{architecture}:\n{run.stdout}{run.stderr}")
    return parse(run.stdout + run.stderr)


def readable(names: list[str]) -> dict[str, str]:
    tool = shutil.which("c++filt")
    if tool is None:
        return {name: name for name in names}
    run = subprocess.run([tool, "-p"], input="\n".join(names), capture_output=True, text=True)
    short = [re.sub(r"nsa::kernels::|cuda::|\(anonymous namespace\)::", "", line)
             for line in run.stdout.splitlines()]  # fmt: skip
    return dict(zip(names, short, strict=True))


def compile_all(nvcc: str, sources: list[str]) -> list[Kernel]:
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        # One source takes as long as all others together: its architectures are compiled side by side.
        jobs = itertools.product(sources, ARCHITECTURES)
        compiled = pool.map(lambda job: compile_kernels(nvcc, *job, folder), jobs)
        return [kernel for of_job in compiled for kernel in of_job]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("skipped: no nvcc on PATH")
        return 0
    check = clean_commits.Check("ptxas", clean_commits.version_of(nvcc), SETTINGS)
    sources = [source for source in files.with_suffix(".cu") if source.startswith("kernels/cuda/")]
    todo = sources if arguments.all else check.to_see(sources)
    kernels = compile_all(nvcc, todo)
    names = readable([kernel.name for kernel in kernels])
    for kernel in kernels:
        kernel.name = names[kernel.name]
        if arguments.table:
            print(f"sm_{kernel.architecture:<3} {kernel.registers:3} registers, "
                  f"{kernel.shared:5} bytes shared, {kernel.stack} stack: {kernel.name}")  # fmt: skip
    complaints = [kernel.complaint() for kernel in kernels if kernel.complaint()]
    print("\n".join([*complaints, f"ptxas: {len(sources)} sources, {len(todo)} compiled, {len(kernels)} kernels, "
                                  f"{len(complaints)} with spills"]))  # fmt: skip
    if arguments.record:
        assert arguments.all and not complaints, "not every kernel seen and clean"
        check.record(sources)
    # Some sources have no kernel of their own.
    return 1 if complaints or (len(todo) == len(sources) and not kernels) else 0


if __name__ == "__main__":
    sys.exit(main())
