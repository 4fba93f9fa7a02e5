// Package tokencache remembers what was found out about tokens, by their SHA-256, and sees to it that one token is looked
// into once at a time. What it forgets costs one more look and nothing else, so it may forget whenever it likes.
package tokencache

import (
	"context"
	"sync"
	"time"
)

// maxShards is how many locks the cache has at most: enough that requests on many cores seldom meet at one.
const maxShards = 64

// A Cache holds values of V. Its methods may be called by any number of goroutines.
type Cache[V any] struct {
	limit  int // of entries in one shard
	shards []shard[V]
}

type shard[V any] struct {
	mu      sync.Mutex
	entries map[[32]byte]entry[V]
	calls   map[[32]byte]*call[V]
}

type entry[V any] struct {
	value V
	until time.Time
}

// A call is a look that is under way. value is set before done is closed.
type call[V any] struct {
	done  chan struct{}
	value V
	void  bool // what it finds is not to be remembered
}

// New returns a Cache of at most so many entries.
func New[V any](entries int) *Cache[V] {
	shards := maxShards
	for shards > entries {
		shards /= 2
	}
	c := &Cache[V]{limit: entries / shards, shards: make([]shard[V], shards)}
	for i := range c.shards {
		c.shards[i].entries = make(map[[32]byte]entry[V])
		c.shards[i].calls = make(map[[32]byte]*call[V])
	}
	return c
}

func (c *Cache[V]) shard(sum [32]byte) *shard[V] { return &c.shards[int(sum[0])%len(c.shards)] }

// Get returns what is remembered of the token with this sum. It allocates nothing.
func (c *Cache[V]) Get(sum [32]byte, now time.Time) (V, bool) {
	s := c.shard(sum)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(sum, now)
}

func (s *shard[V]) get(sum [32]byte, now time.Time) (V, bool) {
	e, ok := s.entries[sum]
	if ok && !e.holds(now) {
		delete(s.entries, sum)
		var none V
		return none, false
	}
	return e.value, ok
}

// holds reports whether e is not over yet, by either clock that a time has: one is set back and the other stands still
// while a machine sleeps, and what is late must not be believed.
func (e *entry[V]) holds(now time.Time) bool {
	return now.Before(e.until) && now.Round(0).Before(e.until.Round(0))
}

// A Look finds something out about a token, and until when that is to be remembered; a time that is not after now means
// not at all.
type Look[V any] func() (value V, until time.Time)

// Once returns what is remembered, or what look returns. Callers that come with the same token meanwhile get the same
// answer. look must depend on no caller's context. If it panics, so does Once, and the others get the zero value.
func (c *Cache[V]) Once(sum [32]byte, now time.Time, look Look[V]) V {
	value, found, call, mine := c.enter(sum, now)
	switch {
	case found:
		return value
	case mine:
		c.run(sum, now, call, look)
	default:
		<-call.done
	}
	return call.value
}

// Join does the same for a look that takes time: it runs in a goroutine of its own, and who waits for it may leave. The
// error is that of ctx. look must not panic: that would end the process.
func (c *Cache[V]) Join(ctx context.Context, sum [32]byte, now time.Time, look Look[V]) (V, error) {
	value, found, call, mine := c.enter(sum, now)
	if found {
		return value, nil
	}
	if mine {
		go c.run(sum, now, call, look)
	}
	select {
	case <-call.done:
		return call.value, nil
	case <-ctx.Done():
		return value, ctx.Err()
	}
}

// enter returns what is remembered, or the call to wait for, which the caller must run if it is the first.
func (c *Cache[V]) enter(sum [32]byte, now time.Time) (value V, found bool, under *call[V], mine bool) {
	s := c.shard(sum)
	s.mu.Lock()
	defer s.mu.Unlock()
	if value, found = s.get(sum, now); found {
		return value, true, nil, false
	}
	if other, ok := s.calls[sum]; ok {
		return value, false, other, false
	}
	under = &call[V]{done: make(chan struct{})}
	s.calls[sum] = under
	return value, false, under, true
}

func (c *Cache[V]) run(sum [32]byte, now time.Time, this *call[V], look Look[V]) {
	var until time.Time
	defer func() { // deferred, so that not even a panic leaves others waiting
		s := c.shard(sum)
		s.mu.Lock()
		if s.calls[sum] == this {
			delete(s.calls, sum)
		}
		if until.After(now) && !this.void {
			s.put(sum, entry[V]{this.value, until}, now, c.limit)
		}
		s.mu.Unlock()
		close(this.done)
	}()
	this.value, until = look()
}

// Put remembers a value until then.
func (c *Cache[V]) Put(sum [32]byte, value V, until, now time.Time) {
	s := c.shard(sum)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(sum, entry[V]{value, until}, now, c.limit)
}

// put remembers e. In a full shard one of a few entries goes, best an expired one: which are looked at is up to the map,
// whose iteration starts anywhere.
func (s *shard[V]) put(sum [32]byte, e entry[V], now time.Time, limit int) {
	if len(s.entries) >= limit {
		var victim [32]byte
		looked := 0
		for candidate, other := range s.entries {
			victim = candidate
			if looked++; looked == 4 || !other.holds(now) {
				break
			}
		}
		delete(s.entries, victim)
	}
	s.entries[sum] = e
}

// Forget drops what is remembered of the token with this sum. What is being looked up is not remembered, and later
// callers do not get it.
func (c *Cache[V]) Forget(sum [32]byte) {
	s := c.shard(sum)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, sum)
	s.abandon(sum)
}

// Purge does the same for all values that match, and for every look that is under way. match must not call the Cache.
func (c *Cache[V]) Purge(match func(V) bool) {
	for i := range c.shards {
		c.shards[i].purge(match)
	}
}

func (s *shard[V]) purge(match func(V) bool) {
	s.mu.Lock()
	defer s.mu.Unlock() // match may panic

	for sum := range s.calls {
		s.abandon(sum)
	}
	for sum, e := range s.entries {
		if match(e.value) {
			delete(s.entries, sum)
		}
	}
}

func (s *shard[V]) abandon(sum [32]byte) {
	if call, ok := s.calls[sum]; ok {
		call.void = true
		delete(s.calls, sum)
	}
}
