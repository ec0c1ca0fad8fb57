# make demo    what Lacuna does, on a small real tractogram
# make test    the tests that need nothing beyond .venv; ARGS="tests/store -k key" passes arguments on
#
# Both set .venv up first: see requirements/make-venv. GNU make 3.81 is enough.
# PYTHON=python3.12 chooses the interpreter, WORKERS=4 the number of test processes.

BIN = .venv/bin
WORKERS = 2
ARGS =
PYTHON =
UNMARKED = not (stress or peer or faults or slurm or root)

# Modules on clusters set these; packages from elsewhere would shadow the pinned ones.
unexport PYTHONPATH PYTHONHOME PIP_USER

.PHONY: help demo test lint types suite bench docs lock clean venv-run venv-dev

help:
	@echo "make demo     see what Lacuna does, on a small real tractogram (sets .venv up)"
	@echo "make test     run the tests (sets .venv up); ARGS='tests/store -k key' passes on"
	@echo "make suite    run one marked suite: MARK=peer, faults, stress, slurm or root"
	@echo "make lint     ruff, mypy and the import contracts"
	@echo "make types    mypy alone"
	@echo "make bench    the benchmarks, with a table of ratios each"
	@echo "make docs     regenerate the reference pages from the code"
	@echo "make lock     resolve requirements/*.lock again (needs uv)"
	@echo "make clean    remove .venv, caches and build products"

venv-run venv-dev: venv-%:
	@PYTHON="$(PYTHON)" sh requirements/make-venv $*

demo: venv-run
	@$(BIN)/lacuna demo $(ARGS)

test: venv-dev
	@sh requirements/unprivileged $(BIN)/python -m pytest -n $(WORKERS) -m "$(UNMARKED)" $(ARGS)

suite: venv-dev
	@$(BIN)/python -m pytest -n $(if $(filter slurm,$(MARK)),0,$(WORKERS)) -m "$(MARK)" $(ARGS)

lint: venv-dev types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: venv-dev
	@$(BIN)/mypy

bench: venv-dev
	@set -e; for script in bench/*.py; do $(BIN)/python "$$script" $(ARGS); done

docs: venv-dev
	@$(BIN)/python docs/reference/generate.py

lock:
	@sh requirements/make-locks

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
