package dpopclient_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/replay"
)

const (
	target = "https://api.example.com/orders/7"
	token  = "an-access-token"
)

// signers holds a private key for each algorithm, made once.
var signers = sync.OnceValue(func() map[string]crypto.Signer {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	rsa2048, _ := rsa.GenerateKey(rand.Reader, 2048)
	return map[string]crypto.Signer{"ES256": p256, "ES384": p384, "ES512": p521, "EdDSA": ed, "PS256": rsa2048}
})

// hsm is a signer that does not give its key away.
type hsm struct{ inner crypto.Signer }

func (h hsm) Public() crypto.PublicKey { return h.inner.Public() }

func (h hsm) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return h.inner.Sign(r, digest, opts)
}

// verify returns what the Verifier of this project says of a proof.
func verify(t *testing.T, key *dpopclient.Key, uri, proof string) error {
	t.Helper()
	v, err := dpop.NewVerifier(dpop.Config{
		Algorithms: []string{"ES256", "ES384", "ES512", "EdDSA", "PS256"},
		Replay:     replay.SetNXFunc(func(context.Context, string, time.Duration) (bool, error) { return true, nil }),
		Resolver: dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) {
			return &dpop.Token{Confirmation: dpop.Confirmation{JKT: key.JKT()}}, nil
		}),
	})
	require.NoError(t, err)
	_, err = v.Verify(context.Background(), dpop.Request{
		Method: "GET", URI: uri, Authorization: []string{"DPoP " + token}, DPoP: []string{proof},
	})
	return err
}

// claimsOf returns the header and the claims of a proof.
func claimsOf(t *testing.T, proof string) (header, claims map[string]any) {
	t.Helper()
	for i, dst := range []*map[string]any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(strings.Split(proof, ".")[i])
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, dst))
	}
	return header, claims
}

func TestProofsAreAccepted(t *testing.T) {
	for alg, signer := range signers() {
		for name, s := range map[string]crypto.Signer{"in memory": signer, "in an HSM": hsm{signer}} {
			t.Run(alg+" "+name, func(t *testing.T) {
				key, err := dpopclient.NewKey(s)
				require.NoError(t, err)
				if key.Algorithm() != alg {
					t.Errorf("the algorithm is %s", key.Algorithm())
				}
				proof, err := key.Proof(dpopclient.Claims{Method: "GET", URI: target, AccessToken: token})
				require.NoError(t, err)
				if err := verify(t, key, target, proof); err != nil {
					t.Errorf("refused: %v", err)
				}
				if len(proof) > 2048 {
					t.Errorf("a proof of %d bytes: many servers limit a field to less than its share of 8 KiB", len(proof))
				}
			})
		}
	}
}

func TestGenerateKey(t *testing.T) {
	a, err := dpopclient.GenerateKey()
	require.NoError(t, err)
	b, err := dpopclient.GenerateKey()
	require.NoError(t, err)
	if a.Algorithm() != "ES256" || a.JKT() == b.JKT() {
		t.Errorf("keys %s (%s) and %s", a, a.Algorithm(), b)
	}
}

// R001, R004, R007, R022: what a proof holds, with and without a token and a nonce.
func TestWhatAProofHolds(t *testing.T) {
	key, err := dpopclient.GenerateKey()
	require.NoError(t, err)
	proof, err := key.Proof(dpopclient.Claims{Method: "POST", URI: "https://as.example.com/token"})
	require.NoError(t, err)
	header, claims := claimsOf(t, proof)
	if header["typ"] != "dpop+jwt" || header["alg"] != "ES256" || len(header) != 3 {
		t.Errorf("R001: the header is %v", header)
	}
	if jwk := header["jwk"].(map[string]any); jwk["d"] != nil || len(jwk) != 4 {
		t.Errorf("R003: the jwk is %v", jwk)
	}
	if claims["htm"] != "POST" || claims["htu"] != "https://as.example.com/token" || len(claims) != 4 {
		t.Errorf("R022: the claims of a proof for the token endpoint are %v", claims)
	}
	if iat := time.Unix(int64(claims["iat"].(float64)), 0); time.Since(iat).Abs() > 2*time.Second {
		t.Errorf("iat is %v", iat)
	}

	proof, err = key.Proof(dpopclient.Claims{Method: "GET", URI: target, AccessToken: token, Nonce: "a~!#[]b"})
	require.NoError(t, err)
	_, claims = claimsOf(t, proof)
	sum := sha256.Sum256([]byte(token))
	if claims["ath"] != base64.RawURLEncoding.EncodeToString(sum[:]) || claims["nonce"] != "a~!#[]b" {
		t.Errorf("R007, R008: the claims are %v", claims)
	}
}

// R006: htu is the URI as the client sends it, without query and fragment; its path bytes are not touched.
func TestR006HTU(t *testing.T) {
	key, err := dpopclient.GenerateKey()
	require.NoError(t, err)
	for uri, want := range map[string]string{
		target:                                  target,
		target + "?a=b":                         target,
		target + "#c":                           target,
		target + "?a=b#c":                       target,
		target + "#c?a":                         target,
		"https://api.example.com":               "https://api.example.com",
		"https://API.example.com:443/A":         "https://API.example.com:443/A",
		"https://api.example.com/a%2fb/%C3%A9/": "https://api.example.com/a%2fb/%C3%A9/",
		"https://api.example.com/a//b/../c;d=e": "https://api.example.com/a//b/../c;d=e",
		"https://api.example.com/[a]@:!$&'()*,": "https://api.example.com/[a]@:!$&'()*,",
		"https://api.example.com/<&> é":         "https://api.example.com/%3C&%3E%20%C3%A9", // as net/http sends it
	} {
		proof, err := key.Proof(dpopclient.Claims{Method: "GET", URI: uri})
		require.NoError(t, err, uri)
		if _, claims := claimsOf(t, proof); claims["htu"] != want {
			t.Errorf("for %s htu is %v, want %s", uri, claims["htu"], want)
		}
	}
}

func TestProofRefuses(t *testing.T) {
	key, err := dpopclient.GenerateKey()
	require.NoError(t, err)
	for name, c := range map[string]dpopclient.Claims{
		"no method":                      {URI: target},
		"no URI":                         {Method: "GET"},
		"a path":                         {Method: "GET", URI: "/orders"},
		"no scheme":                      {Method: "GET", URI: "//api.example.com/"},
		"no host":                        {Method: "GET", URI: "https:///a"},
		"user information":               {Method: "GET", URI: "https://user:secret@api.example.com/"},
		"a control character":            {Method: "GET", URI: target + "\n"},
		"half a percent-encoding":        {Method: "GET", URI: target + "%4"},
		"R046 a nonce with CR":           {Method: "GET", URI: target, Nonce: "secret\r"},
		"R046 a nonce with quote":        {Method: "GET", URI: target, Nonce: `secret"`},
		"R046 a nonce with \\":           {Method: "GET", URI: target, Nonce: `secret\`},
		"R046 a nonce with space":        {Method: "GET", URI: target, Nonce: "secret nonce"},
		"R046 a nonce with NUL":          {Method: "GET", URI: target, Nonce: "secret\x00"},
		"R046 a nonce with DEL":          {Method: "GET", URI: target, Nonce: "secret\x7f"},
		"R046 a nonce with é":            {Method: "GET", URI: target, Nonce: "secreté"},
		"R046 a nonce with UTF-8 broken": {Method: "GET", URI: target, Nonce: "secret\xff"},
	} {
		proof, err := key.Proof(c)
		if err == nil || proof != "" {
			t.Errorf("%s: Proof returned %q, %v", name, proof, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error holds what it should not: %v", name, err)
		}
	}
}

// R005: no two proofs share a jti, and it has at least 128 random bits: 26 characters of 5 bits.
func TestR005JTIsAreUnique(t *testing.T) {
	key, err := dpopclient.NewKey(fixed{signers()["EdDSA"]})
	require.NoError(t, err)
	const count = 100_000
	var mu sync.Mutex
	seen := make(map[string]bool, count)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range count / 4 {
				proof, err := key.Proof(dpopclient.Claims{Method: "GET", URI: target})
				if err != nil {
					t.Error(err)
					return
				}
				text, _ := base64.RawURLEncoding.DecodeString(strings.Split(proof, ".")[1])
				jti := string(text[len(`{"jti":"`):][:26])
				mu.Lock()
				seen[jti] = true
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if len(seen) != count {
		t.Errorf("%d proofs have %d different jti", count, len(seen))
	}
	for jti := range seen {
		if strings.Trim(jti, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
			t.Errorf("jti %q is not 26 characters of base32", jti)
			break
		}
	}
}

// fixed is a signer that signs nothing, where only the claims of a proof matter.
type fixed struct{ crypto.Signer }

func (fixed) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return make([]byte, 64), nil }

// Printed in whatever way, a key shows its thumbprint and nothing of its private half.
func TestKeysAreNotPrinted(t *testing.T) {
	for alg, signer := range signers() {
		t.Run(alg, func(t *testing.T) {
			key, err := dpopclient.NewKey(signer)
			require.NoError(t, err)
			type holder struct {
				Key   *dpopclient.Key
				Value dpopclient.Key
				inner *dpopclient.Key
			}
			held := holder{key, *key, key}
			var log bytes.Buffer
			slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", key, "value", *key, "held", held)
			slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", key, "value", *key, "held", held)
			said := map[string]string{"slog": log.String()}
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%o", "%t", "%U"} {
				said[verb] = fmt.Sprintf(verb, key)
				said[verb+" of a value"] = fmt.Sprintf(verb, *key)
				said[verb+" of a struct"] = fmt.Sprintf(verb, held)
				if !strings.Contains(said[verb], key.JKT()) || !strings.Contains(said[verb+" of a value"], key.JKT()) {
					t.Errorf("%s prints %q, without the thumbprint", verb, said[verb])
				}
			}
			for _, v := range []any{key, *key, held} {
				text, err := json.Marshal(v)
				require.NoError(t, err)
				said["JSON"] += string(text)
			}
			for where, text := range said {
				for _, secret := range privateNumbers(signer) {
					if strings.Contains(text, secret) {
						t.Errorf("%s shows the private key", where)
					}
				}
			}
		})
	}
}

// privateNumbers returns the start of a key's secret in the forms in which it might be printed.
func privateNumbers(signer crypto.Signer) []string {
	var secret []byte
	switch key := signer.(type) {
	case *ecdsa.PrivateKey:
		secret, _ = key.Bytes()
	case ed25519.PrivateKey:
		secret = key[:32]
	case *rsa.PrivateKey:
		secret = key.D.Bytes()
	}
	decimal := strings.Trim(fmt.Sprint(secret[:8]), "[]")
	return []string{
		string(secret[:8]), decimal, strings.ReplaceAll(decimal, " ", ", "), fmt.Sprintf("%x", secret[:8]), fmt.Sprintf("%X", secret[:8]),
		fmt.Sprintf("% x", secret[:8]), base64.RawURLEncoding.EncodeToString(secret[:6]), base64.StdEncoding.EncodeToString(secret[:6]),
		new(big.Int).SetBytes(secret).String(),
	}
}

func TestJWKRoundTrip(t *testing.T) {
	for alg, signer := range signers() {
		t.Run(alg, func(t *testing.T) {
			key, err := dpopclient.NewKey(signer)
			require.NoError(t, err)
			private, err := key.PrivateJWK()
			require.NoError(t, err)
			again, err := dpopclient.ParseKey(private)
			require.NoError(t, err)
			if again.JKT() != key.JKT() || again.Algorithm() != alg || string(again.PublicJWK()) != string(key.PublicJWK()) {
				t.Errorf("%s (%s) became %s (%s)", key, alg, again, again.Algorithm())
			}
			proof, err := again.Proof(dpopclient.Claims{Method: "GET", URI: target, AccessToken: token})
			require.NoError(t, err)
			if err := verify(t, key, target, proof); err != nil {
				t.Errorf("a proof by the key that was read again is refused: %v", err)
			}
			for _, member := range []string{`"d"`, `"p"`, `"q"`, `"dp"`, `"dq"`, `"qi"`} {
				if strings.Contains(string(key.PublicJWK()), member) {
					t.Errorf("R003: the public JWK has %s", member)
				}
			}
			key.PublicJWK()[0] = 'x' // a copy
			if key.PublicJWK()[0] != '{' {
				t.Error("changing what PublicJWK returned changed the key")
			}
		})
	}
	inHSM, err := dpopclient.NewKey(hsm{signers()["ES256"]})
	require.NoError(t, err)
	if private, err := inHSM.PrivateJWK(); err == nil {
		t.Errorf("the key of an HSM was exported: %s", private)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	members := func(alg string, change func(map[string]any)) string {
		key, err := dpopclient.NewKey(signers()[alg])
		require.NoError(t, err)
		private, err := key.PrivateJWK()
		require.NoError(t, err)
		var jwk map[string]any
		require.NoError(t, json.Unmarshal(private, &jwk))
		change(jwk)
		text, err := json.Marshal(jwk)
		require.NoError(t, err)
		return string(text)
	}
	other, err := dpopclient.GenerateKey()
	require.NoError(t, err)
	var foreign map[string]any
	require.NoError(t, json.Unmarshal(other.PublicJWK(), &foreign))

	for name, text := range map[string]string{
		"nothing":               "",
		"null":                  "null",
		"an array":              "[]",
		"an empty object":       "{}",
		"a set of keys":         `{"keys":[]}`,
		"not JSON":              "-----BEGIN PRIVATE KEY-----",
		"a symmetric key":       `{"kty":"oct","k":"c2VjcmV0"}`,
		"a public key":          string(other.PublicJWK()),
		"a curve unknown":       `{"kty":"EC","crv":"P-1","x":"AA","y":"AA","d":"AA"}`,
		"secp256k1":             `{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA","d":"AA"}`,
		"X25519":                `{"kty":"OKP","crv":"X25519","x":"` + strings.Repeat("A", 43) + `","d":"` + strings.Repeat("A", 43) + `"}`,
		"coordinates of a byte": `{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"AA"}`,
		"EC halves of two keys": members("ES256", func(k map[string]any) { k["x"], k["y"] = foreign["x"], foreign["y"] }),
		"EC with d of 0":        members("ES256", func(k map[string]any) { k["d"] = "AA" }),
		"Ed25519 halves of two": members("EdDSA", func(k map[string]any) { k["x"] = foreign["x"] }),
		"Ed25519 cut short":     members("EdDSA", func(k map[string]any) { k["d"] = "AAAA" }),
		"RSA halves of two":     members("PS256", func(k map[string]any) { k["d"] = k["n"] }),
		"RSA without primes": members("PS256", func(k map[string]any) {
			delete(k, "p")
			delete(k, "q")
			delete(k, "dp")
			delete(k, "dq")
			delete(k, "qi")
		}),
	} {
		t.Run(name, func(t *testing.T) {
			key, err := dpopclient.ParseKey([]byte(text))
			if err == nil {
				t.Fatalf("ParseKey returned %v", key)
			}
			if len(text) > 40 && (strings.Contains(err.Error(), text[20:40]) || strings.Contains(err.Error(), "c2VjcmV0")) {
				t.Errorf("the error quotes the key: %v", err)
			}
		})
	}
}

func TestNewKeyRefuses(t *testing.T) {
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	require.NoError(t, err)
	rsa1024, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	for name, signer := range map[string]crypto.Signer{"nil": nil, "P-224": p224, "RSA of 1024 bits": rsa1024, "of no type": hsm{unknown{}}} {
		if key, err := dpopclient.NewKey(signer); err == nil {
			t.Errorf("%s: NewKey returned %v", name, key)
		}
	}
}

// unknown is a signer with a public key of no type that anyone knows.
type unknown struct{ crypto.Signer }

func (unknown) Public() crypto.PublicKey { return "key" }

// A signer that fails, or that is gone, is an error of Proof and no proof.
func TestASignerThatFails(t *testing.T) {
	key, err := dpopclient.NewKey(broken{signers()["ES256"]})
	require.NoError(t, err)
	if proof, err := key.Proof(dpopclient.Claims{Method: "GET", URI: target}); err == nil || proof != "" {
		t.Errorf("Proof returned %q, %v", proof, err)
	}
}

type broken struct{ crypto.Signer }

func (broken) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, fmt.Errorf("the HSM is gone")
}

func ExampleKey_Proof() {
	key, err := dpopclient.GenerateKey()
	if err != nil {
		panic(err)
	}
	proof, err := key.Proof(dpopclient.Claims{Method: "GET", URI: "https://api.example.com/orders?page=2", AccessToken: "an-access-token"})
	if err != nil {
		panic(err)
	}
	fmt.Println(strings.Count(proof, "."), "dots, to be sent once as DPoP: …, beside Authorization: DPoP an-access-token")
	// Output: 2 dots, to be sent once as DPoP: …, beside Authorization: DPoP an-access-token
}
