"""The first file system of a boot: what a packaged kernel needs to reach its disks, and a script.

Disks: the root, the tree under test, the kernel's modules, the job, and a place for results.
"""

from __future__ import annotations

import lzma
import subprocess
from pathlib import Path

from stock import chroot, root
from stock.chroot import Failed

_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
_BUSYBOX = "bin/busybox"
SCRIPT = f"""#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod /modules/$module || echo "guest: no $module"
done
disk() {{
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ -b $1 ] && break
        /bin/busybox sleep 0.5
    done
    /bin/busybox mount -t ext4 $1 $2 || echo "guest: cannot mount $1"
}}
disk /dev/vda /root
disk /dev/vdb /root{root.TREE}
/bin/busybox mkdir -p /root/lib/modules
disk /dev/vdc /root/lib/modules
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /usr/bin/python3 -I {root.TREE}/tests/stock/guest.py
"""


def make(tree: Path, release: str, target: Path) -> None:
    """Write the initrd of the kernel whose modules are below ``tree``."""
    base = target.with_name("initrd.files")
    for folder in ("bin", "dev", "modules", "root"):
        (base / folder).mkdir(parents=True)
    busybox = root.folder() / _BUSYBOX
    (base / _BUSYBOX).write_bytes(busybox.read_bytes())
    (base / _BUSYBOX).chmod(0o755)
    (base / "init").write_text(SCRIPT)
    (base / "init").chmod(0o755)
    order = []
    for path in _needed(tree, release):
        name = path.name.removesuffix(".xz")
        content = path.read_bytes()
        (base / "modules" / name).write_bytes(lzma.decompress(content) if path.suffix == ".xz" else content)
        order.append(name)
    (base / "modules" / "order").write_text("\n".join(order))
    pack = "find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > /srv/out/initrd"
    chroot.run(root.folder(), ("sh", "-c", f"cd {root.MODULES} && {pack}"),
               bind={base: root.MODULES, target.parent: "/srv/out"})  # fmt: skip
    subprocess.run(("rm", "-r", str(base)), check=True)


def _needed(tree: Path, release: str) -> list[Path]:
    """The modules' files in the order of loading; those that are built in have none."""
    found: dict[Path, None] = {}
    for module in _MODULES:
        command = ("modprobe", "-d", root.MODULES, "-S", release, "--show-depends", module)
        try:
            said = chroot.run(root.folder(), command, bind={tree: root.MODULES})
        except Failed as error:
            if "not found" in str(error):
                continue  # another name, or built in and not told so; the boot shows whether it was needed
            raise
        for line in said.splitlines():
            words = line.split()
            if words[:1] == ["insmod"]:
                found[tree / words[1].removeprefix(root.MODULES).lstrip("/")] = None
    return list(found)
