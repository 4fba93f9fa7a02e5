// Package dpop decides whether a request comes from the holder of its access token (RFC 9449, DPoP).
//
// A bearer token is worth something to whoever has it. A DPoP-bound token names a key, and each request with it carries a
// proof: a short JWT, signed by that key, for this method, this URI and this token, to be used once. A [Verifier] checks
// that all of it fits together.
//
// # Three parts
//
// A Verifier needs to know two things that it cannot find in a request:
//
//   - what an access token stands for, from a [TokenResolver]: package atjwt validates JWTs in this process;
//   - which proofs were used before, from a replay.Store: package memstore remembers them in this process, and only
//     there.
//
// The third is the request itself as a [Request]: its method, its URI as the client addressed it, and the lines of two
// header fields. Package dpophttp makes one of an *http.Request and calls Verify; any other transport can do so, too.
//
//	verifier, err := dpop.NewVerifier(dpop.Config{Resolver: resolver, Replay: store})
//	…
//	result, err := verifier.Verify(ctx, request)
//
// # Refusals
//
// Verify returns an [*Error] that knows how to answer. The client is told one of a few codes and a fixed text. Which check
// refused is the error's [Reason], and its Err says what was expected; both are for the operator. A refused request changes
// nothing: only an accepted proof is used up, except where the store itself fails or is late.
//
// # What Verify does not check
//
// Verify does not check
//
//   - the scopes of a token: see [Result.Require];
//   - the body of a request, its query, and header fields other than Authorization and DPoP: a proof does not cover them
//     (RFC 9449 §11.7), TLS does;
//   - whether the URI it is given is the one that the client addressed: configuration must say so, see package dpophttp;
//   - how a token was obtained, and whether it was revoked, beyond what the resolver knows;
//   - that the holder of a key is who the token says: whoever can use the key can use the token.
//
// # Compatibility
//
// Before version 1, an exported name may change in a minor version; the changelog says so. The error codes and the reasons'
// texts are part of the interface, since dashboards depend on them.
package dpop
