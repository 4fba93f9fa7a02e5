package introspect_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/introspect"
)

const (
	issuerURL = "https://id.example.com/realms/demo"
	endpoint  = issuerURL + "/introspect"
	audience  = "orders-api"
	secret    = "the-canary-secret"
	token     = "the-canary-token-Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU="
)

var (
	jkt = strings.Repeat("A", 43)
	x5t = strings.Repeat("B", 42) + "A"
)

// members are those of an answer; a value that is nil is left out, and null stands for null.
type members map[string]any

var null = json.RawMessage("null")

func (m members) with(changes members) members {
	m = maps.Clone(m)
	maps.Copy(m, changes)
	maps.DeleteFunc(m, func(_ string, value any) bool { return value == nil })
	return m
}

func (m members) String() string { return string(must(json.Marshal(m))) }

// active is an answer about a good token, as Keycloak 26.7 makes it.
func active() members {
	now := time.Now().Unix()
	return members{
		"active": true, "token_type": "DPoP", "cnf": members{"jkt": jkt, "kc-jkt-type": "DPoP"},
		"iss": issuerURL, "aud": []string{"account", audience}, "sub": "alice", "client_id": "spa", "scope": "orders:read",
		"iat": now, "exp": now + 300, "sid": "session-1", "resource_access": members{"account": members{"roles": []string{"view"}}},
	}
}

var inactive = members{"active": false}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func sum(token string) [32]byte { return sha256.Sum256([]byte(token)) }

// A server is an authorization server: an http.RoundTripper, so that tests can run in synctest bubbles, and an
// http.Handler. It counts its calls.
type server struct {
	mu          sync.Mutex
	answer      http.HandlerFunc
	latency     time.Duration
	calls       int
	under, most int // calls under way
	paths       []string
	form        url.Values // of the last call
	header      http.Header
}

// says returns a server that gives the same answer always.
func says(answer fmt.Stringer) *server { return &server{answer: text(answer.String())} }

func (s *server) set(answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	s.mu.Lock()
	s.calls++
	s.under++
	s.most = max(s.most, s.under)
	s.paths = append(s.paths, r.URL.Path)
	s.form, s.header = r.PostForm, r.Header.Clone()
	answer, latency := s.answer, s.latency
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.under--
		s.mu.Unlock()
	}()
	if latency > 0 {
		select {
		case <-time.After(latency):
		case <-r.Context().Done():
			return
		}
	}
	answer(w, r)
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// config is what tests begin with.
func config(s *server, changes ...func(*introspect.Config)) introspect.Config {
	cfg := introspect.Config{
		Issuer: issuerURL, Endpoint: endpoint, Audience: audience,
		Authenticate: introspect.BasicAuth("orders-api", secret), HTTPClient: &http.Client{Transport: s},
	}
	for _, change := range changes {
		change(&cfg)
	}
	return cfg
}

func newResolver(t testing.TB, cfg introspect.Config) *introspect.Resolver {
	t.Helper()
	r, err := introspect.NewResolver(cfg)
	require.NoError(t, err)
	return r
}

// The verdicts of a resolver: accepted, a Reason, or unavailable.
const (
	accepted    = ""
	unavailable = "unavailable"
)

// verdict returns what a resolver says of a token. The Reason must be one that Verify would find.
func verdict(t testing.TB, r dpop.TokenResolver, token string) string {
	t.Helper()
	got, err := r.ResolveToken(context.Background(), token)
	return verdictOf(t, got, err)
}

func verdictOf(t testing.TB, got *dpop.Token, err error) string {
	t.Helper()
	var reason dpop.Reason
	switch {
	case (got == nil) == (err == nil):
		t.Errorf("a token and an error, or neither: %v, %v", got, err)
		return ""
	case err == nil:
		return accepted
	case errors.As(err, &reason) && errors.Is(reason, dpop.ErrTokenInvalid) != errors.Is(err, dpop.ErrTokenInvalid):
		t.Errorf("the error is of two minds: %v", err)
	case errors.Is(err, dpop.ErrTokenInvalid):
		return string(reason)
	}
	return unavailable
}

func wantVerdict(t testing.TB, r dpop.TokenResolver, token, want string) {
	t.Helper()
	got, err := r.ResolveToken(context.Background(), token)
	if have := verdictOf(t, got, err); have != want {
		t.Errorf("verdict is %q, want %q (%v)", have, want, err)
	}
}

// What is asked: a POST with a form, from which the server reads the same token, whatever characters it has.
func TestRequest(t *testing.T) {
	for name, token := range map[string]string{
		"R100 base64 and padding": "a+b/c==",
		"R100 token68":            "Az09-._~+/=",
		"R100 what forms use":     "a&token=b&c=d%20+e;f#?",
		"R100 not ASCII":          "tökén\u2028 \x00\r\n",
		"R100 a JWT":              "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.AAAA",
		"empty":                   "",
	} {
		t.Run(name, func(t *testing.T) {
			s := says(active())
			live := httptest.NewServer(s)
			defer live.Close()
			r := newResolver(t, config(s, func(c *introspect.Config) {
				c.Endpoint, c.HTTPClient = live.URL+"/introspect?realm=demo", live.Client()
			}))
			wantVerdict(t, r, token, accepted)
			if len(s.form["token"]) != 1 || s.form.Get("token") != token {
				t.Errorf("R100: the server reads the tokens %q, want one, %q", s.form["token"], token)
			}
			if got := s.form["token_type_hint"]; len(got) != 1 || got[0] != "access_token" || len(s.form) != 2 {
				t.Errorf("the form is %v, want a token and the hint access_token", s.form)
			}
			for field, want := range map[string]string{
				"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json", "Idempotency-Key": "",
			} {
				if got := s.header.Get(field); got != want {
					t.Errorf("%s is %q, want %q", field, got, want)
				}
			}
		})
	}
}

func TestToken(t *testing.T) {
	answer := active()
	got, err := newResolver(t, config(says(answer))).ResolveToken(t.Context(), token)
	require.NoError(t, err)
	var claims struct{ SID string }
	require.NoError(t, got.Claims(&claims))
	require.Equal(t, "session-1", claims.SID)
	got.Raw = nil
	require.Equal(t, &dpop.Token{
		Issuer: issuerURL, Subject: "alice", ClientID: "spa", Audience: []string{"account", audience}, Scope: "orders:read",
		Expiry: time.Unix(answer["exp"].(int64), 0), Confirmation: dpop.Confirmation{JKT: jkt},
	}, got)
}

func TestTokenTooLong(t *testing.T) {
	s := says(active())
	r := newResolver(t, config(s))
	wantVerdict(t, r, strings.Repeat("a", 16<<10), accepted)
	wantVerdict(t, r, strings.Repeat("a", 16<<10+1), string(dpop.ErrTokenMalformed))
	if s.count() != 1 {
		t.Errorf("F05: %d calls, want one: the second token is too long to be sent", s.count())
	}
}

func TestConfigErrors(t *testing.T) {
	good := config(says(active()))
	insecure := http.DefaultTransport.(*http.Transport).Clone()
	insecure.TLSClientConfig.InsecureSkipVerify = true
	for name, tt := range map[string]struct {
		change func(*introspect.Config)
		want   string // "" for none
	}{
		"good":                       {func(*introspect.Config) {}, ""},
		"no endpoint, but an issuer": {func(c *introspect.Config) { c.Endpoint = "" }, ""},
		"no issuer, but an endpoint": {func(c *introspect.Config) { c.Issuer = "" }, ""},
		"neither":                    {func(c *introspect.Config) { c.Issuer, c.Endpoint = "", "" }, "Config.Endpoint and Issuer are empty: set"},
		"R104 Endpoint over http":    {func(c *introspect.Config) { c.Endpoint = "http://id.example.com/i?key=secret" }, "Config.Endpoint is"},
		"R104 Issuer over http":      {func(c *introspect.Config) { c.Issuer = "http://id.example.com" }, "Config.Issuer is"},
		"InsecureHTTP": {func(c *introspect.Config) {
			c.Issuer, c.Endpoint, c.InsecureHTTP = "http://id.example.com", "http://id.example.com/i", true
		}, ""},
		"a password in a URL":       {func(c *introspect.Config) { c.Endpoint = "https://a:secret@id.example.com/i" }, "Config.Endpoint has a user name"},
		"Issuer with a query":       {func(c *introspect.Config) { c.Issuer = "https://id.example.com?key=secret" }, "Config.Issuer has a query"},
		"Issuer with a fragment":    {func(c *introspect.Config) { c.Issuer = "https://id.example.com#secret" }, "Config.Issuer has a query"},
		"no audience":               {func(c *introspect.Config) { c.Audience = "" }, "Config.Audience is empty: set"},
		"any audience":              {func(c *introspect.Config) { c.Audience, c.AllowAnyAudience = "", true }, ""},
		"an audience and any":       {func(c *introspect.Config) { c.AllowAnyAudience = true }, "set one of them"},
		"no authentication":         {func(c *introspect.Config) { c.Authenticate = nil }, "Config.Authenticate is nil: set"},
		"no client":                 {func(c *introspect.Config) { c.HTTPClient = nil }, ""},
		"D21 InsecureSkipVerify":    {func(c *introspect.Config) { c.HTTPClient = &http.Client{Transport: insecure} }, "(InsecureSkipVerify): put"},
		"CacheTTL negative":         {func(c *introspect.Config) { c.CacheTTL = -1 }, "Config.CacheTTL is -1ns"},
		"D20 CacheTTL too long":     {func(c *introspect.Config) { c.CacheTTL = 5*time.Minute + 1 }, "Config.CacheTTL is 5m0.000000001s"},
		"CacheTTL at its most":      {func(c *introspect.Config) { c.CacheTTL = 5 * time.Minute }, ""},
		"NegativeTTL too long":      {func(c *introspect.Config) { c.NegativeTTL = time.Hour }, "Config.NegativeTTL is 1h0m0s"},
		"NegativeTTL and none":      {func(c *introspect.Config) { c.NegativeTTL, c.NoNegativeCache = 1, true }, "NoNegativeCache is set: set one"},
		"no negative cache":         {func(c *introspect.Config) { c.NoNegativeCache = true }, ""},
		"Timeout too long":          {func(c *introspect.Config) { c.Timeout = time.Hour }, "Config.Timeout is 1h0m0s"},
		"Leeway too long":           {func(c *introspect.Config) { c.Leeway = 61 * time.Second }, "Config.Leeway is 1m1s"},
		"CacheEntries negative":     {func(c *introspect.Config) { c.CacheEntries = -1 }, "Config.CacheEntries is -1"},
		"MaxCalls negative":         {func(c *introspect.Config) { c.MaxCalls = -1 }, "Config.MaxCalls is -1"},
		"MaxCalls beyond all sense": {func(c *introspect.Config) { c.MaxCalls = 1 << 40 }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			r, err := introspect.NewResolver(cfg)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("error is %v", err)
			case tt.want != "" && (r != nil || err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error is %v, want one that says %q", err, tt.want)
			case err != nil && strings.Contains(err.Error(), "secret"):
				t.Errorf("F02: the error shows what may be a secret: %v", err)
			}
		})
	}
	t.Run("all at once", func(t *testing.T) {
		_, err := introspect.NewResolver(introspect.Config{Timeout: -1, MaxCalls: -1})
		for _, want := range []string{"Endpoint and Issuer", "Audience", "Authenticate", "Timeout", "MaxCalls"} {
			require.ErrorContains(t, err, "Config."+want)
		}
	})
}

// D21: a default transport that was made careless is noticed, too.
func TestD21DefaultTransport(t *testing.T) {
	before := http.DefaultTransport
	defer func() { http.DefaultTransport = before }()
	careless := before.(*http.Transport).Clone()
	careless.TLSClientConfig.InsecureSkipVerify = true
	http.DefaultTransport = careless
	for name, client := range map[string]*http.Client{"no client": nil, "a client without transport": {}} {
		cfg := config(nil)
		cfg.HTTPClient = client
		if _, err := introspect.NewResolver(cfg); err == nil || !strings.Contains(err.Error(), "InsecureSkipVerify") {
			t.Errorf("D21 %s: error is %v, want one that names InsecureSkipVerify", name, err)
		}
	}
}

// The caller's client is left as it was.
func TestHTTPClientIsCopied(t *testing.T) {
	cfg := config(says(active()))
	newResolver(t, cfg)
	require.Nil(t, cfg.HTTPClient.CheckRedirect)
}
