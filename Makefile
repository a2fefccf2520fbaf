# `make demo` and `make test` need nothing but python3 with venv, or uv: they make their own environment in .venv.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
BIN := .venv/bin
ARGS ?=

.PHONY: help install demo test lint bench lock viewer clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

install: ## make the environment in .venv from requirements.lock (does nothing when it is up to date)
	@.ci/install

demo: install ## generate a small cohort, run the whole pipeline on it, outline one scan with the model it pushed
	$(BIN)/ich phantom demo/cohort --patients 40 --seed 1
	$(BIN)/ich run --config pipeline/configs/demo.yaml --data demo/cohort --output demo/output
	$(BIN)/ich predict "$$(ls -d demo/cohort/images/*.nii.gz | head -n 1)" -o demo/prediction --model demo/output/serving/ich --overwrite

test: install ## run the tests that need no real data; ARGS="-k word -x" goes to pytest
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore=tests/real_data $(ARGS)

lint: install ## check style and types with ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .
	$(BIN)/mypy

bench: install ## measure the ratios that the design promises; ARGS goes to the benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

lock: ## renew requirements.lock, keeping the pinned versions; UPGRADE=1 takes the newest
	@.ci/lock

viewer: ## renew the JavaScript of `ich view` from the package registry with npm; .ci/viewer holds version and hash
	@.ci/viewer

clean: ## remove what the other targets made, except the environment (rm -rf .venv .venv-bootstrap)
	rm -rf demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
