package dpop_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/senderbound/senderbound/dpop"
)

// A cache is a resolver that knows some tokens without asking, by their SHA-256.
type cache struct {
	*registry
	known map[[32]byte]*dpop.Token
}

func (c cache) Cached(sum [32]byte) (*dpop.Token, bool) {
	t, ok := c.known[sum]
	return t, ok
}

// A wrapper forwards nothing but ResolveToken and says what it wraps. It refuses what blocked holds.
type wrapper struct {
	inner   dpop.TokenResolver
	blocked map[string]bool
	calls   int
}

func (w *wrapper) Unwrap() dpop.TokenResolver { return w.inner }

func (w *wrapper) ResolveToken(ctx context.Context, token string) (*dpop.Token, error) {
	w.calls++
	if w.blocked[token] {
		return nil, fmt.Errorf("blocked: %w", dpop.ErrTokenInvalid)
	}
	return w.inner.ResolveToken(ctx, token)
}

// warm returns a world whose resolver knows the token already.
func warm(t *testing.T) (*world, cache) {
	w := newWorld(t)
	c := cache{w.registry, map[[32]byte]*dpop.Token{sha256.Sum256([]byte(token)): w.token()}}
	w.verifier = w.newVerifier(func(cfg *dpop.Config) { cfg.Resolver = c })
	return w, c
}

func badSignature(proof string) string {
	h, c, _ := segments(proof)
	return h + "." + c + "." + b64(make([]byte, 64))
}

func TestAKnownTokenIsNotResolvedAgain(t *testing.T) {
	w, _ := warm(t)
	wantReason(t, w.verify(request(w.proof())), "")
	if w.registry.calls != 0 {
		t.Errorf("the resolver was asked %d times about a token that it had said it knows", w.registry.calls)
	}
}

// DESIGN row 7: with a known token only its holder makes us verify a signature; with an unknown one the signature comes
// before the resolver's network.
func TestBindingBeforeSignatureOnlyWhereTheTokenIsKnown(t *testing.T) {
	w, c := warm(t)
	wantReason(t, w.verify(request(badSignature(w.forge(thief())))), dpop.ErrKeyMismatch)
	wantReason(t, w.verify(request(badSignature(w.proof()))), dpop.ErrProofSignature)

	clear(c.known)
	wantReason(t, w.verify(request(badSignature(w.forge(thief())))), dpop.ErrProofSignature)
	if w.registry.calls != 0 {
		t.Error("a proof with a false signature reached the resolver")
	}
	wantReason(t, w.verify(request(w.forge(thief()))), dpop.ErrKeyMismatch)
	if w.registry.calls != 1 || w.store.calls != 0 {
		t.Errorf("%d calls of the resolver, %d of the store: want 1 and 0", w.registry.calls, w.store.calls)
	}
}

func TestAKnownTokenIsCheckedLikeAnother(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*dpop.Token)
		want   dpop.Reason
	}{
		"expired now":          {func(t *dpop.Token) { t.Expiry = now }, dpop.ErrTokenExpired},
		"expires in a moment":  {func(t *dpop.Token) { t.Expiry = now.Add(1) }, ""},
		"never expires":        {func(t *dpop.Token) { t.Expiry = time.Time{} }, ""},
		"unbound":              {func(t *dpop.Token) { t.Confirmation = dpop.Confirmation{} }, dpop.ErrTokenUnbound},
		"another key's":        {func(t *dpop.Token) { t.Confirmation.JKT = thief().JKT() }, dpop.ErrKeyMismatch},
		"unknown confirmation": {func(t *dpop.Token) { t.Confirmation.Unknown = true }, dpop.ErrConfirmationUnknown},
		"needs a certificate":  {func(t *dpop.Token) { t.Confirmation.X5T = hashOf("x") }, dpop.ErrCertificateMismatch},
		"a certificate alone":  {func(t *dpop.Token) { t.Confirmation = dpop.Confirmation{X5T: hashOf("x")} }, dpop.ErrTokenUnbound},
		"D23 jkt cut short":    {func(t *dpop.Token) { t.Confirmation.JKT = t.Confirmation.JKT[:42] }, dpop.ErrKeyMismatch},
		"D23 jkt with padding": {func(t *dpop.Token) { t.Confirmation.JKT += "=" }, dpop.ErrKeyMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			known := newWorld(t).token()
			tt.change(known)

			w, c := warm(t)
			c.known[sha256.Sum256([]byte(token))] = known
			wantReason(t, w.verify(request(w.proof())), tt.want)

			cold := newWorld(t)
			cold.registry.tokens[token] = known
			wantReason(t, cold.verify(request(cold.proof())), tt.want)
		})
	}
}

// A wrapper's own word is final: what the cache below it knows lets Verify refuse earlier, never accept.
func TestTheWrapperDecides(t *testing.T) {
	w, c := warm(t)
	outer := &wrapper{inner: &wrapper{inner: c}}
	w.verifier = w.newVerifier(func(cfg *dpop.Config) { cfg.Resolver = outer })

	wantReason(t, w.verify(request(w.proof())), "")
	if outer.calls != 1 {
		t.Errorf("the wrapper was asked %d times, want 1", outer.calls)
	}
	outer.blocked = map[string]bool{token: true}
	wantReason(t, w.verify(request(w.proof())), dpop.ErrTokenInvalid)

	outer.calls = 0
	wantReason(t, w.verify(request(badSignature(w.forge(thief())))), dpop.ErrKeyMismatch)
	if outer.calls != 0 {
		t.Error("the wrapper was asked although the cache below it knows that the key is wrong")
	}
}

func TestAWrapperOfNoCache(t *testing.T) {
	w := newWorld(t)
	outer := &wrapper{inner: w.registry}
	w.verifier = w.newVerifier(func(cfg *dpop.Config) { cfg.Resolver = outer })
	wantReason(t, w.verify(request(w.proof())), "")
	if outer.calls != 1 || w.registry.calls != 1 {
		t.Errorf("wrapper and resolver were asked %d and %d times, want once each", outer.calls, w.registry.calls)
	}
}

// A cache that says it knows a token and has none must not be believed, nor crash a server.
func TestACacheThatKnowsNil(t *testing.T) {
	w, c := warm(t)
	c.known[sha256.Sum256([]byte(token))] = nil
	wantReason(t, w.verify(request(w.proof())), "")
	if w.registry.calls != 1 {
		t.Error("the resolver was not asked")
	}
}

func TestResolverErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want dpop.Reason
	}{
		"coarse":                            {dpop.ErrTokenInvalid, dpop.ErrTokenInvalid},
		"finer":                             {dpop.ErrTokenAudience, dpop.ErrTokenAudience},
		"finer, wrapped":                    {fmt.Errorf("aud: %w", dpop.ErrTokenAudience), dpop.ErrTokenAudience},
		"a reason of the resolver's own":    {dpop.Reason("token_invalid.revoked"), "token_invalid.revoked"},
		"joined with another":               {errors.Join(errors.New("x"), dpop.ErrTokenIssuer), dpop.ErrTokenIssuer},
		"not about the token":               {errors.New("dial tcp"), dpop.ErrResolverUnavailable},
		"a timeout":                         {context.DeadlineExceeded, dpop.ErrResolverUnavailable},
		"a reason that only looks alike":    {dpop.Reason("token_invalidated"), dpop.ErrResolverUnavailable},
		"a reason that is not about tokens": {dpop.ErrProofSignature, dpop.ErrResolverUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.registry.err = tt.err
			e := w.verify(request(w.proof()))
			wantReason(t, e, tt.want)
			if !errors.Is(e, tt.err) {
				t.Errorf("the cause %v is lost: %v", tt.err, e)
			}
			if w.store.calls != 0 {
				t.Error("the proof was used up")
			}
		})
	}
}
