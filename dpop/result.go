package dpop

import (
	"context"
	"fmt"
	"strings"
)

// A Result is what Verify accepted. Token is shared between requests and must not be modified.
type Result struct {
	Token *Token
	Proof *Proof // nil if the token came under the Bearer scheme
	Nonce string // if not "", a newer nonce, for the answer's DPoP-Nonce field (RFC 9449 §8.2)

	challenger *challenger // nil in a Result made by hand
}

// SenderConstrained reports whether the sender proved possession of what the token is bound to: a DPoP key, or the key
// of a certificate (RFC 8705). It is false for a bearer token that Config.AllowBearer admitted.
func (r *Result) SenderConstrained() bool {
	return r.Proof != nil || r.Token.Confirmation.X5T != ""
}

// Require returns nil if the token has each of scopes, else an [*Error] with status 403 and a challenge that names
// them (RFC 6750 §3.1).
func (r *Result) Require(scopes ...string) error {
	if r.Token.HasScope(scopes...) {
		return nil
	}
	c, scheme := r.challenger, schemeDPoP
	if c == nil {
		c = new(challenger)
	}
	if r.Proof == nil {
		scheme = schemeBearer
	}
	return &Error{
		Code: CodeInsufficientScope, Reason: ErrInsufficientScope, Status: CodeInsufficientScope.status(),
		Challenges: c.values(CodeInsufficientScope, scheme, scheme == schemeBearer, strings.Join(scopes, " ")),
		Nonce:      r.Nonce,
		Err:        fmt.Errorf("needs %q", scopes),
	}
}

type contextKey struct{}

// NewContext returns a context that carries r, for a middleware or a handler's test.
func NewContext(ctx context.Context, r *Result) context.Context {
	return context.WithValue(ctx, contextKey{}, r)
}

// FromContext returns the Result that NewContext put into ctx, and whether there is one.
func FromContext(ctx context.Context) (*Result, bool) {
	r, _ := ctx.Value(contextKey{}).(*Result)
	return r, r != nil
}
