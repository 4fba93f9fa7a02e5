package introspect_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/introspect"
)

// signers holds one key for each algorithm, made once, since RSA keys take their time.
var signers = sync.OnceValue(func() map[string]crypto.Signer {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	return map[string]crypto.Signer{
		"ES256": must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
		"ES384": must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		"ES512": must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)),
		"PS256": must(rsa.GenerateKey(rand.Reader, 2048)),
		"EdDSA": must(ed, err),
	}
})

// An hsm signs, and gives its key away to nobody.
type hsm struct {
	signer crypto.Signer
	err    error
}

func (h hsm) Public() crypto.PublicKey { return h.signer.Public() }

func (h hsm) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if h.err != nil {
		return nil, h.err
	}
	return h.signer.Sign(random, digest, opts)
}

// An assertion is what RFC 7523 §3 and OpenID Connect Core §9 ask for, by the word of jwx, for each kind of key and for keys
// that stay in an HSM.
func TestPrivateKeyJWT(t *testing.T) {
	for alg, signer := range signers() {
		for name, signer := range map[string]crypto.Signer{alg: signer, alg + " in an HSM": hsm{signer: signer}} {
			t.Run(name, func(t *testing.T) {
				authenticate, err := introspect.PrivateKeyJWT("orders-api", issuerURL, signer, "key-1")
				require.NoError(t, err)
				s := says(active())
				r := newResolver(t, config(s, func(c *introspect.Config) { c.Authenticate = authenticate }))
				seen := map[string]bool{}
				for range 3 {
					before := time.Now().Unix()
					wantVerdict(t, r, token, accepted)
					require.Equal(t, "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", s.form.Get("client_assertion_type"))
					require.Equal(t, "orders-api", s.form.Get("client_id"))
					require.Len(t, s.form, 5)
					require.Empty(t, s.header.Get("Authorization"))

					assertion := []byte(s.form.Get("client_assertion"))
					payload, err := jws.Verify(assertion, jws.WithKey(jwa.SignatureAlgorithm(alg), signer.Public()), jws.WithCompact())
					require.NoError(t, err)
					message := must(jws.Parse(assertion))
					header := must(message.Signatures()[0].ProtectedHeaders().AsMap(t.Context()))
					require.Equal(t, map[string]any{"alg": jwa.SignatureAlgorithm(alg), "typ": "JWT", "kid": "key-1"}, header)

					var claims struct {
						Iss, Sub, Aud, Jti string
						Iat, Exp           int64
					}
					require.NoError(t, json.Unmarshal(payload, &claims))
					require.Equal(t, []string{"orders-api", "orders-api", issuerURL}, []string{claims.Iss, claims.Sub, claims.Aud})
					require.EqualValues(t, 60, claims.Exp-claims.Iat)
					require.GreaterOrEqual(t, claims.Iat, before)
					require.LessOrEqual(t, claims.Iat, time.Now().Unix())
					if len(claims.Jti) < 20 || seen[claims.Jti] {
						t.Errorf("jti is %q: want a new one that cannot be guessed for each call", claims.Jti)
					}
					seen[claims.Jti] = true
				}
			})
		}
	}
	t.Run("no kid", func(t *testing.T) {
		authenticate, err := introspect.PrivateKeyJWT("orders-api", issuerURL, signers()["ES256"], "")
		require.NoError(t, err)
		s := says(active())
		wantVerdict(t, newResolver(t, config(s, func(c *introspect.Config) { c.Authenticate = authenticate })), token, accepted)
		header := must(must(jws.Parse([]byte(s.form.Get("client_assertion")))).Signatures()[0].ProtectedHeaders().AsMap(t.Context()))
		require.NotContains(t, header, "kid")
	})
	t.Run("at the same time", func(t *testing.T) { // for the race detector
		authenticate, err := introspect.PrivateKeyJWT("orders-api", issuerURL, signers()["ES256"], "key-1")
		require.NoError(t, err)
		r := newResolver(t, config(says(active()), func(c *introspect.Config) { c.Authenticate = authenticate }))
		var wg sync.WaitGroup
		for n := range 50 {
			wg.Go(func() { wantVerdict(t, r, fmt.Sprint(n), accepted) })
		}
		wg.Wait()
	})
}

func TestPrivateKeyJWTErrors(t *testing.T) {
	good := signers()["ES256"]
	for name, tt := range map[string]struct {
		id, audience string
		signer       crypto.Signer
		want         string
	}{
		"no signer":       {"id", issuerURL, nil, "the signer is nil"},
		"no id":           {"", issuerURL, good, "clientID or audience is empty: give"},
		"no audience":     {"id", "", good, "clientID or audience is empty: give"},
		"a short RSA key": {"id", issuerURL, shortKey{}, "less than 2048 bits"},
		"a curve":         {"id", issuerURL, must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader)), "no algorithm for a public key"},
	} {
		t.Run(name, func(t *testing.T) {
			authenticate, err := introspect.PrivateKeyJWT(tt.id, tt.audience, tt.signer, "")
			if authenticate != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want one that says %q", err, tt.want)
			}
		})
	}
	t.Run("an HSM that is gone", func(t *testing.T) {
		gone := errors.New("session closed")
		authenticate, err := introspect.PrivateKeyJWT("id", issuerURL, hsm{good, gone}, "")
		require.NoError(t, err)
		s := says(active())
		_, err = newResolver(t, config(s, func(c *introspect.Config) { c.Authenticate = authenticate })).ResolveToken(t.Context(), token)
		if verdictOf(t, nil, err) != unavailable || !errors.Is(err, gone) {
			t.Errorf("error is %v, want one that holds the cause", err)
		}
		require.Zero(t, s.count())
	})
}

// A shortKey has an RSA key that crypto/rsa would no longer make.
type shortKey struct{ crypto.Signer }

func (shortKey) Public() crypto.PublicKey {
	n := must(rsa.GenerateKey(rand.Reader, 2048)).N
	return &rsa.PublicKey{N: n.Rsh(n, 1024), E: 65537}
}
