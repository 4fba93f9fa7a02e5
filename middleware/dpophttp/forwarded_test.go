package dpophttp_test

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/middleware/dpophttp"
)

const (
	fromProxy    = "192.0.2.1:1234"
	fromStranger = "198.51.100.1:1234"
)

var someProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}

// B10: a proxy may say which prefix it stripped. That never selects one.
func TestForwardedPrefix(t *testing.T) {
	const right, refused = "https://api.example.com/v1/orders", ""
	config := func(h dpophttp.Header) dpophttp.Config {
		return dpophttp.Config{
			Origins: []string{"https://api.example.com"}, PathPrefix: "/v1", TrustedProxies: someProxies, Forwarded: h,
		}
	}
	noPrefix, noProxies := config(dpophttp.XForwarded), config("")
	noPrefix.PathPrefix, noProxies.TrustedProxies = "", nil

	tests := map[string]struct {
		config dpophttp.Config
		remote string
		lines  []string
		want   string
	}{
		"no field":                 {config(dpophttp.XForwarded), fromProxy, nil, right},
		"the configured one":       {config(dpophttp.XForwarded), fromProxy, []string{"/v1"}, right},
		"with a slash at its end":  {config(dpophttp.XForwarded), fromProxy, []string{"/v1/"}, right},
		"another one":              {config(dpophttp.XForwarded), fromProxy, []string{"/v2"}, refused},
		"a longer one":             {config(dpophttp.XForwarded), fromProxy, []string{"/v1/orders"}, refused},
		"in another case":          {config(dpophttp.XForwarded), fromProxy, []string{"/V1"}, refused},
		"none":                     {config(dpophttp.XForwarded), fromProxy, []string{""}, refused},
		"two of them":              {config(dpophttp.XForwarded), fromProxy, []string{"/v1", "/v1"}, refused},
		"a list":                   {config(dpophttp.XForwarded), fromProxy, []string{"/v1, /v2"}, refused},
		"from a stranger":          {config(dpophttp.XForwarded), fromStranger, []string{"/v2"}, right},
		"no proxy is trusted":      {noProxies, fromProxy, []string{"/v2"}, right},
		"the other family is read": {config(dpophttp.Forwarded), fromProxy, []string{"/v2"}, right},
		"no prefix is configured":  {noPrefix, fromProxy, []string{"/v1"}, "https://api.example.com/orders"},
	}
	// Controls: what takes the prefix from the field, or takes it from anyone, is caught.
	naive := map[string]func(cfg dpophttp.Config, remote string, lines []string) string{
		"the field selects": func(_ dpophttp.Config, _ string, lines []string) string {
			return "https://api.example.com" + strings.Join(lines, "") + "/orders"
		},
		"the field is not read": func(cfg dpophttp.Config, _ string, _ []string) string {
			return "https://api.example.com" + cfg.PathPrefix + "/orders"
		},
		"anyone's field is read": func(cfg dpophttp.Config, _ string, lines []string) string {
			if len(lines) > 0 && strings.Join(lines, ",") != cfg.PathPrefix {
				return ""
			}
			return "https://api.example.com" + cfg.PathPrefix + "/orders"
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			v := &recorder{result: accepted}
			protect, err := dpophttp.New(v, test.config)
			require.NoError(t, err)
			r := httptest.NewRequest(http.MethodGet, "/orders", nil)
			r.RemoteAddr, r.Header["X-Forwarded-Prefix"] = test.remote, test.lines
			if test.lines == nil {
				r.Header = http.Header{}
			}
			protect(ok).ServeHTTP(httptest.NewRecorder(), r)
			if v.got.URI != test.want {
				t.Errorf("B10: X-Forwarded-Prefix: %q: the target URI is %q, want %q", test.lines, v.got.URI, test.want)
			}
		})
		maps.DeleteFunc(naive, func(_ string, uri func(dpophttp.Config, string, []string) string) bool {
			return uri(test.config, test.remote, test.lines) != test.want
		})
	}
	for name := range naive {
		t.Errorf("control: %s, and no case shows it", name)
	}
}

// Ranges that overlap are a mistake in one of them, and most often in the wider one.
func TestOverlappingProxies(t *testing.T) {
	for name, test := range map[string]struct {
		proxies []string
		want    string
	}{
		"one":                        {[]string{"10.0.0.0/8"}, ""},
		"apart":                      {[]string{"10.0.0.0/9", "10.128.0.0/9", "192.0.2.7/32", "fd00::/8"}, ""},
		"IPv4 and IPv6":              {[]string{"0.0.0.0/0", "::/0"}, ""},
		"the same twice":             {[]string{"10.0.0.0/8", "10.0.0.0/8"}, "10.0.0.0/8 and 10.0.0.0/8"},
		"one in another":             {[]string{"10.0.0.0/8", "fd00::/8", "10.1.0.0/16"}, "10.0.0.0/8 and 10.1.0.0/16"},
		"the same, the narrow first": {[]string{"10.1.0.0/16", "10.0.0.0/8"}, "10.1.0.0/16 and 10.0.0.0/8"},
		"host bits that hide it":     {[]string{"10.1.2.3/8", "10.200.0.0/16"}, "10.1.2.3/8 and 10.200.0.0/16"},
		"everything":                 {[]string{"192.0.2.7/32", "0.0.0.0/0"}, "192.0.2.7/32 and 0.0.0.0/0"},
		"IPv6":                       {[]string{"fd00::/8", "fd12::/16"}, "fd00::/8 and fd12::/16"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := dpophttp.Config{Origins: []string{"https://h"}, Forwarded: dpophttp.XForwarded}
			for _, p := range test.proxies {
				cfg.TrustedProxies = append(cfg.TrustedProxies, netip.MustParsePrefix(p))
			}
			switch _, err := dpophttp.New(&recorder{}, cfg); {
			case test.want == "":
				if err != nil {
					t.Errorf("error is %v, want none", err)
				}
			case err == nil || !strings.Contains(err.Error(), "TrustedProxies has "+test.want+", which overlap"):
				t.Errorf("error is %v, want one that names %s", err, test.want)
			}
		})
	}
}

// F12: a browser asks without credentials whether it may send a request, and is answered by CORS middleware. No more than
// that passes unprotected, and only where it is allowed.
func TestPreflight(t *testing.T) {
	type request struct {
		method string
		header http.Header
	}
	fields := func(names ...string) http.Header {
		h := http.Header{}
		for _, name := range names {
			h[name] = []string{map[string]string{"Origin": "https://app.example.com", "Access-Control-Request-Method": "PUT"}[name]}
		}
		return h
	}
	const origin, method = "Origin", "Access-Control-Request-Method"
	tests := map[string]struct {
		request
		passes bool
	}{
		"preflight":            {request{"OPTIONS", fields(origin, method)}, true},
		"with the fields":      {request{"OPTIONS", fields(origin, method, "Access-Control-Request-Headers")}, true},
		"and Authorization":    {request{"OPTIONS", fields(origin, method, "Authorization")}, false},
		"and a proof":          {request{"OPTIONS", fields(origin, method, "Dpop")}, false},
		"no Origin":            {request{"OPTIONS", fields(method)}, false},
		"no method asked for":  {request{"OPTIONS", fields(origin)}, false},
		"a plain OPTIONS":      {request{"OPTIONS", fields()}, false},
		"another method":       {request{"GET", fields(origin, method)}, false},
		"the method in lower":  {request{"options", fields(origin, method)}, false},
		"a method override":    {request{"PUT", fields(origin, method, "X-Http-Method-Override")}, false},
		"what it asks to send": {request{"PUT", fields(origin)}, false},
	}
	naive := map[string]func(request) bool{ // controls
		"every OPTIONS passes": func(r request) bool { return r.method == "OPTIONS" },
		"every OPTIONS of another origin passes": func(r request) bool {
			return r.method == "OPTIONS" && r.header[origin] != nil
		},
		"every OPTIONS without a token passes": func(r request) bool {
			return r.method == "OPTIONS" && r.header["Authorization"] == nil
		},
		"whatever has the fields passes": func(r request) bool { return r.header[origin] != nil && r.header[method] != nil },
		"credentials do not matter": func(r request) bool {
			return r.method == "OPTIONS" && r.header[origin] != nil && r.header[method] != nil
		},
		"nothing passes": func(request) bool { return false },
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for _, allowed := range []bool{true, false} {
				v := &verifierOf{err: &dpop.Error{Code: dpop.CodeInvalidProof, Status: 401, Challenges: []string{"DPoP"}}}
				protect, err := dpophttp.New(v, dpophttp.Config{Origins: []string{"https://api.example.com"}, AllowPreflight: allowed})
				require.NoError(t, err)
				r := httptest.NewRequest(http.MethodGet, "/orders", nil)
				r.Method, r.Header = test.method, test.header.Clone()
				reached := false
				answer := httptest.NewRecorder()
				protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					reached = true
					if _, found := dpop.FromContext(r.Context()); found {
						t.Error("F12: the handler finds a Result of a request that was not checked")
					}
					w.WriteHeader(http.StatusNoContent)
				})).ServeHTTP(answer, r)
				if want := allowed && test.passes; reached != want || v.called == want {
					t.Errorf("F12: AllowPreflight %v: reaches the handler: %v, the Verifier: %v; want %v, %v",
						allowed, reached, v.called, want, !want)
				}
				exposed := answer.Header()["Access-Control-Expose-Headers"]
				if want := test.header[origin] != nil && !reached; (exposed != nil) != want {
					t.Errorf("F12: AllowPreflight %v: the answer exposes %q", allowed, exposed)
				}
			}
		})
		maps.DeleteFunc(naive, func(_ string, passes func(request) bool) bool { return passes(test.request) != test.passes })
	}
	for name := range naive {
		t.Errorf("control: %s, and no case shows it", name)
	}
}

// verifierOf answers the same to all, and knows whether it was asked.
type verifierOf struct {
	called bool
	result *dpop.Result
	err    error
}

func (v *verifierOf) Verify(context.Context, dpop.Request) (*dpop.Result, error) {
	v.called = true
	return v.result, v.err
}

// R037: a script of another origin can read what it needs for its next proof, of an answer that grants and of one that
// refuses, beside what a CORS middleware exposes.
func TestExposedFields(t *testing.T) {
	withNonce := *accepted
	withNonce.Nonce = "next"
	refusal := &dpop.Error{Code: dpop.CodeUseNonce, Status: 401, Challenges: []string{"DPoP"}, Nonce: "next"}
	for name, test := range map[string]struct {
		v     verifierOf
		inner http.HandlerFunc
		want  int
	}{
		"accepted":           {verifierOf{result: accepted}, ok, 200},
		"with a nonce":       {verifierOf{result: &withNonce}, ok, 200},
		"refused":            {verifierOf{err: refusal}, ok, 401},
		"insufficient scope": {verifierOf{result: accepted}, dpophttp.RequireScope("orders:write")(ok).ServeHTTP, 403},
	} {
		t.Run(name, func(t *testing.T) {
			protect, err := dpophttp.New(&test.v, dpophttp.Config{Origins: []string{"https://api.example.com"}})
			require.NoError(t, err)
			cors := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // as a middleware outside does
				w.Header().Set("Access-Control-Expose-Headers", "X-Total")
				protect(test.inner).ServeHTTP(w, r)
			})
			for origin, want := range map[string][]string{
				"https://app.example.com": {"DPoP-Nonce", "Date", "WWW-Authenticate", "X-Total"},
				"null":                    {"DPoP-Nonce", "Date", "WWW-Authenticate", "X-Total"},
				"":                        {"X-Total"}, // control: who is of the same origin may read all
			} {
				r := httptest.NewRequest(http.MethodGet, "/orders", nil)
				if origin != "" {
					r.Header.Set("Origin", origin)
				}
				answer := httptest.NewRecorder()
				cors.ServeHTTP(answer, r)
				exposed := strings.Split(strings.Join(answer.Header().Values("Access-Control-Expose-Headers"), ", "), ", ")
				slices.Sort(exposed)
				slices.Sort(want)
				if answer.Code != test.want || !slices.Equal(exposed, want) {
					t.Errorf("R037: origin %q: status %d exposes %q, want %d, %q", origin, answer.Code, exposed, test.want, want)
				}
				if answer.Header().Get("Access-Control-Allow-Origin") != "" {
					t.Error("R037: which origins may read answers is for a CORS middleware to decide")
				}
			}
		})
	}
}

// R036: what is for a proxy on the way is no credential here, and no answer asks for one.
func TestProxyAuthorization(t *testing.T) {
	v := &recorder{err: &dpop.Error{Code: dpop.CodeInvalidToken, Status: 401, Challenges: []string{"DPoP"}}}
	protect, err := dpophttp.New(v, dpophttp.Config{Origins: []string{"https://api.example.com"}})
	require.NoError(t, err)
	for name, authorization := range map[string][]string{"alone": nil, "beside a token": {"DPoP token"}} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/orders", nil)
			r.Header = http.Header{"Proxy-Authorization": {"DPoP other"}, "Authorization": authorization}
			answer := httptest.NewRecorder()
			protect(ok).ServeHTTP(answer, r)
			if !slices.Equal(v.got.Authorization, authorization) {
				t.Errorf("R036: the Verifier gets the credentials %q, want %q", v.got.Authorization, authorization)
			}
			if answer.Code != 401 || answer.Header()["Proxy-Authenticate"] != nil {
				t.Errorf("R036: status %d, Proxy-Authenticate %q; want 401, none", answer.Code, answer.Header()["Proxy-Authenticate"])
			}
		})
	}
}
