package tokencache_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/internal/tokencache"
)

func sum(token string) [32]byte { return sha256.Sum256([]byte(token)) }

// A cache is what these tests ask of a Cache, so that a naive one can be tried as well.
type cache interface {
	Get(sum [32]byte, now time.Time) (string, bool)
	Join(ctx context.Context, sum [32]byte, now time.Time, look tokencache.Look[string]) (string, error)
	Put(sum [32]byte, value string, until, now time.Time)
	Forget(sum [32]byte)
	Purge(match func(string) bool)
}

// A naive cache shares looks by their token, as many do, and does nothing more: what it is told to forget, a look that is
// under way brings back, and of the two clocks of a time.Time it asks the one that time.Time prefers.
type naive struct {
	mu      sync.Mutex
	entries map[[32]byte]naiveEntry
	calls   map[[32]byte]chan struct{}
}

type naiveEntry struct {
	value string
	until time.Time
}

func newNaive() *naive {
	return &naive{entries: map[[32]byte]naiveEntry{}, calls: map[[32]byte]chan struct{}{}}
}

func (c *naive) Get(sum [32]byte, now time.Time) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[sum]
	return e.value, ok && now.Before(e.until)
}

func (c *naive) Put(sum [32]byte, value string, until, _ time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries[sum] = naiveEntry{value, until}
}

func (c *naive) Join(ctx context.Context, sum [32]byte, now time.Time, look tokencache.Look[string]) (string, error) {
	if value, ok := c.Get(sum, now); ok {
		return value, nil
	}
	c.mu.Lock()
	done, ok := c.calls[sum]
	if !ok {
		done = make(chan struct{})
		c.calls[sum] = done
	}
	c.mu.Unlock()
	if !ok {
		value, until := look()
		c.Put(sum, value, until, now)
		c.mu.Lock()
		delete(c.calls, sum)
		c.mu.Unlock()
		close(done)
	}
	<-done
	value, _ := c.Get(sum, now)
	return value, ctx.Err()
}

func (c *naive) Forget(sum [32]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, sum)
}

func (c *naive) Purge(match func(string) bool) {
	c.mu.Lock()
	for sum, e := range c.entries {
		if match(e.value) {
			delete(c.entries, sum)
		}
	}
	c.mu.Unlock()
}

// D20: what was being looked up when it was to be forgotten is given to those who wait for it, is not remembered, and no
// later caller gets it.
func TestForgetWhileLookingUp(t *testing.T) {
	for name, forget := range map[string]func(cache){
		"Forget": func(c cache) { c.Forget(sum("token")) },
		"Purge":  func(c cache) { c.Purge(func(string) bool { return false }) }, // which value it will be, nobody knows
	} {
		// later returns what a caller gets who comes after the forgetting, and what is remembered in the end.
		later := func(t *testing.T, c cache) (got, remembered string) {
			synctest.Test(t, func(t *testing.T) {
				hold := make(chan struct{})
				waiters := make(chan string, 2)
				join := func(look tokencache.Look[string]) {
					value, err := c.Join(t.Context(), sum("token"), time.Now(), look)
					if err != nil {
						t.Error(err)
					}
					waiters <- value
				}
				until := func() time.Time { return time.Now().Add(time.Minute) }
				go join(func() (string, time.Time) { <-hold; return "old", until() })
				synctest.Wait()
				forget(c)
				go join(func() (string, time.Time) { return "new", until() })
				synctest.Wait()
				close(hold)
				first, second := <-waiters, <-waiters
				got = second
				if first != "old" { // who waits for the new look alone is there first
					got = first
				}
				synctest.Wait()
				remembered, _ = c.Get(sum("token"), time.Now())
			})
			return got, remembered
		}
		t.Run(name, func(t *testing.T) {
			if got, remembered := later(t, tokencache.New[string](10)); got != "new" || remembered != "new" {
				t.Errorf("D20: a later caller got %q, and %q is remembered: want what was found after the forgetting", got, remembered)
			}
			if got, remembered := later(t, newNaive()); got == "new" || remembered == "new" {
				t.Errorf("the control: a cache that only shares looks gave %q and remembers %q", got, remembered)
			}
		})
	}
}

// A look that was abandoned and ends does not end the sharing of the one that took its place.
func TestAnAbandonedLookEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := tokencache.New[string](10)
		first, second := make(chan struct{}), make(chan struct{})
		join := func(look tokencache.Look[string]) {
			go func() { _, _ = c.Join(t.Context(), sum("token"), time.Now(), look) }()
			synctest.Wait()
		}
		wait := func(c chan struct{}) tokencache.Look[string] {
			return func() (string, time.Time) { <-c; return "", time.Time{} }
		}
		join(wait(first))
		c.Forget(sum("token"))
		join(wait(second))
		close(first)
		synctest.Wait()
		join(func() (string, time.Time) {
			t.Error("a third look, while the second is under way")
			return "", time.Time{}
		})
		close(second)
	})
}

// moveWall returns t with its wall clock moved and its monotonic one where it was: the time of a machine that slept, or
// whose clock was set.
func moveWall(t *testing.T, at time.Time, seconds int64) time.Time {
	moved := at
	wall := (*uint64)(unsafe.Pointer(&moved)) // the first word: a flag, 33 bits of seconds, 30 bits of nanoseconds
	*wall += uint64(seconds << 30)
	if moved.Sub(at) != 0 || moved.Round(0).Sub(at.Round(0)) != time.Duration(seconds)*time.Second {
		t.Skip("a time.Time is not made of what this test moves")
	}
	return moved
}

// C14, D20: an entry is over when either clock says so. The monotonic one stands still while a machine sleeps, and the wall
// clock may be set back.
func TestBothClocks(t *testing.T) {
	start := time.Now()
	for name, tt := range map[string]struct {
		now         time.Time
		want, naive bool
	}{
		"59 s later":                           {start.Add(59 * time.Second), true, true},
		"a minute later":                       {start.Add(time.Minute), false, false},
		"C14 slept for a minute":               {moveWall(t, start, 60), false, true},
		"C14 set back after a minute":          {moveWall(t, start.Add(time.Minute), -3600), false, false},
		"C14 set back, and no monotonic clock": {moveWall(t, start.Add(time.Minute), -3600).Round(0), true, true}, // nobody can know
	} {
		t.Run(name, func(t *testing.T) {
			ours, other := tokencache.New[string](10), newNaive()
			for _, c := range []cache{ours, other} {
				c.Put(sum("token"), "value", start.Add(time.Minute), start)
			}
			if _, ok := ours.Get(sum("token"), tt.now); ok != tt.want {
				t.Errorf("C14: remembered is %v, want %v", ok, tt.want)
			}
			if _, ok := other.Get(sum("token"), tt.now); ok != tt.naive {
				t.Errorf("the control: remembered is %v, want %v", ok, tt.naive)
			}
		})
	}
}

// Callers of one token share a look, whoever leaves; what it says is not to be remembered is not.
func TestJoin(t *testing.T) {
	for name, ttl := range map[string]time.Duration{"remembered": time.Minute, "not remembered": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := tokencache.New[int](100)
				looks := 0
				look := func() (int, time.Time) {
					looks++
					time.Sleep(time.Second)
					return looks, time.Now().Add(ttl)
				}
				first, leave := context.WithCancel(t.Context())
				go func() {
					_, err := c.Join(first, sum("token"), time.Now(), look)
					if err != context.Canceled {
						t.Errorf("the first caller left and got the error %v", err)
					}
				}()
				synctest.Wait()
				var wg sync.WaitGroup
				for range 1000 {
					wg.Go(func() {
						if value, err := c.Join(t.Context(), sum("token"), time.Now(), look); value != 1 || err != nil {
							t.Errorf("got %d and the error %v, want what the first look found", value, err)
						}
					})
				}
				leave()
				wg.Wait()
				if looks != 1 {
					t.Errorf("%d looks for callers that overlap, want 1", looks)
				}
				value, err := c.Join(t.Context(), sum("token"), time.Now(), look)
				if want := map[time.Duration]int{time.Minute: 1, 0: 2}[ttl]; value != want || err != nil {
					t.Errorf("a later caller got the value of look %d and the error %v, want look %d", value, err, want)
				}
			})
		})
	}
}

// A look that panics leaves nobody waiting and nothing behind.
func TestOncePanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := tokencache.New[string](10)
		hold := make(chan struct{})
		go func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic did not reach who called")
				}
			}()
			c.Once(sum("token"), time.Now(), func() (string, time.Time) { <-hold; panic("look") })
		}()
		synctest.Wait()
		go func() {
			if value := c.Once(sum("token"), time.Now(), nil); value != "" {
				t.Errorf("who waited got %q, want nothing", value)
			}
		}()
		synctest.Wait()
		close(hold)
		synctest.Wait()
		look := func() (string, time.Time) { return "value", time.Now().Add(time.Second) }
		if value := c.Once(sum("token"), time.Now(), look); value != "value" {
			t.Errorf("the next caller got %q, want a look of its own", value)
		}
		if value, ok := c.Get(sum("token"), time.Now()); value != "value" || !ok {
			t.Errorf("%q is remembered, want the value", value)
		}
	})
}

// A match that panics must not leave a lock behind, at which all requests would wait.
func TestPurgePanics(t *testing.T) {
	locked := func(c cache, patience time.Duration) bool {
		c.Put(sum("token"), "value", time.Now().Add(time.Hour), time.Now())
		func() {
			defer func() { _ = recover() }()
			c.Purge(func(string) bool { panic("match") })
		}()
		done := make(chan struct{})
		go func() { c.Get(sum("token"), time.Now()); close(done) }()
		select {
		case <-done:
			return false
		case <-time.After(patience):
			return true
		}
	}
	if locked(tokencache.New[string](10), 10*time.Second) {
		t.Error("the lock was left behind")
	}
	control := newNaive()
	if !locked(control, 50*time.Millisecond) {
		t.Error("the control: a cache without defer let go of its lock")
	}
	control.mu.Unlock() // so that no goroutine is left
}

// Only what matches goes.
func TestPurge(t *testing.T) {
	c := tokencache.New[string](1000)
	now := time.Now()
	for n := range 100 {
		c.Put(sum(fmt.Sprint(n)), fmt.Sprint(n%2), now.Add(time.Minute), now)
	}
	c.Purge(func(value string) bool { return value == "1" })
	for n := range 100 {
		if _, ok := c.Get(sum(fmt.Sprint(n)), now); ok != (n%2 == 0) {
			t.Errorf("token %d: remembered is %v", n, ok)
		}
	}
}

// However many come, no more are remembered than was said, and the last is among them. What is over goes first.
func TestBounds(t *testing.T) {
	now := time.Now()
	for _, entries := range []int{1, 2, 3, 63, 64, 100, 1000} {
		t.Run(fmt.Sprint(entries), func(t *testing.T) {
			c := tokencache.New[int](entries)
			const many = 5000
			for n := range many {
				c.Put(sum(fmt.Sprint(n)), n, now.Add(time.Minute), now)
				if _, ok := c.Get(sum(fmt.Sprint(n)), now); !ok {
					t.Fatal("what was just put is not there")
				}
			}
			known := 0
			for n := range many {
				if _, ok := c.Get(sum(fmt.Sprint(n)), now); ok {
					known++
				}
			}
			if known > entries || known < entries/2 {
				t.Errorf("D22: %d are remembered, want %d at most, and not much less", known, entries)
			}
		})
	}
	t.Run("put again", func(t *testing.T) {
		c := tokencache.New[int](1)
		for n := range 3 {
			c.Put(sum("token"), n, now.Add(time.Minute), now)
		}
		value, ok := c.Get(sum("token"), now)
		require.True(t, ok)
		require.Equal(t, 2, value)
	})
}

// Get is on every request's way.
func TestGetAllocatesNothing(t *testing.T) {
	c := tokencache.New[*int](10)
	now := time.Now()
	c.Put(sum("token"), new(int), now.Add(time.Hour), now)
	key := sum("token")
	require.Zero(t, testing.AllocsPerRun(100, func() { c.Get(key, now) }))
}
