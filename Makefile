# `make run` shows the job with local test servers, `make test` runs all checks and tests,
# `make bench` measures the job (`make bench QUICK=1` is shorter and writes no file). Each of them
# installs what it needs.
PYTHON ?= python3
# The log service of `make run`: logdna, cloud-logs or otlp.
DESTINATION ?= logdna
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes
READY_BENCH := $(VENV)/.ready-bench

.PHONY: run test bench nightly screenshot lint types unit audit lock clean

run: $(READY)
	$(PY) -m standins.demo $(DESTINATION)

test: lint types unit

# import-linter checks only packages, so .floors has a link to each folder, and a package for each
# file of the root.
FOLDERS := deploy desk run push bucket destinations connections
ROOT_FILES := flowlog lib logdna_synchronous test_flowlog_to_logdna
lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	@rm -rf .floors && mkdir .floors && ln -s $(FOLDERS:%=../%) .floors/
	@for file in $(ROOT_FILES); do \
		mkdir .floors/$$file && ln -s ../../$$file.py .floors/$$file/__init__.py; done
	cd .floors && ../$(PY) ../$(VENV)/bin/lint-imports --no-cache ../pyproject.toml

types: $(READY)
	$(PY) -m mypy

# More workers than cores, because most tests wait for a job or for a server that is slow on
# purpose.
unit: $(READY)
	$(PY) -m pytest -n 4 --dist worksteal

bench: $(READY_BENCH)
	$(PY) -m bench.run $(if $(QUICK),--quick)

# The stamp file is written last, so that an interrupted installation is repeated.
$(READY): requirements-build.txt tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) -r requirements-build.txt
	$(PIP) --no-build-isolation --use-pep517 -r tests/requirements.txt
	touch $(READY)

$(READY_BENCH): $(READY) bench/requirements.txt
	$(PIP) -r bench/requirements.txt
	touch $(READY_BENCH)

# The same tests with many more inputs (100,000 for each fuzz test), and the tests that are marked
# as nightly; about half an hour. If there is a browser (Debian: chromium), also the report in it.
nightly: $(READY)
	FLOWLOG_NIGHTLY=1 $(PY) -m pytest tests/push tests/bucket tests/destinations tests/desk \
		tests/deploy tests/test_edges.py tests/test_bench.py tests/test_faults.py tests/test_modes.py

# Makes the screenshot of the report for the documentation; needs chromium.
screenshot: $(READY)
	$(PY) -m standins.picture

# Checks the packages in the image for known vulnerabilities. Without a network it says so and
# passes.
audit: $(READY)
	$(PY) -m tests.audit requirements.txt

# Updates the lock files from pyproject.toml; needs the network.
UV := .uv/bin/uv
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --upgrade \
	--custom-compile-command "make lock" --no-emit-index-url pyproject.toml
lock:
	$(PYTHON) -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv
	$(COMPILE) --output-file requirements.txt
	$(COMPILE) --group test --output-file tests/requirements.txt
	$(COMPILE) --group test --group bench --output-file bench/requirements.txt
	$(COMPILE:pyproject.toml=) --group build --output-file requirements-build.txt

clean:
	rm -rf $(VENV) .uv .floors .mypy_cache .ruff_cache .pytest_cache .hypothesis
