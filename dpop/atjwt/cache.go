package atjwt

import (
	"errors"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/internal/tokencache"
)

// A cache remembers verified tokens. It belongs to a set of keys: see keyring.install.
type cache struct {
	cfg *Config
	*tokencache.Cache[verdict]
}

// A verdict is what came of verifying a token. Only good ones are remembered.
type verdict struct {
	token *dpop.Token
	err   error
}

func newCache(cfg *Config) *cache { return &cache{cfg, tokencache.New[verdict](cfg.CacheEntries)} }

// get returns the token with this sum, if it is remembered.
func (c *cache) get(sum [32]byte, now time.Time) (*dpop.Token, bool) {
	v, ok := c.Get(sum, now)
	return v.token, ok
}

var errPanicked = errors.New("atjwt: the verification of the same token panicked")

// once returns what is remembered, or what verify returns, which it remembers if that is no error. verify only computes: it
// depends on no caller's context, so that no caller's end fails another.
func (c *cache) once(sum [32]byte, now time.Time, verify func() (*dpop.Token, error)) (*dpop.Token, error) {
	v := c.Once(sum, now, func() (v verdict, until time.Time) {
		if v.token, v.err = verify(); v.err == nil && !c.cfg.NoCache {
			until = c.cfg.lives(v.token, now)
		}
		return v, until
	})
	if v == (verdict{}) {
		return nil, errPanicked
	}
	return v.token, v.err
}

// lives returns the moment until which a token verified at now may be remembered.
func (c *Config) lives(t *dpop.Token, now time.Time) time.Time {
	if end := now.Add(c.CacheTTL); end.Before(t.Expiry) {
		return end
	}
	return t.Expiry
}
