# Rubato. `make` alone prints the targets.
SHELL := /bin/sh
GO ?= go
BIN := bin
DEMO_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help build functions demo test race lint law fmt vet ci demo-short fuzz bench sim bench-learn-peers bench-learn-ablation sim-vs-live experiments experiments-short e2e clean FORCE

help: ## print the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-21s %s\n", $$1, $$2}'

build: functions ## build the four binaries and the example functions into bin/
	$(GO) build -trimpath -o $(BIN)/rubato ./cmd/rubato
	$(GO) build -trimpath -o $(BIN)/rubato-global ./cmd/global
	$(GO) build -trimpath -o $(BIN)/rubato-zone ./cmd/zone
	$(GO) build -trimpath -o $(BIN)/rubato-node ./cmd/node

functions: ## build the example functions into bin/functions/
	@sh examples/functions/build.sh $(BIN)/functions

demo: build ## start a cluster, drive a real workload under four policies, print what was gained (3 minutes)
	$(BIN)/rubato demo $(DEMO_FLAGS)

demo-short: build ## the demo in a short form, its JSON checked
	$(BIN)/rubato demo --short -o json > $(BIN)/demo.json
	$(BIN)/rubato demo --check $(BIN)/demo.json

test: functions ## every test
	$(GO) test ./...

race: functions ## every test under the race detector, in random order, but for long ones of one goroutine
	$(GO) test -race -shuffle=on -timeout 20m ./...

law: ## the law tests: floors, purity, direct imports
	$(GO) test -count=1 ./internal/lint

fmt: ## fail on files that gofmt would change
	@bad=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$bad" ]; then echo "not gofmt'ed:"; echo "$$bad"; exit 1; fi

vet: ## go vet
	$(GO) vet ./...

lint: fmt vet law ## formatting, vet, staticcheck and law tests; golangci-lint too where it is installed
	$(GO) tool staticcheck ./...
	@if command -v golangci-lint >/dev/null 2>&1; then golangci-lint run; else echo "golangci-lint is not installed: its checks (.golangci.yml) were left out"; fi

fuzz: ## every fuzz target for ten seconds
	@for p in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
		$(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime 10s -fuzzminimizetime 1x $$p || exit 1; done; done

bench: ## the Go benchmarks, with allocations
	$(GO) test -run '^$$' -bench . -benchmem ./...

bench-learn-peers: build ## the forest beside scikit-learn's (python3-sklearn), on generated streams or DATA=folder
	$(BIN)/rubato bench learn --peers $(if $(DATA),--data $(DATA))

bench-learn-ablation: build ## the forest without each of its parts, on generated streams or DATA=folder
	$(BIN)/rubato bench learn --ablation $(if $(DATA),--data $(DATA))

sim: build ## compare the policies on every scenario, ten seeds each (minutes)
	@for s in scenarios/*.yaml; do $(BIN)/rubato sim compare $$s || exit 1; done

sim-vs-live: build ## how far the simulator is from a live cluster on this host (6 minutes; wants a quiet host)
	$(BIN)/rubato bench sim-vs-live

# Results are kept by a hash of the program: without what Go stamps into it of the checkout, which the first page changes.
$(BIN)/rubato-experiments: FORCE
	$(GO) build -trimpath -buildvcs=false -o $@ ./cmd/rubato
FORCE:

experiments: $(BIN)/rubato-experiments ## docs/experiments anew: every scenario, policy and load over ten seeds or more (an hour and a half; goes on where it stopped)
	$< sim experiments experiments/plan.yaml

experiments-short: $(BIN)/rubato-experiments ## the same in a short form, pages under bin/experiments
	$< sim experiments experiments/plan.yaml --short --out $(BIN)/experiments --cache $(BIN)/experiments/cache

e2e: functions ## the whole-system tests only: real processes, real faults
	$(GO) test -count=1 ./test/...

ci: lint race test demo-short experiments-short ## what CI runs

clean: ## remove bin/
	rm -rf $(BIN)
