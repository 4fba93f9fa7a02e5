package atjwt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/internal/issuer"
)

const (
	fetchTimeout = 5 * time.Second // of one fetch, metadata included
	maxWaiting   = 256             // requests that wait for one fetch
	maxPatience  = 5 * time.Second // how long a request waits for a fetch that may not begin yet
)

// A keyring keeps the keys of one issuer fresh. One goroutine, run, makes all fetches, one after the other; requests read
// what it found without a lock. Only a request with a key that is not known takes mu, and may ask for an early fetch.
type keyring struct {
	cfg     *Config
	reader  *issuer.Reader
	current atomic.Pointer[keySet] // nil until a fetch has succeeded; the last good set ever after
	asked   chan struct{}          // holds a value if an early fetch is wanted

	mu        sync.Mutex
	done      chan struct{} // closed when the fetch that is under way, or else the next one, has ended
	fetching  bool
	ended     bool      // no fetch will come any more
	permitted time.Time // when the next fetch may begin; at first, at once
	failure   error     // why the last fetch failed, or nil
	patient   bool      // whether waiting until permitted may be worth it
	waiting   int       // requests that wait for done

	jwksURI string // run's own
}

func newKeyring(cfg *Config) *keyring {
	return &keyring{
		cfg:    cfg,
		reader: issuer.NewReader(cfg.HTTPClient, cfg.InsecureHTTP),
		asked:  make(chan struct{}, 1),
		done:   make(chan struct{}),
	}
}

// await decides what a request gets whose key is not in set. It returns a channel that is closed when it makes sense to
// look again, after which the caller calls leave; or what to answer at once. waits is how often the request has waited.
//
// A key that is not in the set may be new, and anyone can send tokens with key identifiers made up. So:
//
//   - If a fetch is under way or may begin, the request waits for it.
//   - If not, the set is younger than MinRefreshInterval, and counts as what the issuer publishes: a key that is not in
//     it is not the issuer's. Only while waiting may help does the request wait for the next fetch even so. Once a fetch
//     that was asked for has brought nothing new, it cannot, and a flood is answered at once.
//   - If maxWaiting requests wait already, more would only pile up, and the set decides.
//
// The answer of the set is 401 and not 503: else anyone could make a healthy server answer 503, and have it taken out
// of service for that. The price is that during a flood a new key may be refused for as long as MinRefreshInterval; no
// longer, since the flood itself asks for the fetch. Where there is no set, or the last fetch failed, nothing can be said
// about the token: that is a 503, and at once, since waiting does not mend an issuer.
func (k *keyring) await(set *keySet, kid string, waits int) (<-chan struct{}, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		return nil, k.unavailable(errEnded)
	}
	if k.current.Load() != set { // replaced since the caller looked
		k.waiting++
		return closed, nil
	}
	if waits == 0 {
		k.ask()
	}
	soon := k.fetching || !time.Now().Before(k.permitted)
	switch {
	case k.failure != nil && (waits > 0 || !soon):
		return nil, k.unavailable(k.failure)
	case set != nil && (waits >= 2 || !soon && !k.patient || k.waiting >= maxWaiting):
		return nil, refuse(dpop.ErrTokenSignature, "the issuer has no key %s", quote(kid))
	case k.waiting >= maxWaiting:
		return nil, k.unavailable(errCrowded)
	}
	k.ask()
	k.waiting++
	return k.done, nil
}

// ask asks run for a fetch as soon as one is permitted.
func (k *keyring) ask() {
	select {
	case k.asked <- struct{}{}:
	default:
	}
}

var (
	errEnded   = errors.New("the context that NewResolver was given has ended")
	errCrowded = fmt.Errorf("%d requests wait for them already", maxWaiting)

	closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()
)

func (k *keyring) leave() {
	k.mu.Lock()
	k.waiting--
	k.mu.Unlock()
}

// unavailable returns an error that says that the keys are not there, and so nothing about the token.
func (k *keyring) unavailable(cause error) error {
	return fmt.Errorf("atjwt: the keys of %q are not available: %w", k.cfg.Issuer, cause)
}

// run fetches the keys: at once, every RefreshInterval, sooner after a failure or when asked, and never sooner than
// MinRefreshInterval after the last time. It returns when ctx ends.
func (k *keyring) run(ctx context.Context) {
	defer k.end()
	failures, scheduled := 0, true
	for ctx.Err() == nil {
		start := time.Now()
		k.begin(start.Add(k.cfg.MinRefreshInterval))
		set, err := k.fetch(ctx, scheduled)
		if ctx.Err() != nil {
			return // which is why it failed, if it did
		}
		if err != nil {
			failures++
			k.cfg.Logger.WarnContext(ctx, "atjwt: fetching keys failed; the last good ones, if any, stay in use",
				"issuer", k.cfg.Issuer, "error", err, "failures", failures)
		} else {
			failures = 0
		}
		k.finish(ctx, set, err, scheduled)

		next := start.Add(k.delay(failures))
		if !sleep(ctx, k.permitted, nil) {
			return
		}
		scheduled = sleep(ctx, next, k.asked)
	}
}

// delay returns the time from one fetch to the next that no one asks for: after failures, twice as long each time. A
// little of it is left to chance, so that many servers do not ask one issuer all at once.
func (k *keyring) delay(failures int) time.Duration {
	d := k.cfg.RefreshInterval
	if failures > 0 {
		d = k.cfg.MinRefreshInterval
		for ; failures > 1 && d < k.cfg.RefreshInterval; failures-- {
			d *= 2
		}
		d = min(d, k.cfg.RefreshInterval)
	}
	return d - rand.N(d/10+1)
}

// sleep waits until t, and reports whether that came before the end of ctx and a value from woken.
func sleep(ctx context.Context, t time.Time, woken <-chan struct{}) bool {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-woken:
	case <-ctx.Done():
	}
	return false
}

func (k *keyring) begin(permitted time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fetching, k.permitted = true, permitted
}

// finish puts a new set in place, if there is one, and wakes those who wait. Those for whom it was not enough ask again.
func (k *keyring) finish(ctx context.Context, set *keySet, err error, scheduled bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fetching, k.failure = false, err
	if err == nil {
		changed := k.install(ctx, set)
		k.patient = (scheduled || changed) && k.cfg.MinRefreshInterval <= maxPatience
	}
	select {
	case <-k.asked:
	default:
	}
	close(k.done)
	k.done = make(chan struct{})
}

// install makes set the current one, and reports whether it is another one than before. The tokens verified so far stay
// verified if all keys of old are in it. If one is gone or is used otherwise, all are forgotten, and not only those it
// has verified: that is rare, and verifying a token once more is cheap. A verification that is under way with old
// then ends up in old's cache, which no one reads any more.
func (k *keyring) install(ctx context.Context, set *keySet) (changed bool) {
	old := k.current.Load()
	if old != nil && set.contains(old) {
		set.verified = old.verified
	} else {
		set.verified = newCache(k.cfg)
	}
	k.current.Store(set)
	if changed = old == nil || !set.contains(old) || !old.contains(set); changed {
		k.cfg.Logger.InfoContext(ctx, "atjwt: the issuer's keys have changed",
			"issuer", k.cfg.Issuer, "kids", set.names(), "skipped", set.skipped)
	}
	return changed
}

func (k *keyring) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	close(k.done)
}

// fetch returns the keys that the issuer publishes now. Metadata are read again on each scheduled fetch, so that a
// jwks_uri that moves is followed, and after a failure; a fetch that a request waits for goes to the keys directly.
func (k *keyring) fetch(ctx context.Context, scheduled bool) (set *keySet, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			k.jwksURI = ""
		}
	}()
	if k.cfg.JWKSURI != "" {
		k.jwksURI = k.cfg.JWKSURI
	} else if scheduled || k.jwksURI == "" {
		if k.jwksURI, err = k.reader.Discover(ctx, k.cfg.Issuer, "jwks_uri"); err != nil {
			return nil, err
		}
	}
	body, err := k.reader.Get(ctx, k.jwksURI)
	if err != nil {
		return nil, err
	}
	return parseKeySet(body, k.cfg.Algorithms)
}
