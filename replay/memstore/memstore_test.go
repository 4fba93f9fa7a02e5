package memstore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/memstore"
	"github.com/senderbound/senderbound/replay/storetest"
)

func TestLaw(t *testing.T) {
	opener := func(cfg memstore.Config) func(*testing.T) []replay.Store {
		return func(t *testing.T) []replay.Store { return []replay.Store{open(t, cfg)} }
	}
	t.Run("default", func(t *testing.T) {
		t.Parallel() // it mostly waits
		storetest.Run(t, storetest.Config{
			Open: opener(memstore.Config{}), OpenSmall: opener(memstore.Config{MaxEntries: 10_000}),
		})
	})
	t.Run("BootFloor", func(t *testing.T) {
		t.Parallel()
		storetest.Run(t, storetest.Config{
			Open: opener(memstore.Config{BootFloor: true}), OpenSmall: opener(memstore.Config{BootFloor: true, MaxEntries: 10_000}),
			Made: func() time.Time { return in(time.Minute) },
		})
	})
}

// TestFull fills a store from many sides at once: it holds MaxEntries keys exactly, and none of them is usable again.
func TestFull(t *testing.T) {
	const room, offered = 5_000, 40_000
	store := open(t, memstore.Config{MaxEntries: room})
	keys := make([]string, offered)
	for i := range keys {
		keys[i] = replay.Key("client "+strconv.Itoa(i%500), strconv.Itoa(i))
	}
	admitted := make([]bool, offered)
	expires := in(time.Minute)
	var wg sync.WaitGroup
	for part := range 8 {
		wg.Go(func() {
			for i := part; i < offered; i += 8 {
				first, err := use(store, keys[i], expires)
				admitted[i] = first
				if !first && !errors.Is(err, replay.ErrFull) {
					t.Errorf("a new key got (%t, %v), want (true, nil) or (false, ErrFull)", first, err)
				}
			}
		})
	}
	wg.Wait()
	held := 0
	for i, was := range admitted {
		if !was {
			continue
		}
		held++
		if first, err := use(store, keys[i], expires); first || err != nil {
			t.Fatalf("a full store forgot: key %d was first before and now got (%t, %v)", i, first, err)
		}
	}
	if held != room || live(store) != room {
		t.Errorf("%d keys were admitted and %d are live, want MaxEntries, %d", held, live(store), room)
	}
}

// TestQuota: a client at its quota is refused, the others are not, and when its keys have expired it may go on.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := open(t, memstore.Config{MaxEntries: 1000, MaxPerClient: 10, Window: time.Minute})
		for round := range 3 {
			expires := in(time.Minute)
			a := proofs("client A", 20*(round+1))[20*round:]
			for i, key := range a {
				first, err := use(store, key, expires)
				switch {
				case i < 10 && (!first || err != nil):
					t.Fatalf("round %d: key %d of client A, within its quota of 10, got (%t, %v)", round, i+1, first, err)
				case i >= 10 && (first || !errors.Is(err, replay.ErrFull)):
					t.Fatalf("round %d: key %d of client A, beyond its quota of 10, got (%t, %v), want ErrFull", round, i+1, first, err)
				}
			}
			if first, err := use(store, replay.Key("client B", strconv.Itoa(round)), expires); !first || err != nil {
				t.Fatalf("round %d: client A's quota refused client B: (%t, %v)", round, first, err)
			}
			if first, err := use(store, a[0], expires); first || err != nil {
				t.Fatalf("round %d: a used key of client A got (%t, %v), want (false, nil) at the quota too", round, first, err)
			}
			time.Sleep(time.Minute + 4*time.Second)
			if n := live(store); n != 0 {
				t.Fatalf("round %d: %d keys are held four seconds after the window, want 0", round, n)
			}
		}
	})
}

// TestQuotaOfManyClients fills the store with clients that go to their limits. None gets more, and although they share
// counters, hardly any gets less.
func TestQuotaOfManyClients(t *testing.T) {
	const clients, limit = 2_000, 50
	store := open(t, memstore.Config{MaxEntries: clients * limit, MaxPerClient: limit})
	expires := in(time.Minute)
	short := 0
	for c := range clients {
		got := 0
		for _, key := range proofs("client "+strconv.Itoa(c), limit+5) {
			first, err := use(store, key, expires)
			if first {
				got++
			} else if !errors.Is(err, replay.ErrFull) {
				t.Fatalf("a new key got (%t, %v), want ErrFull at worst", first, err)
			}
		}
		if got > limit {
			t.Fatalf("client %d got %d keys, more than its limit of %d", c, got, limit)
		}
		if got < limit {
			short++
		}
	}
	if short > clients/100 {
		t.Errorf("%d of %d clients were refused below their limit because of others, want none or nearly none", short, clients)
	}
}

// TestLivesUntilExpires begins at many places of the second, as bigcache counts whole seconds: no key is forgotten
// early, and all are soon after the window.
func TestLivesUntilExpires(t *testing.T) {
	for _, window := range []time.Duration{300 * time.Millisecond, time.Second, 1500 * time.Millisecond, 2 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			store := open(t, memstore.Config{Window: window})
			for phase := range 20 {
				time.Sleep(50*time.Millisecond + time.Millisecond)
				key, expires := replay.Key("client", strconv.Itoa(phase)), in(window)
				requireFirst(t, store, key, expires)
				time.Sleep(window - time.Nanosecond)
				if first, err := use(store, key, expires); first || err != nil {
					t.Fatalf("window %v: a key got (%t, %v) just before it expired, want (false, nil)", window, first, err)
				}
				time.Sleep(time.Nanosecond)
				if first, err := use(store, key, expires); first || err == nil {
					t.Fatalf("window %v: a key got (%t, %v) when it had expired, want an error", window, first, err)
				}
			}
			time.Sleep(window + 4*time.Second)
			if n := live(store); n != 0 {
				t.Errorf("window %v: %d keys are held four seconds after it, want 0", window, n)
			}
		})
	}
}

// TestAgainstModel goes through bursts and pauses, in which bigcache's buffers grow and wrap around, and compares every
// answer with what a map remembers.
func TestAgainstModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window = 10 * time.Second
		store := open(t, memstore.Config{MaxEntries: 20_000, MaxPerClient: 20_000, Window: window})
		used := map[string]time.Time{}
		next := 0
		for step := range 60 {
			for range []int{100, 2_000, 8_000}[step%3] {
				key := replay.Key("client "+strconv.Itoa(next%50), strconv.Itoa(next))
				next++
				expires := in(time.Duration(1+next%10) * time.Second)
				switch first, err := use(store, key, expires); {
				case first && err == nil:
					used[key] = expires
				case first || !errors.Is(err, replay.ErrFull):
					t.Fatalf("step %d: a new key got (%t, %v), want (true, nil) or ErrFull", step, first, err)
				}
			}
			for key, expires := range used {
				first, err := use(store, key, expires)
				alive := expires.After(time.Now())
				if first || alive && err != nil {
					t.Fatalf("step %d: a used key that expires in %v got (%t, %v)", step, time.Until(expires), first, err)
				}
				if !alive {
					delete(used, key)
				}
			}
			if n := live(store); n < len(used) || n > 20_000 {
				t.Fatalf("step %d: %d keys are live, want at least the %d used ones and at most MaxEntries", step, n, len(used))
			}
			time.Sleep(time.Duration(step%7) * 700 * time.Millisecond)
		}
		time.Sleep(2*window + 10*time.Second) // growth can put a new entry before older ones, which then wait for it
		if n := live(store); n != 0 {
			t.Errorf("%d keys are held after all have expired, want 0", n)
		}
	})
}

// TestC14ClockStep sets the clock ahead, so that a used key is forgotten, and back: the proof must not pass again, and
// new proofs must soon.
func TestC14ClockStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back time.Duration // what Config.Now is behind bigcache's clock
		now := func() time.Time { return time.Now().Add(-back) }
		store := open(t, memstore.Config{Window: time.Minute, Now: now})
		key, expires := replay.Key("client", "jti"), now().Add(time.Minute)
		requireFirst(t, store, key, expires)
		time.Sleep(10 * time.Minute)
		require.Zero(t, live(store), "the key is to be forgotten for this test")
		back = 10 * time.Minute
		if first, err := use(store, key, expires); first || !errors.Is(err, replay.ErrStale) {
			t.Errorf("a forgotten key got (%t, %v) after the clock was set back, want ErrStale", first, err)
		}
		time.Sleep(2 * time.Second)
		if first, err := use(store, replay.Key("client", "new"), now().Add(time.Minute)); !first || err != nil {
			t.Errorf("a new proof got (%t, %v) two seconds later, want (true, nil)", first, err)
		}
	})
}

// TestC15Restart uses proofs in one store and then has another in its place, as a process that starts again. Without
// BootFloor they pass once more; with it they never do, for as long as any verifier takes them.
func TestC15Restart(t *testing.T) {
	const leeway, life = 10 * time.Second, 81 * time.Second
	replayed := func(t *testing.T, cfg memstore.Config) (again int) {
		var proofs []time.Time // by what they say of when they were made: long ago, now, and as far ahead as is taken
		before := open(t, memstore.Config{})
		for i := range 71 {
			proofs = append(proofs, in(leeway-time.Duration(i)*time.Second))
			first, err := before.FirstUse(t.Context(), replay.Key("client", strconv.Itoa(i)), proofs[i], in(life))
			require.NoError(t, err)
			require.True(t, first)
		}
		expires := in(life)
		require.NoError(t, before.Close())
		after := open(t, cfg)
		for ; time.Now().Before(expires); time.Sleep(500 * time.Millisecond) {
			for i, made := range proofs {
				first, err := after.FirstUse(t.Context(), replay.Key("client", strconv.Itoa(i)), made, expires)
				if first {
					again++
				} else if cfg.BootFloor && err == nil {
					t.Errorf("proof %d is (false, nil), but this store cannot know it: want an error", i)
				}
			}
		}
		return again
	}
	synctest.Test(t, func(t *testing.T) {
		if n := replayed(t, memstore.Config{}); n == 0 {
			t.Error("control: without BootFloor no used proof passes after a restart, so this test shows nothing")
		}
		if n := replayed(t, memstore.Config{BootFloor: true}); n > 0 {
			t.Errorf("with BootFloor %d of 71 used proofs pass after a restart", n)
		}
	})
}

// TestBootFloor: whoever waits as long as it is told gets in with a new proof, and nobody earlier; what was made before
// that is stale from then on. It begins at several places of the second, since clients cut iat to seconds.
func TestBootFloor(t *testing.T) {
	for _, tt := range []struct{ leeway, clockSkew, allowance time.Duration }{
		{0, 0, 20 * time.Second}, {3 * time.Second, 2 * time.Second, 7 * time.Second},
	} {
		for _, phase := range []time.Duration{0, 1, 300 * time.Millisecond, time.Second - 1} {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(phase)
				start := time.Now()
				store := open(t, memstore.Config{BootFloor: true, Leeway: tt.leeway, ClockSkew: tt.clockSkew})
				send := func(made time.Time) (bool, error) {
					return store.FirstUse(t.Context(), replay.Key("client", rand.Text()), made, in(time.Minute))
				}
				wait := refusedFor(t, send, time.Now().Truncate(time.Second))
				if wait <= tt.allowance || wait > tt.allowance+time.Second {
					t.Errorf("RetryAfter at the start is %v, want more than %v by a second at most", wait, tt.allowance)
				}
				time.Sleep(wait - 1)
				if left := refusedFor(t, send, time.Now().Truncate(time.Second)); left != 1 {
					t.Errorf("RetryAfter a nanosecond before is %v", left)
				}
				if first, err := send(start.Add(tt.allowance + 1)); !first || err != nil {
					t.Errorf("a proof made after the floor, by a clock that is ahead, got (%t, %v), want (true, nil)", first, err)
				}
				time.Sleep(time.Nanosecond)
				if first, err := send(time.Now().Truncate(time.Second)); !first || err != nil {
					t.Errorf("a new proof at RetryAfter got (%t, %v), want (true, nil)", first, err)
				}
				for _, made := range []time.Time{start.Add(tt.allowance), start, {}} {
					if first, err := send(made); first || !errors.Is(err, replay.ErrStale) {
						t.Errorf("a proof made %v after the start got (%t, %v), want ErrStale", made.Sub(start), first, err)
					}
				}
				want := replay.Stats{Live: 2, Capacity: 1_000_000, Stale: 3, Unavailable: 2}
				if got := store.Stats(); got != want {
					t.Errorf("Stats are %+v, want %+v", got, want)
				}
			})
		}
	}
}

// refusedFor sends a proof that is to be refused as all are, and returns how long the store says to wait.
func refusedFor(t *testing.T, send func(time.Time) (bool, error), made time.Time) time.Duration {
	t.Helper()
	first, err := send(made)
	var unavailable *replay.Unavailable
	if first || !errors.As(err, &unavailable) || errors.Is(err, replay.ErrStale) {
		t.Fatalf("a new proof too soon after a start got (%t, %v), want Unavailable", first, err)
	}
	return unavailable.RetryAfter
}

// TestBootFloorGoesByNow: the floor is of the clock that the verifier has, too, not of the machine's.
func TestBootFloorGoesByNow(t *testing.T) {
	now := time.Unix(1_764_000_000, 0)
	store := open(t, memstore.Config{BootFloor: true, Now: func() time.Time { return now }})
	send := func(made time.Time) (bool, error) {
		return store.FirstUse(t.Context(), replay.Key("client", rand.Text()), made, now.Add(time.Minute))
	}
	if wait := refusedFor(t, send, now.Add(20*time.Second)); wait != 21*time.Second {
		t.Errorf("RetryAfter is %v by Config.Now, want 21s", wait)
	}
	if first, err := send(now.Add(20*time.Second + 1)); !first || err != nil {
		t.Errorf("a proof made after the floor got (%t, %v), want (true, nil)", first, err)
	}
}

// TestAllowance: a verifier compares it if and only if there is a floor.
func TestAllowance(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg               memstore.Config
		leeway, clockSkew time.Duration
		ok                bool
	}{
		"no floor":  {memstore.Config{}, 0, 0, false},
		"defaults":  {memstore.Config{BootFloor: true}, 10 * time.Second, 5 * time.Second, true},
		"one's own": {memstore.Config{BootFloor: true, Leeway: 60 * time.Second, ClockSkew: 1}, 60 * time.Second, 1, true},
		"half so":   {memstore.Config{BootFloor: true, ClockSkew: 7 * time.Second}, 10 * time.Second, 7 * time.Second, true},
	} {
		if l, c, ok := open(t, tt.cfg).Allowance(); l != tt.leeway || c != tt.clockSkew || ok != tt.ok {
			t.Errorf("%s: Allowance is (%v, %v, %t), want (%v, %v, %t)", name, l, c, ok, tt.leeway, tt.clockSkew, tt.ok)
		}
	}
}

// TestStats: every refusal is counted once, by its kind, and what the caller did wrong is not.
func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back time.Duration // what Config.Now is behind bigcache's clock
		now := func() time.Time { return time.Now().Add(-back) }
		store := open(t, memstore.Config{MaxEntries: 4, MaxPerClient: 3, Window: time.Minute, Now: now})
		want := replay.Stats{Capacity: 4}
		step := func(does string, key string, expires time.Time, change func()) {
			_, _ = use(store, key, expires)
			change()
			if got := store.Stats(); got != want {
				t.Errorf("after %s Stats are %+v, want %+v", does, got, want)
			}
		}
		expires := now().Add(time.Minute)
		a, b := proofs("client A", 4), proofs("client B", 2)
		for _, key := range append(a[:3:3], b[0]) {
			step("a first use", key, expires, func() { want.Live++ })
		}
		step("a replay", a[0], expires, func() { want.LocalReplays++ })
		step("another", a[0], expires, func() { want.LocalReplays++ })
		step("a key beyond the client's quota", a[3], expires, func() { want.Full++ })
		step("a key beyond the room for all", b[1], expires, func() { want.Full++ })
		step("an expires that is past", b[1], now(), func() {})
		step("an expires beyond the window", b[1], expires.Add(1), func() {})
		time.Sleep(10 * time.Minute)
		back = 10 * time.Minute
		step("a step of the clock", a[0], expires, func() { want.Live, want.Stale = 0, 1 })
		require.NoError(t, store.Close())
		step("Close", b[1], expires, func() { want.Unavailable++ })
	})
}

func TestCloseEndsTheGoroutine(t *testing.T) {
	store := open(t, memstore.Config{})
	require.Contains(t, stacks(), "bigcache/v3.newBigCache", "the goroutine that Close is to end has another name now")
	require.NoError(t, store.Close())
	for deadline := in(5 * time.Second); strings.Contains(stacks(), "bigcache/v3.newBigCache"); {
		if time.Now().After(deadline) {
			t.Fatal("five seconds after Close the store's goroutine still runs")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestUseAfterClose(t *testing.T) {
	store := open(t, memstore.Config{})
	key, expires := replay.Key("client", "jti"), in(time.Minute)
	requireFirst(t, store, key, expires)
	for range 2 {
		if err := store.Close(); err != nil {
			t.Errorf("Close: %v, want nil, again and again", err)
		}
	}
	for _, k := range []string{key, replay.Key("client", "other")} {
		if first, err := use(store, k, expires); first || err == nil {
			t.Errorf("a closed store answered (%t, %v), want an error", first, err)
		}
	}
}

func TestCloseUnderLoad(t *testing.T) {
	store := open(t, memstore.Config{MaxPerClient: 1_000_000})
	keys, expires := proofs("client", 20_000), in(time.Minute)
	firsts := make([]atomic.Int32, len(keys))
	var begun atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i, key := range keys {
				begun.Add(1)
				if first, _ := use(store, key, expires); first {
					firsts[i].Add(1)
				}
			}
		})
	}
	for begun.Load() < int64(len(keys)) { // in the middle
		runtime.Gosched()
	}
	for range 2 {
		wg.Go(func() {
			if err := store.Close(); err != nil {
				t.Errorf("Close under load: %v", err)
			}
		})
	}
	wg.Wait()
	for i := range firsts {
		if n := firsts[i].Load(); n > 1 {
			t.Fatalf("key %d was first %d times while the store was closed", i, n)
		}
	}
}

func TestConfig(t *testing.T) {
	_, err := memstore.New(memstore.Config{MaxEntries: -1, MaxPerClient: -2, Window: -time.Second})
	require.Error(t, err)
	for _, want := range []string{
		"memstore: Config.MaxEntries is -1: set 1 to 1073741824, or 0 for 1000000",
		"MaxPerClient is -2: set 1 to MaxEntries, or 0 for a tenth of MaxEntries",
		"Window is -1s: set how long a proof lives, at most 24h0m0s, or 0 for 2m0s",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("all mistakes are to be reported at once; %q lacks %q", err, want)
		}
	}
	for name, cfg := range map[string]memstore.Config{
		"more for one client than for all": {MaxEntries: 10, MaxPerClient: 11},
		"more entries than can be counted": {MaxEntries: math.MaxInt32},
		"a window of more than a day":      {Window: 24*time.Hour + 1},
		"the longest of all durations":     {Window: math.MaxInt64},
		"a floor's Leeway without a floor": {Leeway: time.Second},
		"its ClockSkew without a floor":    {ClockSkew: time.Second},
		"a negative Leeway":                {BootFloor: true, Leeway: -1},
		"a ClockSkew of more than a day":   {BootFloor: true, ClockSkew: 24*time.Hour + 1},
	} {
		if _, err := memstore.New(cfg); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want one mistake", name, err)
		}
	}
	for name, cfg := range map[string]memstore.Config{
		"the zero Config":             {},
		"the smallest store":          {MaxEntries: 1},
		"the smallest quota":          {MaxPerClient: 1},
		"no quota":                    {MaxEntries: 10, MaxPerClient: 10},
		"the shortest and the finest": {Window: 1},
		"a boot floor":                {BootFloor: true},
	} {
		store, err := memstore.New(cfg)
		if err != nil {
			t.Errorf("%s: %v, want a store", name, err)
			continue
		}
		require.NoError(t, store.Close())
	}
}

func TestDefaults(t *testing.T) {
	store := open(t, memstore.Config{})
	// What a Verifier with default settings needs: MaxAge, Leeway, twice ClockSkew, and a second of rounding.
	const needed = (60 + 10 + 2*5 + 1) * time.Second
	if w := store.MaxWindow(); w != 2*time.Minute || w < needed {
		t.Errorf("MaxWindow is %v, want 2m, and at least %v for the verifier's defaults", w, needed)
	}
	refused := func(client string) int { // how many keys a client may use before it is refused
		for i := range 1_000_001 {
			first, err := use(store, replay.Key(client, strconv.Itoa(i)), in(time.Minute))
			if !first {
				require.ErrorIs(t, err, replay.ErrFull)
				return i
			}
		}
		return -1
	}
	if n := refused("A"); n != 100_000 {
		t.Errorf("a client may use %d keys by default, want 100,000", n)
	}
}

// TestFreshKeyAllocatesNothing: garbage per request would cost more than the look-up.
func TestFreshKeyAllocatesNothing(t *testing.T) {
	for name, cfg := range map[string]memstore.Config{"the zero Config": {}, "with BootFloor": {BootFloor: true}} {
		store := open(t, cfg)
		keys, made, expires := proofs("client", 20_001), in(time.Minute), in(time.Minute)
		i := 0
		// AllocsPerRun rounds down, so that growing buffers, which are rare, do not count.
		n := testing.AllocsPerRun(20_000, func() { _, _ = store.FirstUse(context.Background(), keys[i], made, expires); i++ })
		if n != 0 {
			t.Errorf("%s: FirstUse of a new key allocates %v times, want 0", name, n)
		}
		if live(store) != i {
			t.Errorf("%s: %d keys are live after %d new ones", name, live(store), i)
		}
	}
}

// TestCost compares FirstUse with the one ES256 verification that a request must cost. The bar is 2 %.
func TestCost(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("times mean nothing with -short or under the race detector")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	sum := sha256.Sum256([]byte("proof"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	require.NoError(t, err)
	store := open(t, memstore.Config{MaxPerClient: 1_000_000})
	keys, expires := proofs("client", 200_000), in(time.Minute)

	// The fastest of many short rounds is the one that nothing else disturbed.
	verify, first := time.Hour, time.Hour
	for len(keys) > 0 {
		const verifies, uses = 100, 5_000
		start := time.Now()
		for range verifies {
			ecdsa.VerifyASN1(&key.PublicKey, sum[:], sig)
		}
		verify = min(verify, time.Since(start)/verifies)
		start = time.Now()
		for _, k := range keys[:uses] {
			_, _ = use(store, k, expires)
		}
		first = min(first, time.Since(start)/uses)
		keys = keys[uses:]
	}
	t.Logf("FirstUse %v, ES256 %v: %.2f %%", first, verify, 100*float64(first)/float64(verify))
	if first > verify/50 {
		t.Errorf("FirstUse of a new key takes %v, more than 2 %% of an ES256 verification, %v", first, verify)
	}
}

func BenchmarkFirstUse(b *testing.B) {
	b.Run("fresh", func(b *testing.B) {
		store := open(b, memstore.Config{MaxEntries: 1 << 28, MaxPerClient: 1 << 28})
		keys, expires := proofs("client", b.N), in(time.Minute)
		b.ReportAllocs()
		b.ResetTimer()
		for _, key := range keys {
			if first, err := use(store, key, expires); !first {
				b.Fatal(err)
			}
		}
	})
	b.Run("replayed", func(b *testing.B) {
		store := open(b, memstore.Config{})
		keys, expires := proofs("client", 50_000), in(time.Minute)
		for _, key := range keys {
			requireFirst(b, store, key, expires)
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if first, err := use(store, keys[i%len(keys)], expires); first || err != nil {
				b.Fatal(first, err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		store := open(b, memstore.Config{MaxEntries: 1 << 28, MaxPerClient: 1 << 28})
		keys, expires := proofs("client", b.N), in(time.Minute)
		var next atomic.Int64
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if first, err := use(store, keys[next.Add(1)-1], expires); !first {
					b.Error(err)
				}
			}
		})
	})
}

func Example() {
	store, err := memstore.New(memstore.Config{})
	if err != nil {
		panic(err)
	}
	defer store.Close()

	key := replay.Key("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", "e1j3V_bKic8-LAEB")
	for range 2 {
		made := time.Now()
		first, err := store.FirstUse(context.Background(), key, made, made.Add(81*time.Second))
		fmt.Println(first, err)
	}
	// Output:
	// true <nil>
	// false <nil>
}

// open returns a store that is closed at the end of the test.
func open(t testing.TB, cfg memstore.Config) *memstore.Store {
	t.Helper()
	store, err := memstore.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// live returns how many keys a store holds.
func live(store *memstore.Store) int { return int(store.Stats().Live) }

func use(store replay.Store, key string, expires time.Time) (bool, error) {
	return store.FirstUse(context.Background(), key, time.Now(), expires)
}

func requireFirst(t testing.TB, store replay.Store, key string, expires time.Time) {
	t.Helper()
	first, err := use(store, key, expires)
	require.NoError(t, err)
	require.True(t, first, "a new key is first")
}

// proofs returns the keys of n proofs of one client.
func proofs(client string, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = replay.Key(client, strconv.Itoa(i))
	}
	return keys
}

func in(d time.Duration) time.Time { return time.Now().Add(d) }

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}
