package tieredstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/memstore"
	"github.com/senderbound/senderbound/replay/storetest"
	"github.com/senderbound/senderbound/replay/tieredstore"
)

// TestLaw opens one shared memory from several pods. While it answers, a pod with LocalOnly keeps the law, too.
func TestLaw(t *testing.T) {
	pods := func(local, shared memstore.Config) func(t *testing.T) []replay.Store {
		return func(t *testing.T) (handles []replay.Store) {
			memory := newMemory(t, shared)
			for _, policy := range []tieredstore.Policy{tieredstore.FailClosed, tieredstore.LocalOnly} {
				cfg := tieredstore.Config{Local: newMemory(t, local), Shared: memory, OnSharedFailure: policy}
				handles = append(handles, open(t, cfg))
			}
			return handles
		}
	}
	for name, cfg := range map[string]storetest.Config{
		"shared is the smaller": {
			Open:      pods(memstore.Config{}, memstore.Config{Window: time.Minute}),
			OpenSmall: pods(memstore.Config{}, memstore.Config{MaxEntries: 10_000}),
		},
		"local is the smaller": {
			Open:      pods(memstore.Config{Window: time.Minute}, memstore.Config{}),
			OpenSmall: pods(memstore.Config{MaxEntries: 3_000}, memstore.Config{}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, cfg)
		})
	}
}

// TestC01AReplayCostsNoTrip: what this process has seen is refused without asking, be the shared store up or down.
func TestC01AReplayCostsNoTrip(t *testing.T) {
	const replays = 100
	shared := newServer(t)
	store := open(t, tieredstore.Config{Shared: shared})
	for name, s := range map[string]replay.Store{"with tiers": store, "control": shared} {
		key, before := newKey(), shared.trips.Load()
		requireFirst(t, s, key)
		for range replays {
			if first, err := use(s, key); first || err != nil {
				t.Fatalf("C01: %s: a used key got (%t, %v), want (false, nil)", name, first, err)
			}
		}
		trips := shared.trips.Load() - before
		if s == store && trips != 1 {
			t.Errorf("C01: one first use and %d replays cost %d trips, want 1", replays, trips)
		}
		if s == shared && trips != 1+replays {
			t.Errorf("control: the shared store alone was asked %d times, so trips are not counted", trips)
		}
	}
	key := newKey()
	shared.fail(errDown)
	_, err := use(store, key)
	require.Error(t, err)
	before := shared.trips.Load()
	if first, err := use(store, key); first || err != nil || shared.trips.Load() != before {
		t.Errorf("C01: a key that got an error before got (%t, %v), want (false, nil) and no trip", first, err)
	}
}

// TestC02OneProofAtManyPods: of all pods that get a proof at the same moment, one grants it.
func TestC02OneProofAtManyPods(t *testing.T) {
	const pods = 4
	shared := newServer(t)
	tiers, alone := make([]replay.Store, pods), make([]replay.Store, pods)
	for i := range pods {
		alone[i] = newMemory(t, memstore.Config{})
		tiers[i] = open(t, tieredstore.Config{Shared: shared})
	}
	if n := firsts(alone, newKey()); n != pods {
		t.Errorf("control: pods that share nothing granted one proof %d times, want %d", n, pods)
	}
	for range 500 {
		if n := firsts(tiers, newKey()); n != 1 {
			t.Fatalf("C02: one proof was granted %d times, want 1", n)
		}
	}
}

// firsts returns how many of the stores grant key when two callers at each use it together.
func firsts(stores []replay.Store, key string) int64 {
	var n, arrived atomic.Int64
	var wg sync.WaitGroup
	for i := range 2 * len(stores) {
		wg.Go(func() {
			for arrived.Add(1); arrived.Load() < int64(2*len(stores)); {
				runtime.Gosched()
			}
			if first, _ := use(stores[i%len(stores)], key); first {
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return n.Load()
}

// TestC15WhatSharedSays goes through all that a shared store can say of a key that this process has not seen. LocalOnly
// is the control of the default: what it grants shows what is a failure.
func TestC15WhatSharedSays(t *testing.T) {
	type want struct {
		first bool
		err   error // errDown means any with a *replay.Unavailable

		degraded, unavailable int64
	}
	yes, replayed, granted := want{first: true}, want{}, want{first: true, degraded: 1}
	refused, silent := want{err: errDown, unavailable: 1}, want{err: errDown}
	stale, full := want{err: replay.ErrStale}, want{err: replay.ErrFull}
	wait := &replay.Unavailable{Err: errDown, RetryAfter: time.Hour}
	left, leave := context.WithCancel(context.Background())
	leave()
	late := passed{context.Background()}
	for name, tt := range map[string]struct {
		ctx   context.Context
		takes time.Duration
		first bool
		err   error

		want    want
		granted bool // with LocalOnly
	}{
		"first":                      {first: true, want: yes},
		"repeated":                   {want: replayed},
		"down":                       {err: errDown, want: refused, granted: true},
		"down, and a yes":            {first: true, err: errDown, want: refused, granted: true},
		"unavailable":                {err: &replay.Unavailable{Err: errDown}, want: refused, granted: true},
		"no new proof would do":      {err: wait, want: refused, granted: true},
		"unavailable around stale":   {err: &replay.Unavailable{Err: replay.ErrStale}, want: refused, granted: true},
		"its own time limit":         {err: context.DeadlineExceeded, want: refused, granted: true},
		"stale":                      {err: fmt.Errorf("x: %w", replay.ErrStale), want: stale},
		"full":                       {err: fmt.Errorf("x: %w", replay.ErrFull), want: full},
		"full, and a yes":            {first: true, err: replay.ErrFull, want: full},
		"unavailable around full":    {err: &replay.Unavailable{Err: replay.ErrFull}, want: full},
		"down until the proof ended": {takes: time.Minute, err: errDown, want: refused},
		// Who hangs up would otherwise choose that a proof is not looked up.
		"first, to a caller who left":        {ctx: left, first: true, want: yes},
		"an error, to a caller who left":     {ctx: left, err: context.Canceled, want: silent},
		"an error, when the deadline passed": {ctx: late, err: errDown, want: silent},
		"stale, to a caller who left":        {ctx: left, err: replay.ErrStale, want: stale},
	} {
		for _, policy := range []tieredstore.Policy{tieredstore.FailClosed, tieredstore.LocalOnly} {
			want := tt.want
			if policy == tieredstore.LocalOnly && tt.granted {
				want = granted
			}
			synctest.Test(t, func(t *testing.T) {
				shared := storeFunc(func(context.Context) (bool, error) {
					time.Sleep(tt.takes)
					return tt.first, tt.err
				})
				store := open(t, tieredstore.Config{Shared: shared, OnSharedFailure: policy})
				ctx := tt.ctx
				if ctx == nil {
					ctx = t.Context()
				}
				first, err := store.FirstUse(ctx, newKey(), time.Now(), in(time.Minute))
				if first != want.first || (err == nil) != (want.err == nil) {
					t.Errorf("C15: %s, policy %d: got (%t, %v), want (%t, %v)", name, policy, first, err, want.first, want.err)
				}
				if want.err == errDown {
					requireUnavailable(t, err)
				} else if !errors.Is(err, want.err) {
					t.Errorf("C15: %s, policy %d: the error is %v, want %v", name, policy, err, want.err)
				}
				if !first && !errors.Is(err, tt.err) {
					t.Errorf("C15: %s, policy %d: the error %v hides its cause", name, policy, err)
				}
				if s := store.Stats(); s.Degraded != want.degraded || s.Unavailable != want.unavailable {
					t.Errorf("C15: %s, policy %d: Degraded is %d and Unavailable %d, want %d and %d",
						name, policy, s.Degraded, s.Unavailable, want.degraded, want.unavailable)
				}
			})
		}
	}
}

// TestC15AVerifierAnswers503: nothing passes while the shared store is down, and clients are told when to come again.
func TestC15AVerifierAnswers503(t *testing.T) {
	const uri = "https://api.example.com/orders"
	key := dpoptest.NewKey()
	token := &dpop.Token{Subject: "alice", Confirmation: dpop.Confirmation{JKT: key.JKT()}}
	shared := newServer(t)
	verifier, err := dpop.NewVerifier(dpop.Config{
		Resolver: dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) { return token, nil }),
		Replay:   open(t, tieredstore.Config{Shared: shared, MaxFailures: 2, ProbeInterval: time.Hour}),
	})
	require.NoError(t, err)
	send := func() *httptest.ResponseRecorder {
		r, w := httptest.NewRequest("GET", uri, nil), httptest.NewRecorder()
		r.Header.Set("Authorization", "DPoP token")
		r.Header.Set("DPoP", dpoptest.Proof(key, dpopclient.Claims{Method: "GET", URI: uri, AccessToken: "token"}))
		if _, err := verifier.Verify(r.Context(), dpop.RequestFromHTTP(r, uri)); err != nil {
			dpop.WriteError(w, err)
		}
		return w
	}
	require.Equal(t, 200, send().Code, "while the store is up")
	shared.fail(errDown)
	for i, want := range []string{"", "3600", "3600"} {
		w := send()
		if got := w.Header().Get("Retry-After"); w.Code != 503 || got != want {
			t.Errorf("C15: request %d with the store down got %d, Retry-After %q, want 503 and %q", i+1, w.Code, got, want)
		}
	}
}

// TestLocalOnly shows what a service that chooses it gives up, as the package comment says it.
func TestLocalOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newServer(t)
		a := open(t, tieredstore.Config{Shared: shared, OnSharedFailure: tieredstore.LocalOnly})
		b := open(t, tieredstore.Config{Shared: shared, OnSharedFailure: tieredstore.LocalOnly})
		before, during := newKey(), newKey()
		requireFirst(t, a, before)
		shared.fail(errDown)
		for range 10 { // the first before the breaker opens, the others after
			requireFirst(t, a, newKey())
		}
		requireFirst(t, a, during)
		for name, key := range map[string]string{"before the failure": before, "while it lasted": during} {
			if first, err := use(a, key); first || err != nil {
				t.Errorf("a proof used here %s got (%t, %v), want (false, nil)", name, first, err)
			}
		}
		requireFirst(t, b, before) // what LocalOnly gives up

		shared.fail(nil)
		time.Sleep(time.Second)
		requireFirst(t, a, newKey())
		requireFirst(t, b, during) // what LocalOnly gives up
		if first, err := use(a, during); first || err != nil {
			t.Errorf("a proof that was granted here alone got (%t, %v) when the store was back, want (false, nil)", first, err)
		}
		if s := a.Stats(); s.Degraded != 11 || s.Unavailable != 0 || s.BreakerOpen {
			t.Errorf("the counters are %+v, want 11 Degraded, none Unavailable and the breaker closed", s)
		}
	})
}

// TestAnErrorOfLocalIsFinal: what the local store refuses never gets to the shared one, which might grant it.
func TestAnErrorOfLocalIsFinal(t *testing.T) {
	for _, cause := range []error{replay.ErrFull, replay.ErrStale, &replay.Unavailable{Err: errDown}, errDown} {
		shared := newServer(t)
		store := open(t, tieredstore.Config{
			Local:  windowed{storeFunc(func(context.Context) (bool, error) { return true, cause }), time.Hour},
			Shared: shared, OnSharedFailure: tieredstore.LocalOnly,
		})
		if first, err := use(store, newKey()); first || err != cause || shared.trips.Load() != 0 {
			t.Errorf("Local said %v: got (%t, %v), want the error and no trip", cause, first, err)
		}
	}
}

// TestMistakesOfTheCallerCostNoTrip: the shared store would return errors, and count as failing.
func TestMistakesOfTheCallerCostNoTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newServer(t)
		short := windowed{shared, 30 * time.Second}
		store := open(t, tieredstore.Config{Shared: short, OnSharedFailure: tieredstore.LocalOnly, MaxFailures: 1})
		for name, expires := range map[string]time.Time{
			"now": time.Now(), "past": in(-time.Hour), "zero": {}, "beyond Shared's window": in(30*time.Second + 1),
		} {
			if first, err := store.FirstUse(t.Context(), newKey(), time.Now(), expires); first || err == nil {
				t.Errorf("expires %s: got (%t, %v), want an error", name, first, err)
			}
		}
		if s := store.Stats(); shared.trips.Load() != 0 || s != (replay.Stats{Live: s.Live, Capacity: s.Capacity}) {
			t.Errorf("there were %d trips, and the counters are %+v, want none", shared.trips.Load(), s)
		}
		if first, err := store.FirstUse(t.Context(), newKey(), time.Now(), in(30*time.Second)); !first || err != nil {
			t.Errorf("expires at the end of the window: got (%t, %v), want (true, nil)", first, err)
		}
	})
}

// TestWhatIsPassedOn: both stores get the caller's context, key and times.
func TestWhatIsPassedOn(t *testing.T) {
	type ctxKey struct{}
	ctx, made := context.WithValue(context.Background(), ctxKey{}, "mine"), time.Now().Add(-time.Second)
	key, expires := newKey(), in(time.Minute)
	var seen []string
	watch := func(name string) replay.Store {
		return watcher(func(c context.Context, k string, m, e time.Time) (bool, error) {
			if c.Value(ctxKey{}) != "mine" || k != key || m != made || e != expires {
				t.Errorf("%s was asked for %v until %v with a context of %v", name, m, e, c.Value(ctxKey{}))
			}
			seen = append(seen, name)
			return true, nil
		})
	}
	store := open(t, tieredstore.Config{Local: windowed{watch("Local"), time.Hour}, Shared: watch("Shared")})
	first, err := store.FirstUse(ctx, key, made, expires)
	require.True(t, first)
	require.NoError(t, err)
	require.Equal(t, []string{"Local", "Shared"}, seen)
}

func TestMaxWindow(t *testing.T) {
	for name, tt := range map[string]struct {
		shared replay.Store
		want   time.Duration
	}{
		"Shared has none":         {newServer(t), 2 * time.Minute},
		"Shared's is the longer":  {windowed{newServer(t), time.Hour}, 2 * time.Minute},
		"Shared's is the shorter": {windowed{newServer(t), time.Minute}, time.Minute},
	} {
		if got := open(t, tieredstore.Config{Shared: tt.shared}).MaxWindow(); got != tt.want {
			t.Errorf("%s: MaxWindow is %v, want %v", name, got, tt.want)
		}
	}
}

// TestAllowance: a Verifier must fit both stores, so the smaller of each duration counts, whichever store it is of.
func TestAllowance(t *testing.T) {
	type allowance struct {
		leeway, skew time.Duration
		ok           bool
	}
	plain := windowed{newServer(t), time.Hour}
	floor := func(leeway, skew time.Duration, ok bool) floored {
		return floored{plain, leeway * time.Second, skew * time.Second, ok}
	}
	for name, tt := range map[string]struct {
		local  local
		shared replay.Store
		want   allowance
	}{
		"neither is a Floorer":   {plain, plain, allowance{}},
		"neither has a floor":    {floor(1, 1, false), floor(2, 2, false), allowance{}},
		"Local alone":            {floor(7, 3, true), plain, allowance{7 * time.Second, 3 * time.Second, true}},
		"Shared alone":           {plain, floor(7, 3, true), allowance{7 * time.Second, 3 * time.Second, true}},
		"both":                   {floor(7, 3, true), floor(10, 2, true), allowance{7 * time.Second, 2 * time.Second, true}},
		"both, the other way":    {floor(10, 2, true), floor(7, 3, true), allowance{7 * time.Second, 2 * time.Second, true}},
		"Local says it has none": {floor(1, 1, false), floor(7, 3, true), allowance{7 * time.Second, 3 * time.Second, true}},
		"Shared says so":         {floor(7, 3, true), floor(1, 1, false), allowance{7 * time.Second, 3 * time.Second, true}},
	} {
		var got allowance
		got.leeway, got.skew, got.ok = open(t, tieredstore.Config{Local: tt.local, Shared: tt.shared}).Allowance()
		if got != tt.want {
			t.Errorf("%s: Allowance is %v, want %v", name, got, tt.want)
		}
	}
}

// TestStats: each answer is counted once, as what it was to the caller, and nothing that the two stores count besides.
func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine := replay.Stats{Live: 3, Capacity: 4, LocalReplays: 51, SharedReplays: 52, OwnRetries: 53, Full: 54, Stale: 55,
			Unavailable: 56, Degraded: 57, BreakerOpen: true}
		theirs := replay.Stats{Live: 61, Capacity: 62, LocalReplays: 63, SharedReplays: 64, OwnRetries: 5, Full: 65, Stale: 66,
			Unavailable: 67, Degraded: 68, BreakerOpen: true}
		near, shared := newServer(t), newServer(t)
		store := open(t, tieredstore.Config{
			Local:       counting{windowed{near, time.Hour}, mine},
			Shared:      counting{windowed{shared, time.Hour}, theirs},
			MaxFailures: 2,
		})
		other := open(t, tieredstore.Config{Shared: shared})
		want := replay.Stats{Live: 3, Capacity: 4, OwnRetries: 5}
		check := func(what string) {
			t.Helper()
			if got := store.Stats(); got != want {
				t.Errorf("after %s the counters are %+v, want %+v", what, got, want)
			}
		}
		check("nothing")
		key, elsewhere := newKey(), newKey()
		requireFirst(t, store, key)
		check("a first use")
		_, _ = use(store, key)
		want.LocalReplays++
		check("a replay here")
		requireFirst(t, other, elsewhere)
		_, _ = use(store, elsewhere)
		want.SharedReplays++
		check("a replay from elsewhere")
		_, _ = use(store, elsewhere)
		want.LocalReplays++
		check("the same again")

		counters := map[error]*int64{replay.ErrFull: &want.Full, replay.ErrStale: &want.Stale, errDown: &want.Unavailable}
		for name, tier := range map[string]*server{"Local's ": near, "Shared's ": shared} {
			for cause, counter := range counters {
				tier.fail(cause)
				_, _ = use(store, newKey())
				*counter++
				check(name + cause.Error())
			}
			tier.fail(nil)
		}
		requireFirst(t, store, newKey())
		shared.fail(errDown)
		_, _ = use(store, newKey())
		_, _ = use(store, newKey())
		want.Unavailable += 2
		want.BreakerOpen = true
		check("the second failure")
		_, _ = use(store, newKey())
		want.Unavailable++
		check("a refusal without a trip")
		shared.fail(nil)
		time.Sleep(time.Second)
		requireFirst(t, store, newKey())
		want.BreakerOpen = false
		check("a probe that was answered")
	})
}

// TestLog: an outage is two records, whatever the number of calls in it.
func TestLog(t *testing.T) {
	for _, policy := range []tieredstore.Policy{tieredstore.FailClosed, tieredstore.LocalOnly} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			shared := newServer(t)
			store := open(t, tieredstore.Config{
				Shared: shared, OnSharedFailure: policy, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
			var keys []string
			calls := func(n int) {
				for range n {
					keys = append(keys, newKey())
					_, _ = use(store, keys[len(keys)-1])
				}
			}
			check := func(when string, want ...string) {
				t.Helper()
				got := strings.SplitAfter(log.String(), "\n")
				if len(got) != len(want)+1 { // the last is empty
					t.Fatalf("policy %d, %s: there are %d records, want %d:\n%s", policy, when, len(got)-1, len(want), &log)
				}
				for i, text := range want {
					if !strings.Contains(got[i], text) {
						t.Errorf("policy %d, %s: record %d lacks %q:\n%s", policy, when, i+1, text, got[i])
					}
				}
			}
			begins, granted := "proofs are refused until it answers", 0
			if policy == tieredstore.LocalOnly {
				begins, granted = "grants alone what it has not seen", 25
			}
			ends := fmt.Sprintf(`level=INFO msg="tieredstore: the shared store answers again" after=1s granted=%d`, granted)

			calls(10)
			check("while all is well")
			shared.fail(errDown)
			calls(1)
			if policy == tieredstore.LocalOnly { // what is granted without a look is never silent
				check("at the first failure", begins)
			} else {
				check("at the first failure")
			}
			calls(19)
			check("when it is down", begins)
			check("when it is down", "level=WARN")
			check("when it is down", errDown.Error())
			shared.fail(nil)
			calls(5)
			check("while it is left alone", begins)
			time.Sleep(time.Second)
			calls(10)
			check("when it answers", begins, ends)
			shared.fail(errDown)
			calls(20)
			check("when it is down again", begins, ends, begins)
			for _, key := range keys {
				if strings.Contains(log.String(), key) {
					t.Errorf("policy %d: a key is in the log", policy)
				}
			}
		})
	}
}

// TestLogKnowsLateAnswers: an answer to a call from before the outage does not end it.
func TestLogKnowsLateAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		shared := newServer(t)
		store := open(t, tieredstore.Config{Shared: shared, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		late := make(chan error)
		shared.failBy(func(context.Context) error { return <-late })
		go func() { _, _ = use(store, newKey()) }()
		synctest.Wait()
		down(t, shared, store)
		time.Sleep(30 * time.Second)
		late <- nil
		synctest.Wait()
		if n := strings.Count(log.String(), "\n"); n != 1 || !store.Stats().BreakerOpen {
			t.Errorf("while the shared store is left alone there are %d records, want 1:\n%s", n, &log)
		}
	})
}

// TestLogOfAStoreThatFailsNowAndThen: each failure is a proof that was granted without a look, but not a record.
func TestLogOfAStoreThatFailsNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		shared := newServer(t)
		store := open(t, tieredstore.Config{
			Shared: shared, OnSharedFailure: tieredstore.LocalOnly, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		for range 100 {
			shared.fail(errDown)
			requireFirst(t, store, newKey())
			shared.fail(nil)
			for range 9 {
				time.Sleep(10 * time.Millisecond)
				requireFirst(t, store, newKey())
			}
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("100 failures in 9 s are %d records, want 1:\n%s", n, &log)
		}
		time.Sleep(time.Second)
		requireFirst(t, store, newKey())
		if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "granted=100\n") {
			t.Errorf("after a second without failure there are %d records, want 2, and the last to tell of 100:\n%s", n, &log)
		}
	})
}

// TestManyAtOnce lets a shared store come and go under load: no proof passes twice, each answer is counted once, and all
// is well at the end.
func TestManyAtOnce(t *testing.T) {
	const callers, keys = 8, 4_000
	shared := newServer(t)
	pods := make([]*tieredstore.Store, 3)
	for i := range pods {
		pods[i] = open(t, tieredstore.Config{Shared: shared, ProbeInterval: time.Millisecond})
	}
	proofs := make([]string, keys)
	for i := range proofs {
		proofs[i] = newKey()
	}
	granted := make([]atomic.Int64, keys)
	var grants, replays, errs atomic.Int64
	states := []error{errDown, nil, &replay.Unavailable{Err: errDown, RetryAfter: time.Millisecond}, replay.ErrFull, nil}
	done := make(chan struct{})
	var trouble, wg sync.WaitGroup
	trouble.Go(func() {
		defer shared.fail(nil)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
				shared.fail(states[i%len(states)])
			}
		}
	})
	for caller := range callers {
		wg.Go(func() {
			for i, key := range proofs {
				ctx, cancel := context.WithCancel(context.Background())
				if (i+caller)%7 == 0 {
					cancel()
				}
				switch first, err := pods[(caller+i)%len(pods)].FirstUse(ctx, key, time.Now(), in(time.Minute)); {
				case first:
					granted[i].Add(1)
					grants.Add(1)
				case err != nil && ctx.Err() == nil:
					errs.Add(1)
				case err == nil:
					replays.Add(1)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	close(done)
	trouble.Wait()
	for i := range granted {
		if n := granted[i].Load(); n > 1 {
			t.Fatalf("C02: proof %d was granted %d times", i, n)
		}
	}
	var counted, refused int64
	for _, pod := range pods {
		s := pod.Stats()
		counted, refused = counted+s.LocalReplays+s.SharedReplays, refused+s.Full+s.Unavailable
		if s.Degraded != 0 {
			t.Errorf("C15: %d proofs were granted without a look, want none by default", s.Degraded)
		}
	}
	t.Logf("%d grants, %d replays, %d errors, %d trips", grants.Load(), replays.Load(), errs.Load(), shared.trips.Load())
	// An error to a caller that is gone may be one of the store, so there can be more of those.
	if counted != replays.Load() || refused < errs.Load() {
		t.Errorf("%d replays and %d errors are counted, want %d and %d or more", counted, refused, replays.Load(), errs.Load())
	}
	time.Sleep(2 * time.Millisecond)
	for i, pod := range pods {
		requireFirst(t, pod, newKey())
		if pod.Stats().BreakerOpen {
			t.Errorf("pod %d leaves the shared store alone although it answers", i)
		}
	}
}

// TestItAllocatesNothing of its own while the shared store answers, and one error while it is left alone.
func TestItAllocatesNothing(t *testing.T) {
	yes := storeFunc(func(context.Context) (bool, error) { return true, nil })
	no := storeFunc(func(context.Context) (bool, error) { return false, errDown })
	key, ctx, expires := newKey(), context.Background(), in(time.Minute)
	for name, tt := range map[string]struct {
		cfg  tieredstore.Config
		most float64
	}{
		"up":              {tieredstore.Config{Shared: yes}, 0},
		"down":            {tieredstore.Config{Shared: no}, 1},
		"down, LocalOnly": {tieredstore.Config{Shared: no, OnSharedFailure: tieredstore.LocalOnly}, 0},
	} {
		tt.cfg.Local, tt.cfg.MaxFailures, tt.cfg.ProbeInterval = windowed{yes, time.Hour}, 1, time.Hour
		store := open(t, tt.cfg)
		if n := testing.AllocsPerRun(1000, func() { _, _ = store.FirstUse(ctx, key, expires, expires) }); n > tt.most {
			t.Errorf("%s: FirstUse allocates %v times, want %v", name, n, tt.most)
		}
	}
}

func BenchmarkFirstUse(b *testing.B) {
	yes := storeFunc(func(context.Context) (bool, error) { return true, nil })
	no := storeFunc(func(context.Context) (bool, error) { return false, errDown })
	for name, shared := range map[string]replay.Store{"up": yes, "down": no} {
		b.Run(name, func(b *testing.B) {
			store := open(b, tieredstore.Config{Local: windowed{yes, time.Hour}, Shared: shared, ProbeInterval: time.Hour})
			key, ctx, expires := newKey(), context.Background(), in(time.Minute)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_, _ = store.FirstUse(ctx, key, expires, expires)
				}
			})
		})
	}
}

func TestConfig(t *testing.T) {
	_, err := tieredstore.New(tieredstore.Config{OnSharedFailure: 7, MaxFailures: -1, ProbeInterval: -time.Second})
	require.Error(t, err)
	for _, want := range []string{
		"tieredstore: Config.Local is nil: set a store of this process",
		"tieredstore: Config.Shared is nil: set the store that all processes share",
		"tieredstore: Config.OnSharedFailure is 7: set FailClosed or LocalOnly",
		"tieredstore: Config.MaxFailures is -1: set at least 1, or 0 for 5",
		"tieredstore: Config.ProbeInterval is -1s: set a positive duration of at most 1h0m0s, or 0 for 1s",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("all mistakes are to be reported at once; %q lacks %q", err, want)
		}
	}
	local, shared := newMemory(t, memstore.Config{}), newServer(t)
	for name, cfg := range map[string]tieredstore.Config{
		"no function in Shared":      {Local: local, Shared: replay.SetNXFunc(nil)},
		"a policy below the first":   {Local: local, Shared: shared, OnSharedFailure: -1},
		"an interval beyond an hour": {Local: local, Shared: shared, ProbeInterval: time.Hour + 1},
	} {
		if _, err := tieredstore.New(cfg); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want one mistake", name, err)
		}
	}
}

func Example() {
	shared, err := memstore.New(memstore.Config{}) // in place of a store that processes share, such as redisstore
	if err != nil {
		panic(err)
	}
	defer shared.Close()
	open := func() *tieredstore.Store { // what each process does
		local, err := memstore.New(memstore.Config{})
		if err != nil {
			panic(err)
		}
		store, err := tieredstore.New(tieredstore.Config{Local: local, Shared: shared})
		if err != nil {
			panic(err)
		}
		return store
	}
	one, two := open(), open()

	key := replay.Key("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", "e1j3V_bKic8-LAEB")
	made := time.Now()
	for _, process := range []*tieredstore.Store{one, one, two, two} {
		first, err := process.FirstUse(context.Background(), key, made, made.Add(81*time.Second))
		fmt.Println(first, err)
	}
	fmt.Println("refused by one without a trip:", one.Stats().LocalReplays)
	fmt.Println("refused by two after a trip:", two.Stats().SharedReplays)
	// Output:
	// true <nil>
	// false <nil>
	// false <nil>
	// false <nil>
	// refused by one without a trip: 1
	// refused by two after a trip: 1
}

var errDown = errors.New("connection refused")

// A server is a shared store that counts its trips and fails when told to.
type server struct {
	memory replay.Store
	trips  atomic.Int64
	fault  atomic.Pointer[func(context.Context) error]
}

func newServer(t testing.TB) *server { return &server{memory: newMemory(t, memstore.Config{})} }

// fail makes every call fail with err from now on; nil makes the server answer again.
func (s *server) fail(err error) { s.failBy(func(context.Context) error { return err }) }

// failBy does the same with what f returns.
func (s *server) failBy(f func(context.Context) error) { s.fault.Store(&f) }

func (s *server) FirstUse(ctx context.Context, key string, made, expires time.Time) (bool, error) {
	s.trips.Add(1)
	if f := s.fault.Load(); f != nil {
		if err := (*f)(ctx); err != nil {
			return false, err
		}
	}
	return s.memory.FirstUse(ctx, key, made, expires)
}

// storeFunc is a store that says the same of every key.
type storeFunc func(context.Context) (bool, error)

func (f storeFunc) FirstUse(ctx context.Context, _ string, _, _ time.Time) (bool, error) {
	return f(ctx)
}

// watcher is a store that shows what it is asked.
type watcher func(ctx context.Context, key string, made, expires time.Time) (bool, error)

func (f watcher) FirstUse(ctx context.Context, key string, made, expires time.Time) (bool, error) {
	return f(ctx, key, made, expires)
}

// local is what Config.Local is.
type local interface {
	replay.Store
	replay.Windower
}

type windowed struct {
	replay.Store
	max time.Duration
}

func (w windowed) MaxWindow() time.Duration { return w.max }

type floored struct {
	windowed
	leeway, skew time.Duration
	ok           bool
}

func (f floored) Allowance() (leeway, clockSkew time.Duration, ok bool) {
	return f.leeway, f.skew, f.ok
}

type counting struct {
	windowed
	stats replay.Stats
}

func (c counting) Stats() replay.Stats { return c.stats }

// passed is a context whose deadline has passed, and that does not know it yet.
type passed struct{ context.Context }

func (passed) Deadline() (time.Time, bool) { return time.Now(), true }

func newMemory(t testing.TB, cfg memstore.Config) *memstore.Store {
	t.Helper()
	store, err := memstore.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// open returns a store with a Local of its own unless cfg has one.
func open(t testing.TB, cfg tieredstore.Config) *tieredstore.Store {
	t.Helper()
	if cfg.Local == nil {
		cfg.Local = newMemory(t, memstore.Config{})
	}
	store, err := tieredstore.New(cfg)
	require.NoError(t, err)
	return store
}

func use(store replay.Store, key string) (bool, error) {
	return store.FirstUse(context.Background(), key, time.Now(), in(time.Minute))
}

func requireFirst(t testing.TB, store replay.Store, key string) {
	t.Helper()
	first, err := use(store, key)
	require.NoError(t, err)
	require.True(t, first, "a new key is first")
}

// requireUnavailable returns the *replay.Unavailable in err.
func requireUnavailable(t testing.TB, err error) *replay.Unavailable {
	t.Helper()
	var unavailable *replay.Unavailable
	require.ErrorAs(t, err, &unavailable)
	return unavailable
}

var keys atomic.Int64

// newKey returns the key of a new proof of a new client.
func newKey() string {
	n := strconv.FormatInt(keys.Add(1), 10)
	return replay.Key(n, n)
}

func in(d time.Duration) time.Time { return time.Now().Add(d) }
