package atjwt_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
)

func sum(token string) [32]byte { return sha256.Sum256([]byte(token)) }

// A verified token is known without I/O until CacheTTL, and never past its exp; a refused one never is.
func TestCache(t *testing.T) {
	for name, test := range map[string]struct {
		ttl, exp, known time.Duration
	}{
		"until exp":           {0, 2 * time.Minute, 2 * time.Minute},
		"until CacheTTL":      {time.Minute, 2 * time.Minute, time.Minute},
		"5 minutes otherwise": {0, time.Hour, 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(time.Now().Unix(), 0)
			cfg := config(newIssuer(all()...))
			cfg.CacheTTL = test.ttl
			cfg.Now = func() time.Time { return now }
			r := newResolver(t, cfg)
			tok := token(nil, members{"exp": now.Add(test.exp).Unix()})
			_, ok := r.Cached(sum(tok))
			require.False(t, ok, "not before it was verified")
			first, err := r.ResolveToken(t.Context(), tok)
			require.NoError(t, err)

			now = now.Add(test.known - 1)
			got, ok := r.Cached(sum(tok))
			require.True(t, ok)
			require.Same(t, first, got)
			got, err = r.ResolveToken(t.Context(), tok)
			require.NoError(t, err)
			require.Same(t, first, got, "ResolveToken says what Cached says")
			_, ok = r.Cached(sum(tok + "."))
			require.False(t, ok, "another token")

			now = now.Add(1)
			_, ok = r.Cached(sum(tok))
			require.False(t, ok)
			_, err = r.ResolveToken(t.Context(), tok)
			if test.known == test.exp {
				require.ErrorIs(t, err, dpop.ErrTokenExpired)
			} else {
				require.NoError(t, err)
			}
		})
	}
	t.Run("refused tokens", func(t *testing.T) {
		r := newResolver(t, config(newIssuer(all()...)))
		for _, tok := range []string{tokenBy(otherKey(), "ec"), token(nil, members{"aud": "x"})} {
			_, err := r.ResolveToken(t.Context(), tok)
			require.Error(t, err)
			_, ok := r.Cached(sum(tok))
			require.False(t, ok)
		}
	})
	t.Run("NoCache", func(t *testing.T) {
		cfg := config(newIssuer(all()...))
		cfg.NoCache = true
		r := newResolver(t, cfg)
		tok := token(nil, nil)
		_, err := r.ResolveToken(t.Context(), tok)
		require.NoError(t, err)
		_, ok := r.Cached(sum(tok))
		require.False(t, ok)
	})
}

// However many tokens come, no more than CacheEntries are remembered; the last one is among them.
func TestCacheIsBounded(t *testing.T) {
	for _, entries := range []int{1, 3, 100} {
		t.Run(fmt.Sprint(entries), func(t *testing.T) {
			cfg := config(newIssuer(all()...))
			cfg.CacheEntries = entries
			r := newResolver(t, cfg)
			var tokens []string
			for n := range 400 {
				tok := sign(edKey(), "EdDSA", members{"typ": "at+jwt", "kid": "ed"}, must(json.Marshal(rfc9068().with(members{"jti": fmt.Sprint(n)}))))
				tokens = append(tokens, tok)
				_, err := r.ResolveToken(t.Context(), tok)
				require.NoError(t, err)
				_, ok := r.Cached(sum(tok))
				require.True(t, ok, "the token just verified")
			}
			known := 0
			for _, tok := range tokens {
				if _, ok := r.Cached(sum(tok)); ok {
					known++
				}
			}
			require.LessOrEqual(t, known, entries)
			require.GreaterOrEqual(t, known, entries/2, "the control: the cache is used")
		})
	}
}

// A token that many requests bring at once is verified once: all get the same Token, which without a cache can only be
// because they shared the verification. One caller's cancelled context is not the others' trouble.
func TestSingleFlight(t *testing.T) {
	cfg := config(newIssuer(all()...))
	cfg.NoCache = true
	r := newResolver(t, cfg)
	_, err := r.ResolveToken(t.Context(), token(nil, nil)) // the keys are there
	require.NoError(t, err)

	// ES384 is slow to verify: time enough for others to come. Whether they do is up to the scheduler, hence the rounds.
	payload := must(json.Marshal(rfc9068()))
	tok := sign(p384Key(), "ES384", members{"typ": "at+jwt", "kid": "p384"}, payload)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	shared := false
	for round := 0; round < 1000 && !shared; round++ {
		var wg sync.WaitGroup
		var mu sync.Mutex
		distinct := make(map[*dpop.Token]int)
		gate := make(chan struct{})
		for n := range 16 {
			wg.Go(func() {
				ctx := t.Context()
				if n%2 == 0 {
					ctx = cancelled
				}
				<-gate
				got, err := r.ResolveToken(ctx, tok)
				assert.NoError(t, err)
				mu.Lock()
				distinct[got]++
				mu.Unlock()
			})
		}
		close(gate)
		wg.Wait()
		shared = len(distinct) < 16
	}
	if runtime.GOMAXPROCS(0) > 1 {
		require.True(t, shared, "no verification was shared")
	}
}

// Any number of goroutines may use a Resolver while its keys change (for the race detector).
func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ec, other := publicJWK(ecKey(), members{"kid": "ec"}), publicJWK(otherKey(), members{"kid": "other"})
		i := newIssuer(ec)
		cfg := config(i)
		cfg.RefreshInterval, cfg.MinRefreshInterval = time.Second, time.Second
		cfg.CacheEntries = 2
		r := newResolver(t, cfg)
		tokens := []string{token(nil, nil), token(nil, members{"jti": "2"}), tokenBy(otherKey(), "other"), token(nil, members{"jti": "3"})}
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				for m := range 100 {
					tok := tokens[(n+m)%len(tokens)]
					if got, err := r.ResolveToken(t.Context(), tok); err == nil {
						assert.Equal(t, "alice", got.Subject)
					}
					r.Cached(sum(tok))
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		for n := range 10 {
			if n%2 == 0 {
				i.publish(ec, other)
			} else {
				i.publish(ec)
			}
			time.Sleep(time.Second)
		}
		wg.Wait()
	})
}

// Cached is on every request's way: it allocates nothing.
func TestCachedAllocatesNothing(t *testing.T) {
	r := newResolver(t, config(newIssuer(all()...)))
	tok := token(nil, nil)
	_, err := r.ResolveToken(t.Context(), tok)
	require.NoError(t, err)
	key := sum(tok)
	require.Zero(t, testing.AllocsPerRun(100, func() { r.Cached(key) }))
}

func BenchmarkCached(b *testing.B) {
	r := newResolver(b, config(newIssuer(all()...)))
	tok := token(nil, nil)
	_, err := r.ResolveToken(b.Context(), tok)
	require.NoError(b, err)
	key := sum(tok)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r.Cached(key)
		}
	})
}

func BenchmarkResolveToken(b *testing.B) {
	cfg := config(newIssuer(all()...))
	cfg.NoCache = true
	r := newResolver(b, cfg)
	tok := token(nil, nil)
	for b.Loop() {
		if _, err := r.ResolveToken(b.Context(), tok); err != nil {
			b.Fatal(err)
		}
	}
}

var _ dpop.CachedResolver = (*atjwt.Resolver)(nil)
