package dpop

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/senderbound/senderbound/internal/jose"
	"github.com/senderbound/senderbound/jkt"
)

// A Proof is what an accepted DPoP proof (RFC 9449 §4.2) says of its sender.
type Proof struct {
	JKT       string    // the thumbprint of the key that signed it
	Algorithm string    // alg
	IssuedAt  time.Time // iat, by the client's clock
}

// Limits of a proof, in bytes.
const (
	maxProof = 8 << 10
	maxJTI   = 256
)

// proofType is compared exactly: another spelling of the media type is one that another parser may not take.
const proofType = "dpop+jwt"

// A proof is a decoded proof, on its way to be believed.
type proof struct {
	Proof
	jws    jose.Compact
	jwk    []byte
	key    crypto.PublicKey
	known  bool              // whether key was in the cache
	claims [numClaims][]byte // raw JSON values; nil where there is none
	jti    []byte
}

// The members of a proof's header and its claims, as far as they are read. kid, jku, x5u and x5c are not: the key is the
// one in jwk, and nothing is fetched.
const (
	headerTyp = iota
	headerAlg
	headerJWK
	headerCrit
	headerB64
	numHeaders
)

const (
	claimJTI = iota
	claimHTM
	claimHTU
	claimIAT
	claimATH
	claimNonce
	claimExp
	claimNbf
	numClaims
)

var (
	headerNames = []string{"typ", "alg", "jwk", "crit", "b64"}
	claimNames  = []string{"jti", "htm", "htu", "iat", "ath", "nonce", "exp", "nbf"}
)

// singleProof returns the one proof of a request's DPoP fields (RFC 9449 §4.3, check 1). Some proxies join two fields
// with a comma, which no proof contains.
func singleProof(lines []string) (string, *refusal) {
	switch {
	case len(lines) == 0:
		return "", refuse(ErrProofMissing, "there is no DPoP field")
	case len(lines) > 1:
		return "", refuse(ErrProofMultiple, "there are %d DPoP fields", len(lines))
	case len(lines[0]) > maxProof:
		return "", refuse(ErrProofMalformed, "the proof is longer than %d bytes", maxProof)
	case strings.Contains(lines[0], ","):
		return "", refuse(ErrProofMultiple, "the DPoP field has a comma: a proxy joined two fields, or it is a list")
	case lines[0] == "":
		return "", refuse(ErrProofMissing, "the DPoP field is empty")
	}
	return lines[0], nil
}

// parse decodes a proof and computes the thumbprint of its key. The signature is not checked.
func (p *proof) parse(raw string, algorithms []string, keys *keyCache) *refusal {
	var err error
	if p.jws, err = jose.ParseCompact(raw); err != nil {
		return refuse(ErrProofMalformed, "the proof %w", err)
	}
	if r := p.parseHeader(algorithms, keys); r != nil {
		return r
	}
	return p.parseClaims()
}

func (p *proof) parseHeader(algorithms []string, keys *keyCache) *refusal {
	var h [numHeaders][]byte
	if err := jose.Scan(p.jws.Header, headerNames, h[:]); err != nil {
		return refuse(ErrProofMalformed, "the proof's header %w", err)
	}
	if typ, err := jose.Text(h[headerTyp]); err != nil || string(typ) != proofType {
		return refuse(ErrProofType, "typ is not "+proofType)
	}
	if h[headerCrit] != nil || h[headerB64] != nil {
		return refuse(ErrProofMalformed, "the header has crit or b64: extensions that must be understood are not")
	}
	alg, err := jose.Text(h[headerAlg])
	if err != nil {
		return refuse(ErrProofMalformed, "alg %w", err)
	}
	if p.Algorithm = permitted(algorithms, alg); p.Algorithm == "" {
		return refuse(ErrProofAlgorithm, "alg %s is not one of %s", short(string(alg)), strings.Join(algorithms, ", "))
	}
	if h[headerJWK] == nil {
		return refuse(ErrProofKey, "there is no jwk")
	}
	p.jwk = h[headerJWK]
	return p.parseKey(keys)
}

func (p *proof) parseKey(keys *keyCache) *refusal {
	k, known := keys.get(p.Algorithm, p.jwk)
	if !known {
		var err error
		if k.public, err = jose.ParseKey(p.jwk, p.Algorithm); err != nil {
			return &refusal{reason: ErrProofKey, detail: err}
		}
		if k.jkt, err = jkt.Thumbprint(k.public); err != nil {
			return &refusal{reason: ErrProofKey, detail: err}
		}
	}
	p.key, p.JKT, p.known = k.public, k.jkt, known
	return nil
}

// permitted returns the name in algorithms that alg stands for, or "".
func permitted(algorithms []string, alg []byte) string {
	for _, a := range algorithms {
		if jose.Canonical(a) == jose.Canonical(string(alg)) {
			return a
		}
	}
	return ""
}

func (p *proof) parseClaims() *refusal {
	if err := jose.Scan(p.jws.Payload, claimNames, p.claims[:]); err != nil {
		return refuse(ErrProofMalformed, "the proof's payload %w", err)
	}
	for _, claim := range [...]int{claimJTI, claimHTM, claimHTU} {
		if _, err := jose.Text(p.claims[claim]); err != nil {
			return refuse(ErrProofMalformed, "%s %w", claimNames[claim], err)
		}
	}
	p.jti, _ = jose.Text(p.claims[claimJTI])
	if len(p.jti) > maxJTI {
		return refuse(ErrProofMalformed, "jti is longer than %d bytes", maxJTI)
	}
	if isBlank(p.jti) {
		return refuse(ErrProofMalformed, "jti is blank")
	}
	var err error
	if p.IssuedAt, err = jose.Time(p.claims[claimIAT]); err != nil {
		return refuse(ErrProofMalformed, "iat %w", err)
	}
	return nil
}

// isBlank reports whether b has no visible character.
func isBlank(b []byte) bool {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if unicode.IsGraphic(r) && !unicode.IsSpace(r) {
			return false
		}
		b = b[n:]
	}
	return true
}

// checkTarget compares the proof with the request it came with: htm, htu, and ath, where tokenSum is the SHA-256 of the
// request's access token (RFC 9449 §4.3, checks 8, 9 and 12).
func (p *proof) checkTarget(req *Request, tokenSum *[32]byte) *refusal {
	if htm, _ := jose.Text(p.claims[claimHTM]); len(htm) == 0 || string(htm) != req.Method {
		return refuse(ErrMethodMismatch, "the proof is for %s, the request is %s", short(string(htm)), short(req.Method))
	}
	var wantBuf, gotBuf [512]byte
	want, err := normalizeURI(wantBuf[:0], req.URI)
	if err != nil {
		return refuse(ErrTargetUnknown, "the request's target %w", err)
	}
	htu, _ := jose.Text(p.claims[claimHTU])
	if string(htu) != req.URI { // else they have one normal form, and it need not be made twice
		got, err := normalizeURI(gotBuf[:0], string(htu))
		if err != nil {
			return refuse(ErrURIMismatch, "htu %w", err)
		}
		if !bytes.Equal(want, got) {
			return &refusal{reason: ErrURIMismatch, detail: uriMismatch(want, got)}
		}
	}
	return p.checkTokenHash(tokenSum)
}

func (p *proof) checkTokenHash(tokenSum *[32]byte) *refusal {
	if p.claims[claimATH] == nil {
		return refuse(ErrTokenHashMissing, "a proof that goes with an access token needs ath")
	}
	ath, err := jose.Text(p.claims[claimATH])
	if err != nil {
		return refuse(ErrTokenHashMismatch, "ath %w", err)
	}
	var want [43]byte
	base64.RawURLEncoding.Encode(want[:], tokenSum[:])
	if subtle.ConstantTimeCompare(ath, want[:]) != 1 {
		return refuse(ErrTokenHashMismatch, "the proof was made for another access token")
	}
	return nil
}

// tokenHash returns the SHA-256 of an access token, of which ath is the base64url form.
func tokenHash(token string) [sha256.Size]byte {
	var buf [2 << 10]byte // on the stack, as a conversion of so long a string would not be
	return sha256.Sum256(append(buf[:0], token...))
}

// A life is the time in which a proof, or the nonce it carries, may be accepted.
type life struct {
	made, expires time.Time
	nonce         string // if not "", a newer nonce for the client
}

// checkFresh returns the proof's life if it is not over (RFC 9449 §4.3, check 11): by the nonce where nonces are on,
// since the client's clock does not matter then, else by iat. Both bounds of iat are inclusive.
func (p *proof) checkFresh(c *Config, now time.Time) (life, *refusal) {
	l := life{made: p.IssuedAt, expires: p.IssuedAt.Add(c.MaxAge)}
	if c.Nonces != nil {
		var r *refusal
		if l, r = p.checkNonce(c.Nonces, now); r != nil {
			return l, r
		}
	} else if age := now.Sub(p.IssuedAt); age > c.MaxAge {
		return l, &refusal{reason: ErrProofTooOld, detail: skewError(age, "ago", c.MaxAge)}
	} else if ahead := p.IssuedAt.Sub(now); ahead > c.Leeway { // not -age: Sub saturates, and -math.MinInt64 is negative
		return l, &refusal{reason: ErrProofFromFuture, detail: skewError(ahead, "ahead", c.Leeway)}
	}
	return l, p.checkOptionalTimes(c.Leeway, now)
}

func (p *proof) checkNonce(s NonceSource, now time.Time) (l life, r *refusal) {
	if p.claims[claimNonce] == nil {
		return l, &refusal{reason: ErrNonceMissing, nonce: s.Issue(p.JKT, now)}
	}
	ok := false
	if nonce, err := jose.Text(p.claims[claimNonce]); err == nil {
		l.made, l.expires, l.nonce, ok = s.Check(string(nonce), p.JKT, now)
	}
	if !ok {
		return l, &refusal{reason: ErrNonceInvalid, nonce: s.Issue(p.JKT, now)}
	}
	return l, nil
}

// checkOptionalTimes honours exp and nbf, which a proof need not have.
func (p *proof) checkOptionalTimes(leeway time.Duration, now time.Time) *refusal {
	if p.claims[claimExp] != nil {
		if exp, err := jose.Time(p.claims[claimExp]); err != nil {
			return refuse(ErrProofMalformed, "exp %w", err)
		} else if !now.Before(exp) {
			return refuse(ErrProofTooOld, "exp is past")
		}
	}
	if p.claims[claimNbf] != nil {
		if nbf, err := jose.Time(p.claims[claimNbf]); err != nil {
			return refuse(ErrProofMalformed, "nbf %w", err)
		} else if nbf.Sub(now) > leeway {
			return refuse(ErrProofFromFuture, "nbf lies ahead")
		}
	}
	return nil
}

// skewError tells the operator by how many seconds a proof is off, and what is likely behind it.
func skewError(off time.Duration, direction string, limit time.Duration) error {
	cause := "the client's clock is wrong, or it uses a proof twice"
	if direction == "ahead" {
		cause = "the client's clock or this server's is wrong"
	}
	return fmt.Errorf("iat is %d s %s, the limit is %d s: %s", int64(off/time.Second), direction, int64(limit/time.Second), cause)
}

// checkSignature verifies the proof's signature with its own key.
func (p *proof) checkSignature() *refusal {
	if !jose.Verify(p.Algorithm, p.key, p.jws.Input, p.jws.Signature) {
		return refuse(ErrProofSignature, "the signature does not fit jwk")
	}
	return nil
}
