package jose_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/internal/jose"
)

// signJWX signs with a library that is not ours.
func signJWX(t *testing.T, alg string, key crypto.Signer, input []byte) []byte {
	t.Helper()
	if alg == "Ed25519" {
		alg = "EdDSA" // jwx/v2 knows the older name only
	}
	signer, err := jws.NewSigner(jwa.SignatureAlgorithm(alg))
	require.NoError(t, err)
	sig, err := signer.Sign(input, key)
	require.NoError(t, err)
	return sig
}

func TestVerify(t *testing.T) {
	input := []byte("header.payload")
	for alg, name := range keyFor {
		t.Run(alg, func(t *testing.T) {
			key := keys()[name]
			sig := signJWX(t, alg, key, input)
			if !jose.Verify(alg, key.Public(), input, sig) {
				t.Fatal("R014 a signature by jwx does not verify")
			}
			step := max(1, len(sig)/8-7) // each bit of a short signature, some of a long and slow one
			for bit := 0; bit < len(sig)*8; bit += step {
				sig[bit/8] ^= 1 << (bit % 8)
				if jose.Verify(alg, key.Public(), input, sig) {
					t.Fatalf("R014 the signature verifies with bit %d flipped", bit)
				}
				sig[bit/8] ^= 1 << (bit % 8)
			}
			if jose.Verify(alg, key.Public(), []byte("header.payloae"), sig) {
				t.Error("R014 the signature verifies for another input")
			}
			for _, wrong := range [][]byte{nil, {}, sig[1:], sig[:len(sig)-1], append(bytes.Clone(sig), 0), append([]byte{0}, sig...)} {
				if jose.Verify(alg, key.Public(), input, wrong) {
					t.Errorf("A11 a signature of %d bytes verifies, where the algorithm has %d", len(wrong), len(sig))
				}
			}
			for other, otherName := range keyFor {
				if otherName != name && jose.Verify(other, key.Public(), input, sig) {
					t.Errorf("A10 it verifies as %s", other)
				}
				if otherName != name && jose.Verify(alg, keys()[otherName].Public(), input, sig) {
					t.Errorf("A10 it verifies with a key for %s", other)
				}
			}
			// One key may serve several hashes and both paddings; a signature is for one of them alone.
			for other, otherName := range keyFor {
				if otherName == name && other != alg && name != "Ed25519" && jose.Verify(other, key.Public(), input, sig) {
					t.Errorf("A10 it verifies as %s with the same key", other)
				}
			}
		})
	}
}

func TestA11VerifyRefusesECDSASignaturesOfAnotherForm(t *testing.T) {
	input := []byte("header.payload")
	for _, alg := range []string{"ES256", "ES384", "ES512"} {
		key := keys()[keyFor[alg]].(*ecdsa.PrivateKey)
		size := (key.Curve.Params().BitSize + 7) / 8
		sig := signJWX(t, alg, key, input)
		r, s := sig[:size], sig[size:]
		order := key.Curve.Params().N
		zero := make([]byte, size)
		fill := func(n *big.Int) []byte { return n.FillBytes(make([]byte, size)) }

		digest := map[string]crypto.Hash{"ES256": crypto.SHA256, "ES384": crypto.SHA384, "ES512": crypto.SHA512}[alg].New()
		digest.Write(input)
		der, err := ecdsa.SignASN1(rand.Reader, key, digest.Sum(nil))
		require.NoError(t, err)

		for name, wrong := range map[string][]byte{
			"r=s=0":                append(bytes.Clone(zero), zero...),
			"r=0":                  append(bytes.Clone(zero), s...),
			"s=0":                  append(bytes.Clone(r), zero...),
			"r=n":                  append(fill(order), s...),
			"s=n":                  append(bytes.Clone(r), fill(order)...),
			"r=s=n":                append(fill(order), fill(order)...),
			"all bits set":         bytes.Repeat([]byte{0xff}, 2*size),
			"DER":                  der,
			"r and s exchanged":    append(bytes.Clone(s), r...),
			"one byte less":        sig[:2*size-1],
			"one byte more":        append(bytes.Clone(sig), 0),
			"r and s, each padded": append(append([]byte{0}, r...), append([]byte{0}, s...)...),
		} {
			if jose.Verify(alg, key.Public(), input, wrong) {
				t.Errorf("%s: a signature with %s verifies", alg, name)
			}
		}
		// r+n stands for the same r where it fits; crypto/ecdsa must see it as too large.
		if tooLarge := new(big.Int).Add(new(big.Int).SetBytes(r), order); tooLarge.BitLen() <= 8*size {
			if jose.Verify(alg, key.Public(), input, append(fill(tooLarge), s...)) {
				t.Errorf("%s: a signature with r+n verifies", alg)
			}
		}
	}
}

// A12: with (r, s), (r, n-s) is a signature, too. It is accepted, which is why no one may use the bytes of a proof as
// the name under which it is remembered.
func TestA12TheOtherSignatureOfAPairVerifies(t *testing.T) {
	key := keys()["P-256"].(*ecdsa.PrivateKey)
	input := []byte("header.payload")
	sig := signJWX(t, "ES256", key, input)
	s := new(big.Int).SetBytes(sig[32:])
	copy(sig[32:], new(big.Int).Sub(key.Curve.Params().N, s).FillBytes(make([]byte, 32)))
	if !jose.Verify("ES256", key.Public(), input, sig) {
		t.Error("(r, n-s) does not verify: then the documentation of A12 is wrong")
	}
}

// Small r and s have leading zeros, which the DER form drops. One signature in 128 has one.
func TestVerifyWithLeadingZeros(t *testing.T) {
	key := keys()["P-256"].(*ecdsa.PrivateKey)
	met := 0
	for i := range 2000 {
		input := []byte{byte(i), byte(i >> 8)}
		sig := signJWX(t, "ES256", key, input)
		if sig[0] != 0 && sig[32] != 0 {
			continue
		}
		met++
		if !jose.Verify("ES256", key.Public(), input, sig) {
			t.Fatalf("a signature with a leading zero does not verify: %x", sig)
		}
		if met == 4 {
			break
		}
	}
	if met == 0 {
		t.Error("no signature with a leading zero was met")
	}
}

// The salt of PS256 is as long as the hash (RFC 7518 §3.5); another length is another algorithm.
func TestVerifyRefusesPSSWithAnotherSalt(t *testing.T) {
	key := keys()["RSA"].(*rsa.PrivateKey)
	input := []byte("header.payload")
	digest := sha256.Sum256(input)
	for _, length := range []int{1, 20, 31, 33, 64} {
		sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: length})
		require.NoError(t, err)
		if jose.Verify("PS256", key.Public(), input, sig) {
			t.Errorf("a signature with a salt of %d bytes verifies", length)
		}
	}
}

func TestVerifyRefusesWhatIsNoKey(t *testing.T) {
	for _, key := range []crypto.PublicKey{nil, "key", []byte("key"), ed25519.PublicKey("short"), keys()["P-256"], struct{}{}} {
		for alg := range keyFor {
			if jose.Verify(alg, key, []byte("input"), make([]byte, 64)) {
				t.Errorf("%s verifies with a key of type %T", alg, key)
			}
		}
	}
	for _, alg := range []string{"", "none", "HS256", "ES256K"} {
		if jose.Verify(alg, keys()["P-256"].Public(), []byte("input"), nil) {
			t.Errorf("A01, A02: %q verifies", alg)
		}
	}
}
