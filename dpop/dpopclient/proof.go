package dpopclient

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Claims say which request a proof is for.
type Claims struct {
	Method string // such as GET, exactly as sent
	URI    string // the target URI; its query and fragment are left out of the proof

	// AccessToken is the token that goes with the request; the proof holds its hash. "" is for requests without one, to
	// a token endpoint.
	AccessToken string

	// Nonce is the newest value that this server sent in a DPoP-Nonce field, or "".
	Nonce string
}

// Proof returns a new proof for one request: the value of its DPoP field. jti has at least 128 random bits, and iat is now
// (RFC 9449 §4.2). A proof must not be sent twice, not even for a request that is repeated.
func (k *Key) Proof(c Claims) (string, error) {
	if c.Method == "" {
		return "", errors.New("dpopclient: Claims.Method is empty: name the request's method, such as GET")
	}
	htu, err := htu(c.URI)
	if err != nil {
		return "", err
	}
	if !isNonce(c.Nonce) {
		return "", errors.New("dpopclient: Claims.Nonce has characters that RFC 9449 §8.1 does not allow")
	}
	claims := struct {
		ID       string `json:"jti"`
		Method   string `json:"htm"`
		URI      string `json:"htu"`
		IssuedAt int64  `json:"iat"`
		Hash     string `json:"ath,omitempty"`
		Nonce    string `json:"nonce,omitempty"`
	}{ID: rand.Text(), Method: c.Method, URI: htu, IssuedAt: time.Now().Unix(), Nonce: c.Nonce}
	if c.AccessToken != "" {
		sum := sha256.Sum256([]byte(c.AccessToken))
		claims.Hash = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("dpopclient: %w", err)
	}
	return k.sign(payload)
}

// htu returns uri without query and fragment, with its path as net/http puts it on the wire: as it is, unless it has
// characters that must be percent-encoded.
func htu(uri string) (string, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil {
		return "", errors.New("dpopclient: Claims.URI is not an absolute URL without user information")
	}
	if strings.ContainsFunc(u.Host, func(r rune) bool { return r > '~' }) {
		return "", errors.New("dpopclient: Claims.URI has a host that is not ASCII: write it as it goes over the wire, with xn--")
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath(), nil
}

// isNonce reports whether s is made of NQCHAR (RFC 9449 §8.1).
func isNonce(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}
