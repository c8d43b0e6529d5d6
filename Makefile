# Every command a contributor needs; `make help` lists them.
SOMA_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/soma
CARGO_TARGET_DIR ?= $(SOMA_CACHE)/target
NODES ?= 1
WITH ?=
bin := $(CARGO_TARGET_DIR)/debug
export SOMA_CACHE CARGO_TARGET_DIR

.DEFAULT_GOAL := help
.PHONY: help build dev up down test e2e bench lint doctor

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{sub(":.*", "", $$1); printf "  make %-8s %s\n", $$1, $$2}'

# The whole workspace at once, so that every target shares one build of each dependency.
build:
	@bash tests/testenv/prepare.sh
	@cargo build --workspace --bins

dev: build ## Run Soma in one process, import a conversation, ask three questions, then serve on port 9595
	@$(bin)/testenv fetch model
	@$(bin)/soma dev -f examples/quickstart --import examples/data/greenhouse.json --ask

up: build ## Start a local cluster with the operator and examples/quickstart (NODES=3 for three nodes, WITH=vault,redis for images of components)
	@SOMA_BIN_DIR=$(bin) $(bin)/testenv up --nodes $(NODES) $(if $(WITH),--with $(WITH))

down: build ## Stop the local cluster and leave nothing behind
	@$(bin)/testenv down

test: ## Unit, contract, control-plane, runtime and one end-to-end test, with real servers
	@bash tests/run.sh

e2e: ## The end-to-end tests on a cluster of their own, and the faults of machines on three nodes
	@bash tests/run.sh e2e

bench: ## Measure speed and memory; see docs/benchmarks.md
	@bash tests/bench/run.sh

lint: ## Formatting, clippy, licences and advisories
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@command -v cargo-deny >/dev/null || { echo "not checked: licences and advisories, for want of cargo-deny; get it with: cargo install --locked cargo-deny"; exit 1; }
	cargo deny check licenses bans sources
	@if cargo deny fetch db; then cargo deny check advisories; else echo "not checked: advisories, whose database cannot be reached from here"; fi

doctor: ## Say what is missing and how to get it
	@bash tests/testenv/prepare.sh doctor
	@cargo build --workspace --bins
	@$(bin)/testenv doctor
