"""deploy/gateway.sh before servers under test, and the clients of others that ask it."""

import contextlib
import os
import pathlib
import re
import subprocess
import tempfile
import time
import urllib.request

from tests.support import model_files, server

SCRIPT = model_files.ROOT / "deploy/gateway.sh"
# Answers are small; whatever is asked twice was asked too much of this machine.
TIMEOUT_S = 60
# On a machine with much to do a replica that gives no token for a while is no broken one; and all replicas are
# new, so that a share of the requests for such would be most of them.
SETTLED = ("--worker-wedge-secs", "60", "--worker-warmup-secs", "0", "--worker-warmup-divert-every", "0")
# What two replicas on one machine share fairly.
REPLICA = {"max_context": 4096, "kv_cache_gib": 0.2, "num_threads": 1, "served_model_name": "smol"}


class Gateway:
    """One that `script` has started; its state is in `folder`."""

    def __init__(self, folder: str, workers, flags):
        self._environment = os.environ | {"NSA_CACHE_DIR": folder}
        self.log = f"{folder}/gateway/log"
        options = ["--listen=127.0.0.1:0", "--metrics_port=0"]
        run = self.script(*options, *workers, "--", *flags)
        assert run.returncode == 0, run.stderr
        self.url = re.search(r"^OpenAI API on (\S+)/v1$", run.stdout, re.MULTILINE).group(1)
        port = re.search(r"^metrics on port (\d+)$", run.stdout, re.MULTILINE).group(1)
        self.metrics_url = f"http://127.0.0.1:{port}/metrics"
        self.stderr = run.stderr

    def script(self, *arguments) -> subprocess.CompletedProcess:
        # Its output goes to files: a pipe would stay open as long as the gateway runs.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            run = subprocess.run(
                [SCRIPT, *arguments], stdout=out, stderr=err, env=self._environment, timeout=300
            )
            for stream in (out, err):
                stream.seek(0)
            return subprocess.CompletedProcess(run.args, run.returncode, out.read(), err.read())

    def close(self) -> None:
        pid = pathlib.Path(self.log).with_name("pid").read_text().strip()
        assert self.script("--stop").returncode == 0
        deadline = time.monotonic() + 20  # the kernel takes a process apart after its last word
        while pathlib.Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline, "it still runs"
            time.sleep(0.05)

    def client(self, **options):
        """openai's; it retries nothing unless told so."""
        import openai

        settings = {"max_retries": 0, "timeout": TIMEOUT_S} | options
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", **settings)

    def metrics(self) -> str:
        with urllib.request.urlopen(self.metrics_url, timeout=10) as reply:
            return reply.read().decode()


@contextlib.contextmanager
def running(workers, *flags):
    """`workers`: HOST:PORT each."""
    with tempfile.TemporaryDirectory(prefix="nsa-gateway-") as folder:
        gateway = Gateway(folder, workers, flags)
        try:
            yield gateway
        finally:
            gateway.close()


@contextlib.contextmanager
def fleet(*gateway_flags, num_replicas: int = 2, model=None, **flags):
    """(gateway, servers)."""
    with contextlib.ExitStack() as stack:
        servers = []
        for _ in range(num_replicas):
            servers.append(server.Server(model, **(REPLICA | flags)))
            stack.callback(servers[-1].close)
        for one in servers:  # they load at the same time
            one.wait_ready()
        addresses = [one.address for one in servers]
        gateway = stack.enter_context(running(addresses, *SETTLED, *gateway_flags))
        yield gateway, servers
