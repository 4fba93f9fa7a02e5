package dpop

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/senderbound/senderbound/internal/jose"
)

// A TokenResolver turns an access token into what it stands for.
//
// An error that wraps [ErrTokenInvalid] says that the token is unknown, expired, revoked, or not meant for this
// resource; finer reasons such as [ErrTokenAudience] wrap it, too. Any other error says that the resolver cannot tell,
// and is answered with 503. An error must not hold the token.
//
// The Token may be shared between requests: Verify does not change it. ResolveToken may be called by any number of
// goroutines.
type TokenResolver interface {
	ResolveToken(ctx context.Context, token string) (*Token, error)
}

// TokenResolverFunc is a function as a [TokenResolver].
type TokenResolverFunc func(ctx context.Context, token string) (*Token, error)

// ResolveToken calls f.
func (f TokenResolverFunc) ResolveToken(ctx context.Context, token string) (*Token, error) {
	return f(ctx, token)
}

// A CachedResolver can say, without I/O, what it already knows of the token with a SHA-256, which ath needs anyway
// (RFC 9449 §4.2). What it returns must be what ResolveToken would return at this moment.
//
// Do not embed a CachedResolver in a resolver that refuses more: it would have its Cached method as well, and its own
// ResolveToken would not be asked for tokens that are cached. Keep it in a field and have a method Unwrap() TokenResolver:
// NewVerifier then finds the cache below, what that knows only lets Verify refuse earlier, and the wrapping resolver
// decides.
type CachedResolver interface {
	TokenResolver
	Cached(sum [32]byte) (*Token, bool)
}

// A Token is what an access token stands for. It is shared between requests and must not be modified.
type Token struct {
	Issuer, Subject, ClientID string
	Audience                  []string
	Scope                     string    // space-delimited, as on the wire
	Expiry                    time.Time // the first moment at which it is no longer valid; zero where the issuer named none
	Confirmation              Confirmation
	Raw                       json.RawMessage // all claims as one JSON object; see Claims
}

// HasScope reports whether the token has each of scopes (RFC 6749 §3.3: case-sensitive, in any order).
func (t *Token) HasScope(scopes ...string) bool {
	for _, want := range scopes {
		found := false
		for have := range strings.SplitSeq(t.Scope, " ") {
			found = found || have == want && want != ""
		}
		if !found {
			return false
		}
	}
	return true
}

// Claims decodes all claims of the token into dst, as json.Unmarshal does.
func (t *Token) Claims(dst any) error { return json.Unmarshal(t.Raw, dst) }

// A Confirmation is the cnf claim of a token (RFC 7800 §3.1): what the token is bound to.
//
// Members beside a known method are tolerated. A cnf without any known method, or with a malformed one, is Unknown and
// refused under every scheme; it never counts as unbound.
type Confirmation struct {
	JKT     string // the thumbprint of a DPoP key (RFC 9449 §6.1), or ""
	X5T     string // x5t#S256, the SHA-256 of a certificate (RFC 8705 §3.1), or ""
	Unknown bool   // there is a cnf, and it names nothing that is known here
}

// ParseConfirmation returns what the cnf claim cnf says. Without a cnf, that is with an empty slice, the token is
// unbound and the Confirmation is zero. A cnf that is malformed is Unknown, and the error says what is wrong.
func ParseConfirmation(cnf json.RawMessage) (Confirmation, error) {
	if len(cnf) == 0 {
		return Confirmation{}, nil
	}
	var m [2][]byte
	if err := jose.Scan(cnf, []string{"jkt", "x5t#S256"}, m[:]); err != nil {
		return Confirmation{Unknown: true}, fmt.Errorf("dpop: cnf %w", err)
	}
	var c Confirmation
	for i, dst := range []*string{&c.JKT, &c.X5T} {
		if m[i] == nil {
			continue
		}
		var err error
		if *dst, err = sha256Text(m[i]); err != nil {
			return Confirmation{Unknown: true}, err
		}
	}
	c.Unknown = c.JKT == "" && c.X5T == ""
	return c, nil
}

var errNotSHA256 = errors.New("dpop: cnf has a hash that is not 43 characters of base64url")

func sha256Text(value []byte) (string, error) {
	text, err := jose.Text(value)
	if err != nil || len(text) != base64.RawURLEncoding.EncodedLen(32) {
		return "", errNotSHA256
	}
	if _, err := jose.Decode(nil, text); err != nil {
		return "", errNotSHA256
	}
	return string(text), nil
}
