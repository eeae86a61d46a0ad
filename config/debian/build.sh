#!/bin/sh
# Builds the Debian package of tempos into build/, by the Python that runs here: all but benchmarks,
# with the Python packages that it needs (Debian 12 has older ones), in a folder of their own.
#
#   sh config/debian/build.sh PYTHON [WHEEL]   PYTHON: of an environment with pip, hatchling and cffi (make deb);
#                                              WHEEL: what it is made of, else it is built
#
# The same sources and packages give the same bytes: dates are SOURCE_DATE_EPOCH, by default that of the last commit.
set -eu
PYTHON=$1
HERE=config/debian
PARTS=broker,fastpath,platform,completion,director,encryption,export
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1700000000)}
export SOURCE_DATE_EPOCH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
umask 022

version=$("$PYTHON" -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
python=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
next=$("$PYTHON" -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
arch=$(dpkg --print-architecture)
root=build/deb/root
home=$root/usr/lib/tempos
rm -rf build/deb
mkdir -p "$home/bin" "$root/usr/bin" "$root/etc/tempos" "$root/lib/systemd/system" "$root/usr/lib/sysusers.d" \
    "$root/usr/share/doc/tempos/examples" "$root/usr/share/man" "$root/usr/share/bash-completion/completions" "$root/DEBIAN"

# The environment: no copy of Python, Debian's own runs it.
wheel=${2:-}
if [ -z "$wheel" ]; then
    TEMPOS_REQUIRE_NATIVE=1 "$PYTHON" -c 'from hatchling.build import build_wheel; build_wheel("build/deb/wheel")'
    wheel=$(ls build/deb/wheel/*.whl)
fi
site=$home/lib/python$python/site-packages
"$PYTHON" -m pip install -q --target "$site" --no-compile -c constraints.txt "$wheel[$PARTS]" rich
rm -rf "$site/bin" "$site"/*.dist-info/direct_url.json "$site"/*.dist-info/REQUESTED "$site"/*.dist-info/RECORD
printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' "$python" > "$home/pyvenv.cfg"
ln -s "/usr/bin/python$python" "$home/bin/python3"
cat > "$root/usr/bin/tempos" <<END
#!/usr/lib/tempos/bin/python3
import sys

from tempos_daemon.entry import main

sys.exit(main())
END
chmod 755 "$root/usr/bin/tempos"

# What the service needs, and what people read.
for unit in config/systemd/*.service; do
    sed 's#/opt/tempos/bin/tempos#/usr/bin/tempos#' "$unit" > "$root/lib/systemd/system/$(basename "$unit")"
done
cp config/systemd/tempos.sysusers "$root/usr/lib/sysusers.d/tempos.conf"
cp config/broker.toml "$root/etc/tempos/broker.toml"
chmod 640 "$root/etc/tempos/broker.toml"
cp -r config/broker.toml config/trigger.toml config/invoker.toml config/platform.toml config/functions \
    config/prometheus config/grafana "$root/usr/share/doc/tempos/examples/"
cp LICENSE "$root/usr/share/doc/tempos/copyright"
gzip -9nc CHANGELOG.md > "$root/usr/share/doc/tempos/changelog.gz"
"$PYTHON" -c 'import sys; sys.path.insert(0, "config/docs"); from manual import man; man.main(sys.argv[1])' "$root/usr/share/man"
gzip -9n "$root"/usr/share/man/man*/*
"$PYTHON" -m tempos completion bash > "$root/usr/share/bash-completion/completions/tempos"
find "$root" -name __pycache__ -type d -prune -exec rm -rf {} +

for script in postinst prerm postrm; do install -m 755 "$HERE/$script" "$root/DEBIAN/$script"; done
echo /etc/tempos/broker.toml > "$root/DEBIAN/conffiles"
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@PYTHON@/$python/g; s/@NEXT@/$next/; s/@SIZE@/$(du -sk "$root/usr" | cut -f1)/" \
    "$HERE/control.in" > "$root/DEBIAN/control"
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
# Half a minute sooner than by xz, and a fifth larger.
dpkg-deb -Zzstd -z9 --root-owner-group --build "$root" "build/tempos_${version}_$arch.deb"
