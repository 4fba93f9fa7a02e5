package atjwt_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
)

const (
	issuerURL = "https://id.example.com/realms/demo"
	audience  = "https://api.example.com"

	oauthPath  = "/.well-known/oauth-authorization-server/realms/demo"
	openIDPath = "/realms/demo/.well-known/openid-configuration"
	jwksPath   = "/realms/demo/certs"
)

// The keys of the tests. They are made once, since RSA keys take long.
var (
	ecKey    = sync.OnceValue(func() crypto.Signer { return generate(elliptic.P256()) })
	otherKey = sync.OnceValue(func() crypto.Signer { return generate(elliptic.P256()) })
	p384Key  = sync.OnceValue(func() crypto.Signer { return generate(elliptic.P384()) })
	rsaKey   = sync.OnceValue(func() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	edKey    = sync.OnceValue(func() crypto.Signer {
		return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	})
)

func generate(curve elliptic.Curve) crypto.Signer { return must(ecdsa.GenerateKey(curve, rand.Reader)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// members are a JOSE header, a JWK, or claims.
type members map[string]any

// with returns m with changes made; a nil value removes a member.
func (m members) with(changes members) members {
	m = maps.Clone(m)
	for name, value := range changes {
		if m[name] = value; value == nil {
			delete(m, name)
		}
	}
	return m
}

// publicJWK returns the public JWK of key as jwx exports it, with members added.
func publicJWK(key crypto.Signer, add members) members {
	var m members
	data := must(json.Marshal(must(jwk.FromRaw(key.Public()))))
	if err := json.Unmarshal(data, &m); err != nil {
		panic(err)
	}
	return m.with(add)
}

// sign returns a compact JWS that jwx has signed: it is not our code that says how one looks. The header is signed as it
// is; alg says how.
func sign(key any, alg string, header members, payload []byte) string {
	protected := jws.NewHeaders()
	for name, value := range header {
		if err := protected.Set(name, value); err != nil {
			panic(err)
		}
	}
	return string(must(jws.Sign(payload, jws.WithKey(jwa.SignatureAlgorithm(alg), key, jws.WithProtectedHeaders(protected)))))
}

// signRaw signs a header that jwx would not write, with Ed25519.
func signRaw(header, payload string) string {
	input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	sig := must(edKey().Sign(rand.Reader, []byte(input), crypto.Hash(0)))
	return input + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// rfc9068 are the claims of a good token.
func rfc9068() members {
	now := time.Now().Unix()
	return members{
		"iss": issuerURL, "aud": audience, "sub": "alice", "client_id": "spa", "scope": "read write",
		"iat": now, "exp": now + 300, "jti": "1f3", "cnf": members{"jkt": strings.Repeat("A", 43)},
	}
}

// token returns a token signed with the test's P-256 key, with changes to the header and to the claims.
func token(header, claims members) string {
	return sign(ecKey(), "ES256", members{"typ": "at+jwt", "kid": "ec"}.with(header), must(json.Marshal(rfc9068().with(claims))))
}

// An issuer answers for metadata and keys: an http.RoundTripper, so that a test needs no network and can run in a synctest
// bubble, and an http.Handler.
type issuer struct {
	mu      sync.Mutex
	routes  map[string]http.HandlerFunc
	hits    map[string]int
	latency time.Duration
}

// newIssuer returns an issuer that publishes these keys, and metadata by OpenID Connect Discovery, as Keycloak does.
func newIssuer(keys ...members) *issuer {
	i := &issuer{hits: make(map[string]int), routes: make(map[string]http.HandlerFunc)}
	i.route(openIDPath, document(members{"issuer": issuerURL, "jwks_uri": "https://id.example.com" + jwksPath, "scopes_supported": []string{}}))
	i.publish(keys...)
	return i
}

func (i *issuer) publish(keys ...members) { i.route(jwksPath, document(members{"keys": keys})) }

func (i *issuer) route(path string, h http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.routes[path] = h
}

func (i *issuer) count(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.hits[path]
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	h, latency := i.routes[r.URL.Path], i.latency
	i.hits[r.URL.Path]++
	i.mu.Unlock()
	select {
	case <-time.After(latency):
	case <-r.Context().Done():
	}
	if h == nil {
		h = http.NotFound
	}
	h(w, r)
}

func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	i.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	res := w.Result()
	res.Request = r
	return res, nil
}

func document(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) }
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }
}

// hang answers when the client has given up.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// config is what the tests begin with.
func config(i *issuer) atjwt.Config {
	return atjwt.Config{Issuer: issuerURL, Audience: audience, HTTPClient: &http.Client{Transport: i}}
}

// newResolver returns a Resolver that ends with the test.
func newResolver(t testing.TB, cfg atjwt.Config) *atjwt.Resolver {
	t.Helper()
	r, err := atjwt.NewResolver(t.Context(), cfg)
	require.NoError(t, err)
	return r
}

// all are public keys of each kind, and publish the kid by which token and the tables below call them.
func all() []members {
	return []members{
		publicJWK(ecKey(), members{"kid": "ec", "use": "sig"}),
		publicJWK(p384Key(), members{"kid": "p384", "alg": "ES384"}),
		publicJWK(edKey(), members{"kid": "ed", "key_ops": []string{"verify"}}),
		publicJWK(rsaKey(), members{"kid": "rsa"}),
	}
}

// requireRefused requires an error that wraps want and holds nothing of the token.
func requireRefused(t testing.TB, err error, want error, token string) {
	t.Helper()
	require.ErrorIs(t, err, want)
	for segment := range strings.SplitSeq(token, ".") {
		if len(segment) > 20 {
			require.NotContains(t, err.Error(), segment, "the error holds a part of the token")
		}
	}
}

// requireUnavailable requires an error that says that the keys are not there, and nothing about the token.
func requireUnavailable(t testing.TB, err error) {
	t.Helper()
	require.Error(t, err)
	require.NotErrorIs(t, err, dpop.ErrTokenInvalid)
}

func TestConfigMistakes(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*atjwt.Config)
		want   string
	}{
		"no issuer":              {func(c *atjwt.Config) { c.Issuer = "" }, "Config.Issuer is empty: set"},
		"issuer over http":       {func(c *atjwt.Config) { c.Issuer = "http://id.example.com" }, "neither https nor a loopback address"},
		"issuer is no URL":       {func(c *atjwt.Config) { c.Issuer = "demo" }, `Config.Issuer is "demo", not an absolute URL`},
		"issuer of other scheme": {func(c *atjwt.Config) { c.Issuer = "ftp://id.example.com" }, "not an https URL"},
		"issuer with query":      {func(c *atjwt.Config) { c.Issuer += "?" }, "neither query nor fragment"},
		"issuer with user":       {func(c *atjwt.Config) { c.Issuer = "https://u:p@id.example.com" }, "has a user name"},
		"no audience":            {func(c *atjwt.Config) { c.Audience = "" }, "Config.Audience is empty: set"},
		"JWKS over http":         {func(c *atjwt.Config) { c.JWKSURI = "http://id.example.com/certs" }, "Config.JWKSURI is"},
		"empty payload type":     {func(c *atjwt.Config) { c.PayloadTypes = []string{""} }, "Config.PayloadTypes has"},
		"aud may not be missing": {func(c *atjwt.Config) { c.AllowMissingClaims = []string{"aud"} }, `AllowMissingClaims has "aud"`},
		"symmetric algorithm":    {func(c *atjwt.Config) { c.Algorithms = []string{"HS256"} }, `Algorithms has "HS256"`},
		"alg none":               {func(c *atjwt.Config) { c.Algorithms = []string{"none"} }, `Algorithms has "none"`},
		"leeway below 0":         {func(c *atjwt.Config) { c.Leeway = -1 }, "Config.Leeway is -1ns"},
		"leeway above a minute":  {func(c *atjwt.Config) { c.Leeway = 61 * time.Second }, "set at most 1m0s"},
		"TTL below 0":            {func(c *atjwt.Config) { c.CacheTTL = -1 }, "Config.CacheTTL is"},
		"entries below 0":        {func(c *atjwt.Config) { c.CacheEntries = -1 }, "NoCache turns"},
		"refresh below 0":        {func(c *atjwt.Config) { c.RefreshInterval = -1 }, "Config.RefreshInterval is"},
		"minimum below 0":        {func(c *atjwt.Config) { c.MinRefreshInterval = -1 }, "Config.MinRefreshInterval is"},
		"minimum above interval": {func(c *atjwt.Config) { c.MinRefreshInterval = time.Hour }, "set at most RefreshInterval"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(newIssuer())
			test.change(&cfg)
			_, err := atjwt.NewResolver(t.Context(), cfg)
			require.ErrorContains(t, err, test.want)
		})
	}
	t.Run("all at once", func(t *testing.T) {
		_, err := atjwt.NewResolver(t.Context(), atjwt.Config{Leeway: -1})
		for _, field := range []string{"Config.Issuer", "Config.Audience", "Config.Leeway"} {
			require.ErrorContains(t, err, field)
		}
	})
	t.Run("plain http, where it may be", func(t *testing.T) {
		for _, cfg := range []atjwt.Config{
			{Issuer: "http://localhost:8080", Audience: audience},
			{Issuer: "http://127.0.0.1:8080", Audience: audience},
			{Issuer: "http://[::1]:8080", Audience: audience},
			{Issuer: "http://id.internal", Audience: audience, InsecureHTTP: true},
		} {
			cfg.HTTPClient = &http.Client{Transport: newIssuer()}
			_, err := atjwt.NewResolver(t.Context(), cfg)
			require.NoError(t, err)
		}
	})
}

// What is done to the caller's slices after NewResolver changes nothing.
func TestConfigIsCopied(t *testing.T) {
	cfg := config(newIssuer(all()...))
	cfg.Algorithms = []string{"ES256"}
	r := newResolver(t, cfg)
	cfg.Algorithms[0] = "RS256"
	_, err := r.ResolveToken(t.Context(), token(nil, nil))
	require.NoError(t, err)
}

// R110–R112: tokens as RFC 9068 describes them, with each algorithm, are accepted, and mean what they say.
func TestGoodTokens(t *testing.T) {
	r := newResolver(t, config(newIssuer(all()...)))
	for alg, key := range map[string]struct {
		signer crypto.Signer
		kid    string
	}{
		"ES256": {ecKey(), "ec"}, "ES384": {p384Key(), "p384"}, "EdDSA": {edKey(), "ed"},
		"PS256": {rsaKey(), "rsa"}, "RS256": {rsaKey(), "rsa"},
	} {
		t.Run(alg, func(t *testing.T) {
			claims := rfc9068().with(members{"roles": []string{"admin"}})
			got, err := r.ResolveToken(t.Context(), sign(key.signer, alg, members{"typ": "at+jwt", "kid": key.kid}, must(json.Marshal(claims))))
			require.NoError(t, err)
			require.Equal(t, issuerURL, got.Issuer)
			require.Equal(t, "alice", got.Subject)
			require.Equal(t, "spa", got.ClientID)
			require.Equal(t, []string{audience}, got.Audience)
			require.Equal(t, "read write", got.Scope)
			require.True(t, got.HasScope("write"))
			require.Equal(t, claims["exp"], got.Expiry.Unix())
			require.Equal(t, dpop.Confirmation{JKT: strings.Repeat("A", 43)}, got.Confirmation)
			var custom struct{ Roles []string }
			require.NoError(t, got.Claims(&custom))
			require.Equal(t, []string{"admin"}, custom.Roles)
		})
	}
	t.Run("Ed25519, the second name of EdDSA", func(t *testing.T) {
		_, err := r.ResolveToken(t.Context(), signRaw(`{"alg":"Ed25519","typ":"at+jwt","kid":"ed"}`, string(must(json.Marshal(rfc9068())))))
		require.NoError(t, err)
	})
	now := time.Now().Unix()
	for name, test := range map[string]struct{ header, claims members }{
		"typ with prefix":                 {members{"typ": "application/at+jwt"}, nil},
		"typ in capitals":                 {members{"typ": "Application/AT+JWT"}, nil},
		"aud is an array":                 {nil, members{"aud": []string{"account", audience}}},
		"aud is an array of one":          {nil, members{"aud": []string{audience}}},
		"no scope":                        {nil, members{"scope": nil}},
		"nbf in the past":                 {nil, members{"nbf": now - 60}},
		"nbf ahead, within the leeway":    {nil, members{"nbf": now + 5}},
		"iat ahead, within the leeway":    {nil, members{"iat": now + 5}},
		"exp with a fraction":             {nil, members{"exp": float64(now) + 60.5}},
		"no cnf":                          {nil, members{"cnf": nil}},
		"no kid":                          {members{"kid": nil}, nil},
		"a typ claim, where none need be": {nil, members{"typ": "whatever"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.ResolveToken(t.Context(), token(test.header, test.claims))
			require.NoError(t, err)
		})
	}
	t.Run("a malformed cnf is Unknown, for Verify to refuse", func(t *testing.T) {
		for _, cnf := range []any{"x", members{}, members{"jkt": 1}, members{"jkt": "short"}, members{"other": "x"}} {
			got, err := r.ResolveToken(t.Context(), token(nil, members{"cnf": cnf}))
			require.NoError(t, err)
			require.True(t, got.Confirmation.Unknown)
		}
	})
}

// R110–R114, R161, D15, D16: what must be refused, and the reason that the operator sees.
func TestRefusals(t *testing.T) {
	i := newIssuer(all()...)
	r := newResolver(t, config(i))
	_, err := r.ResolveToken(t.Context(), token(nil, nil)) // the control
	require.NoError(t, err)

	now := time.Now().Unix()
	good := token(nil, nil)
	parts := strings.Split(good, ".")
	body := must(json.Marshal(rfc9068()))
	hmacKey := must(json.Marshal(publicJWK(ecKey(), nil)))
	for name, test := range map[string]struct {
		token string
		want  dpop.Reason
	}{
		"R110 typ JWT":                      {token(members{"typ": "JWT"}, nil), dpop.ErrTokenType},
		"R110 typ of a proof":               {token(members{"typ": "dpop+jwt"}, nil), dpop.ErrTokenType},
		"R110 typ of a logout":              {token(members{"typ": "logout+jwt"}, nil), dpop.ErrTokenType},
		"R110 no typ":                       {token(members{"typ": nil}, nil), dpop.ErrTokenType},
		"R110 empty typ":                    {signRaw(`{"alg":"EdDSA","typ":"","kid":"ed"}`, string(body)), dpop.ErrTokenType},
		"R110 typ is a number":              {signRaw(`{"alg":"EdDSA","typ":1,"kid":"ed"}`, string(body)), dpop.ErrTokenMalformed},
		"R111 D15 other issuer":             {token(nil, members{"iss": "https://id.example.com/realms/other"}), dpop.ErrTokenIssuer},
		"R111 iss with slash":               {token(nil, members{"iss": issuerURL + "/"}), dpop.ErrTokenIssuer},
		"R111 iss in capitals":              {token(nil, members{"iss": strings.ToUpper(issuerURL)}), dpop.ErrTokenIssuer},
		"R111 iss is an array":              {token(nil, members{"iss": []string{issuerURL}}), dpop.ErrTokenMalformed},
		"R111 no iss":                       {token(nil, members{"iss": nil}), dpop.ErrTokenMalformed},
		"R161 D15 other audience":           {token(nil, members{"aud": "https://other.example.com"}), dpop.ErrTokenAudience},
		"R161 aud only begins so":           {token(nil, members{"aud": audience + "/v2"}), dpop.ErrTokenAudience},
		"R161 aud of others":                {token(nil, members{"aud": []string{"account", "rs"}}), dpop.ErrTokenAudience},
		"R161 aud joined":                   {token(nil, members{"aud": "account " + audience}), dpop.ErrTokenAudience},
		"R161 aud empty":                    {token(nil, members{"aud": []string{}}), dpop.ErrTokenAudience},
		"R161 no aud":                       {token(nil, members{"aud": nil}), dpop.ErrTokenMalformed},
		"R161 aud with a number":            {token(nil, members{"aud": []any{audience, 1}}), dpop.ErrTokenMalformed},
		"R161 aud is an object":             {token(nil, members{"aud": members{"a": audience}}), dpop.ErrTokenMalformed},
		"R111 D15 expired":                  {token(nil, members{"exp": now - 1}), dpop.ErrTokenExpired},
		"R111 exp is now: no leeway":        {token(nil, members{"exp": now}), dpop.ErrTokenExpired},
		"R111 no exp":                       {token(nil, members{"exp": nil}), dpop.ErrTokenMalformed},
		"R111 exp is a string":              {token(nil, members{"exp": fmt.Sprint(now + 60)}), dpop.ErrTokenMalformed},
		"R111 exp is not finite":            {signRaw(`{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}`, strings.Replace(string(body), `"exp":`, `"exp":1e999,"x":`, 1)), dpop.ErrTokenMalformed},
		"D15 nbf ahead":                     {token(nil, members{"nbf": now + 60}), dpop.ErrTokenNotYetValid},
		"D15 nbf is a string":               {token(nil, members{"nbf": "0"}), dpop.ErrTokenMalformed},
		"D15 iat ahead":                     {token(nil, members{"iat": now + 60}), dpop.ErrTokenNotYetValid},
		"R112 no sub":                       {token(nil, members{"sub": nil}), dpop.ErrTokenMalformed},
		"R112 no client_id":                 {token(nil, members{"client_id": nil}), dpop.ErrTokenMalformed},
		"R112 azp is no client_id":          {token(nil, members{"client_id": nil, "azp": "spa"}), dpop.ErrTokenMalformed},
		"R112 no iat":                       {token(nil, members{"iat": nil}), dpop.ErrTokenMalformed},
		"R112 no jti":                       {token(nil, members{"jti": nil}), dpop.ErrTokenMalformed},
		"R112 sub is a number":              {token(nil, members{"sub": 1}), dpop.ErrTokenMalformed},
		"scope is an array":                 {token(nil, members{"scope": []string{"read"}}), dpop.ErrTokenMalformed},
		"R113 encrypted":                    {"eyJhbGciOiJSU0EtT0FFUCJ9.AAAA.AAAA.AAAA.AAAA", dpop.ErrTokenMalformed},
		"R111 R114 alg none":                {unsigned(members{"alg": "none"}, body), dpop.ErrTokenSignature},
		"R114 alg None":                     {unsigned(members{"alg": "None"}, body), dpop.ErrTokenSignature},
		"R114 D16 HMAC with the public key": {sign(hmacKey, "HS256", members{"typ": "at+jwt", "kid": "ec"}, body), dpop.ErrTokenSignature},
		"R114 alg not among ours":           {sign(rsaKey(), "RS512", members{"typ": "at+jwt", "kid": "rsa"}, body), dpop.ErrTokenSignature},
		"R114 no alg":                       {signRaw(`{"typ":"at+jwt","kid":"ed"}`, string(body)), dpop.ErrTokenMalformed},
		"R114 alg of another key type":      {sign(rsaKey(), "RS256", members{"typ": "at+jwt", "kid": "ec"}, body), dpop.ErrTokenSignature},
		"R114 other key, same kid":          {sign(otherKey(), "ES256", members{"typ": "at+jwt", "kid": "ec"}, body), dpop.ErrTokenSignature},
		"R114 other key, no kid":            {sign(otherKey(), "ES256", members{"typ": "at+jwt"}, body), dpop.ErrTokenSignature},
		"R114 crit":                         {signRaw(`{"alg":"EdDSA","typ":"at+jwt","kid":"ed","crit":["x"],"x":1}`, string(body)), dpop.ErrTokenMalformed},
		"R114 kid is a number":              {signRaw(`{"alg":"EdDSA","typ":"at+jwt","kid":1}`, string(body)), dpop.ErrTokenMalformed},
		"duplicate claim":                   {signRaw(`{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}`, strings.Replace(string(body), `"sub"`, `"sub":"mallory","sub"`, 1)), dpop.ErrTokenMalformed},
		"claim in another case":             {signRaw(`{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}`, strings.Replace(string(body), `"sub"`, `"SUB":"mallory","sub"`, 1)), dpop.ErrTokenMalformed},
		"duplicate header member":           {signRaw(`{"alg":"EdDSA","typ":"JWT","typ":"at+jwt","kid":"ed"}`, string(body)), dpop.ErrTokenMalformed},
		"payload is no object":              {signRaw(`{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}`, `[]`), dpop.ErrTokenMalformed},
		"header is no object":               {signRaw(`1`, string(body)), dpop.ErrTokenMalformed},
		"signature too short":               {parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 63)), dpop.ErrTokenSignature},
		"signature empty":                   {parts[0] + "." + parts[1] + ".", dpop.ErrTokenSignature},
		"signature of another token":        {parts[0] + "." + parts[1] + "." + strings.Split(token(nil, members{"sub": "bob"}), ".")[2], dpop.ErrTokenSignature},
		"padding":                           {good + "=", dpop.ErrTokenMalformed},
		"line break":                        {good + "\n", dpop.ErrTokenMalformed},
		"two segments":                      {parts[0] + "." + parts[1], dpop.ErrTokenMalformed},
		"four segments":                     {good + ".", dpop.ErrTokenMalformed},
		"empty":                             {"", dpop.ErrTokenMalformed},
		"opaque":                            {"2YotnFZFEjr1zCsicMWpAA", dpop.ErrTokenMalformed},
		"too long":                          {token(nil, members{"x": strings.Repeat("x", 16<<10)}), dpop.ErrTokenMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.ResolveToken(t.Context(), test.token)
			requireRefused(t, err, test.want, test.token)
			require.ErrorIs(t, err, dpop.ErrTokenInvalid)
			_, err = r.ResolveToken(t.Context(), test.token)
			require.ErrorIs(t, err, test.want, "only the first time")
		})
	}
	require.Equal(t, 1, i.count(jwksPath), "a refusal caused a fetch")

	t.Run("what the client chose is quoted and cut", func(t *testing.T) {
		long := token(nil, members{"iss": "a\nb" + strings.Repeat("x", 1000)})
		_, err := r.ResolveToken(t.Context(), long)
		require.ErrorIs(t, err, dpop.ErrTokenIssuer)
		require.Less(t, len(err.Error()), 300)
		require.NotContains(t, err.Error(), "\n")
	})
}

// unsigned returns a token without a signature.
func unsigned(header members, payload []byte) string {
	enc := base64.RawURLEncoding
	return enc.EncodeToString(must(json.Marshal(header.with(members{"typ": "at+jwt"})))) + "." + enc.EncodeToString(payload) + "."
}

// R110, R112: what is opted out of, and nothing else.
func TestAllow(t *testing.T) {
	i := newIssuer(all()...)
	resolve := func(t *testing.T, change func(*atjwt.Config), header, claims members) error {
		cfg := config(i)
		change(&cfg)
		_, err := newResolver(t, cfg).ResolveToken(t.Context(), token(header, claims))
		return err
	}
	t.Run("AllowHeaderTypes", func(t *testing.T) {
		jwt := func(c *atjwt.Config) { c.AllowHeaderTypes = []string{"application/jwt"} }
		require.NoError(t, resolve(t, jwt, members{"typ": "JWT"}, nil))
		require.NoError(t, resolve(t, jwt, nil, nil))
		require.ErrorIs(t, resolve(t, jwt, members{"typ": nil}, nil), dpop.ErrTokenType)
		require.ErrorIs(t, resolve(t, jwt, members{"typ": "logout+jwt"}, nil), dpop.ErrTokenType)

		none := func(c *atjwt.Config) { c.AllowHeaderTypes = []string{""} }
		require.NoError(t, resolve(t, none, members{"typ": nil}, nil))
		require.ErrorIs(t, resolve(t, none, members{"typ": "JWT"}, nil), dpop.ErrTokenType)
		require.ErrorIs(t, resolve(t, none, members{"typ": "application/"}, nil), dpop.ErrTokenType)
	})
	t.Run("AllowMissingClaims", func(t *testing.T) {
		for _, claim := range []string{"sub", "client_id", "iat", "jti"} {
			allow := func(c *atjwt.Config) { c.AllowMissingClaims = []string{claim} }
			require.NoError(t, resolve(t, allow, nil, members{claim: nil}))
			require.ErrorIs(t, resolve(t, allow, nil, members{claim: "0"}.with(members{claim: []int{}})), dpop.ErrTokenMalformed)
			for _, other := range []string{"sub", "client_id", "iat", "jti", "exp", "aud"} {
				if other != claim {
					require.ErrorIs(t, resolve(t, allow, nil, members{other: nil}), dpop.ErrTokenMalformed, "%s beside %s", other, claim)
				}
			}
		}
	})
	t.Run("Leeway", func(t *testing.T) {
		minute := func(c *atjwt.Config) { c.Leeway = time.Minute }
		now := time.Now().Unix()
		require.NoError(t, resolve(t, minute, nil, members{"nbf": now + 55}))
		require.ErrorIs(t, resolve(t, minute, nil, members{"nbf": now + 65}), dpop.ErrTokenNotYetValid)
		require.ErrorIs(t, resolve(t, minute, nil, members{"exp": now - 1}), dpop.ErrTokenExpired, "exp has no leeway")
	})
	t.Run("Algorithms", func(t *testing.T) {
		rs := func(c *atjwt.Config) { c.Algorithms = []string{"ES384"} }
		require.ErrorIs(t, resolve(t, rs, nil, nil), dpop.ErrTokenSignature)
	})
}

// R110, R114: the tokens of a Keycloak realm, as 26.7.3 makes them: access tokens, bound or not, pass; ID tokens, refresh
// tokens and others, which the realm signs with the same key, do not.
func TestKeycloakTokens(t *testing.T) {
	i := newIssuer(
		publicJWK(rsaKey(), members{"kid": "sig", "use": "sig", "alg": "RS256", "x5c": []string{"MIIC"}}),
		publicJWK(must(rsa.GenerateKey(rand.Reader, 2048)), members{"kid": "enc", "use": "enc", "alg": "RSA-OAEP"}),
	)
	cfg := atjwt.Keycloak(issuerURL+"/", "rs")
	cfg.HTTPClient = &http.Client{Transport: i}
	r := newResolver(t, cfg)

	now := time.Now().Unix()
	base := members{
		"iss": issuerURL, "sub": "0b5c", "typ": "DPoP", "azp": "svc-dpop", "aud": []string{"rs-jwt", "rs", "account"},
		"iat": now, "exp": now + 300, "jti": "trrtcc:1f3", "acr": "1", "scope": "profile email",
		"realm_access": members{"roles": []string{"offline_access"}},
		"cnf":          members{"jkt": strings.Repeat("A", 43), "kc-jkt-type": "DPoP"},
	}
	for name, test := range map[string]struct {
		header, claims members
		want           error
	}{
		"bound":               {nil, nil, nil},
		"aud is a string":     {nil, members{"aud": "rs"}, nil},
		"bearer":              {nil, members{"typ": "Bearer", "cnf": nil}, nil},
		"RFC 9068 header":     {members{"typ": "at+jwt"}, nil, nil},
		"ID token":            {nil, members{"typ": "ID"}, dpop.ErrTokenType},
		"refresh token":       {nil, members{"typ": "Refresh"}, dpop.ErrTokenType},
		"offline token":       {nil, members{"typ": "Offline"}, dpop.ErrTokenType},
		"logout token":        {members{"typ": "logout+jwt"}, nil, dpop.ErrTokenType},
		"typ in another case": {nil, members{"typ": "bearer"}, dpop.ErrTokenType},
		"no typ":              {nil, members{"typ": nil}, dpop.ErrTokenType},
		"no azp":              {nil, members{"azp": nil}, dpop.ErrTokenMalformed},
		"other realm":         {nil, members{"iss": "https://id.example.com/realms/other"}, dpop.ErrTokenIssuer},
		"other audience":      {nil, members{"aud": []string{"account"}}, dpop.ErrTokenAudience},
		"key for encryption":  {members{"kid": "enc"}, nil, dpop.ErrTokenSignature},
	} {
		t.Run(name, func(t *testing.T) {
			header := members{"typ": "JWT", "kid": "sig"}.with(test.header)
			got, err := r.ResolveToken(t.Context(), sign(rsaKey(), "RS256", header, must(json.Marshal(base.with(test.claims)))))
			if test.want != nil {
				require.ErrorIs(t, err, test.want)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "svc-dpop", got.ClientID)
			require.False(t, got.Confirmation.Unknown)
		})
	}
}

// D16, R114, R178: which keys are tried.
func TestKeyChoice(t *testing.T) {
	private := must(jwk.FromRaw(otherKey()))
	var privateJWK members
	require.NoError(t, json.Unmarshal(must(json.Marshal(private)), &privateJWK))
	small := generateSmallRSA(t)

	ec := func(add members) members { return publicJWK(ecKey(), add) }
	es256 := token(nil, nil)
	for name, test := range map[string]struct {
		keys  []members
		token string
		want  error
	}{
		"the control":             {[]members{ec(members{"kid": "ec"})}, es256, nil},
		"for encryption":          {[]members{ec(members{"kid": "ec", "use": "enc"})}, es256, dpop.ErrTokenSignature},
		"key_ops without verify":  {[]members{ec(members{"kid": "ec", "key_ops": []string{"deriveKey"}})}, es256, dpop.ErrTokenSignature},
		"for another algorithm":   {[]members{ec(members{"kid": "ec", "alg": "ECDH-ES"})}, es256, dpop.ErrTokenSignature},
		"of another type":         {[]members{publicJWK(p384Key(), members{"kid": "ec"})}, es256, dpop.ErrTokenSignature},
		"kid of another key":      {[]members{publicJWK(otherKey(), members{"kid": "ec"})}, es256, dpop.ErrTokenSignature},
		"kid is not there":        {[]members{ec(members{"kid": "other"})}, es256, dpop.ErrTokenSignature},
		"kid in another case":     {[]members{ec(members{"kid": "EC"})}, es256, dpop.ErrTokenSignature},
		"key without kid":         {[]members{ec(nil)}, es256, dpop.ErrTokenSignature},
		"neither has a kid":       {[]members{ec(nil)}, token(members{"kid": nil}, nil), nil},
		"R178 one kid, by use":    {[]members{publicJWK(otherKey(), members{"kid": "ec", "use": "enc"}), ec(members{"kid": "ec", "use": "sig"})}, es256, nil},
		"R178 one kid, by type":   {[]members{publicJWK(rsaKey(), members{"kid": "ec"}), ec(members{"kid": "ec"})}, es256, nil},
		"R178 one kid, by alg":    {[]members{publicJWK(otherKey(), members{"kid": "ec", "alg": "ES384"}), ec(members{"kid": "ec"})}, es256, nil},
		"R178 one kid, by trying": {[]members{publicJWK(otherKey(), members{"kid": "ec"}), ec(members{"kid": "ec"})}, es256, nil},
		"R178 one kid, too many": {[]members{
			publicJWK(otherKey(), members{"kid": "ec"}), publicJWK(otherKey(), members{"kid": "ec"}), publicJWK(otherKey(), members{"kid": "ec"}),
			publicJWK(otherKey(), members{"kid": "ec"}), ec(members{"kid": "ec"}),
		}, es256, dpop.ErrTokenSignature},
		"no kid, many keys of other types": {
			[]members{publicJWK(rsaKey(), nil), publicJWK(rsaKey(), nil), publicJWK(rsaKey(), nil), publicJWK(rsaKey(), nil), ec(nil)},
			token(members{"kid": nil}, nil), nil,
		},
		"beside keys that cannot be read": {[]members{
			{"kty": "AKP", "alg": "ML-DSA-44", "kid": "pq", "pub": "AA"}, {"kty": "EC", "crv": "P-256", "x": "!"}, {}, {"kty": 1},
			{"kty": "oct", "k": "AAAA", "kid": "ec"}, {"kty": "OKP", "crv": "X25519", "x": strings.Repeat("A", 43), "kid": "ec"},
			{"kty": "EC", "crv": "P-256", "x": strings.Repeat("A", 43), "y": strings.Repeat("A", 43), "kid": "ec"},
			{"kty": "EC", "crv": "secp256k1", "x": strings.Repeat("A", 43), "y": strings.Repeat("A", 43), "kid": "ec"},
			ec(members{"kid": "ec"}),
		}, es256, nil},
		"published private": {
			[]members{privateJWK.with(members{"kid": "p"}), ec(members{"kid": "ec"})},
			sign(otherKey(), "ES256", members{"typ": "at+jwt", "kid": "p"}, must(json.Marshal(rfc9068()))), dpop.ErrTokenSignature,
		},
		"symmetric": {
			[]members{{"kty": "oct", "k": base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("k", 32))), "kid": "oct"}, ec(members{"kid": "ec"})},
			sign([]byte(strings.Repeat("k", 32)), "HS256", members{"typ": "at+jwt", "kid": "oct"}, must(json.Marshal(rfc9068()))), dpop.ErrTokenSignature,
		},
		"RSA of 1024 bits": {
			[]members{publicJWK(small, members{"kid": "rsa"}), ec(members{"kid": "ec"})},
			sign(small, "RS256", members{"typ": "at+jwt", "kid": "rsa"}, must(json.Marshal(rfc9068()))), dpop.ErrTokenSignature,
		},
		"alg of the key is not the token's": {
			[]members{publicJWK(rsaKey(), members{"kid": "rsa", "alg": "PS256"})},
			sign(rsaKey(), "RS256", members{"typ": "at+jwt", "kid": "rsa"}, must(json.Marshal(rfc9068()))), dpop.ErrTokenSignature,
		},
	} {
		t.Run(name, func(t *testing.T) {
			keys := append(test.keys, publicJWK(edKey(), members{"kid": "ed"})) // so that no set is without any fit key
			cfg := config(newIssuer(keys...))
			cfg.MinRefreshInterval = time.Minute // so that what is not in the set is answered at once
			_, err := newResolver(t, cfg).ResolveToken(t.Context(), test.token)
			if test.want == nil {
				require.NoError(t, err)
			} else {
				requireRefused(t, err, test.want, test.token)
			}
		})
	}
}

// A set of none but unfit keys is no set, and the error says what is wrong with each.
func TestUnfitKeysAreNamed(t *testing.T) {
	for want, key := range map[string]members{
		"is an RSA key of 8208 bits":    {"kty": "RSA", "n": "_" + strings.Repeat("A", 1366) + "E", "e": "AQAB"},
		"is an RSA key of 8 bits":       {"kty": "RSA", "n": "gQ", "e": "AQAB"},
		`has use \"enc\"`:               publicJWK(ecKey(), members{"use": "enc"}),
		"has key_ops without verify":    publicJWK(ecKey(), members{"key_ops": []string{"sign"}}),
		"not for one of the algorithms": publicJWK(generate(elliptic.P521()), nil),
		"is not a public key":           {"kty": "oct", "k": "AAAA"},
		"cannot be read":                {"kty": "AKP"},
	} {
		t.Run(want, func(t *testing.T) {
			_, err := newResolver(t, config(newIssuer(key))).ResolveToken(t.Context(), token(nil, nil))
			requireUnavailable(t, err)
			require.ErrorContains(t, err, want)
		})
	}
}

func generateSmallRSA(t *testing.T) *rsa.PrivateKey {
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	return key
}

// No header of a token makes us call anyone.
func TestReferencesAreNotFollowed(t *testing.T) {
	i := newIssuer(all()...)
	r := newResolver(t, config(i))
	payload := string(must(json.Marshal(rfc9068())))
	_, err := r.ResolveToken(t.Context(), signRaw(
		`{"alg":"EdDSA","typ":"at+jwt","kid":"ed","jku":"https://id.example.com/canary","x5u":"https://id.example.com/canary"}`, payload))
	require.NoError(t, err)
	require.Zero(t, i.count("/canary"))
}

// Logs hold no part of a token; requireRefused sees to errors.
func TestNothingLogged(t *testing.T) {
	var log bytes.Buffer
	cfg := config(newIssuer(all()...))
	cfg.MinRefreshInterval = time.Minute
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	r := newResolver(t, cfg)
	tokens := []string{token(nil, nil), token(nil, members{"aud": "x"}), token(members{"kid": "x"}, nil)}
	for _, tok := range tokens {
		_, err := r.ResolveToken(t.Context(), tok)
		require.True(t, err == nil || errors.Is(err, dpop.ErrTokenInvalid))
	}
	require.Contains(t, log.String(), "keys have changed", "the control: something is logged")
	for _, tok := range tokens {
		for segment := range strings.SplitSeq(tok, ".") {
			require.NotContains(t, log.String(), segment)
		}
	}
}
