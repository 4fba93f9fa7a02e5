// Package integration tests senderbound against the real thing: a Keycloak that issues the tokens, the resource-server
// of examples/ as a process of its own that checks them, DPoP clients that others wrote, gateways in front of APIs, and the
// servers in which pods share a replay store: Redis by itself, as a Cluster and under Sentinel, Valkey, and Infinispan.
//
// Its tests carry the build tag integration, and fail, rather than being skipped, where something they need is missing.
// From the root of the repository,
//
//	make integration
//
// installs what they need into a cache (see .ci/fetch) and runs them. Keycloak and Infinispan need Java 17 or later and
// Maven; the clients need Node 20 or later with npm, and Python 3.11 or later. What is not put into the cache are the
// system's packages redis-server, 7.0 or later, nginx, caddy and haproxy: .ci/fetch installs those that are missing, for
// which it must be root. Redis 6, Valkey and Envoy come as programs for Linux on x86_64.
//
// # Adding a server
//
// Each server is a child process of the test binary, on loopback, with a temporary directory of its own, and it is
// started when the first test asks for it, or by each test that breaks it. What a run needs and does not start itself is
// named by an environment variable, which .ci/env sets.
//
// Servers that hold replay stores are made by functions whose names begin with start, and end with the test. They can be
// killed, started again and halted; between them and their clients, a proxy delays, loses and cuts. That all of this
// happens when a test asks for it is tested, too.
package integration
