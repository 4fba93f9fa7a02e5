//go:build !race

package dpophttp_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/middleware/dpophttp"
)

// TestCost compares what the middleware adds to Verify with the one ES256 verification that a request must cost. The bars are
// 3 % and 6 allocations.
func TestCost(t *testing.T) {
	if testing.Short() {
		t.Skip("times mean nothing with -short")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	sum := sha256.Sum256([]byte("proof"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	require.NoError(t, err)
	verify := func() { ecdsa.VerifyASN1(&key.PublicKey, sum[:], sig) }

	one := dpophttp.Config{Origins: []string{"https://api.example.com"}}
	several := behindProxy(dpophttp.Config{PathPrefix: "/v1", Forwarded: dpophttp.XForwarded, OnError: answer})
	several.Origins = []string{"https://api.example.com", "https://api.example.org", "http://api.example.org"}
	withNonce := *accepted
	withNonce.Nonce = "next"
	for name, test := range map[string]struct {
		config dpophttp.Config
		result *dpop.Result
		origin string
		more   func(*http.Request) // what a naive one does beside
	}{
		"one origin":                   {one, accepted, "", nil},
		"several origins, and OnError": {several, accepted, "", nil},
		"the same, of a script":        {several, accepted, "https://app.example.com", nil},
		"of a script, with a nonce":    {one, &withNonce, "https://app.example.com", nil},
		// The last two at once would make 7, but few answers carry a newer nonce.
		"control": {one, accepted, "", func(r *http.Request) { _ = r.Clone(r.Context()); verify() }},
	} {
		r := httptest.NewRequest(http.MethodGet, "/orders/7?page=2", nil)
		r.RemoteAddr = proxyAddress
		r.Header.Set("Authorization", "DPoP token")
		r.Header.Set("DPoP", "proof")
		r.Header.Set("X-Forwarded-Host", "api.example.org")
		r.Header.Set("X-Forwarded-Proto", "https")
		r.Header.Set("X-Forwarded-Prefix", "/v1")
		if test.origin != "" {
			r.Header.Set("Origin", test.origin)
		}
		reached := 0
		protect, err := dpophttp.New(stub{test.result}, test.config)
		require.NoError(t, err)
		handler := protect(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			reached++
			if test.more != nil {
				test.more(r)
			}
		}))
		w := nowhere{}
		serve := func() { clear(w); handler.ServeHTTP(w, r) }

		allocations := testing.AllocsPerRun(1000, serve)
		cost, floor := fastest(serve, verify)
		t.Logf("%s: %v, %.0f allocations, ES256 %v: %.2f %%", name, cost, allocations, floor, 100*float64(cost)/float64(floor))
		isControl := test.more != nil
		if (cost > floor*3/100) != isControl {
			t.Errorf("%s: the middleware takes %v, and the bar is 3 %% of an ES256 verification, %v", name, cost, floor)
		}
		if (allocations > 6) != isControl {
			t.Errorf("%s: the middleware makes %.0f allocations, and the bar is 6", name, allocations)
		}
		if reached < 1000 {
			t.Errorf("%s: the handler was reached %d times, so this measures something else", name, reached)
		}
	}
}

// fastest returns how long f and floor take. They take turns, so that a busy machine slows both alike, and of many short rounds
// the fastest is the one that nothing else disturbed.
func fastest(f, floor func()) (_, _ time.Duration) {
	measure := func(f func(), times time.Duration, best *time.Duration) {
		start := time.Now()
		for range times {
			f()
		}
		*best = min(*best, time.Since(start)/times)
	}
	cost, least := time.Hour, time.Hour
	for range 200 {
		measure(f, 100, &cost)
		measure(floor, 10, &least)
	}
	return cost, least
}

func answer(w http.ResponseWriter, _ *http.Request, err error) { dpop.WriteError(w, err) }

// A stub is a RequestVerifier that costs nothing.
type stub struct{ result *dpop.Result }

func (s stub) Verify(context.Context, dpop.Request) (*dpop.Result, error) { return s.result, nil }

// A nowhere is a ResponseWriter that costs nothing but what is written into its fields.
type nowhere http.Header

func (w nowhere) Header() http.Header         { return http.Header(w) }
func (w nowhere) WriteHeader(int)             {}
func (w nowhere) Write(b []byte) (int, error) { return len(b), nil }

// B10: a scheme that neither origin of a host has selects none. Here, since this choice makes no list of them, to save an
// allocation.
func TestSchemeOfNeitherOrigin(t *testing.T) {
	cfg := behindProxy(dpophttp.Config{Forwarded: dpophttp.XForwarded})
	cfg.Origins = []string{"https://api.example.com", "http://api.example.com"}
	for scheme, want := range map[string]string{"ftp": "", "http": "http://api.example.com/", "HTTPS": "https://api.example.com/"} {
		v := &recorder{result: accepted}
		protect, err := dpophttp.New(v, cfg)
		require.NoError(t, err)
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host, r.RemoteAddr = "api.example.com", proxyAddress
		r.Header.Set("X-Forwarded-Proto", scheme)
		protect(ok).ServeHTTP(httptest.NewRecorder(), r)
		if v.got.URI != want {
			t.Errorf("B10: the proxy says %s: the target is %q, want %q", scheme, v.got.URI, want)
		}
	}
}
