"""Build hook: compiles the BPF objects and the cffi extensions where the tools for it exist.

Nothing here is needed for the client library and the portable slow path, so a missing compiler,
clang or libbpf leaves its part out with one line that says so, and again in an account that is installed
(pip shows such lines to nobody without -v). With TEMPOS_REQUIRE_NATIVE=1 in the environment it fails instead.

A wheel takes what this very build made, in a folder of its own, and nothing that lies in the source tree;
the tree is not written to. Only an editable install builds into it (see native_parts.py).
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

if TYPE_CHECKING:
    from native_parts import Part

ROOT = Path(__file__).resolve().parent


class NativeBuildHook(BuildHookInterface[Any]):
    """Called by hatchling before a wheel (editable or not) is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or sys.platform != "linux":
            return
        # Built from here, and not installed: no package of any environment.
        sys.path.insert(0, str(ROOT))
        try:
            import native_parts
        finally:
            del sys.path[0]

        if version == "editable":
            built, left_out = self._each(native_parts, native_parts.build_in_tree)
            (ROOT / native_parts.ACCOUNT_IN_TREE).write_text(native_parts.account(left_out))
        else:
            # Lives as long as this hook, that is until the wheel is written.
            self._folder = tempfile.TemporaryDirectory(prefix="tempos-wheel-")
            folder = Path(self._folder.name)
            built, left_out = self._each(native_parts, lambda part: part.build(folder / part.home))
            account = folder / native_parts.ACCOUNT
            account.parent.mkdir()
            account.write_text(native_parts.account(left_out))
            homes = [native_parts.ACCOUNT, *(part.home for part in built)]
            build_data["force_include"] |= {str(folder / home): str(home) for home in homes}
        if built:
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def _each(self, native_parts: Any, build: Callable[[Part], None]) -> tuple[list[Part], dict[str, str]]:
        """Build every part; those that could be built, and why the others could not, by name."""
        built: list[Part] = []
        left_out: dict[str, str] = {}
        for part in native_parts.parts():
            try:
                build(part)
                built.append(part)
            except native_parts.CannotBuild as error:
                if os.environ.get("TEMPOS_REQUIRE_NATIVE") == "1":
                    raise RuntimeError(f"cannot build {part.name}: {error}") from error
                self.app.display_warning(f"tempos: {part.name} is left out: {error}")
                left_out[part.name] = str(error)
        return built, left_out
