package dpoptest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/replay"
)

const target, token = "https://api.example.com/orders", "an-access-token"

var claims = dpopclient.Claims{Method: "GET", URI: target, AccessToken: token}

// reason returns why the Verifier of this project refuses a proof, or "".
func reason(t *testing.T, key *dpopclient.Key, proof string) dpop.Reason {
	t.Helper()
	v, err := dpop.NewVerifier(dpop.Config{
		Replay: replay.SetNXFunc(func(context.Context, string, time.Duration) (bool, error) { return true, nil }),
		Resolver: dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) {
			return &dpop.Token{Confirmation: dpop.Confirmation{JKT: key.JKT()}}, nil
		}),
	})
	require.NoError(t, err)
	_, err = v.Verify(context.Background(), dpop.Request{Method: "GET", URI: target, Authorization: []string{"DPoP " + token}, DPoP: []string{proof}})
	if err == nil {
		return ""
	}
	return err.(*dpop.Error).Reason
}

// A forged proof is wrong in what was changed alone: its signature is over the change.
func TestForge(t *testing.T) {
	key := dpoptest.NewKey()
	for name, tt := range map[string]struct {
		change func(header, claims map[string]any)
		want   dpop.Reason
	}{
		"nothing": {func(_, _ map[string]any) {}, ""},
		"htm":     {func(_, c map[string]any) { c["htm"] = "POST" }, dpop.ErrMethodMismatch},
		"iat":     {func(_, c map[string]any) { c["iat"] = 1 }, dpop.ErrProofTooOld},
		"typ":     {func(h, _ map[string]any) { h["typ"] = "JWT" }, dpop.ErrProofType},
		"no jti":  {func(_, c map[string]any) { delete(c, "jti") }, dpop.ErrProofMalformed},
		"alg":     {func(h, _ map[string]any) { h["alg"] = "none" }, dpop.ErrProofAlgorithm},
		"jwk":     {func(h, _ map[string]any) { h["jwk"] = json.RawMessage(dpoptest.NewKey().PublicJWK()) }, dpop.ErrProofSignature},
	} {
		if got := reason(t, key, dpoptest.Forge(key, claims, tt.change)); got != tt.want {
			t.Errorf("%s: reason %q, want %q", name, got, tt.want)
		}
	}
	if got := reason(t, key, dpoptest.Proof(key, claims)); got != "" {
		t.Errorf("Proof: reason %q", got)
	}
	if got := reason(t, key, dpoptest.ForgeJSON(key, `{"typ":"dpop+jwt",`, `{}`)); got != dpop.ErrProofMalformed {
		t.Errorf("ForgeJSON: reason %q", got)
	}
}

func TestProofPanicsWhereTheTestIsWrong(t *testing.T) {
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "dpoptest: ") {
			t.Errorf("recovered %v", r)
		}
	}()
	dpoptest.Proof(dpoptest.NewKey(), dpopclient.Claims{})
}

func get(t *testing.T, url string) []byte {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return body
}

// keysOf returns what the issuer's metadata leads to.
func keysOf(t *testing.T, issuer *dpoptest.Issuer) jwk.Set {
	t.Helper()
	var metadata struct{ Issuer, JWKS_URI string }
	require.NoError(t, json.Unmarshal(get(t, issuer.URL+"/.well-known/oauth-authorization-server"), &metadata))
	require.Equal(t, issuer.URL, metadata.Issuer)
	set, err := jwk.Parse(get(t, metadata.JWKS_URI))
	require.NoError(t, err)
	return set
}

func TestIssuer(t *testing.T) {
	issuer := dpoptest.NewIssuer()
	defer issuer.Close()
	set := keysOf(t, issuer)
	if set.Len() != 1 {
		t.Fatalf("a new issuer has %d keys", set.Len())
	}
	key, _ := set.Key(0)
	if private, err := jwk.IsPrivateKey(key); err != nil || private {
		t.Error("the issuer serves its private key")
	}
	parsed, err := jwt.Parse([]byte(issuer.Token("api", "the-thumbprint", map[string]any{"sub": "bob", "scope": nil})), jwt.WithKeySet(set))
	require.NoError(t, err)
	cnf, _ := parsed.Get("cnf")
	_, hasScope := parsed.Get("scope")
	if parsed.Issuer() != issuer.URL || parsed.Audience()[0] != "api" || parsed.Subject() != "bob" || hasScope || fmt.Sprint(cnf) != "map[jkt:the-thumbprint]" {
		t.Errorf("the token says %v", parsed)
	}
	if left := time.Until(parsed.Expiration()); left < 4*time.Minute || left > 5*time.Minute {
		t.Errorf("the token expires in %v", left)
	}
	parsed, err = jwt.Parse([]byte(issuer.Token("api", "", nil)), jwt.WithKeySet(set))
	require.NoError(t, err)
	if _, bound := parsed.Get("cnf"); bound {
		t.Error("a token for no key has a cnf")
	}
}

// After one rotation tokens by the key before are good, after two they are not.
func TestIssuerRotates(t *testing.T) {
	issuer := dpoptest.NewIssuer()
	defer issuer.Close()
	old := []byte(issuer.Token("api", "", nil))
	issuer.Rotate()
	for range 2 {
		set := keysOf(t, issuer)
		if set.Len() != 2 {
			t.Fatalf("after a rotation there are %d keys, want 2", set.Len())
		}
		_, err := jwt.Parse([]byte(issuer.Token("api", "", nil)), jwt.WithKeySet(set))
		require.NoError(t, err)
		if _, err := jwt.Parse(old, jwt.WithKeySet(set)); err != nil {
			t.Errorf("a token by the key before is refused: %v", err)
		}
		old = []byte(issuer.Token("api", "", nil))
		issuer.Rotate()
	}
	issuer.Rotate()
	if _, err := jwt.Parse(old, jwt.WithKeySet(keysOf(t, issuer))); err == nil {
		t.Error("a token by a key that is gone is accepted")
	}
}

func TestContext(t *testing.T) {
	bound := &dpop.Token{Scope: "read", Confirmation: dpop.Confirmation{JKT: "thumbprint"}}
	result, ok := dpop.FromContext(dpoptest.Context(context.Background(), bound))
	if !ok || result.Token != bound || !result.SenderConstrained() || result.Proof.JKT != "thumbprint" {
		t.Errorf("the context has %+v", result)
	}
	if err := result.Require("write"); err == nil {
		t.Error("a scope that the token lacks is granted")
	}
	result, ok = dpop.FromContext(dpoptest.Context(context.Background(), new(dpop.Token)))
	if !ok || result.SenderConstrained() || result.Proof != nil {
		t.Errorf("of an unbound token, the context has %+v", result)
	}
}
