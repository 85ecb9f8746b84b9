# `make` says what there is. Everything private to this checkout lives in target/, .causeway/ and data/.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# More arguments for `causeway up` (make up ARGS="--listen 127.0.0.1:9000") and for cargo test (make test ARGS="-p causeway-log").
ARGS ?=
DATA ?= data

.PHONY: help up test test-oldest lint nats test-tools clean-data

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-11s %s\n", $$1, $$2 }'

up: nats ## Build Causeway and start all of it: a private NATS and every service, on 127.0.0.1:8470
	@cargo build --locked -p causeway
	@CAUSEWAY_NATS_SERVER="$$(scripts/nats.sh --path)" exec "$${CARGO_TARGET_DIR:-target}/debug/causeway" up $(ARGS)

test: ## Run everything that a change must pass
	@scripts/test.sh $(ARGS)

test-oldest: ## Run the tests of what talks to NATS against the oldest nats-server that is supported
	@CAUSEWAY_NATS_SERVER="$$(scripts/nats.sh --oldest)" \
	    cargo test --locked --no-fail-fast -p causeway-log -p causeway-processor -p causeway-event-store $(ARGS)

lint: ## Check format and lints, and licences and bans where cargo-deny is installed
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --locked -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	    else echo "cargo-deny is not installed: skipped"; fi

nats: ## See to it that a nats-server is there
	@scripts/nats.sh

test-tools: ## Install the third-party clients that the tests use
	@scripts/test_tools.sh

clean-data: ## Delete the data of `make up`: the whole log
	@if [[ ! -e "$(DATA)" ]]; then echo "there is no $(DATA)"; exit 0; fi; \
	if [[ ! -e "$(DATA)/lock" ]]; then echo "$(DATA) is no data folder of Causeway: left alone"; exit 1; fi; \
	if command -v flock >/dev/null && ! flock --nonblock "$(DATA)/lock" true; then \
	    echo "$(DATA) is in use: stop causeway first"; exit 1; fi; \
	rm -rf "$(DATA)"
