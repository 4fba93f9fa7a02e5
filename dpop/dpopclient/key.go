// Package dpopclient makes DPoP proofs (RFC 9449 §4): the client's half.
package dpopclient

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/senderbound/senderbound/jkt"
)

// A Key is a key pair that signs proofs. Printed or logged, it shows its thumbprint. Its methods may be called by any
// number of goroutines, if its signer's may.
type Key struct {
	signer func() crypto.Signer // a function, since fmt prints what other fields hold where it can call no method
	alg    jwa.SignatureAlgorithm
	public json.RawMessage
	jkt    string
	header string // the first segment of every proof
}

// GenerateKey returns a new key on P-256, for ES256, which nearly every server takes.
func GenerateKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("dpopclient: generate a key: %w", err)
	}
	return NewKey(private)
}

// NewKey returns a key that signs with signer, such as one that lives in an HSM or a TPM. The algorithm follows from the
// public key: ES256, ES384 or ES512 for ECDSA on P-256, P-384 or P-521; EdDSA for Ed25519; PS256 for RSA of at least 2048
// bits. Any other key is an error. Servers need not take each of these; see algs in their challenges.
func NewKey(signer crypto.Signer) (*Key, error) {
	if signer == nil {
		return nil, errors.New("dpopclient: the signer is nil")
	}
	alg, err := algorithm(signer.Public())
	if err != nil {
		return nil, err
	}
	k := &Key{signer: func() crypto.Signer { return signer }, alg: alg}
	if k.jkt, err = jkt.Thumbprint(signer.Public()); err != nil {
		return nil, fmt.Errorf("dpopclient: %w", err)
	}
	if k.public, err = marshalJWK(signer.Public()); err != nil {
		return nil, err
	}
	header, err := json.Marshal(struct {
		Type      string          `json:"typ"`
		Algorithm string          `json:"alg"`
		JWK       json.RawMessage `json:"jwk"`
	}{"dpop+jwt", alg.String(), k.public})
	if err != nil {
		return nil, fmt.Errorf("dpopclient: %w", err)
	}
	k.header = base64.RawURLEncoding.EncodeToString(header)
	return k, nil
}

func algorithm(public crypto.PublicKey) (jwa.SignatureAlgorithm, error) {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		switch public.Curve {
		case elliptic.P256():
			return jwa.ES256, nil
		case elliptic.P384():
			return jwa.ES384, nil
		case elliptic.P521():
			return jwa.ES512, nil
		}
	case ed25519.PublicKey:
		return jwa.EdDSA, nil
	case *rsa.PublicKey:
		if public.N.BitLen() < 2048 {
			return "", errors.New("dpopclient: the RSA key has less than 2048 bits")
		}
		return jwa.PS256, nil
	}
	return "", fmt.Errorf("dpopclient: no algorithm for a public key of type %T: use ECDSA on P-256, P-384 or P-521, Ed25519, or RSA", public)
}

// ParseKey returns the key that a private JWK (RFC 7517) holds, such as PrivateJWK returned.
func ParseKey(private []byte) (*Key, error) {
	parsed, err := jwk.ParseKey(private)
	if err != nil {
		return nil, errors.New("dpopclient: not a JWK") // the cause could quote the key
	}
	var raw any
	if err := parsed.Raw(&raw); err != nil {
		return nil, errors.New("dpopclient: not a sound JWK")
	}
	signer, ok := raw.(crypto.Signer)
	if !ok {
		return nil, errors.New("dpopclient: the JWK holds no private key to sign with")
	}
	if !isSound(signer) {
		return nil, errors.New("dpopclient: not a sound JWK: its private and public parts do not belong together")
	}
	return NewKey(signer)
}

// isSound reports whether a private key's public part is its own; for Ed25519 the JWK parser has seen to it.
func isSound(signer crypto.Signer) bool {
	switch private := signer.(type) {
	case *ecdsa.PrivateKey:
		d, err := private.Bytes()
		if err != nil {
			return false
		}
		own, err := ecdsa.ParseRawPrivateKey(private.Curve, d)
		return err == nil && own.PublicKey.Equal(&private.PublicKey)
	case *rsa.PrivateKey:
		return len(private.Primes) > 1 && private.Validate() == nil
	}
	return true
}

// JKT returns the key's thumbprint (RFC 7638), the value of cnf.jkt in tokens bound to it and of the parameter dpop_jkt
// (RFC 9449 §10).
func (k *Key) JKT() string { return k.jkt }

// Algorithm returns the JWS algorithm of proofs, such as ES256.
func (k *Key) Algorithm() string { return k.alg.String() }

// PublicJWK returns the public key as a JWK.
func (k *Key) PublicJWK() json.RawMessage { return append(json.RawMessage(nil), k.public...) }

// PrivateJWK returns the private key, a secret, as a JWK. It is an error for a signer that does not give
// its key away.
func (k *Key) PrivateJWK() (json.RawMessage, error) {
	signer := k.signer()
	switch signer.(type) {
	case *ecdsa.PrivateKey, ed25519.PrivateKey, *rsa.PrivateKey:
		return marshalJWK(signer)
	}
	return nil, fmt.Errorf("dpopclient: a signer of type %T does not export its key", signer)
}

// Signer returns the signer that the key was made with.
func (k *Key) Signer() crypto.Signer { return k.signer() }

// String returns the key's thumbprint.
func (k Key) String() string { return "dpop key " + k.jkt }

// Format prints the key's thumbprint, whatever the verb, for a Key and a *Key alike: some verbs would print the signer.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

func marshalJWK(raw any) (json.RawMessage, error) {
	key, err := jwk.FromRaw(raw)
	if err != nil {
		return nil, errors.New("dpopclient: the key has no form as a JWK")
	}
	b, err := json.Marshal(key)
	if err != nil {
		return nil, errors.New("dpopclient: the key has no form as a JWK")
	}
	return b, nil
}

// sign returns a compact JWS of the key's header and payload.
func (k *Key) sign(payload []byte) (string, error) {
	signer, err := jws.NewSigner(k.alg)
	if err != nil {
		return "", fmt.Errorf("dpopclient: %w", err)
	}
	input := k.header + "." + base64.RawURLEncoding.EncodeToString(payload)
	sig, err := signer.Sign([]byte(input), k.signer())
	if err != nil {
		return "", fmt.Errorf("dpopclient: sign a proof: %w", err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}
