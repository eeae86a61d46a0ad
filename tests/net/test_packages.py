"""Wheels, source packages and Debian's: the same bytes wherever they are built, and they work by themselves.

In a fresh Debian 12 the package is installed by dpkg and serves; purged, it leaves nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from stock import cache, chroot
from support.archives import how_many, unpack
from support.ports import free_ports
from support.waiting import LIMIT

from tempos import __version__
from tempos_bench.nodes.patience import patience

ROOT = Path(__file__).resolve().parents[2]
#: A whole build takes half a minute of a processor that others may be using as well.
SLOW = patience(250.0)
pytestmark = pytest.mark.timeout(5 * SLOW)
BUILD = "from hatchling.build import build_{0}; print(build_{0}('dist'))"
NATIVE = shutil.which("gcc") and (shutil.which("clang-14") or shutil.which("clang"))
#: As a machine without any tool has it.
BARE = {"PATH": "/nonexistent", "CC": "no-compiler", "LDSHARED": "no-linker"}

#: As an editable install leaves them: of this Python, of another, of all, and of a part there is no more.
_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
STALE = b"made from other sources"
PLANTED = (
    f"broker/tempos_broker/_batch{_SUFFIX}",
    "broker/tempos_broker/_batch.cpython-399-x86_64-linux-gnu.so",
    "fastpath/tempos_fastpath/fastpath.bpf.o",
    f"bench/tempos_bench/_former{_SUFFIX}",
)

CONFIG = """
[broker]
listen = ["127.0.0.1"]
data_port = {data}
control_port = {control}
api = "{api}"
name = "packaged-{data}"
[state]
file = "off"
[fastpath]
mode = "off"
[[topic]]
id = 7
name = "news"
"""

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


def clean(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TEMPOS_", "PYTHON"))}
    return {**kept, **more}


def build(kind: str, tree: Path, **environment: str) -> Path:
    """A package out of a tree."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind)], cwd=tree, capture_output=True, text=True, timeout=SLOW,
        env=clean(SOURCE_DATE_EPOCH="1700000000", **environment), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return tree / "dist" / done.stdout.split()[-1]


def copy(folder: Path) -> Path:
    built = (".git", ".venv", "build", "dist", "*.so", "*.bpf.o", "__pycache__", ".*_cache", ".hypothesis")
    ignored = shutil.ignore_patterns(*built, "*-results")
    return Path(shutil.copytree(ROOT, folder, ignore=ignored))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source package, a wheel, one without compiled parts; the first two once more, built elsewhere.

    The first three in trees that hold parts made from other sources.
    """
    made = tmp_path_factory.mktemp("packages")
    here, elsewhere, bare = copy(made / "here"), copy(made / "elsewhere" / "deeper"), copy(made / "bare")
    for tree in (here, bare):
        for each in PLANTED:
            (tree / each).write_bytes(STALE)
    source = build("sdist", here)
    with tarfile.open(source) as archive:
        unpack(archive, made / "unpacked")
    (unpacked,) = (made / "unpacked").iterdir()
    return {
        "sdist": source,
        "sdist again": build("sdist", elsewhere),
        "wheel": build("wheel", here),
        "wheel of the sdist": build("wheel", unpacked),
        "bare": build("wheel", bare, **BARE),
    }


def test_the_same_sources_give_the_same_bytes(packages: dict[str, Path]) -> None:
    assert digest(packages["sdist"]) == digest(packages["sdist again"])
    assert digest(packages["wheel"]) == digest(packages["wheel of the sdist"])
    assert packages["wheel"].name.startswith(f"tempos-{__version__}-")
    assert packages["bare"].name == f"tempos-{__version__}-py3-none-any.whl"
    if NATIVE:
        assert "linux" in packages["wheel"].name


def compiled(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as built:
        assert "tempos_bench/scenarios/redirect.toml" in built.namelist()
        return {each: built.read(each) for each in built.namelist() if each.endswith((".so", ".bpf.o"))}


def test_a_wheel_holds_what_its_own_build_made_and_leaves_the_tree_alone(packages: dict[str, Path]) -> None:
    assert compiled(packages["bare"]) == {}
    for name in ("wheel", "bare"):
        tree = packages[name].parents[1]
        assert {(tree / each).read_bytes() for each in PLANTED} == {STALE}
        assert not (tree / "build").exists()
    if not NATIVE:
        pytest.skip("needs gcc and clang")
    tree = packages["wheel"].parents[1]
    parts = "import native_parts as n; print(*(p.home for p in n.parts()))"
    expected = subprocess.run(
        [sys.executable, "-c", parts], cwd=tree, capture_output=True, text=True, check=True, env=clean()
    ).stdout.split()
    built = compiled(packages["wheel"])
    assert built.keys() == set(expected)
    assert len(expected) == how_many(tree)
    assert all(content.startswith(b"\x7fELF") for content in built.values())


def needed(extras: set[str]) -> set[str]:
    """The distributions that an extra of ours leads to, ours not among them."""
    found: set[str] = set()
    queue = [("tempos", frozenset(extras))]
    while queue:
        name, wanted = queue.pop()
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is not None and not any(
                requirement.marker.evaluate({"extra": extra}) for extra in {"", *wanted}
            ):
                continue
            if requirement.name not in found | {"tempos"}:
                found.add(requirement.name)
                queue.append((requirement.name, frozenset(requirement.extras)))
    return found


def environment(folder: Path, wheel: Path, extras: set[str]) -> Path:
    """A new environment with the wheel and what its extras ask for, nothing else; its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=SLOW)
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index",
         "--disable-pip-version-check", str(wheel)],
        check=True, timeout=SLOW, env=clean(PIP_ROOT_USER_ACTION="ignore"),
    )  # fmt: skip
    (site,) = folder.glob("lib/python*/site-packages")
    # As they were installed here: a test needs no network.
    for name in needed(extras):
        for file in metadata.files(name) or ():
            if ".." not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file.locate(), site / file)
    return python


def serve(python: Path, tmp_path: Path, api: bool) -> str:
    """A broker, a subscriber and an event, each by the command that was installed; what the broker said."""
    data, control, port = free_ports(3)
    ports = ("--control-port", str(control))
    config = tmp_path / "broker.toml"
    config.write_text(CONFIG.format(data=data, control=control, api=f"127.0.0.1:{port}" if api else "off"))
    tempos = str(python.parent / "tempos")
    command = [tempos, "broker", "-c", str(config)]
    with subprocess.Popen(command, env=clean(), stdout=subprocess.PIPE, text=True, cwd=tmp_path) as broker:
        try:
            assert broker.stdout is not None
            ready = broker.stdout.readline()
            assert ready.startswith("ready")
            listening = [tempos, "sub", "-t", "news", *ports, "--count", "1", "--timeout", "30"]
            with subprocess.Popen(
                listening,
                env=clean(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
            ) as sub:
                assert sub.stderr is not None
                assert "subscribed" in sub.stderr.readline()
                said = [tempos, "pub", "-t", "news", *ports, "--data-port", str(data), "-m", "hello"]
                subprocess.run(said, env=clean(), check=True, timeout=LIMIT, cwd=tmp_path)
                assert sub.communicate(timeout=LIMIT)[0] == "hello\n"
            if api:
                ledger = [tempos, "ledger", "--api", f"127.0.0.1:{port}"]
                told = subprocess.run(
                    ledger,
                    env=clean(),
                    check=True,
                    timeout=LIMIT,
                    capture_output=True,
                    text=True,
                    cwd=tmp_path,
                )
                assert told.stdout.endswith("balanced\n")
        finally:
            broker.terminate()
            broker.communicate(timeout=LIMIT)
    assert broker.returncode == 0
    return ready


def test_a_wheel_works_in_an_empty_environment(packages: dict[str, Path], tmp_path: Path) -> None:
    python = environment(tmp_path / "env", packages["wheel"], {"broker", "fastpath"})
    ready = serve(python, tmp_path, api=True)
    if NATIVE:
        assert "recvmmsg" in ready
    doctor = [str(python.parent / "tempos"), "doctor", "--json"]
    told = subprocess.run(doctor, env=clean(), capture_output=True, text=True, timeout=SLOW, check=False)
    findings = [each for area in json.loads(told.stdout)["areas"] for each in area["findings"]]
    by_extra = {each["subject"]: each["had"] for each in findings if each["code"] == "TD001"}
    assert by_extra["tempos[broker]"]
    assert by_extra["tempos[fastpath]"]
    assert not by_extra["tempos[bench]"]
    if NATIVE:
        parts = [each for each in findings if each["code"] in ("TD002", "TD003")]
        assert parts
        assert all(each["had"] for each in parts), parts


def test_a_wheel_without_compiled_parts_works_with_msgpack_alone(
    packages: dict[str, Path], tmp_path: Path
) -> None:
    assert needed(set()) == {"msgpack"}
    python = environment(tmp_path / "env", packages["bare"], set())
    assert "portable" in serve(python, tmp_path, api=False)


@pytest.fixture
def package(packages: dict[str, Path]) -> Path:
    """The Debian package, of the wheel."""
    tree = packages["sdist again"].parents[1]
    done = subprocess.run(
        ["sh", "config/debian/build.sh", sys.executable, str(packages["wheel"])],
        cwd=tree, capture_output=True, text=True, timeout=SLOW, check=False,
        env=clean(SOURCE_DATE_EPOCH="1700000000"),
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
    subprocess.run(["cp", "-a", str(made), str(folder)], check=True, timeout=SLOW)
    return folder


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(
    not all(map(shutil.which, ("mmdebstrap", "dpkg-deb", "unshare"))), reason="needs mmdebstrap and dpkg-deb"
)
@pytest.mark.skipif(
    not (NATIVE and Path("/etc/debian_version").exists()), reason="the package is of Debian's own Python"
)
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
