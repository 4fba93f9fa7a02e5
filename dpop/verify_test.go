package dpop_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/replay"
)

func TestVerifyAccepts(t *testing.T) {
	for alg, key := range keys() {
		t.Run(alg, func(t *testing.T) {
			w := newWorld(t, func(c *dpop.Config) { c.Algorithms = []string{alg} })
			w.key = key
			w.registry.tokens[token] = w.token()
			result, err := w.verifier.Verify(context.Background(), request(w.proof()))
			require.NoError(t, err)
			if result.Token.Subject != "alice" {
				t.Errorf("the result is about %q", result.Token.Subject)
			}
			if result.Proof == nil || result.Proof.JKT != key.JKT() || result.Proof.Algorithm != alg || !result.Proof.IssuedAt.Equal(now) {
				t.Errorf("the proof is said to be %+v", result.Proof)
			}
			if !result.SenderConstrained() {
				t.Error("the sender proved possession, and SenderConstrained is false")
			}
		})
	}
}

// A fault is one thing that is wrong with a request that is right otherwise.
type fault struct {
	reason dpop.Reason
	code   dpop.Code

	config  func(*dpop.Config)                    // the verifier's fault
	world   func(*world)                          // the resolver's, the store's or the clock's
	proof   func(header, claims map[string]any)   // the proof's, signed all the same
	request func(req *dpop.Request, proof string) // the request's
	burnt   bool                                  // the store was asked: this refusal is about the store
	gone    func(*world)                          // what ends the fault, beside taking the above back
	nonce   string                                // what the client must be told to use
	after   time.Duration                         // when it may come again
}

// faults has a row for each Reason that Verify gives, in the order in which a request meets the checks.
var faults = map[string]fault{
	"no Authorization": {reason: dpop.ErrNoCredentials, code: "",
		request: func(r *dpop.Request, _ string) { r.Authorization = nil }},
	"Basic": {reason: dpop.ErrUnsupportedScheme, code: "",
		request: func(r *dpop.Request, _ string) { r.Authorization = []string{"Basic YTpi"} }},
	"two Authorization fields": {reason: dpop.ErrMalformedAuthorization, code: dpop.CodeInvalidRequest,
		request: func(r *dpop.Request, _ string) { r.Authorization = append(r.Authorization, r.Authorization[0]) }},
	"the token as Bearer": {reason: dpop.ErrBearerNotAllowed, code: dpop.CodeInvalidToken,
		request: func(r *dpop.Request, _ string) { r.Authorization = []string{"Bearer " + token} }},
	"the token as Bearer, where Bearer is taken": {reason: dpop.ErrTokenBound, code: dpop.CodeInvalidToken,
		config:  allowBearer,
		request: func(r *dpop.Request, _ string) { r.Authorization = []string{"Bearer " + token} }},
	"an unbound token as Bearer, with a proof": {reason: dpop.ErrProofUnderBearer, code: dpop.CodeInvalidToken,
		config:  allowBearer,
		world:   func(w *world) { w.registry.tokens[token].Confirmation = dpop.Confirmation{} },
		request: func(r *dpop.Request, _ string) { r.Authorization = []string{"Bearer " + token} }},
	"no proof": {reason: dpop.ErrProofMissing, code: dpop.CodeInvalidProof,
		request: func(r *dpop.Request, _ string) { r.DPoP = nil }},
	"two proofs": {reason: dpop.ErrProofMultiple, code: dpop.CodeInvalidProof,
		request: func(r *dpop.Request, proof string) { r.DPoP = []string{proof, proof} }},
	"a proof cut short": {reason: dpop.ErrProofMalformed, code: dpop.CodeInvalidProof,
		request: func(r *dpop.Request, proof string) { r.DPoP = []string{proof[:len(proof)-1]} }},
	"typ": {reason: dpop.ErrProofType, code: dpop.CodeInvalidProof, proof: setHeader("typ", "JWT")},
	"alg": {reason: dpop.ErrProofAlgorithm, code: dpop.CodeInvalidProof, proof: setHeader("alg", "HS256")},
	"jwk": {reason: dpop.ErrProofKey, code: dpop.CodeInvalidProof, proof: setHeader("jwk", nil)},
	"a target that is not ours": {reason: dpop.ErrTargetUnknown, code: dpop.CodeInvalidRequest,
		request: func(r *dpop.Request, _ string) { r.URI = "" }},
	"htm": {reason: dpop.ErrMethodMismatch, code: dpop.CodeInvalidProof,
		request: func(r *dpop.Request, _ string) { r.Method = "POST" }},
	"htu": {reason: dpop.ErrURIMismatch, code: dpop.CodeInvalidProof,
		request: func(r *dpop.Request, _ string) { r.URI = "https://api.example.com/orders/8" }},
	"ath of another token": {reason: dpop.ErrTokenHashMismatch, code: dpop.CodeInvalidProof,
		request: func(r *dpop.Request, _ string) { r.Authorization = []string{"DPoP another-token"} }},
	"no ath":   {reason: dpop.ErrTokenHashMissing, code: dpop.CodeInvalidProof, proof: set("ath", nil)},
	"no nonce": {reason: dpop.ErrNonceMissing, code: dpop.CodeUseNonce, config: withNonces, nonce: "fresh-nonce"},
	"another server's nonce": {reason: dpop.ErrNonceInvalid, code: dpop.CodeUseNonce, config: withNonces,
		proof: set("nonce", "not-ours"), nonce: "fresh-nonce"},
	"a nonce from before the store lost its memory": {reason: dpop.ErrNonceStale, code: dpop.CodeUseNonce, config: withNonces,
		proof: set("nonce", "good-nonce"), world: func(w *world) { w.store.err = replay.ErrStale }, burnt: true, nonce: "fresh-nonce"},
	"too old": {reason: dpop.ErrProofTooOld, code: dpop.CodeInvalidProof,
		world: func(w *world) { w.now = now.Add(61 * time.Second) }},
	"from the future": {reason: dpop.ErrProofFromFuture, code: dpop.CodeInvalidProof,
		world: func(w *world) { w.now = now.Add(-11 * time.Second) }},
	"the signature": {reason: dpop.ErrProofSignature, code: dpop.CodeInvalidProof,
		request: func(r *dpop.Request, proof string) {
			h, c, s := segments(proof)
			r.DPoP = []string{h + "." + c + "." + strings.Repeat("AAAA", len(s)/4) + "AA"[:len(s)%4]}
		}},
	"a token that no one knows": {reason: dpop.ErrTokenInvalid, code: dpop.CodeInvalidToken,
		world: func(w *world) { w.registry.tokens = nil }},
	"a token of no form":           {reason: dpop.ErrTokenMalformed, code: dpop.CodeInvalidToken, world: resolverSays(dpop.ErrTokenMalformed)},
	"an ID token":                  {reason: dpop.ErrTokenType, code: dpop.CodeInvalidToken, world: resolverSays(dpop.ErrTokenType)},
	"another issuer's token":       {reason: dpop.ErrTokenIssuer, code: dpop.CodeInvalidToken, world: resolverSays(dpop.ErrTokenIssuer)},
	"another resource's token":     {reason: dpop.ErrTokenAudience, code: dpop.CodeInvalidToken, world: resolverSays(dpop.ErrTokenAudience)},
	"a token from the future":      {reason: dpop.ErrTokenNotYetValid, code: dpop.CodeInvalidToken, world: resolverSays(dpop.ErrTokenNotYetValid)},
	"a token with a bad signature": {reason: dpop.ErrTokenSignature, code: dpop.CodeInvalidToken, world: resolverSays(dpop.ErrTokenSignature)},
	"an expired token": {reason: dpop.ErrTokenExpired, code: dpop.CodeInvalidToken,
		world: func(w *world) { w.registry.tokens[token].Expiry = w.now }},
	"a token bound in a way that is not known": {reason: dpop.ErrConfirmationUnknown, code: dpop.CodeInvalidToken,
		world: func(w *world) { w.registry.tokens[token].Confirmation = dpop.Confirmation{Unknown: true} }},
	"an unbound token": {reason: dpop.ErrTokenUnbound, code: dpop.CodeInvalidToken,
		world: func(w *world) { w.registry.tokens[token].Confirmation = dpop.Confirmation{} }},
	"another key's token": {reason: dpop.ErrKeyMismatch, code: dpop.CodeInvalidToken,
		world: func(w *world) { w.registry.tokens[token].Confirmation.JKT = thief().JKT() }},
	"a token that needs a certificate, too": {reason: dpop.ErrCertificateMismatch, code: dpop.CodeInvalidToken,
		world: func(w *world) { w.registry.tokens[token].Confirmation.X5T = hashOf("certificate") }},
	"used before": {reason: dpop.ErrProofReplayed, code: dpop.CodeInvalidProof, burnt: true,
		world: func(w *world) { w.store.used = map[string]bool{replay.Key(w.key.JKT(), "the-jti"): true} },
		gone:  func(w *world) { w.store.used = nil }},
	"the store lost its memory": {reason: dpop.ErrProofStale, code: dpop.CodeInvalidProof, burnt: true,
		world: func(w *world) { w.store.err = fmt.Errorf("restarted: %w", replay.ErrStale) }},
	"the resolver cannot tell": {reason: dpop.ErrResolverUnavailable, code: dpop.CodeTemporarilyUnavailable,
		world: resolverSays(errors.New("connection refused"))},
	"the resolver says nothing": {reason: dpop.ErrResolverUnavailable, code: dpop.CodeTemporarilyUnavailable,
		world: func(w *world) { w.registry.tokens[token] = nil }},
	"the store cannot tell": {reason: dpop.ErrReplayUnavailable, code: dpop.CodeTemporarilyUnavailable, burnt: true,
		world: func(w *world) { w.store.err = errors.New("connection refused") }},
	"the store says when to come again": {reason: dpop.ErrReplayUnavailable, code: dpop.CodeTemporarilyUnavailable, burnt: true,
		world: func(w *world) {
			w.store.err = fmt.Errorf("wrapped: %w", &replay.Unavailable{Err: errors.New("down"), RetryAfter: 7 * time.Second})
		}, after: 7 * time.Second},
	"the store lost its memory and no new proof will do yet": {reason: dpop.ErrReplayUnavailable, code: dpop.CodeTemporarilyUnavailable,
		burnt: true, after: time.Second,
		world: func(w *world) { w.store.err = &replay.Unavailable{Err: replay.ErrStale, RetryAfter: time.Second} }},
	"the store is full": {reason: dpop.ErrReplayFull, code: dpop.CodeTemporarilyUnavailable, burnt: true,
		world: func(w *world) { w.store.err = fmt.Errorf("client quota: %w", replay.ErrFull) }},
	"the store is full for a while": {reason: dpop.ErrReplayFull, code: dpop.CodeTemporarilyUnavailable, burnt: true, after: time.Second,
		world: func(w *world) { w.store.err = &replay.Unavailable{Err: replay.ErrFull, RetryAfter: time.Second} }},
}

func allowBearer(c *dpop.Config) { c.AllowBearer = func() bool { return true } }

func withNonces(c *dpop.Config) { c.Nonces = nonces{} }

func resolverSays(err error) func(*world) {
	return func(w *world) { w.registry.err = fmt.Errorf("resolver: %w", err) }
}

// Every reason has its code and status, and what the checks before the last refuse has changed nothing (C06): the same
// jti, sent rightly afterwards, is accepted.
func TestVerifyRefuses(t *testing.T) {
	status := map[dpop.Code]int{
		"": 401, dpop.CodeInvalidRequest: 400, dpop.CodeInvalidToken: 401, dpop.CodeInvalidProof: 401, dpop.CodeUseNonce: 401,
		dpop.CodeTemporarilyUnavailable: 503,
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			right := w.proof(set("jti", "the-jti"))
			wrong := right
			if f.proof != nil {
				wrong = w.proof(set("jti", "the-jti"), f.proof)
			}
			req := request(wrong)
			if f.request != nil {
				f.request(&req, wrong)
			}
			if f.config != nil {
				w.verifier = w.newVerifier(f.config)
			}
			if f.world != nil {
				f.world(w)
			}
			e := w.verify(req)
			if e == nil {
				t.Fatal("accepted")
			}
			wantReason(t, e, f.reason)
			if e.Code != f.code || e.Status != status[f.code] {
				t.Errorf("code %q and status %d, want %q and %d", e.Code, e.Status, f.code, status[f.code])
			}
			if e.Nonce != f.nonce {
				t.Errorf("nonce %q, want %q", e.Nonce, f.nonce)
			}
			if e.RetryAfter != f.after {
				t.Errorf("Retry-After %v, want %v", e.RetryAfter, f.after)
			}
			if challenged := len(e.Challenges) > 0; challenged == (e.Status == 503) {
				t.Errorf("status %d with challenges %q", e.Status, e.Challenges)
			}
			if !errors.Is(e, f.reason) {
				t.Errorf("errors.Is does not find %q in %v", f.reason, e)
			}
			if asked := w.store.calls > 0; asked != f.burnt {
				t.Errorf("C06: the replay store was asked: %v, want %v", asked, f.burnt)
			}

			w.now, w.store.err, w.registry.err = now, nil, nil
			w.registry.tokens = map[string]*dpop.Token{token: w.token()}
			if f.gone != nil {
				f.gone(w)
			}
			wantReason(t, refusal(t, w.newVerifier(), request(right)), "")
			wantReason(t, refusal(t, w.newVerifier(), request(right)), dpop.ErrProofReplayed)
		})
	}
}

// A new reason needs a row above: the constants are read from the source.
func TestEveryReasonHasARow(t *testing.T) {
	seen := map[string]bool{string(dpop.ErrUnavailable): true, string(dpop.ErrInsufficientScope): true} // never by Verify itself
	for _, f := range faults {
		seen[string(f.reason)] = true
	}
	file, err := parser.ParseFile(gotoken.NewFileSet(), "error.go", nil, 0)
	require.NoError(t, err)
	count := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "Reason" {
			return true
		}
		count++
		text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		require.NoError(t, err)
		if !seen[text] {
			t.Errorf("no row in faults gives %s (%q)", spec.Names[0].Name, text)
		}
		return true
	})
	if count < 40 {
		t.Errorf("found only %d reasons in error.go: is this test still looking at the right place?", count)
	}
}

// F04: what the free checks refuse never reaches the resolver, which may have to ask the network.
func TestTheResolverIsAskedLast(t *testing.T) {
	for name, f := range faults {
		if f.world != nil || f.config != nil && f.code != dpop.CodeUseNonce {
			continue
		}
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *dpop.Config) {
				if f.config != nil {
					f.config(c)
				}
			})
			proof := w.proof()
			if f.proof != nil {
				proof = w.proof(f.proof)
			}
			req := request(proof)
			if f.request != nil {
				f.request(&req, proof)
			}
			wantReason(t, w.verify(req), f.reason)
			if w.registry.calls != 0 {
				t.Errorf("the resolver was asked about a request that was refused for %s", f.reason)
			}
		})
	}
}

// The checks run in this order, each before the next: a request with two faults is refused for the first.
func TestOrderOfChecks(t *testing.T) {
	order := []string{
		"two Authorization fields", "two proofs", "typ", "alg", "jwk", "htm", "htu", "ath of another token", "too old",
		"the signature", "a token that no one knows", "used before",
	}
	for i, first := range order {
		for _, second := range order[i+1:] {
			t.Run(first+" before "+second, func(t *testing.T) {
				w := newWorld(t)
				a, b := faults[first], faults[second]
				var changes []func(header, claims map[string]any)
				for _, f := range []fault{b, a} {
					if f.proof != nil {
						changes = append(changes, f.proof)
					}
				}
				req := request(w.proof(changes...))
				for _, f := range []fault{b, a} {
					if f.world != nil {
						f.world(w)
					}
					if f.request != nil {
						f.request(&req, req.DPoP[0])
					}
				}
				wantReason(t, w.verify(req), a.reason)
			})
		}
	}
}

// R033: the context reaches the resolver and the store, so that a caller can give up.
func TestTheContextIsPassedOn(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(context.Background(), key{}, true)
	seen := 0
	w := newWorld(t)
	v := w.newVerifier(func(c *dpop.Config) {
		c.Resolver = dpop.TokenResolverFunc(func(ctx context.Context, token string) (*dpop.Token, error) {
			if ctx.Value(key{}) == true {
				seen++
			}
			return w.registry.ResolveToken(ctx, token)
		})
		c.Replay = replay.SetNXFunc(func(ctx context.Context, _ string, _ time.Duration) (bool, error) {
			if ctx.Value(key{}) == true {
				seen++
			}
			return true, nil
		})
	})
	w.now = time.Now() // SetNXFunc counts from the real clock
	_, err := v.Verify(ctx, request(w.proof()))
	require.NoError(t, err)
	if seen != 2 {
		t.Errorf("%d of 2 dependencies saw the context", seen)
	}
}

// C04, C05: a client's key is part of the name under which its proof is remembered.
func TestC04TwoClientsMayUseOneJTI(t *testing.T) {
	w := newWorld(t)
	other := dpop.Request{Method: "GET", URI: target, Authorization: []string{"DPoP other-token"}}
	w.registry.tokens["other-token"] = &dpop.Token{Confirmation: dpop.Confirmation{JKT: thief().JKT()}}
	other.DPoP = []string{w.forge(thief(), set("jti", "shared"), set("ath", hashOf("other-token")))}

	wantReason(t, w.verify(other), "") // C05: the attacker comes first, with the victim's jti
	wantReason(t, w.verify(request(w.proof(set("jti", "shared")))), "")
}

func TestC01AProofWorksOnce(t *testing.T) {
	w := newWorld(t)
	proof := w.proof()
	wantReason(t, w.verify(request(proof)), "")
	for range 3 {
		wantReason(t, w.verify(request(proof)), dpop.ErrProofReplayed)
	}
	// A12, A13, C13: another signature, other spellings of htu and another iat do not make it another proof.
	jti := set("jti", "one")
	wantReason(t, w.verify(request(w.proof(jti))), "")
	for name, again := range map[string]string{
		"another signature":  w.proof(jti),
		"another iat":        w.proof(jti, set("iat", now.Unix()-1)),
		"htu with port":      w.proof(jti, set("htu", "https://api.example.com:443/orders/7")),
		"jti with an escape": w.proof(set("jti", raw(`"\u006fne"`))),
	} {
		if got := reasonOf(w.verify(request(again))); got != dpop.ErrProofReplayed {
			t.Errorf("%s: got reason %q, want %q", name, got, dpop.ErrProofReplayed)
		}
	}
}

// C16, R055: what reaches the store has a fixed form, whatever the jti.
func TestC16TheStoreSeesNoJTI(t *testing.T) {
	for _, jti := range []string{"a", "a\nDEL *\r\n", "../../", strings.Repeat("x", 256), "é"} {
		w := newWorld(t)
		wantReason(t, w.verify(request(w.proof(set("jti", jti)))), "")
		if want := replay.Key(w.key.JKT(), jti); w.store.key != want || len(want) != 48 {
			t.Errorf("the store saw %q for jti %q, want %q", w.store.key, jti, want)
		}
	}
}

// A key that is known from an accepted proof is held against the next proof as strictly as a new one.
func TestAKnownKeyIsCheckedLikeAnother(t *testing.T) {
	w := newWorld(t, func(c *dpop.Config) { c.Algorithms = []string{"PS256", "RS256", "PS384"} })
	w.key = keys()["PS256"]
	w.registry.tokens[token] = w.token()
	jwkFor := func(alg string) map[string]any {
		var jwk map[string]any
		require.NoError(t, json.Unmarshal(w.key.PublicJWK(), &jwk))
		if alg != "" {
			jwk["alg"] = alg
		}
		return jwk
	}
	for range 2 { // the first makes the key known
		wantReason(t, w.verify(request(w.proof())), "")
		wantReason(t, w.verify(request(w.proof(setHeader("jwk", jwkFor("PS256"))))), "")
	}
	for name, tt := range map[string]struct {
		proof string
		want  dpop.Reason
	}{
		"A10 another algorithm for the key":        {w.proof(setHeader("alg", "RS256")), dpop.ErrProofSignature},
		"A10 another hash":                         {w.proof(setHeader("alg", "PS384")), dpop.ErrProofSignature},
		"another algorithm than the jwk's":         {w.proof(setHeader("alg", "RS256"), setHeader("jwk", jwkFor("PS256"))), dpop.ErrProofKey},
		"A02 an algorithm that is not allowed":     {w.proof(setHeader("alg", "HS256")), dpop.ErrProofAlgorithm},
		"A19 the key twice":                        {w.forgeJSON(strings.Replace(headerOf(t, w.proof()), `"jwk":`, `"jwk":{},"jwk":`, 1), "{}"), dpop.ErrProofMalformed},
		"R014 a signature by another key":          {signedAs(t, w.proof(), w.proof()), dpop.ErrProofSignature},
		"A08 the same key with its e spelled anew": {w.proof(func(h, _ map[string]any) { jwk := jwkFor(""); jwk["e"] = "AAEAAQ"; h["jwk"] = jwk }), dpop.ErrProofKey},
		"A04 the same key with a private member":   {w.proof(func(h, _ map[string]any) { jwk := jwkFor(""); jwk["d"] = "AQ"; h["jwk"] = jwk }), dpop.ErrProofKey},
	} {
		t.Run(name, func(t *testing.T) { wantReason(t, w.verify(request(tt.proof)), tt.want) })
	}
	// Another client's token does not fit the key, known or not.
	w.registry.tokens[token].Confirmation.JKT = thief().JKT()
	wantReason(t, w.verify(request(w.proof())), dpop.ErrKeyMismatch)
}

// headerOf returns the JSON text of a proof's header.
func headerOf(t *testing.T, proof string) string {
	t.Helper()
	h, _, _ := segments(proof)
	text, err := base64.RawURLEncoding.DecodeString(h)
	require.NoError(t, err)
	return string(text)
}

// signedAs returns proof with the signature of another.
func signedAs(t *testing.T, proof, other string) string {
	t.Helper()
	h, c, _ := segments(proof)
	_, _, s := segments(other)
	return h + "." + c + "." + s
}
