"""Runs Debian's Prometheus on a free loopback port with the configuration of deploy/prometheus.

tests/run.sh unpacks the package into .deps/prometheus; nothing is installed and no service started.
"""

import contextlib
import json
import math
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import yaml

from tests.support import model_files, server, tiny_model

CONFIG = model_files.ROOT / "deploy/prometheus"
START_TIMEOUT_S = 60
# Panels that a healthy server under a light load leaves at zero: alerts_test.py breaks one.
NEED_A_FAULT = {
    "Aborted and failed",
    "Error budget burn, 1 h",
    "Firing alerts",
    "Moved to and from the tier below",
    "Oldest waiting request",
    "Pages that could not be moved",
    "Preemptions",
    "Rejections",
    "Requests",
    "Selected and not in memory",
    "Spans of --trace_file",
    "Tokens computed again",
    "Waiting",
}
# Rules run on a clock this many times as fast: a minute takes three seconds.
SPEED = 20
MILLISECONDS = {"m": 60_000, "h": 3_600_000}


def program(name: str) -> str:
    """Path of prometheus or promtool."""
    unpacked = model_files.ROOT / ".deps/prometheus/usr/bin" / name
    found = str(unpacked) if unpacked.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"no {name}: tests/run.sh unpacks Debian's package prometheus")
    return found


def faster(rules: str, speed: int) -> str:
    """The rules with each duration divided by `speed`; one that is in a name stays."""
    return re.sub(
        r"(?<=[\[ ])(\d+)([mh])(?=\]|\s)",
        lambda found: f"{int(found.group(1)) * MILLISECONDS[found.group(2)] // speed}ms",
        rules,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Prometheus:
    def __init__(self, folder: pathlib.Path, targets: list[str], speed: int):
        self.folder, self.port = folder, free_port()
        self._write_configuration(targets, speed)
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                f"--web.console.templates={folder / 'consoles'}",
            ],
            stdout=self.log,
            stderr=self.log,
        )

    def _write_configuration(self, targets: list[str], speed: int) -> None:
        """deploy/prometheus' own, but for the targets' addresses and the clock."""
        config = yaml.safe_load((CONFIG / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms",
                            "evaluation_interval": "500ms"}  # fmt: skip
        (job,) = config["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": targets}]
        shutil.copytree(CONFIG / "consoles", self.folder / "consoles")
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        for name in config["rule_files"]:
            (self.folder / name).write_text(faster((CONFIG / name).read_text(), speed))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url(path), timeout=30) as reply:
            return reply.read().decode()

    def api(self, path: str, **query):
        return json.loads(self.get(f"api/v1/{path}?{urllib.parse.urlencode(query)}"))["data"]

    def query(self, expr: str) -> list[tuple[dict, float]]:
        """Labels and value of each series now. HTTPError 400 where PromQL is wrong."""
        found = self.api("query", query=expr)
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        return [(s["metric"], float(s["value"][1])) for s in found["result"]]

    def finite(self, expr: str) -> list[tuple[dict, float]]:
        return [(labels, value) for labels, value in self.query(expr) if math.isfinite(value)]

    def moved(self, expr: str) -> bool:
        """Whether a series of it is not zero."""
        return any(value for _, value in self.finite(expr))

    def firing(self) -> list[dict]:
        """Alerts that fire now: labels and annotations."""
        return [alert for alert in self.api("alerts")["alerts"] if alert["state"] == "firing"]

    def wait(self, what: str, true, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while not true():
            assert self.process.poll() is None, "Prometheus ended:\n" + self.words()
            assert time.monotonic() < deadline, f"{what}: not within {timeout} s\n{self.words()}"
            time.sleep(0.1)

    def words(self) -> str:
        return (self.folder / "log").read_text()[-2000:]

    def is_ready(self) -> bool:
        try:
            return "Ready" in self.get("-/ready")
        except OSError:
            return False

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


@contextlib.contextmanager
def running(folder: pathlib.Path, targets: list[str], speed: int = SPEED):
    """Prometheus that scrapes `targets` (HOST:PORT) twice a second."""
    prometheus = Prometheus(folder, targets, speed)
    try:
        prometheus.wait("ready", prometheus.is_ready, START_TIMEOUT_S)
        yield prometheus
    finally:
        prometheus.close()


@contextlib.contextmanager
def load(address: str, *arguments: str):
    """nsa_client load until the end of the block."""
    process = subprocess.Popen(
        [model_files.tool("nsa_client"), "load", f"--server={address}", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


# Long greedy answers of a random model go in circles, and drafts of them are right.
LOOPING_LOAD = ("--concurrency=1", "--temperature=0", "--num_requests=1000000", "--prompt_tokens=64",
                "--output_tokens=1000")  # fmt: skip
USUAL_LOAD = ("--rate=2", "--temperature=0", "--num_requests=1000000", "--prompt_tokens=uniform:1200:9000",
              "--shared_prefix_tokens=1024", "--output_tokens=uniform:40:120")  # fmt: skip


def target(one: server.Server) -> str:
    """HOST:PORT of its metrics."""
    return re.search(r"//(.*)/metrics", one.metrics_url).group(1)


@contextlib.contextmanager
def scraped_server(folder: pathlib.Path):
    """(server, Prometheus) under a light load, once each rule has had a result."""
    model = tiny_model.write(folder / "tiny.gguf")
    flags = dict(max_context=16384, speculative="prompt_lookup", max_running_requests=4,
                 num_threads=1)  # fmt: skip
    with server.running(model, **flags) as one:
        with running(folder, [target(one)]) as scraper, load(one.address, *USUAL_LOAD), load(one.address, *LOOPING_LOAD):
            scraper.wait("the rules' first results", lambda: len(
                scraper.finite("model:nsa_slo_violations:ratio_rate6h")) == 3)  # fmt: skip
            scraper.wait("selected pages", lambda: scraper.finite(
                "rate(nsa:attention_tokens_read_total{branch='slc'}[5s]) > 0"))  # fmt: skip
            yield one, scraper
