package jose_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/internal/jose"
)

var b64 = base64.RawURLEncoding.EncodeToString

// keys are made once: RSA keys take their time.
var keys = sync.OnceValue(func() map[string]crypto.Signer {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	rsa2048, _ := rsa.GenerateKey(rand.Reader, 2048)
	return map[string]crypto.Signer{"P-256": p256, "P-384": p384, "P-521": p521, "Ed25519": ed, "RSA": rsa2048}
})

// keyFor names the key in keys that fits an algorithm.
var keyFor = map[string]string{
	"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519", "Ed25519": "Ed25519",
	"PS256": "RSA", "PS384": "RSA", "PS512": "RSA", "RS256": "RSA", "RS384": "RSA", "RS512": "RSA",
}

// jwkOf returns the public key as the members of a JWK, written by hand so that no library stands between a test and
// its bytes.
func jwkOf(public crypto.PublicKey) map[string]any {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		point, _ := key.Bytes()
		size := len(point) / 2
		return map[string]any{"kty": "EC", "crv": key.Curve.Params().Name, "x": b64(point[1 : 1+size]), "y": b64(point[1+size:])}
	case ed25519.PublicKey:
		return map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(key)}
	case *rsa.PublicKey:
		return map[string]any{"kty": "RSA", "n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes())}
	}
	panic("no JWK for this key")
}

func parseKey(jwk map[string]any, alg string) (crypto.PublicKey, error) {
	text, err := json.Marshal(jwk)
	if err != nil {
		return nil, err
	}
	return jose.ParseKey(text, alg)
}

func TestParseKeyReturnsTheKey(t *testing.T) {
	for alg, name := range keyFor {
		t.Run(alg, func(t *testing.T) {
			want := keys()[name].Public().(interface{ Equal(crypto.PublicKey) bool })
			got, err := parseKey(jwkOf(want), alg)
			require.NoError(t, err)
			if !want.Equal(got) {
				t.Errorf("ParseKey returned another key: %v", got)
			}
		})
	}
}

func TestParseKeyToleratesWhatDoesNotContradict(t *testing.T) {
	for name, members := range map[string]map[string]any{
		"use sig":                             {"use": "sig"},
		"alg":                                 {"alg": "ES256"},
		"key_ops verify":                      {"key_ops": []string{"verify"}},
		"key_ops sign, as browsers export it": {"key_ops": []string{"sign"}},
		"key_ops of both":                     {"key_ops": []string{"sign", "verify"}},
		"ext":                                 {"ext": true},
		"A17 kid, x5c, x5u and x5t":           {"kid": "../../etc/passwd", "x5c": []string{"AA"}, "x5u": "http://127.0.0.1:1/", "x5t": "AA"},
		"an unknown member":                   {"https://example.com/": map[string]any{"a": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			jwk := jwkOf(keys()["P-256"].Public())
			maps.Copy(jwk, members)
			if _, err := parseKey(jwk, "ES256"); err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
	for _, pair := range [][2]string{{"EdDSA", "Ed25519"}, {"Ed25519", "EdDSA"}} {
		jwk := jwkOf(keys()["Ed25519"].Public())
		jwk["alg"] = pair[0]
		if _, err := parseKey(jwk, pair[1]); err != nil {
			t.Errorf("A23 jwk says %s and the header %s, which are one: %v", pair[0], pair[1], err)
		}
	}
}

func TestParseKeyRefuses(t *testing.T) {
	p256 := keys()["P-256"].Public().(*ecdsa.PublicKey)
	point, err := p256.Bytes()
	require.NoError(t, err)
	x, y := point[1:33], point[33:]
	offCurve := append([]byte(nil), y...)
	offCurve[31] ^= 1
	prime := p256.Curve.Params().P
	n := keys()["RSA"].Public().(*rsa.PublicKey).N

	ofBits := func(bits int) string { // odd, and of exactly this size
		modulus := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		return b64(modulus.Add(modulus, big.NewInt(1)).Bytes())
	}
	private := func(member string) map[string]any { return map[string]any{member: "AQ"} }

	for name, tt := range map[string]struct {
		alg    string
		change map[string]any // a nil value removes a member
	}{
		"A04 EC with d":                        {"ES256", private("d")},
		"A04 EC with d that is null":           {"ES256", map[string]any{"d": json.RawMessage("null")}},
		"A04 OKP with d":                       {"EdDSA", private("d")},
		"A04 RSA with d":                       {"PS256", private("d")},
		"A04 RSA with p":                       {"PS256", private("p")},
		"A04 RSA with q":                       {"PS256", private("q")},
		"A04 RSA with dp":                      {"PS256", private("dp")},
		"A04 RSA with dq":                      {"PS256", private("dq")},
		"A04 RSA with qi":                      {"PS256", private("qi")},
		"A04 RSA with oth":                     {"PS256", map[string]any{"oth": []any{}}},
		"A04 EC with k":                        {"ES256", private("k")},
		"A03 kty oct":                          {"ES256", map[string]any{"kty": "oct"}},
		"A06 RSA of 512 bits":                  {"PS256", map[string]any{"n": ofBits(512)}},
		"A06 RSA of 1024 bits":                 {"PS256", map[string]any{"n": ofBits(1024)}},
		"A06 RSA of 2047 bits":                 {"PS256", map[string]any{"n": ofBits(2047)}},
		"A07 RSA of 4097 bits":                 {"PS256", map[string]any{"n": ofBits(4097)}},
		"A07 RSA of 16384 bits":                {"PS256", map[string]any{"n": ofBits(16384)}},
		"A08 RSA with e=1":                     {"PS256", map[string]any{"e": "AQ"}},
		"A08 RSA with e=2":                     {"PS256", map[string]any{"e": "Ag"}},
		"A08 RSA with e=3":                     {"PS256", map[string]any{"e": "Aw"}},
		"A08 RSA with e=65536":                 {"PS256", map[string]any{"e": b64([]byte{1, 0, 0})}},
		"A08 RSA with e=65539":                 {"PS256", map[string]any{"e": b64([]byte{1, 0, 3})}},
		"A08 RSA with e of 33 bits":            {"PS256", map[string]any{"e": b64([]byte{1, 0, 0, 0, 1})}},
		"A08 RSA with e=2^64+65537":            {"PS256", map[string]any{"e": b64([]byte{1, 0, 0, 0, 0, 0, 1, 0, 1})}},
		"A08 RSA with e=0":                     {"PS256", map[string]any{"e": "AA"}},
		"A08 RSA with e empty":                 {"PS256", map[string]any{"e": ""}},
		"A08 RSA with leading zeros of e":      {"PS256", map[string]any{"e": b64([]byte{0, 1, 0, 1})}},
		"A08 RSA with e as a number":           {"PS256", map[string]any{"e": 65537}},
		"A08 RSA with leading zeros of n":      {"PS256", map[string]any{"n": b64(append([]byte{0}, n.Bytes()...))}},
		"A08 RSA with an even n":               {"PS256", map[string]any{"n": b64(new(big.Int).Lsh(big.NewInt(1), 2047).Bytes())}},
		"A08 RSA with n empty":                 {"PS256", map[string]any{"n": ""}},
		"A08 RSA without n":                    {"PS256", map[string]any{"n": nil}},
		"A08 RSA without e":                    {"PS256", map[string]any{"e": nil}},
		"A09 off the curve":                    {"ES256", map[string]any{"y": b64(offCurve)}},
		"A09 (0,0)":                            {"ES256", map[string]any{"x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))}},
		"A09 infinity, that is no coordinates": {"ES256", map[string]any{"x": "", "y": ""}},
		"A09 x of 31 bytes":                    {"ES256", map[string]any{"x": b64(x[:31])}},
		"A09 x of 33 bytes, the first zero":    {"ES256", map[string]any{"x": b64(append([]byte{0}, x...))}},
		"A09 y of 31 bytes":                    {"ES256", map[string]any{"y": b64(y[:31])}},
		"A09 y of 33 bytes, the first zero":    {"ES256", map[string]any{"y": b64(append([]byte{0}, y...))}},
		"A09 compressed":                       {"ES256", map[string]any{"x": b64(append([]byte{2}, x...)), "y": nil}},
		"A09 without x":                        {"ES256", map[string]any{"x": nil}},
		"A09 without y":                        {"ES256", map[string]any{"y": nil}},
		"A09 x beyond the field":               {"ES256", map[string]any{"x": b64(new(big.Int).Add(prime, big.NewInt(5)).Bytes())}},
		"A09 x as an array":                    {"ES256", map[string]any{"x": []string{b64(x)}}},
		"A09 Ed25519 of 31 bytes":              {"EdDSA", map[string]any{"x": b64(x[:31])}},
		"A09 Ed25519 of 33 bytes":              {"EdDSA", map[string]any{"x": b64(append([]byte{0}, x...))}},
		"A13 x with padding":                   {"ES256", map[string]any{"x": b64(x) + "="}},
		"A13 x with a line feed":               {"ES256", map[string]any{"x": b64(x) + "\n"}},
		"A13 x with other trailing bits":       {"ES256", map[string]any{"x": otherSpelling(b64(x))}},
		"A10 ES256 with crv P-384":             {"ES256", map[string]any{"crv": "P-384"}},
		"A10 ES256 with a key on P-384":        {"ES256", jwkOf(keys()["P-384"].Public())},
		"A10 ES384 with a key on P-256":        {"ES384", jwkOf(p256)},
		"A10 ES256 with crv secp256k1":         {"ES256", map[string]any{"crv": "secp256k1"}},
		"A10 ES256 with crv p-256":             {"ES256", map[string]any{"crv": "p-256"}},
		"A10 EdDSA with X25519":                {"EdDSA", map[string]any{"crv": "X25519"}},
		"A10 EdDSA with Ed448":                 {"EdDSA", map[string]any{"crv": "Ed448"}},
		"A10 ES256 with an RSA key":            {"ES256", jwkOf(keys()["RSA"].Public())},
		"A10 PS256 with an EC key":             {"PS256", jwkOf(p256)},
		"A10 EdDSA with an EC key":             {"EdDSA", jwkOf(p256)},
		"A10 an algorithm that is not known":   {"none", map[string]any{"kty": ""}},
		"no kty":                               {"ES256", map[string]any{"kty": nil}},
		"kty in lower case":                    {"ES256", map[string]any{"kty": "ec"}},
		"kty as a number":                      {"ES256", map[string]any{"kty": 1}},
		"no crv":                               {"ES256", map[string]any{"crv": nil}},
		"use enc":                              {"ES256", map[string]any{"use": "enc"}},
		"use that is null":                     {"ES256", map[string]any{"use": json.RawMessage("null")}},
		"alg of another kind":                  {"ES256", map[string]any{"alg": "ES384"}},
		"alg for encryption":                   {"ES256", map[string]any{"alg": "ECDH-ES"}},
		"alg none":                             {"ES256", map[string]any{"alg": "none"}},
		"alg RS256 for PS256":                  {"PS256", map[string]any{"alg": "RS256"}},
		"key_ops for encryption":               {"ES256", map[string]any{"key_ops": []string{"deriveBits"}}},
		"key_ops that are empty":               {"ES256", map[string]any{"key_ops": []string{}}},
		"key_ops as a string":                  {"ES256", map[string]any{"key_ops": "verify"}},
		"key_ops with a number":                {"ES256", map[string]any{"key_ops": []any{"verify", 1}}},
		"A19 crv and Crv":                      {"ES256", map[string]any{"Crv": "P-256"}},
	} {
		t.Run(name, func(t *testing.T) {
			jwk := jwkOf(keys()[keyFor["ES256"]].Public())
			if known := keyFor[tt.alg]; known != "" {
				jwk = jwkOf(keys()[known].Public())
			}
			_, err := parseKey(jwk, tt.alg)
			if err != nil && tt.alg != "none" {
				t.Fatalf("the key before the change is refused: %v", err)
			}
			maps.Copy(jwk, tt.change)
			maps.DeleteFunc(jwk, func(_ string, value any) bool { return value == nil })
			key, err := parseKey(jwk, tt.alg)
			if err == nil {
				t.Fatalf("ParseKey accepted %v as %v", jwk, key)
			}
			for _, secret := range []string{"AQ\"", b64(x), b64(y)} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("F02 the error holds a part of the key: %v", err)
				}
			}
		})
	}
}

func TestA05ParseKeyRefusesWhatIsNoObject(t *testing.T) {
	for _, text := range []string{``, `null`, `"jwk"`, `[]`, `[{}]`, `1`, `{}`, `{"kty":"EC"`} {
		if key, err := jose.ParseKey([]byte(text), "ES256"); err == nil {
			t.Errorf("ParseKey(%s) = %v: want an error", text, key)
		}
	}
}

func TestParseKeyBoundsAreInclusive(t *testing.T) {
	for _, bits := range []int{2048, 2049, 4096} {
		modulus := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		modulus.Add(modulus, big.NewInt(1))
		key, err := parseKey(map[string]any{"kty": "RSA", "n": b64(modulus.Bytes()), "e": "AQAB"}, "PS256")
		require.NoError(t, err)
		if got := key.(*rsa.PublicKey).N.BitLen(); got != bits {
			t.Errorf("a key of %d bits became one of %d", bits, got)
		}
	}
}

// otherSpelling returns s with the unused bits of its last character set: the same bytes to a lenient decoder.
func otherSpelling(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return s[:len(s)-1] + string(alphabet[strings.IndexByte(alphabet, s[len(s)-1])+1])
}

func TestKnown(t *testing.T) {
	for alg := range keyFor {
		if !jose.Known(alg) {
			t.Errorf("%s is not known", alg)
		}
	}
	for _, alg := range []string{"", "none", "nOnE", "HS256", "HS384", "HS512", "ES256K", "Ed448", "RS1", "es256", "RSA-OAEP"} {
		if jose.Known(alg) {
			t.Errorf("A01, A02, R002: %q is known", alg)
		}
	}
}
