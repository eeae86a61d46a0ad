#!/bin/sh
# watchfiles, told to watch a file, tells of the first time that it is replaced, and of nothing ever after.
#
# Versions    watchfiles 1.3.0; Linux.
# Expected    watch(path) "yields sets of changes" of that path for as long as it is iterated over. Editors, configuration
#             management and every careful program replace a file by renaming a new one over it; each of these is a
#             change of the path, as each write into it is.
# What it does  It is the file that is watched, not its name: the rename is told once, as "deleted" (and modified), the kernel's
#             watch goes with the file, and no further change of that path comes, by rename or by write, without an
#             error and without an end of the iteration. And where a whole folder is moved into a watched one, the folder
#             is told, and of what is in it nothing.
# Source      watchfiles 1.3.0 hands each path to the crate notify, whose inotify backend watches the inode; inotify(7),
#             IN_IGNORED: the watch is removed with the file. Issues 127 and 235 of watchfiles; its documentation of watch()
#             does not say it.
# For us      Triggers of kind file watch the folder, and take what it tells only as a hint to look: each second they look
#             anyway (clients/tempos_trigger/sources/file.py).
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/v" && "$folder/v/bin/pip" install -q --disable-pip-version-check watchfiles==1.3.0 ||
    { echo "watchfiles 1.3.0 cannot be had" >&2; exit 2; }

cat > "$folder/run.py" <<'SOURCE'
import os
import pathlib
import sys
import tempfile
import threading
import time

from watchfiles import watch

SECOND = 1.0


def told(path, *acts):
    """What is told of a path after each of these, within a second; the first one starts the watch."""
    stop, seen, lists = threading.Event(), [], []

    def follow():
        options = {"watch_filter": None, "debounce": 50, "step": 10, "rust_timeout": 100}
        for changes in watch(path, stop_event=stop, yield_on_timeout=True, **options):
            seen.extend((each.name, os.path.basename(name)) for each, name in changes)
            started.set()

    started = threading.Event()
    thread = threading.Thread(target=follow)
    thread.start()
    assert started.wait(10)
    for act in acts:
        seen.clear()
        act()
        time.sleep(SECOND)
        lists.append(sorted(seen))
    stop.set()
    thread.join(10)
    return lists


def written(path):
    return lambda: path.write_text("written")


def replaced(path):
    def act():
        beside = path.with_name("new")
        beside.write_text("replaced")
        os.replace(beside, path)
    return act


with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
    path = pathlib.Path(first, "settings")
    path.write_text("first")
    names = ("written", "replaced", "replaced again", "written again")
    lists = told(path, written(path), replaced(path), replaced(path), written(path))
    for name, each in zip(names, lists):
        print(f"the file is {name}: {each or 'nothing is told'}")
    batch = pathlib.Path(first, "batch")
    batch.mkdir()
    for number in range(3):
        pathlib.Path(batch, f"order-{number}").write_text("x")
    (moved,) = told(second, lambda: os.rename(batch, os.path.join(second, "batch")))
    print(f"a folder with three files is moved into a watched one: {moved}")
sys.exit(not (lists[0] and lists[1] and not lists[2] and not lists[3] and moved == [("added", "batch")]))
SOURCE
timeout 60 "$folder/v/bin/python" "$folder/run.py"
