"""From nothing to a first token, in minutes, step by step. As root.

    .venv/bin/python -m tests.bench.from_nothing bare     README's first command, in a fresh Debian 12 with git alone
    .venv/bin/python -m tests.bench.from_nothing image    the image's build, its start, a completion in it

debootstrap makes the Debian; for the image it stands for the base that would be pulled. Of this machine they get its
kernel, processors and mirrors, and with --ccache, which the table then says, its compiler cache.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from tests.support import container, model_files

HOME = "root/nsa-serve"
ENVIRONMENT = {"PATH": container.PATH, "HOME": "/root", "LANG": "C.UTF-8"}
# A process of its own first, so that the server that run.sh leaves ends with it.
ENTER = """set -e
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
[ -z "$2" ] || { mkdir -p "$1/root/.cache/ccache"; mount --bind "$2" "$1/root/.cache/ccache"; }
exec chroot "$1" /bin/sh -c "$3"
"""


class Table:
    """Steps and their seconds, printed as they come."""

    def __init__(self):
        self.begin = self._last = time.monotonic()

    def restart(self) -> None:
        self.begin = self._last = time.monotonic()

    def step(self, what: str, seconds: float | None = None) -> None:
        now = time.monotonic()
        print(f"| {what} | {(now - self._last if seconds is None else seconds) / 60:.1f} |", flush=True)
        if seconds is None:
            self._last = now

    def total(self) -> None:
        print(f"| **to the first token** | **{(time.monotonic() - self.begin) / 60:.1f}** |", flush=True)


def machine() -> str:
    names = set(re.findall(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    return f"{os.cpu_count()} threads of {', '.join(names)}, load {os.getloadavg()[0]:.1f}"


def inside(root: pathlib.Path, ccache: str, script: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh", root, ccache, script],
        env=ENVIRONMENT, stdin=subprocess.DEVNULL, text=True, **options)  # fmt: skip


def bare(folder: pathlib.Path, ccache: str, table: Table) -> None:
    root = folder / "debian"
    container.run(container.DEBIAN_ROOT, root)
    settings = container.machine_settings(folder)
    for target, source in settings.items() | {("/etc/resolv.conf", pathlib.Path("/etc/resolv.conf")),
                                              ("/etc/hosts", pathlib.Path("/etc/hosts"))}:  # fmt: skip
        path = root / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        shutil.copy(source, path)
    print("| step | minutes |\n| --- | --- |")
    table.restart()
    install = "apt-get -qq update && apt-get -qq -y --no-install-recommends install ca-certificates git"
    git = inside(root, ccache, install, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert git.wait() == 0, git.stderr.read()
    container.run("git", "clone", "--quiet", "--no-hardlinks", model_files.ROOT, root / HOME)
    table.step("git, and a clone")
    demo = inside(root, ccache, f"/{HOME}/deploy/run.sh", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    words = []
    for line in demo.stdout:
        words.append(line)
        if found := re.match(r"== (.*): done in ([\d.]+) s$", line):
            table.step(f"`deploy/run.sh`: {found[1]}", float(found[2]))
        if line.startswith("question: "):
            break
    first = demo.stdout.read(1)
    assert first, "".join(words[-30:])
    table.total()
    answer = first + demo.stdout.read()
    assert demo.wait() == 0, answer
    print(f"\nThe answer: {answer.splitlines()[0]}")


def image(folder: pathlib.Path, ccache: str, table: Table) -> None:
    store = container.Store(folder)
    store.make_base()
    if ccache:
        store.share_ccache()
    print("| step | minutes |\n| --- | --- |")
    table.restart()
    store.build("localhost/nsa", "--target", "cpu", CPU_BASE=container.BASE, WITH_MODEL="default")
    for title, seconds in re.findall(r"^== (.*): done in ([\d.]+) s$", store.log.read_text(), re.MULTILINE):
        table.step(f"of the build: {title}", float(seconds))
    table.step("the image's build, with the default model in it")
    store.tree("localhost/nsa")
    with container.running(store, "localhost/nsa") as one:
        one.wait_healthy(600)
        table.step("the container's start, until it is healthy")
        client = one.popen("nsa_client", "complete", "--prompt=The capital of France is", "--max_tokens=8",
                           "--temperature=0", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
        first = client.stdout.read(1)
        table.step("a completion's first token")
        table.total()
        print(f"\nThe answer: {json.dumps(first + client.communicate()[0])}")
    store.release()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=["bare", "image"])
    parser.add_argument("--ccache", action="store_true", help="lend it this machine's compiler cache")
    parser.add_argument("--folder", help="gigabytes go here (a temporary one, by default in /var/tmp)")
    options = parser.parse_args()
    cache = container.run("ccache", "--get-config", "cache_dir").strip() if options.ccache else ""
    with contextlib.ExitStack() as stack:
        folder = options.folder or stack.enter_context(
            tempfile.TemporaryDirectory(prefix="nsa-nothing-", dir="/var/tmp"))
        print(f"{machine()}{'; compiler cache lent' if cache else ''}\n", flush=True)
        {"bare": bare, "image": image}[options.way](pathlib.Path(folder), cache, Table())
    print(machine())
    return 0


if __name__ == "__main__":
    sys.exit(main())
