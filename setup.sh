#!/bin/sh
# Set-up for the Makefile: Debian's packages that are missing, the virtual environment, tempos in it.
# Without root, or off Debian, it says what is missing and goes on: the slow path needs none of it.
#
#   sh setup.sh          does it
#   sh setup.sh check    tells, a line each, why it must be done again; nothing if all is as it left it
#
# CHOSEN: the Python that was asked for by name, so that an environment of another one has to go.
set -eu
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
CHOSEN=${CHOSEN:-}
STAMP=$VENV/.ready

of_python() { "$1" -c 'import platform as p; print(p.python_implementation(), *p.python_version_tuple()[:2])' 2>/dev/null; }

# Why the environment cannot be gone on with; nothing if it can, or is not there yet.
unusable() {
    [ -e "$VENV/pyvenv.cfg" ] || return 0
    runs=$(of_python "$VENV/bin/python") || { echo "its Python does not run"; return 0; }
    # A Python that was exchanged under the environment looks for packages elsewhere.
    made=$(sed -n 's/^version *= *\([0-9]*\)\.\([0-9]*\).*/\1 \2/p' "$VENV/pyvenv.cfg")
    [ -z "$made" ] || [ "${runs#* }" = "$made" ] || { echo "it was made for Python $made and has $runs"; return 0; }
    if [ -n "$CHOSEN" ] && wanted=$(of_python "$CHOSEN") && [ "$wanted" != "$runs" ]; then
        echo "it has $runs, and $CHOSEN is $wanted"
        return 0
    fi
    # Its programs name their Python by its path; one without pip was never finished.
    here=$(cd "$VENV" && pwd -P)
    head -n 2 "$VENV/bin/pip" 2>/dev/null | grep -qF "$here/bin/" || echo "it was made elsewhere, or never finished"
}

if [ "${1:-}" = check ]; then
    # Without a stamp make sees by itself that there is something to do.
    [ -e "$STAMP" ] || exit 0
    why=$(unusable)
    if [ -n "$why" ]; then echo "$VENV is of no use: $why"; else "$VENV/bin/python" native_parts.py check "$STAMP"; fi
    exit 0
fi

missing=
need() { missing="$missing $1"; }
command -v "$PYTHON" >/dev/null || need python3
{ command -v "$PYTHON" >/dev/null && "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; } || need python3-venv
command -v gcc >/dev/null || need gcc
[ -e /usr/include/stdio.h ] || need libc6-dev
[ -e "$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null)/Python.h" ] || need python3-dev
command -v clang-14 >/dev/null || command -v clang >/dev/null || need clang-14
[ -e /usr/include/bpf/libbpf.h ] || need libbpf-dev
[ -e /usr/include/linux/bpf.h ] || need linux-libc-dev
command -v ip >/dev/null || need iproute2

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: installing$missing"
        apt-get update -qq
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    else
        echo "setup: missing$missing (run as root, or: apt-get install$missing); the slow path works without" >&2
    fi
fi

# From here on, until all is done, what is there is not whole.
rm -f "$STAMP"
why=$(unusable)
if [ -n "$why" ]; then
    echo "setup: making $VENV anew: $why"
    "$PYTHON" -m venv --clear "$VENV"
elif [ ! -e "$VENV/pyvenv.cfg" ]; then
    "$PYTHON" -m venv "$VENV"
fi
echo "setup: installing Python packages into $VENV"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_BUILD_CONSTRAINT=constraints.txt
"$VENV/bin/python" -m pip install -q -c constraints.txt -U pip
"$VENV/bin/python" -m pip install -q -c constraints.txt --group dev -e '.[all]'
"$VENV/bin/python" native_parts.py left_out | sed 's/^/setup: /' >&2
"$VENV/bin/python" native_parts.py stamp > "$STAMP.part"
mv "$STAMP.part" "$STAMP"
