package dpop_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/senderbound/senderbound/dpop"
)

// The first tests of this file are those that internal/house/deletion asked for: each misses one check that no other did.
// The others hold rows of the checklist that no test was about.

func TestCredentialsThatAreAlmostAnothers(t *testing.T) {
	for name, line := range map[string]string{
		"D09 Basic, then Bearer":           "Basic YTpi, Bearer " + token,
		"D09 Basic, then DPoP":             "Basic YTpi, DPoP " + token,
		"D09 Basic, then Bearer by a tab":  "Basic\tBearer " + token,
		"D09 an unknown scheme and Bearer": "X,bearer " + token,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			req := request(w.proof())
			req.Authorization = []string{line}
			wantReason(t, w.verify(req), dpop.ErrMalformedAuthorization)
		})
	}
}

// What only looks like a percent-encoding would stand for the 7 of the target if it were taken for one.
func TestHTUWithWhatIsAlmostAnEscape(t *testing.T) {
	for name, last := range map[string]string{
		"B06 a backslash for the percent sign": `\37`,
		"B07 a space for the percent sign":     " 37",
		"B07 another byte for it":              "\u00e937",
		"B06 a letter beyond f, first":         "%z7",
		"B06 a letter beyond f, second":        "%3w",
		"B06 cut short":                        "%3",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			wantReason(t, w.verify(request(w.proof(set("htu", strings.TrimSuffix(target, "7")+last)))), dpop.ErrURIMismatch)
		})
	}
	w := newWorld(t)
	wantReason(t, w.verify(request(w.proof(set("htu", strings.TrimSuffix(target, "7")+"%37")))), "") // the control
}

// The request's own target is configuration: if it is no URI, that is our fault, and no proof fits it.
func TestATargetThatIsNoURI(t *testing.T) {
	for _, uri := range []string{"/orders/7", "api.example.com/orders/7", "https:///orders/7", target + `\`, "https://api example.com/"} {
		w := newWorld(t)
		req := request(w.proof(set("htu", uri)))
		req.URI = uri
		if got := reasonOf(w.verify(req)); got != dpop.ErrTargetUnknown && got != dpop.ErrURIMismatch {
			t.Errorf("B13 the target %q and the same htu: got reason %q", uri, got)
		}
		req.DPoP = []string{w.proof()}
		if got := reasonOf(w.verify(req)); got != dpop.ErrTargetUnknown {
			t.Errorf("B13 the target %q and a good htu: got reason %q, want %q", uri, got, dpop.ErrTargetUnknown)
		}
	}
}

// A key that was accepted before is remembered for its algorithm only.
func TestA10AKnownKeyWithAnotherAlgorithm(t *testing.T) {
	w := newWorld(t, func(c *dpop.Config) { c.Algorithms = []string{"ES256", "ES384", "PS256"} })
	for _, when := range []string{"cold", "warm"} {
		for _, alg := range []string{"ES384", "PS256"} {
			if got := reasonOf(w.verify(request(w.proof(setHeader("alg", alg))))); got != dpop.ErrProofKey {
				t.Errorf("A10 %s, alg %s: got reason %q, want %q", when, alg, got, dpop.ErrProofKey)
			}
		}
		wantReason(t, w.verify(request(w.proof())), "")
	}
}

// stale is a resolver whose cache shows a token that it does not vouch for any more.
type stale struct{ *registry }

func (s stale) Cached([32]byte) (*dpop.Token, bool) { return s.tokens[token], false }

func TestATokenThatIsKnownNoMore(t *testing.T) {
	w := newWorld(t)
	w.verifier = w.newVerifier(func(c *dpop.Config) { c.Resolver = stale{w.registry} })
	wantReason(t, w.verify(request(w.proof())), "")
	w.registry.err = dpop.ErrTokenInvalid
	if got := reasonOf(w.verify(request(w.proof()))); got != dpop.ErrTokenInvalid || w.registry.calls != 2 {
		t.Errorf("R171: got reason %q after %d calls of the resolver, want %q after 2", got, w.registry.calls, dpop.ErrTokenInvalid)
	}
}

// confused is a store that says both: first use, and an error.
type confused struct{}

func (confused) FirstUse(context.Context, string, time.Time, time.Time) (bool, error) {
	return true, errors.New("the answer was lost, and the zero value is true")
}

func TestC15AnErrorOfTheStoreIsNeverAYes(t *testing.T) {
	w := newWorld(t, func(c *dpop.Config) { c.Replay = confused{} })
	wantReason(t, w.verify(request(w.proof())), dpop.ErrReplayUnavailable)
}

func TestR032NoTokenWithoutAProof(t *testing.T) {
	for name, lines := range map[string][]string{"no field": nil, "an empty field": {""}} {
		w := newWorld(t)
		e := w.verify(request(lines...))
		wantReason(t, e, dpop.ErrProofMissing)
		if e != nil && e.Code != dpop.CodeInvalidProof {
			t.Errorf("%s: code %q, want %q", name, e.Code, dpop.CodeInvalidProof)
		}
	}
}

// What a proof does not cover changes nothing, which is why the documentation says that TLS must.
func TestR062WhatAProofDoesNotCover(t *testing.T) {
	w := newWorld(t)
	r := httptest.NewRequest("GET", target+"?other=query", strings.NewReader("another body"))
	r.Header.Set("Authorization", "DPoP "+token)
	r.Header.Set("Content-Type", "text/html")
	r.Header.Set("DPoP", w.proof())
	wantReason(t, w.verify(dpop.RequestFromHTTP(r, target+"?other=query")), "")
}

func TestR150ACertificateBoundToken(t *testing.T) {
	own, other := &x509.Certificate{Raw: []byte("own")}, &x509.Certificate{Raw: []byte("other")}
	for name, tt := range map[string]struct {
		cert *x509.Certificate
		want dpop.Reason
	}{"own": {own, ""}, "another's": {other, dpop.ErrCertificateMismatch}, "none": {nil, dpop.ErrBearerNotAllowed}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.registry.tokens[token].Confirmation = dpop.Confirmation{X5T: hashOf("own")}
			wantReason(t, w.verify(dpop.Request{
				Method: "GET", URI: target, Authorization: []string{"Bearer " + token}, ClientCertificate: tt.cert,
			}), tt.want)
		})
	}
}

// The resolver is asked each time, unless it says itself that it knows: a token revoked between two requests is refused.
func TestR171ARevokedToken(t *testing.T) {
	w := newWorld(t)
	wantReason(t, w.verify(request(w.proof())), "")
	w.registry.err = fmt.Errorf("%w: revoked", dpop.ErrTokenInvalid)
	wantReason(t, w.verify(request(w.proof())), dpop.ErrTokenInvalid)
}

func TestB02TheMethodOnTheWireCounts(t *testing.T) {
	for htm, want := range map[string]dpop.Reason{"POST": "", "GET": dpop.ErrMethodMismatch, "DELETE": dpop.ErrMethodMismatch} {
		w := newWorld(t)
		r := httptest.NewRequest("POST", target+"?_method=GET", nil)
		for _, name := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"} {
			r.Header.Set(name, "DELETE")
		}
		r.Header.Set("Authorization", "DPoP "+token)
		r.Header.Set("DPoP", w.proof(set("htm", htm)))
		if got := reasonOf(w.verify(dpop.RequestFromHTTP(r, target))); got != want {
			t.Errorf("htm %s: got reason %q, want %q", htm, got, want)
		}
	}
}

func TestC13AnotherSpellingIsNotAnotherProof(t *testing.T) {
	for name, htu := range map[string]string{
		"host in capitals": "https://API.example.com/orders/7", "port": "https://api.example.com:443/orders/7",
		"query": target + "?a", "fragment": target + "#a", "escape": "https://api.example.com/%6frders/7",
		"dot segment": "https://api.example.com/x/../orders/7",
	} {
		w := newWorld(t)
		wantReason(t, w.verify(request(w.proof(set("jti", "one")))), "")
		if got := reasonOf(w.verify(request(w.proof(set("jti", "one"), set("htu", htu))))); got != dpop.ErrProofReplayed {
			t.Errorf("%s: got reason %q, want %q", name, got, dpop.ErrProofReplayed)
		}
	}
}

// A client learns that its token does not do, or its proof, and nothing of why.
func TestF03RefusalsOfOneCodeLookTheSame(t *testing.T) {
	seen := map[dpop.Code][]string{}
	for name, f := range faults {
		if f.config != nil || f.code != dpop.CodeInvalidToken && f.code != dpop.CodeInvalidProof {
			continue
		}
		w := newWorld(t)
		proof := w.proof(set("jti", "the-jti"))
		if f.proof != nil {
			proof = w.proof(set("jti", "the-jti"), f.proof)
		}
		req := request(proof)
		if f.request != nil {
			f.request(&req, proof)
		}
		if f.world != nil {
			f.world(w)
		}
		e := w.verify(req)
		if e == nil {
			t.Fatalf("%s: accepted", name)
		}
		answer := append([]string{fmt.Sprint(e.Status), e.Nonce}, e.Challenges...)
		if seen[e.Code] == nil {
			seen[e.Code] = answer
		}
		if !slices.Equal(answer, seen[e.Code]) {
			t.Errorf("%s is answered with %q, another fault of code %s with %q", name, answer, e.Code, seen[e.Code])
		}
	}
	if len(seen) != 2 {
		t.Errorf("met the codes %v", seen)
	}
}
