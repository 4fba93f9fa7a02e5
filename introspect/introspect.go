// Package introspect resolves access tokens by asking the authorization server (RFC 7662): for tokens that are no JWTs, and
// where a token that was revoked must be refused before it expires.
//
//	resolver, err := introspect.NewResolver(introspect.Config{
//		Issuer:       "https://id.example.com/realms/demo",
//		Audience:     "orders-api",
//		Authenticate: introspect.BasicAuth("orders-api", os.Getenv("CLIENT_SECRET")),
//	})
//
// Without a cache (Config.CacheTTL) every request costs a call, and a token that is revoked is refused from the next request
// on. With one it is refused when its entry is over, or after [Resolver.Revoke]. When the server does not answer, neither does
// a Resolver: that is a 503, never a 401, and an answer that is over is never used.
package introspect

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/internal/issuer"
	"github.com/senderbound/senderbound/internal/tokencache"
)

// A Resolver asks one authorization server what its tokens stand for. It is a [dpop.CachedResolver]. Its methods may be
// called by any number of goroutines. Do not embed one in a resolver that refuses more; see dpop.CachedResolver.
type Resolver struct {
	cfg      Config
	client   http.Client
	endpoint endpoint
	slots    chan struct{} // one for each call that is under way
	waiting  atomic.Int64  // tokens that wait for a slot
	good     *tokencache.Cache[answer]
	bad      *tokencache.Cache[error]
}

var _ dpop.CachedResolver = (*Resolver)(nil)

// An answer is what came of asking about a token.
type answer struct {
	token *dpop.Token
	err   error
}

// NewResolver returns a Resolver for a copy of cfg, or an error that names every mistake in it. It does not call the server.
func NewResolver(cfg Config) (*Resolver, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Resolver{
		cfg: cfg, client: *cfg.HTTPClient, slots: make(chan struct{}, cfg.MaxCalls),
		good: tokencache.New[answer](cfg.CacheEntries), bad: tokencache.New[error](cfg.CacheEntries),
	}
	// The request carries a token and a secret, which are for this server only.
	r.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	r.endpoint = endpoint{cfg: &r.cfg, reader: issuer.NewReader(cfg.HTTPClient, cfg.InsecureHTTP), lock: make(chan struct{}, 1)}
	return r, nil
}

// ResolveToken returns what token stands for, if the authorization server says that it is active and meant for this
// resource. The result is shared between callers and must not be modified.
//
// An error that wraps [dpop.ErrTokenInvalid] says that the token is inactive, or what in the answer does not fit. Any other
// error says that the server could not be asked, or gave no answer to this question, or that ctx has ended. No error holds a
// token, a secret, or anything of an answer. Callers with one token at the same time share a call, which goes on when one
// of them leaves.
func (r *Resolver) ResolveToken(ctx context.Context, token string) (*dpop.Token, error) {
	if len(token) > maxToken {
		return nil, refuse(dpop.ErrTokenMalformed, "it is longer than %d bytes", maxToken)
	}
	sum := sha256.Sum256([]byte(token))
	got, err := r.good.Join(ctx, sum, r.cfg.Now(), func() (answer, time.Time) { return r.look(token, sum) })
	switch {
	case err != nil:
		return nil, fmt.Errorf("introspect: %w", err)
	case got == answer{}: // what look called has ended its goroutine
		return nil, errEnded
	}
	return got.token, got.err
}

// look returns what the server says of a token, and until when that is to be remembered. It remembers by itself what it
// refuses, in a cache of its own: made-up tokens must not drive out those that are good.
//
// It runs in a goroutine of its own, in which a panic of what Config holds would end the process.
func (r *Resolver) look(token string, sum [32]byte) (got answer, until time.Time) {
	defer func() {
		if p := recover(); p != nil {
			got, until = answer{err: panicked(p)}, time.Time{}
		}
	}()
	if err, ok := r.bad.Get(sum, r.cfg.Now()); ok {
		return answer{err: err}, until
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.cfg.Timeout)
	defer cancel()
	if err := r.enter(ctx); err != nil {
		return answer{err: err}, until
	}
	defer func() { <-r.slots }()
	asked := r.cfg.Now() // and not when the answer came: it may have been overtaken on its way
	got.token, got.err = r.ask(ctx, token)
	switch {
	case got.err == nil && r.cfg.CacheTTL > 0:
		until = asked.Add(r.cfg.CacheTTL)
		if e := got.token.Expiry; !e.IsZero() && e.Before(until) {
			until = e
		}
	case errors.Is(got.err, dpop.ErrTokenInvalid) && !r.cfg.NoNegativeCache:
		r.bad.Put(sum, got.err, asked.Add(r.cfg.NegativeTTL), asked)
	}
	return got, until
}

var errEnded = errors.New("introspect: Config.Authenticate, or what HTTPClient calls, has ended its goroutine")

// panicked returns the error of a panic. Its value is not shown, unless the runtime chose it: a secret could be in it.
func panicked(p any) error {
	if e, ok := p.(runtime.Error); ok {
		return fmt.Errorf("introspect: Config.Authenticate, or what HTTPClient calls, has panicked: %w", e)
	}
	return fmt.Errorf("introspect: Config.Authenticate, or what HTTPClient calls, has panicked with a value of type %T", p)
}

// maxWaiting is how many tokens wait for a call at most. They wait for all that their callers have left, so that without
// a limit a client that hangs up at once could fill the memory with them.
const maxWaiting = 1024

// enter takes a slot for a call.
func (r *Resolver) enter(ctx context.Context) error {
	select {
	case r.slots <- struct{}{}:
		return nil
	default:
	}
	defer r.waiting.Add(-1)
	if r.waiting.Add(1) > maxWaiting {
		return fmt.Errorf("introspect: %d calls are under way, and %d tokens wait already", r.cfg.MaxCalls, maxWaiting)
	}
	select {
	case r.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("introspect: %d calls were under way for all of %v", r.cfg.MaxCalls, r.cfg.Timeout)
	}
}

// Cached returns the token whose SHA-256 is sum, if the server was asked less than Config.CacheTTL ago and said that it is
// active, and it has not expired since. It does no I/O and allocates nothing.
func (r *Resolver) Cached(sum [32]byte) (*dpop.Token, bool) {
	got, ok := r.good.Get(sum, r.cfg.Now())
	return got.token, ok
}

// Revoke forgets that token is active, so that the next request asks the server. An answer that is under way is given to
// those who wait for it, and to nobody later.
func (r *Resolver) Revoke(token string) { r.good.Forget(sha256.Sum256([]byte(token))) }

// Purge does the same for each token that match reports; nil stands for all. A back-channel logout (OpenID Connect
// Back-Channel Logout 1.0) names a subject or a session, which [dpop.Token.Claims] has. match must not call the Resolver.
func (r *Resolver) Purge(match func(*dpop.Token) bool) {
	r.good.Purge(func(a answer) bool { return match == nil || match(a.token) })
}

// refuse returns an error that wraps reason. Nothing that the server has sent is in args.
func refuse(reason dpop.Reason, format string, args ...any) error {
	return fmt.Errorf("%w: %s", reason, fmt.Sprintf(format, args...))
}
