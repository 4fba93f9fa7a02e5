package jose_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/internal/jose"
)

// The tests of this file are those that internal/house/deletion asked for: each misses one check that no other did.

func TestScanRefusesWhatIsAlmostRight(t *testing.T) {
	for name, text := range map[string]string{
		"A20 another byte for the first brace":          `("a":1}`,
		"A20 a high surrogate and no backslash":         `{"a":"\ud800xudc00"}`,
		"A20 a high surrogate and no u":                 `{"a":"\ud800\xdc00"}`,
		"A20 another letter for u":                      `{"a":"\x0041"}`,
		"A20 a digit below 0":                           `{"a":"\u00/1"}`,
		"A20 a digit beyond 9":                          `{"a":"\u00:1"}`,
		"A20 a digit below A":                           `{"a":"\u00@1"}`,
		"A20 a digit beyond F":                          `{"a":"\u00G1"}`,
		"A20 a digit below a":                           "{\"a\":\"\\u00`1\"}",
		"A20 a digit beyond f":                          `{"a":"\u00g1"}`,
		"F07 a text that ends in an escape":             `{"a":"\u0`,
		"F07 a text that ends after a high surrogate":   `{"a":"\ud800`,
		"F07 a text that ends in the second of a pair":  `{"a":"\ud800\ud`,
		"F07 a text that ends before the digits":        `{"a":"\u`,
		"F07 a text that ends before a surrogate's end": `{"a":"\ud800\`,
	} {
		t.Run(name, func(t *testing.T) {
			if a, jwk, err := scan(text); err == nil {
				t.Errorf("Scan(%q) found a=%s jwk=%s: want an error", text, a, jwk)
			}
		})
	}
}

func TestParseKeyRefusesWhatIsAlmostRight(t *testing.T) {
	text := func(name string, change func(jwk map[string]any)) string {
		jwk := jwkOf(keys()[name].Public())
		if change != nil {
			change(jwk)
		}
		text, err := json.Marshal(jwk)
		require.NoError(t, err)
		return string(text)
	}
	set := func(member string, value any) func(map[string]any) {
		return func(jwk map[string]any) { jwk[member] = value }
	}
	padded := func(member string) func(map[string]any) {
		return func(jwk map[string]any) { jwk[member] = jwk[member].(string) + "=" }
	}
	p256 := text("P-256", nil)
	long := strings.Repeat("_", 4*86) // 258 bytes: the decoder has them all before it comes to what follows

	for name, tt := range map[string]struct{ alg, jwk string }{
		"A19 kty twice, once it is complete":         {"ES256", strings.TrimSuffix(p256, "}") + `,"kty":"EC"}`},
		"A22 KTY beside kty, once it is complete":    {"ES256", strings.TrimSuffix(p256, "}") + `,"KTY":"EC"}`},
		"A20 something after it":                     {"ES256", p256 + "x"},
		"A10 an EC key with alg EdDSA":               {"ES256", text("P-256", set("alg", "EdDSA"))},
		"A10 an Ed25519 key with alg ES256":          {"EdDSA", text("Ed25519", set("alg", "ES256"))},
		"A01 an algorithm that is not known":         {"none", text("RSA", set("kty", ""))},
		"A13 x of P-384, all of it, and a padding":   {"ES384", text("P-384", padded("x"))},
		"A13 y of P-384, all of it, and a padding":   {"ES384", text("P-384", padded("y"))},
		"A13 n of 258 bytes, all of it, and a space": {"PS256", text("RSA", set("n", long+" "))},
	} {
		t.Run(name, func(t *testing.T) {
			if key, err := jose.ParseKey([]byte(tt.jwk), tt.alg); err == nil {
				t.Errorf("ParseKey(%s) for %s = %v: want an error", tt.jwk, tt.alg, key)
			}
		})
	}
	if _, err := jose.ParseKey([]byte(text("RSA", set("n", long))), "PS256"); err != nil {
		t.Errorf("without the space, n is refused: %v", err)
	}
}

// A point with x = 0 is on the curve, so an x that cannot be read must not count as 0.
func TestA09NoXIsNotZero(t *testing.T) {
	p := elliptic.P256().Params()
	y := b64(new(big.Int).ModSqrt(p.B, p.P).FillBytes(make([]byte, 32)))
	jwk := map[string]any{"kty": "EC", "crv": "P-256", "x": b64(make([]byte, 32)), "y": y}
	_, err := parseKey(jwk, "ES256")
	require.NoError(t, err, "the control: x = 0 is on the curve")
	for _, x := range []any{nil, "", "!", 0, jwk["x"].(string) + "="} {
		jwk["x"] = x
		if key, err := parseKey(jwk, "ES256"); err == nil {
			t.Errorf("A09 x = %v is taken as 0: %v", x, key)
		}
	}
}

// A signature that is right for a key and a hash of two algorithms is right for neither.
func TestA10HashAndCurveOfTwoAlgorithms(t *testing.T) {
	input := []byte("input")
	for alg, tt := range map[string]struct {
		key  string
		hash crypto.Hash
	}{
		"ES256": {"P-384", crypto.SHA256}, "ES384": {"P-256", crypto.SHA384}, "ES512": {"P-384", crypto.SHA512},
	} {
		key := keys()[tt.key].(*ecdsa.PrivateKey)
		h := tt.hash.New()
		h.Write(input)
		r, s, err := ecdsa.Sign(rand.Reader, key, h.Sum(nil))
		require.NoError(t, err)
		sig := make([]byte, 2*((key.Curve.Params().BitSize+7)/8))
		r.FillBytes(sig[:len(sig)/2])
		s.FillBytes(sig[len(sig)/2:])
		if jose.Verify(alg, key.Public(), input, sig) {
			t.Errorf("A10 a signature by a key on %s verifies as %s", tt.key, alg)
		}
	}
}

func TestA10Fits(t *testing.T) {
	for alg, name := range keyFor {
		for other, signer := range keys() {
			if got := jose.Fits(alg, signer.Public()); got != (other == name) {
				t.Errorf("A10 Fits(%s, a key called %s) = %v", alg, other, got)
			}
		}
	}
	for name, key := range map[string]crypto.PublicKey{
		"nothing": nil, "an Ed25519 key cut short": keys()["Ed25519"].Public().(ed25519.PublicKey)[:31], "a private key": keys()["Ed25519"],
	} {
		if jose.Fits("EdDSA", key) {
			t.Errorf("A10 %s fits EdDSA", name)
		}
	}
	if jose.Fits("none", keys()["RSA"].Public()) {
		t.Error("A01 a key fits none")
	}
}
