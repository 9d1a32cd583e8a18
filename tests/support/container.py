"""Images built and run without a daemon: debootstrap makes the base from the machine's own Debian mirror, buildah
builds on it in a chroot, runc runs the result. Linux, as root; packages: tests/deploy/apt-packages-image.txt.
"""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from tests.support import model_files

BASE = "localhost/nsa-base"
DEBIAN_ROOT = model_files.ROOT / "tests/deploy/debian_root.sh"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
AUTHORITIES = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")


def run(*command, **options) -> str:
    """What it prints. AssertionError with its last words where it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def machine_settings(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """What makes a fresh Debian reach the registries as this machine does: the settings of apt and pip, and the
    authorities that it trusts. Path there: the file, in `folder` where it is made."""
    wanted = ("Acquire::Check", "Acquire::Retries", "Acquire::http")
    lines = [line for line in run("apt-config", "dump", "Acquire").splitlines() if line.startswith(wanted)]
    (folder / "apt.conf").write_text("\n".join(lines) + "\n")
    settings = {"/etc/apt/apt.conf.d/99machine": folder / "apt.conf", "/etc/pip.conf": pathlib.Path("/etc/pip.conf"),
                "/usr/local/share/ca-certificates/machine.crt": AUTHORITIES}  # fmt: skip
    return {target: source for target, source in settings.items() if source.exists()}


class Store:
    """buildah's storage in `folder`, with the base in it. Images and layers are whole copies there: gigabytes."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.log = folder / "build.log"
        self._temporary = folder / "tmp"
        self._temporary.mkdir(parents=True, exist_ok=True)
        self._trees: dict[str, pathlib.Path] = {}
        self._command = ["buildah", "--storage-driver", "vfs", "--root", folder / "root",
                         "--runroot", folder / "run"]  # fmt: skip

    def buildah(self, *arguments) -> str:
        return run(*self._command, *arguments, env=self._environment())

    def _environment(self) -> dict[str, str]:
        return os.environ | {"TMPDIR": str(self._temporary)}

    def make_base(self) -> None:
        """Once in the life of the folder."""
        if BASE in self.buildah("images", "--format", "{{.Name}}"):
            return
        tree = self.folder / "base"
        run(DEBIAN_ROOT, tree, "--slim")
        container = self.buildah("from", "scratch").strip()
        self.buildah("add", container, tree, "/")
        self.buildah("commit", "--rm", container, BASE)
        shutil.rmtree(tree)

    def share_ccache(self) -> None:
        """The Dockerfile's cache of the compiler is then the machine's own, where buildah looks for it."""
        own = pathlib.Path(run("ccache", "--get-config", "cache_dir").strip())
        caches = self._temporary / "buildah-cache"
        if own.is_dir() and not (caches / "nsa-ccache").exists():
            caches.mkdir(exist_ok=True)
            (caches / "nsa-ccache").symlink_to(own)

    def build(self, tag: str, *arguments, context: pathlib.Path = model_files.ROOT, **build_args: str) -> None:
        """As `docker build`. The registries are reached as this machine reaches them."""
        named = [f"--build-arg={name}={value}" for name, value in build_args.items()]
        # Mounts, which no layer keeps.
        volumes = [f"--volume={source}:{target}:ro"
                   for target, source in machine_settings(self.folder).items()]  # fmt: skip
        command = [*self._command, "build", "--isolation", "chroot", "--format", "docker", "--layers", *named,
                   *volumes, "-t", tag, *arguments, context]  # fmt: skip
        with open(self.log, "ab") as log:
            done = subprocess.run(list(map(str, command)), stdout=log, stderr=log, env=self._environment())
        assert done.returncode == 0, f"{tag}: {self.log.read_text(errors='replace')[-6000:]}"

    def derive(self, tag: str, derived: str, script: str, **environment: str) -> None:
        """The image `tag` after the shell's `script` and with further variables, as `derived`."""
        container = self.buildah("from", tag).strip()
        self.buildah("run", "--isolation", "chroot", container, "sh", "-c", script)
        for name, value in environment.items():
            self.buildah("config", "--env", f"{name}={value}", container)
        self.buildah("commit", "--rm", container, derived)

    def config(self, tag: str) -> dict:
        """The image's: Docker's form, which has the health check."""
        return json.loads(self.buildah("inspect", "--type", "image", tag))["Docker"]["config"]

    def compressed_bytes(self, tag: str) -> int:
        """As a registry keeps it: the layers, gzipped."""
        target = self.folder / "pushed"
        self.buildah("push", "--compression-format", "gzip", tag, f"oci:{target}")
        (reference,) = json.loads((target / "index.json").read_text())["manifests"]
        manifest = json.loads((target / "blobs/sha256" / reference["digest"].partition(":")[2]).read_text())
        shutil.rmtree(target)
        return sum(layer["size"] for layer in manifest["layers"])

    def tree(self, tag: str) -> pathlib.Path:
        """The image's root, for looking; what runs gets it read-only."""
        if tag not in self._trees:
            container = self.buildah("from", tag).strip()
            self._trees[tag] = pathlib.Path(self.buildah("mount", container).strip())
        return self._trees[tag]

    def release(self) -> None:
        """What was mounted for looking and running."""
        self.buildah("rm", "--all")
        self._trees.clear()


class Container:
    """A running container: the image's user, command and root, which is read-only; no capabilities, and a network
    with nothing but loopback: its own, or that of another (`beside`). `tmpfs`: where it may write."""

    _numbers = itertools.count()

    def __init__(self, store: Store, tag: str, *arguments: str, entrypoint: list[str] | None = None,
                 mounts: dict[str, pathlib.Path] | None = None, tmpfs: tuple[str, ...] = (),
                 beside: "Container | None" = None):  # fmt: skip
        self.config = store.config(tag)
        self.id = f"nsa-{os.getpid()}-{next(self._numbers)}"
        self._state = store.folder / "runc"
        bundle = store.folder / self.id
        bundle.mkdir()
        command = [*(entrypoint or self.config["Entrypoint"]), *(arguments or self.config["Cmd"] or [])]
        spec = self._spec(bundle, store.tree(tag), command, mounts or {})
        spec["mounts"] += [{"destination": target, "type": "tmpfs", "source": "tmpfs"} for target in tmpfs]
        for namespace in spec["linux"]["namespaces"]:
            if beside and namespace["type"] == "network":
                namespace["path"] = beside._network()
        (bundle / "config.json").write_text(json.dumps(spec))
        self._output = bundle / "output"
        with open(self._output, "wb") as output:
            self.process = subprocess.Popen(
                ["runc", "--root", self._state, "run", "--bundle", bundle, self.id],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # fmt: skip

    def _spec(self, bundle: pathlib.Path, root: pathlib.Path, command: list[str],
              mounts: dict[str, pathlib.Path]) -> dict:  # fmt: skip
        run("runc", "spec", "--bundle", bundle)
        spec = json.loads((bundle / "config.json").read_text())
        user, _, group = self.config["User"].partition(":")
        spec["root"] = {"path": str(root), "readonly": True}
        spec["process"] |= {"terminal": False, "args": command, "env": self.config["Env"] or [f"PATH={PATH}"],
                            "user": {"uid": int(user), "gid": int(group)},
                            "cwd": self.config["WorkingDir"] or "/", "noNewPrivileges": True,
                            "capabilities": {}}  # fmt: skip
        spec["mounts"] += [{"destination": target, "type": "bind", "source": str(source),
                            "options": ["bind", "ro"]} for target, source in mounts.items()]  # fmt: skip
        return spec

    def _network(self) -> str:
        return f"/proc/{json.loads(run(*self._runc('state', self.id)))['pid']}/ns/net"

    def _runc(self, *arguments) -> list:
        return ["runc", "--root", self._state, *arguments]

    def popen(self, *command, **options) -> subprocess.Popen:
        """A further process in it, as `docker exec`."""
        return subprocess.Popen(self._runc("exec", self.id, *command), text=True, **options)

    def exec(self, *command, timeout: float = 120) -> subprocess.CompletedProcess:
        return subprocess.run(self._runc("exec", self.id, *command), capture_output=True, text=True,
                              timeout=timeout)  # fmt: skip

    def health(self) -> int:
        """The status of the image's HEALTHCHECK."""
        kind, *command = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.exec(*command).returncode

    def wait_healthy(self, timeout: float = 120) -> None:
        deadline = time.monotonic() + timeout
        while self.health() != 0:
            assert self.process.poll() is None and time.monotonic() < deadline, self.output()
            time.sleep(0.2)

    def fetch(self, port: int, path: str) -> str:
        """From a port of the container's own loopback."""
        program = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}/{path}').read().decode())"
        return run("nsenter", f"--net={self._network()}", sys.executable, "-c", program)

    def stop(self) -> None:
        """What `docker stop` begins with."""
        run(*self._runc("kill", self.id, self.config["StopSignal"]))

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            subprocess.run(self._runc("kill", self.id, "KILL"), capture_output=True)
            self.process.wait(30)
        subprocess.run(self._runc("delete", "--force", self.id), capture_output=True)


@contextlib.contextmanager
def running(store: Store, tag: str, *arguments: str, **options):
    container = Container(store, tag, *arguments, **options)
    try:
        yield container
    finally:
        container.close()
