package memstore_test

// What bigcache does when it is used for this as it comes, and that the store does not. Each test has a control that
// shows the hole: without it the test would prove nothing.

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/allegro/bigcache/v3"
	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/memstore"
)

// naive is bigcache as one would use it at first: the jti is the key, the hasher is the default, and Get comes before
// Set.
type naive struct{ *bigcache.BigCache }

func newNaive(t *testing.T, hardMaxMB int) naive {
	t.Helper()
	cfg := bigcache.DefaultConfig(10 * time.Minute)
	cfg.Shards, cfg.MaxEntriesInWindow, cfg.Verbose, cfg.HardMaxCacheSize = 16, 1000, false, hardMaxMB
	cache, err := bigcache.New(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cache.Close()) })
	return naive{cache}
}

func (n naive) FirstUse(_ context.Context, key string, _, _ time.Time) (bool, error) {
	if _, err := n.Get(key); !errors.Is(err, bigcache.ErrEntryNotFound) {
		return false, err
	}
	runtime.Gosched() // as when the thread is taken away here
	return true, n.Set(key, nil)
}

// collisions are pairs of jtis with equal FNV-1a hashes of 64 bits. The first of each is a victim's, the second was made
// for it.
var collisions = [][2]string{
	{"e1j3V_bKic8-LAEB", "Qhy_ga4;%dDh2.M"}, // the jti of RFC 9449's example
	{"-BwC3ESc6acc2lTc", "s-As2Mr:DT=}b51"},
	{"8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"},
	{"GReLUrM4wMqfg9yzV3KQ", "8yn0iYCKYHlIj4-BwPqk"},
}

// TestCollision: an attacker with a token of his own sends a proof whose jti collides with a victim's, and then the
// victim's captured proof.
func TestCollision(t *testing.T) {
	for _, pair := range collisions {
		victim, attacker := pair[0], pair[1]
		require.Equal(t, fnv1a(victim), fnv1a(attacker), "%q and %q are to collide", victim, attacker)
		if !replayable(t, newNaive(t, 0), victim, attacker) {
			t.Errorf("control: bigcache as it comes kept %q, although %q has its hash", victim, attacker)
		}
		for name, key := range map[string]func(string) string{
			"the key of a proof": func(jti string) string { return replay.Key("client", jti) },
			"the jti itself":     func(jti string) string { return jti },
		} {
			if replayable(t, open(t, memstore.Config{}), key(victim), key(attacker)) {
				t.Errorf("with %s, %q made the store forget %q: the captured proof passes", name, attacker, victim)
			}
		}
	}
}

// replayable reports whether the key of a victim is first again after an attacker's.
func replayable(t *testing.T, store replay.Store, victim, attacker string) bool {
	t.Helper()
	expires := in(time.Minute)
	requireFirst(t, store, victim, expires)
	requireFirst(t, store, attacker, expires)
	again, err := use(store, victim, expires)
	require.NoError(t, err)
	return again
}

func fnv1a(s string) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, s)
	return h.Sum64()
}

// TestRace: two requests with one proof at the same moment.
func TestRace(t *testing.T) {
	const keys = 3_000
	if n := doubles(newNaive(t, 0), proofs("client", keys)); n == 0 {
		t.Error("control: Get and then Set let no key pass twice, so this test does not race")
	}
	if n := doubles(open(t, memstore.Config{}), proofs("client", keys)); n != 0 {
		t.Errorf("%d of %d keys were first more than once", n, keys)
	}
}

// doubles returns how many keys are first more than once when four goroutines use each of them together.
func doubles(store replay.Store, keys []string) int {
	const callers = 4
	expires := in(time.Minute)
	firsts := make([]atomic.Int32, len(keys))
	var arrived atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i, key := range keys {
				for arrived.Add(1); arrived.Load() < int64((i+1)*callers); {
					runtime.Gosched()
				}
				if first, _ := use(store, key, expires); first {
					firsts[i].Add(1)
				}
			}
		})
	}
	wg.Wait()
	n := 0
	for i := range firsts {
		if firsts[i].Load() > 1 {
			n++
		}
	}
	return n
}

// TestEviction: an attacker with a token of his own floods the store until a victim's used proof is dropped.
func TestEviction(t *testing.T) {
	const flood = 100_000
	if evicted(t, newNaive(t, 1), flood) == 0 {
		t.Error("control: bigcache with HardMaxCacheSize dropped nothing, so this flood is too small")
	}
	store := open(t, memstore.Config{MaxEntries: 80_000, MaxPerClient: 60_000})
	if n := evicted(t, store, flood); n != 0 {
		t.Errorf("a flood made %d used keys usable again", n)
	}
}

// evicted uses 100 keys of a victim, floods the store with those of another client, and returns how many of the 100
// are first again.
func evicted(t *testing.T, store replay.Store, flood int) int {
	t.Helper()
	victims, expires := proofs("victim", 100), in(time.Minute)
	for _, key := range victims {
		requireFirst(t, store, key, expires)
	}
	for _, key := range proofs("attacker", flood) {
		if _, err := use(store, key, expires); err != nil && !errors.Is(err, replay.ErrFull) {
			t.Fatalf("a flooding key got %v, want nil or ErrFull", err)
		}
	}
	n := 0
	for _, key := range victims {
		if first, _ := use(store, key, expires); first {
			n++
		}
	}
	return n
}
