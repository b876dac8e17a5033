# Each target does all of its own set-up in .venv; PYTHON may be any Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAULTS ?= 60
WORKERS ?= 2
READY := $(VENV)/.ready

.PHONY: demo test test-fast bench clients faults gpu server-faults lint load clean

$(READY): pyproject.toml constraints.txt
	@test "$$(uname -s)" = Linux || { echo "Linux only: SGLang has no packages for $$(uname -s)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@test -x $(BIN)/python || { echo "making the virtual environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@tools/install.sh $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	@echo "20 problems, by base alone, small alone and SpecReason; two engines start first; 1 to 3 minutes on two cores"
	$(BIN)/python -m sgl_specreason.eval --bench demo --limit 20 $(ARGS)

test: $(READY)
	tools/debian.sh chromedriver "chromium chromium-driver" "the tests of the page in a browser are skipped"
	tools/debian.sh faketime faketime "the test of faults is skipped"
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not engines"
	$(BIN)/python -m pytest -m engines

test-fast: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not engines and not slow" $(ARGS)

faults: $(READY)
	tools/debian.sh faketime faketime "the clock cannot be made to jump"
	$(BIN)/python tools/faults.py --faults $(FAULTS) $(ARGS)

server-faults: $(READY)
	$(BIN)/python tools/server_faults.py $(ARGS)

bench: $(READY)
	$(BIN)/python tools/bench.py $(ARGS)

gpu: $(READY)
	@echo "everything that is to be known of this machine's GPU, as a table; at most 25 minutes; ARGS=--rehearse tries it on a CPU"
	$(BIN)/python tools/gpu.py $(ARGS)

clients: $(READY)
	@echo "the server through other people's clients, on the bundled pair; 2 GB of environments first; 5 to 10 minutes"
	$(BIN)/python tools/clients.py $(ARGS)

load: $(READY)
	$(BIN)/python tools/load.py $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	MYPYPATH=plots $(BIN)/mypy plots/*.py
	MYPYPATH=tools $(BIN)/mypy tools/bench.py tools/client_pace.py tools/clients.py tools/committed.py tools/faults.py tools/first_text.py tools/gates.py tools/gpu.py tools/load.py tools/server_faults.py tools/server_soak.py tools/soak.py

clean:
	rm -rf $(VENV) $(VENV)-*
