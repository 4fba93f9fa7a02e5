// Package atjwt resolves access tokens that are JWTs (RFC 9068) in process: it checks a token against the issuer's public
// keys, which it keeps fresh in the background, and remembers for a while which tokens it has verified.
//
//	resolver, err := atjwt.NewResolver(ctx, atjwt.Keycloak("https://id.example.com/realms/demo", "https://api.example.com"))
//
// Its answers are as old as the token: what the issuer has revoked since then is believed until the token expires. Keep
// the life of tokens short.
package atjwt

import (
	"context"
	"crypto/sha256"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/internal/jose"
)

// A Resolver turns the JWT access tokens of one issuer into what they stand for. It is a [dpop.CachedResolver]. Its
// methods may be called by any number of goroutines. Resolvers share nothing, so that no issuer's trouble is another's. Do
// not embed one in a resolver that refuses more; see dpop.CachedResolver.
type Resolver struct {
	cfg    Config
	claims []string // the claims to read, in the order of the constants in token.go
	keys   *keyring
}

var _ dpop.CachedResolver = (*Resolver)(nil)

// NewResolver returns a Resolver for a copy of cfg, or an error that names every mistake in it.
//
// It does not wait for the issuer, and an issuer that cannot be reached is no error: until its keys are there, tokens
// cannot be told from forgeries, and ResolveToken says so. The keys are fetched in the background until ctx ends.
// After that the Resolver goes on with the keys it has, so that a server that is shutting down can finish its requests.
func NewResolver(ctx context.Context, cfg Config) (*Resolver, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Resolver{cfg: cfg, claims: claimNames(cfg.ClientIDClaim)}
	r.keys = newKeyring(&r.cfg)
	go r.keys.run(ctx)
	return r, nil
}

// ResolveToken returns what token stands for, if the issuer signed it, for this audience, and it is valid now (RFC 9068
// §4, RFC 8725). The result is shared between callers and must not be modified.
//
// An error that wraps [dpop.ErrTokenInvalid] says what is wrong with the token; no error holds a token. Any other error says that
// the token cannot be judged: the issuer's keys could not be fetched, or ctx has ended. Claims are checked before keys
// are looked for, so the tokens of other issuers and for other audiences cause no fetch. A token by a key that is not
// known may have to wait for one: 20 s at the very most, and no longer than ctx.
//
// It does not check scopes, nor whom the token is bound to, nor whether the issuer has revoked it. Encrypted tokens are
// refused. References in a token's header, such as jku and x5u, are not followed.
func (r *Resolver) ResolveToken(ctx context.Context, token string) (*dpop.Token, error) {
	if len(token) > maxToken {
		return nil, refuse(dpop.ErrTokenMalformed, "it is longer than %d bytes", maxToken)
	}
	sum := sha256.Sum256([]byte(token))
	if t, ok := r.Cached(sum); ok {
		return t, nil
	}
	now := r.cfg.Now()
	s, err := r.parse(token, now)
	if err != nil {
		return nil, err
	}
	set, candidates, err := r.keys.find(ctx, s.kid, s.alg)
	if err != nil {
		return nil, err
	}
	return set.verified.once(sum, now, func() (*dpop.Token, error) {
		for _, key := range candidates {
			if jose.Verify(s.alg, key.public, s.input, s.signature) {
				return s.token, nil
			}
		}
		return nil, refuse(dpop.ErrTokenSignature, "it is not by the issuer's key (kid %s, alg %s)", quote(s.kid), s.alg)
	})
}

// Cached returns the token whose SHA-256 is sum, if it was verified a short while ago, has not expired, and the issuer
// still publishes the keys it had then. It does no I/O and allocates nothing.
func (r *Resolver) Cached(sum [32]byte) (*dpop.Token, bool) {
	set := r.keys.current.Load()
	if set == nil {
		return nil, false
	}
	return set.verified.get(sum, r.cfg.Now())
}
