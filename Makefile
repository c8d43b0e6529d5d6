# Every command a contributor needs; `make help` lists them.
SOMA_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/soma
CARGO_TARGET_DIR ?= $(SOMA_CACHE)/target
export SOMA_CACHE CARGO_TARGET_DIR
NODES ?= 1
TESTENV = cargo run --quiet -p soma-testenv --bin testenv --

.DEFAULT_GOAL := help
.PHONY: help dev up down test e2e bench lint doctor

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

dev: ## Run Soma in one process, import a conversation, ask three questions, then serve on port 9595
	@bash tests/testenv/prepare.sh toolchain
	@$(TESTENV) fetch model
	@cargo run --quiet -p soma -- dev -f examples/quickstart --import examples/data/greenhouse.json --ask

up: ## Start a local cluster with the operator and examples/quickstart (NODES=3 for three nodes)
	@bash tests/testenv/prepare.sh toolchain
	@$(TESTENV) up --nodes $(NODES)

down: ## Stop the local cluster and leave nothing behind
	@$(TESTENV) down

test: ## Unit, contract, control-plane, runtime and one end-to-end test, with real servers
	@bash tests/run.sh

e2e: ## The end-to-end tests on a cluster of their own
	@bash tests/run.sh e2e

bench: ## Measure speed and memory; see docs/benchmarks.md
	@bash tests/bench/run.sh

lint: ## Formatting, clippy, licences and advisories
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny --offline check licenses bans sources; \
	else echo "cargo-deny is not installed: licences were not checked; get it with: cargo install --locked cargo-deny"; fi

doctor: ## Say what is missing and how to get it
	@bash tests/testenv/prepare.sh doctor
	@$(TESTENV) doctor
