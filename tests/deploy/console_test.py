"""The console page in a browser: every chart is drawn. Run as a program, it takes the picture in docs/:

    .venv/bin/python -m tests.deploy.console_test docs/console.png
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

from tests.support import prometheus
from tests.support.deploy import panels

PAGE = "consoles/nsa.html?minutes=1"


def browse(url: str, folder: pathlib.Path, *arguments: str) -> str:
    """What headless Chromium prints."""
    browser = shutil.which("chromium-headless-shell")
    if browser is None:
        pytest.fail("chromium-headless-shell is missing: tests/apt-packages.txt lists it")
    run = subprocess.run(
        # Root has no sandbox, and a container little /dev/shm; the page is our own.
        [browser, "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
         f"--user-data-dir={folder / 'browser'}", "--virtual-time-budget=10000", *arguments, url],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_every_chart_is_drawn(scraped, tmp_path):
    _, scraper = scraped
    page = browse(scraper.url(PAGE), tmp_path, "--dump-dom")
    assert 'data-drawn="all"' in page
    figures = re.findall(r'<figure class="([^"]*)"[^>]*>.*?</figure>', page, re.DOTALL)
    charts = [panel for panel in panels.panels() if panel.console and panel.kind == "timeseries"]
    assert figures == ["chart"] * len(charts), "a chart that fails has another class"
    assert len(re.findall(r'data-series="[1-9]', page)) == len(charts)
    assert len(re.findall(r'<polyline points="[\d.]+,', page)) >= len(charts)
    assert re.search(r"</i>win\b", page), "legends name series by their labels"


def test_a_chart_that_fails_says_so(scraped, tmp_path):
    """Against a page whose queries are wrong: what the test above looks for is then not there."""
    _, scraper = scraped
    wrong = scraper.folder / "consoles/wrong.html"
    text = (prometheus.CONFIG / "consoles/nsa.html").read_text()
    wrong.write_text(text.replace("sum by (branch)", "sum by (branch"))
    page = browse(scraper.url("consoles/wrong.html?minutes=1"), tmp_path, "--dump-dom")
    assert 'class="chart failed"' in page and "parse error" in page


def main(picture: str) -> None:
    with tempfile.TemporaryDirectory() as folder, prometheus.scraped_server(
        pathlib.Path(folder)
    ) as (_, scraper):
        time.sleep(150)  # two minutes of rates over a minute
        browse(scraper.url(PAGE), pathlib.Path(folder), "--window-size=1240,1130",
               f"--screenshot={pathlib.Path(picture).resolve()}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
