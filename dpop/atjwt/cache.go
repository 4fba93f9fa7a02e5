package atjwt

import (
	"errors"
	"sync"
	"time"

	"github.com/senderbound/senderbound/dpop"
)

// maxShards is how many locks the cache has at most: enough that requests on many cores seldom meet at one.
const maxShards = 64

// A cache remembers verified tokens by their SHA-256, and sees to it that one token is verified once at a time. What it
// forgets costs one more verification and nothing else, so it may forget whenever it likes.
//
// It belongs to a set of keys: see keyring.install.
type cache struct {
	cfg    *Config
	limit  int // of entries in one shard
	shards []shard
}

type shard struct {
	mu      sync.Mutex
	entries map[[32]byte]entry
	calls   map[[32]byte]*call
}

type entry struct {
	token *dpop.Token
	until time.Time
}

// A call is a verification that is under way. token and err are set before done is closed.
type call struct {
	done  chan struct{}
	token *dpop.Token
	err   error
}

func newCache(cfg *Config) *cache {
	shards := maxShards
	for shards > cfg.CacheEntries {
		shards /= 2
	}
	c := &cache{cfg: cfg, limit: cfg.CacheEntries / shards, shards: make([]shard, shards)}
	for i := range c.shards {
		c.shards[i].entries = make(map[[32]byte]entry)
		c.shards[i].calls = make(map[[32]byte]*call)
	}
	return c
}

func (c *cache) shard(sum [32]byte) *shard { return &c.shards[int(sum[0])%len(c.shards)] }

// get returns the token with this sum, if it is remembered.
func (c *cache) get(sum [32]byte, now time.Time) (*dpop.Token, bool) {
	s := c.shard(sum)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(sum, now)
}

func (s *shard) get(sum [32]byte, now time.Time) (*dpop.Token, bool) {
	e, ok := s.entries[sum]
	if ok && !now.Before(e.until) {
		delete(s.entries, sum)
		return nil, false
	}
	return e.token, ok
}

// lives returns the moment until which a token verified at now may be remembered.
func (c *Config) lives(t *dpop.Token, now time.Time) time.Time {
	if end := now.Add(c.CacheTTL); end.Before(t.Expiry) {
		return end
	}
	return t.Expiry
}

var errPanicked = errors.New("atjwt: the verification of the same token panicked")

// once returns what is remembered, or what verify returns, which it remembers if that is no error. Callers that come with
// the same token meanwhile get the same answer. verify only computes: it depends on no caller's context, so that no
// caller's end fails another.
func (c *cache) once(sum [32]byte, now time.Time, verify func() (*dpop.Token, error)) (*dpop.Token, error) {
	s := c.shard(sum)
	s.mu.Lock()
	if t, ok := s.get(sum, now); ok {
		s.mu.Unlock()
		return t, nil
	}
	if other, ok := s.calls[sum]; ok {
		s.mu.Unlock()
		<-other.done
		return other.token, other.err
	}
	this := &call{done: make(chan struct{}), err: errPanicked}
	s.calls[sum] = this
	s.mu.Unlock()

	defer func() { // deferred, so that not even a panic leaves others waiting
		s.mu.Lock()
		delete(s.calls, sum)
		if this.err == nil && !c.cfg.NoCache {
			s.put(sum, entry{this.token, c.cfg.lives(this.token, now)}, now, c.limit)
		}
		s.mu.Unlock()
		close(this.done)
	}()
	this.token, this.err = verify()
	return this.token, this.err
}

// put remembers e. In a full shard one of a few entries goes, best an expired one: which are looked at is up to the map,
// whose iteration starts anywhere.
func (s *shard) put(sum [32]byte, e entry, now time.Time, limit int) {
	if len(s.entries) >= limit {
		var victim [32]byte
		looked := 0
		for candidate, other := range s.entries {
			victim = candidate
			if looked++; looked == 4 || !now.Before(other.until) {
				break
			}
		}
		delete(s.entries, victim)
	}
	s.entries[sum] = e
}
