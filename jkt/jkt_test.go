package jkt_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/jkt"
)

// The examples of the standards, each with the thumbprint that it states.
func TestThumbprintOfTheStandards(t *testing.T) {
	for name, tt := range map[string]struct{ jwk, want string }{
		"RFC 7638 §3.1, RSA": {`{
			"kty": "RSA",
			"n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
			"e": "AQAB",
			"alg": "RS256",
			"kid": "2011-04-29"
		}`, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"},
		"RFC 8037 A.3, Ed25519": {`{
			"kty": "OKP",
			"crv": "Ed25519",
			"x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
		}`, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"},
		"RFC 9449 §6.1, P-256": {`{
			"kty": "EC",
			"x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
			"y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
			"crv": "P-256"
		}`, "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := jwk.ParseKey([]byte(tt.jwk))
			require.NoError(t, err)
			var raw any
			require.NoError(t, key.Raw(&raw))
			got, err := jkt.Thumbprint(raw)
			require.NoError(t, err)
			if got != tt.want {
				t.Errorf("R030: thumbprint %s, want %s", got, tt.want)
			}
		})
	}
}

// jwx computes the same for every type of key, and extra members of a JWK change nothing (R030, D23).
func TestThumbprintIsThatOfJWX(t *testing.T) {
	var keys []crypto.PublicKey
	for range 20 {
		for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
			key, err := ecdsa.GenerateKey(curve, rand.Reader)
			require.NoError(t, err)
			keys = append(keys, key.Public())
		}
		public, _, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		keys = append(keys, public)
	}
	for _, bits := range []int{2048, 3072} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		require.NoError(t, err)
		keys = append(keys, key.Public())
	}
	for _, key := range keys {
		theirs, err := jwk.FromRaw(key)
		require.NoError(t, err)
		require.NoError(t, theirs.Set("kid", "extra"))
		require.NoError(t, theirs.Set("use", "sig"))
		sum, err := theirs.Thumbprint(crypto.SHA256)
		require.NoError(t, err)
		got, err := jkt.Thumbprint(key)
		require.NoError(t, err)
		if want := base64.RawURLEncoding.EncodeToString(sum); got != want {
			t.Errorf("thumbprint of %T is %s, jwx says %s", key, got, want)
		}
	}
}

func TestThumbprintOfOtherKeys(t *testing.T) {
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	require.NoError(t, err)
	for name, key := range map[string]crypto.PublicKey{
		"nil":                 nil,
		"a private key":       p224,
		"P-224":               p224.Public(),
		"a short Ed25519":     ed25519.PublicKey("short"),
		"symmetric":           []byte("secret"),
		"a value, no pointer": rsa.PublicKey{},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := jkt.Thumbprint(key); err == nil {
				t.Errorf("Thumbprint(%T) = %s: want an error", key, got)
			}
		})
	}
}

func TestEqual(t *testing.T) {
	const a, b = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4J"
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{a, a, true}, {a, b, false}, {a, a[:42], false}, {a, "", false}, {"", a, false}, {a, a + "=", false},
		{"", "", false}, // no thumbprint is not one that two can share
	} {
		if got := jkt.Equal(tt.a, tt.b); got != tt.want {
			t.Errorf("D14: Equal(%q, %q) = %v", tt.a, tt.b, got)
		}
	}
}
