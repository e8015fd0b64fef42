# The commands of the README. A fresh machine needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
PIP = .venv/bin/pip --disable-pip-version-check --quiet

.PHONY: help serve test format export experiments bench bench-peers load soak page-figures image up clean

help:
	@echo 'make serve        the service on http://127.0.0.1:8000 (PORT= changes it)'
	@echo 'make test         format, lint, types and all tests; installs everything'
	@echo 'make format       format the code and mend what lint can mend'
	@echo 'make export       export every artifact again from its checkpoint, and the graphs of the operations'
	@echo 'make experiments  train the models again and redraw the figures (QUICK=1: a small version, in minutes)'
	@echo 'make bench        measure the service against raw onnxruntime and a naive server; writes the tables of README.md and docs/performance.md (half an hour)'
	@echo 'make bench-peers  the same, and other servers with the same model under the same load, installed into build/peers'
	@echo 'make load         load-test a running server of your own: URL= MODEL= USERS= SECONDS=; all settings: docs/load-testing.md'
	@echo 'make soak         the trials of tests/soak at full length; writes docs/soak.md (an hour and a half, going on where it was interrupted)'
	@echo 'make image        build the image normserve (RUNTIME=gpu: normserve-gpu, with CUDA)'
	@echo 'make up           the same, and serve from it on http://127.0.0.1:8000 (PORT= changes it)'
	@echo 'make page-figures take the pictures of the page at / anew (docs/figures/page-*.png), with Chromium'
	@echo 'make clean        remove what was built'

serve: .venv/service-installed
	exec .venv/bin/python -m service $(if $(PORT),--port $(PORT))

test: .venv/everything-installed .venv/debian-installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	@# Half of their time tests wait: three for two cores, with one thread of torch each. By name the long ones come first.
	OMP_NUM_THREADS=1 .venv/bin/pytest --cov --numprocesses 3 --no-loadscope-reorder

format: .venv/everything-installed
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

export: .venv/everything-installed
	.venv/bin/python -m export

experiments: .venv/everything-installed
	.venv/bin/python -m experiments $(if $(QUICK),--quick)

bench: .venv/everything-installed .venv/debian-installed
	.venv/bin/pytest bench/micro --benchmark-columns=median,iqr,ops
	.venv/bin/python -m bench

bench-peers: .venv/everything-installed .venv/debian-installed
	.venv/bin/python -m bench --peers

soak: .venv/everything-installed .venv/debian-installed
	.venv/bin/python -m bench.trials

page-figures: .venv/everything-installed .venv/debian-installed
	.venv/bin/python -m tests.page.figures

# Set here and not with ?=, so that a MODEL or a URL of the environment, meant for something else, is not loaded.
load: URL = http://127.0.0.1:8000
load: MODEL = ln-mlp-digits
load: USERS = 16
load: SECONDS = 10
load: REPORT = build/load/$(MODEL).html
load: BATCH =
load: LENGTH =
load: RATE =
load: FORMAT =
load: CHECK =
load: PARAMETERS =
load: .venv/bench-installed
	@.venv/bin/python -m locust --locustfile bench/locustfile.py --headless --only-summary --loglevel WARNING --stop-timeout 30 \
		--host '$(URL)' --model '$(MODEL)' --users '$(USERS)' --run-time '$(SECONDS)' --html '$(REPORT)' \
		$(if $(BATCH),--batch '$(BATCH)') $(if $(LENGTH),--length '$(LENGTH)') $(if $(RATE),--rate '$(RATE)') \
		$(if $(FORMAT),--format '$(FORMAT)') $(if $(CHECK),--check '$(CHECK)') $(if $(PARAMETERS),--parameters '$(PARAMETERS)')

RUNTIME = cpu
IMAGE = normserve
VARIANT = $(if $(filter gpu,$(RUNTIME)),-gpu)
image:
	docker build --tag '$(IMAGE)$(VARIANT)' --build-arg RUNTIME='$(RUNTIME)' \
		--build-arg VERSION="$$(sed -n 's/^VERSION = "\(.*\)"/\1/p' service/version.py)" \
		--build-arg REVISION="$$(git describe --always --abbrev=40 --exclude '*' --dirty 2>/dev/null || echo unknown)" .

up: image
	IMAGE='$(IMAGE)' $(if $(PORT),PORT='$(PORT)') docker compose up --wait normserve$(VARIANT)

clean:
	rm -rf .venv build .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "normserve needs Python 3.11 or later, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv

.venv/service-installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo 'installing what serving needs into .venv'
	$(PIP) install --constraint constraints.txt --editable '.[cpu]'
	touch $@

.venv/everything-installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo 'installing everything, torch too, into .venv'
	$(PIP) install --constraint constraints.txt --editable '.[cpu,openvino,ray,export,experiments,traces,bench,dev]'
	touch $@ .venv/service-installed .venv/bench-installed

# Programs that are no Python packages: only as root, and only where there is apt. Without them what needs them says so.
# Prometheus is unpacked, not installed: its package would start a service.
DEBIAN = wrk kubernetes-client chromium
.venv/debian-installed: Makefile | .venv/bin/python
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		! { command -v wrk && command -v kubectl && command -v chromium && { command -v prometheus || test -d .venv/debian; }; } >/dev/null; then \
		echo 'installing $(DEBIAN), unpacking prometheus'; apt-get -qq update && \
		apt-get -qq install --yes --no-install-recommends $(DEBIAN) >/dev/null && \
		mkdir -p .venv/debian && cd .venv/debian && apt-get -qq download prometheus 2>/dev/null && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb; fi
	touch $@

.venv/bench-installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo 'installing what load tests need into .venv'
	$(PIP) install --constraint constraints.txt --editable '.[bench]'
	touch $@
