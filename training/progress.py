"""What a run shows and writes while it goes: a bar on a terminal, lines elsewhere, and tables as CSV."""

import csv
import os
import pathlib
import shutil
import sys
import time


def duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


class Bar:
    """A line that is written over on a terminal; where there is none, a line every `every` steps."""

    def __init__(self, num_steps: int, every: int, stream=sys.stderr):
        self.num_steps, self.every, self.stream = num_steps, every, stream
        self.live = stream.isatty()
        self.began, self.first_step, self.tokens = time.monotonic(), None, 0

    def show(self, step: int, num_tokens: int, text: str) -> None:
        """After a step, which is counted from 1."""
        if self.first_step is None:
            self.first_step = step - 1
        self.tokens += num_tokens
        if not self.live and step % self.every != 0 and step != self.num_steps:
            return
        passed = max(1e-9, time.monotonic() - self.began)
        left = passed / (step - self.first_step) * (self.num_steps - step)
        words = f"{step}/{self.num_steps} {text}, {self.tokens / passed:.0f} tokens/s, {duration(left)} left"
        if not self.live:
            print(words, file=self.stream, flush=True)
            return
        columns = shutil.get_terminal_size().columns
        size = max(0, min(30, columns - len(words) - 4))
        done = size * step // self.num_steps
        bar = f"[{'#' * done}{'.' * (size - done)}] " if size else ""
        print(f"\r\x1b[K{bar}{words}"[: columns + 4], end="", file=self.stream, flush=True)

    def say(self, line: str) -> None:
        """A line that stays."""
        print(f"\r\x1b[K{line}" if self.live else line, file=self.stream, flush=True)

    def close(self) -> None:
        if self.live:
            print(file=self.stream, flush=True)


class Table:
    """A CSV file with a column `step`. A run that goes on from a step leaves out the rows behind it."""

    def __init__(self, path: pathlib.Path, columns: tuple[str, ...], first_step: int):
        self.path, self.columns = path, columns
        rows = [row for row in read_table(path) if int(row["step"]) <= first_step] if path.exists() else []
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(unfinished, path)

    def add(self, **row) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)


def read_table(path: pathlib.Path) -> list[dict[str, str]]:
    """Whole rows of a CSV file; a last one that was cut off is left out."""
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and "" not in row.values()]
