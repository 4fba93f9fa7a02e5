.PHONY: help test check integration fuzz deep

help: ## Show the targets.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

test: ## Run the tests of every module.
	go test work

check: test ## The same, and vet, staticcheck, formatting and the race detector.
	bash .ci/check

integration: ## Install real servers and run the tests against them.
	bash .ci/fetch
	bash .ci/integration

fuzz: ## Run every fuzz target for FUZZTIME (default 1m).
	bash .ci/fuzz $(or $(FUZZTIME),1m)

deep: ## What is too long for CI: delete each check and see a test fall, then fuzz each target for ten minutes.
	go run ./internal/house/deletion
	bash .ci/fuzz 10m
