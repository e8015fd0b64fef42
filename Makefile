# The commands of the README. A fresh machine needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
PIP = .venv/bin/pip --disable-pip-version-check --quiet

.PHONY: help serve test format export experiments clean

help:
	@echo 'make serve        the service on http://127.0.0.1:8000 (PORT= changes it)'
	@echo 'make test         format, lint, types and all tests; installs everything'
	@echo 'make format       format the code and mend what lint can mend'
	@echo 'make export       export every artifact again from its checkpoint, and the graphs of the operations'
	@echo 'make experiments  train the models again and redraw the figures (QUICK=1: a small version, in minutes)'
	@echo 'make clean        remove what was built'

serve: .venv/service-installed
	exec .venv/bin/python -m service $(if $(PORT),--port $(PORT))

test: .venv/everything-installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/pytest --cov

format: .venv/everything-installed
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

export: .venv/everything-installed
	.venv/bin/python -m export

experiments: .venv/everything-installed
	.venv/bin/python -m experiments $(if $(QUICK),--quick)

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
	$(PIP) install --constraint constraints.txt --editable '.[cpu,export,experiments,dev]'
	touch $@ .venv/service-installed
