# One command per job; `make help` lists them.

SHELL := /bin/bash
VENV := .tools/venv
PYTHON := $(VENV)/bin/python
export CARGO_TERM_COLOR ?= auto

.PHONY: help setup build wasm demo demo-stop test crash siege fuzz mutants check bench istio fmt clean

help: ## List the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(VENV)/.stamp contracts/node_modules/.stamp ## Install the pinned tools into .tools and contracts/node_modules
	@rustup target list --installed | grep -qx wasm32-wasip1 || rustup target add wasm32-wasip1

$(VENV)/.stamp: e2e/requirements.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

contracts/node_modules/.stamp: contracts/package-lock.json
	npm ci --prefix contracts --no-audit --no-fund --loglevel=error
	@touch $@

# Features are those of all crates together, as where `test` builds: so both share one build of every dependency.
build: wasm ## Build the filter, the collector and the verifier
	cargo build --locked --release --workspace --bin meshchain-collector --bin meshchain

wasm: ## Build the filter's wasm module; print its sha256
	./wasm-build.sh

demo: setup build ## Run the whole scene; KEEP=1 leaves it up
	$(PYTHON) demo/run.py $(if $(KEEP),--keep)

demo-stop: ## End a scene that was kept
	$(PYTHON) demo/stop.py

test: setup build ## Set up what is needed and run every test
	cargo test --locked --release --workspace
	npm test --prefix contracts
	node --test --test-reporter=spec filter/v8/
	$(PYTHON) -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

crash: setup build ## Faults at every and at random places of the log, life after life; SEEDS=N (default 2000)
	SEEDS=$(or $(SEEDS),2000) cargo test --locked --release --workspace --lib random_faults -- --nocapture
	FAULTS=all $(PYTHON) -m pytest -q e2e/test_faults.py e2e/test_s3.py -k "faults or any_request"

siege: setup build ## A collector among hostile neighbours; ATTACK=a,b,... (default all), SECONDS=N (default 30)
	cd e2e && $(CURDIR)/$(PYTHON) -m siege $(if $(ATTACK),--attack $(ATTACK)) --seconds $(or $(SECONDS),30)

fuzz: ## Fuzz the filter's view of headers and of the proxy; SECONDS=N for each (default 60)
	filter/fuzz/run.sh $(or $(SECONDS),60)

MUTATED := core/src/**/*.rs evm/src/*.rs verifier/src/*.rs verifier/src/hops/*.rs verifier/src/log/*.rs log/src/judge.rs \
	anchor/src/machine.rs filter/src/capture.rs filter/src/context.rs

mutants: .tools/bin/cargo-mutants ## Small mutations that tests must notice, in random order; FILES="glob ...", TESTS=package, MINUTES=N (default 60)
	timeout --signal=INT --kill-after=60 $(or $(MINUTES),60)m .tools/bin/cargo-mutants mutants --shuffle --output target \
		$(foreach glob,$(or $(FILES),$(MUTATED)),--file '$(glob)') $(addprefix --test-package ,$(TESTS)) || test $$? = 124

.tools/bin/cargo-mutants:
	cargo install --quiet --locked --root .tools cargo-mutants --version 27.1.0

check: setup ## Formatting, lints, licences and sources, committed bytecode
	cargo fmt --all --check
	cargo fmt --manifest-path filter/fuzz/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p meshchain-filter --target wasm32-wasip1 -- -D warnings
	.tools/bin/cargo-deny --locked check --hide-inclusion-graph bans licenses sources
	node contracts/compile.mjs --check

check: .tools/bin/cargo-deny

.tools/bin/cargo-deny:
	cargo install --quiet --locked --root .tools cargo-deny --version 0.20.2

bench: setup build ## Measure; tables on the terminal, JSON under target/bench
	$(PYTHON) bench/run.py

istio: setup build ## The filter under a real istiod; builds the API server and Istio first, once (15 minutes)
	cd e2e && $(CURDIR)/$(PYTHON) -m istio.programs
	$(PYTHON) -m pytest -q -rs --capture=no e2e/istio

fmt: ## Format the Rust sources
	cargo fmt --all

clean: ## Remove what was built, installed and demonstrated
	rm -rf target .tools .demo contracts/node_modules
