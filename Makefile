# Everything a developer runs. The environment is made once, in .venv, from constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
READY := $(VENV)/.ready
NODE_READY := js/node_modules/.ready
# In a container everybody is root, which Jupyter refuses unless it is told.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
BUNDLE := src/nbloader/static/widget.js
PYTHON_TESTS := tests/unit tests/loads tests/widget

.PHONY: demo test sweep coverage test-oldest test-newest install check format generate unit loads widget kernel browser docs notebooks packaging js bundle watch screenshots benchmark clean

## demo: JupyterLab with the first tutorial open
demo: $(READY) $(BUNDLE)
	$(BIN)/jupyter lab $(AS_ROOT) --LabApp.default_url=/lab/tree/notebooks/01-quickstart.ipynb

## test: everything that CI runs
test: check js unit loads widget kernel docs notebooks browser packaging

## sweep: every model type of transformers that can be built small, each class of it, against plain loading
sweep: $(READY) $(BUNDLE)
	$(PYTEST) tests/sweep -rs

# These need more turns of the interpreter than a tracer leaves them: signals every 10 µs, and 64 threads.
UNTRACED := --deselect tests/widget/test_widget.py::test_sixty_four_threads_wait_in_four_ways_for_one_load \
	--deselect tests/loads/test_turn.py::test_interrupts_at_any_moment_leave_nobody_in_line

## coverage: the lines that unit, load and widget tests run; fails below the floor in pyproject.toml
coverage: $(READY) $(BUNDLE)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PYTHON_TESTS) $(UNTRACED)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Environments of their own, of other versions than constraints.txt has: uv can resolve to the lowest.
UV := $(BIN)/uv

## test-oldest: unit, load and widget tests with the lowest versions that pyproject.toml allows
test-oldest: $(READY) $(BUNDLE)
	$(UV) venv --quiet --clear --python $(BIN)/python .venv-oldest
	$(UV) pip compile --quiet --resolution lowest-direct --python .venv-oldest --extra quantization --extra adapter \
		--output-file .venv-oldest/lowest.txt pyproject.toml
	$(UV) pip install --compile-bytecode --python .venv-oldest --constraint .venv-oldest/lowest.txt --editable '.[quantization,adapter]' --group test
	.venv-oldest/bin/python -m pytest $(PYTHON_TESTS)

## test-newest: the same with the newest of everything, pre-releases of safetensors and transformers too
test-newest: $(READY) $(BUNDLE)
	$(UV) venv --quiet --clear --python $(BIN)/python .venv-newest
	$(UV) pip install --compile-bytecode --python .venv-newest --upgrade --editable '.[quantization,adapter]' --group test
	$(UV) pip install --compile-bytecode --python .venv-newest --prerelease allow \
		--upgrade-package safetensors --upgrade-package transformers safetensors transformers
	.venv-newest/bin/python -m pytest $(PYTHON_TESTS)

install: $(READY)

$(READY): pyproject.toml constraints.txt hatch_build.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[quantization,adapter]' --group dev
	touch $@

$(NODE_READY): js/package-lock.json
	cd js && npm ci --ignore-scripts
	touch $@

$(BUNDLE): $(NODE_READY) $(wildcard js/src/*) $(wildcard js/src/*/*) js/build.mjs $(wildcard src/nbloader/locale/*.json)
	cd js && npm run --silent build

bundle: $(BUNDLE)

## watch: rebuild the bundle at every change of js/src
watch: $(NODE_READY)
	cd js && npm run watch

check: $(READY) $(NODE_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd js && npm run --silent check

format: $(READY) $(NODE_READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cd js && npm run --silent format

generate: $(READY)
	$(BIN)/python scripts/generate.py

js: $(NODE_READY) $(BUNDLE)
	cd js && npm test --silent

unit loads widget kernel packaging: $(READY) $(BUNDLE)
	$(PYTEST) tests/$@

# VS Code's own renderer of widgets.
VSCODE_READY := tests/browser/vscode/node_modules/.ready

$(VSCODE_READY): tests/browser/vscode/package-lock.json
	cd tests/browser/vscode && npm ci --ignore-scripts
	touch $@

browser: $(READY) $(BUNDLE) $(VSCODE_READY)
	$(BIN)/python scripts/find_browser.py --install
	$(PYTEST) tests/browser

# Without a page there are bars, with times in them.
notebooks: $(READY) $(BUNDLE)
	TQDM_DISABLE=1 LC_ALL=C.UTF-8 $(PYTEST) --nbval --nbval-current-env --nbval-sanitize-with notebooks/sanitize.cfg notebooks

## docs: the site, in docs/_build/html, and every block of code in it run
docs: $(READY) $(BUNDLE)
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html
	$(PYTEST) docs

## screenshots: docs/*.png, taken in Chromium
screenshots: $(READY) $(BUNDLE)
	$(BIN)/python scripts/find_browser.py --install
	$(BIN)/python scripts/take_screenshots.py

## benchmark: plain from_pretrained and nbloader.load, warm, side by side
benchmark: $(READY)
	$(BIN)/python benchmarks/warm_load.py

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest js/node_modules tests/browser/vscode/node_modules src/nbloader/static dist build docs/_build docs/tutorials
