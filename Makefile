# The front door. Every target does the set-up that it needs; `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint ebpf bench bench-kube fuzz fmt clean ci kube-up kube-down test-kube demo-kube test-kernels test-hostile simulate

# sudo and minimal shells leave cargo's folder out.
export PATH := $(HOME)/.cargo/bin:$(PATH)

# Write results as JSON there, too.
JSON ?=
# KEEP=1 leaves the demo's lab up.
KEEP ?=
# How many endpoints the peer of test-hostile has.
ENDPOINTS ?= 10000000
# How long each fuzz target runs. (bash counts in a variable of this name, so it goes by another.)
SECONDS_EACH := $(or $(SECONDS),60)

# Rolling updates that bench-kube counts failed requests in.
RUNS ?=

PLATFORMS ?=

# The Kubernetes lab's settings.
VERSION ?= 1.34
PROXY ?= nftables
DUAL ?=
KUBE_FLAGS = --version '$(VERSION)' --proxy '$(PROXY)' $(if $(filter-out 0,$(DUAL)),--dual-stack)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building, tests and demo need (apt; says what)
	@setup/deps.sh build lab

demo: setup ## Two clusters fail over, live, in a minute; JSON=FILE for results, KEEP=1 to look around after
	@cargo build --locked --workspace --bins
	@cargo run --locked --quiet -p mesh-e2e --bin demo -- $(if $(JSON),--json '$(JSON)') $(if $(filter-out 0,$(KEEP)),--keep)

test: setup ## All tests but those of the Kubernetes lab (needs root: namespaces and eBPF)
	@setup/test.sh

kube-up: ## Two real Kubernetes clusters of two nodes, left up; VERSION=1.34, PROXY=nftables|iptables, DUAL=1
	@setup/deps.sh build kube
	@cargo build --locked --workspace --bins
	@target/debug/kube up $(KUBE_FLAGS)

kube-down: ## Remove them
	@[ ! -x target/debug/kube ] || target/debug/kube down

demo-kube: ## The story on real Kubernetes, told with kubectl (the same settings); JSON=FILE for results
	@setup/deps.sh build kube
	@cargo build --locked --workspace --bins
	@target/debug/demo-kube $(KUBE_FLAGS) $(if $(JSON),--json '$(JSON)')

test-kube: ## The tests of the Kubernetes lab (the same settings)
	@setup/deps.sh build kube
	@e2e/kube/test.sh $(KUBE_FLAGS)

test-hostile: setup ## A peer with ten million endpoints beside two healthy ones (a few minutes); ENDPOINTS=10000000
	@HOSTILE_ENDPOINTS='$(ENDPOINTS)' cargo test --locked -p node-agent --test hostile -- --nocapture

simulate: ## Judge a mesh of 511 clusters in virtual time, with an oracle (a minute); SEED=1, MINUTES=60
	@setup/deps.sh build
	@cargo run --locked --quiet -p mesh-verdict --example simulate -- --seed '$(or $(SEED),1)' --minutes '$(or $(MINUTES),60)'

test-kernels: ## The datapath on other kernels, in qemu (half an hour); KERNELS='6.1 newest'
	@setup/deps.sh build lab kernels
	@cargo build --locked -p node-agent --bins
	@e2e/kernels/test.sh

lint: ## Format, clippy, the eBPF object's digest, licences and dependencies, shell scripts
	@setup/deps.sh build lint
	@setup/lint.sh

ebpf: ## Rebuild the eBPF object (its toolchain is needed for nothing else)
	@ebpf/build.sh

bench: ## What the product costs beside what it replaces (root, a quiet machine, ten minutes); JSON=FILE
	@setup/deps.sh build lab bench
	@cargo build --locked --release --bin bench --bin lab --bin node-agent --bin clustermesh-apiserver
	@target/release/bench $(if $(JSON),--json '$(abspath $(JSON))')

bench-kube: ## The same on real Kubernetes, beside kube-proxy (15 minutes; VERSION=, PROXY=, DUAL=); RUNS=10, JSON=FILE
	@setup/deps.sh build kube
	@cargo build --locked --release --bin bench-kube --bin kube --bin lab --bin node-agent --bin clustermesh-apiserver \
		--bin clustermesh
	@target/release/bench-kube $(KUBE_FLAGS) $(if $(RUNS),--runs '$(RUNS)') $(if $(JSON),--json '$(abspath $(JSON))')

fuzz: ## Fuzz every decoder of foreign bytes, SECONDS=60 each
	@setup/deps.sh build
	@fuzz/run.sh $(SECONDS_EACH)

fmt: ## Format everything
	@cargo fmt --all
	@cargo fmt --manifest-path ebpf/programs/Cargo.toml

clean: ## Remove kept labs and everything built
	@[ ! -x target/debug/demo ] || target/debug/demo clean
	@cargo clean

ci: ## What a change must pass: lint, test, the oldest kernel where the object changed, and one run of the demo
	+@setup/stage.sh setup setup/deps.sh build lab lint
	+@setup/stage.sh lint $(MAKE) --no-print-directory lint
	+@setup/stage.sh test $(MAKE) --no-print-directory test
	+@setup/stage.sh kernels e2e/kernels/changed.sh
	+@setup/stage.sh demo $(MAKE) --no-print-directory demo JSON='$(JSON)' KEEP=

.PHONY: images kind-up kind-demo kind-clean
images: ## Build the images with docker, podman or buildah; REGISTRY=, TAG=, PLATFORMS=linux/amd64,linux/arm64 PUSH=1
	@PLATFORMS='$(PLATFORMS)' setup/deps.sh images
	@deploy/images/build.sh

kind-up: ## Two kind clusters with routes, images and the chart installed, left up (Go, kubectl; root where no docker answers)
	@setup/deps.sh kind
	@e2e/kind/prepare.sh
	@e2e/kind/engine.sh run e2e/kind/up.sh

kind-demo: ## The story of demo-kube on two kind clusters, which it makes and removes (root); JSON=FILE for results, KEEP=1
	@setup/deps.sh kind
	@cargo build --locked -p clustermesh --bin clustermesh
	@cargo build --locked -p mesh-e2e --bin demo-kube
	@KEEP='$(filter-out 0,$(KEEP))' e2e/kind/demo.sh $(if $(JSON),--json '$(JSON)')

kind-clean: ## Remove the kind clusters
	@e2e/kind/down.sh
