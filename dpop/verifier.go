package dpop

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/senderbound/senderbound/jkt"
	"github.com/senderbound/senderbound/replay"
)

// A RequestVerifier decides whether a request may pass: a [*Verifier], or what wraps one.
type RequestVerifier interface {
	Verify(ctx context.Context, req Request) (*Result, error)
}

// A Verifier decides whether a request comes from the holder of its access token. Its methods may be called by any
// number of goroutines.
type Verifier struct {
	cfg        Config
	challenger challenger

	// cached is what the resolver, or one it wraps, knows without I/O; nil if none can say. Only the resolver's own
	// word is final.
	cached      func(sum [32]byte) (*Token, bool)
	cachedFinal bool

	keys *keyCache
}

// NewVerifier returns a Verifier for a copy of cfg, or an error that names every mistake in it.
func NewVerifier(cfg Config) (*Verifier, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	v := &Verifier{
		cfg:        cfg,
		keys:       newKeyCache(),
		challenger: challenger{realm: cfg.Realm, algs: strings.Join(cfg.Algorithms, " "), metadata: cfg.ResourceMetadata},
	}
	v.cached, v.cachedFinal = findCache(cfg.Resolver)
	return v, nil
}

// findCache returns the Cached method of r, or else of a resolver that r wraps, and whether it is r's own.
func findCache(r TokenResolver) (cached func(sum [32]byte) (*Token, bool), own bool) {
	for depth := range maxWrappers {
		if c, ok := r.(CachedResolver); ok {
			return c.Cached, depth == 0
		}
		w, ok := r.(interface{ Unwrap() TokenResolver })
		if !ok {
			break
		}
		r = w.Unwrap()
	}
	return nil, false
}

// maxWrappers is more than anyone stacks, and ends a chain that leads back to itself.
const maxWrappers = 100

// Config returns a copy of the configuration, with its defaults filled in.
func (v *Verifier) Config() Config {
	cfg := v.cfg
	cfg.Algorithms = slices.Clone(cfg.Algorithms)
	return cfg
}

// Verify decides whether req comes from the holder of its access token (RFC 9449 §4.3 and §7). It returns what the token
// stands for, or an [*Error] that knows how to answer. An accepted proof is used up; a refused one is not, unless it is
// refused because it was used before, or because the replay store failed or its time ran out while it was recorded.
//
// It admits a token that is bound to a DPoP key (cnf.jkt) under the DPoP scheme with a proof by that key; one that is
// bound to a certificate (cnf.x5t#S256) under the Bearer scheme with that certificate; one that is bound to both under
// the DPoP scheme with both; and one that is bound to nothing under the Bearer scheme while Config.AllowBearer says so.
//
// Verify does not check scopes (see [Result.Require]), the integrity of the request's body and other header fields
// (RFC 9449 §11.7), or where an origin lies: Request.URI must be right. Issuer, audience, validity and revocation are
// checked as far as the resolver does.
func (v *Verifier) Verify(ctx context.Context, req Request) (*Result, error) {
	scheme, token, r := parseCredentials(req.Authorization)
	var res *Result
	switch {
	case hasQueryToken(req.URI):
		r = refuse(ErrMalformedAuthorization, "the query has an access_token: tokens are taken in the Authorization field only")
	case r != nil:
	case req.URI == "":
		r = refuse(ErrTargetUnknown, "there is no target URI: the request is for none of the configured origins, or has several "+
			"forwarded values, a fragment, or dot segments behind a path prefix")
	case scheme == schemeBearer:
		res, r = v.verifyBearer(ctx, &req, token)
	default:
		res, r = v.verifyDPoP(ctx, &req, token)
	}
	if r != nil {
		return nil, v.newError(ctx, r, scheme)
	}
	return res, nil
}

// verifyDPoP runs the checks from free to costly, so that what must be refused is refused early, and uses the proof up
// last, so that nothing is lost by a refusal and nothing but accepted proofs fills the store.
func (v *Verifier) verifyDPoP(ctx context.Context, req *Request, token string) (*Result, *refusal) {
	raw, r := singleProof(req.DPoP)
	if r != nil {
		return nil, r
	}
	var p proof
	if r := p.parse(raw, v.cfg.Algorithms, v.keys); r != nil {
		return nil, r
	}
	sum := tokenHash(token)
	if r := p.checkTarget(req, &sum); r != nil {
		return nil, r
	}
	fresh, r := p.checkFresh(&v.cfg, v.cfg.Now())
	if r != nil {
		return nil, r
	}
	t, r := v.admit(ctx, req, token, sum, &p, fresh)
	if r != nil {
		r.nonce = cmp.Or(r.nonce, fresh.nonce)
		return nil, r
	}
	if !p.known {
		v.keys.put(p.jwk, parsedKey{alg: p.Algorithm, jkt: p.JKT, public: p.key})
	}
	accepted := &struct { // one block of memory
		Result
		Proof
	}{Result{Token: t, Nonce: fresh.nonce, challenger: &v.challenger}, p.Proof}
	accepted.Result.Proof = &accepted.Proof
	return &accepted.Result, nil
}

// admit runs the checks that take time: the binding, the signature, the resolver, and the store.
func (v *Verifier) admit(ctx context.Context, req *Request, token string, sum [32]byte, p *proof, fresh life) (*Token, *refusal) {
	// The client chooses the key, and with it what a signature costs to verify. With a token that is known here, only
	// its holder makes us verify one; with another, the signature comes before the resolver's network.
	t, known := v.known(sum)
	if known {
		if r := v.checkBinding(t, p, req); r != nil {
			return nil, r
		}
	}
	if r := p.checkSignature(); r != nil {
		return nil, r
	}
	if !known || !v.cachedFinal {
		var r *refusal
		if t, r = v.resolve(ctx, token); r != nil {
			return nil, r
		}
		if r := v.checkBinding(t, p, req); r != nil {
			return nil, r
		}
	}
	return t, v.use(ctx, p, fresh)
}

// verifyBearer admits a token that is bound to the request's certificate, and an unbound one where that is allowed. A
// proof beside such a token has no meaning, so the client is told rather than believed.
func (v *Verifier) verifyBearer(ctx context.Context, req *Request, token string) (*Result, *refusal) {
	allowed := v.bearerAllowed()
	if !allowed && req.ClientCertificate == nil {
		return nil, &refusal{reason: ErrBearerNotAllowed}
	}
	t, r := v.resolve(ctx, token)
	if r != nil {
		return nil, r
	}
	switch c := t.Confirmation; {
	case c.Unknown:
		return nil, &refusal{reason: ErrConfirmationUnknown}
	case c.JKT != "":
		return nil, refuse(ErrTokenBound, "a token that is bound to a key came under the Bearer scheme")
	case len(req.DPoP) > 0:
		return nil, refuse(ErrProofUnderBearer, "the token is not bound to a key, but came with a proof")
	case c.X5T != "":
		if r := checkCertificate(c.X5T, req); r != nil {
			return nil, r
		}
	case !allowed:
		return nil, &refusal{reason: ErrBearerNotAllowed}
	}
	return &Result{Token: t, challenger: &v.challenger}, nil
}

func (v *Verifier) bearerAllowed() bool { return v.cfg.AllowBearer != nil && v.cfg.AllowBearer() }

// known returns what is known of a token without I/O.
func (v *Verifier) known(sum [32]byte) (*Token, bool) {
	if v.cached == nil {
		return nil, false
	}
	t, ok := v.cached(sum)
	return t, ok && t != nil
}

// resolve asks the resolver what a token stands for.
func (v *Verifier) resolve(ctx context.Context, token string) (*Token, *refusal) {
	t, err := v.cfg.Resolver.ResolveToken(ctx, token)
	switch {
	case errors.Is(err, ErrTokenInvalid):
		reason := ErrTokenInvalid
		if finer := Reason(""); errors.As(err, &finer) && errors.Is(finer, ErrTokenInvalid) {
			reason = finer
		}
		return nil, &refusal{reason: reason, detail: err}
	case err != nil:
		return nil, &refusal{reason: ErrResolverUnavailable, detail: err}
	case t == nil:
		return nil, refuse(ErrResolverUnavailable, "the resolver returned neither a token nor an error")
	}
	return t, v.checkExpiry(t)
}

func (v *Verifier) checkExpiry(t *Token) *refusal {
	if !t.Expiry.IsZero() && !v.cfg.Now().Before(t.Expiry) {
		return &refusal{reason: ErrTokenExpired}
	}
	return nil
}

// checkBinding decides whether the token is bound to the proof's key and, if it is bound to a certificate as well, to the
// request's (RFC 9449 §7.1, RFC 8705 §3).
func (v *Verifier) checkBinding(t *Token, p *proof, req *Request) *refusal {
	if r := v.checkExpiry(t); r != nil {
		return r
	}
	c := t.Confirmation
	switch {
	case c.Unknown:
		return &refusal{reason: ErrConfirmationUnknown}
	case c.JKT == "":
		return refuse(ErrTokenUnbound, "the token came under the DPoP scheme, but is not bound to a DPoP key")
	case !jkt.Equal(c.JKT, p.JKT):
		return refuse(ErrKeyMismatch, "the token is bound to the key %s, the proof is by the key %s", c.JKT, p.JKT)
	case c.X5T != "":
		return checkCertificate(c.X5T, req)
	}
	return nil
}

// checkCertificate compares the request's certificate with the one that a token is bound to (RFC 8705 §3.1).
func checkCertificate(x5t string, req *Request) *refusal {
	if req.ClientCertificate == nil {
		return refuse(ErrCertificateMismatch, "the token is bound to a certificate, and the request has none")
	}
	sum := sha256.Sum256(req.ClientCertificate.Raw)
	if !jkt.Equal(x5t, base64.RawURLEncoding.EncodeToString(sum[:])) {
		return refuse(ErrCertificateMismatch, "the token is bound to another certificate")
	}
	return nil
}

// use records the proof as used, until no process that shares the store accepts it any more.
func (v *Verifier) use(ctx context.Context, p *proof, l life) *refusal {
	expires := ceilSecond(l.expires.Add(2 * v.cfg.ClockSkew))
	first, err := v.cfg.Replay.FirstUse(ctx, replay.Key(p.JKT, string(p.jti)), l.made, expires)
	// The resolver and the store may have taken their time. What another process has used is remembered for as long as
	// proofs are accepted, and not for as long as we may take.
	late := v.cfg.Now().After(l.expires)
	if err == nil && first && !late {
		return nil
	}
	var retryAfter time.Duration
	var unavailable *replay.Unavailable
	isUnavailable := errors.As(err, &unavailable) // no new proof would do, whatever else it wraps
	if isUnavailable {
		retryAfter = unavailable.RetryAfter
	}
	switch {
	case late && !isUnavailable && !errors.Is(err, replay.ErrFull):
		return v.tooLate(p, err)
	case err == nil:
		return &refusal{reason: ErrProofReplayed}
	case errors.Is(err, replay.ErrFull):
		return &refusal{reason: ErrReplayFull, detail: err, retryAfter: retryAfter}
	case isUnavailable || !errors.Is(err, replay.ErrStale):
		return &refusal{reason: ErrReplayUnavailable, detail: err, retryAfter: retryAfter}
	case v.cfg.Nonces != nil:
		return &refusal{reason: ErrNonceStale, detail: err, nonce: v.cfg.Nonces.Issue(p.JKT, v.cfg.Now())}
	}
	return &refusal{reason: ErrProofStale, detail: err}
}

// tooLate refuses a proof whose time ran out while it was checked; err is what the store said by then, if anything.
func (v *Verifier) tooLate(p *proof, err error) *refusal {
	r := refuse(ErrProofTooOld, "its time ran out while the resolver or the replay store was asked")
	if err != nil {
		r.detail = fmt.Errorf("%w: %w", r.detail, err)
	}
	if v.cfg.Nonces != nil {
		r.reason, r.nonce = ErrNonceInvalid, v.cfg.Nonces.Issue(p.JKT, v.cfg.Now())
	}
	return r
}

// ceilSecond rounds up: stores count in whole seconds, and may hold longer but never shorter.
func ceilSecond(t time.Time) time.Time {
	if floor := t.Truncate(time.Second); floor.Before(t) {
		return floor.Add(time.Second)
	}
	return t
}

// newError makes the Error of a refusal, for a request under scheme, and logs it.
func (v *Verifier) newError(ctx context.Context, r *refusal, scheme string) *Error {
	code := r.reason.code()
	e := &Error{
		Code: code, Reason: r.reason, Status: code.status(), Nonce: r.nonce, RetryAfter: r.retryAfter, Err: r.detail,
	}
	level := slog.LevelInfo
	if code == CodeTemporarilyUnavailable {
		level = slog.LevelError
	} else {
		e.Challenges = v.challenger.values(code, scheme, v.bearerAllowed(), "")
	}
	if v.cfg.Logger != nil {
		v.cfg.Logger.LogAttrs(ctx, level, "dpop: request refused", slog.Any("dpop", e))
	}
	return e
}
