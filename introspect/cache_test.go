package introspect_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/introspect"
)

// Most tests below run in synctest bubbles: their time is the bubble's, in which waiting costs nothing, and a goroutine that
// is left at the end fails the test.

// A naiveResolver asks without a limit, and remembers each answer by its token for a fixed time: the control of the tests of
// the cache. Its reading of answers is the real one's.
type naiveResolver struct {
	asks *introspect.Resolver // has no cache
	ttl  time.Duration

	mu    sync.Mutex
	known map[string]naiveEntry
}

type naiveEntry struct {
	token *dpop.Token
	err   error
	until time.Time
}

func newNaive(t *testing.T, s *server, ttl time.Duration) *naiveResolver {
	return &naiveResolver{
		asks: newResolver(t, config(s, func(c *introspect.Config) { c.NoNegativeCache, c.MaxCalls = true, 1_000_000 })),
		ttl:  ttl, known: map[string]naiveEntry{},
	}
}

func (r *naiveResolver) ResolveToken(ctx context.Context, token string) (*dpop.Token, error) {
	r.mu.Lock()
	e, ok := r.known[token]
	r.mu.Unlock()
	if ok && time.Now().Before(e.until) {
		return e.token, e.err
	}
	e.token, e.err = r.asks.ResolveToken(ctx, token)
	e.until = time.Now().Add(r.ttl)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[token] = e
	return e.token, e.err
}

func (r *naiveResolver) Revoke(token string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, token)
}

func caching(ttl time.Duration) func(*introspect.Config) {
	return func(c *introspect.Config) { c.CacheTTL = ttl }
}

func wantCached(t *testing.T, r *introspect.Resolver, token string, want bool) {
	t.Helper()
	got, ok := r.Cached(sum(token))
	if ok != want || (got != nil) != want {
		t.Errorf("Cached says %v (%v), want %v", ok, got, want)
	}
}

// D20, R103: an active token is known for CacheTTL at most, counted from when the server was asked, and never past its exp.
func TestCacheTTL(t *testing.T) {
	for name, tt := range map[string]struct {
		ttl, exp, latency, known time.Duration
		calls                    int // for two requests, one at once and one when the entry is over
	}{
		"R103 until CacheTTL":              {ttl: time.Minute, exp: time.Hour, known: time.Minute},
		"R103 until exp":                   {ttl: 5 * time.Minute, exp: time.Minute, known: time.Minute},
		"R103 an answer without exp":       {ttl: time.Minute, known: time.Minute},
		"D20 a slow answer is old already": {ttl: time.Minute, exp: time.Hour, latency: 4 * time.Second, known: 56 * time.Second},
		"D20 an answer older than the TTL": {ttl: 2 * time.Second, exp: time.Hour, latency: 4 * time.Second},
		"off":                              {exp: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // exp is in whole seconds
				exp := any(time.Now().Add(tt.exp).Unix())
				if tt.exp == 0 {
					exp = nil
				}
				s := says(active().with(members{"exp": exp}))
				s.latency = tt.latency
				r := newResolver(t, config(s, caching(tt.ttl)))
				wantCached(t, r, token, false)
				wantVerdict(t, r, token, accepted)
				if tt.known == 0 {
					wantCached(t, r, token, false)
					wantVerdict(t, r, token, accepted)
					if s.count() != 2 {
						t.Errorf("%d calls, want one for each request", s.count())
					}
					return
				}
				time.Sleep(tt.known - 1)
				wantCached(t, r, token, true)
				wantCached(t, r, token+"x", false)
				wantVerdict(t, r, token, accepted)
				if s.count() != 1 {
					t.Errorf("%d calls while the answer is remembered, want 1", s.count())
				}
				time.Sleep(time.Nanosecond)
				wantCached(t, r, token, false)
				verdict(t, r, token)
				if s.count() != 2 {
					t.Errorf("D20: %d calls after the entry was over, want 2", s.count())
				}
			})
		})
	}
}

// D20: revoked, expired or logged out, a token passes no longer than its cache lasts; and not at all after Revoke and Purge.
func TestD20RevokedTokens(t *testing.T) {
	const ttl = time.Minute
	type revoker interface {
		dpop.TokenResolver
		Revoke(token string)
	}
	const refused = string(dpop.ErrTokenInvalid)
	revoked := func(s *server, _ revoker) { s.set(text(inactive.String())) }
	revokedHere := func(s *server, r revoker) { s.set(text(inactive.String())); r.Revoke(token) }
	for name, tt := range map[string]struct {
		change  func(s *server, r revoker) // after a first request
		at      time.Duration              // of the second
		want    string
		control string // what the naive resolver says
	}{
		"nothing":                   {func(*server, revoker) {}, ttl - 1, accepted, accepted},
		"exp within the TTL":        {func(*server, revoker) {}, 30 * time.Second, string(dpop.ErrTokenExpired), accepted},
		"revoked":                   {revoked, ttl - 1, accepted, accepted},
		"revoked, the TTL is over":  {revoked, ttl, refused, refused},
		"revoked, and Revoke":       {revokedHere, 0, refused, refused},
		"the server is down":        {func(s *server, _ revoker) { s.set(status(500)) }, ttl - 1, accepted, accepted},
		"down, and the TTL is over": {func(s *server, _ revoker) { s.set(status(500)) }, ttl, unavailable, unavailable},
		"down, and Revoke":          {func(s *server, r revoker) { s.set(status(500)); r.Revoke(token) }, 0, unavailable, unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			second := func(t *testing.T, newResolver func(*server) revoker) (got string) {
				synctest.Test(t, func(t *testing.T) {
					life := 300 * time.Second
					if strings.HasPrefix(name, "exp") {
						life = tt.at
					}
					time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
					s := says(active().with(members{"exp": time.Now().Add(life).Unix()}))
					r := newResolver(s)
					wantVerdict(t, r, token, accepted)
					tt.change(s, r)
					time.Sleep(tt.at)
					got = verdict(t, r, token)
				})
				return got
			}
			if got := second(t, func(s *server) revoker { return newResolver(t, config(s, caching(ttl))) }); got != tt.want {
				t.Errorf("D20: %q, want %q", got, tt.want)
			}
			if got := second(t, func(s *server) revoker { return newNaive(t, s, ttl) }); got != tt.control {
				t.Errorf("the control: %q, want %q", got, tt.control)
			}
		})
	}
}

// D20: an answer that was under way when a token was revoked is for those who wait for it. Later callers neither get nor
// remember it.
func TestD20RevokeWhileAsking(t *testing.T) {
	for name, revoke := range map[string]func(*introspect.Resolver){
		"Revoke":    func(r *introspect.Resolver) { r.Revoke(token) },
		"Purge all": func(r *introspect.Resolver) { r.Purge(nil) },
		"Purge":     func(r *introspect.Resolver) { r.Purge(func(*dpop.Token) bool { return false }) }, // nobody knows yet which it is
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := says(active())
				release := make(chan struct{})
				s.set(func(w http.ResponseWriter, r *http.Request) { <-release; text(active().String())(w, r) })
				r := newResolver(t, config(s, caching(time.Minute)))
				go wantVerdict(t, r, token, accepted)
				synctest.Wait()
				s.set(text(inactive.String()))
				revoke(r)
				wantVerdict(t, r, token, string(dpop.ErrTokenInvalid))
				close(release)
				synctest.Wait()
				wantCached(t, r, token, false)
				wantVerdict(t, r, token, string(dpop.ErrTokenInvalid))
			})
		})
	}
}

// Purge forgets those that match: a session that was logged out.
func TestPurge(t *testing.T) {
	s := says(active())
	s.set(func(w http.ResponseWriter, r *http.Request) {
		text(active().with(members{"sid": r.PostForm.Get("token")[:3]}).String())(w, r)
	})
	r := newResolver(t, config(s, caching(time.Minute)))
	for _, token := range []string{"one-a", "one-b", "two-a"} {
		wantVerdict(t, r, token, accepted)
	}
	r.Purge(func(token *dpop.Token) bool {
		var claims struct{ SID string }
		return token.Claims(&claims) == nil && claims.SID == "one"
	})
	for token, want := range map[string]bool{"one-a": false, "one-b": false, "two-a": true} {
		wantCached(t, r, token, want)
	}
	r.Purge(nil)
	wantCached(t, r, "two-a", false)
}

// A thousand requests with one new token make one call: with the cache, without it as far as they overlap, and for a token
// that is refused.
func TestOneCall(t *testing.T) {
	calls := func(t *testing.T, r func(*server) dpop.TokenResolver, answer fmt.Stringer, latency time.Duration, want string) (n int) {
		synctest.Test(t, func(t *testing.T) {
			s := says(answer)
			s.latency = latency
			resolver := r(s)
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() { wantVerdict(t, resolver, token, want) })
			}
			wg.Wait()
			n = s.count()
		})
		return n
	}
	ours := func(changes ...func(*introspect.Config)) func(*server) dpop.TokenResolver {
		return func(s *server) dpop.TokenResolver { return newResolver(t, config(s, changes...)) }
	}
	noNegative := func(c *introspect.Config) { c.NoNegativeCache = true }
	for name, tt := range map[string]struct {
		resolver func(*server) dpop.TokenResolver
		answer   members
		latency  time.Duration // 0: requests need not overlap
		want     string
	}{
		"with the cache":               {ours(caching(time.Minute)), active(), time.Second, accepted},
		"with the cache, no latency":   {ours(caching(time.Minute)), active(), 0, accepted},
		"without, those that overlap":  {ours(), active(), time.Second, accepted},
		"refused, no latency":          {ours(), inactive, 0, string(dpop.ErrTokenInvalid)},
		"refused, those that overlap":  {ours(noNegative), inactive, time.Second, string(dpop.ErrTokenInvalid)},
		"refused, with both caches on": {ours(caching(time.Minute)), inactive, time.Second, string(dpop.ErrTokenInvalid)},
	} {
		t.Run(name, func(t *testing.T) {
			if n := calls(t, tt.resolver, tt.answer, tt.latency, tt.want); n != 1 {
				t.Errorf("%d calls for 1,000 requests with one new token, want 1", n)
			}
		})
	}
	t.Run("the control", func(t *testing.T) {
		// Without a cache nor overlap, each request asks.
		s := says(active())
		r := newResolver(t, config(s))
		for range 10 {
			wantVerdict(t, r, token, accepted)
		}
		require.Equal(t, 10, s.count())
	})
}

// D22: a token that was refused is refused for NegativeTTL without asking again, and no longer.
func TestD22NegativeTTL(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*introspect.Config)
		answer members
		ttl    time.Duration
	}{
		"D22 5 s by default":        {func(*introspect.Config) {}, inactive, 5 * time.Second},
		"D22 as long as configured": {func(c *introspect.Config) { c.NegativeTTL = time.Minute }, inactive, time.Minute},
		"D22 also of other reasons": {func(*introspect.Config) {}, active().with(members{"aud": "x"}), 5 * time.Second},
		"D22 beside a long cache":   {caching(5 * time.Minute), inactive, 5 * time.Second},
		"NoNegativeCache":           {func(c *introspect.Config) { c.NoNegativeCache = true }, inactive, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := says(tt.answer)
				r := newResolver(t, config(s, tt.change))
				before := verdict(t, r, token)
				s.set(text(active().String())) // what it says now
				if tt.ttl > 0 {
					time.Sleep(tt.ttl - 1)
					wantVerdict(t, r, token, before)
					wantCached(t, r, token, false)
					if s.count() != 1 {
						t.Errorf("D22: %d calls, want 1", s.count())
					}
					time.Sleep(time.Nanosecond)
				}
				wantVerdict(t, r, token, accepted)
			})
		})
	}
}

// D22: what a failure of the server's says of a token is nothing, and is not remembered.
func TestFailuresAreNotRemembered(t *testing.T) {
	s := says(active())
	r := newResolver(t, config(s, caching(time.Minute)))
	for _, answer := range []http.HandlerFunc{status(500), status(401), text("<html>"), text("")} {
		s.set(answer)
		wantVerdict(t, r, token, unavailable)
	}
	s.set(text(active().String()))
	wantVerdict(t, r, token, accepted)
}

// D22: made-up tokens cannot drive out what is known of good ones, nor fill the memory.
func TestD22MadeUpTokensDriveNothingOut(t *testing.T) {
	const entries = 10
	s := says(active())
	r := newResolver(t, config(s, caching(time.Minute), func(c *introspect.Config) { c.CacheEntries = entries }))
	wantVerdict(t, r, token, accepted)
	s.set(text(inactive.String()))
	var refused []string
	for range 1000 {
		refused = append(refused, rand.Text())
		wantVerdict(t, r, refused[len(refused)-1], string(dpop.ErrTokenInvalid))
	}
	wantCached(t, r, token, true)
	if s.count() != 1001 {
		t.Errorf("%d calls, want one for each token", s.count())
	}
	for _, token := range refused[len(refused)-500:] {
		wantVerdict(t, r, token, string(dpop.ErrTokenInvalid))
	}
	if known := 1501 - s.count(); known > entries {
		t.Errorf("D22: %d refused tokens are remembered, want %d at most", known, entries)
	}
	s.set(text(active().String()))
	for range 1000 {
		wantVerdict(t, r, rand.Text(), accepted)
	}
	wantCached(t, r, token, false) // the control: good ones do
}

// D22: of a thousand tokens at once, MaxCalls are asked about at the same time. The others wait, and those that come
// to it within Timeout are answered.
func TestD22MaxCalls(t *testing.T) {
	const tokens = 1000
	flood := func(t *testing.T, r func(*server) dpop.TokenResolver, latency time.Duration) (most, answered int) {
		synctest.Test(t, func(t *testing.T) {
			s := says(inactive)
			s.latency = latency
			resolver := r(s)
			var wg sync.WaitGroup
			var mu sync.Mutex
			start := time.Now()
			for range tokens {
				wg.Go(func() {
					got := verdict(t, resolver, rand.Text())
					mu.Lock()
					defer mu.Unlock()
					if got == string(dpop.ErrTokenInvalid) {
						answered++
					}
				})
			}
			wg.Wait()
			if took := time.Since(start); took > 2*introspect.DefaultTimeout {
				t.Errorf("D22: the last one waited for %v", took)
			}
			most = s.most
		})
		return most, answered
	}
	limited := func(s *server) dpop.TokenResolver {
		return newResolver(t, config(s, func(c *introspect.Config) { c.MaxCalls = 8 }))
	}
	if most, answered := flood(t, limited, time.Millisecond); most != 8 || answered != tokens {
		t.Errorf("D22: %d calls at once, %d tokens answered: want 8 and %d", most, answered, tokens)
	}
	// In 5 s, 8 calls of 1 s each at once are 40. No call is let in that would end too late.
	if most, answered := flood(t, limited, time.Second); most != 8 || answered < 32 || answered > 40 {
		t.Errorf("D22: %d calls at once, %d tokens answered: want 8 and up to 40", most, answered)
	}
	byDefault := func(s *server) dpop.TokenResolver { return newResolver(t, config(s)) }
	if most, _ := flood(t, byDefault, time.Second); most != introspect.DefaultMaxCalls {
		t.Errorf("D22: %d calls at once by default, want %d", most, introspect.DefaultMaxCalls)
	}
	naive := func(s *server) dpop.TokenResolver { return newNaive(t, s, time.Minute) }
	if most, _ := flood(t, naive, time.Second); most != tokens {
		t.Errorf("the control: %d calls at once without a limit, want %d", most, tokens)
	}
}

// D22: callers that hang up at once leave no more than so many tokens behind, and the rest is told at once.
func TestD22CallersWhoLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(active())
		s.set(hang)
		r := newResolver(t, config(s, func(c *introspect.Config) { c.MaxCalls = 1 }))
		gone, hangUp := context.WithCancel(t.Context())
		hangUp()
		for round := range 2 { // the second shows that the first has left nothing
			for range 5000 {
				if _, err := r.ResolveToken(gone, rand.Text()); err == nil {
					t.Error("a token was accepted")
				}
			}
			synctest.Wait()
			if left := goroutines(looking); left != 1025 {
				t.Errorf("D22: round %d: %d tokens are looked into, want one, and 1,024 that wait", round, left)
			}
			start := time.Now()
			_, err := r.ResolveToken(t.Context(), token)
			if err == nil || !strings.Contains(err.Error(), "1024 tokens wait already") || time.Since(start) > 0 {
				t.Errorf("after %v the error is %v, want one at once", time.Since(start), err)
			}
			time.Sleep(introspect.DefaultTimeout)
			synctest.Wait()
			if left := goroutines(looking); left != 0 {
				t.Errorf("D22: round %d: %d goroutines are left", round, left)
			}
		}
		s.set(text(active().String()))
		wantVerdict(t, r, token, accepted)
	})
}

// goroutines returns how many goroutines are in this function.
func goroutines(function string) int {
	buf := make([]byte, 64<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), function+"(")
}

// A caller who leaves ends nobody's call but his own waiting, and his context's error is not the others'.
func TestCallersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(active())
		s.latency = time.Second
		r := newResolver(t, config(s, caching(time.Minute)))
		first, leave := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer leave()
		done := make(chan error)
		go func() { _, err := r.ResolveToken(first, token); done <- err }()
		synctest.Wait()
		go wantVerdict(t, r, token, accepted)
		err := <-done
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, dpop.ErrTokenInvalid) {
			t.Errorf("who left got the error %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		wantCached(t, r, token, true)
		if s.count() != 1 {
			t.Errorf("%d calls, want 1", s.count())
		}
	})
}

// Timeout ends a call, and waiting for one: whoever waits is told in time, whatever the server does.
func TestTimeout(t *testing.T) {
	for name, tt := range map[string]struct {
		timeout, want time.Duration
	}{
		"by default": {0, introspect.DefaultTimeout}, "as configured": {time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := says(active())
				s.set(hang)
				r := newResolver(t, config(s, func(c *introspect.Config) { c.Timeout, c.MaxCalls = tt.timeout, 1 }))
				start := time.Now()
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() { wantVerdict(t, r, rand.Text(), unavailable) })
				}
				wg.Wait()
				if took := time.Since(start); took != tt.want {
					t.Errorf("it took %v, want %v", took, tt.want)
				}
				s.set(text(active().String()))
				wantVerdict(t, r, token, accepted) // the slot is free again
			})
		})
	}
}

// What the user's code does in the goroutine of a call does not end the process, leaves nobody waiting, and gives its slot
// back. A panic's value may hold a secret, and is not told.
func TestUserCodeThatPanics(t *testing.T) {
	for name, tt := range map[string]struct {
		user func()
		want string
	}{
		"a panic":         {func() { panic("it holds " + secret) }, "panicked with a value of type string"},
		"an error":        {func() { panic(errors.New(secret)) }, "panicked with a value of type *errors.errorString"},
		"nil dereference": {func() { var u *url.URL; _ = u.Host }, "nil pointer dereference"},
		"panic(nil)":      {func() { panic(nil) }, "panic called with nil argument"},
		"Goexit":          {runtime.Goexit, "has ended its goroutine"},
	} {
		t.Run(name, func(t *testing.T) {
			s := says(active())
			broken := true
			r := newResolver(t, config(s, caching(time.Minute), func(c *introspect.Config) {
				c.MaxCalls = 1
				c.Authenticate = func(*http.Request, url.Values) error {
					if broken {
						tt.user()
					}
					return nil
				}
			}))
			for range 3 {
				got, err := r.ResolveToken(t.Context(), token)
				if verdictOf(t, got, err) != unavailable || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret) {
					t.Errorf("the error is %v, want one that says %q and no secret", err, tt.want)
				}
			}
			broken = false
			wantVerdict(t, r, token, accepted)
		})
	}
	t.Run("in the transport", func(t *testing.T) {
		s := says(active())
		s.set(func(http.ResponseWriter, *http.Request) { panic(secret) })
		wantVerdict(t, newResolver(t, config(s)), token, unavailable)
	})
}

// Any number of goroutines may use a Resolver while answers change (for the race detector).
func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(active())
		s.latency = 10 * time.Millisecond
		r := newResolver(t, config(s, caching(time.Second), func(c *introspect.Config) { c.CacheEntries, c.MaxCalls = 2, 2 }))
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				for m := range 50 {
					token := fmt.Sprint("token-", (n+m)%4)
					verdict(t, r, token)
					r.Cached(sum(token))
					if m%10 == 0 {
						r.Revoke(token)
						r.Purge(func(t *dpop.Token) bool { return t.Subject == "alice" })
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		for n := range 5 {
			s.set(text([]members{active(), inactive}[n%2].String()))
			time.Sleep(time.Second)
		}
		wg.Wait()
	})
}

func TestCachedAllocatesNothing(t *testing.T) {
	r := newResolver(t, config(says(active()), caching(time.Minute)))
	wantVerdict(t, r, token, accepted)
	key := sum(token)
	require.Zero(t, testing.AllocsPerRun(100, func() { r.Cached(key) }))
}
