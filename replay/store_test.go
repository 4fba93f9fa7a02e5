package replay_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/storetest"
)

// The example proof of RFC 9449.
const (
	rfcJKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
	rfcJTI = "e1j3V_bKic8-LAEB"
)

// TestKeyGolden keeps keys as they are: processes of two releases share one store while the one replaces the other.
// The values were computed with another implementation.
func TestKeyGolden(t *testing.T) {
	for _, c := range []struct{ jkt, jti, want string }{
		{rfcJKT, rfcJTI, "84dsTPTWevuxucHmAh4rOvbTt9JuCk2MEoJuCRiLc3qlQ0dQ"},
		{"", "", "47DEQpj8HBSa-_TImW-5JCeubjQLnP-zepicpUTmu3gKLHiQ"},
		{strings.Repeat("a", 200), "j", "wqkI2Y9d-Yet5BtfziEwZ--8I28xAg7cFAO9YPnCdSE510Yn"},
	} {
		if got := replay.Key(c.jkt, c.jti); got != c.want {
			t.Errorf("Key(%q, %q) = %s, want %s as ever", c.jkt, c.jti, got, c.want)
		}
	}
}

func TestKeyHasOneForm(t *testing.T) {
	form := regexp.MustCompile(`^[A-Za-z0-9_-]{48}$`)
	parts := []string{"", "a", rfcJKT, "\x00", "\xff\xfe", "é", " \n\"'*", strings.Repeat("long", 10_000)}
	for _, jkt := range parts {
		for _, jti := range parts {
			if key := replay.Key(jkt, jti); !form.MatchString(key) {
				t.Errorf("Key(%.20q, %.20q) = %q, want 48 characters of base64url", jkt, jti, key)
			}
		}
	}
}

// TestKeysDoNotMeet divides the same characters differently between jkt and jti, around the lengths at which the length
// itself takes one byte more. The part after the client's is enough to tell proofs apart.
func TestKeysDoNotMeet(t *testing.T) {
	seen := map[string]string{}
	for _, whole := range []string{"abc", strings.Repeat("a", 300), strings.Repeat("\x01", 300), strings.Repeat("\x80\x01", 150)} {
		for i := range len(whole) + 1 {
			jkt, jti := whole[:i], whole[i:]
			key, pair := replay.Key(jkt, jti), fmt.Sprintf("%q", []string{jkt, jti})
			proof := key[len(replay.Client(key)):]
			if other, ok := seen[proof]; ok && other != pair {
				t.Fatalf("%s and %s have the same key but for the client part", other, pair)
			}
			seen[proof] = pair
		}
	}
}

func TestClient(t *testing.T) {
	a, b := replay.Key(rfcJKT, "a"), replay.Key(rfcJKT, "b")
	if replay.Client(a) != replay.Client(b) {
		t.Errorf("the proofs of one client have the client parts %s and %s, want one", replay.Client(a), replay.Client(b))
	}
	if replay.Client(a) == replay.Client(replay.Key("other", "a")) {
		t.Error("two clients have one client part")
	}
	if a == b {
		t.Error("two proofs of one client have one key")
	}
	if a[24:] == replay.Key("other", "a")[24:] {
		t.Error("the rest of a key depends on the jti alone: two clients could meet in a store that looks at it only")
	}
	for key, want := range map[string]string{"": "", "short": "short", strings.Repeat("x", 30): strings.Repeat("x", 24)} {
		if got := replay.Client(key); got != want {
			t.Errorf("Client(%q) = %q, want %q", key, got, want)
		}
	}
}

func TestNamespace(t *testing.T) {
	store := newMapClient().store()
	gateway, service := replay.Namespace(store, "gateway"), replay.Namespace(store, "service")
	key, expires := replay.Key(rfcJKT, rfcJTI), time.Now().Add(time.Minute)
	for name, s := range map[string]replay.Store{"gateway": gateway, "service": service, "the store itself": store} {
		requireAnswer(t, true, s, key, expires)
		if first, err := s.FirstUse(context.Background(), key, time.Now(), expires); first || err != nil {
			t.Errorf("%s: the same proof again got (%t, %v), want (false, nil)", name, first, err)
		}
	}
	if first, _ := replay.Namespace(store, "gateway").FirstUse(context.Background(), key, time.Now(), expires); first {
		t.Error("a second view of the same name is another name space")
	}
}

func TestNamespacePassesOn(t *testing.T) {
	var got call
	store := storeFunc(func(c call) (bool, error) { got = c; return true, replay.ErrFull })
	key, made := replay.Key(rfcJKT, rfcJTI), time.Now()
	first, err := replay.Namespace(store, "gateway").FirstUse(context.Background(), key, made, made.Add(time.Minute))

	if want := "84dsTPTWevuxucHmAh4rOvbThwVWm7KkmtW-oq8aH2i8GLkN"; got.key != want {
		t.Errorf("the key in name space gateway is %s, want %s as ever", got.key, want)
	}
	if len(got.key) != len(key) || replay.Client(got.key) != replay.Client(key) {
		t.Errorf("the key %s became %s: it must keep its length and its client part", key, got.key)
	}
	if !got.made.Equal(made) || !got.expires.Equal(made.Add(time.Minute)) {
		t.Errorf("made and expires became %v and %v", got.made, got.expires)
	}
	if !first || !errors.Is(err, replay.ErrFull) {
		t.Errorf("the store's answer became (%t, %v)", first, err)
	}
}

// TestNamespaceClaims: a view of a view has a window, an allowance and counters if and only if its store has them, or a
// verifier would be told wrong.
func TestNamespaceClaims(t *testing.T) {
	plain := storeFunc(func(call) (bool, error) { return true, nil })
	w, f, s := window{plain, 3 * time.Minute}, newFloor(t), statser{7}
	for name, store := range map[string]replay.Store{
		"nothing":  plain,
		"a window": w,
		"a floor": struct {
			replay.Store
			*replay.Floor
		}{plain, f},
		"counters": struct {
			replay.Store
			statser
		}{plain, s},
		"a window, a floor": struct {
			window
			*replay.Floor
		}{w, f},
		"a window, counters": struct {
			window
			statser
		}{w, s},
		"a floor, counters": struct {
			replay.Store
			*replay.Floor
			statser
		}{plain, f, s},
		"all three": struct {
			window
			*replay.Floor
			statser
		}{w, f, s},
	} {
		view := replay.Namespace(replay.Namespace(store, "a"), "b")
		if got, want := claims(view), claims(store); got != want {
			t.Errorf("a view of a store with %s claims %s, want %s", name, got, want)
		}
	}
}

// claims writes what a store says of itself.
func claims(s replay.Store) string {
	var said string
	if w, ok := s.(replay.Windower); ok {
		said += fmt.Sprintf(" window %v", w.MaxWindow())
	}
	if f, ok := s.(replay.Floorer); ok {
		if leeway, clockSkew, ok := f.Allowance(); ok {
			said += fmt.Sprintf(" allowance %v %v", leeway, clockSkew)
		}
	}
	if c, ok := s.(replay.Statser); ok {
		said += fmt.Sprintf(" stats %+v", c.Stats())
	}
	return "[" + said + " ]"
}

func TestNamespaceLaw(t *testing.T) {
	storetest.Run(t, storetest.Config{Open: func(*testing.T) []replay.Store {
		store := newMapClient().store()
		return []replay.Store{replay.Namespace(store, "a"), replay.Namespace(store, "a")}
	}})
}

func TestSetNXFuncLaw(t *testing.T) {
	storetest.Run(t, storetest.Config{Open: func(*testing.T) []replay.Store {
		client := newMapClient()
		return []replay.Store{client.store(), client.store()}
	}})
}

// TestSetNXFuncTTL: a server that forgot a fraction of a millisecond early would leave a hole.
func TestSetNXFuncTTL(t *testing.T) {
	for _, c := range []struct{ left, want time.Duration }{
		{1, time.Millisecond},
		{time.Millisecond, time.Millisecond},
		{time.Millisecond + 1, 2 * time.Millisecond},
		{81*time.Second - 1, 81 * time.Second},
		{81 * time.Second, 81 * time.Second},
		{math.MaxInt64, (math.MaxInt64 - time.Millisecond).Truncate(time.Millisecond) + time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) { // the clock stands still
			var got time.Duration
			store := replay.SetNXFunc(func(_ context.Context, _ string, ttl time.Duration) (bool, error) {
				got = ttl
				return true, nil
			})
			requireAnswer(t, true, store, "key", time.Now().Add(c.left))
			if got != c.want {
				t.Errorf("%v before expires the ttl is %v, want %v: whole milliseconds, rounded up", c.left, got, c.want)
			}
		})
	}
}

func TestSetNXFuncExpired(t *testing.T) {
	store := replay.SetNXFunc(func(context.Context, string, time.Duration) (bool, error) {
		t.Error("the client was called for a proof that has expired: a ttl of 0 means for ever to some")
		return true, nil
	})
	for _, expires := range []time.Time{time.Now(), time.Now().Add(-time.Hour), {}} {
		if first, err := store.FirstUse(context.Background(), "key", time.Now(), expires); first || err == nil {
			t.Errorf("expires %v got (%t, %v), want an error", expires, first, err)
		}
	}
}

// TestSetNXFuncLate: the server took so long that an earlier use may be forgotten.
func TestSetNXFuncLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := replay.SetNXFunc(func(context.Context, string, time.Duration) (bool, error) {
			time.Sleep(time.Minute)
			return true, nil
		})
		if first, err := store.FirstUse(t.Context(), "key", time.Now(), time.Now().Add(time.Minute)); first || err == nil {
			t.Errorf("an answer that came when expires had passed gave (%t, %v), want (false, an error)", first, err)
		}
	})
}

func TestSetNXFuncPassesOn(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	down := errors.New("down")
	store := replay.SetNXFunc(func(got context.Context, key string, _ time.Duration) (bool, error) {
		if !errors.Is(got.Err(), context.Canceled) || key != "key" {
			t.Errorf("the client got the context %v and the key %q, want those of the call", got, key)
		}
		return false, down
	})
	if _, err := store.FirstUse(ctx, "key", time.Now(), time.Now().Add(time.Minute)); !errors.Is(err, down) {
		t.Errorf("the client's error became %v", err)
	}
}

func TestUnavailable(t *testing.T) {
	down := errors.New("connection refused")
	err := fmt.Errorf("redis: %w", &replay.Unavailable{Err: down, RetryAfter: 2 * time.Second})
	var unavailable *replay.Unavailable
	if !errors.As(err, &unavailable) || unavailable.RetryAfter != 2*time.Second {
		t.Errorf("errors.As finds %+v, want the Unavailable with its RetryAfter", unavailable)
	}
	if !errors.Is(err, down) {
		t.Error("errors.Is does not find the cause")
	}
	if errors.Is(err, replay.ErrStale) || errors.Is(err, replay.ErrFull) {
		t.Error("a store that is down is taken for a stale or a full one: the client would be told to try a new proof")
	}
	if !strings.Contains(err.Error(), "unavailable: connection refused") {
		t.Errorf("the text %q does not say what happened and why", err)
	}
}

// Any client that can set a key if it does not exist makes a store in three lines.
func ExampleSetNXFunc() {
	client := newMapClient() // in place of a client of Redis, memcached or a database
	var store replay.Store = replay.SetNXFunc(func(ctx context.Context, key string, ttl time.Duration) (bool, error) {
		return client.SetNX(ctx, "dpop:"+key, "", ttl)
	})

	key := replay.Key(rfcJKT, rfcJTI)
	for range 2 {
		made := time.Now()
		first, err := store.FirstUse(context.Background(), key, made, made.Add(81*time.Second))
		fmt.Println(first, err)
	}
	// Output:
	// true <nil>
	// false <nil>
}

// mapClient is what a client of a server looks like.
type mapClient struct {
	mu   sync.Mutex
	keys map[string]time.Time
}

func newMapClient() *mapClient { return &mapClient{keys: map[string]time.Time{}} }

func (c *mapClient) SetNX(_ context.Context, key, _ string, ttl time.Duration) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.keys[key].After(now) {
		return false, nil
	}
	c.keys[key] = now.Add(ttl)
	return true, nil
}

func (c *mapClient) store() replay.Store {
	return replay.SetNXFunc(func(ctx context.Context, key string, ttl time.Duration) (bool, error) {
		return c.SetNX(ctx, key, "", ttl)
	})
}

// storeFunc is a store that shows what it was asked.
type storeFunc func(call) (bool, error)

type call struct {
	key           string
	made, expires time.Time
}

func (f storeFunc) FirstUse(_ context.Context, key string, made, expires time.Time) (bool, error) {
	return f(call{key, made, expires})
}

type window struct {
	replay.Store
	max time.Duration
}

func (w window) MaxWindow() time.Duration { return w.max }

type statser struct{ full int64 }

func (s statser) Stats() replay.Stats { return replay.Stats{Full: s.full} }

func requireAnswer(t *testing.T, want bool, store replay.Store, key string, expires time.Time) {
	t.Helper()
	first, err := store.FirstUse(context.Background(), key, time.Now(), expires)
	require.NoError(t, err)
	require.Equal(t, want, first)
}
