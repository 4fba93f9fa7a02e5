//go:build integration

package integration

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
)

// The users of the realm, whose identifiers testdata fixes.
const (
	ordersServiceID = "5e4dcb0e-0b0d-4a57-9a54-0d3c0f0a0001"
	aliceID         = "5e4dcb0e-0b0d-4a57-9a54-0d3c0f0a0002"
)

// bound returns a token of a client's own and the key that it is bound to.
func (w *world) bound(t *testing.T, realm, client string) (string, *dpopclient.Key) {
	t.Helper()
	key := dpoptest.NewKey()
	g, err := w.keycloak.clientCredentials(realm, client, key)
	require.NoError(t, err)
	return g.AccessToken, key
}

// expect calls an API and compares what it says with want.
func expect(t *testing.T, a *api, c *call, want verdict) caller {
	t.Helper()
	got, who, err := a.call(c)
	require.NoError(t, err)
	if got != want {
		t.Errorf("the API says %+v, want %+v", got, want)
	}
	return who
}

// A proof is good for one request, and the API knows who sent it.
func TestBoundTokenIsAcceptedOnce(t *testing.T) {
	w := setUp(t)
	token, key := w.bound(t, realm, "orders-service")
	req, err := w.orders.request(newCall(token, key))
	require.NoError(t, err)

	got, who, err := w.orders.send(req)
	require.NoError(t, err)
	if got != accepted {
		t.Errorf("the first time, the API says %+v, want %+v", got, accepted)
	}
	want := caller{
		Subject: ordersServiceID, ClientID: "orders-service", Scope: "orders:read",
		JKT: key.JKT(), SenderConstrained: true,
	}
	if who != want {
		t.Errorf("the API takes the client for %+v, want %+v", who, want)
	}

	got, _, err = w.orders.send(req.Clone(t.Context()))
	require.NoError(t, err)
	if want := (verdict{401, "invalid_dpop_proof", "proof_replayed"}); got != want {
		t.Errorf("the same proof again: the API says %+v, want %+v", got, want)
	}

	// It is the proof that is used up, not the token.
	expect(t, w.orders, newCall(token, key), accepted)
}

// What is accepted beside the plainest request.
func TestAccepted(t *testing.T) {
	w := setUp(t)
	token, key := w.bound(t, realm, "orders-service")

	for _, scheme := range []string{"DPoP", "dpop", "DPOP", "dPoP"} {
		for _, field := range []string{"Authorization", "authorization", "AUTHORIZATION"} {
			t.Run(field+" "+scheme, func(t *testing.T) {
				c := newCall(token, key)
				c.field, c.scheme = field, scheme
				expect(t, w.orders, c, accepted)
			})
		}
	}

	t.Run("URL with a query", func(t *testing.T) {
		c := newCall(token, key)
		c.target = "/orders/7?expand=lines&q=%7E"
		expect(t, w.orders, c, accepted)
	})

	t.Run("token of a user, by a public client", func(t *testing.T) {
		g, err := w.keycloak.alice(key)
		require.NoError(t, err)
		who := expect(t, w.orders, newCall(g.AccessToken, key), accepted)
		if who.Subject != aliceID || who.ClientID != "shop-app" {
			t.Errorf("the API takes the client for %+v, want alice and shop-app", who)
		}
	})

	t.Run("unbound token under Bearer, where that is allowed", func(t *testing.T) {
		g, err := w.keycloak.clientCredentials(realm, "legacy-service", nil)
		require.NoError(t, err)
		c := newCall(g.AccessToken, key)
		c.scheme, c.proofs = "Bearer", none
		who := expect(t, w.tolerant, c, accepted)
		if who.SenderConstrained || who.JKT != "" || who.ClientID != "legacy-service" {
			t.Errorf("the API takes the client for %+v, want legacy-service, and not sender-constrained", who)
		}
	})

	t.Run("bound token, where unbound ones are allowed too", func(t *testing.T) {
		if who := expect(t, w.tolerant, newCall(token, key), accepted); !who.SenderConstrained {
			t.Error("the API says that a bound token is not sender-constrained")
		}
	})
}

// Every request here is right but for one thing.
func TestRefused(t *testing.T) {
	w := setUp(t)
	token, key := w.bound(t, realm, "orders-service")
	thief := dpoptest.NewKey()
	billing, billingKey := w.bound(t, realm, "billing-service")
	foreign, foreignKey := w.bound(t, elsewhere, "orders-service")
	unbound, err := w.keycloak.clientCredentials(realm, "legacy-service", nil)
	require.NoError(t, err)
	alice, err := w.keycloak.alice(key)
	require.NoError(t, err)

	// Nothing else is wrong with these: where they belong, they are accepted; and the ID token names the orders API.
	expect(t, w.orders, newCall(token, key), accepted)
	expect(t, w.billing, newCall(billing, billingKey), accepted)
	expect(t, w.foreign, newCall(foreign, foreignKey), accepted)
	_, idToken := decode(t, alice.IDToken)
	require.Contains(t, idToken["aud"], audience)
	require.Equal(t, "ID", idToken["typ"])

	bearer := func(c *call) { c.scheme = "Bearer" }
	bearerAlone := func(c *call) { c.scheme, c.proofs = "Bearer", none }
	as := func(token string, key *dpopclient.Key) func(*call) {
		return func(c *call) { c.token, c.key = token, key }
	}
	claim := func(name string, value any) func(*call) {
		return func(c *call) { c.alter = func(claims map[string]any) { claims[name] = value } }
	}
	for _, test := range []struct {
		name   string
		api    *api
		change func(*call)
		want   verdict
	}{
		{"stolen token, proof by another key", w.orders, as(token, thief), verdict{401, "invalid_token", "key_mismatch"}},
		{"unbound token under DPoP", w.orders, as(unbound.AccessToken, key), verdict{401, "invalid_token", "token_unbound"}},
		{"token of another realm", w.orders, as(foreign, foreignKey), verdict{401, "invalid_token", "token_invalid.issuer"}},
		{"token for another audience", w.orders, as(billing, billingKey), verdict{401, "invalid_token", "token_invalid.audience"}},
		{"ID token", w.orders, as(alice.IDToken, key), verdict{401, "invalid_token", "token_invalid.type"}},

		{"bound token under Bearer", w.orders, bearerAlone, verdict{401, "invalid_token", "bearer_not_allowed"}},
		{"bound token under Bearer, with a proof", w.orders, bearer, verdict{401, "invalid_token", "bearer_not_allowed"}},
		{"bound token under Bearer, unbound ones allowed", w.tolerant, bearerAlone, verdict{401, "invalid_token", "token_bound"}},
		{"the same with a proof", w.tolerant, bearer, verdict{401, "invalid_token", "token_bound"}},

		{"proof for another method", w.orders, claim("htm", "POST"), verdict{401, "invalid_dpop_proof", "htm_mismatch"}},
		{"proof for another URL", w.orders, claim("htu", w.orders.url+"/invoices"), verdict{401, "invalid_dpop_proof", "htu_mismatch"}},
		{"proof for another API", w.orders, claim("htu", w.billing.url+"/orders"), verdict{401, "invalid_dpop_proof", "htu_mismatch"}},
		{"proof for another token", w.orders, claim("ath", ath(billing)), verdict{401, "invalid_dpop_proof", "ath_mismatch"}},
		{"proof without ath", w.orders, func(c *call) { c.alter = func(claims map[string]any) { delete(claims, "ath") } },
			verdict{401, "invalid_dpop_proof", "ath_mismatch.missing"}},
		{"old proof", w.orders, claim("iat", time.Now().Add(-2*time.Minute).Unix()), verdict{401, "invalid_dpop_proof", "proof_too_old"}},
		{"proof from the future", w.orders, claim("iat", time.Now().Add(2*time.Minute).Unix()), verdict{401, "invalid_dpop_proof", "proof_from_future"}},
		{"no proof", w.orders, func(c *call) { c.proofs = none }, verdict{401, "invalid_dpop_proof", "proof_missing"}},
		{"two DPoP lines", w.orders, func(c *call) {
			c.proofs = func(prove func() string) []string { return []string{prove(), prove()} }
		}, verdict{401, "invalid_dpop_proof", "proof_multiple"}},
		{"two proofs in one line", w.orders, func(c *call) {
			c.proofs = func(prove func() string) []string { return []string{prove() + ", " + prove()} }
		}, verdict{401, "invalid_dpop_proof", "proof_multiple"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCall(token, key)
			test.change(c)
			expect(t, test.api, c, test.want)
		})
	}

	// None of that took anything from the holder.
	expect(t, w.orders, newCall(token, key), accepted)
}

// An API may start before its issuer does: it cannot tell who is who until then, and says so.
func TestAPIStartedBeforeKeycloak(t *testing.T) {
	w := setUp(t)
	if want := (verdict{503, "temporarily_unavailable", "unavailable.resolver"}); w.tooEarly != want {
		t.Errorf("before Keycloak was up, the API said %+v, want %+v", w.tooEarly, want)
	}
	token, key := w.bound(t, realm, "orders-service")
	require.Eventually(t, func() bool {
		got, _, err := w.early.call(newCall(token, key))
		return err == nil && got.Status != w.tooEarly.Status
	}, time.Minute, 200*time.Millisecond, "Keycloak is up, and the API still answers as if it were not")
	expect(t, w.early, newCall(token, key), accepted)
}

// What the rest of this project takes for granted about the tokens of this Keycloak.
func TestKeycloaksOwnFacts(t *testing.T) {
	w := setUp(t)
	key := dpoptest.NewKey()
	for _, test := range []struct {
		client    string
		key       *dpopclient.Key
		tokenType string // in the answer, and as typ in the token
		aud       any
	}{
		{"orders-service", key, "DPoP", "orders-api"},
		{"reports-service", key, "DPoP", []any{"billing-api", "orders-api"}},
		{"legacy-service", nil, "Bearer", "orders-api"},
	} {
		t.Run(test.client, func(t *testing.T) {
			g, err := w.keycloak.clientCredentials(realm, test.client, test.key)
			require.NoError(t, err)
			header, claims := decode(t, g.AccessToken)
			if header["typ"] != "JWT" {
				t.Errorf("the header's typ is %v, want JWT, not at+jwt", header["typ"])
			}
			if g.TokenType != test.tokenType || claims["typ"] != test.tokenType {
				t.Errorf("token_type is %v and the payload's typ is %v, want %s", g.TokenType, claims["typ"], test.tokenType)
			}
			if list, ok := claims["aud"].([]any); ok { // in no fixed order
				slices.SortFunc(list, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
			}
			require.Equal(t, test.aud, claims["aud"], "aud")
			if test.key == nil {
				require.NotContains(t, claims, "cnf")
				return
			}
			want := map[string]any{"jkt": key.JKT(), "kc-jkt-type": "DPoP"}
			if cnf, _ := claims["cnf"].(map[string]any); !maps.Equal(cnf, want) {
				t.Errorf("cnf is %v, want %v: a member that RFC 9449 does not know, beside jkt", cnf, want)
			}
			expect(t, w.orders, newCall(g.AccessToken, key), accepted)
		})
	}
}

// ath returns the hash of a token, as a proof for it has.
func ath(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// none is for a call without a proof.
func none(func() string) []string { return nil }

// decode returns the header and the claims of a JWT, unverified.
func decode(t *testing.T, token string) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("the token has %d parts, and a JWT has 3", len(parts))
	}
	for i, v := range []*map[string]any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, v))
	}
	return header, claims
}
