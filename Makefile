# make demo      everything from a fresh clone: environment, install, a training run that is corrupted and recovers
# make demo-rl   reinforcement learning that is killed and corrupted on the way, and ends as a run that was left alone
# make test      the tests (those that need a service say which environment variable they miss)
# make test-slow  the tests that take longest, most of them pages and kills with every service
# make check     format, lint, types, package arrows, tests
# make coverage  the tests, measured; fails below the floor in pyproject.toml
# make chaos     the long chaos form: hundreds of real kills, with their history checked, and a death at every point of a run
# make verify    the history checker: mutants of the product, partitions, frozen workers, a database that restarts
# make docs      the documentation site, in site/; fails at a warning or a broken link
# make page-shots  screenshots of the page, in page-shots/ (needs NSAI_TEST_CHROMIUM)
# make extras    the tests that need torch, transformers, PEFT or LiteLLM, in an environment of their own (about 1.2 GB)
# make install-test  each extra alone in an environment of its own: what it is for starts (about a minute)
# make peers     the official SDK on our dev server, and our client on foreign servers (installs them; about 2.5 GB)
PYTHON ?= python3
VENV := .venv
EXTRAS := .venv-extras
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export PYTHONWARNINGS ?=
# each process of the tests would compile all sources anew
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: page-shots help demo demo-rl test test-slow coverage lint check docs chaos verify extras install-test peers clean

help:
	@sed -n 's/^# //p' Makefile | head -13

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "nsai-work needs Python 3.11 or later; run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# a stamp for each set of extras: installed once, and again when the pins change
$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e ".[test]"
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed-demo

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e ".[docs]"
	@touch $@ $(VENV)/.installed-demo

demo: $(VENV)/.installed-demo
	$(BIN)/nsai-work demo

# Reinforcement learning on this machine: killed, corrupted, and equal to a run that was left alone
demo-rl: $(VENV)/.installed-demo
	$(BIN)/python examples/reinforce_demo.py

NOT_HERE := not long and not peers and not install and not typing
# the tests wait for a part of their time, so more processes than cores; their order is that of
# tests/conftest.py
IN_PARALLEL := -n 4 --dist loadfile --no-loadscope-reorder

# a fresh clone is compiled once, in two halves at a time, and not by each process of the tests
COMPILED := tests/unit/__pycache__
$(COMPILED): | $(VENV)/.installed-test
	@$(BIN)/python -m pytest -q --collect-only tests/unit > /dev/null & \
	$(BIN)/python -m pytest -q --collect-only --ignore tests/unit tests > /dev/null; wait

test: $(VENV)/.installed-test | $(COMPILED)
	$(BIN)/python -m pytest -q -m "not slow and $(NOT_HERE)" $(IN_PARALLEL)

test-slow: $(VENV)/.installed-test | $(COMPILED)
	$(BIN)/python -m pytest -q -m "slow and $(NOT_HERE)" $(IN_PARALLEL)

# all of make test and make test-slow; slower than they are by the measuring, so apart from them
coverage: $(VENV)/.installed-dev | $(COMPILED)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -q -m "$(NOT_HERE)" $(IN_PARALLEL)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m typing tests/typing
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/kubernetes-validate --strict deploy/kubernetes/worker.yaml deploy/kubernetes/upgrade.yaml

check: lint test

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

chaos: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -s -m long --timeout=7200 tests/chaos tests/families tests/integration/store/test_blobs.py tests/integration/training tests/integration/in_process/test_sigkill.py

# with PostgreSQL; the database that restarts is one of its own, and needs initdb and pg_ctl on the path
verify: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q --timeout=900 tests/verify

page-shots: $(VENV)/.installed-test
	PYTHONPATH=. $(BIN)/python tests/page/shots.py page-shots

peers: $(VENV)/.installed-test
	$(BIN)/python tests/peers/provision.py
	$(BIN)/python -m pytest -q -m peers --timeout=900 tests/peers

# heavy, and LiteLLM needs an older openai than constraints.txt: kept out of the test environment.
# Most of what is installed is never imported, so it is compiled when it is.
$(EXTRAS)/.installed: pyproject.toml constraints-extras.txt
	$(PYTHON) -m venv $(EXTRAS)
	$(EXTRAS)/bin/python -m pip --disable-pip-version-check install -q --no-compile -c constraints-extras.txt -e ".[test,peft,transformers,litellm,parquet,reasoning-gym,tensorboard,trackio,wandb]"
	@touch $@

extras: $(EXTRAS)/.installed
	$(EXTRAS)/bin/python -m pytest -q tests/contract/test_litellm.py tests/contract/test_litellm_answers.py tests/contract/test_peft.py tests/contract/test_reasoning_gym.py tests/acceptance/test_export.py tests/acceptance/test_reasoning_gym.py tests/integration/chat_server/test_litellm_client.py tests/integration/worker/test_foreign_sinks.py tests/unit/litellm_backend \
		tests/unit/tiny_lm/test_losses_torch.py tests/integration/tinkex/test_custom_losses.py tests/integration/tinkex/test_arguments_at_the_call.py tests/integration/tinkex/test_arguments_of_other_calls.py tests/unit/tinkex_dev/test_tokenizer_folder.py \
		tests/unit/crucible/test_chat_template.py tests/unit/crucible/test_template_examples.py tests/unit/data/test_containers.py tests/unit/data/test_template_problems.py "tests/integration/in_process/test_sigkill.py::test_a_killed_worker_costs_no_step_and_no_bit[peft-sft]" "tests/integration/in_process/test_sigkill.py::test_a_killed_worker_costs_no_step_and_no_bit[peft-dpo]" "tests/integration/in_process/test_sigkill.py::test_a_killed_worker_costs_no_rollout[peft-plain]" "tests/integration/in_process/test_sigkill.py::test_a_killed_worker_costs_no_rollout[peft-newer]" "tests/integration/in_process/test_sigkill.py::test_a_killed_worker_costs_no_step_and_no_bit[peft-mixture]"

install-test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m install tests/install

clean:
	rm -rf $(VENV) $(EXTRAS) demo-output page-shots .browser .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site
