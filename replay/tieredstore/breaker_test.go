package tieredstore_test

// When the shared store is left alone, and when it is asked again. The control of each test is naive, a breaker as one
// would write it at first: it falls for what the test tries.

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/tieredstore"
)

// naive leaves the store alone for a second after five failures, counted from the start of the last, and counts every
// error and every answer whenever it comes.
type naive struct {
	shared   replay.Store
	fromEnd  bool // counts from the end of the last failure
	oneProbe bool // lets one call through when the second is over, instead of all

	mu       sync.Mutex
	failures int
	until    time.Time
	probing  bool
}

func (n *naive) FirstUse(ctx context.Context, key string, made, expires time.Time) (bool, error) {
	now := time.Now()
	n.mu.Lock()
	if n.failures >= 5 && (now.Before(n.until) || n.oneProbe && n.probing) {
		n.mu.Unlock()
		return false, errDown
	}
	n.probing = true
	n.mu.Unlock()
	first, err := n.shared.FirstUse(ctx, key, made, expires)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.probing = false
	if err == nil {
		n.failures = 0
	} else {
		n.failures++
		n.until = now.Add(time.Second)
		if n.fromEnd {
			n.until = time.Now().Add(time.Second)
		}
	}
	return first, err
}

type scenario func(t *testing.T, shared *server, store replay.Store, isNaive bool)

// both runs a scenario with a naive breaker and with a Store, each around a server of its own in a bubble of its own.
func both(t *testing.T, fromEnd bool, cfg tieredstore.Config, run scenario) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		shared := newServer(t)
		run(t, shared, &naive{shared: shared, fromEnd: fromEnd}, true)
	})
	synctest.Test(t, func(t *testing.T) {
		cfg.Shared = newServer(t)
		run(t, cfg.Shared.(*server), open(t, cfg), false)
	})
}

// down makes the shared store fail until the store leaves it alone.
func down(t *testing.T, shared *server, store replay.Store) {
	t.Helper()
	shared.fail(errDown)
	for range 5 {
		_, _ = use(store, newKey())
	}
	if asks(shared, store) {
		t.Fatal("the shared store is asked after five failures in a row")
	}
}

// asks reports whether a new proof is a trip.
func asks(shared *server, store replay.Store) bool {
	before := shared.trips.Load()
	_, _ = use(store, newKey())
	return shared.trips.Load() != before
}

func TestLeftAloneAfterFailures(t *testing.T) {
	for _, maxFailures := range []int{1, 2, 5, 100} {
		synctest.Test(t, func(t *testing.T) {
			const interval = 3 * time.Second
			shared := newServer(t)
			store := open(t, tieredstore.Config{Shared: shared, MaxFailures: maxFailures, ProbeInterval: interval})
			for _, answer := range []error{nil, replay.ErrFull, replay.ErrStale} { // what is answered ends a row of failures
				shared.fail(errDown)
				for range maxFailures - 1 {
					_, _ = use(store, newKey())
				}
				shared.fail(answer)
				if !asks(shared, store) {
					t.Fatalf("after %d of %d failures the shared store is not asked", maxFailures-1, maxFailures)
				}
			}
			shared.fail(errDown)
			for i := range maxFailures {
				_, err := use(store, newKey())
				want := time.Duration(0)
				if i == maxFailures-1 {
					want = interval
				}
				if got := requireUnavailable(t, err).RetryAfter; got != want {
					t.Errorf("failure %d of %d has RetryAfter %v, want %v", i+1, maxFailures, got, want)
				}
			}
			before := shared.trips.Load()
			for left := interval; left > 0; left -= time.Second / 4 {
				first, err := use(store, newKey())
				if got := requireUnavailable(t, err).RetryAfter; first || got != left {
					t.Errorf("%v before the probe: (%t, %v) with RetryAfter %v, want what is left", left, first, err, got)
				}
				if errors.Is(err, errDown) || !strings.Contains(err.Error(), errDown.Error()) {
					t.Errorf("the error %q is to tell why the store is left alone, but not to be that error", err)
				}
				time.Sleep(time.Second / 4)
			}
			if n := shared.trips.Load() - before; n != 0 {
				t.Errorf("the shared store was asked %d times while it is left alone", n)
			}
			shared.fail(nil)
			requireFirst(t, store, newKey())
			requireFirst(t, store, newKey())
		})
	}
}

// TestDefaults: five failures, one second, and nothing granted without a look.
func TestDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newServer(t)
		store := open(t, tieredstore.Config{Shared: shared})
		shared.fail(errDown)
		for i := range 6 {
			first, err := use(store, newKey())
			if first || err == nil {
				t.Errorf("C15: (%t, %v) while the shared store is down, want an error", first, err)
			}
			if open := store.Stats().BreakerOpen; open != (i >= 4) {
				t.Errorf("BreakerOpen is %t after %d failures, want it from the fifth on", open, i+1)
			}
		}
		time.Sleep(time.Second - 1)
		if asks(shared, store) {
			t.Error("the shared store is asked within a second")
		}
		time.Sleep(time.Nanosecond)
		if !asks(shared, store) {
			t.Error("the shared store is not asked after a second")
		}
	})
}

// TestProbeIntervalCountsFromTheEnd: a store that takes three seconds to fail is left alone for one after each probe.
// Counted from its start, every call is a probe and waits three seconds.
func TestProbeIntervalCountsFromTheEnd(t *testing.T) {
	both(t, false, tieredstore.Config{}, func(t *testing.T, shared *server, store replay.Store, isNaive bool) {
		down(t, shared, store)
		time.Sleep(time.Second)
		var ended time.Time // the last probe
		shared.failBy(func(context.Context) error {
			if !isNaive && !ended.IsZero() && time.Since(ended) < time.Second {
				t.Errorf("a probe begins %v after the end of the one before, want a second", time.Since(ended))
			}
			time.Sleep(3 * time.Second)
			ended = time.Now()
			return errDown
		})
		before, calls := shared.trips.Load(), int64(0)
		for start := time.Now(); time.Since(start) < time.Minute; calls++ {
			_, _ = use(store, newKey())
			time.Sleep(100 * time.Millisecond)
		}
		probes := shared.trips.Load() - before
		if isNaive && probes != calls {
			t.Errorf("control: %d of %d calls are probes, want all", probes, calls)
		}
		if !isNaive && (probes < 14 || probes > 15 || calls < 10*probes) {
			t.Errorf("there are %d calls and %d probes in a minute, want a probe every four seconds, and ten calls to each",
				calls, probes)
		}
	})
}

// TestOneProbeAtATime: when the interval is over, one of a hundred calls asks, and the others are answered at once.
func TestOneProbeAtATime(t *testing.T) {
	both(t, false, tieredstore.Config{}, func(t *testing.T, shared *server, store replay.Store, isNaive bool) {
		const calls = 100
		down(t, shared, store)
		answer := make(chan error)
		shared.failBy(func(context.Context) error { return <-answer })
		time.Sleep(time.Second)
		before := shared.trips.Load()
		var refused, granted atomic.Int64
		for range calls {
			go func() {
				switch first, err := use(store, newKey()); {
				case first:
					granted.Add(1)
				case err != nil:
					refused.Add(1)
				}
			}()
		}
		synctest.Wait()
		probes := shared.trips.Load() - before
		if isNaive && probes != calls {
			t.Errorf("control: %d of %d calls are probes, want all", probes, calls)
		}
		if !isNaive && (probes != 1 || refused.Load() != calls-1) {
			t.Errorf("of %d calls %d are probes and %d refused meanwhile, want 1 and the rest", calls, probes, refused.Load())
		}
		if probes == 1 {
			_, err := use(store, newKey())
			if got := requireUnavailable(t, err).RetryAfter; got != time.Second {
				t.Errorf("while a probe is under way RetryAfter is %v, want the interval", got)
			}
		}
		close(answer)
		synctest.Wait()
		if granted.Load() != probes {
			t.Errorf("%d of %d probes were granted when the store answered", granted.Load(), probes)
		}
		requireFirst(t, store, newKey())
	})
}

// TestCancelledCallersNeverTrip: clients that hang up make calls fail at will. Nor do they end a row of failures.
func TestCancelledCallersNeverTrip(t *testing.T) {
	cancelled := func(store replay.Store) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if first, err := store.FirstUse(ctx, newKey(), time.Now(), in(time.Minute)); first || err == nil {
			t.Errorf("a cancelled call got (%t, %v), want an error", first, err)
		}
	}
	localOnly := tieredstore.Config{OnSharedFailure: tieredstore.LocalOnly}
	both(t, false, localOnly, func(t *testing.T, shared *server, store replay.Store, isNaive bool) {
		shared.failBy(func(ctx context.Context) error { return ctx.Err() })
		for range 100 {
			cancelled(store)
		}
		if asked := asks(shared, store); asked == isNaive {
			t.Errorf("naive %t: after 100 cancelled calls the shared store is asked: %t", isNaive, asked)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		shared := newServer(t)
		store := open(t, tieredstore.Config{Shared: shared})
		for i := range 5 {
			shared.failBy(func(ctx context.Context) error { return ctx.Err() })
			cancelled(store)
			shared.fail(errDown)
			if !asks(shared, store) {
				t.Fatalf("the shared store is left alone after %d failures", i)
			}
		}
		if asks(shared, store) {
			t.Error("with cancelled calls between them, five failures in a row do not count")
		}
		if n := store.Stats().Unavailable; n != 6 {
			t.Errorf("Unavailable is %d, want the 6 that the store is the cause of", n)
		}
	})
}

// TestACancelledProbeIsNone: it neither opens nor closes anything, and the next call probes at once.
func TestACancelledProbeIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newServer(t)
		store := open(t, tieredstore.Config{Shared: shared})
		down(t, shared, store)
		time.Sleep(time.Second)
		shared.failBy(func(ctx context.Context) error {
			<-ctx.Done()
			return errDown
		})
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			before := shared.trips.Load()
			_, err := store.FirstUse(ctx, newKey(), time.Now(), in(time.Minute))
			cancel()
			requireUnavailable(t, err)
			if shared.trips.Load() == before || !store.Stats().BreakerOpen {
				t.Fatal("after a probe whose caller left, the next call is no probe, or the breaker is closed")
			}
		}
		shared.fail(nil)
		requireFirst(t, store, newKey())
		requireFirst(t, store, newKey())
	})
}

// TestLateResults: calls hang while the breaker opens and closes; what they come back with is old.
func TestLateResults(t *testing.T) {
	// hang makes calls that wait; end lets them end with err.
	hang := func(shared *server, store replay.Store, calls int) (end func(err error)) {
		var outcome error
		ended := make(chan struct{})
		shared.failBy(func(context.Context) error { <-ended; return outcome })
		for range calls {
			go func() { _, _ = use(store, newKey()) }()
		}
		synctest.Wait()
		return func(err error) {
			outcome = err
			close(ended)
			synctest.Wait()
		}
	}
	both(t, true, tieredstore.Config{}, func(t *testing.T, shared *server, store replay.Store, isNaive bool) {
		end := hang(shared, store, 20)
		down(t, shared, store)
		end(nil)
		if asked := asks(shared, store); asked != isNaive {
			t.Errorf("naive %t: after answers from before the outage the shared store is asked: %t", isNaive, asked)
		}
	})
	both(t, true, tieredstore.Config{}, func(t *testing.T, shared *server, store replay.Store, isNaive bool) {
		end := hang(shared, store, 20)
		down(t, shared, store)
		shared.fail(nil)
		time.Sleep(time.Second)
		requireFirst(t, store, newKey())
		end(errDown)
		if asked := asks(shared, store); asked == isNaive {
			t.Errorf("naive %t: after failures from before the outage the shared store is asked: %t", isNaive, asked)
		}
	})
	both(t, true, tieredstore.Config{}, func(t *testing.T, shared *server, store replay.Store, isNaive bool) {
		end := hang(shared, store, 20)
		down(t, shared, store)
		time.Sleep(time.Second)
		endProbe := hang(shared, store, 1)
		end(nil)
		shared.fail(nil)
		if asked := asks(shared, store); asked != isNaive {
			t.Errorf("naive %t: during a probe, after answers from before the outage, it is asked: %t", isNaive, asked)
		}
		endProbe(nil)
		requireFirst(t, store, newKey())
	})
}

// TestAPanicEndsTheProbe: net/http recovers from it, and the process goes on.
func TestAPanicEndsTheProbe(t *testing.T) {
	for name, end := range map[string]func(){"panic": func() { panic("in a client") }, "Goexit": runtime.Goexit} {
		for _, isNaive := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				shared := newServer(t)
				var store replay.Store = &naive{shared: shared, oneProbe: true}
				if !isNaive {
					store = open(t, tieredstore.Config{Shared: shared})
				}
				call := func() {
					go func() {
						defer func() { _ = recover() }()
						_, _ = use(store, newKey())
					}()
					synctest.Wait()
				}
				down(t, shared, store)
				time.Sleep(time.Second)
				shared.failBy(func(context.Context) error { end(); return nil })
				before := shared.trips.Load()
				call()
				require.Equal(t, before+1, shared.trips.Load(), "the call is to be a probe")
				shared.fail(nil)
				if asks(shared, store) {
					t.Errorf("%s, naive %t: the shared store is asked right after a probe that failed", name, isNaive)
				}
				if _, err := use(store, newKey()); !isNaive && !strings.Contains(err.Error(), "panicked") {
					t.Errorf("%s: the error does not say what happened: %v", name, err)
				}
				time.Sleep(time.Second)
				if asked := asks(shared, store); asked == isNaive {
					t.Errorf("%s, naive %t: a second after it the shared store is asked: %t", name, isNaive, asked)
				}
			})
		}
		synctest.Test(t, func(t *testing.T) { // while the breaker is closed it is a failure like others
			shared := newServer(t)
			store := open(t, tieredstore.Config{Shared: shared, MaxFailures: 1})
			shared.failBy(func(context.Context) error { end(); return nil })
			go func() {
				defer func() { _ = recover() }()
				_, _ = use(store, newKey())
			}()
			synctest.Wait()
			if asks(shared, store) {
				t.Errorf("%s: it does not count as a failure", name)
			}
		})
	}
}

// TestLossOfMemory: a store that says when it can judge again is spared until then, is asked no later because of it, and
// callers are told that time.
func TestLossOfMemory(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, 50 * time.Second} {
		for _, policy := range []tieredstore.Policy{tieredstore.FailClosed, tieredstore.LocalOnly} {
			synctest.Test(t, func(t *testing.T) {
				floor, err := replay.NewFloor(0, 0)
				require.NoError(t, err)
				shared := newServer(t)
				memory := shared.memory
				shared.memory = watcher(func(ctx context.Context, key string, made, expires time.Time) (bool, error) {
					if err := floor.Check(made, time.Now()); err != nil {
						return false, err
					}
					return memory.FirstUse(ctx, key, made, expires)
				})
				store := open(t, tieredstore.Config{Shared: shared, ProbeInterval: interval, OnSharedFailure: policy})
				useNew := func() (bool, error) { // a proof that is made now, with iat in whole seconds
					return store.FirstUse(t.Context(), newKey(), time.Now().Truncate(time.Second), in(time.Minute))
				}
				requireFirst(t, store, newKey())
				floor.Raise(time.Now())
				before, ready := shared.trips.Load(), floor.Ready()
				for time.Now().Before(ready) {
					switch first, err := useNew(); {
					case policy == tieredstore.LocalOnly:
						require.True(t, first, "LocalOnly grants: no new proof would do better")
					default:
						require.Equal(t, time.Until(ready), requireUnavailable(t, err).RetryAfter)
					}
					time.Sleep(100 * time.Millisecond)
				}
				trips := shared.trips.Load() - before
				if most := int64(5 + 21*time.Second/interval); trips > most {
					t.Errorf("interval %v: asked %d times while no proof could pass, want %d at most", interval, trips, most)
				}
				first, err := useNew()
				if !first || err != nil || store.Stats().BreakerOpen {
					t.Errorf("interval %v: the first new proof got (%t, %v), want (true, nil) and a closed breaker",
						interval, first, err)
				}
				first, err = store.FirstUse(t.Context(), newKey(), time.Now().Add(-time.Second), in(time.Minute))
				if first || !errors.Is(err, replay.ErrStale) {
					t.Errorf("a proof from before that got (%t, %v), want ErrStale with either policy", first, err)
				}
			})
		}
	}
}

// TestRetryAfter: what a store names makes the time for which it is left alone shorter, and never longer. Callers are told
// the later of both.
func TestRetryAfter(t *testing.T) {
	const interval = time.Minute
	for named, want := range map[time.Duration]struct{ pause, told time.Duration }{
		0:               {interval, interval},
		-time.Second:    {interval, interval},
		2 * time.Second: {2 * time.Second, 2 * time.Second},
		time.Hour:       {interval, time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			shared := newServer(t)
			store := open(t, tieredstore.Config{Shared: shared, MaxFailures: 1, ProbeInterval: interval})
			shared.fail(&replay.Unavailable{Err: errDown, RetryAfter: named})
			for range 2 { // the failure, and a call that is not made
				_, err := use(store, newKey())
				if got := requireUnavailable(t, err).RetryAfter; got != want.told {
					t.Errorf("the store named %v: RetryAfter is %v, want %v", named, got, want.told)
				}
			}
			shared.fail(nil)
			time.Sleep(want.pause - 1)
			if asks(shared, store) {
				t.Errorf("the store named %v: it is asked before %v", named, want.pause)
			}
			time.Sleep(time.Nanosecond)
			requireFirst(t, store, newKey())
		})
	}
}

// TestAnswersThatRefuseCloseTheBreaker: a store that is full or has lost its memory is not down.
func TestAnswersThatRefuseCloseTheBreaker(t *testing.T) {
	for _, answer := range []error{replay.ErrFull, replay.ErrStale} {
		synctest.Test(t, func(t *testing.T) {
			shared := newServer(t)
			store := open(t, tieredstore.Config{Shared: shared})
			down(t, shared, store)
			shared.fail(answer)
			time.Sleep(time.Second)
			for range 20 {
				if _, err := use(store, newKey()); !errors.Is(err, answer) {
					t.Fatalf("got %v, want %v, again and again", err, answer)
				}
			}
			if store.Stats().BreakerOpen {
				t.Errorf("%v leaves the breaker open", answer)
			}
		})
	}
}
