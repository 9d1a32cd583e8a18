"""The image, built from nothing and run, without a Docker daemon: debootstrap makes the base from the machine's own
Debian mirror, buildah builds on it in a chroot, and the server runs from the image's root, mounted read-only.

Needs root, and the packages of apt-packages-image.txt: tests/run.sh --image.
"""

import contextlib
import gzip
import json
import os
import pathlib
import re
import shutil
import subprocess
import time
import urllib.request

import pytest

from tests.support import model_files, prometheus

pytestmark = [pytest.mark.image, pytest.mark.timeout(7200)]

BASE, IMAGE, UID = "localhost/nsa-base", "localhost/nsa-serve:cpu", 10001
MAX_COMPRESSED_BYTES = 200e6
# The build reaches the registries as this machine does.
SETTINGS = ["/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"]


def run(*command, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def buildah(storage: pathlib.Path, *arguments) -> str:
    return run("buildah", "--storage-driver", "vfs", "--root", storage / "root", "--runroot",
               storage / "run", *arguments)  # fmt: skip


def make_base(storage: pathlib.Path, folder: pathlib.Path) -> None:
    """A minimal Debian 12, slim: no lists, documentation or locales."""
    mirror = run("apt-get", "indextargets", "--format", "$(REPO_URI)").split()[0]
    tree = folder / "base"
    run("debootstrap", "--variant=minbase", "bookworm", tree, mirror)
    for name in ("var/lib/apt/lists", "var/cache/apt", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(tree / name, ignore_errors=True)
    shutil.copytree("/etc/apt", tree / "etc/apt", dirs_exist_ok=True)
    container = buildah(storage, "from", "scratch").strip()
    buildah(storage, "add", container, tree, "/")
    buildah(storage, "commit", "--rm", container, BASE)
    shutil.rmtree(tree)


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """buildah's storage, with the built image in it."""
    if os.geteuid() != 0:
        pytest.fail("building an image without a daemon needs root")
    folder = tmp_path_factory.mktemp("image")
    make_base(folder, folder)
    volumes = [f"--volume={path}:{path}:ro" for path in SETTINGS if pathlib.Path(path).exists()]
    buildah(folder, "build", "--isolation", "chroot", "--target", "cpu", "--build-arg", f"CPU_BASE={BASE}",
            "--build-arg", "WITH_MODEL=default", *volumes, "-f", "deploy/Dockerfile", "-t", IMAGE,
            model_files.ROOT)  # fmt: skip
    return folder


@contextlib.contextmanager
def mounted(storage: pathlib.Path):
    """The image's root, read-only."""
    container = buildah(storage, "from", IMAGE).strip()
    tree = buildah(storage, "mount", container).strip()
    view = storage / "view"
    view.mkdir(exist_ok=True)
    run("mount", "--bind", tree, view)
    run("mount", "-o", "remount,bind,ro", view)
    try:
        yield view
    finally:
        run("umount", view)
        buildah(storage, "rm", container)


def configuration(storage: pathlib.Path) -> dict:
    return json.loads(buildah(storage, "inspect", "--type", "image", IMAGE))["OCIv1"]["config"]


def test_user_signal_and_labels(storage):
    config = configuration(storage)
    assert config["User"] == f"{UID}:{UID}" and config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] == ["nsa_server"]
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_size(storage):
    """Compressed as a registry has it, and without the model."""
    with mounted(storage) as view:
        pack = subprocess.Popen(["tar", "-C", view, "--exclude=./models/*", "-c", "."],
                                stdout=subprocess.PIPE)  # fmt: skip
        packed = storage / "image.tar.gz"
        with gzip.open(packed, "wb", compresslevel=6) as out:
            shutil.copyfileobj(pack.stdout, out)
        assert pack.wait() == 0
    size = packed.stat().st_size
    print(f"compressed: {size / 1e6:.1f} MB")
    assert size < MAX_COMPRESSED_BYTES


def test_nothing_of_the_build_is_left(storage):
    with mounted(storage) as view:
        assert not list((view / "var/lib/apt/lists").glob("*_Packages*"))
        assert not (view / "usr/bin/g++").exists() and not (view / "src").exists()
        assert not (view / "usr/share/man").exists()
        assert (view / "usr/local/share/nsa-serve/LICENSE").exists()
        assert os.access(view, os.W_OK) is False


def test_it_answers_and_drains(storage):
    grpc_port, metrics_port = prometheus.free_port(), prometheus.free_port()
    address = f"127.0.0.1:{grpc_port}"
    with mounted(storage) as view:
        inside = ["chroot", f"--userspec={UID}:{UID}", str(view)]
        server = subprocess.Popen(
            [*inside, "nsa_server", "--model=/models/model.gguf", f"--listen={address}",
             f"--metrics_listen=127.0.0.1:{metrics_port}", "--max_context=2048", "--num_threads=1"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            health = [*inside, "nsa_client", "health", f"--server={address}", "--timeout_s=4"]
            deadline = time.monotonic() + 120
            while subprocess.run(health, capture_output=True).returncode != 0:
                assert server.poll() is None and time.monotonic() < deadline, server.stdout.read()
                time.sleep(0.2)
            (uid,) = re.findall(r"^Uid:\t(\d+)", pathlib.Path(f"/proc/{server.pid}/status").read_text(),
                                re.MULTILINE)  # fmt: skip
            assert int(uid) == UID
            said = run(*inside, "nsa_client", "complete", f"--server={address}", "--temperature=0",
                       "--prompt=The capital of France is", "--max_tokens=8")  # fmt: skip
            assert "Paris" in said
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as page:
                assert b'finished_reason="length"' in page.read()
            server.terminate()
            assert server.wait(30) == 0
        finally:
            server.kill()
