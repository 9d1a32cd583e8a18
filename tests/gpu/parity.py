#!/usr/bin/env python3
"""Runs the GPU tests of a build, and tells of each what failed, as JSON.

    python3 tests/gpu/parity.py BUILD_DIR [--json FILE] [--jobs 4] [--timeout 120]

A kernel that ends with an error takes its whole program along. So of a program that dies, or takes too long, each
test then runs in a process of its own, and the rest of them count. Ends with 1 where a test fails. Needs Python
alone.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile

NO_GPU = 77
# What device_test.cu records of the device's functions, in units in the last place.
MEASURED = ("exp", "log", "tanh", "sqrt", "divide")
MAX_WORDS = 1000


class Program:
    """One GoogleTest program."""

    def __init__(self, path: pathlib.Path, timeout_s: float):
        self.path, self.timeout_s = path, timeout_s

    def run(self, test: str = "*") -> dict:
        """What its JSON says of one test or of all; "died" in words where there is none."""
        with tempfile.TemporaryDirectory() as folder:
            target = pathlib.Path(folder, "result.json")
            command = [self.path, f"--gtest_filter={test}", f"--gtest_output=json:{target}"]
            try:
                run = subprocess.run(
                    command + ["--gtest_brief=1"], capture_output=True, text=True, timeout=self.timeout_s
                )
            except subprocess.TimeoutExpired:
                return {"died": f"took more than {self.timeout_s} s"}
            if run.returncode == NO_GPU:
                return {"died": "no GPU"}
            try:
                return read_result(json.loads(target.read_text(encoding="utf-8")))
            except (FileNotFoundError, json.JSONDecodeError):
                words = (run.stdout + run.stderr).strip()[-MAX_WORDS:]
                return {"died": f"ended with {run.returncode}: {words}"}

    def tests(self) -> list[str]:
        listed = subprocess.run(
            [self.path, "--gtest_list_tests"], capture_output=True, text=True, check=True
        )
        names, suite = [], ""
        for line in listed.stdout.splitlines():
            word = line.split("#")[0].rstrip()
            if word.startswith("  "):
                names.append(suite + word.strip())
            elif word.endswith("."):
                suite = word
        return names


def read_result(found: dict) -> dict:
    tests = [test for suite in found["testsuites"] for test in suite["testsuite"]]
    return {
        "tests": len(tests),
        "skipped": sum(test.get("result") == "SKIPPED" for test in tests),
        "failures": {
            f"{test['classname']}.{test['name']}": test["failures"][0]["failure"][:MAX_WORDS]
            for test in tests
            if test.get("failures")
        },
        "measured": {
            f"{test['name']} {key}": test[key] for test in tests for key in MEASURED if key in test
        },
    }


def add(total: dict, test: str, result: dict) -> None:
    """One test's result to its program's."""
    if "died" in result:
        total["tests"] += 1
        total["failures"][test] = result["died"]
        return
    for count in ("tests", "skipped"):
        total[count] += result[count]
    for words in ("failures", "measured"):
        total[words] |= result[words]


def run_program(program: Program) -> dict:
    result = program.run()
    if "died" not in result or result["died"] == "no GPU":
        return result
    total = {"tests": 0, "skipped": 0, "failures": {}, "measured": {}, "died": result["died"]}
    for test in program.tests():
        add(total, test, program.run(test))
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build_dir", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--timeout", type=float, default=120)
    options = parser.parse_args()
    paths = sorted(options.build_dir.glob("gpu_*_test"))
    programs = [Program(path, options.timeout) for path in paths]
    results, num_failed = {}, 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for program, result in zip(programs, pool.map(run_program, programs)):
            name = program.path.name
            results[name] = result
            failures = result.get("failures", {})
            num_failed += len(failures) or int("died" in result)
            print(f"{name}: {result.get('tests', 0)} tests, {result.get('skipped', 0)} skipped, "
                  f"{len(failures)} failed")  # fmt: skip
            for test, words in failures.items():
                print(f"  {test}: {words.splitlines()[0] if words else ''}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    num_passed = sum(result.get("tests", 0) for result in results.values()) - num_failed
    print(f"{max(num_passed, 0)} passed, {num_failed} failed")
    return 1 if num_failed or not programs else 0


if __name__ == "__main__":
    sys.exit(main())
