// Package jkt computes the name of a public key: the SHA-256 thumbprint of its JWK (RFC 7638), to which a DPoP-bound
// access token is bound by the claim cnf.jkt (RFC 9449 §6.1).
package jkt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"math/big"
)

var errKey = errors.New("jkt: not an ECDSA key on P-256, P-384 or P-521, an Ed25519 key, or an RSA key")

// Thumbprint returns the thumbprint of key: 43 characters of unpadded base64url. It depends on the key's parameters
// alone, not on how a JWK spells them or on what else a JWK says.
//
// key is an *ecdsa.PublicKey on P-256, P-384 or P-521, an ed25519.PublicKey, or an *rsa.PublicKey; any other is an error.
// Thumbprint does not judge whether a key is sound.
func Thumbprint(key crypto.PublicKey) (string, error) {
	// The required members in lexicographic order, without white space (RFC 7638 §3.2, §3.3; RFC 8037 §2). Their
	// values need no escapes.
	var buf [256]byte
	jwk := buf[:0]
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() && key.Curve != elliptic.P521() {
			return "", errKey
		}
		point, err := key.Bytes()
		if err != nil {
			return "", errKey
		}
		size := len(point) / 2
		jwk = append(jwk, `{"crv":"`...)
		jwk = append(jwk, key.Curve.Params().Name...)
		jwk = append(jwk, `","kty":"EC","x":"`...)
		jwk = base64.RawURLEncoding.AppendEncode(jwk, point[1:1+size])
		jwk = append(jwk, `","y":"`...)
		jwk = base64.RawURLEncoding.AppendEncode(jwk, point[1+size:])
	case ed25519.PublicKey:
		if len(key) != ed25519.PublicKeySize {
			return "", errKey
		}
		jwk = append(jwk, `{"crv":"Ed25519","kty":"OKP","x":"`...)
		jwk = base64.RawURLEncoding.AppendEncode(jwk, key)
	case *rsa.PublicKey:
		jwk = append(jwk, `{"e":"`...)
		jwk = base64.RawURLEncoding.AppendEncode(jwk, big.NewInt(int64(key.E)).Bytes())
		jwk = append(jwk, `","kty":"RSA","n":"`...)
		jwk = base64.RawURLEncoding.AppendEncode(jwk, key.N.Bytes())
	default:
		return "", errKey
	}
	jwk = append(jwk, `"}`...)
	sum := sha256.Sum256(jwk)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// Equal reports whether two thumbprints are the same, in a time that depends on their lengths alone. Two empty ones are
// not: a token without a thumbprint is bound to no key.
func Equal(a, b string) bool {
	return a != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
