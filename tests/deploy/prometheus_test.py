"""Prometheus for real: what panels, rules and alerts ask of a healthy server has an answer. alerts_test.py breaks
servers."""

import re
import subprocess
import urllib.request

import pytest
import yaml

from tests.support import prometheus
from tests.support.deploy import panels

RULES, ALERTS, ALERTS_TEST = (
    prometheus.CONFIG / name for name in ("rules.yaml", "alerts.yaml", "alerts_test.yaml")
)
# Scrapes are two a second; a rate needs two of them.
RATE_INTERVAL = "5s"


def rules(path) -> list[dict]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def promtool(*arguments, **options) -> subprocess.CompletedProcess:
    command = [prometheus.program("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.mark.parametrize("panel", panels.panels(), ids=lambda panel: panel.title)
def test_every_panel_has_data(scraped, panel):
    """And not zero alone, which a label that nothing has may give too."""
    _, scraper = scraped
    seen = scraper.finite if panel.title in prometheus.NEED_A_FAULT else scraper.moved
    for query in panel.queries:
        expr = panels.bind(query.expr, rate_interval=RATE_INTERVAL)
        # A share or a quantile has none between two requests.
        scraper.wait(expr, lambda: seen(expr), timeout=30)
        for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
            found = [labels for labels, _ in scraper.finite(expr)]
            # vector(0) stands for "none" and has no labels.
            assert all(labels.get(label) for labels in found if labels or "vector" not in expr), expr


@pytest.mark.parametrize("name", [rule["record"] for rule in rules(RULES)])
def test_every_recording_rule_has_data(scraped, name):
    _, scraper = scraped
    scraper.wait(name, lambda: scraper.finite(name), timeout=20)


SELECTOR = re.compile(r"(?:vllm|nsa|model|slo):\w+(?::\w+)?(?:\{[^}]*\})?|up\{[^}]*\}")


@pytest.mark.parametrize("alert", rules(ALERTS), ids=lambda alert: alert["alert"])
def test_every_alert_asks_for_what_there_is(scraped, alert):
    """An alert on a misspelt metric or label would never fire."""
    _, scraper = scraped
    selectors = SELECTOR.findall(alert["expr"])
    assert selectors
    for selector in selectors:
        assert scraper.query(selector), f"{alert['alert']}: nothing matches {selector}"


def test_a_misspelt_selector_is_seen(scraped):
    _, scraper = scraped
    assert not scraper.query('vllm:admission_rejections_total{reason="queue_ful"}')
    assert not scraper.query("vllm:num_request_waiting")


def test_rules_evaluate_without_errors(scraped):
    _, scraper = scraped
    found = [rule for group in scraper.api("rules")["groups"] for rule in group["rules"]]
    assert len(found) == len(rules(RULES)) + len(rules(ALERTS))
    assert [(r["name"], r.get("lastError")) for r in found if r["health"] != "ok"] == []


def test_numbers_are_the_servers(scraped):
    """The sparsity and the pages on the dashboard are those that the server counts."""
    one, scraper = scraped
    share = panels.bind(panels.READ_SHARE, rate_interval="10s")
    ((_, read),) = scraper.finite(share)
    assert 0.05 < read < 1, "prompts of 1,200 to 9,000 tokens are read sparsely"
    pages = sum(value for _, value in scraper.query("nsa:kv_pages"))
    assert pages == one.load().num_pages_total
    ((_, hits),) = scraper.finite(panels.bind(panels.HIT_SHARE, rate_interval="10s"))
    assert 0.1 < hits < 1, "prompts share their first 1,024 tokens"


def test_the_console_page_shows_numbers(scraped):
    _, scraper = scraped
    page = scraper.get("consoles/nsa.html")
    tiles = re.findall(r'<div class="tile"><span>([^<]*)</span><b>([^<]*)</b>', page)
    assert len(tiles) == sum(p.console and p.kind == "stat" for p in panels.panels())
    assert [title for title, value in tiles if not re.match(r"-?\d", value)] == []
    assert "{{" not in page


def test_a_healthy_server_raises_no_alert(scraped):
    _, scraper = scraped
    firing = {alert["labels"]["alertname"] for alert in scraper.firing()}
    assert firing <= {"NsaQueueNeverEmpty"}


def test_promtool_accepts_configuration_rules_and_metrics(scraped):
    one, scraper = scraped
    for arguments in (("config", prometheus.CONFIG / "prometheus.yaml"), ("rules", RULES, ALERTS)):
        run = promtool("check", *arguments)
        assert run.returncode == 0, run.stdout + run.stderr
    with urllib.request.urlopen(one.metrics_url) as reply:
        run = promtool("check", "metrics", input=reply.read().decode())
    # Names with a colon, and this histogram's, are the field's own (vLLM's), which tools read.
    said = [line for line in run.stderr.splitlines() if "should not contain ':'" not in line]
    assert said == ['vllm:iteration_tokens_total non-counter metrics should not have "_total" suffix']


@pytest.mark.slow
def test_each_alert_fires_in_its_unit_test():
    run = promtool("test", "rules", ALERTS_TEST)
    assert run.returncode == 0, run.stdout + run.stderr
    fired = set(re.findall(r'alertname="(\w+)"', ALERTS_TEST.read_text()))
    assert fired == {rule["alert"] for rule in rules(ALERTS)}


@pytest.mark.slow
def test_the_unit_tests_can_fail(tmp_path):
    """Without the alerts each case but the healthy one and one with an end fails."""
    (tmp_path / "rules.yaml").write_text(RULES.read_text())
    (tmp_path / "alerts.yaml").write_text("groups: []\n")
    (tmp_path / "alerts_test.yaml").write_text(ALERTS_TEST.read_text())
    run = promtool("test", "rules", tmp_path / "alerts_test.yaml")
    cases = yaml.safe_load(ALERTS_TEST.read_text())["tests"]
    assert run.returncode != 0
    assert run.stdout.count("exp:") + run.stderr.count("exp:") >= len(cases) - 1
