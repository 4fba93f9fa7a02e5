package introspect_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/introspect"
	"github.com/senderbound/senderbound/replay/memstore"
)

const target = "https://api.example.com/orders"

// opaque is a token as it can stand in an Authorization field.
const opaque = "the-canary-token-Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"

func thumbprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// What a client gets in the end: 200, or 401 for whatever is wrong with the token, or 503 for what is wrong with the server.
func TestVerify(t *testing.T) {
	key, thief := dpoptest.NewKey(), dpoptest.NewKey()
	cert, other := &x509.Certificate{Raw: []byte("cert")}, &x509.Certificate{Raw: []byte("other")}
	bound := active().with(members{"cnf": members{"jkt": key.JKT()}})
	byCert := active().with(members{"cnf": members{"x5t#S256": thumbprint(cert)}, "token_type": "Bearer"})
	both := active().with(members{"cnf": members{"jkt": key.JKT(), "x5t#S256": thumbprint(cert)}})
	unbound := active().with(members{"cnf": nil, "token_type": nil})
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		scheme string
		key    *dpopclient.Key // nil: no proof
		cert   *x509.Certificate
		want   dpop.Reason
		status int
	}{
		"R173 bound to a key":            {text(bound.String()), "DPoP", key, nil, "", 200},
		"R173 bound to a certificate":    {text(byCert.String()), "Bearer", nil, cert, "", 200},
		"R151 bound to both":             {text(both.String()), "DPoP", key, cert, "", 200},
		"D13, R151 both, no certificate": {text(both.String()), "DPoP", key, nil, dpop.ErrCertificateMismatch, 401},
		"D13, R151 both, another's":      {text(both.String()), "DPoP", key, other, dpop.ErrCertificateMismatch, 401},
		"D13, R151 both, another's key":  {text(both.String()), "DPoP", thief, cert, dpop.ErrKeyMismatch, 401},
		"D13 both, under Bearer":         {text(both.String()), "Bearer", nil, cert, dpop.ErrTokenBound, 401},
		"R150 another certificate":       {text(byCert.String()), "Bearer", nil, other, dpop.ErrCertificateMismatch, 401},
		"R150 no certificate":            {text(byCert.String()), "Bearer", nil, nil, dpop.ErrBearerNotAllowed, 401},
		"R150 a proof instead":           {text(byCert.String()), "DPoP", key, nil, dpop.ErrTokenUnbound, 401},
		"another's key":                  {text(bound.String()), "DPoP", thief, nil, dpop.ErrKeyMismatch, 401},
		"D06 bound, under Bearer":        {text(bound.String()), "Bearer", nil, cert, dpop.ErrTokenBound, 401},
		"D19 cnf absent":                 {text(unbound.String()), "DPoP", key, nil, dpop.ErrTokenUnbound, 401},
		"D19 cnf absent, under Bearer":   {text(unbound.String()), "Bearer", nil, cert, dpop.ErrBearerNotAllowed, 401},
		"D03 cnf malformed":              {text(bound.with(members{"cnf": "x"}).String()), "DPoP", key, nil, dpop.ErrConfirmationUnknown, 401},
		"R101, R171 inactive":            {text(inactive.String()), "DPoP", key, nil, dpop.ErrTokenInvalid, 401},
		"R171 expired":                   {text(bound.with(members{"exp": 1}).String()), "DPoP", key, nil, dpop.ErrTokenExpired, 401},
		"D19 for another resource":       {text(bound.with(members{"aud": "x"}).String()), "DPoP", key, nil, dpop.ErrTokenAudience, 401},
		"the server is down":             {status(500), "DPoP", key, nil, dpop.ErrResolverUnavailable, 503},
		"the server's error is a 401":    {status(401), "DPoP", key, nil, dpop.ErrResolverUnavailable, 503},
		"the answer is HTML":             {text("<html>"), "DPoP", key, nil, dpop.ErrResolverUnavailable, 503},
	} {
		for mode, ttl := range map[string]time.Duration{"": 0, ", cached": time.Minute} {
			t.Run(name+mode, func(t *testing.T) {
				s := &server{answer: tt.answer}
				r := newResolver(t, config(s, caching(ttl)))
				store, err := memstore.New(memstore.Config{})
				require.NoError(t, err)
				defer store.Close()
				v, err := dpop.NewVerifier(dpop.Config{Resolver: r, Replay: store})
				require.NoError(t, err)
				for range 2 { // the second time, some is known
					req := dpop.Request{Method: "GET", URI: target, Authorization: []string{tt.scheme + " " + opaque}, ClientCertificate: tt.cert}
					if tt.key != nil {
						req.DPoP = []string{dpoptest.Proof(tt.key, dpopclient.Claims{Method: "GET", URI: target, AccessToken: opaque})}
					}
					_, err := v.Verify(context.Background(), req)
					var e *dpop.Error
					reason, status := dpop.Reason(""), 200
					if errors.As(err, &e) {
						reason, status = e.Reason, e.Status
					}
					if reason != tt.want || status != tt.status {
						t.Errorf("reason %q, status %d, want %q, %d (%v)", reason, status, tt.want, tt.status, err)
					}
					if err != nil && strings.Contains(err.Error(), "canary") {
						t.Errorf("F02: %v", err)
					}
				}
			})
		}
	}
}

// F04: with a token that is known, a proof by another key costs no call and no signature.
func TestAKnownTokenIsNotAskedAbout(t *testing.T) {
	key := dpoptest.NewKey()
	s := says(active().with(members{"cnf": members{"jkt": key.JKT()}}))
	for name, tt := range map[string]struct {
		ttl  time.Duration
		want int
	}{"with a cache": {time.Minute, 1}, "without, the control": {0, 3}} {
		s.calls = 0
		store, err := memstore.New(memstore.Config{})
		require.NoError(t, err)
		defer store.Close()
		v, err := dpop.NewVerifier(dpop.Config{Resolver: newResolver(t, config(s, caching(tt.ttl))), Replay: store})
		require.NoError(t, err)
		for _, key := range []*dpopclient.Key{key, key, dpoptest.NewKey()} {
			_, _ = v.Verify(context.Background(), dpop.Request{
				Method: "GET", URI: target, Authorization: []string{"DPoP " + opaque},
				DPoP: []string{dpoptest.Proof(key, dpopclient.Claims{Method: "GET", URI: target, AccessToken: opaque})},
			})
		}
		if s.count() != tt.want {
			t.Errorf("%s: %d calls for three requests, want %d", name, s.count(), tt.want)
		}
	}
}

var _ dpop.CachedResolver = (*introspect.Resolver)(nil)
