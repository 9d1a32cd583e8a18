"""Requests that `nsa_client load --plan_out` planned, dealt out to runs at several rates.

A plan is drawn once, at one arrival a second. A run takes the next piece of it, with the gaps between arrivals divided
by its rate: exponential gaps stay exponential, prompts share one prefix, and no prompt is sent to a server twice. Each
piece is a trace file's lines, which both sides of a comparison send.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import tempfile

from tests.support import model_files


class Plan:
    def __init__(self, requests: list[dict]):
        self.requests = requests
        self.next = 0

    @classmethod
    def draw(cls, address: str, count: int, *words: str, text: str = "") -> Plan:
        """Of `count` requests, whose lengths and seed the flags `words` tell; prompts are pieces of `text`, or random
        ids without. The server at `address` is asked for its vocabulary, its context and the text's tokens."""
        command = [model_files.tool("nsa_client"), "load", f"--server={address}", "--rate=1"]
        command += [f"--num_requests={count}", *words]
        with tempfile.TemporaryDirectory() as name:
            plan, source = pathlib.Path(name) / "plan.jsonl", pathlib.Path(name) / "text"
            if text:
                source.write_text(text)
                command.append(f"--text_file={source}")
            words = [str(word) for word in (*command, f"--plan_out={plan}")]
            run = subprocess.run(words, capture_output=True, text=True)
            if run.returncode != 0:
                raise RuntimeError(run.stderr)
            return cls([json.loads(line) for line in plan.read_text().splitlines()])

    def take(self, count: int) -> list[dict]:
        """The next `count` requests, all of which have arrived."""
        taken = self.requests[self.next : self.next + count]
        if len(taken) < count:
            raise RuntimeError(f"the plan of {len(self.requests)} requests is used up")
        self.next += count
        return [request | {"arrival_s": 0.0} for request in taken]

    def take_arrivals(self, rate: float, seconds: float, **fields) -> list[dict]:
        """The next requests, at `rate` a second on average, that arrive within `seconds`; at least one. `fields` are
        added to each (deadline_ms, say)."""
        origin = self.requests[self.next - 1]["arrival_s"] if self.next else 0.0
        taken: list[dict] = []
        for request in self.requests[self.next :]:
            arrival = (request["arrival_s"] - origin) / rate
            if taken and arrival >= seconds:
                self.next += len(taken)
                return taken
            taken.append(request | {"arrival_s": arrival} | fields)
        raise RuntimeError(f"the plan of {len(self.requests)} requests is used up")


def write(requests: list[dict], path: pathlib.Path) -> pathlib.Path:
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path
