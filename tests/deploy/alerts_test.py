"""Every alert fires for real, and panels that are at zero when all is well are not: servers that are broken on
purpose, each in a way of its own, and a Prometheus whose rules run on a clock sixty times as fast. (That no alert
fires at a healthy server: prometheus_test.py. At which minute each begins and ends: promtool, with alerts_test.yaml.)
"""

import contextlib
import re
import threading
import time

import pytest
import yaml

from tests.support import prometheus, server, tiny_model
from tests.support.deploy import panels

SPEED = 60  # a minute takes a second, two scrapes
NAN_TOKEN = 200

# Alert: the server that it is about, and what it says.
EXPECTED = {
    "NsaServerDown": ("killed", "does not answer scrapes"),
    "NsaServerRestarts": ("killed", "began anew 3 times"),
    "NsaEngineStalled": ("stalled", "made no step"),
    "NsaRequestErrors": ("failing", r"failed [\d.]+ requests"),
    "NsaWorkThrownAway": ("wasteful", r"\d% of the tokens"),
    "NsaPagesExhausted": ("small", "% of the KV pages"),
    "NsaQueueFull": ("slow", "refuses requests"),
    "NsaQueueAge": ("slow", r"waited longer than [12]\d"),
    "NsaQueueNeverEmpty": ("slow", "lacks capacity"),
    # Whoever waits grows older though no step tells of it; by the last one's turn a minute has passed.
    "NsaOldestWaiting": ("stalled", "and not begun"),
}
OBJECTIVES = {"requests", "first_token", "inter_token"}


def alerts() -> set[str]:
    groups = yaml.safe_load((prometheus.CONFIG / "alerts.yaml").read_text())["groups"]
    return {rule["alert"] for group in groups for rule in group["rules"]}


def ask(one: server.Server, tokens: list[int], max_tokens: int) -> server.Result:
    message = server.request(tokens, max_tokens)
    message.stopping.ignore_eos = True
    return server.generate(one, message)


class Again(threading.Thread):
    """Does the same again and again until the end of the block."""

    def __init__(self, act):
        super().__init__()
        self._act, self._over = act, threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            self._act()

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self._over.set()
        self.join(60)
        assert not self.is_alive()


class Broken:
    """The servers, by name, and what scrapes them."""

    def __init__(self, stack: contextlib.ExitStack, folder, monkeypatch):
        self._stack, self._folder, self._monkeypatch = stack, folder, monkeypatch
        self.servers: dict[str, server.Server] = {}
        self.killed_port = prometheus.free_port()

    def start(self, name: str, faults: str = "", **flags) -> server.Server:
        model = self._folder / f"{name}.gguf"
        if not model.exists():
            # Random prompts of the others would meet such a token too, and end at once.
            tiny_model.write(model, nan_token=NAN_TOKEN if name == "failing" else None)
        flags = {"num_threads": 1, "max_context": 4096, "kv_cache_gib": 0.05} | flags
        with self._monkeypatch.context() as patch:
            if faults:
                patch.setenv("NSA_FAULTS", faults)
                flags["allow_test_faults"] = True
            self.servers[name] = self._stack.enter_context(server.running(model, **flags))
        return self.servers[name]

    def start_all_but_killed(self) -> None:
        # Steps of 0.3 s, one request at a time, and more that come than that: 20 s in the queue.
        self.start("slow", "step_slow=1,delay_ms=300", max_running_requests=1, max_queued_requests=20)
        # One request takes all.
        self.start("small", "step_slow=1,delay_ms=100", max_context=2560, kv_cache_gib=tiny_model.gib(40), prefix_cache=False)
        # Four of 1,250 tokens where there is memory for two, and each has to give way: begun, and begun again.
        self.start("wasteful", "preempt_every=25,step_slow=1,delay_ms=10", max_context=2048, kv_cache_gib=tiny_model.gib(40),
                   prefix_cache=False)  # fmt: skip
        # The same with a file, which fails at times; and streams that end in their middle.
        self.start("spilling", "spill_write=0.05,spill_read=0.3,drop_stream=0.01,step_slow=1,delay_ms=10",
                   max_context=2048, kv_cache_gib=tiny_model.gib(52), kv_spill_dir=self._folder,
                   kv_spill_gib=tiny_model.gib(160))  # fmt: skip
        # A context beyond memory: each step selects blocks that are in the file only.
        self.start("beyond", "step_slow=1,delay_ms=10", kv_cache_gib=tiny_model.gib(40), kv_spill_dir=self._folder,
                   kv_spill_gib=tiny_model.gib(160))  # fmt: skip
        self.start("failing", trace_file=self._folder / "spans.jsonl")
        # After some steps one that takes ten minutes.
        self.start("stalled", "step_slow=0.05,delay_ms=600000")

    def scrape(self) -> prometheus.Prometheus:
        targets = [prometheus.target(one) for one in self.servers.values()]
        self.scraper = self._stack.enter_context(
            prometheus.running(self._folder, [*targets, f"127.0.0.1:{self.killed_port}"], SPEED))
        return self.scraper

    def count(self, name: str) -> float:
        """Steps that Prometheus has seen the server make."""
        found = self.scraper.query(f'vllm:iteration_tokens_total_count{{model_name="{name}.gguf"}}')
        return found[0][1] if found else 0

    def kill_again_and_again(self) -> None:
        """Four lives at one address, each of fewer steps, so that Prometheus sees three counters begin anew."""
        for steps in (40, 30, 20, 10):
            one = self.start("killed", metrics_listen=f"127.0.0.1:{self.killed_port}")
            ask(one, [5, 6, 7], steps)
            low, high = steps - 8, steps + 8
            self.scraper.wait(f"{steps} steps", lambda: low < self.count("killed") < high)
            one.process.kill()
            one.process.wait()

    def load(self) -> None:
        more = ("--num_requests=1000000",)
        long = (*more, "--concurrency=4", "--prompt_tokens=1100", "--output_tokens=700")
        soon = (*more, "--concurrency=4", "--prompt_tokens=1100", "--output_tokens=150")
        short = (*more, "--rate=2", "--prompt_tokens=20", "--output_tokens=3")
        alone = (*more, "--concurrency=1", "--prompt_tokens=3000", "--output_tokens=700")
        loads = {"slow": short, "wasteful": soon, "spilling": long, "beyond": alone, "stalled": short}
        for name, load in loads.items():
            self._stack.enter_context(prometheus.load(self.servers[name].address, *load))
        small, failing = self.servers["small"], self.servers["failing"]
        self._stack.enter_context(Again(lambda: ask(small, [5] * 2450, 100)))
        self._stack.enter_context(Again(lambda: self._fail(failing)))

    @staticmethod
    def _fail(one: server.Server) -> None:
        ask(one, [5, NAN_TOKEN, 6], 4)
        time.sleep(0.5)

    def kill(self) -> None:
        """So that nobody waits for an answer."""
        for one in self.servers.values():
            one.process.kill()


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as monkeypatch:
        all_of_them = Broken(stack, tmp_path_factory.mktemp("broken"), monkeypatch)
        all_of_them.start_all_but_killed()
        all_of_them.scrape()
        all_of_them.load()
        all_of_them.kill_again_and_again()
        stack.callback(all_of_them.kill)
        yield all_of_them


def wait_firing(scraper: prometheus.Prometheus, name: str, **labels: str) -> str:
    """The summary of the alert with these labels."""

    def found() -> list[dict]:
        wanted = labels | {"alertname": name}
        return [alert for alert in scraper.firing() if wanted.items() <= alert["labels"].items()]

    scraper.wait(f"{name} {labels}", found, timeout=120)
    return found()[0]["annotations"]["summary"]


def test_every_alert_has_a_fault():
    assert alerts() == EXPECTED.keys() | {"NsaSloBurnFast", "NsaSloBurnSlow", "NsaServerAbsent"}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_fault_raises_its_alert(broken, name):
    key, says = EXPECTED[name]
    if key == "killed":
        instance = f"127.0.0.1:{broken.killed_port}"
    else:
        instance = prometheus.target(broken.servers[key])
    assert re.search(says, wait_firing(broken.scraper, name, instance=instance))


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("name", ["NsaSloBurnFast", "NsaSloBurnSlow"])
def test_a_missed_objective_burns(broken, name, objective):
    assert "a month's budget" in wait_firing(broken.scraper, name, model_name="slow.gguf", slo=objective)


def test_a_stalled_engine_still_answers_scrapes(broken):
    """Which is why probes and NsaServerDown do not see it."""
    instance = prometheus.target(broken.servers["stalled"])
    wait_firing(broken.scraper, "NsaEngineStalled", instance=instance)
    assert broken.scraper.query(f'up{{instance="{instance}"}} == 1')


@pytest.mark.parametrize("title", sorted(prometheus.NEED_A_FAULT))
def test_a_fault_moves_its_panel(broken, title):
    (panel,) = [panel for panel in panels.panels() if panel.title == title]
    for query in panel.queries:
        expr = panels.bind(query.expr, rate_interval="5s")
        broken.scraper.wait(expr, lambda: broken.scraper.moved(expr), timeout=60)


def test_no_target_at_all(tmp_path):
    with prometheus.running(tmp_path, [], SPEED) as scraper:
        assert "no nsa-serve target" in wait_firing(scraper, "NsaServerAbsent")
