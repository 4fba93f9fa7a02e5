// Package tieredstore puts the memory of this process in front of one that many processes share.
//
//	local, err := memstore.New(memstore.Config{})
//	defer local.Close()
//	shared, err := redisstore.New(ctx, redisConfig)
//	defer shared.Close()
//	store, err := tieredstore.New(tieredstore.Config{Local: local, Shared: shared})
//
// The local store may refuse, and only the shared one grants: a proof that this process has seen is refused without a
// trip, and every first use is one trip. There is no way around it, since what no other process has seen is known only
// where all are asked.
//
// # When the shared store fails
//
// By default a request whose proof cannot be looked up is refused, with an error that a Verifier answers with 503. After
// MaxFailures failures in a row the shared store is left alone: for ProbeInterval calls are refused at once, then one
// of them asks again while the others are still refused. Its answer decides for all.
//
// A failure is any error but [replay.ErrStale] and [replay.ErrFull], which are answers. An error after the caller's
// context has ended, or a deadline of it has passed, says nothing about the store: no client can make it look down by
// hanging up. So the shared store needs a time limit of its own, shorter than that of requests; one that hangs for as
// long as its callers wait is never left alone.
//
// A [*replay.Unavailable] with a RetryAfter, as after a loss of memory, is a failure, too: it spares trips that cannot
// succeed. The store is asked again after that time or ProbeInterval, whichever is less, and not later because of it.
//
// After an error the key stays used in this process, whether or not the shared store has recorded it. The client must
// send a new proof.
//
// # LocalOnly
//
// With LocalOnly, proofs that the shared store fails to judge are granted if this process has not seen them. While that
// lasts, a stolen proof works once in each process, and once more in one that has restarted (memstore's BootFloor keeps
// that out). A proof that was used before the failure works once more in each other process, since the failed store may
// have known it. And when the store is back, a proof that one process granted alone works once more in the others, for
// as long as it lives. LocalOnly also grants while the store answers but has lost its memory and says that no new proof
// will do. ErrFull and ErrStale refuse as ever, and so does every error after the caller's context has ended: who hangs
// up in time would otherwise choose that a proof is not looked up.
//
// It is for services to which being down is worse than a proof that passes twice. Stats.Degraded counts, and Logger
// tells, when it happens.
package tieredstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/senderbound/senderbound/replay"
)

// Config says what a [Store] stands on. Local and Shared are required; the zero value of every other field is the
// strict choice.
type Config struct {
	// Local is the memory of this process, as memstore.New returns it.
	Local interface {
		replay.Store
		replay.Windower
	}
	// Shared is the memory that all processes share. It must give up by itself when its server does not answer.
	Shared replay.Store

	// OnSharedFailure says what happens to a proof that Shared fails to judge; default FailClosed.
	OnSharedFailure Policy

	// MaxFailures is after how many failures in a row Shared is left alone; default 5.
	MaxFailures int
	// ProbeInterval is for how long it is left alone, counted from the end of the last failure; at most an hour,
	// default 1 s.
	ProbeInterval time.Duration

	// Logger gets a record when Shared is left alone or, with LocalOnly, first fails, and one when it has not failed for
	// ProbeInterval. None holds a key. nil is silent.
	Logger *slog.Logger
}

// A Policy says what happens to a proof that the shared store fails to judge.
type Policy int

const (
	FailClosed Policy = iota // it is refused
	LocalOnly                // it is granted if this process has not seen it; read what that means in the package comment
)

const (
	defaultMaxFailures   = 5
	defaultProbeInterval = time.Second
	maxProbeInterval     = time.Hour
)

var (
	errExpired  = errors.New("tieredstore: expires is not in the future")
	errPanicked = errors.New("the shared store panicked")
)

// A Store is a replay.Store of two tiers. Its methods may be called by any number of goroutines.
//
// It has no Close: it starts nothing, and Local and Shared are closed by who made them, after the last FirstUse.
type Store struct {
	local, shared replay.Store
	window        time.Duration
	policy        Policy
	breaker       breaker
	logger        *slog.Logger
	outage        atomic.Pointer[outage] // what the log was told last; nil means that all is well

	localReplays, sharedReplays, full, stale, unavailable, degraded atomic.Int64
}

var (
	_ replay.Store    = (*Store)(nil)
	_ replay.Windower = (*Store)(nil)
	_ replay.Floorer  = (*Store)(nil)
	_ replay.Statser  = (*Store)(nil)
)

// An outage lasts from a failure of the shared store to its first answer at least ProbeInterval after the last one. So a
// store that fails now and then does not flood the log.
type outage struct {
	began   time.Time
	last    atomic.Int64 // when the store last failed, in nanoseconds since began
	granted int64        // Stats.Degraded when it began
}

// New returns a Store. The error names every mistake in cfg at once.
func New(cfg Config) (*Store, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	s := &Store{
		local: cfg.Local, shared: cfg.Shared, window: cfg.Local.MaxWindow(), policy: cfg.OnSharedFailure, logger: cfg.Logger,
		breaker: breaker{maxFailures: int64(cfg.MaxFailures), interval: cfg.ProbeInterval},
	}
	if w, ok := cfg.Shared.(replay.Windower); ok {
		s.window = min(s.window, w.MaxWindow())
	}
	s.breaker.phase.Store(&phase{})
	return s, nil
}

// complete puts the defaults in and reports every mistake.
func (c *Config) complete() error {
	var wrong []error
	mistake := func(format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("tieredstore: Config."+format, args...))
	}
	if c.Local == nil {
		mistake("Local is nil: set a store of this process, such as memstore.New returns")
	}
	if f, ok := c.Shared.(replay.SetNXFunc); c.Shared == nil || ok && f == nil {
		mistake("Shared is nil: set the store that all processes share, such as a replay.SetNXFunc around a client")
	}
	if c.OnSharedFailure != FailClosed && c.OnSharedFailure != LocalOnly {
		mistake("OnSharedFailure is %d: set FailClosed or LocalOnly", c.OnSharedFailure)
	}
	if c.MaxFailures == 0 {
		c.MaxFailures = defaultMaxFailures
	}
	if c.MaxFailures < 0 {
		mistake("MaxFailures is %d: set at least 1, or 0 for %d", c.MaxFailures, defaultMaxFailures)
	}
	if c.ProbeInterval == 0 {
		c.ProbeInterval = defaultProbeInterval
	}
	if c.ProbeInterval < 0 || c.ProbeInterval > maxProbeInterval {
		mistake("ProbeInterval is %v: set a positive duration of at most %v, or 0 for %v", c.ProbeInterval, maxProbeInterval,
			defaultProbeInterval)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return errors.Join(wrong...)
}

// FirstUse implements replay.Store. It asks Local and, if that grants, Shared, whose answer is final.
//
// An error of Local is returned as it is. One of Shared is replay.ErrStale, replay.ErrFull, or one in which errors.As
// finds a *replay.Unavailable, whose RetryAfter is not before Shared is asked again; with LocalOnly it is none unless ctx
// or the proof has ended by then. An expires that is not in the future, or further away than MaxWindow, is an error
// without a name. Both are judged by the machine's clock, which the Verifier's must be, too. After an error of Shared
// the key stays used in this process.
func (s *Store) FirstUse(ctx context.Context, key string, made, expires time.Time) (bool, error) {
	// These are mistakes of the caller. Shared would call them errors, which must not look like a failure of it.
	switch left := time.Until(expires); {
	case left <= 0:
		return false, errExpired
	case left > s.window:
		return false, fmt.Errorf("tieredstore: a key that expires in %v cannot be remembered, as the shorter window of Local "+
			"and Shared is %v", left, s.window)
	}
	first, err := s.local.FirstUse(ctx, key, made, expires)
	if err != nil || !first {
		return s.refuse(&s.localReplays, err)
	}
	p, asks := s.breaker.enter()
	if !asks {
		if s.grantsAlone(expires) {
			return true, nil
		}
		return s.refuse(nil, &replay.Unavailable{Err: p.cause, RetryAfter: s.breaker.wait()})
	}
	first, got, err := s.ask(ctx, p, key, made, expires)
	switch {
	case got == answered && err == nil && first:
		return true, nil
	case got == answered:
		return s.refuse(&s.sharedReplays, err)
	case got == silent:
		return false, atLeast(err, 0)
	case s.grantsAlone(expires):
		return true, nil
	}
	return s.refuse(nil, atLeast(err, s.breaker.wait()))
}

// grantsAlone reports whether a key that Local has granted passes without a word of Shared, and counts it if it does. It
// does not when expires has passed: Shared may have taken so long that Local has forgotten an earlier use.
func (s *Store) grantsAlone(expires time.Time) bool {
	if s.policy != LocalOnly || time.Until(expires) <= 0 {
		return false
	}
	s.degraded.Add(1)
	return true
}

// ask asks the shared store in phase p. What came of it is settled even if the store panics.
func (s *Store) ask(ctx context.Context, p *phase, key string, made, expires time.Time) (first bool, got outcome, err error) {
	err = errPanicked // until it is known better; got is failed
	defer func() { s.settle(ctx, p, got, err) }()
	first, err = s.shared.FirstUse(ctx, key, made, expires)
	got = outcomeOf(ctx, err)
	return first, got, err
}

// settle tells the breaker what came of a call that it let pass, and the log if that is news.
func (s *Store) settle(ctx context.Context, p *phase, got outcome, err error) {
	s.breaker.leave(p, got, err)
	o := s.outage.Load()
	switch {
	case got == failed && o != nil:
		o.last.Store(int64(time.Since(o.began)))
	case got == failed && (s.policy == LocalOnly || s.breaker.open()):
		o = &outage{began: time.Now(), granted: s.degraded.Load()}
		if s.outage.CompareAndSwap(nil, o) {
			s.logger.WarnContext(ctx, outageBegins[s.policy], "error", err)
		}
	case got == answered && o != nil && !s.breaker.open():
		lasted := time.Since(o.began)
		if lasted-time.Duration(o.last.Load()) >= s.breaker.interval && s.outage.CompareAndSwap(o, nil) {
			s.logger.InfoContext(ctx, "tieredstore: the shared store answers again", "after", lasted,
				"granted", s.degraded.Load()-o.granted)
		}
	}
}

// outageBegins is what the log is told, by policy.
var outageBegins = [...]string{
	FailClosed: "tieredstore: the shared store fails and is left alone; proofs are refused until it answers",
	LocalOnly:  "tieredstore: the shared store fails; this process grants alone what it has not seen until the store answers",
}

// refuse counts a refusal and returns it: for err or, if that is nil, because the key is repeated.
func (s *Store) refuse(repeated *atomic.Int64, err error) (bool, error) {
	counter := &s.unavailable
	switch {
	case err == nil:
		counter = repeated
	case errors.Is(err, replay.ErrFull):
		counter = &s.full
	case isStale(err):
		counter = &s.stale
	}
	counter.Add(1)
	return false, err
}

// MaxWindow returns the longest time from now to expires that both stores can remember.
func (s *Store) MaxWindow() time.Duration { return s.window }

// Allowance returns the smaller Leeway and the smaller ClockSkew of those that Local and Shared reckon with, and false
// if neither has any: a Verifier's must fit both.
func (s *Store) Allowance() (leeway, clockSkew time.Duration, ok bool) {
	for _, store := range []replay.Store{s.local, s.shared} {
		f, isFloorer := store.(replay.Floorer)
		if !isFloorer {
			continue
		}
		switch l, c, has := f.Allowance(); {
		case has && ok:
			leeway, clockSkew = min(leeway, l), min(clockSkew, c)
		case has:
			leeway, clockSkew, ok = l, c, true
		}
	}
	return leeway, clockSkew, ok
}

// Stats counts what this Store answered, whatever else Local and Shared are used for and whether or not they count:
//
//   - LocalReplays: repeated keys that Local knew, which cost no trip. SharedReplays: those that only Shared knew.
//   - Full, Stale: refusals with these errors, by either.
//   - Unavailable: refusals with any other error of either, and those while Shared was left alone. What the caller
//     brought about is not counted: an error of Shared after the context had ended, and an expires that is past or too
//     far away.
//   - Degraded: first uses that were granted with LocalOnly because Shared failed or was left alone. They are not in
//     Unavailable.
//   - BreakerOpen: whether Shared is left alone, until a call has asked it again and got an answer.
//
// Live and Capacity are Local's and OwnRetries is Shared's, or 0 if they do not count.
func (s *Store) Stats() replay.Stats {
	local, shared := statsOf(s.local), statsOf(s.shared)
	return replay.Stats{
		Live:          local.Live,
		Capacity:      local.Capacity,
		LocalReplays:  s.localReplays.Load(),
		SharedReplays: s.sharedReplays.Load(),
		OwnRetries:    shared.OwnRetries,
		Full:          s.full.Load(),
		Stale:         s.stale.Load(),
		Unavailable:   s.unavailable.Load(),
		Degraded:      s.degraded.Load(),
		BreakerOpen:   s.breaker.open(),
	}
}

func statsOf(store replay.Store) replay.Stats {
	if s, ok := store.(replay.Statser); ok {
		return s.Stats()
	}
	return replay.Stats{}
}
