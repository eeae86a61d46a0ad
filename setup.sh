#!/bin/sh
# Set-up for the Makefile: Debian's packages that are missing, the virtual environment, tempos in it.
# Without root, or off Debian, it says what is missing and goes on: the slow path needs none of it.
set -eu
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

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

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
echo "setup: installing Python packages into $VENV"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_BUILD_CONSTRAINT=constraints.txt
"$VENV/bin/python" -m pip install -q -c constraints.txt -U pip
"$VENV/bin/python" -m pip install -q -c constraints.txt --group dev -e '.[all]'
