#!/usr/bin/env python3
"""Joins what tests/gpu/run.sh left in a folder: summary.json, and the ratios on standard output.

    python3 tests/gpu/report.py FOLDER

Reads steps.tsv (step, status, seconds), parity.json (parity.py), engine.json (engine_check.py), bench.jsonl
(nsa_bench), attention.json (attention_bench.cc), torch.json (torch_peer.py) and training.json (tests/bench); what is
missing is left out. Ends with 1 where a step failed. Needs Python alone.
"""

import json
import pathlib
import sys

SKIPPED = 77


def read(path: pathlib.Path):
    """None where there is none, or where its program died before its end."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def lines_of(path: pathlib.Path) -> list | None:
    """Of a file with a JSON object a line."""
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def steps_of(folder: pathlib.Path) -> list[dict]:
    words = {0: "passed", SKIPPED: "skipped", 124: "out of time"}
    steps = []
    for line in (folder / "steps.tsv").read_text(encoding="utf-8").splitlines():
        name, status, seconds = line.split("\t")
        outcome = words.get(int(status), f"failed with {status}")
        steps.append({"step": name, "outcome": outcome, "seconds": float(seconds)})
    return steps


def ratios(ours: dict, theirs: dict | None) -> list[dict]:
    """A line a shape: NSA beside our full attention and PyTorch's, and what it is of its floor."""

    def peer(kind: str, key: dict) -> float | None:
        for row in (theirs or {}).get(kind, []):
            if all(row.get(name) == value for name, value in key.items()):
                return row["us"]
        return None

    lines = []
    for row in ours.get("decode", []):
        key = {"context": row["context"], "batch": row["batch"]}
        full = row["operators"]["full_attn"]
        line = {"kind": "decode"} | key
        line |= {
            "sparse_us": row["sparse_us"],
            "full_us": row["full_us"],
            "torch_us": peer("decode", key),
            "of_floor": row["sparse_floor_us"] / row["sparse_us"],
            "full_of_bandwidth": full["of_bandwidth"],
        }
        lines.append(line)
    for row in ours.get("prefill", []):
        key = {"context": row["context"]}
        line = {"kind": "prefill"} | key | {"batch": 1}
        line |= {
            "sparse_us": row["sparse_ms"] * 1e3,
            "full_us": row["full_ms"] * 1e3,
            "torch_us": peer("prefill", key),
        }
        lines.append(line)
    for line in lines:
        line["over_own_full"] = line["full_us"] / line["sparse_us"]
        if line["torch_us"] is not None:
            line["over_torch"] = line["torch_us"] / line["sparse_us"]
            line["own_full_over_torch"] = line["torch_us"] / line["full_us"]
    return lines


def table(lines: list[dict]) -> str:
    columns = ["kind", "context", "batch", "sparse_us", "full_us", "torch_us", "over_own_full",
               "over_torch", "own_full_over_torch", "of_floor", "full_of_bandwidth"]  # fmt: skip

    def cell(value) -> str:
        if value is None:
            return "–"
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    rows = [columns] + [[cell(line.get(column)) for column in columns] for line in lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    return "\n".join("  ".join(word.rjust(w) for word, w in zip(row, widths)) for row in rows)


def main() -> int:
    folder = pathlib.Path(sys.argv[1])
    steps = steps_of(folder)
    summary = {"steps": steps}
    ours = read(folder / "attention.json")
    if ours is not None:
        lines = ratios(ours, read(folder / "torch.json"))
        summary |= {"device": ours["device"], "read_bandwidth_gb_s": ours["read_bandwidth_gb_s"],
                    "attention": lines}  # fmt: skip
        print(f"{ours['device']}, reads {ours['read_bandwidth_gb_s']:.0f} GB/s\n{table(lines)}")
    found = {name: read(folder / f"{name}.json") for name in ("parity", "engine", "training")}
    found["bench"] = lines_of(folder / "bench.jsonl")
    summary |= {name: part for name, part in found.items() if part is not None}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    for step in steps:
        print(f"{step['step']:<44}{step['outcome']:>16}{step['seconds']:>9.1f} s")
    return int(any(step["outcome"] not in ("passed", "skipped") for step in steps))


if __name__ == "__main__":
    sys.exit(main())
