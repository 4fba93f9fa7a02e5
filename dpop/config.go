package dpop

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/senderbound/senderbound/internal/jose"
	"github.com/senderbound/senderbound/replay"
)

// A Config says what a [Verifier] accepts. Resolver and Replay are required. For every other field the zero value is
// the strict choice, and what weakens is called Allow… or Insecure….
type Config struct {
	// Resolver turns an access token into what it stands for, such as dpop/atjwt for JWTs.
	Resolver TokenResolver

	// Replay remembers used proofs. It must be shared by all processes that answer for one origin: with a store of
	// its own, each of them accepts a stolen proof once more.
	Replay replay.Store

	// Nonces, if set, such as nonce.New returns, makes every proof carry a nonce of ours, which then bounds the proof's life
	// instead of iat (RFC 9449 §9). With nil, a nonce in a proof is ignored.
	Nonces NonceSource

	// Algorithms are those a proof may be signed with, in the order in which challenges name them. The default is ES256,
	// EdDSA and PS256 (FAPI 2.0 §5.4.1); EdDSA and Ed25519 are two names for one. ES384, ES512, PS384, PS512, RS256,
	// RS384 and RS512 may be named. ES384 takes some 7 and ES512 some 20 times as long to verify as ES256, and the
	// client chooses.
	Algorithms []string

	// MaxAge is how old a proof may be by its iat, at most 24 h; the default is 60 s.
	MaxAge time.Duration

	// Leeway is how far ahead of this server's clock the iat of a proof may lie; the default is 10 s, as FAPI 2.0 asks,
	// and the most is 60 s.
	Leeway time.Duration

	// ClockSkew is how far the clocks of the processes that share Replay may differ from true time. Proofs are
	// remembered 2·ClockSkew longer than one process accepts them. 0 means the default, 5 s: there is no zero. At most 24 h.
	ClockSkew time.Duration

	// AllowBearer, while it returns true, admits unbound tokens under the Bearer scheme, too. A token that is bound to a key
	// is never admitted under Bearer. nil means never.
	//
	// It is asked during requests, up to twice in each, so it must not block, and may be called by any number of goroutines.
	// A source that cannot tell returns false; a panic ends the request as one in a handler does.
	AllowBearer func() bool

	// Realm is the realm of challenges (RFC 9110 §11.5), if any: printable ASCII.
	Realm string

	// ResourceMetadata is the URL of this resource's metadata (RFC 9728 §5.1), which challenges name, if any.
	ResourceMetadata string

	// Logger gets one record for each request that Verify refuses: the reason and its detail, never a token, proof, jti
	// or nonce. nil is silent.
	Logger *slog.Logger

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// A NonceSource issues and checks server nonces (RFC 9449 §8 and §9). Its methods may be called by any number of
// goroutines.
type NonceSource interface {
	// Issue returns a nonce for the client whose proof key has thumbprint jkt: NQCHAR of RFC 9449 §8.1, unpredictable.
	Issue(jkt string, now time.Time) string

	// Check reports whether nonce is one that Issue returned, for this client where nonces are bound to clients, and
	// not over. made and expires bound the life of a proof that carries it. next, if not "", is a newer nonce for the client.
	//
	// A NonceSource with a method MaxLife() time.Duration, as package nonce has, says the longest time from when it reports a
	// nonce to be good to expires, and [Config.Window] counts with that. Of another one Window knows nothing: the window of
	// the store must be at least that time, 2·ClockSkew and a second.
	Check(nonce, jkt string, now time.Time) (made, expires time.Time, next string, ok bool)
}

// The defaults of Config.
const (
	DefaultMaxAge    = 60 * time.Second
	DefaultLeeway    = 10 * time.Second
	DefaultClockSkew = 5 * time.Second
)

// maxLeeway is the most that FAPI 2.0 lets a server accept.
const maxLeeway = 60 * time.Second

// maxDuration is longer than a proof should live by far, and so short that no sum of durations overflows.
const maxDuration = 24 * time.Hour

// withDefaults returns c with its defaults filled in, and every mistake in it.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf("dpop: Config."+format, args...)) }

	if f, ok := c.Resolver.(TokenResolverFunc); c.Resolver == nil || ok && f == nil {
		wrong("Resolver is nil: set a TokenResolver, such as atjwt.NewResolver returns")
	}
	if f, ok := c.Replay.(replay.SetNXFunc); c.Replay == nil || ok && f == nil {
		wrong("Replay is nil: set a replay.Store, such as memstore.New returns for one process")
	}
	c.Algorithms = slices.Clone(c.Algorithms)
	if len(c.Algorithms) == 0 {
		c.Algorithms = []string{"ES256", "EdDSA", "PS256"}
	}
	for _, alg := range c.Algorithms {
		if !jose.Known(alg) {
			wrong("Algorithms has %q: name algorithms of RFC 7518 with public keys, such as ES256, EdDSA or PS256", alg)
		}
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{{"MaxAge", &c.MaxAge, DefaultMaxAge}, {"Leeway", &c.Leeway, DefaultLeeway}, {"ClockSkew", &c.ClockSkew, DefaultClockSkew}} {
		if *d.value < 0 || *d.value > maxDuration {
			wrong("%s is %v: set a positive duration of at most %v, or 0 for %v", d.name, *d.value, maxDuration, d.zero)
		}
		*d.value = cmp.Or(*d.value, d.zero)
	}
	if c.Leeway > maxLeeway {
		wrong("Leeway is %v: set at most %v, since a proof made ahead of time is one that can be kept for later", c.Leeway, maxLeeway)
	}
	if life, ok := c.nonceLife(); ok && (life <= 0 || life > maxDuration) {
		wrong("Nonces has a MaxLife of %v: set a source such as nonce.New returns, or one of at most %v", life, maxDuration)
	}
	if w, ok := c.Replay.(replay.Windower); ok && w.MaxWindow() < c.Window() {
		wrong("Replay remembers proofs for %v: make its window at least %v, which is MaxAge + Leeway + 2·ClockSkew, "+
			"rounded up; with nonces, their life takes the place of the first two", w.MaxWindow(), c.Window())
	}
	if f, ok := c.Replay.(replay.Floorer); ok {
		leeway, clockSkew, ok := f.Allowance()
		if ok && (leeway < c.Leeway || clockSkew < c.ClockSkew) {
			wrong("Replay reckons with a Leeway of %v and a ClockSkew of %v: set its own to at least %v and %v, "+
				"or proofs could be used again after it has lost its memory", leeway, clockSkew, c.Leeway, c.ClockSkew)
		}
	}
	if !isQuotable(c.Realm) {
		wrong("Realm is %q: use printable ASCII characters", c.Realm)
	}
	if c.ResourceMetadata != "" {
		if _, err := normalizeURI(nil, c.ResourceMetadata); err != nil || !isQuotable(c.ResourceMetadata) {
			wrong("ResourceMetadata is %q: set the absolute URL of the metadata document", c.ResourceMetadata)
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, errors.Join(errs...)
}

// Window returns the longest time for which a proof must be remembered: from its acceptance, as early as Leeway before its
// iat, until no process accepts it any more. That is MaxAge + Leeway + 2·ClockSkew, with their defaults, and a second
// for rounding up. With Nonces that say how long they live (MaxLife), that takes the place of the first two.
func (c Config) Window() time.Duration {
	life := cmp.Or(c.MaxAge, DefaultMaxAge) + cmp.Or(c.Leeway, DefaultLeeway)
	if n, ok := c.nonceLife(); ok {
		life = n
	}
	return life + 2*cmp.Or(c.ClockSkew, DefaultClockSkew) + time.Second
}

// nonceLife returns how long nonces live at most, if they are on and say so.
func (c Config) nonceLife() (time.Duration, bool) {
	n, ok := c.Nonces.(interface{ MaxLife() time.Duration })
	if !ok {
		return 0, false
	}
	return n.MaxLife(), true
}

// isQuotable reports whether s can stand in a quoted-string of a header field (RFC 9110 §5.6.4).
func isQuotable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
