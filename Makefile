# piped. `make` alone lists what there is to make.

PREFIX   ?= /usr/local
DESTDIR  ?=
FUZZTIME ?= 10s
EXACT    ?= long
CHAOS    ?= full
SPAWNS   ?= 1000000

COMMANDS := piped piped-keeper pipectl
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# The version is stamped here. Go's own stamp would make every build fail in a checkout that belongs to another user.
export GOFLAGS := $(filter-out -buildvcs%,$(GOFLAGS)) -buildvcs=false

# Whoever runs this has settings of their own for Python, and perhaps a daemon of their own; neither is part of a test.
unexport $(filter PYTHON% PIPED_%,$(.VARIABLES)) XDG_RUNTIME_DIR XDG_STATE_HOME

# Packages under test/ are about the system as a whole: the programs, from outside.
UNIT_PACKAGES = $(shell go list ./... | grep -v '/test/')

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@echo 'Targets:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  %-16s %s\n' "$$name" "$$text"; done
	@echo 'Variables: PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) FUZZTIME=$(FUZZTIME) EXACT=$(EXACT) CHAOS=$(CHAOS) SPAWNS=$(SPAWNS)'

.PHONY: demo
demo: build ## Drive real python3 children through a real daemon and show what happens
	@test/setup/install-test-deps.sh demo
	@test/demo/demo.sh

.PHONY: test
test: build ## Run every test, with the race detector: packages first, then the system as a whole
	@test/setup/install-test-deps.sh test
	go vet ./...
	go test -race -p 2 -timeout 10m $(UNIT_PACKAGES)
	go test -race -p 1 -timeout 15m -count 1 ./test/...

.PHONY: exact
exact: build ## Prove that nothing is lost, doubled or reordered: every crash point, thousands of kills and cuts (EXACT=short: under 50 s)
	@test/setup/install-test-deps.sh test
	@EXACT=$(EXACT) tools/exact.sh

.PHONY: chaos
chaos: build ## Kill the daemon and its keeper in every way, and prove that nothing is lost, doubled or reordered (CHAOS=short: under 50 s)
	@test/setup/install-test-deps.sh test
	@CHAOS=$(CHAOS) tools/chaos.sh

.PHONY: processes
processes: build ## Prove that processes are started, watched and ended right, each row in full
	@test/setup/install-test-deps.sh test
	PROCESSES=long go test -race -count 1 -timeout 30m -v ./test/processes

.PHONY: spawns
spawns: build ## Start SPAWNS processes, and look for zombies, signals that reach somebody else and memory that grows
	@test/setup/install-test-deps.sh test
	SPAWNS=$(SPAWNS) go test -count 1 -timeout 120m -v -run '^TestS1' ./test/children

.PHONY: vm
vm: checkgo ## Recover 10,000 sessions in a virtual machine that allows a million descriptors (half an hour of software emulation)
	VM_LIMIT=5400 tools/vm.sh ./test/exact '^TestS1' CHAOS=long TEST_PATIENCE=15m

.PHONY: vm-limits
vm-limits: checkgo ## Hold sessions to limits in a virtual machine that has every cgroup controller
	VM_MEMORY=2048 VM_LIMIT=900 tools/vm.sh ./test/limits . TEST_PATIENCE=5m

.PHONY: lint
lint: checkgo ## Check formatting, style, the contract (buf) and the scripts
	@test/setup/install-test-deps.sh lint
	tools/checkformat.sh
	go vet ./...
	tools/golangci-lint.sh run ./...
	tools/buf.sh lint
	tools/buf.sh format -d --exit-code
	tools/checkbreaking.sh
	tools/checkscripts.sh

.PHONY: generate
generate: checkgo ## Write gen/ anew from proto/
	tools/buf.sh generate

.PHONY: checkgenerate
checkgenerate: checkgo ## Check that gen/ is what proto/ generates
	@tools/checkgenerate.sh

.PHONY: cross
cross: checkgo ## Build for every system that is promised, keeping nothing
	@tools/cross.sh

.PHONY: build
build: checkgo ## Build the programs into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/ $(COMMANDS:%=./cmd/%)

# As root there is often no Go in PATH (sudo resets it): what was built before is installed then.
.PHONY: install
install: ## Install the programs into DESTDIR/PREFIX/bin, building them first
	@if command -v go >/dev/null || ! [ -x bin/piped ] || ! [ -x bin/pipectl ]; then $(MAKE) --no-print-directory build; fi
	install -d '$(DESTDIR)$(PREFIX)/bin'
	install -m 0755 $(COMMANDS:%=bin/%) '$(DESTDIR)$(PREFIX)/bin/'

.PHONY: install-systemd
install-systemd: install ## Install the programs and their systemd units
	packaging/systemd/install.sh '$(PREFIX)' '$(DESTDIR)'

.PHONY: bench
bench: build ## Measure, beside the floor that the machine sets
	@test/setup/install-test-deps.sh test
	go test -run Keeper -bench . -benchtime 1x -count 1 -timeout 30m ./test/bench/...

.PHONY: figures
figures: checkgo ## Print what memory, descriptors and threads large messages and many sessions cost (also at this machine's own limits)
	PIPED_LONG_TESTS=1 go test -count 1 -timeout 15m -v -run 'SixteenMiB|TenThousand|DescriptorLimitAllows|StuckSessions|Gigabyte|UnattendedStderr' ./test/system

.PHONY: fuzz
fuzz: checkgo ## Run every fuzz target, for FUZZTIME each
	@tools/fuzz.sh $(FUZZTIME)

.PHONY: clean
clean: ## Remove what was built here
	rm -rf bin .tmp

.PHONY: checkgo
checkgo:
	@tools/checkgo.sh
