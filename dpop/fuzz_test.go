package dpop_test

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/internal/jose"
	"github.com/senderbound/senderbound/jkt"
)

// Whatever comes in the DPoP field, Verify returns; and what it accepts, jwx accepts: the signature by the embedded key,
// and the same typ, alg and claims as another parser reads them.
func FuzzProof(f *testing.F) {
	for _, list := range readVectors(f) {
		for _, v := range list {
			if len(v.DPoP) == 1 && len(v.DPoP[0]) < 1500 && v.Now == now.Unix() {
				f.Add(v.DPoP[0])
			}
		}
	}
	accepting := vector{Method: "GET", URI: target, Authorization: []string{"DPoP " + token}, Now: now.Unix()}
	f.Fuzz(func(t *testing.T, proof string) {
		cfg, _ := accepting.config()
		cfg.Algorithms = []string{"ES256", "ES384", "EdDSA", "PS256", "RS256"}
		for _, binding := range bindingsOf(proof) {
			cfg.Resolver = dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) {
				return &dpop.Token{Confirmation: dpop.Confirmation{JKT: binding}}, nil
			})
			v, err := dpop.NewVerifier(cfg)
			if err != nil {
				t.Fatal(err)
			}
			req := accepting.request()
			req.DPoP = []string{proof}
			result, err := v.Verify(context.Background(), req)
			if err != nil {
				if e, ok := err.(*dpop.Error); !ok || e.Status < 400 || e.Status > 401 {
					t.Fatalf("refused with %v", err)
				}
				continue
			}
			checkWithJWX(t, proof, result.Proof)
		}
	})
}

// bindingsOf returns the thumbprint of the proof's key, if it has one that can be read, so that a mutated key can be
// accepted, too, and that of no key.
func bindingsOf(proof string) []string {
	bindings := []string{strings.Repeat("A", 43)}
	first, _, _ := strings.Cut(proof, ".")
	text, _ := base64.RawURLEncoding.DecodeString(first)
	var header struct {
		Alg string
		JWK json.RawMessage
	}
	if json.Unmarshal(text, &header) == nil && jose.Known(header.Alg) {
		if key, err := jose.ParseKey(header.JWK, header.Alg); err == nil {
			if print, err := jkt.Thumbprint(key); err == nil {
				bindings = append(bindings, print)
			}
		}
	}
	return bindings
}

func checkWithJWX(t *testing.T, proof string, accepted *dpop.Proof) {
	t.Helper()
	message, err := jws.Parse([]byte(proof))
	if err != nil {
		t.Fatalf("accepted %s, jwx says %v", proof, err)
	}
	header := message.Signatures()[0].ProtectedHeaders()
	key, alg := header.JWK(), header.Algorithm()
	if alg == "Ed25519" {
		alg = jwa.EdDSA // jwx/v2 knows the older name only
	}
	if header.Type() != "dpop+jwt" || key == nil || len(header.Critical()) > 0 {
		t.Fatalf("accepted %s with typ %q, jwk %v and crit %v", proof, header.Type(), key, header.Critical())
	}
	if private, err := jwk.IsPrivateKey(key); err != nil || private {
		t.Fatalf("accepted %s with a private key", proof)
	}
	var raw any
	if err := key.Raw(&raw); err != nil {
		t.Fatalf("accepted %s, jwx says %v", proof, err)
	}
	verifier, err := jws.NewVerifier(alg)
	if err != nil {
		t.Fatalf("accepted %s with alg %s: %v", proof, alg, err)
	}
	h, c, _ := segments(proof)
	if err := verifier.Verify([]byte(h+"."+c), message.Signatures()[0].Signature(), raw); err != nil {
		t.Fatalf("accepted %s, jwx says %v", proof, err)
	}
	var claims struct {
		JTI, HTM, HTU, ATH string
		IAT                float64
	}
	if err := json.Unmarshal(message.Payload(), &claims); err != nil {
		t.Fatalf("accepted %s, encoding/json says %v", proof, err)
	}
	if claims.HTM != "GET" || claims.ATH != hashOf(token) || claims.JTI == "" || !strings.Contains(strings.ToLower(claims.HTU), "api.example.com") {
		t.Fatalf("accepted %s with the claims %+v", proof, claims)
	}
	if age := now.Sub(accepted.IssuedAt); age > time.Minute || age < -10*time.Second {
		t.Fatalf("accepted %s of %v", proof, accepted.IssuedAt)
	}
	if sum, err := key.Thumbprint(crypto.SHA256); err != nil || b64(sum) != accepted.JKT {
		t.Fatalf("the key of %s is said to be %s, jwx says %s", proof, accepted.JKT, b64(sum))
	}
}

// Whatever comes in the Authorization field, Verify returns; and a token that reaches the resolver is a token68, came alone
// under one of two schemes, and stands in the line as it is.
func FuzzAuthorization(f *testing.F) {
	for _, seed := range []string{
		"DPoP " + token, "dpop  " + token, "Bearer abc==", "DPoP a, Bearer b", "Basic YTpi", "DPoP\tabc", "DPoP", "", " ", "DPoP a b",
		`DPoP realm="x"`, "Bearer,DPoP a", "DPoP =", "BEARER /",
	} {
		f.Add(seed, "")
		f.Add(seed, "DPoP x")
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		lines := []string{first}
		if second != "" {
			lines = append(lines, second)
		}
		var seen []string
		v, err := dpop.NewVerifier(dpop.Config{
			Replay:      new(memory),
			AllowBearer: func() bool { return true },
			Now:         func() time.Time { return now },
			Resolver: dpop.TokenResolverFunc(func(_ context.Context, token string) (*dpop.Token, error) {
				seen = append(seen, token)
				return new(dpop.Token), nil
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.Verify(context.Background(), dpop.Request{Method: "GET", URI: target, Authorization: lines})
		e, ok := err.(*dpop.Error)
		if err != nil && (!ok || e.Status != 400 && e.Status != 401) {
			t.Fatalf("%q: %v", lines, err)
		}
		if len(seen) == 0 {
			if err == nil {
				t.Fatalf("%q is accepted and no token was looked at", lines)
			}
			return
		}
		scheme, rest, _ := strings.Cut(first, " ")
		if len(lines) != 1 || !strings.EqualFold(scheme, "Bearer") || strings.TrimLeft(rest, " ") != seen[0] {
			t.Fatalf("%q gave the token %q", lines, seen[0])
		}
		if seen[0] == "" || strings.ContainsAny(seen[0], " \t\r\n,\"\\\x00") {
			t.Fatalf("%q gave the token %q", lines, seen[0])
		}
	})
}
