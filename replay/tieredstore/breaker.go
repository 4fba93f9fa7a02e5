package tieredstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/senderbound/senderbound/replay"
)

// A breaker decides whether the shared store is asked. While it is closed, which is nearly always, a call costs it two
// atomic loads.
type breaker struct {
	maxFailures int64
	interval    time.Duration
	phase       atomic.Pointer[phase]
}

// A phase is the time between two changes of the breaker. A call belongs to the phase in which it began and can end only
// that one. So a call that hung while the breaker opened and closed again changes nothing when it comes back.
type phase struct {
	failures atomic.Int64 // while closed: since the store last answered

	// The rest is for an open breaker.
	cause   error       // why it is open; nil means closed
	until   time.Time   // from when on one call may probe
	retry   time.Time   // from when on a call may succeed, as far as is known; not before until
	probing atomic.Bool // whether one does
}

// An outcome is what came of asking the shared store.
type outcome int

const (
	failed outcome = iota
	answered
	silent // the caller was gone, which says nothing about the store
)

// outcomeOf tells what an error of the shared store means.
func outcomeOf(ctx context.Context, err error) outcome {
	switch {
	case err == nil || errors.Is(err, replay.ErrFull) || isStale(err):
		return answered
	case ended(ctx):
		return silent
	}
	return failed
}

// ended reports whether the caller waits no longer. A connection with the context's deadline can fail a moment before
// the context knows.
func ended(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// isStale reports whether a new proof would do. What is unavailable is not stale, whatever it wraps; a Verifier sees it
// in the same way.
func isStale(err error) bool {
	if !errors.Is(err, replay.ErrStale) {
		return false
	}
	var unavailable *replay.Unavailable
	return !errors.As(err, &unavailable)
}

// enter reports whether the shared store is to be asked. If it is, leave must be called with the same phase.
func (b *breaker) enter() (p *phase, asks bool) {
	p = b.phase.Load()
	return p, p.cause == nil || time.Until(p.until) <= 0 && p.probing.CompareAndSwap(false, true)
}

// leave says what came of a call that enter let pass.
func (b *breaker) leave(p *phase, got outcome, err error) {
	switch {
	case got == silent:
		p.probing.Store(false) // the next call probes
	case got == answered && p.cause != nil:
		b.phase.CompareAndSwap(p, &phase{})
	case got == answered:
		if p.failures.Load() != 0 { // not to write what all read
			p.failures.Store(0)
		}
	case p.cause != nil || p.failures.Add(1) >= b.maxFailures:
		b.phase.CompareAndSwap(p, b.opened(err))
	}
}

// opened returns a phase in which the breaker is open, from now on: the time that a failed call took does not count, or a
// store whose time limit is longer than the interval would be probed all the time.
func (b *breaker) opened(err error) *phase {
	pause, retry := b.interval, b.interval
	var unavailable *replay.Unavailable
	if errors.As(err, &unavailable) && unavailable.RetryAfter > 0 {
		pause, retry = min(pause, unavailable.RetryAfter), unavailable.RetryAfter
	}
	now := time.Now()
	return &phase{
		// Without %w: what befell one call is not why another was refused, and its RetryAfter grows old.
		cause: fmt.Errorf("tieredstore: the shared store is left alone for a moment, because it failed: %v", err),
		until: now.Add(pause),
		retry: now.Add(retry),
	}
}

// open reports whether the breaker is open.
func (b *breaker) open() bool { return b.phase.Load().cause != nil }

// wait returns how long a caller that was refused should wait; 0 means not known.
func (b *breaker) wait() time.Duration {
	p := b.phase.Load()
	if p.cause == nil {
		return 0
	}
	if left := time.Until(p.retry); left > 0 {
		return left
	}
	return b.interval // a probe is under way; if it fails, that is when there is another
}

// atLeast returns err as one in which errors.As finds a *replay.Unavailable whose RetryAfter is not less than wait.
func atLeast(err error, wait time.Duration) error {
	var unavailable *replay.Unavailable
	if errors.As(err, &unavailable) && unavailable.RetryAfter >= wait {
		return err
	}
	return &replay.Unavailable{Err: err, RetryAfter: wait}
}
