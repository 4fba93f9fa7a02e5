//go:build integration

package integration

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/memstore"
	"github.com/senderbound/senderbound/replay/redisstore"
	"github.com/senderbound/senderbound/replay/tieredstore"
)

// A pod is what a process of an API remembers used proofs with. Several of them in this process are as good as several
// processes, which could not be told how long to wait for a server, nor what time it is.
type pod struct {
	local  *memstore.Store
	shared *redisstore.Store
	tiered *tieredstore.Store
	now    func() time.Time
}

// newPod returns a pod that ends with the test. change, if not nil, changes how its tiers work together.
func newPod(t *testing.T, cfg redisstore.Config, change func(*tieredstore.Config)) *pod {
	t.Helper()
	p := pod{now: cfg.Now}
	if p.now == nil {
		p.now = time.Now
	}
	var err error
	p.local, err = memstore.New(memstore.Config{Now: cfg.Now})
	require.NoError(t, err)
	t.Cleanup(func() { p.local.Close() })
	p.shared, err = redisstore.New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { p.shared.Close() })
	tiers := tieredstore.Config{Local: p.local, Shared: p.shared}
	if change != nil {
		change(&tiers)
	}
	p.tiered, err = tieredstore.New(tiers)
	require.NoError(t, err)
	return &p
}

// age makes the servers at cfg.Addresses ones that have remembered for an hour, so that a test need not wait until what
// was used before they were started is too old.
func age(t *testing.T, cfg redisstore.Config) {
	t.Helper()
	cfg.Now, cfg.Timeout = func() time.Time { return time.Now().Add(-time.Hour) }, patience
	for _, addr := range cfg.Addresses { // one by one: of several nodes of a Cluster, not all need be looked at
		cfg.Addresses = []string{addr}
		s, err := redisstore.New(t.Context(), cfg)
		require.NoError(t, err)
		require.NoError(t, s.Close())
	}
}

// A proof is all that a store is told of one.
type proof struct {
	key           string
	made, expires time.Time
}

// newProof returns the proof that a client makes at a time of its clock, as a Verifier with this ClockSkew and the default
// MaxAge tells it to a store.
func newProof(now time.Time, clockSkew time.Duration) proof {
	made := now.Truncate(time.Second)
	return proof{replay.Key(rand.Text(), rand.Text()), made, made.Add(dpop.DefaultMaxAge + 2*clockSkew)}
}

// An attempt is one use of a proof. reason is why it was refused, as a Verifier would have it, or "".
type attempt struct {
	proof
	at           replay.Store
	began, ended time.Time
	reason       dpop.Reason
	err          error
}

// A history has all attempts of a run. Its methods may be called by any number of goroutines.
type history struct {
	mu       sync.Mutex
	attempts []attempt
}

// use uses a proof at a store.
func (h *history) use(store replay.Store, p proof) attempt {
	a := attempt{proof: p, at: store, began: time.Now()}
	first, err := store.FirstUse(context.Background(), p.key, p.made, p.expires)
	a.ended, a.err = time.Now(), err
	var unavailable *replay.Unavailable
	switch {
	case err == nil && !first:
		a.reason = dpop.ErrProofReplayed
	case errors.As(err, &unavailable):
		a.reason = dpop.ErrReplayUnavailable
	case errors.Is(err, replay.ErrStale):
		a.reason = dpop.ErrProofStale
	case errors.Is(err, replay.ErrFull):
		a.reason = dpop.ErrReplayFull
	case err != nil:
		a.reason = "an error without a name"
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.attempts = append(h.attempts, a)
	return a
}

// that returns the attempts of which this is true, in the order in which they ended.
func (h *history) that(is func(attempt) bool) []attempt {
	h.mu.Lock()
	defer h.mu.Unlock()
	var some []attempt
	for _, a := range h.attempts {
		if is(a) {
			some = append(some, a)
		}
	}
	return some
}

// accepted returns the attempts that were.
func (h *history) accepted() []attempt {
	return h.that(func(a attempt) bool { return a.reason == "" })
}

// repeated returns how often a proof was accepted once more, by attempts that began after a time.
func (h *history) repeated(since time.Time) (n int) {
	known := map[string]bool{}
	for _, a := range h.accepted() {
		if known[a.key] && a.began.After(since) {
			n++
		}
		known[a.key] = true
	}
	return n
}

// count counts what came of attempts.
func count(attempts []attempt) *tally {
	var y tally
	for _, a := range attempts {
		y.add(a.reason)
	}
	return &y
}

// each calls f with every item, in so many goroutines, and returns when all calls have.
func each[T any](items []T, goroutines int, f func(T)) {
	next := make(chan T)
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for item := range next {
				f(item)
			}
		})
	}
	for _, item := range items {
		next <- item
	}
	close(next)
	wg.Wait()
}

// load calls request again and again, each time in a goroutine of its own, as a server does: how long one takes does not
// keep the next from coming. It ends with stop, which waits for those under way, or with the test.
func load(t *testing.T, every time.Duration, request func()) (stop func()) {
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		next := time.NewTicker(every)
		defer next.Stop()
		for {
			select {
			case <-next.C:
				wg.Go(request)
			case <-over:
				return
			}
		}
	})
	stop = sync.OnceFunc(func() {
		close(over)
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// A site is an API in this process: a Verifier behind the middleware for net/http. All sites take the same tokens, those of
// one client.
type site struct{ http.Handler }

const siteURL = "https://api.example.com/orders"

var siteKey = sync.OnceValue(dpoptest.NewKey)

// newSite returns a site that remembers used proofs with cfg.Replay.
func newSite(t *testing.T, cfg dpop.Config) site {
	t.Helper()
	cfg.Resolver = dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) {
		return &dpop.Token{Confirmation: dpop.Confirmation{JKT: siteKey().JKT()}}, nil
	})
	verifier, err := dpop.NewVerifier(cfg)
	require.NoError(t, err)
	protect, err := dpophttp.New(verifier, dpophttp.Config{Origins: []string{"https://api.example.com"}})
	require.NoError(t, err)
	return site{protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))}
}

// prove returns a new proof for a site.
func prove() string {
	return dpoptest.Proof(siteKey(), dpopclient.Claims{Method: "GET", URI: siteURL, AccessToken: "token"})
}

// heard is what a client is told: the status, and the value of Retry-After in seconds, or -1 if there is none.
type heard struct{ status, retryAfter int }

// send sends a request with a proof.
func (s site) send(t *testing.T, proof string) heard {
	t.Helper()
	req := httptest.NewRequest("GET", siteURL, nil)
	req.Header.Set("Authorization", "DPoP token")
	req.Header.Set("DPoP", proof)
	answer := httptest.NewRecorder()
	s.ServeHTTP(answer, req)
	h := heard{answer.Code, -1}
	if value := answer.Header().Get("Retry-After"); value != "" {
		var err error
		h.retryAfter, err = strconv.Atoi(value)
		require.NoError(t, err)
	}
	return h
}
