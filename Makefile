# From a fresh clone: `make demo` shows vxcore at work, `make test` checks it. Needs Debian or Ubuntu,
# Python 3.11 or newer (PYTHON=python3.13 chooses another) and root or sudo, and obtains the rest.

PYTHON ?= python3
TESTS ?=
FUZZ_SECONDS ?= 600
ARGS ?=
# Test files at a time: most of them wait for something.
JOBS ?= $(shell echo $$(($$(nproc) + 1)))
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
HEADER := $(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null)/Python.h
ENSUREPIP := $(shell $(PYTHON) -c 'import ensurepip; print(ensurepip.__file__)' 2>/dev/null)
CLANG_RT := $(shell clang -print-file-name=libclang_rt.fuzzer_no_main-$$(uname -m).a 2>/dev/null)
SOURCES := setup.py vxcore/verdict.py $(filter-out %/verdict.pxd,$(shell find pyx -type f))

BUILD_NEEDS = gcc=gcc /usr/include/stdlib.h=libc6-dev $(HEADER)=python$(VERSION)-dev \
	$(or $(ENSUREPIP),ensurepip)=python$(VERSION)-venv
FUZZ_NEEDS = clang=clang $(or $(CLANG_RT),clang_rt)=libclang-rt-dev
LIB = /usr/lib/$(shell uname -m)-linux-gnu
TEST_NEEDS = $(FUZZ_NEEDS) tshark=tshark editcap=wireshark-common capinfos=wireshark-common \
	systemd-analyze=systemd setpriv=util-linux tcpdump=tcpdump iperf3=iperf3 ethtool=ethtool ip=iproute2 ping=iputils-ping nft=nftables curl=curl zsh=zsh fish=fish valgrind=valgrind openssl=openssl \
	runc=runc iptables=iptables $(LIB)/libdevmapper.so.1.02.1=libdevmapper1.02.1 /usr/lib/cni/host-local=containernetworking-plugins \
	dot=graphviz qemu-system-x86_64=qemu-system-x86 /usr/lib/ipxe/ipxe.lkrn=ipxe \
	$(LIB)/libgpgme.so.11=libgpgme11 $(LIB)/libsubid.so.4=libsubid4 $(LIB)/libglib-2.0.so.0=libglib2.0-0 \
	$(LIB)/libyang.so.2=libyang2 $(LIB)/libcares.so.2=libc-ares2 $(LIB)/libjson-c.so.5=libjson-c5 $(LIB)/libreadline.so.8=libreadline8

# A browser, and what the pages of Debian's Prometheus are made of.
JS := /usr/share/javascript
SCREEN_NEEDS = chromium=chromium ip=iproute2 ping=iputils-ping script=bsdutils /usr/share/fonts-glyphicons=fonts-glyphicons-halflings \
	$(JS)/bootstrap4=libjs-bootstrap4 $(JS)/eonasdan-bootstrap-datetimepicker=libjs-eonasdan-bootstrap-datetimepicker \
	$(JS)/jquery/jquery.min.js=libjs-jquery $(JS)/jquery-hotkeys=libjs-jquery-hotkeys $(JS)/moment=libjs-moment \
	$(JS)/moment-timezone=libjs-moment-timezone $(JS)/mustache=libjs-mustache $(JS)/popper.js=libjs-popper.js $(JS)/rickshaw=libjs-rickshaw

# What is under test as a sanitized build, and how: Python's allocator would hide overruns.
SANITIZED := build/sanitize/lib
SANITIZED_MODULES := batch codec events flow pcap table vlan
SANITIZED_TESTS = $(filter-out %_peers.py,$(wildcard tests/unit/test_codec*.py)) \
	$(addprefix tests/unit/test_,batch.py flow.py pcap.py table.py vlan.py)
UNDER_ASAN = LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$(CURDIR)/$(SANITIZED)"

# Who takes part in the benchmarks. Of Open vSwitch the package with its daemon is only unpacked, for its
# installation would start the daemon; this one has the rest, and what the daemon is linked to.
BENCH_NEEDS = iperf3=iperf3 ethtool=ethtool ip=iproute2 ping=iputils-ping ovsdb-server=openvswitch-common \
	/usr/lib/cni/bridge=containernetworking-plugins editcap=wireshark-common valgrind=valgrind runc=runc iptables=iptables $(LIB)/libdevmapper.so.1.02.1=libdevmapper1.02.1

# What would start daemons when it is installed, and a busybox that is static whatever else is here.
DOCKER := docker.io containerd busybox-static
UNPACKED := prometheus podman conmon etcd-server gobgpd frr $(DOCKER)

# Tests make namespaces, so they run as root, and then leave no cache that its owner cannot delete.
AS_ROOT = $(if $(SUDO),$(SUDO) env CI="$$CI" PATH="$$PATH" \
	PYTHONDONTWRITEBYTECODE=1 MYPY_CACHE_DIR=/dev/null RUFF_NO_CACHE=true)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help demo build test lint fuzz sanitize bench bench-peers bench-upgrades docs pages pictures screens clean
.DELETE_ON_ERROR:

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## install vxcore into .venv and run `vxcore lab`
	$(SUDO) $(BIN)/vxcore lab

build: $(VENV)/.built ## compile the extensions in place

test: $(VENV)/.test $(VENV)/openvswitch $(UNPACKED:%=$(VENV)/%) ## obtain what tests need and run every check and test; TESTS=tests/unit for some, JOBS=1 in turn
	@.ci/obtain $(TEST_NEEDS)
	$(AS_ROOT) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(TESTS)

lint: $(VENV)/.test ## check format, style and types
	$(BIN)/python -m pytest -q tests/unit/test_source.py

fuzz: $(VENV)/.test ## fuzz the compiled modules for FUZZ_SECONDS=600
	@.ci/obtain $(FUZZ_NEEDS)
	$(BIN)/python tests/fuzz/campaign.py --seconds $(FUZZ_SECONDS)

# -P and the script pytest: the working directory must not come before the build under test.
sanitize: $(VENV)/.test ## run the tests of the compiled modules under ASan and UBSan
	VXCORE_SANITIZE=1 VXCORE_MODULES="$(SANITIZED_MODULES)" $(BIN)/python setup.py -q build_py --build-lib $(SANITIZED) \
		build_ext --build-lib $(SANITIZED) --build-temp build/sanitize/temp --parallel "$$(nproc)"
	$(UNDER_ASAN) $(BIN)/python -P -c 'from vxcore._fast import codec; assert "/build/sanitize/" in codec.__file__'
	$(UNDER_ASAN) $(BIN)/pytest -q $(SANITIZED_TESTS)

bench: bench-peers ## measure vxcore beside what people would use instead; ARGS="--quick codec"
	$(AS_ROOT) $(BIN)/vxcore bench $(ARGS)

bench-peers: $(VENV)/.bench $(VENV)/openvswitch $(DOCKER:%=$(VENV)/%) ## obtain all who take part in `vxcore bench`
	@.ci/obtain $(BENCH_NEEDS)

docs: $(VENV)/.installed ## write the pages that are made from the code
	$(BIN)/python docs/verdicts.py
	$(BIN)/python docs/schemas.py
	$(BIN)/python docs/manpage.py
	$(BIN)/python docs/metrics.py
	$(BIN)/python -m benchmarks.page
	$(BIN)/python -m benchmarks.upgrades

pages: $(VENV)/.test $(UNPACKED:%=$(VENV)/%) ## type the commands of the pages that are played, and write what they print; ARGS=docs/first-hour.md for some
	@.ci/obtain $(TEST_NEEDS)
	$(AS_ROOT) $(BIN)/python docs/play.py $(ARGS)

pictures: $(VENV)/.installed ## draw docs/pictures/*.svg from the .dot files there
	@.ci/obtain dot=graphviz
	$(BIN)/python docs/pictures.py

screens: $(VENV)/.test $(VENV)/prometheus ## draw the pictures in docs/screens
	@.ci/obtain $(SCREEN_NEEDS)
	$(AS_ROOT) $(BIN)/python docs/screens.py

bench-upgrades: $(VENV)/.bench ## measure 100 upgrades of each kind of ports and write docs/upgrade.md's table
	@.ci/obtain ip=iproute2
	$(AS_ROOT) $(BIN)/python -m benchmarks.upgrades --run $(or $(ARGS),100)

clean: ## delete everything that was made, .venv too
	rm -rf $(VENV) build dist *.egg-info vxcore/_fast/*.so pyx/vxcore/_fast/verdict.pxd
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find vxcore tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# One stamp per step. The first carries the version: another PYTHON makes another .venv.
$(VENV)/.python$(VERSION):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	"vxcore needs Python 3.11 or newer and $(PYTHON) is $(or $(VERSION),missing): make PYTHON=..." >&2; exit 1; }
	@.ci/obtain $(BUILD_NEEDS)
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.tools: $(VENV)/.python$(VERSION) pyproject.toml
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])' \
	| xargs $(BIN)/python -m pip install -q
	@touch $@

$(VENV)/.built: $(VENV)/.tools $(SOURCES)
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

$(VENV)/.installed: $(VENV)/.built
	VXCORE_MODULES= $(BIN)/python -m pip install -q --no-build-isolation -e .
	@touch $@

$(VENV)/openvswitch: $(VENV)/.python$(VERSION)
	@.ci/obtain ovsdb-server=openvswitch-common
	.ci/unpack openvswitch-switch $@
	@touch $@

$(UNPACKED:%=$(VENV)/%): $(VENV)/.python$(VERSION)
	.ci/unpack $(notdir $@) $@
	@touch $@

$(VENV)/.test $(VENV)/.bench: $(VENV)/.%: $(VENV)/.installed
	VXCORE_MODULES= $(BIN)/python -m pip install -q --no-build-isolation -e '.[$*]'
	@touch $@
