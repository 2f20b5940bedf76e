# Three commands do all their own set-up: `make run` shows the job at work, `make test` checks it,
# `make bench` measures it (`make bench QUICK=1` in two minutes, roughly, and writes no file).
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
READY_BENCH := $(VENV)/.ready-bench

.PHONY: run test bench nightly lint types unit clean

run: $(READY)
	$(PY) -m standins.demo

test: lint types unit

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(READY)
	$(PY) -m mypy flowlog.py lib.py logdna_synchronous.py state.py catchup.py decoder.py listing.py fetch.py \
		wire.py cloud_logs.py test_flowlog_to_logdna.py

unit: $(READY)
	$(PY) -m pytest

bench: $(READY_BENCH)
	$(PY) -m bench.run $(if $(QUICK),--quick)

# The stamp is made last: a set-up that broke off is done again.
$(READY): requirements.txt tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $(READY)

$(READY_BENCH): $(READY) bench/requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	touch $(READY_BENCH)

# The same questions with far more answers: 100,000 inputs for each fuzz test; about half an hour.
nightly: $(READY)
	FLOWLOG_NIGHTLY=1 $(PY) -m pytest tests/test_decoder.py tests/test_protocol_model.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
