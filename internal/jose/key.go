package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"math/big"
)

// The signature algorithms known here (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2.2). Those that are symmetric, "none",
// and RSA with SHA-1 are not among them.
var algorithms = map[string]algorithm{
	"ES256":   {kty: "EC", crv: "P-256", curve: elliptic.P256(), hash: crypto.SHA256},
	"ES384":   {kty: "EC", crv: "P-384", curve: elliptic.P384(), hash: crypto.SHA384},
	"ES512":   {kty: "EC", crv: "P-521", curve: elliptic.P521(), hash: crypto.SHA512},
	"EdDSA":   {kty: "OKP", crv: "Ed25519"},
	"Ed25519": {kty: "OKP", crv: "Ed25519"},
	"PS256":   {kty: "RSA", hash: crypto.SHA256, pss: true},
	"PS384":   {kty: "RSA", hash: crypto.SHA384, pss: true},
	"PS512":   {kty: "RSA", hash: crypto.SHA512, pss: true},
	"RS256":   {kty: "RSA", hash: crypto.SHA256},
	"RS384":   {kty: "RSA", hash: crypto.SHA384},
	"RS512":   {kty: "RSA", hash: crypto.SHA512},
}

type algorithm struct {
	kty, crv string
	curve    elliptic.Curve
	hash     crypto.Hash
	pss      bool
}

// Known reports whether alg is a signature algorithm that [Verify] can check.
func Known(alg string) bool { _, ok := algorithms[alg]; return ok }

// Canonical returns the one name that stands for an algorithm here: RFC 9864 §2.2 gave EdDSA with Ed25519 (RFC 8037 §3.1) a
// second.
func Canonical(alg string) string {
	if alg == "Ed25519" {
		return "EdDSA"
	}
	return alg
}

// Members of a JWK. A public key has none from the first of privateMembers on (RFC 7518 §6.2.2, §6.3.2, §6.4).
const (
	kty = iota
	crv
	x
	y
	n
	e
	alg
	use
	keyOps
	privateMembers
)

var keyMembers = []string{
	"kty", "crv", "x", "y", "n", "e", "alg", "use", "key_ops",
	"d", "p", "q", "dp", "dq", "qi", "oth", "k",
}

// RSA keys: below, they can be factored; above, or with another exponent, whoever chooses the key chooses how long a
// verification takes. With an exponent of 1 anyone can sign.
const (
	minRSABits  = 2048
	maxRSABits  = 4096
	rsaExponent = 65537
)

var errPrivate = errors.New("jwk holds private members")

// ParseKey returns the public key that a JWK holds, for signatures with algorithm name. The key is built from the bare
// parameters; kid, x5c and other references are not looked at.
//
// It is an *ecdsa.PublicKey, an ed25519.PublicKey or an *rsa.PublicKey. A JWK with a private member, one whose use,
// key_ops or alg say something else than signatures with this algorithm, and a key that is not sound are refused.
func ParseKey(jwk []byte, name string) (crypto.PublicKey, error) {
	var m [17][]byte
	if err := Scan(jwk, keyMembers, m[:]); err != nil {
		return nil, fmt.Errorf("jwk %w", err)
	}
	for _, private := range m[privateMembers:] {
		if private != nil {
			return nil, errPrivate
		}
	}
	a, ok := algorithms[name]
	if !ok {
		return nil, fmt.Errorf("%q is not a signature algorithm that is known here", name)
	}
	if got, err := Text(m[kty]); err != nil || string(got) != a.kty {
		return nil, fmt.Errorf("jwk is not of kty %s, which %s needs", a.kty, name)
	}
	if a.crv != "" {
		if got, err := Text(m[crv]); err != nil || string(got) != a.crv {
			return nil, fmt.Errorf("jwk is not of crv %s, which %s needs", a.crv, name)
		}
	}
	if err := checkUse(m[use], m[keyOps], m[alg], name); err != nil {
		return nil, err
	}
	switch a.kty {
	case "EC":
		return ecKey(a.curve, m[x], m[y])
	case "OKP":
		return edKey(m[x])
	}
	return rsaKey(m[n], m[e])
}

// checkUse refuses a key that is said to be for something else (RFC 7517 §4.2–4.4).
func checkUse(use, ops, alg []byte, name string) error {
	if use != nil {
		if got, err := Text(use); err != nil || string(got) != "sig" {
			return errors.New("jwk has a use other than sig")
		}
	}
	if alg != nil {
		if got, err := Text(alg); err != nil || Canonical(string(got)) != Canonical(name) {
			return fmt.Errorf("jwk has an alg other than %s", name)
		}
	}
	if ops != nil && !listsSignature(ops) {
		return errors.New("jwk has key_ops that are not for signatures")
	}
	return nil
}

// listsSignature reports whether ops is an array of strings with "verify" or, as some clients export it, "sign".
func listsSignature(ops []byte) bool {
	list, err := Strings(ops)
	for _, op := range list {
		if op == "verify" || op == "sign" {
			return err == nil
		}
	}
	return false
}

// param decodes a base64url parameter of exactly size bytes, or of any size if size is 0.
func param(name string, value []byte, size int) ([]byte, error) {
	text, err := Text(value)
	if err != nil {
		return nil, fmt.Errorf("jwk member %s %w", name, err)
	}
	b, err := Decode(nil, text)
	if err != nil {
		return nil, fmt.Errorf("jwk member %s %w", name, err)
	}
	if size > 0 && len(b) != size {
		return nil, fmt.Errorf("jwk member %s is not %d bytes long", name, size)
	}
	return b, nil
}

func ecKey(curve elliptic.Curve, xText, yText []byte) (crypto.PublicKey, error) {
	size := (curve.Params().BitSize + 7) / 8
	xb, err := param("x", xText, size)
	if err != nil {
		return nil, err
	}
	yb, err := param("y", yText, size)
	if err != nil {
		return nil, err
	}
	point := make([]byte, 1+2*size)
	point[0] = 4 // uncompressed (SEC 1 §2.3.3)
	copy(point[1:], xb)
	copy(point[1+size:], yb)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, errors.New("jwk is not a point on its curve")
	}
	return key, nil
}

func edKey(xText []byte) (crypto.PublicKey, error) {
	b, err := param("x", xText, ed25519.PublicKeySize)
	if err != nil {
		return nil, err
	}
	if smallOrder(b) {
		return nil, errors.New("jwk is a point of small order, for which anyone can sign")
	}
	return ed25519.PublicKey(b), nil
}

func rsaKey(nText, eText []byte) (crypto.PublicKey, error) {
	modulus, err := param("n", nText, 0)
	if err != nil {
		return nil, err
	}
	exponent, err := param("e", eText, 0)
	if err != nil {
		return nil, err
	}
	if len(modulus) == 0 || modulus[0] == 0 || len(exponent) == 0 || exponent[0] == 0 {
		return nil, errors.New("jwk has a parameter with leading zeros") // RFC 7518 §2, Base64urlUInt
	}
	if len(modulus) > maxRSABits/8 {
		return nil, fmt.Errorf("jwk is an RSA key of more than %d bits", maxRSABits)
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(modulus)}
	if key.N.BitLen() < minRSABits {
		return nil, fmt.Errorf("jwk is an RSA key of less than %d bits", minRSABits)
	}
	if key.N.Bit(0) == 0 {
		return nil, errors.New("jwk is an RSA key with an even modulus")
	}
	if len(exponent) > 3 || new(big.Int).SetBytes(exponent).Int64() != rsaExponent {
		return nil, fmt.Errorf("jwk is an RSA key with an exponent other than %d", rsaExponent)
	}
	key.E = rsaExponent
	return key, nil
}

// Fits reports whether key is of the type, and on the curve, that signatures with algorithm name need.
func Fits(name string, key crypto.PublicKey) bool {
	a := algorithms[name]
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return a.kty == "EC" && key.Curve == a.curve
	case ed25519.PublicKey:
		return a.kty == "OKP" && len(key) == ed25519.PublicKeySize
	case *rsa.PublicKey:
		return a.kty == "RSA"
	}
	return false
}

// digest appends to dst the digest of input that a signature of a is over; none for Ed25519, which hashes for itself.
func (a *algorithm) digest(dst, input []byte) []byte {
	switch a.hash {
	case crypto.SHA256:
		sum := sha256.Sum256(input)
		return append(dst, sum[:]...)
	case crypto.SHA384:
		sum := sha512.Sum384(input)
		return append(dst, sum[:]...)
	case crypto.SHA512:
		sum := sha512.Sum512(input)
		return append(dst, sum[:]...)
	}
	return dst
}

// Verify reports whether sig is a signature over input by key, which [ParseKey] returned for algorithm name or which
// is known to fit it. A key of another type, or a signature in another form than that of RFC 7518 §3, is a false one.
func Verify(name string, key crypto.PublicKey, input, sig []byte) bool {
	a, ok := algorithms[name]
	if !ok {
		return false
	}
	var buf [64]byte
	digest := a.digest(buf[:0], input)
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return a.kty == "EC" && key.Curve == a.curve && verifyECDSA(key, digest, sig)
	case ed25519.PublicKey:
		return a.kty == "OKP" && len(key) == ed25519.PublicKeySize && ed25519.Verify(key, input, sig)
	case *rsa.PublicKey:
		if a.kty != "RSA" {
			return false
		}
		if a.pss {
			// RFC 7518 §3.5: the salt is as long as the hash.
			return rsa.VerifyPSS(key, a.hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(key, a.hash, digest, sig) == nil
	}
	return false
}

// verifyECDSA checks a signature in the form of RFC 7518 §3.4: r and s, each as long as the curve's field.
func verifyECDSA(key *ecdsa.PublicKey, digest, sig []byte) bool {
	size := (key.Curve.Params().BitSize + 7) / 8
	if len(sig) != 2*size {
		return false
	}
	var buf [2*(66+3) + 3]byte
	der := appendInteger(appendInteger(buf[3:3], sig[:size]), sig[size:])
	// The sequence's header goes in front, once its length is known.
	start := 1
	if len(der) < 128 {
		buf[1], buf[2] = 0x30, byte(len(der))
	} else {
		buf[0], buf[1], buf[2] = 0x30, 0x81, byte(len(der))
		start = 0
	}
	return ecdsa.VerifyASN1(key, digest, buf[start:3+len(der)])
}

// appendInteger appends the DER form of an unsigned big-endian integer: no leading zeros but one before a high bit.
func appendInteger(dst, b []byte) []byte {
	for len(b) > 1 && b[0] == 0 {
		b = b[1:]
	}
	if b[0] >= 0x80 {
		return append(append(dst, 2, byte(len(b)+1), 0), b...)
	}
	return append(append(dst, 2, byte(len(b))), b...)
}
