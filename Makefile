# UVBond. `make help` lists the targets; README.md says what it is.

SHELL := /bin/bash
GO ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
PREFIX ?= /usr/local

export CGO_ENABLED ?= 0
export GOFLAGS ?= -buildvcs=false

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the three programs into bin/
	$(GO) build -trimpath -o bin/ ./cmd/...

.PHONY: demo
demo: ## boot a bonded VM, command it, then attack it as the operator
	@hack/install-deps.sh demo
	@$(MAKE) --no-print-directory build
	@$(GO) build -trimpath -o bin/demo ./test/demo
	@bin/demo

.PHONY: test
test: deps vet staticcheck model unit race e2e ## every test, from a fresh clone

.PHONY: deps
deps: web/node_modules/.package-lock.json ## install what the tests need (Debian packages, and the page's from npm)
	@hack/install-deps.sh all

web/node_modules/.package-lock.json: web/package-lock.json
	@PATH=$$(hack/install-node.sh) && cd web && npm ci --no-progress
	@touch $@

.PHONY: web
web: web/node_modules/.package-lock.json ## build the page into web/dist, which is committed
	@PATH=$$(hack/install-node.sh) && cd web && npm run --silent check && npm run --silent build

.PHONY: vet
vet:
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...

.PHONY: staticcheck
staticcheck:
	$(GO) run $(STATICCHECK) ./...

.PHONY: lint
lint: vet staticcheck ## go vet, staticcheck, and govulncheck where its data is reachable
	@$(GO) run $(GOVULNCHECK) ./... || echo "govulncheck: its data could not be reached, or it found something: see above"

.PHONY: unit
unit: ## unit tests, fuzz seeds, and tests against real tools
	PATH=$$(hack/install-node.sh) $(GO) test -timeout 10m $$($(GO) list ./... | grep -v -e /test/e2e -e /test/attack)

# The packages where goroutines share memory. The parsers (automaton, disk/luks,
# disk/xts) and the command line run on one goroutine and take minutes under the
# detector. It needs cgo.
RACE := ./bond ./disk ./disk/encrypt ./disk/nbd ./disk/nbdclient ./hypervisor/gate ./hypervisor/machine ./hypervisor/state ./qmp \
	./server/... ./tenant ./tenant/client ./tenant/store ./tenant/image ./tenant/ui ./tenant/terminal ./tenant/screen ./tenant/rfb ./channel/...

.PHONY: race
race: ## unit tests under the race detector
	CGO_ENABLED=1 $(GO) test -race -short -timeout 10m $(RACE)

.PHONY: e2e
e2e: build ## boot real guests through the three programs, and a sample of the attacks
	$(GO) test -timeout 15m -count=1 ./test/e2e
	$(GO) test -timeout 5m -count=1 ./test/attack

.PHONY: debian
debian: ## boot a real Debian whose cloud-init gets a sealed first boot, and use ssh, scp, rsync, git and ansible on it
	@hack/install-deps.sh debian
	@$(MAKE) --no-print-directory build
	UVBOND_DEBIAN=1 $(GO) test -timeout 30m -count=1 -v -run '^TestDebian$$' ./test/e2e

.PHONY: attack
attack: ## own the management domain and try everything, see docs/attacks.md
	@hack/install-deps.sh demo
	@$(MAKE) --no-print-directory build
	@$(GO) build -trimpath -o bin/attack ./test/attack
	@bin/attack $(ATTACKFLAGS)

.PHONY: soak
soak: deps build ## kill keepers under fio verify for SOAK (10m), then take the storage away for ten minutes
	UVBOND_SOAK=$(or $(SOAK),10m) $(GO) test -timeout 24h -count=1 -v -run '^(TestDurable|TestStorage)$$' ./test/e2e

.PHONY: model
model: ## check the model of the protocol with spin, and that each check in it is needed
	@hack/install-deps.sh model
	@docs/model/check.sh

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (30s)
	hack/fuzz.sh $(or $(FUZZTIME),30s)

.PHONY: bench
bench: deps build ## measure the data path against its peers, into docs/benchmarks.md
	@$(GO) build -trimpath -o bin/bench ./test/bench
	@bin/bench -o docs/benchmarks.md $(BENCHFLAGS)

.PHONY: microbench
microbench: ## Go benchmarks of single packages
	$(GO) test -run '^$$' -bench . -benchtime 1s ./...

.PHONY: install
install: build ## install programs and systemd units below PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)/etc/systemd/system
	install -m 0755 bin/uvbond bin/uvbond-server bin/uvbond-hypervisor $(DESTDIR)$(PREFIX)/bin
	install -m 0644 docs/systemd/*.service $(DESTDIR)/etc/systemd/system

.PHONY: clean
clean: ## remove what was built; the guest cache stays
	rm -rf bin artifacts
