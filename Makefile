# Three commands do all their own set-up: `make run` shows the job at work, `make test` checks it,
# `make bench` measures it (`make bench QUICK=1` is a short look that writes no file).
PYTHON ?= python3
# Where `make run` sends to: logdna, cloud-logs or otlp.
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

# import-linter knows packages only, so each file of the root is shown to it as one.
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

# More workers than cores, since most tests wait for a job or for a server that is told to be slow.
unit: $(READY)
	$(PY) -m pytest -n 4 --dist loadfile

bench: $(READY_BENCH)
	$(PY) -m bench.run $(if $(QUICK),--quick)

# The stamp is made last: a set-up that broke off is done again.
$(READY): requirements-build.txt tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) -r requirements-build.txt
	$(PIP) --no-build-isolation --use-pep517 -r tests/requirements.txt
	touch $(READY)

$(READY_BENCH): $(READY) bench/requirements.txt
	$(PIP) -r bench/requirements.txt
	touch $(READY_BENCH)

# The same questions with far more answers: 100,000 inputs for each fuzz test; about half an hour.
# And the tester's report in a browser, where there is one (Debian: chromium).
nightly: $(READY)
	FLOWLOG_NIGHTLY=1 $(PY) -m pytest tests/push tests/bucket tests/destinations tests/desk \
		tests/deploy tests/test_edges.py tests/test_bench.py tests/test_faults.py tests/test_modes.py

# The picture of the tester's report in the documentation; needs chromium.
screenshot: $(READY)
	$(PY) -m standins.picture

# Known vulnerabilities of what is in the image; says so and passes where there is no network.
audit: $(READY)
	$(PY) -m tests.audit requirements.txt

# The lock files, anew from pyproject.toml; needs the network.
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
