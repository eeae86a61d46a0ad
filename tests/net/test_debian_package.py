"""The Debian package, in a fresh Debian 12: installed by dpkg, it serves; purged, it leaves nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stock import cache, chroot

from tempos import __version__
from tempos_bench.nodes.patience import patience

ROOT = Path(__file__).resolve().parents[2]
LIMIT = patience(400.0)
SUITE = "bookworm"
#: Without network but loopback, as the root's own.
TRY = r"""
set -eu
ip link set lo up
tempos --version
tempos config check /etc/tempos/broker.toml
tempos broker -c /etc/tempos/broker.toml > /tmp/broker.log 2>&1 &
broker=$!
for _ in $(seq 200); do grep -q ^ready /tmp/broker.log && break; sleep 0.1; done
cat /tmp/broker.log
tempos sub -t telemetry --count 1 --timeout 30 > /tmp/sub.log &
sub=$!
for _ in $(seq 200); do tempos ctl route telemetry | grep -q 127.0.0.1 && break; sleep 0.1; done
tempos pub -t telemetry -m hello
wait $sub
cat /tmp/sub.log
tempos ledger
kill $broker
wait $broker
tempos doctor --json > /tmp/doctor.json || [ $? = 1 ]
"""

pytestmark = [
    pytest.mark.netns,
    pytest.mark.timeout(2 * LIMIT),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("mmdebstrap", "dpkg-deb", "unshare"))),
        reason="needs mmdebstrap and dpkg-deb",
    ),
    pytest.mark.skipif(
        not Path("/etc/debian_version").exists(), reason="the package is of Debian's own Python"
    ),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("source") / "tree"
    built = (".git", ".venv", "build", "dist", "*.so", "*.bpf.o", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*built, "*-results"))
    done = subprocess.run(
        ["sh", "config/debian/build.sh", sys.executable],
        cwd=tree, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    if "No matching distribution" in done.stderr or "Could not find a version" in done.stderr:
        pytest.skip("the packages that it takes in cannot be had now")
    assert done.returncode == 0, done.stderr
    (found,) = (tree / "build").glob("*.deb")
    return Path(found)


def needs(package: Path) -> list[str]:
    field = subprocess.run(
        ["dpkg-deb", "-f", str(package), "Depends"], capture_output=True, text=True, check=True
    )
    return sorted({each.split()[0] for each in field.stdout.split(",")})


def debian(package: Path, folder: Path) -> Path:
    """A root file system with what the package depends on, and nothing else."""
    names = needs(package)

    def make(place: Path) -> None:
        chroot.checked(
            ("mmdebstrap", "--variant=minbase", f"--include={','.join(names)}", SUITE, str(place / "root"))
        )

    made = cache.entry("deb-root", cache.digest(SUITE, *names), make) / "root"
    subprocess.run(["cp", "-a", str(made), str(folder)], check=True, timeout=LIMIT)
    return folder


def test_it_is_installed_serves_and_leaves_nothing(package: Path, tmp_path: Path) -> None:
    assert package.name.startswith(f"tempos_{__version__}_")
    root = debian(package, tmp_path / "root")
    shutil.copy(package, root / "tmp" / "tempos.deb")
    chroot.run(root, ("dpkg", "-i", "/tmp/tempos.deb"))
    assert "tempos" in chroot.run(root, ("getent", "passwd", "tempos"))
    inside = f"chroot {root} bash -ec '{TRY}'"
    told = chroot.checked(
        (
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "sh",
            "-ec",
            f"mount -t proc proc {root}/proc; {inside}",
        ),
        {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"},
    )
    assert f"tempos {__version__}" in told
    assert "slow path recvmmsg" in told
    assert "\nhello\n" in told
    assert told.rstrip().endswith("balanced")
    unit = (root / "lib/systemd/system/tempos-broker.service").read_text()
    assert "ExecStart=/usr/bin/tempos broker -c /etc/tempos/broker.toml" in unit
    assert "/opt/" not in unit
    assert (root / "usr/share/man/man1/tempos-broker.1.gz").exists()
    chroot.run(root, ("dpkg", "--purge", "tempos"))
    for path in ("usr/lib/tempos", "etc/tempos", "usr/bin/tempos"):
        assert not (root / path).exists()
