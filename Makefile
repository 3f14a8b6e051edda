# Everything runs in .venv, made from the exact lock by the first command that needs it.
PYTHON ?= python3
BIN := .venv/bin
NOTEBOOK ?= flip
ARGS ?=

.PHONY: book test run site reproduce train publish redraw verify links bench check format

book: .venv/.ready ## execute every notebook at the quick profile and build the site from them
	$(BIN)/python -m statedepth book

test: .venv/.ready ## run all tests
	$(BIN)/python -m pytest -n auto --dist loadfile

run: .venv/.ready ## execute one notebook: make run NOTEBOOK=flip ARGS="-p seeds '[0]' -p d_model 48"
	$(BIN)/python -m statedepth run $(NOTEBOOK) $(ARGS)

site: .venv/.ready ## build the published run
	$(BIN)/jupyter-book build book/ -W --keep-going

reproduce: .venv/.ready ## the whole paper from nothing, every model trained anew; goes on where it was stopped
	$(BIN)/python -m statedepth reproduce $(ARGS)

train: .venv/.ready ## train the models of a published run that have no checkpoint yet
	$(BIN)/python -m statedepth train $(NOTEBOOK)

publish: .venv/.ready ## train, execute at the paper profile, and replace the published run
	$(BIN)/python -m statedepth publish $(NOTEBOOK)

redraw: .venv/.ready ## draw the published pages anew from their tables, after a change of figures or words; measures nothing
	$(BIN)/python -m statedepth redraw $(ARGS)

verify: .venv/.ready ## re-execute at the quick profile; fails where a headline number leaves its tolerance
	$(BIN)/python -m statedepth verify $(ARGS)

links: .venv/.ready ## ask every address of the outside that the pages name
	$(BIN)/jupyter-book build book/ --builder linkcheck --path-output _build/links

bench: .venv/.ready ## time the training steps of every path (benchmarks/), on a quiet machine
	$(BIN)/python benchmarks/scan.py $(ARGS)

check: .venv/.ready ## lint, formatting and types; seconds, no tests
	$(BIN)/ruff check lib tests notebooks benchmarks
	$(BIN)/ruff format --check lib tests notebooks benchmarks
	$(BIN)/mypy

format: .venv/.ready
	$(BIN)/ruff check --fix lib tests notebooks benchmarks
	$(BIN)/ruff format lib tests notebooks benchmarks

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; name one with make PYTHON=...')"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
