package replay

import (
	"cmp"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// A Floor tells which proofs a store cannot judge because it may have lost its memory: those that may have been used
// before the loss. It is for authors of stores; its methods may be called by any number of goroutines.
//
// A proof that was used before the loss was made, by its client's clock, at most Leeway after that, by the clock of the
// process that accepted it. That clock, and the one by which the loss is dated, may each be wrong by ClockSkew. So the
// floor lies Leeway + 2·ClockSkew above the time of the loss. What was made up to it is refused, itself included as in
// every window of a Verifier, and what was made later passes at once. Server nonces need no other rule.
type Floor struct {
	leeway, clockSkew time.Duration
	at                atomic.Pointer[time.Time] // nil while nothing was lost
}

// The defaults of NewFloor are those of a Verifier.
const (
	defaultLeeway    = 10 * time.Second
	defaultClockSkew = 5 * time.Second
	maxAllowance     = 24 * time.Hour // so that no sum overflows
)

var errForgotten = errors.New("proofs that are made now could have been used before it lost its memory")

// NewFloor returns a Floor that refuses nothing yet. leeway and clockSkew must be at least those of every Verifier that
// uses the store; 0 means 10 s and 5 s, the Verifier's defaults. The error names every mistake, each as "Leeway is …" or
// "ClockSkew is …", so that a store can write in front of it whose they are.
func NewFloor(leeway, clockSkew time.Duration) (*Floor, error) {
	var errs []error
	check := func(name string, value *time.Duration, zero time.Duration) {
		if *value < 0 || *value > maxAllowance {
			errs = append(errs, fmt.Errorf("%s is %v: set the Verifier's, at most %v, or 0 for %v", name, *value, maxAllowance, zero))
		}
		*value = cmp.Or(*value, zero)
	}
	check("Leeway", &leeway, defaultLeeway)
	check("ClockSkew", &clockSkew, defaultClockSkew)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return &Floor{leeway: leeway, clockSkew: clockSkew}, nil
}

// Raise says that memory may have been lost up to this moment. A floor never sinks: a moment that lies far ahead, from a
// clock that was wrong, refuses proofs until then.
func (f *Floor) Raise(lost time.Time) {
	raised := lost.Round(0).Add(f.leeway + 2*f.clockSkew) // by the wall clock alone, as proofs are
	for {
		old := f.at.Load()
		if old != nil && !raised.After(*old) || f.at.CompareAndSwap(old, &raised) {
			return
		}
	}
}

// Check returns nil if a proof that was made at this time was surely not used before the loss; else [ErrStale], or an
// [*Unavailable] with the time to wait if a proof that is made now would be refused, too.
//
// A store that can lose its memory between Check and its answer calls Check after it.
func (f *Floor) Check(made, now time.Time) error {
	at := f.at.Load()
	if at == nil || made.After(*at) {
		return nil
	}
	if wait := f.Ready().Sub(now); wait > 0 {
		return &Unavailable{Err: errForgotten, RetryAfter: wait}
	}
	return ErrStale
}

// Ready returns the time from which a new proof passes: the first whole second above the floor, since clients cut iat to
// whole seconds. It is the zero time if there is no floor.
func (f *Floor) Ready() time.Time {
	at := f.at.Load()
	if at == nil {
		return time.Time{}
	}
	return at.Truncate(time.Second).Add(time.Second)
}

// Allowance returns leeway and clockSkew, with their defaults, and true: a store that embeds a *Floor is a [Floorer].
func (f *Floor) Allowance() (leeway, clockSkew time.Duration, ok bool) {
	return f.leeway, f.clockSkew, true
}
