//go:build integration

package integration

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/introspect"
	"github.com/senderbound/senderbound/replay/redisstore"
)

// told is what a resolver tells of a token, but for all its claims.
type told struct {
	Issuer, Subject, ClientID, Scope string
	Audience                         string // sorted: Keycloak has no order
	Expiry                           time.Time
	Confirmation                     dpop.Confirmation
}

// resolve asks a resolver about a token.
func resolve(t *testing.T, r dpop.TokenResolver, token string) (told, dpop.Reason) {
	t.Helper()
	got, err := r.ResolveToken(t.Context(), token)
	if err != nil {
		var reason dpop.Reason
		if !errors.As(err, &reason) {
			t.Errorf("the resolver cannot tell: %v", err)
		}
		return told{}, reason
	}
	audience := strings.Join(slices.Sorted(slices.Values(got.Audience)), " ")
	return told{got.Issuer, got.Subject, got.ClientID, got.Scope, audience, got.Expiry.UTC(), got.Confirmation}, ""
}

// R031, R102: local validation and introspection say the same of every kind of token that a realm issues. Where they cannot,
// it says why.
func TestVerdictsAgree(t *testing.T) {
	w := setUp(t)
	key := dpoptest.NewKey()
	own := func(client string, key *dpopclient.Key) func(t *testing.T) string {
		return func(t *testing.T) string {
			g, err := w.keycloak.clientCredentials(introspected, client, key)
			require.NoError(t, err)
			return g.AccessToken
		}
	}
	bob := func(client string, pick func(grant) string) func(t *testing.T) string {
		return func(t *testing.T) string { return pick(w.keycloak.bob(t, client, key)) }
	}
	accessToken := func(g grant) string { return g.AccessToken }
	for name, test := range map[string]struct {
		issue    func(t *testing.T) string
		alg, typ string // of the token's header; RS256 and JWT if they are not set
		unbound  bool

		// Why a token is refused, or "".
		local, asked dpop.Reason
		// lacks is a claim that the token does not have and the authorization server tells.
		lacks string
	}{
		"RS256, JWT":                            {issue: own("rs256", key)},
		"ES256, JWT":                            {issue: own("es256", key), alg: "ES256"},
		"RS256, at+jwt":                         {issue: own("rs256-at-jwt", key), typ: "at+jwt"},
		"ES256, at+jwt":                         {issue: own("es256-at-jwt", key), alg: "ES256", typ: "at+jwt"},
		"bound because the client sent a proof": {issue: own("unbound", key)},
		"unbound":                               {issue: own("unbound", nil), unbound: true},
		"a user's":                              {issue: bob("shop", accessToken)},
		"lightweight":                           {issue: own("lightweight", key)},

		// These need introspection: what they lack is never optional, or only if AllowMissingClaims says so.
		"lightweight, without aud":      {issue: own("featherweight", key), local: dpop.ErrTokenMalformed, lacks: "aud"},
		"lightweight, a user's: no sub": {issue: bob("kiosk", accessToken), local: dpop.ErrTokenMalformed, lacks: "sub"},

		// Keycloak 26.7 answers active:false to who is not in aud, and so gives no finer reason.
		"for another API": {issue: own("billing", key), local: dpop.ErrTokenAudience, asked: dpop.ErrTokenInvalid},
		// It answers active:true, and the type ID.
		"an ID token": {issue: bob("shop", func(g grant) string { return g.IDToken }),
			local: dpop.ErrTokenType, asked: dpop.ErrTokenType},
		"a refresh token": {issue: bob("shop", func(g grant) string { return g.RefreshToken }), alg: "HS512",
			local: dpop.ErrTokenSignature, asked: dpop.ErrTokenInvalid},
		"changed on its way": {issue: func(t *testing.T) string { return withSubject(t, own("rs256", key)(t), bobID) },
			local: dpop.ErrTokenSignature, asked: dpop.ErrTokenInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			token := test.issue(t)
			header, claims := decode(t, token)
			if alg, typ := cmp.Or(test.alg, "RS256"), cmp.Or(test.typ, "JWT"); header["alg"] != alg || header["typ"] != typ {
				t.Errorf("control: the token's header has %v and %v, want %s and %s", header["alg"], header["typ"], alg, typ)
			}
			if test.lacks != "" {
				require.NotContains(t, claims, test.lacks, "control")
			}
			validating := newValidator(t, w, nil)
			discovered := newAsker(t, w, nil)
			given := newAsker(t, w, func(cfg *introspect.Config) {
				cfg.Issuer, cfg.Endpoint = "", w.keycloak.introspectionEndpoint(introspected)
			})

			local, reason := resolve(t, validating.Resolver, token)
			if reason != test.local {
				t.Errorf("validated locally, it is refused for %q, want %q", reason, test.local)
			}
			asked, reason := resolve(t, discovered.Resolver, token)
			if reason != test.asked {
				t.Errorf("introspected, it is refused for %q, want %q", reason, test.asked)
			}
			if again, why := resolve(t, given.Resolver, token); again != asked || why != reason {
				t.Errorf("an endpoint that is given tells %+v, %q, and one that is discovered %+v, %q", again, why, asked, reason)
			}
			if test.asked != "" {
				return
			}
			if (asked.Confirmation.JKT == "") != test.unbound || !test.unbound && asked.Confirmation.JKT != key.JKT() {
				t.Errorf("the token is bound to %q", asked.Confirmation.JKT)
			}
			if test.local == "" && local != asked {
				t.Errorf("local validation tells\n%+v, and introspection\n%+v", local, asked)
			}
			if test.lacks == "sub" {
				lax := newValidator(t, w, func(cfg *atjwt.Config) { cfg.AllowMissingClaims = []string{"sub"} })
				local, reason = resolve(t, lax.Resolver, token)
				if asked.Subject != bobID || reason != "" || local.Subject != "" {
					t.Errorf("the subject is %q by introspection and %q (%q) where sub may be missing, want bob and none",
						asked.Subject, local.Subject, reason)
				}
			}

			// exp has the last word, whatever the server says of the token.
			for _, end := range []struct {
				at   time.Time
				want dpop.Reason
			}{{asked.Expiry.Add(-30 * time.Second), ""}, {asked.Expiry, dpop.ErrTokenExpired}} {
				validating.clock.setTo(end.at)
				discovered.clock.setTo(end.at)
				if _, reason := resolve(t, discovered.Resolver, token); reason != end.want {
					t.Errorf("R102: at exp%v, introspection refuses it for %q, want %q", end.at.Sub(asked.Expiry), reason, end.want)
				}
				if _, reason := resolve(t, validating.Resolver, token); test.local == "" && reason != end.want {
					t.Errorf("at exp%v, local validation refuses it for %q, want %q", end.at.Sub(asked.Expiry), reason, end.want)
				}
			}
		})
	}

	t.Run("for another API, by who does not look at aud", func(t *testing.T) {
		careless := newAsker(t, w, func(cfg *introspect.Config) { cfg.Audience, cfg.AllowAnyAudience = "", true })
		token := own("billing", key)(t)
		careless.expect(t, token, key, inactive, "Keycloak knows who asks")
		billing := newAsker(t, w, func(cfg *introspect.Config) {
			cfg.Audience, cfg.Authenticate = "billing-api", introspect.BasicAuth("billing-api", "billing-api-secret")
		})
		billing.expect(t, token, key, accepted, "control: at the other API")

		// Who asks, and who the token should be meant for, need not be the same.
		strict := newAsker(t, w, func(cfg *introspect.Config) { cfg.Audience = "billing-api" })
		strict.expect(t, own("rs256", key)(t), key, badToken("token_invalid.audience"), "R102: aud of the answer")
	})

	// Under Bearer nothing else would keep an ID token from passing as an access token.
	t.Run("an ID token, where unbound tokens are taken", func(t *testing.T) {
		a := newAsker(t, w, nil)
		token := w.keycloak.bob(t, "shop", key).IDToken
		a.expect(t, token, nil, badToken("token_invalid.type"), "an ID token")
		if a.answered(t, "active") != true || a.answered(t, "token_type") != "ID" {
			t.Errorf("control: Keycloak says that it is of the type %v, and active:%v", a.answered(t, "token_type"),
				a.answered(t, "active"))
		}
		a.expect(t, own("unbound", nil)(t), nil, accepted, "control: an unbound access token")
	})
}

// withSubject returns a token that differs from another only in its subject, and so is a forgery.
func withSubject(t *testing.T, token, subject string) string {
	t.Helper()
	_, claims := decode(t, token)
	claims["sub"] = subject
	payload, err := json.Marshal(claims)
	require.NoError(t, err)
	parts := strings.Split(token, ".")
	parts[1] = base64.RawURLEncoding.EncodeToString(payload)
	return strings.Join(parts, ".")
}

// R100: Keycloak takes each way in which a client with a secret or a key authenticates here. A resource that it does not
// take cannot tell, and no token is called invalid for that.
func TestIntrospectionAuthentication(t *testing.T) {
	w := setUp(t)
	key := dpoptest.NewKey()
	g, err := w.keycloak.clientCredentials(introspected, "rs256", key)
	require.NoError(t, err)
	token := g.AccessToken

	signers := map[string]crypto.Signer{"ES256": dpoptest.NewKey().Signer()}
	signers["PS256"], err = rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	_, signers["EdDSA"], err = ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	for alg, signer := range signers {
		public, err := dpopclient.NewKey(signer)
		require.NoError(t, err)
		jwk := map[string]string{}
		require.NoError(t, json.Unmarshal(public.PublicJWK(), &jwk))
		jwk["kid"], jwk["alg"], jwk["use"] = alg, alg, "sig"
		set.Keys = append(set.Keys, jwk)
	}
	jwks, err := json.Marshal(set)
	require.NoError(t, err)
	w.keycloak.changeAttribute(t, "orders-signed", "use.jwks.string", "true")
	w.keycloak.changeAttribute(t, "orders-signed", "jwks.string", string(jwks))
	signed := func(signer crypto.Signer, kid, audience string) func(*http.Request, url.Values) error {
		authenticate, err := introspect.PrivateKeyJWT("orders-signed", audience, signer, kid)
		require.NoError(t, err)
		return authenticate
	}
	issuer, endpoint := w.keycloak.issuer(introspected), w.keycloak.introspectionEndpoint(introspected)
	tokenEndpoint := w.keycloak.tokenEndpoint(introspected)
	const wrong = "a-secret-that-is-wrong"

	for name, test := range map[string]struct {
		authenticate func(*http.Request, url.Values) error
		ok           bool
	}{
		"client_secret_basic":                            {introspect.BasicAuth("orders-api", "orders-api-secret"), true},
		"client_secret_post":                             {introspect.ClientSecretPost("orders-api", "orders-api-secret"), true},
		"private_key_jwt, ES256, for the issuer":         {signed(signers["ES256"], "ES256", issuer), true},
		"private_key_jwt, PS256, for the issuer":         {signed(signers["PS256"], "PS256", issuer), true},
		"private_key_jwt, EdDSA, for the issuer":         {signed(signers["EdDSA"], "EdDSA", issuer), true},
		"private_key_jwt, ES256, for the token endpoint": {signed(signers["ES256"], "ES256", tokenEndpoint), true},
		"private_key_jwt, ES256, for the endpoint":       {signed(signers["ES256"], "ES256", endpoint), true},

		"wrong secret, basic":              {introspect.BasicAuth("orders-api", wrong), false},
		"wrong secret, post":               {introspect.ClientSecretPost("orders-api", wrong), false},
		"unknown client":                   {introspect.BasicAuth("nobody", wrong), false},
		"public client":                    {introspect.ClientSecretPost("shop", wrong), false},
		"client that signs, with a secret": {introspect.BasicAuth("orders-signed", wrong), false},
		"key that is not registered":       {signed(dpoptest.NewKey().Signer(), "ES256", issuer), false},
		"assertion for another server":     {signed(signers["ES256"], "ES256", w.keycloak.issuer(elsewhere)), false},
	} {
		t.Run(name, func(t *testing.T) {
			for where, change := range map[string]func(*introspect.Config){
				"discovered": func(*introspect.Config) {},
				"given":      func(cfg *introspect.Config) { cfg.Endpoint = endpoint },
			} {
				var sent url.Values
				var field string
				a := newAsker(t, w, func(cfg *introspect.Config) {
					change(cfg)
					cfg.Authenticate = func(req *http.Request, form url.Values) error {
						err := test.authenticate(req, form)
						sent, field = form, req.Header.Get("Authorization")
						return err
					}
				})
				_, err := a.ResolveToken(t.Context(), token)
				if test.ok != (err == nil) || errors.Is(err, dpop.ErrTokenInvalid) {
					t.Errorf("endpoint %s: the error is %v", where, err)
				}
				if test.ok {
					a.expect(t, token, key, accepted, where)
					continue
				}
				a.expect(t, token, key, unknown, where)
				hides(t, "the error", err.Error(), token, wrong, strings.TrimPrefix(field, "Basic "), sent.Get("client_assertion"))
			}
		})
	}

	// RFC 6749 §2.3.1 encodes a secret before it is put into the Authorization field.
	t.Run("secret of any characters", func(t *testing.T) {
		const odd = "a+b c%41:/=&ü€"
		w.keycloak.change(t, w.keycloak.client(t, "orders-api"), "secret", odd)
		for name, authenticate := range map[string]func(*http.Request, url.Values) error{
			"basic": introspect.BasicAuth("orders-api", odd), "post": introspect.ClientSecretPost("orders-api", odd),
		} {
			a := newAsker(t, w, func(cfg *introspect.Config) { cfg.Authenticate = authenticate })
			a.expect(t, token, key, accepted, name)
		}
		newAsker(t, w, nil).expect(t, token, key, unknown, "control: with the secret that it had before")
	})

	t.Run("in a process, with a wrong secret", func(t *testing.T) {
		a := startIntrospecting(t, w, endpoint, wrong)
		expect(t, a, newCall(token, key), unknown)
		log, err := a.log(0)
		require.NoError(t, err)
		if !strings.Contains(string(log), "correct the credentials") {
			t.Errorf("the log does not say what to change:\n%s", log)
		}
		hides(t, "the log", string(log), token, wrong, base64.StdEncoding.EncodeToString([]byte("orders-api:"+wrong)))
	})
}

// D19: Keycloak puts a JWT of the token into answers, if it is asked to, and even into those that say active:false. It
// means nothing then.
func TestInactiveWithJWT(t *testing.T) {
	w := setUp(t)
	key := dpoptest.NewKey()
	g, err := w.keycloak.clientCredentials(introspected, "rs256", key)
	require.NoError(t, err)
	for client, want := range map[string]verdict{"orders-jwt": accepted, "billing-api": inactive} {
		t.Run(client, func(t *testing.T) {
			a := newAsker(t, w, func(cfg *introspect.Config) {
				cfg.Authenticate = introspect.BasicAuth(client, client+"-secret")
			})
			a.accept = "application/jwt"
			a.expect(t, g.AccessToken, key, want, client)
			inside, _ := a.answered(t, "jwt").(string)
			if active := a.answered(t, "active"); active != (want == accepted) || inside == "" {
				t.Fatalf("control: Keycloak says active:%v, with a JWT of %d bytes", active, len(inside))
			}
			newValidator(t, w, nil).expect(t, inside, key, accepted, "control: who looks at the JWT alone")
		})
	}
}

// R171: the whole way of a request where tokens are introspected and the memory of used proofs is shared: introspection, the
// key that the token is bound to, the proof's thumbprint, its jti in the store; and 401 where one of them does not fit.
func TestGatewayFlow(t *testing.T) {
	w := setUp(t)
	endpoint := w.keycloak.introspectionEndpoint(introspected)
	for name, start := range map[string]func(t *testing.T) (replay string){
		"Redis": func(t *testing.T) string {
			addr := startRedis(t).addr
			age(t, redisstore.Config{Addresses: []string{addr}})
			return "redis://" + addr
		},
		"Infinispan": func(t *testing.T) string {
			addr := startUnclustered(t).respAddr(replayCache)
			age(t, redisstore.Config{
				Infinispan: true, Addresses: []string{addr}, Username: infinispanUser, Password: infinispanPassword,
			})
			t.Setenv("REPLAY_USER", infinispanUser)
			t.Setenv("REPLAY_PASSWORD", infinispanPassword)
			return "infinispan://" + addr
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := start(t)
			// Two processes of one API: clients address both by the name of the first.
			first := startIntrospecting(t, w, endpoint, "orders-api-secret", "-replay", store)
			second := startIntrospecting(t, w, endpoint, "orders-api-secret", "-replay", store, "-origin", first.url)
			alone := startIntrospecting(t, w, endpoint, "orders-api-secret", "-origin", first.url)
			key, thief := dpoptest.NewKey(), dpoptest.NewKey()
			token := w.keycloak.bob(t, "shop", key).AccessToken
			issue := func(realm, client string, key *dpopclient.Key) string {
				g, err := w.keycloak.clientCredentials(realm, client, key)
				require.NoError(t, err)
				return g.AccessToken
			}
			revoked := w.keycloak.bob(t, "shop", key).AccessToken
			expect(t, first, newCall(revoked, key), accepted)
			w.keycloak.revoke(t, revoked, url.Values{"client_id": {"shop"}})

			req, err := first.request(newCall(token, key))
			require.NoError(t, err)
			want := caller{Subject: bobID, ClientID: "shop", Scope: "openid orders:read", JKT: key.JKT(), SenderConstrained: true}
			for _, step := range []struct {
				what string
				at   *api
				want verdict
			}{
				{"a right request", first, accepted},
				{"the same proof", first, badProof("proof_replayed")},
				{"the same proof at another process", second, badProof("proof_replayed")},
				{"control: the same at a process that does not share the store", alone, accepted},
			} {
				at, err := url.Parse(step.at.url)
				require.NoError(t, err)
				again := req.Clone(t.Context())
				again.URL.Host = at.Host
				got, who, err := step.at.send(again)
				require.NoError(t, err)
				if got != step.want || got == accepted && who != want {
					t.Errorf("%s: the API says %+v of %+v, want %+v", step.what, got, who, step.want)
				}
			}

			claim := func(name string, value any) func(*call) {
				return func(c *call) { c.alter = func(claims map[string]any) { claims[name] = value } }
			}
			as := func(token string, key *dpopclient.Key) func(*call) {
				return func(c *call) { c.token, c.key = token, key }
			}
			for name, test := range map[string]struct {
				change func(*call)
				want   verdict
			}{
				"proof by another key":      {as(token, thief), badToken("key_mismatch")},
				"proof for another method":  {claim("htm", "POST"), badProof("htm_mismatch")},
				"proof for another URL":     {claim("htu", second.url+"/orders"), badProof("htu_mismatch")},
				"proof for another token":   {claim("ath", ath(revoked)), badProof("ath_mismatch")},
				"old proof":                 {claim("iat", time.Now().Add(-2*time.Minute).Unix()), badProof("proof_too_old")},
				"no proof":                  {func(c *call) { c.proofs = none }, badProof("proof_missing")},
				"bound token under Bearer":  {func(c *call) { c.scheme, c.proofs = "Bearer", none }, badToken("bearer_not_allowed")},
				"revoked token":             {as(revoked, key), inactive},
				"unbound token":             {as(issue(introspected, "unbound", nil), key), badToken("token_unbound")},
				"token for another API":     {as(issue(introspected, "billing", key), key), inactive},
				"token of another realm":    {as(issue(elsewhere, "orders-service", key), key), inactive},
				"token that is a forgery":   {as(withSubject(t, token, aliceID), key), inactive},
				"token that is none at all": {as("none-at-all", key), inactive},
			} {
				t.Run(name, func(t *testing.T) {
					c := newCall(token, key)
					test.change(c)
					expect(t, first, c, test.want)
				})
			}
			for _, a := range []*api{first, second} {
				log, err := a.log(0)
				require.NoError(t, err)
				hides(t, "the log", string(log), token, revoked, "orders-api-secret", infinispanPassword)
			}

			// None of that took anything from the holder.
			expect(t, first, newCall(token, key), accepted)
		})
	}
}

// cacheTTL is that of resolvers here that have a cache.
const cacheTTL = time.Minute

func withCache(cfg *introspect.Config) { cfg.CacheTTL = cacheTTL }

// R103, R171, D20: what becomes of a token that Keycloak does not accept any more. Introspection refuses it at once, with a
// cache within its TTL. Local validation believes it until exp: that is its price.
func TestRevocation(t *testing.T) {
	w := setUp(t)
	key := dpoptest.NewKey()
	shop := func() url.Values { return url.Values{"client_id": {"shop"}} }
	for name, revoke := range map[string]func(t *testing.T, g grant, claims map[string]any){
		"token revoked": func(t *testing.T, g grant, _ map[string]any) {
			w.keycloak.revoke(t, g.AccessToken, shop())
		},
		"refresh token revoked": func(t *testing.T, g grant, _ map[string]any) {
			w.keycloak.revoke(t, g.RefreshToken, shop())
		},
		"session ended": func(t *testing.T, _ grant, claims map[string]any) {
			require.NoError(t, w.keycloak.admin("DELETE", introspected, "/sessions/"+claims["sid"].(string), nil, nil))
		},
		"user logged out": func(t *testing.T, _ grant, _ map[string]any) {
			require.NoError(t, w.keycloak.admin("POST", introspected, "/users/"+bobID+"/logout", nil, nil))
		},
		"user disabled": func(t *testing.T, _ grant, _ map[string]any) {
			w.keycloak.change(t, "/users/"+bobID, "enabled", false)
		},
		"notBefore": func(t *testing.T, _ grant, claims map[string]any) {
			w.keycloak.change(t, "", "notBefore", claims["iat"].(float64)+1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			validating, caching := newValidator(t, w, nil), newAsker(t, w, withCache)
			asking, authority := newAsker(t, w, nil), newAsker(t, w, nil)
			both, err := dpop.Recheck(validating.Resolver, authority.Resolver)
			require.NoError(t, err)
			rechecking := newGate(t, both)
			g := w.keycloak.bob(t, "shop", key)
			token := g.AccessToken
			_, claims := decode(t, token)
			for name, gate := range map[string]gate{
				"local": validating.gate, "asking": asking.gate, "caching": caching.gate, "rechecking": rechecking,
			} {
				gate.expect(t, token, key, accepted, "before, "+name)
			}

			revoke(t, g, claims)

			asking.expect(t, token, key, inactive, "R171: introspection without a cache")
			rechecking.expect(t, token, key, inactive, "R171: local validation, rechecked")
			caching.expect(t, token, key, accepted, "the price of a cache: before its TTL is over")
			caching.clock.set(cacheTTL)
			caching.expect(t, token, key, inactive, "R103, D20: when the TTL is over")

			validating.expect(t, token, key, accepted, "the price of local validation")
			exp := time.Unix(int64(claims["exp"].(float64)), 0)
			validating.clock.setTo(exp.Add(-30 * time.Second))
			if _, reason := resolve(t, validating.Resolver, token); reason != "" {
				t.Errorf("the price of local validation: 30 s before exp, the token is refused for %q", reason)
			}
			validating.clock.setTo(exp)
			if _, reason := resolve(t, validating.Resolver, token); reason != dpop.ErrTokenExpired {
				t.Errorf("at exp, local validation refuses the token for %q, want %q", reason, dpop.ErrTokenExpired)
			}
		})
	}
}

// D20: who is told of a logout need not wait for the TTL: Keycloak posts a logout token to a client's back-channel logout
// URL, and Purge forgets the tokens of that session.
func TestBackchannelLogout(t *testing.T) {
	w := setUp(t)
	purged, kept := newAsker(t, w, withCache), newAsker(t, w, withCache)
	key := dpoptest.NewKey()
	ended, other := w.keycloak.bob(t, "shop", key).AccessToken, w.keycloak.bob(t, "shop", key).AccessToken

	// A logout token is a JWT for the client whose session it was (OpenID Connect Back-Channel Logout 1.0 §2.4).
	logouts, err := atjwt.NewResolver(t.Context(), atjwt.Config{
		Issuer: w.keycloak.issuer(introspected), Audience: "shop",
		AllowHeaderTypes: []string{"logout+jwt"}, PayloadTypes: []string{"Logout"}, AllowMissingClaims: []string{"client_id"},
	})
	require.NoError(t, err)
	arrived := make(chan error, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		token, err := logouts.ResolveToken(r.Context(), r.PostFormValue("logout_token"))
		var logout struct {
			Sid    string
			Events map[string]json.RawMessage
		}
		if err == nil {
			err = token.Claims(&logout)
		}
		if _, ok := logout.Events["http://schemas.openid.net/event/backchannel-logout"]; err == nil && (!ok || logout.Sid == "") {
			err = errors.New("the logout token names no session, or no event")
		}
		if err == nil {
			purged.Purge(func(t *dpop.Token) bool {
				var session struct{ Sid string }
				return t.Claims(&session) == nil && session.Sid == logout.Sid
			})
		}
		arrived <- err
	}))
	t.Cleanup(server.Close)
	w.keycloak.changeAttribute(t, "shop", "backchannel.logout.session.required", "true")
	w.keycloak.changeAttribute(t, "shop", "backchannel.logout.url", server.URL)

	for _, token := range []string{ended, other} {
		purged.expect(t, token, key, accepted, "before the logout")
		kept.expect(t, token, key, accepted, "before the logout")
	}
	_, claims := decode(t, ended)
	require.NoError(t, w.keycloak.admin("DELETE", introspected, "/sessions/"+claims["sid"].(string), nil, nil))
	select {
	case err := <-arrived:
		require.NoError(t, err)
	case <-time.After(patience):
		t.Fatal("Keycloak posts no logout token")
	}

	purged.expect(t, ended, key, inactive, "D20: after Purge")
	kept.expect(t, ended, key, accepted, "control: without Purge")
	purged.expect(t, other, key, accepted, "another session of the same user")
	if calls := purged.calls.Load(); calls != 3 {
		t.Errorf("Keycloak was asked %d times, want 3: once for each token, and once more for the one that was purged", calls)
	}

	kept.Revoke(ended)
	kept.expect(t, ended, key, inactive, "D20: after Revoke")
}

// R171: while Keycloak is gone, local validation goes on. Introspection says that it cannot tell, never that the token is
// invalid, and goes on only with what its cache has, if there is one, until the TTL is over.
func TestKeycloakGone(t *testing.T) {
	w := setUp(t)
	key := dpoptest.NewKey()
	orders, ordersKey := w.bound(t, realm, "orders-service")
	for name, outage := range map[string]struct{ begin, end func(*testing.T, *relay) }{
		"nobody listens": {
			func(_ *testing.T, r *relay) { r.stop() },
			func(t *testing.T, r *relay) { r.start(t) },
		},
		"nobody answers": {
			func(t *testing.T, _ *relay) { w.keycloak.halt(t) },
			func(t *testing.T, _ *relay) { w.keycloak.resume(t) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			link := startRelay(t, w.keycloak)
			through := func(url string) string { return strings.Replace(url, w.keycloak.url, link.url, 1) }
			at := through(w.keycloak.introspectionEndpoint(introspected))
			behind := func(cfg *introspect.Config) { cfg.Endpoint, cfg.Timeout = at, aFetch }
			var failures atomic.Int64 // of fetching keys
			validating := newValidator(t, w, func(cfg *atjwt.Config) {
				cfg.JWKSURI = through(w.keycloak.jwksURI(introspected))
				cfg.RefreshInterval, cfg.MinRefreshInterval = time.Second, time.Second
				cfg.HTTPClient = &http.Client{Timeout: aFetch, Transport: counting(func(req *http.Request) (*http.Response, error) {
					resp, err := http.DefaultTransport.RoundTrip(req)
					if err != nil {
						failures.Add(1)
					}
					return resp, err
				})}
			})
			asking, authority := newAsker(t, w, behind), newAsker(t, w, behind)
			caching := newAsker(t, w, func(cfg *introspect.Config) { behind(cfg); withCache(cfg) })
			both, err := dpop.Recheck(validating.Resolver, authority.Resolver)
			require.NoError(t, err)
			rechecking := newGate(t, both)
			process := startIntrospecting(t, w, at, "orders-api-secret")
			seen, unseen := w.keycloak.bob(t, "shop", key).AccessToken, w.keycloak.bob(t, "shop", key).AccessToken
			gates := map[string]gate{
				"local": validating.gate, "asking": asking.gate, "caching": caching.gate, "rechecking": rechecking,
			}
			for name, gate := range gates {
				gate.expect(t, seen, key, accepted, "before, "+name)
			}
			expect(t, process, newCall(seen, key), accepted)
			expect(t, w.orders, newCall(orders, ordersKey), accepted)

			outage.begin(t, link)
			var wg sync.WaitGroup // those that wait for an answer do so at the same time
			for _, test := range []struct {
				name, token string
				gate        gate
				want        verdict
			}{
				{"local validation", seen, validating.gate, accepted},
				{"local validation of a new token", unseen, validating.gate, accepted},
				{"introspection", seen, asking.gate, unknown},
				{"introspection of a new token", unseen, asking.gate, unknown},
				{"introspection of no token", "none-at-all", asking.gate, unknown},
				{"local validation, rechecked", seen, rechecking, unknown},
				{"introspection with a cache", seen, caching.gate, accepted},
				{"introspection with a cache, of a new token", unseen, caching.gate, unknown},
			} {
				wg.Go(func() { test.gate.expect(t, test.token, key, test.want, "while Keycloak is gone, "+test.name) })
			}
			expect(t, process, newCall(seen, key), unknown)
			expect(t, w.orders, newCall(orders, ordersKey), accepted)
			wg.Wait()
			caching.clock.set(cacheTTL)
			caching.expect(t, seen, key, unknown, "D20: while Keycloak is gone, when the TTL is over")
			require.Eventually(t, func() bool { return failures.Load() > 0 }, patience, tick,
				"control: local validation never fetches keys in vain")
			validating.expect(t, seen, key, accepted, "when the keys could not be fetched again")

			outage.end(t, link)
			ended := time.Now()
			require.Eventually(t, func() bool {
				_, err := authority.ResolveToken(t.Context(), seen)
				return err == nil
			}, patience, tick, "Keycloak is back, and introspection still cannot tell")
			t.Logf("back %v after Keycloak", time.Since(ended))
			for name, gate := range gates {
				gate.expect(t, seen, key, accepted, "when Keycloak is back, "+name)
				gate.expect(t, unseen, key, accepted, "when Keycloak is back, "+name)
			}
			expect(t, process, newCall(seen, key), accepted)
		})
	}

	t.Run("started meanwhile", func(t *testing.T) {
		a := newAsker(t, w, func(cfg *introspect.Config) { cfg.Timeout = aFetch })
		token := w.keycloak.bob(t, "shop", key).AccessToken
		w.keycloak.halt(t)
		a.expect(t, token, key, unknown, "an endpoint that is to be discovered")
		w.keycloak.resume(t)
		require.Eventually(t, func() bool {
			_, err := a.ResolveToken(t.Context(), token)
			return err == nil
		}, patience, tick, "Keycloak is back, and its endpoint is not discovered")
	})
}

// D24: several issuers, each with its resolver and its audience. A token is judged by its issuer's resolver, and by no other
// one.
func TestIssuers(t *testing.T) {
	w := setUp(t)
	key := dpoptest.NewKey()
	issue := func(realm, client string) string {
		g, err := w.keycloak.clientCredentials(realm, client, key)
		require.NoError(t, err)
		return g.AccessToken
	}
	hostile := dpoptest.NewIssuer() // whose resolver says yes to all
	defer hostile.Close()
	stranger := dpoptest.NewIssuer()
	defer stranger.Close()

	var asked []string
	counted := func(name string, r dpop.TokenResolver) dpop.TokenResolver {
		return dpop.TokenResolverFunc(func(ctx context.Context, token string) (*dpop.Token, error) {
			asked = append(asked, name)
			return r.ResolveToken(ctx, token)
		})
	}
	billing := atjwt.Keycloak(w.keycloak.issuer(realm), "billing-api")
	billing.MinRefreshInterval = minRefreshInterval // for the token by a key that is not known
	validating, err := atjwt.NewResolver(t.Context(), billing)
	require.NoError(t, err)
	asking := newAsker(t, w, nil)
	opaque := newAsker(t, w, nil)
	careless := dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) {
		return &dpop.Token{Issuer: hostile.URL, Subject: "admin", Confirmation: dpop.Confirmation{JKT: key.JKT()}}, nil
	})
	all := map[string]dpop.TokenResolver{
		w.keycloak.issuer(realm):        counted("validating", validating),
		w.keycloak.issuer(introspected): counted("asking", asking.Resolver),
		hostile.URL:                     counted("careless", careless),
	}
	resolver, err := dpop.ByIssuer(all, counted("opaque", opaque.Resolver))
	require.NoError(t, err)
	api := newGate(t, resolver)
	naive := newGate(t, dpop.TokenResolverFunc(func(ctx context.Context, token string) (*dpop.Token, error) {
		var refusal error
		for _, r := range all {
			t, err := r.ResolveToken(ctx, token)
			if err == nil {
				return t, nil
			}
			refusal = err
		}
		return nil, refusal
	}))

	audiences := []string{audience, "billing-api"} // right everywhere, as is all else
	as := func(issuer string) map[string]any {
		return map[string]any{"iss": issuer, "aud": audiences, "typ": "DPoP", "azp": "admin"}
	}
	unknownIssuer, forged := badToken("token_invalid.issuer"), badToken("token_invalid.signature")
	for name, test := range map[string]struct {
		token string
		want  verdict
		asked string // the only resolver that is, or ""
	}{
		"of the realm that is validated":  {issue(realm, "billing-service"), accepted, "validating"},
		"of the realm that is asked":      {issue(introspected, "rs256"), accepted, "asking"},
		"for the other realm's audience":  {issue(realm, "orders-service"), badToken("token_invalid.audience"), "validating"},
		"for the other one's audience":    {issue(introspected, "billing"), inactive, "asking"},
		"of a third realm":                {issue(elsewhere, "orders-service"), unknownIssuer, ""},
		"of a stranger":                   {stranger.Token("", key.JKT(), as(stranger.URL)), unknownIssuer, ""},
		"of no issuer":                    {stranger.Token("", key.JKT(), map[string]any{"iss": nil}), unknownIssuer, ""},
		"that says the realm validated":   {hostile.Token("", key.JKT(), as(w.keycloak.issuer(realm))), forged, "validating"},
		"that says the realm asked":       {hostile.Token("", key.JKT(), as(w.keycloak.issuer(introspected))), inactive, "asking"},
		"that is no JWT":                  {"none-at-all", inactive, "opaque"},
		"that is no JWT and has two dots": {"none.at.all", inactive, "opaque"},
		"of the careless one":             {hostile.Token("", key.JKT(), as(hostile.URL)), accepted, "careless"},
	} {
		t.Run(name, func(t *testing.T) {
			asked = nil
			calls := opaque.calls.Load()
			api.expect(t, test.token, key, test.want, "D24")
			if got := strings.Join(asked, ", "); got != test.asked {
				t.Errorf("D24: the resolvers %q are asked, want %q", got, test.asked)
			}
			if called := opaque.calls.Load() > calls; called != (test.asked == "opaque") {
				t.Errorf("D24: the server for opaque tokens is called: %v", called)
			}
			naive.expect(t, test.token, key, accepted, "control: trying one resolver after the other")
		})
	}

	t.Run("with a cache", func(t *testing.T) {
		caching := newAsker(t, w, withCache)
		resolver, err := dpop.ByIssuer(map[string]dpop.TokenResolver{
			w.keycloak.issuer(realm): validating, w.keycloak.issuer(introspected): caching.Resolver,
		}, nil)
		require.NoError(t, err)
		api := newGate(t, resolver)
		token := w.keycloak.bob(t, "shop", key).AccessToken
		for range 3 {
			api.expect(t, token, key, accepted, "D20: a token of the realm that is asked")
			api.expect(t, issue(realm, "billing-service"), key, accepted, "D20: a token of the realm that is validated")
		}
		if calls := caching.calls.Load(); calls != 1 {
			t.Errorf("D20: Keycloak was asked %d times about one token, want 1", calls)
		}
		w.keycloak.revoke(t, token, url.Values{"client_id": {"shop"}})
		api.expect(t, token, key, accepted, "control: before Purge")
		caching.Purge(nil)
		api.expect(t, token, key, inactive, "D20: after Purge")
	})
}
