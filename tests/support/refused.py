"""BPF objects that the kernel's verifier refuses, built for a test: small ones, and the fast path itself.

Needs clang and a checkout; without clang the test is skipped and says so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from support.privileges import require

ROOT = Path(__file__).resolve().parents[2]
BPF = ROOT / "fastpath" / "bpf"
PACKAGE = ROOT / "fastpath" / "tempos_fastpath"
#: What the verifier says of :data:`BEYOND`, on every kernel.
REASON = "invalid access to packet, off=12 size=4"
BEYOND = "return *(volatile __u32 *)((void *)(long)ctx->data + 12);"
_ENTRY = re.compile(r"(\nint tempos_fastpath\(struct xdp_md \*ctx\)\n\{\n)")
_PROGRAM = """\
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char _license[] SEC("license") = "GPL";
SEC("xdp") int refused(struct xdp_md *ctx)
{{
	{body}
}}
"""


def compile_bpf(source: Path, target: Path) -> Path:
    """As the build does it; gives ``target``."""
    clang = shutil.which("clang-14") or shutil.which("clang")
    require(None if clang else "clang is not installed")
    assert clang is not None
    subprocess.run(
        [clang, "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-I", str(BPF),
         "-idirafter", f"/usr/include/{sysconfig.get_config_var('MULTIARCH') or ''}",
         "-c", str(source), "-o", str(target)],
        check=True,
    )  # fmt: skip
    return target


def build(folder: Path, body: str = BEYOND) -> Path:
    """An object `refused.bpf.o` in ``folder`` whose one program has this body."""
    source = folder / "refused.bpf.c"
    source.write_text(_PROGRAM.format(body=body))
    return compile_bpf(source, folder / "refused.bpf.o")


@contextmanager
def refused_fast_path() -> Iterator[None]:
    """Meanwhile, programs that are started find a fast path whose XDP program the verifier refuses."""
    with TemporaryDirectory(prefix="tempos-refused-") as name:
        folder = Path(name)
        package = folder / PACKAGE.name
        package.mkdir()
        for path in PACKAGE.iterdir():
            if path.name != "fastpath.bpf.o":
                (package / path.name).symlink_to(path)
        source = folder / "fastpath.bpf.c"
        text, entries = _ENTRY.subn(
            rf"\1\tif (settings.port)\n\t\t{BEYOND}\n", (BPF / source.name).read_text()
        )
        assert entries == 1
        source.write_text(text)
        compile_bpf(source, package / "fastpath.bpf.o")
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = name if before is None else f"{name}{os.pathsep}{before}"
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
