"""What a run shows on a terminal and elsewhere, and tables that go on from a step."""

import io

from training.progress import Bar, Table, duration, read_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_that_is_written_over():
    stream = Terminal()
    bar = Bar(4, 10, stream)
    for step in range(1, 5):
        bar.show(step, 100, f"loss {step}")
    bar.say("validated")
    bar.close()
    shown = stream.getvalue()
    assert shown.count("\r\x1b[K") == 5 and shown.count("\n") == 2
    assert "4/4 loss 4" in shown and "tokens/s" in shown and "#" in shown


def test_elsewhere_every_so_many_steps_have_a_line():
    stream = io.StringIO()
    bar = Bar(25, 10, stream)
    for step in range(6, 26):
        bar.show(step, 100, "loss")
    assert [line.split()[0] for line in stream.getvalue().splitlines()] == ["10/25", "20/25", "25/25"]
    assert "\r" not in stream.getvalue()


def test_duration():
    assert [duration(seconds) for seconds in (0, 61, 3600 * 25 + 59)] == ["0:00:00", "0:01:01", "25:00:59"]


def test_a_table_goes_on_behind_its_step(tmp_path):
    path = tmp_path / "losses.csv"
    table = Table(path, ("step", "loss"), 0)
    for step in (1, 2, 3):
        table.add(step=step, loss=step / 2)
    # A machine that went down in the middle of a row.
    path.write_text(path.read_text() + "4,")
    table = Table(path, ("step", "loss"), 2)
    table.add(step=3, loss=9)
    assert [(row["step"], row["loss"]) for row in read_table(path)] == [("1", "0.5"), ("2", "1.0"), ("3", "9")]
