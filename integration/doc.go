// Package integration tests senderbound against the real thing: a Keycloak that issues the tokens, the resource-server
// of examples/ as a process of its own that checks them, and DPoP clients that others wrote.
//
// Its tests carry the build tag integration, and fail, rather than being skipped, where something they need is missing.
// From the root of the repository,
//
//	make integration
//
// installs what they need into a cache (see .ci/fetch) and runs them. Keycloak needs Java 17 or later and Maven; the
// clients need Node 20 or later with npm, and Python 3.11 or later.
//
// # Adding a server
//
// Each server is a child process of the test binary, on loopback, with a temporary directory of its own, and it is
// started when the first test asks for it. What a run needs and does not start itself is named by an environment
// variable, which .ci/env sets.
package integration
