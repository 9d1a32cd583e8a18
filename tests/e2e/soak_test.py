"""A minute of everything at once, with faults and without: nothing leaks, each request has one end, answers are as alone."""

import os

import pytest

from tests.support import model_files, server, soak

# tests/run.sh runs this with sanitizers' builds too, whose own memory grows: freed blocks stay a while.
SANITIZED = model_files.build_dir().name != "release"
SECONDS = float(os.environ.get("NSA_SOAK_SECONDS", "60" if SANITIZED else "30"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def answers(tiny_path):
    return soak.answers_alone(tiny_path)


@pytest.mark.parametrize("faults", ["", soak.FAULTS], ids=["sound", "faulty"])
def test_as_before(tiny_path, tmp_path, monkeypatch, answers, faults):
    if faults:
        monkeypatch.setenv("NSA_FAULTS", faults)
    flags = soak.flags(tmp_path) | {"allow_test_faults": bool(faults)}
    with server.running(tiny_path, **flags) as running:
        report = soak.soak(running, answers, SECONDS, faulty=bool(faults))
        print(report)
        assert report.errors == []
        assert report.num_requests > 5 * SECONDS / (20 if SANITIZED else 1)
        metrics = running.metrics()
        # Where steps are slow most are refused, and seldom do enough run at once to be sent away but by a fault.
        if faults or not SANITIZED:
            assert metrics["vllm:num_preemptions_total"] > 0
        assert metrics['nsa:kv_spill_bytes_total{direction="out"}'] > 0
        # What was opened for connections is closed behind them, with a delay.
        assert report.after.threads <= report.before.threads + 4
        assert report.after.files <= report.before.files + 24
        if not SANITIZED:
            assert report.after.rss_bytes <= 1.05 * report.before.rss_bytes + 16 * 2**20
        running.terminate()
        assert running.wait_ended() == 0, running.output()[-3000:]
