package atjwt_test

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
)

// All tests below run in synctest bubbles: their time is the bubble's, in which waiting costs nothing.

func tokenBy(key crypto.Signer, kid string) string {
	return sign(key, "ES256", members{"typ": "at+jwt", "kid": kid}, must(json.Marshal(rfc9068())))
}

func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// RFC 8414 and OpenID Connect Discovery: where the keys are looked for, and whose word is taken.
func TestDiscovery(t *testing.T) {
	const origin = "https://id.example.com"
	metadata := func(issuer, jwksURI string) http.HandlerFunc {
		return document(members{"issuer": issuer, "jwks_uri": jwksURI})
	}
	good := metadata(issuerURL, origin+jwksPath)
	for name, test := range map[string]struct {
		routes map[string]http.HandlerFunc
		issuer string
		jwks   string
		fails  string // what the error says, or "" if all is well
	}{
		"RFC 8414":                  {routes: map[string]http.HandlerFunc{oauthPath: good, openIDPath: status(500)}},
		"OpenID, as 404 came first": {routes: map[string]http.HandlerFunc{openIDPath: good}},
		"OpenID, as 403 came first": {routes: map[string]http.HandlerFunc{oauthPath: status(403), openIDPath: good}},
		"neither":                   {routes: map[string]http.HandlerFunc{openIDPath: nil}, fails: openIDPath + " answered 404"},
		"500 is not 404":            {routes: map[string]http.HandlerFunc{oauthPath: status(500)}, fails: oauthPath + " answered 500"},
		"issuer with a slash": {
			routes: map[string]http.HandlerFunc{"/.well-known/oauth-authorization-server": metadata(origin+"/", origin+jwksPath)},
			issuer: origin + "/",
		},
		"issuer without a path": {
			routes: map[string]http.HandlerFunc{"/.well-known/openid-configuration": metadata(origin, origin+jwksPath)},
			issuer: origin,
		},
		"D16 metadata of another issuer": {
			routes: map[string]http.HandlerFunc{oauthPath: metadata(origin+"/realms/other", origin+jwksPath)},
			fails:  `the metadata are those of "https://id.example.com/realms/other"`,
		},
		"metadata without issuer":    {routes: map[string]http.HandlerFunc{oauthPath: document(members{"jwks_uri": origin + jwksPath})}, fails: "the metadata are those of"},
		"metadata without jwks_uri":  {routes: map[string]http.HandlerFunc{oauthPath: document(members{"issuer": issuerURL})}, fails: "no jwks_uri"},
		"metadata are not JSON":      {routes: map[string]http.HandlerFunc{oauthPath: text("<html>")}, fails: "is not a JSON object"},
		"jwks_uri over http":         {routes: map[string]http.HandlerFunc{oauthPath: metadata(issuerURL, "http://id.example.com"+jwksPath)}, fails: "neither https nor"},
		"jwks_uri is relative":       {routes: map[string]http.HandlerFunc{oauthPath: metadata(issuerURL, jwksPath)}, fails: "not an absolute URL"},
		"D18 redirect to other host": {routes: map[string]http.HandlerFunc{oauthPath: redirect("https://evil.example.com" + openIDPath)}, fails: "redirects to another origin"},
		"D18 redirect to http":       {routes: map[string]http.HandlerFunc{oauthPath: redirect("http://id.example.com" + openIDPath)}, fails: "redirects to another origin"},
		"D18 redirect to other port": {routes: map[string]http.HandlerFunc{oauthPath: redirect("https://id.example.com:8443" + openIDPath)}, fails: "redirects to another origin"},
		"D18 redirect without end":   {routes: map[string]http.HandlerFunc{oauthPath: redirect(oauthPath)}, fails: "redirects more than 3 times"},
		"redirect within the origin": {routes: map[string]http.HandlerFunc{oauthPath: redirect(openIDPath)}},
		"JWKSURI, no discovery": {
			routes: map[string]http.HandlerFunc{openIDPath: status(500), "/keys": document(members{"keys": all()})},
			jwks:   origin + "/keys",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIssuer(all()...)
				for path, h := range test.routes {
					i.route(path, h)
				}
				cfg := config(i)
				if test.issuer != "" {
					cfg.Issuer = test.issuer
				}
				cfg.JWKSURI = test.jwks
				_, err := newResolver(t, cfg).ResolveToken(t.Context(), token(nil, members{"iss": cfg.Issuer}))
				if test.fails == "" {
					require.NoError(t, err)
					return
				}
				requireUnavailable(t, err)
				require.ErrorContains(t, err, test.fails)
				require.LessOrEqual(t, i.count(oauthPath), 4, "redirects are followed too often")
			})
		})
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

// The caller's own CheckRedirect is asked, too, and the caller's client is left as it was.
func TestHTTPClientIsCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(all()...)
		i.route(oauthPath, redirect(openIDPath))
		cfg := config(i)
		cfg.HTTPClient.CheckRedirect = func(*http.Request, []*http.Request) error { return errors.New("not at all") }
		_, err := newResolver(t, cfg).ResolveToken(t.Context(), token(nil, nil))
		require.ErrorContains(t, err, "not at all")
		require.EqualError(t, cfg.HTTPClient.CheckRedirect(nil, nil), "not at all")
	})
}

// jwks_uri may move: a scheduled refresh follows it.
func TestJWKSURIMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(all()...)
		r := newResolver(t, config(i))
		synctest.Wait()
		i.route(openIDPath, document(members{"issuer": issuerURL, "jwks_uri": "https://id.example.com/new"}))
		i.route("/new", document(members{"keys": []members{publicJWK(otherKey(), members{"kid": "new"})}}))
		sleep(atjwt.DefaultRefreshInterval)
		_, err := r.ResolveToken(t.Context(), tokenBy(otherKey(), "new"))
		require.NoError(t, err)
	})
}

// A key that the issuer rotates to is believed with the first token that names it; the old one as long as it is
// published, and not one RefreshInterval longer, in the cache or not.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ec, other := publicJWK(ecKey(), members{"kid": "ec"}), publicJWK(otherKey(), members{"kid": "new"})
		i := newIssuer(ec)
		r := newResolver(t, config(i))
		life := members{"exp": time.Now().Add(time.Hour).Unix()}
		old := token(nil, life)
		first, err := r.ResolveToken(t.Context(), old)
		require.NoError(t, err)
		sleep(time.Minute)

		i.publish(other, ec)
		_, err = r.ResolveToken(t.Context(), tokenBy(otherKey(), "new"))
		require.NoError(t, err)
		require.Equal(t, 2, i.count(jwksPath))
		require.Equal(t, 1, i.count(openIDPath), "a fetch that a request waits for goes to the keys directly")
		again, err := r.ResolveToken(t.Context(), old)
		require.NoError(t, err)
		require.Same(t, first, again, "a key that came is no reason to forget")

		i.publish(other)
		sleep(atjwt.DefaultRefreshInterval)
		require.Equal(t, 3, i.count(jwksPath))
		_, ok := r.Cached(sum(old))
		require.False(t, ok)
		_, err = r.ResolveToken(t.Context(), old)
		require.ErrorIs(t, err, dpop.ErrTokenSignature)
	})
}

// A key that is now for another algorithm is not the key that verified.
func TestKeyChangesAlgorithm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(publicJWK(rsaKey(), members{"kid": "rsa", "alg": "RS256"}))
		r := newResolver(t, config(i))
		tok := sign(rsaKey(), "RS256", members{"typ": "at+jwt", "kid": "rsa"}, must(json.Marshal(rfc9068().with(members{"exp": time.Now().Unix() + 3600}))))
		sleep(4 * time.Minute)
		_, err := r.ResolveToken(t.Context(), tok)
		require.NoError(t, err)
		i.publish(publicJWK(rsaKey(), members{"kid": "rsa", "alg": "PS256"}))
		sleep(time.Minute)
		_, ok := r.Cached(sum(tok))
		require.False(t, ok)
		_, err = r.ResolveToken(t.Context(), tok)
		require.ErrorIs(t, err, dpop.ErrTokenSignature)
	})
}

// What was verified by a key that the issuer has taken back in any way is not served from the cache.
func TestWithdrawnKey(t *testing.T) {
	for name, test := range map[string]struct {
		now       []members
		withdrawn bool
	}{
		"the control: unchanged": {[]members{publicJWK(ecKey(), members{"kid": "ec"})}, false},
		"the control: one more":  {[]members{publicJWK(p384Key(), members{"kid": "p"}), publicJWK(ecKey(), members{"kid": "ec"})}, false},
		"gone":                   {[]members{publicJWK(p384Key(), members{"kid": "p"})}, true},
		"replaced":               {[]members{publicJWK(otherKey(), members{"kid": "ec"})}, true},
		"renamed":                {[]members{publicJWK(ecKey(), members{"kid": "other"})}, true},
		"now for encryption":     {[]members{publicJWK(ecKey(), members{"kid": "ec", "use": "enc"}), publicJWK(p384Key(), nil)}, true},
		"now for ECDH-ES":        {[]members{publicJWK(ecKey(), members{"kid": "ec", "alg": "ECDH-ES"}), publicJWK(p384Key(), nil)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIssuer(publicJWK(ecKey(), members{"kid": "ec"}))
				cfg := config(i)
				cfg.RefreshInterval = time.Minute
				r := newResolver(t, cfg)
				old := token(nil, nil)
				_, err := r.ResolveToken(t.Context(), old)
				require.NoError(t, err)

				i.publish(test.now...)
				sleep(time.Minute)
				_, ok := r.Cached(sum(old))
				require.Equal(t, !test.withdrawn, ok)
				_, err = r.ResolveToken(t.Context(), old)
				if test.withdrawn {
					require.ErrorIs(t, err, dpop.ErrTokenSignature)
				} else {
					require.NoError(t, err)
				}
			})
		})
	}
}

// D18: what the issuer answers when it is not well never replaces good keys, and is forgotten when it is well again.
func TestOutage(t *testing.T) {
	enc := publicJWK(otherKey(), members{"kid": "e", "use": "enc"})
	for name, broken := range map[string]http.HandlerFunc{
		"500": status(500),
		"204": status(204),
		"206": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprintf(w, "%s", must(json.Marshal(members{"keys": all()})))
		},
		"404":            status(404),
		"empty set":      document(members{"keys": []members{}}),
		"no keys":        document(members{}),
		"keys null":      text(`{"keys":null}`),
		"keys an object": text(`{"keys":{}}`),
		"not JSON":       text("<html>"),
		"empty":          text(""),
		"cut":            text(`{"keys":[`),
		"unfit keys":     document(members{"keys": []members{enc, {"kty": "oct", "k": "AAAA"}}}),
		"huge": func(w http.ResponseWriter, _ *http.Request) {
			// A good set, but for its size.
			fmt.Fprintf(w, `{"pad":"%s",%s`, strings.Repeat("x", 512<<10), must(json.Marshal(members{"keys": all()}))[1:])
		},
		"endless": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Repeat("x", 4<<20))
		},
		"hangs":      hang,
		"other host": redirect("https://evil.example.com/certs"),
		"hijacked":   redirect("http://id.example.com" + jwksPath),
		"other host, 307": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example.com/", http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIssuer(all()...)
				r := newResolver(t, config(i))
				_, err := r.ResolveToken(t.Context(), token(nil, nil))
				require.NoError(t, err)

				i.route(jwksPath, broken)
				sleep(atjwt.DefaultRefreshInterval + 6*time.Second) // and the timeout of what hangs
				require.Greater(t, i.count(jwksPath), 1)
				require.Zero(t, i.count("/certs"))
				_, err = r.ResolveToken(t.Context(), token(nil, members{"jti": "2"}))
				require.NoError(t, err, "known keys survive")
				_, err = r.ResolveToken(t.Context(), tokenBy(otherKey(), "new"))
				requireUnavailable(t, err) // whether there is such a key is not known

				i.publish(publicJWK(otherKey(), members{"kid": "new"}))
				sleep(atjwt.DefaultRefreshInterval)
				_, err = r.ResolveToken(t.Context(), tokenBy(otherKey(), "new"))
				require.NoError(t, err)
			})
		})
	}
}

// An issuer that is down at start: requests are told at once that the token cannot be judged, fetches are retried ever more
// seldom, and MinRefreshInterval after the issuer is back at the latest a request gets its answer.
func TestIssuerDownAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(all()...)
		i.route(oauthPath, status(502))
		r := newResolver(t, config(i))
		start := time.Now()
		for range 100 {
			_, err := r.ResolveToken(t.Context(), token(nil, nil))
			requireUnavailable(t, err)
			require.ErrorContains(t, err, "502", "says why")
		}
		require.Zero(t, time.Since(start), "a request waited for an issuer that is down")
		require.Equal(t, 1, i.count(oauthPath))
		sleep(10 * time.Minute)
		require.Less(t, i.count(oauthPath), 12, "no back-off")
		require.Greater(t, i.count(oauthPath), 4, "no retries")

		i.route(oauthPath, nil)
		sleep(atjwt.DefaultMinRefreshInterval) // the last fetch may have been a moment ago
		_, err := r.ResolveToken(t.Context(), token(nil, nil))
		require.NoError(t, err)
	})
}

// Requests that come before the first fetch has ended wait for it.
func TestFirstFetchIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(all()...)
		i.latency = time.Second
		r := newResolver(t, config(i))
		_, ok := r.Cached(sum("x"))
		require.False(t, ok)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, err := r.ResolveToken(t.Context(), token(nil, nil))
				assert.NoError(t, err)
			})
		}
		wg.Wait()
		require.Equal(t, 1, i.count(jwksPath), "one fetch in flight")
	})
}

// A request that waits ends with its context; that is no verdict on the token, and no one else's business.
func TestCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(all()...)
		i.latency = time.Second
		r := newResolver(t, config(i))
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := r.ResolveToken(t.Context(), token(nil, nil))
			assert.NoError(t, err)
		})
		_, err := r.ResolveToken(ctx, token(nil, nil))
		requireUnavailable(t, err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		wg.Wait()
	})
}

// No more than 256 requests wait for a fetch; those who come after are told at once, and those who have waited make room.
func TestWaitersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(all()...)
		i.latency = time.Second
		r := newResolver(t, config(i))
		var wg sync.WaitGroup
		var good, crowded atomic.Int64
		for range 300 {
			wg.Go(func() {
				start := time.Now()
				if _, err := r.ResolveToken(t.Context(), token(nil, nil)); err == nil {
					good.Add(1)
				} else if !errors.Is(err, dpop.ErrTokenInvalid) && time.Since(start) == 0 {
					crowded.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 256, good.Load())
		require.EqualValues(t, 44, crowded.Load())

		sleep(time.Minute)
		i.publish(publicJWK(otherKey(), members{"kid": "new"}))
		_, err := r.ResolveToken(t.Context(), tokenBy(otherKey(), "new"))
		require.NoError(t, err)
	})
}

// A request waits for two fetches at most, even where the next may always begin at once.
func TestWaitingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(all()...)
		i.latency = time.Second
		cfg := config(i)
		cfg.MinRefreshInterval = time.Millisecond
		r := newResolver(t, cfg)
		sleep(time.Minute)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := r.ResolveToken(ctx, tokenBy(otherKey(), "made-up"))
		require.ErrorIs(t, err, dpop.ErrTokenSignature)
		require.LessOrEqual(t, time.Since(start), 2*time.Second)
	})
}

// An answer that does not end is not read to its end.
func TestBodyIsCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := &spaces{left: 64 << 20}
		cfg := config(nil)
		cfg.HTTPClient = &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(body), Request: r}, nil
		})}
		_, err := newResolver(t, cfg).ResolveToken(t.Context(), token(nil, nil))
		requireUnavailable(t, err)
		require.ErrorContains(t, err, "more than 524288 bytes")
		require.Less(t, 64<<20-body.left, 1<<20)
	})
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type spaces struct{ left int }

func (s *spaces) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n := copy(p, strings.Repeat(" ", min(len(p), s.left)))
	s.left -= n
	return n, nil
}

// A fetch that hangs is given up after 5 s, and those who wait for it are told.
func TestFetchTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(all()...)
		i.route(jwksPath, hang)
		r := newResolver(t, config(i))
		start := time.Now()
		_, err := r.ResolveToken(t.Context(), token(nil, nil))
		requireUnavailable(t, err)
		require.Equal(t, 5*time.Second, time.Since(start))
	})
}

// A token by a new key that comes within MinRefreshInterval of a scheduled fetch waits for the next one.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(all()...)
		r := newResolver(t, config(i))
		sleep(time.Second)
		i.publish(publicJWK(otherKey(), members{"kid": "new"}))
		start := time.Now()
		_, err := r.ResolveToken(t.Context(), tokenBy(otherKey(), "new"))
		require.NoError(t, err)
		require.Equal(t, 4*time.Second, time.Since(start))

		// It brought something, so the next one waits as well; then it is seen that this is in vain.
		for _, wait := range []time.Duration{5 * time.Second, 0, 0} {
			start = time.Now()
			_, err = r.ResolveToken(t.Context(), tokenBy(otherKey(), "unknown"))
			require.ErrorIs(t, err, dpop.ErrTokenSignature)
			require.Equal(t, wait, time.Since(start))
		}
	})
}

// A scheduled fetch that brings nothing new is no reason for impatience.
func TestPatienceAfterRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(all()...)
		r := newResolver(t, config(i))
		for i.count(jwksPath) < 2 {
			sleep(time.Second)
		}
		i.publish(publicJWK(otherKey(), members{"kid": "new"}))
		_, err := r.ResolveToken(t.Context(), tokenBy(otherKey(), "new"))
		require.NoError(t, err)
	})
}

// A token by an unknown key causes one fetch, and none later on.
func TestOneFetchForOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(all()...)
		r := newResolver(t, config(i))
		sleep(time.Minute)
		_, err := r.ResolveToken(t.Context(), tokenBy(otherKey(), "made-up"))
		require.ErrorIs(t, err, dpop.ErrTokenSignature)
		require.Equal(t, 2, i.count(jwksPath))
		sleep(time.Minute)
		require.Equal(t, 2, i.count(jwksPath))
	})
}

// With a long MinRefreshInterval no request waits for its end.
func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(newIssuer(all()...))
		cfg.MinRefreshInterval = time.Minute
		r := newResolver(t, cfg)
		synctest.Wait()
		start := time.Now()
		_, err := r.ResolveToken(t.Context(), tokenBy(otherKey(), "new"))
		require.ErrorIs(t, err, dpop.ErrTokenSignature)
		require.Zero(t, time.Since(start))
	})
}

// D17: a flood of key identifiers made up causes one fetch per MinRefreshInterval, piles up no goroutines, never gets a
// 503 out of a healthy server, puts off neither a rotation nor known keys, and is no other issuer's business.
func TestFlood(t *testing.T) {
	for name, latency := range map[string]time.Duration{"quick issuer": 30 * time.Millisecond, "slow issuer": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { flood(t, latency) })
		})
	}
}

func flood(t *testing.T, latency time.Duration) {
	const requests, lasting = 10_000, 40 * time.Second
	i := newIssuer(publicJWK(ecKey(), members{"kid": "ec"}))
	r := newResolver(t, config(i))
	_, err := r.ResolveToken(t.Context(), token(nil, nil))
	require.NoError(t, err)
	sleep(time.Minute)
	i.latency = latency
	before := i.count(jwksPath)

	// The token that is sent is the same but for kid: signing 10,000 would take long, and no one looks at the signature.
	parts := strings.Split(tokenBy(otherKey(), "made-up"), ".")
	var wg sync.WaitGroup
	var open, most, cannotTell atomic.Int64
	for n := range requests {
		wg.Go(func() {
			time.Sleep(lasting * time.Duration(n) / requests)
			now := open.Add(1)
			defer open.Add(-1)
			for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
			}
			header := unsigned(members{"alg": "ES256", "kid": fmt.Sprint("made-up-", n)}, nil)
			_, err := r.ResolveToken(t.Context(), strings.Split(header, ".")[0]+"."+parts[1]+"."+parts[2])
			if !errors.Is(err, dpop.ErrTokenInvalid) {
				cannotTell.Add(1)
			}
		})
	}
	sleep(12 * time.Second)

	start := time.Now()
	_, err = r.ResolveToken(t.Context(), token(nil, members{"jti": "2"}))
	require.NoError(t, err)
	require.Zero(t, time.Since(start), "the flood delayed a token by a known key")

	i.publish(publicJWK(ecKey(), members{"kid": "ec"}), publicJWK(otherKey(), members{"kid": "new"}))
	for rotated := tokenBy(otherKey(), "new"); ; time.Sleep(100 * time.Millisecond) {
		if _, err = r.ResolveToken(t.Context(), rotated); err == nil {
			break
		}
		require.ErrorIs(t, err, dpop.ErrTokenInvalid)
		require.Less(t, time.Since(start), time.Minute)
	}
	require.LessOrEqual(t, time.Since(start), atjwt.DefaultMinRefreshInterval+latency+100*time.Millisecond, "the flood delayed a rotation")
	require.Less(t, time.Since(start), lasting-12*time.Second, "the control: the flood goes on")

	wg.Wait()
	require.LessOrEqual(t, i.count(jwksPath)-before, int(lasting/atjwt.DefaultMinRefreshInterval)+1, "a storm of fetches")
	require.Greater(t, i.count(jwksPath)-before, 5, "the control: the flood asked for fetches")
	require.LessOrEqual(t, most.Load(), int64(257), "requests pile up") // 256 wait, and one is being answered
	require.Zero(t, cannotTell.Load(), "the flood made a healthy server answer 503")
}

// A second issuer has its own state.
func TestIssuersAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newIssuer(all()...), newIssuer(all()...)
		first, second := newResolver(t, config(one)), newResolver(t, config(two))
		sleep(time.Minute)
		for range 3 {
			_, err := first.ResolveToken(t.Context(), tokenBy(otherKey(), "made-up"))
			require.ErrorIs(t, err, dpop.ErrTokenSignature)
		}
		two.publish(publicJWK(otherKey(), members{"kid": "new"}))
		start := time.Now()
		_, err := second.ResolveToken(t.Context(), tokenBy(otherKey(), "new"))
		require.NoError(t, err)
		require.Zero(t, time.Since(start))
	})
}

// After the end of its context a Resolver judges by the keys it has, and fetches no more. That no goroutine is left, the bubble
// sees to: it would not end.
func TestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(all()...)
		ctx, cancel := context.WithCancel(context.Background())
		var log bytes.Buffer
		cfg := config(i)
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		r, err := atjwt.NewResolver(ctx, cfg)
		require.NoError(t, err)
		synctest.Wait()

		i.latency = time.Second
		sleep(time.Minute)
		var wg sync.WaitGroup
		wg.Go(func() { // one that waits for a fetch meanwhile
			_, err := r.ResolveToken(context.Background(), tokenBy(otherKey(), "new"))
			assert.ErrorContains(t, err, "has ended")
			assert.NotErrorIs(t, err, dpop.ErrTokenInvalid)
		})
		synctest.Wait()
		cancel()
		wg.Wait()

		_, err = r.ResolveToken(context.Background(), token(nil, nil))
		require.NoError(t, err)
		_, err = r.ResolveToken(context.Background(), tokenBy(otherKey(), "newer"))
		requireUnavailable(t, err)
		require.ErrorContains(t, err, "has ended")
		require.NotContains(t, log.String(), "failed", "the fetch that was broken off is no failure of the issuer's")
	})
	t.Run("before the first fetch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			i := newIssuer(all()...)
			r, err := atjwt.NewResolver(ctx, config(i))
			require.NoError(t, err)
			_, err = r.ResolveToken(context.Background(), token(nil, nil))
			requireUnavailable(t, err)
		})
	})
}

// The same over a real connection: TLS, Keycloak's paths, and a redirect of the key set to another server.
func TestOverNetwork(t *testing.T) {
	i := newIssuer(all()...)
	server := httptest.NewTLSServer(i)
	defer server.Close()
	issuer := server.URL + "/realms/demo"
	i.route(openIDPath, document(members{"issuer": issuer, "jwks_uri": server.URL + jwksPath}))
	cfg := atjwt.Config{Issuer: issuer, Audience: audience, HTTPClient: server.Client()}
	tok := token(nil, members{"iss": issuer})
	_, err := newResolver(t, cfg).ResolveToken(t.Context(), tok)
	require.NoError(t, err)

	other := httptest.NewTLSServer(i)
	defer other.Close()
	i.route(jwksPath, redirect(other.URL+"/certs"))
	i.route("/certs", document(members{"keys": all()}))
	_, err = newResolver(t, cfg).ResolveToken(t.Context(), tok)
	requireUnavailable(t, err)
	require.ErrorContains(t, err, "redirects to another origin")
}
