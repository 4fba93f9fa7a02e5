//go:build integration

package integration

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/replay/memstore"
)

const (
	refreshInterval    = 2 * time.Second
	minRefreshInterval = 500 * time.Millisecond

	// aFetch is what one fetch may take here, on a machine that has much else to do.
	aFetch = 2 * time.Second

	patience = 20 * time.Second // for what has no deadline of its own
)

// A key of the issuer's is believed as soon as tokens are signed with it, and for as long as it is published, and one
// RefreshInterval at most after that. No one restarts anything.
func TestKeycloakRotatesItsKeys(t *testing.T) {
	w := setUp(t)
	for _, test := range []struct {
		alg, client string
		withdraw    func(*keycloak, realmKey) error
	}{
		{"RS256", "orders-service", func(k *keycloak, old realmKey) error { return k.turnOff(old, "enabled") }},
		{"ES256", "reports-service", (*keycloak).deleteKey},
	} {
		t.Run(test.alg, func(t *testing.T) {
			// Only requests make this one fetch keys after the first time, and only time makes the other one.
			onDemand, onSchedule := newGuard(t, w, time.Hour, nil), newGuard(t, w, refreshInterval, nil)
			key := dpoptest.NewKey()
			issue := func() string {
				g, err := w.keycloak.clientCredentials(rotating, test.client, key)
				require.NoError(t, err)
				return g.AccessToken
			}
			cached, stillGood, unseen := issue(), issue(), issue()
			old, err := w.keycloak.realmKey(kidOf(t, cached))
			require.NoError(t, err)
			require.Equal(t, test.alg, old.Algorithm)
			for _, g := range []*guard{onDemand, onSchedule} {
				require.Empty(t, g.verify(cached, key), "the control: before the rotation")
			}

			require.NoError(t, w.keycloak.addKeyBefore(old))
			fresh := issue()
			require.NotEqual(t, old.Kid, kidOf(t, fresh), "Keycloak goes on to sign with its old key")
			start := time.Now()
			if reason := onDemand.verify(fresh, key); reason != "" {
				t.Errorf("a token by the issuer's new key is refused: %s", reason)
			}
			if took := time.Since(start); took > minRefreshInterval+aFetch {
				t.Errorf("a new key was unknown for %v, which is more than MinRefreshInterval and a fetch", took)
			} else {
				t.Logf("the new key was known after %v", took)
			}

			// Keycloak no longer signs with it, which is no reason not to believe what it has signed.
			require.NoError(t, w.keycloak.turnOff(old, "active"))
			require.True(t, w.keycloak.publishes(t, old.Kid), "Keycloak withdraws a key that is not active")
			onDemand.refresh(t, fresh, key)
			if reason := onDemand.verify(stillGood, key); reason != "" {
				t.Errorf("a token by a key that is still published is refused: %s", reason)
			}

			require.Empty(t, onSchedule.verify(fresh, key))
			require.Empty(t, onSchedule.verify(cached, key), "the control: before the key is withdrawn")
			if !onSchedule.caches(cached) {
				t.Error("the control: a token that was accepted is not in the cache")
			}
			require.NoError(t, test.withdraw(w.keycloak, old))
			require.False(t, w.keycloak.publishes(t, old.Kid), "Keycloak still publishes the key")
			withdrawn := time.Now()
			believed, reason := onSchedule.untilRefused(t, cached, key)
			if after := believed.Sub(withdrawn); after > refreshInterval+aFetch {
				t.Errorf("a cached token by a key that was withdrawn is believed after %v, which is more than RefreshInterval and a fetch", after)
			} else {
				t.Logf("the old key was believed for %v after it was withdrawn", after)
			}
			if reason != dpop.ErrTokenSignature {
				t.Errorf("the token by a key that was withdrawn is refused for %s, not for %s", reason, dpop.ErrTokenSignature)
			}
			if onSchedule.caches(cached) {
				t.Error("a token by a key that was withdrawn is still in the cache")
			}
			if reason := onSchedule.verify(unseen, key); reason != dpop.ErrTokenSignature {
				t.Errorf("the reason for another token by that key is %q, not %s", reason, dpop.ErrTokenSignature)
			}
			if reason := onSchedule.verify(issue(), key); reason != "" {
				t.Errorf("a token by the new key is refused: %s", reason)
			}
		})
	}
}

// D17: 10,000 requests with key identifiers made up cause one fetch per MinRefreshInterval at most. They cost the tokens
// by known keys nothing, and put off no rotation.
func TestFloodOfKeyIdentifiers(t *testing.T) {
	const requests, attackers = 10_000, 16
	w := setUp(t)
	// All fetches after the first are those that the flood asks for. Without a cache, a known key must be found each time.
	g := newGuard(t, w, time.Hour, func(cfg *atjwt.Config) { cfg.NoCache = true })
	known, key := w.bound(t, rotating, "orders-service")
	require.Empty(t, g.verify(known, key))
	old, err := w.keycloak.realmKey(kidOf(t, known))
	require.NoError(t, err)

	var flood, meanwhile, early tally
	var attack sync.WaitGroup
	defer attack.Wait()
	over := make(chan struct{})
	end := sync.OnceFunc(func() { close(over) })
	defer end()
	loop := func(step func()) {
		attack.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					step()
				}
			}
		})
	}
	before, start := g.fetches.Load(), time.Now()
	for range attackers {
		loop(func() { flood.add(g.verify(withKid(known, rand.Text()), key)) })
	}
	loop(func() {
		meanwhile.add(g.verify(known, key))
		time.Sleep(10 * time.Millisecond) // which leaves the processor to the flood
	})

	require.Eventually(t, func() bool { return flood.total() > requests/10 }, patience, time.Millisecond, "the flood does not come")
	require.NoError(t, w.keycloak.addKeyBefore(old))
	rotated := time.Now()
	fresh, freshKey := w.bound(t, rotating, "orders-service")
	require.NotEqual(t, old.Kid, kidOf(t, fresh), "Keycloak goes on to sign with its old key")
	require.Eventually(t, func() bool {
		reason := g.verify(fresh, freshKey)
		if reason != "" {
			early.add(reason)
		}
		return reason == ""
	}, patience, 10*time.Millisecond, "D17: in a flood, a token by the issuer's new key is refused")
	noticed := time.Since(rotated)
	if noticed > minRefreshInterval+aFetch {
		t.Errorf("D17: in a flood, a new key was unknown for %v, which is more than MinRefreshInterval and a fetch", noticed)
	}

	// A flood that asks for no fetch would show nothing.
	require.Eventually(t, func() bool { return flood.total() >= requests && g.fetches.Load()-before >= 3 },
		patience, 10*time.Millisecond, "the control: the flood is too small, or causes no fetches")
	end()
	attack.Wait()
	fetches := g.fetches.Load() - before
	lasted := time.Since(start) // read after the count, so that no fetch is counted that began later
	t.Logf("%d requests in %v, %d fetches; the new key was known after %v", flood.total(), lasted, fetches, noticed)
	if most := int64(lasted/minRefreshInterval) + 1; fetches > most {
		t.Errorf("D17: %d requests with key identifiers made up in %v cause %d fetches of the keys, more than %d: one per MinRefreshInterval",
			flood.total(), lasted, fetches, most)
	}
	if !flood.only(dpop.ErrTokenSignature) {
		t.Errorf("D17: the flood is answered %s; all of it should be refused for %s", &flood, dpop.ErrTokenSignature)
	}
	if early.total() > 0 && !early.only(dpop.ErrTokenSignature) {
		t.Errorf("D17: until its key is known, a token is answered %s; it should be refused for %s", &early, dpop.ErrTokenSignature)
	}
	if !meanwhile.only("") {
		t.Errorf("D17: in a flood, a token by a known key is answered %s; it should always be accepted", &meanwhile)
	}
}

// A guard is a Verifier in the test's own process: the resource server has no flags for how often keys are fetched, and
// does not count how often they are.
type guard struct {
	verifier *dpop.Verifier
	resolver *atjwt.Resolver
	fetches  atomic.Int64 // of the keys: requests that went out to Keycloak
	fetched  atomic.Int64 // those of them that were answered
}

// newGuard returns a guard of the orders API for tokens of the realm whose keys change.
func newGuard(t *testing.T, w *world, refresh time.Duration, change func(*atjwt.Config)) *guard {
	t.Helper()
	var g guard
	cfg := atjwt.Keycloak(w.keycloak.issuer(rotating), audience)
	cfg.RefreshInterval, cfg.MinRefreshInterval = refresh, minRefreshInterval
	cfg.HTTPClient = &http.Client{Transport: counting(func(req *http.Request) (*http.Response, error) {
		if req.URL.String() != w.keycloak.jwksURI(rotating) {
			return http.DefaultTransport.RoundTrip(req)
		}
		g.fetches.Add(1)
		defer g.fetched.Add(1)
		return http.DefaultTransport.RoundTrip(req)
	})}
	if change != nil {
		change(&cfg)
	}
	var err error
	g.resolver, err = atjwt.NewResolver(t.Context(), cfg)
	require.NoError(t, err)
	store, err := memstore.New(memstore.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { store.Close() })
	g.verifier, err = dpop.NewVerifier(dpop.Config{Resolver: g.resolver, Replay: store})
	require.NoError(t, err)
	return &g
}

type counting func(*http.Request) (*http.Response, error)

func (f counting) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// verify judges a request with a token and a proof that is right for it. It returns why the request is refused, or "".
func (g *guard) verify(token string, key *dpopclient.Key) dpop.Reason {
	const method, uri = "GET", "https://orders.example.com/orders"
	ctx, cancel := context.WithTimeout(context.Background(), patience/2)
	defer cancel()
	_, err := g.verifier.Verify(ctx, dpop.Request{
		Method: method, URI: uri,
		Authorization: []string{"DPoP " + token},
		DPoP:          []string{dpoptest.Proof(key, dpopclient.Claims{Method: method, URI: uri, AccessToken: token})},
	})
	if err == nil {
		return ""
	}
	if refusal := (*dpop.Error)(nil); errors.As(err, &refusal) {
		return refusal.Reason
	}
	return "an error without a reason"
}

// caches reports whether a token is in the cache of verified tokens.
func (g *guard) caches(token string) bool {
	_, ok := g.resolver.Cached(sha256.Sum256([]byte(token)))
	return ok
}

// refresh makes g fetch the keys once more, as anyone can with a key identifier made up.
func (g *guard) refresh(t *testing.T, token string, key *dpopclient.Key) {
	t.Helper()
	before := g.fetches.Load()
	require.Eventually(t, func() bool {
		g.verify(withKid(token, rand.Text()), key)
		return g.fetched.Load() > before
	}, patience, 10*time.Millisecond, "no request makes the guard fetch keys")
}

// untilRefused sends requests with a token until one is refused. It returns the time until which they were accepted, and
// why that one was not. A refusal may come later than its reason: a request whose key is gone waits for a new set of keys.
func (g *guard) untilRefused(t *testing.T, token string, key *dpopclient.Key) (accepted time.Time, reason dpop.Reason) {
	t.Helper()
	accepted = time.Now()
	require.Eventually(t, func() bool {
		now := time.Now()
		if reason = g.verify(token, key); reason == "" {
			accepted = now
		}
		return reason != ""
	}, patience, 10*time.Millisecond, "a cached token by a key that was withdrawn is never refused")
	return accepted, reason
}

// A tally counts answers.
type tally struct {
	mu     sync.Mutex
	counts map[dpop.Reason]int
}

func (y *tally) add(reason dpop.Reason) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.counts == nil {
		y.counts = map[dpop.Reason]int{}
	}
	y.counts[reason]++
}

func (y *tally) total() (n int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, count := range y.counts {
		n += count
	}
	return n
}

// only reports whether there were answers, and this was all of them.
func (y *tally) only(reason dpop.Reason) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	return len(y.counts) == 1 && y.counts[reason] > 0
}

func (y *tally) String() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	var list []string
	for _, reason := range slices.Sorted(maps.Keys(y.counts)) {
		list = append(list, fmt.Sprintf("%q %d times", reason, y.counts[reason]))
	}
	return strings.Join(list, ", ")
}

// A realmKey is a key that the realm "rotating" has, as the admin API tells of it.
type realmKey struct {
	Kid       string
	Algorithm string
	Provider  string `json:"providerId"` // the component that holds it
	Priority  int    `json:"providerPriority"`
}

func (k *keycloak) realmKey(kid string) (realmKey, error) {
	var answer struct{ Keys []realmKey }
	if err := k.admin("GET", rotating, "/keys", nil, &answer); err != nil {
		return realmKey{}, err
	}
	for _, key := range answer.Keys {
		if key.Kid == kid {
			return key, nil
		}
	}
	return realmKey{}, fmt.Errorf("the realm has no key %s", kid)
}

// addKeyBefore makes Keycloak sign with a new key instead of old.
func (k *keycloak) addKeyBefore(old realmKey) error {
	generator := map[string]string{"RS256": "rsa-generated", "ES256": "ecdsa-generated"}[old.Algorithm]
	config := map[string][]string{"priority": {strconv.Itoa(old.Priority + 100)}, "enabled": {"true"}, "active": {"true"}}
	switch old.Algorithm {
	case "RS256":
		config["algorithm"], config["keySize"] = []string{"RS256"}, []string{"2048"}
	case "ES256":
		config["ecdsaEllipticCurveKey"] = []string{"P-256"}
	}
	return k.admin("POST", rotating, "/components", map[string]any{
		"name": "instead of " + old.Kid, "providerType": "org.keycloak.keys.KeyProvider", "providerId": generator, "config": config,
	}, nil)
}

// turnOff sets a switch of a key to false: what is not active signs no more, and what is not enabled is not published.
func (k *keycloak) turnOff(key realmKey, name string) error {
	component := map[string]any{}
	if err := k.admin("GET", rotating, "/components/"+key.Provider, nil, &component); err != nil {
		return err
	}
	config, ok := component["config"].(map[string]any)
	if !ok {
		return fmt.Errorf("the key %s has no config", key.Kid)
	}
	config[name] = []string{"false"}
	return k.admin("PUT", rotating, "/components/"+key.Provider, component, nil)
}

func (k *keycloak) deleteKey(key realmKey) error {
	return k.admin("DELETE", rotating, "/components/"+key.Provider, nil, nil)
}

func (k *keycloak) jwksURI(realm string) string {
	return k.issuer(realm) + "/protocol/openid-connect/certs"
}

// publishes reports whether a key is among those that the realm publishes.
func (k *keycloak) publishes(t *testing.T, kid string) bool {
	t.Helper()
	resp, err := client.Get(k.jwksURI(rotating))
	require.NoError(t, err)
	defer resp.Body.Close()
	var set struct{ Keys []realmKey }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&set))
	return slices.ContainsFunc(set.Keys, func(key realmKey) bool { return key.Kid == kid })
}

// kidOf returns the identifier of the key that signed a token.
func kidOf(t *testing.T, token string) string {
	t.Helper()
	header, _ := decode(t, token)
	kid, _ := header["kid"].(string)
	require.NotEmpty(t, kid, "kid")
	return kid
}

// withKid returns a token that differs from another only in the key that it says has signed it, and so is a forgery.
func withKid(token, kid string) string {
	header := fmt.Sprintf(`{"alg":"RS256","typ":"JWT","kid":%q}`, kid)
	_, rest, _ := strings.Cut(token, ".")
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + rest
}
