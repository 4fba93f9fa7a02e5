package dpophttp_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/replay/memstore"
)

// A recorder is a RequestVerifier that keeps what it was asked.
type recorder struct {
	got    dpop.Request
	result *dpop.Result
	err    error
}

func (v *recorder) Verify(_ context.Context, req dpop.Request) (*dpop.Result, error) {
	v.got = req
	return v.result, v.err
}

var accepted = &dpop.Result{Token: &dpop.Token{Subject: "alice", Scope: "orders:read"}, Proof: &dpop.Proof{}}

// ok answers with the subject that the middleware found.
var ok = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	result, _ := dpop.FromContext(r.Context())
	_, _ = io.WriteString(w, result.Token.Subject)
})

func TestTargetURI(t *testing.T) {
	one := dpophttp.Config{Origins: []string{"https://api.example.com"}}
	several := dpophttp.Config{Origins: []string{"https://api.example.com", "https://API.example.org:443", "http://api.example.org:8080"}}
	twoSchemes := dpophttp.Config{Origins: []string{"https://api.example.com", "http://api.example.com"}}
	behind := func(h dpophttp.Header, cfg dpophttp.Config) dpophttp.Config {
		cfg.TrustedProxies, cfg.Forwarded = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, h
		return cfg
	}
	same := dpophttp.Config{Origins: []string{"https://api.example.com", "https://api.example.com:443"}}
	prefixed := dpophttp.Config{Origins: one.Origins, PathPrefix: "/v1"}
	header := func(pairs ...string) http.Header {
		h := make(http.Header)
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return h
	}
	const proxy, stranger = "192.0.2.1:1234", "198.51.100.1:1234"

	for name, test := range map[string]struct {
		config               dpophttp.Config
		target, host, remote string
		header               http.Header
		want                 string
	}{
		"path and no query":              {one, "/orders?page=2", "api.example.com", stranger, nil, "https://api.example.com/orders"},
		"path as on the wire":            {one, "//a/./b/../c%2Fd?q=%7E", "api.example.com", stranger, nil, "https://api.example.com//a/./b/../c%2Fd"},
		"B09 one origin, any Host":       {one, "/", "evil.example", stranger, nil, "https://api.example.com/"},
		"B09 Host selects":               {several, "/", "API.example.org", stranger, nil, "https://api.example.org/"},
		"B09 Host selects with port":     {several, "/", "api.example.org:8080", stranger, nil, "http://api.example.org:8080/"},
		"B09 Host of no origin":          {several, "/", "evil.example", stranger, nil, ""},
		"B09 absolute form":              {several, "http://api.example.org/x?y", "api.example.org", stranger, nil, "https://api.example.org/x"},
		"B09 absolute form, no path":     {one, "http://api.example.com", "api.example.com", stranger, nil, "https://api.example.com"},
		"URL in the query":               {one, "/a?u=http://b/c", "api.example.com", stranger, nil, "https://api.example.com/a"},
		"URL in the path":                {one, "/a/http://b/c", "api.example.com", stranger, nil, "https://api.example.com/a/http://b/c"},
		"asterisk form":                  {one, "*", "api.example.com", stranger, nil, "https://api.example.com"},
		"only half absolute":             {one, "http:/admin/x://h/orders/17", "api.example.com", stranger, nil, ""},
		"opaque":                         {one, "http:x://h/orders/17", "api.example.com", stranger, nil, ""},
		"another scheme":                 {one, "ftp://h/orders", "api.example.com", stranger, nil, ""},
		"B11 fragment":                   {one, "/orders/17#99", "api.example.com", stranger, nil, ""},
		"dot segments under a prefix":    {prefixed, "/../other", "api.example.com", stranger, nil, ""},
		"the same, encoded":              {prefixed, "/a/%2E%2e/other", "api.example.com", stranger, nil, ""},
		"one origin in two spellings":    {same, "/", "api.example.com", stranger, nil, "https://api.example.com/"},
		"authority form":                 {one, "api.example.com:443", "api.example.com:443", stranger, nil, ""},
		"stripped prefix":                {prefixed, "/orders", "api.example.com", stranger, nil, "https://api.example.com/v1/orders"},
		"two schemes, plain connection":  {twoSchemes, "/", "api.example.com", stranger, nil, "http://api.example.com/"},
		"B10 from a stranger":            {behind(dpophttp.XForwarded, several), "/", "api.example.com", stranger, header("X-Forwarded-Host", "api.example.org"), "https://api.example.com/"},
		"B10 from the proxy":             {behind(dpophttp.XForwarded, several), "/", "internal", proxy, header("X-Forwarded-Host", "api.example.org"), "https://api.example.org/"},
		"B10 of no origin":               {behind(dpophttp.XForwarded, several), "/", "api.example.com", proxy, header("X-Forwarded-Host", "evil.example"), ""},
		"B10 scheme from the proxy":      {behind(dpophttp.XForwarded, twoSchemes), "/", "api.example.com", proxy, header("X-Forwarded-Proto", "https"), "https://api.example.com/"},
		"B10 list":                       {behind(dpophttp.XForwarded, several), "/", "x", proxy, header("X-Forwarded-Host", "api.example.com, api.example.org"), ""},
		"B10 two lines":                  {behind(dpophttp.XForwarded, several), "/", "x", proxy, header("X-Forwarded-Host", "api.example.com", "X-Forwarded-Host", "api.example.org"), ""},
		"B10 the other family":           {behind(dpophttp.XForwarded, several), "/", "api.example.com", proxy, header("Forwarded", "host=api.example.org"), "https://api.example.com/"},
		"B10 Forwarded":                  {behind(dpophttp.Forwarded, several), "/", "x", proxy, header("Forwarded", `for=203.0.113.9; Host="api.example.org";proto=https`), "https://api.example.org/"},
		"B10 Forwarded, an empty pair":   {behind(dpophttp.Forwarded, several), "/", "x", proxy, header("Forwarded", "host=api.example.org;"), "https://api.example.org/"},
		"B10 Forwarded, quoted text":     {behind(dpophttp.Forwarded, several), "/", "x", proxy, header("Forwarded", `for="a;host=api.example.org;b=c"`), ""},
		"B10 Forwarded, spaces":          {behind(dpophttp.Forwarded, several), "/", "api.example.com", proxy, header("Forwarded", "host = api.example.org"), ""},
		"B10 Forwarded list":             {behind(dpophttp.Forwarded, several), "/", "x", proxy, header("Forwarded", "host=api.example.org, host=api.example.com"), ""},
		"B10 Forwarded, host twice":      {behind(dpophttp.Forwarded, several), "/", "x", proxy, header("Forwarded", "host=api.example.org;host=api.example.com"), ""},
		"B10 proxy over IPv6-mapped IP4": {behind(dpophttp.XForwarded, several), "/", "x", "[::ffff:192.0.2.1]:1", header("X-Forwarded-Host", "api.example.org"), "https://api.example.org/"},
		"B10 peer without an address":    {behind(dpophttp.XForwarded, several), "/", "api.example.com", "@", header("X-Forwarded-Host", "api.example.org"), "https://api.example.com/"},
	} {
		t.Run(name, func(t *testing.T) {
			v := &recorder{result: accepted}
			protect, err := dpophttp.New(v, test.config)
			require.NoError(t, err)
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RequestURI, r.Host, r.RemoteAddr = test.target, test.host, test.remote
			if test.header != nil {
				r.Header = test.header
			}
			protect(ok).ServeHTTP(httptest.NewRecorder(), r)
			if v.got.URI != test.want {
				t.Errorf("target URI is %q, want %q", v.got.URI, test.want)
			}
		})
	}
}

func TestStripPrefixInFront(t *testing.T) {
	v := &recorder{result: accepted}
	protect, err := dpophttp.New(v, dpophttp.Config{Origins: []string{"https://api.example.com"}})
	require.NoError(t, err)
	http.StripPrefix("/v1", protect(ok)).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v1/orders", nil))
	if want := "https://api.example.com/v1/orders"; v.got.URI != want {
		t.Errorf("target URI is %q, want %q: a router that rewrites URL.Path does not change what the client signed", v.got.URI, want)
	}
}

func TestRefusalNeverReachesTheHandler(t *testing.T) {
	for name, err := range map[string]error{
		"refusal":       &dpop.Error{Code: dpop.CodeInvalidProof, Reason: dpop.ErrProofReplayed, Status: 401, Challenges: []string{"DPoP"}},
		"unknown error": errors.New("broken"),
	} {
		t.Run(name, func(t *testing.T) {
			protect, configErr := dpophttp.New(&recorder{err: err}, dpophttp.Config{Origins: []string{"https://api.example.com"}})
			require.NoError(t, configErr)
			w := httptest.NewRecorder()
			protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				t.Error("R033: the handler ran")
			})).ServeHTTP(w, httptest.NewRequest(http.MethodOptions, "/", nil))
			if w.Code == http.StatusOK {
				t.Errorf("status is %d", w.Code)
			}
		})
	}
}

func TestNonceIsPushed(t *testing.T) {
	protect, err := dpophttp.New(&recorder{result: &dpop.Result{Token: accepted.Token, Nonce: "n1"}}, dpophttp.Config{Origins: []string{"https://api.example.com"}})
	require.NoError(t, err)
	w := httptest.NewRecorder()
	protect(ok).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if got := w.Header()["Dpop-Nonce"]; len(got) != 1 || got[0] != "n1" {
		t.Errorf("R043: DPoP-Nonce fields are %q, want one n1", got)
	}
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("R048: Cache-Control is %q, want no-store", got)
	}
}

func TestRequireScope(t *testing.T) {
	onError := func(w http.ResponseWriter, _ *http.Request, err error) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, err.Error())
	}
	for name, test := range map[string]struct {
		scope   string
		onError func(http.ResponseWriter, *http.Request, error)
		want    int
	}{
		"there":                {"orders:read", nil, 200},
		"missing":              {"orders:write", nil, 403},
		"missing, own answers": {"orders:write", onError, http.StatusTeapot},
	} {
		t.Run(name, func(t *testing.T) {
			protect, err := dpophttp.New(&recorder{result: accepted}, dpophttp.Config{Origins: []string{"https://api.example.com"}, OnError: test.onError})
			require.NoError(t, err)
			w := httptest.NewRecorder()
			protect(dpophttp.RequireScope(test.scope)(ok)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			if w.Code != test.want {
				t.Errorf("R172: status is %d, want %d", w.Code, test.want)
			}
		})
	}
	t.Run("outside of the middleware", func(t *testing.T) {
		w := httptest.NewRecorder()
		dpophttp.RequireScope()(ok).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if w.Code != http.StatusInternalServerError {
			t.Errorf("status is %d, want 500: nobody has verified the request", w.Code)
		}
	})
}

func TestConfigErrors(t *testing.T) {
	_, err := dpophttp.New(nil, dpophttp.Config{
		Origins:        []string{"https://api.example.com/", "api.example.com", "https://u@h", "ftp://h", "https://h?q", "https://"},
		PathPrefix:     "v1/",
		TrustedProxies: []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.0.0.0/104")},
		Forwarded:      "Via",
	})
	require.Error(t, err)
	for _, want := range []string{
		"verifier is nil", `Origins has "https://api.example.com/"`, `Origins has "api.example.com"`, `Origins has "https://u@h"`,
		`Origins has "ftp://h"`, `Origins has "https://h?q"`, `Origins has "https://"`, "PathPrefix", "TrustedProxies has the prefix invalid Prefix", `Forwarded is "Via"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	for want, cfg := range map[string]dpophttp.Config{
		"Origins is empty":              {},
		"set Forwarded, too":            {Origins: []string{"https://h"}, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("::/0")}},
		"set TrustedProxies,":           {Origins: []string{"https://h"}, Forwarded: dpophttp.XForwarded},
		`PathPrefix is "/v1?x"`:         {Origins: []string{"https://h"}, PathPrefix: "/v1?x"},
		`PathPrefix is "/a/../b"`:       {Origins: []string{"https://h"}, PathPrefix: "/a/../b"},
		`PathPrefix is "/%zz"`:          {Origins: []string{"https://h"}, PathPrefix: "/%zz"},
		`PathPrefix is "/ü"`:            {Origins: []string{"https://h"}, PathPrefix: "/ü"},
		`Origins has "https://ü"`:       {Origins: []string{"https://ü"}},
		`Origins has "https://h:99999"`: {Origins: []string{"https://h:99999"}},
		`Origins has "https://h:0443"`:  {Origins: []string{"https://h:0443"}},
	} {
		if _, err := dpophttp.New(&recorder{}, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one that says %q", err, want)
		}
	}
}

// TestOnTheWire sends what net/http's client would not: two fields of one name, and a field with a list.
func TestOnTheWire(t *testing.T) {
	key := dpoptest.NewKey()
	token := &dpop.Token{Subject: "alice", Confirmation: dpop.Confirmation{JKT: key.JKT()}}
	store, err := memstore.New(memstore.Config{})
	require.NoError(t, err)
	defer store.Close()
	verifier, err := dpop.NewVerifier(dpop.Config{
		Resolver: dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) { return token, nil }),
		Replay:   store,
	})
	require.NoError(t, err)
	const origin = "https://api.example.com"
	protect, err := dpophttp.New(verifier, dpophttp.Config{Origins: []string{origin}})
	require.NoError(t, err)
	server := httptest.NewServer(protect(ok))
	defer server.Close()
	proof := func() string {
		return dpoptest.Proof(key, dpopclient.Claims{Method: http.MethodGet, URI: origin + "/", AccessToken: "token"})
	}

	for name, test := range map[string]struct {
		fields []string
		want   string
	}{
		"one proof":                     {[]string{"Authorization: DPoP token", "DPoP: " + proof()}, "200"},
		"D11 names in other case":       {[]string{"authorization: dPoP token", "dpop: " + proof()}, "200"},
		"R009 two DPoP fields":          {[]string{"Authorization: DPoP token", "DPoP: " + proof(), "dpop: " + proof()}, "401"},
		"R009 two proofs in one field":  {[]string{"Authorization: DPoP token", "DPoP: " + proof() + ", " + proof()}, "401"},
		"R143 two Authorization fields": {[]string{"Authorization: DPoP token", "Authorization: Bearer token", "DPoP: " + proof()}, "400"},
		"R036 Proxy-Authorization":      {[]string{"Proxy-Authorization: DPoP token", "DPoP: " + proof()}, "401"},
		"D09 two schemes in one field":  {[]string{"Authorization: DPoP token, Bearer token", "DPoP: " + proof()}, "400"},
		"nothing":                       {nil, "401"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n%s\r\n\r\n", strings.Join(append(test.fields, "X: y"), "\r\n"))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			defer resp.Body.Close()
			if got := resp.Status[:3]; got != test.want {
				t.Errorf("status is %s, want %s", got, test.want)
			}
		})
	}
}
