package dpop_test

// The Verifier with the nonces of package nonce, from a client's first request to an attacker's last.

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/dpop/nonce"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/memstore"
)

func newNonces(t testing.TB, cfg nonce.Config, secrets ...string) *nonce.Source {
	t.Helper()
	ring := make([][]byte, len(secrets))
	for i, s := range secrets {
		ring[i] = []byte(s + " and thirty-two bytes of padding for it")
	}
	source, err := nonce.New(cfg, ring...)
	require.NoError(t, err)
	return source
}

func nonced(s dpop.NonceSource) func(*dpop.Config) { return func(c *dpop.Config) { c.Nonces = s } }

// In nonce mode a proof's nonce decides, and its iat does not. What is refused changes nothing, and the client is told a nonce
// that works, once.
func TestNonceMode(t *testing.T) {
	source := newNonces(t, nonce.Config{}, "new", "old")
	bound := newNonces(t, nonce.Config{BindToKey: true}, "new")
	at := func(s *nonce.Source, d time.Duration) func(*world) any {
		return func(w *world) any { return s.Issue(w.key.JKT(), now.Add(d)) }
	}
	value := func(v any) func(*world) any { return func(*world) any { return v } }
	for name, tt := range map[string]struct {
		source *nonce.Source
		nonce  func(*world) any
		iat    time.Duration
		want   dpop.Reason
	}{
		"E01, R049, R058 none":                        {source, value(nil), 0, dpop.ErrNonceMissing},
		"E01, R057 none, made an hour ago for now":    {source, value(nil), time.Hour, dpop.ErrNonceMissing},
		"E02, R045 random":                            {source, value("dGhpcyBpcyBub3Qgb25lIG9mIG91cnMsIHN1"), 0, dpop.ErrNonceInvalid},
		"E02 empty":                                   {source, value(""), 0, dpop.ErrNonceInvalid},
		"E02 one that is over":                        {source, at(source, -90*time.Second), 0, dpop.ErrNonceInvalid},
		"E02, R057 one from before, a day":            {source, at(source, -24*time.Hour), 0, dpop.ErrNonceInvalid},
		"E02 one of the future":                       {source, at(source, 11*time.Second), 0, dpop.ErrNonceInvalid},
		"E02 another server's":                        {source, at(newNonces(t, nonce.Config{}, "other"), 0), 0, dpop.ErrNonceInvalid},
		"E02 with its first character changed":        {source, func(w *world) any { return "B" + at(source, 0)(w).(string)[1:] }, 0, dpop.ErrNonceInvalid},
		"E02 with its last one changed":               {source, func(w *world) any { return changeLast(at(source, 0)(w).(string)) }, 0, dpop.ErrNonceInvalid},
		"E02 another client's":                        {bound, func(*world) any { return bound.Issue(thief().JKT(), now) }, 0, dpop.ErrNonceInvalid},
		"E07 with CR, LF and a quote":                 {source, value("\r\nSet-Cookie: a=\"b\""), 0, dpop.ErrNonceInvalid},
		"E07 a good one, and CR and LF":               {source, func(w *world) any { return at(source, 0)(w).(string) + "\r\n" }, 0, dpop.ErrNonceInvalid},
		"E03 another process's":                       {source, at(newNonces(t, nonce.Config{Life: time.Minute}, "new"), 0), 0, ""},
		"E03 one whose clock is ahead":                {source, at(newNonces(t, nonce.Config{}, "new"), 10*time.Second), 0, ""},
		"E04 of the secret before":                    {source, at(newNonces(t, nonce.Config{}, "old"), 0), 0, ""},
		"good":                                        {source, at(source, 0), 0, ""},
		"good until its end":                          {source, at(source, -89*time.Second), 0, ""},
		"good and bound":                              {bound, at(bound, 0), 0, ""},
		"E05 good, with a clock that is an hour slow": {source, at(source, -time.Minute), -time.Hour, ""},
		"E05 good, with a clock that is an hour fast": {source, at(source, -time.Minute), time.Hour, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nonced(tt.source))
			req := request(w.proof(set("nonce", tt.nonce(w)), set("iat", now.Add(tt.iat).Unix())))
			e := w.verify(req)
			wantReason(t, e, tt.want)
			if e == nil {
				wantReason(t, w.verify(req), dpop.ErrProofReplayed) // the same nonce again will do, the same proof will not
				return
			}
			if w.store.calls != 0 || w.registry.calls != 0 {
				t.Errorf("the store was asked %d times and the resolver %d times before the nonce was good", w.store.calls, w.registry.calls)
			}
			answer := httptest.NewRecorder()
			dpop.WriteError(answer, e)
			if answer.Code != 401 || e.Code != dpop.CodeUseNonce {
				t.Errorf("R049 the answer is %d %s, want 401 use_dpop_nonce", answer.Code, e.Code)
			}
			fresh := wantOneNonce(t, answer.Header())
			wantReason(t, w.verify(request(w.proof(set("nonce", fresh), set("iat", now.Add(tt.iat).Unix())))), "")
			// Once a client was told a nonce, and at any other time, nothing passes without one.
			wantReason(t, w.verify(request(w.proof())), dpop.ErrNonceMissing)
		})
	}
}

func changeLast(s string) string {
	last := byte('A')
	if s[len(s)-1] == last {
		last = 'B'
	}
	return s[:len(s)-1] + string(last)
}

// wantOneNonce fails the test unless an answer has one DPoP-Nonce, which it returns, and no cache may keep it.
func wantOneNonce(t *testing.T, h http.Header) string {
	t.Helper()
	values := h.Values("DPoP-Nonce")
	if len(values) != 1 || len(values[0]) != 36 {
		t.Errorf("R043 the DPoP-Nonce fields are %q, want one nonce", values)
	}
	if got := h.Values("Cache-Control"); len(got) != 1 || got[0] != "no-store" {
		t.Errorf("R048, E09 Cache-Control is %q, want no-store alone", got)
	}
	return h.Get("DPoP-Nonce")
}

// A steppedSource is the naive one, whose nonces are of the beginning of a step of 30 s.
type steppedSource struct{ *nonce.Source }

func (s steppedSource) Issue(jkt string, now time.Time) string {
	return s.Source.Issue(jkt, now.Truncate(30*time.Second))
}

// C15: a store that has lost its memory asks for a nonce from afterwards. The one that the client is given must be one, or
// it comes back in vain, and gives up.
func TestC15ANonceAfterALossOfMemory(t *testing.T) {
	source := newNonces(t, nonce.Config{}, "secret")
	for name, tt := range map[string]struct {
		source dpop.NonceSource
		works  bool
	}{"package nonce": {source, true}, "control: nonces of steps": {steppedSource{source}, false}} {
		w := newWorld(t, nonced(tt.source))
		before := source.Issue(w.key.JKT(), w.now.Add(-time.Second))
		store, err := memstore.New(memstore.Config{BootFloor: true, Now: func() time.Time { return w.now }})
		require.NoError(t, err)
		v := w.newVerifier(nonced(tt.source), func(c *dpop.Config) { c.Replay = store })
		send := func(nonce string) *dpop.Error { return refusal(t, v, request(w.proof(set("nonce", nonce)))) }

		e := send(before)
		wantReason(t, e, dpop.ErrReplayUnavailable)
		w.now = w.now.Add(e.RetryAfter)
		e = send(before)
		wantReason(t, e, dpop.ErrNonceStale)
		if e = send(e.Nonce); (e == nil) != tt.works {
			t.Errorf("%s: with the nonce that it was given after a loss of memory the client gets %v", name, e)
		}
		require.NoError(t, store.Close())
	}
}

// A forgetful store keeps a key until its nonce ends by the clock of the process that recorded it, as one would at first.
type forgetful struct{ expiring }

func (s forgetful) FirstUse(ctx context.Context, key string, made, expires time.Time) (bool, error) {
	return s.expiring.FirstUse(ctx, key, made, expires.Add(-2*dpop.DefaultClockSkew))
}

// R054, R056, E06: a proof is used once in its nonce's whole life, whichever processes made the nonce, took the proof and are
// sent it again, with clocks as far off as ClockSkew allows, and whatever its iat. And what is remembered never needs a
// longer window than NewVerifier asks a store for. The controls leave 2·ClockSkew out.
func TestR056AProofIsUsedOnceInItsNoncesLife(t *testing.T) {
	const skew = dpop.DefaultClockSkew
	clocks := []time.Duration{-skew, 0, skew} // of the processes, ahead of true time
	source := newNonces(t, nonce.Config{}, "secret")
	w := newWorld(t)
	until := map[string]time.Time{} // what the store knows
	newPods := func(naive bool) (pods []*dpop.Verifier) {
		for _, ahead := range clocks {
			store := replay.Store(expiring{w, until, ahead})
			if naive {
				store = forgetful{expiring{w, until, ahead}}
			}
			pods = append(pods, pod{world: w, ahead: ahead}.verifier(nonced(source), func(c *dpop.Config) { c.Replay = store }))
		}
		return pods
	}
	// passesAgain returns how often a proof that was used passes when the store is about to forget it, and until then.
	passesAgain := func(pods []*dpop.Verifier, req dpop.Request) (n int) {
		for key, forgotten := range until { // there is only one
			for _, later := range []time.Duration{-time.Second, -1, 0, 1, time.Second, 2*skew - 1, 2 * skew} {
				for _, v := range pods {
					w.now, until[key] = forgotten.Add(later), forgotten
					if refusal(t, v, req) == nil {
						n++
					}
				}
			}
		}
		return n
	}
	simulate := func(naive bool) (twice int, longest time.Duration) {
		pods := newPods(naive)
		for _, phase := range []time.Duration{0, 700 * time.Millisecond} { // of a second
			for _, ahead := range clocks {
				made := now.Add(phase)
				text := source.Issue("", made.Add(ahead))
				req := request(w.proof(set("nonce", text), set("iat", now.Add(-time.Hour).Unix())))
				for _, used := range []time.Duration{0, 45 * time.Second, 89 * time.Second, 90 * time.Second, 99 * time.Second} {
					for _, v := range pods {
						clear(until)
						w.now = made.Add(used)
						if refusal(t, v, req) != nil {
							continue // the nonce is over by that clock
						}
						for _, forgotten := range until {
							longest = max(longest, forgotten.Sub(w.now))
						}
						twice += passesAgain(pods, req)
					}
				}
			}
		}
		return twice, longest
	}
	twice, longest := simulate(false)
	if twice > 0 {
		t.Errorf("a proof passed a second time, %d times", twice)
	}
	window := w.newVerifier(nonced(source)).Config().Window()
	if longest > window {
		t.Errorf("a proof is to be remembered for %v, and NewVerifier asks for %v", longest, window)
	}
	if longest <= window-2*skew {
		t.Errorf("control: a window without 2·ClockSkew, %v, suffices for %v, so this test shows nothing", window-2*skew, longest)
	}
	if twice, _ := simulate(true); twice == 0 {
		t.Error("control: if the store forgets a proof when its nonce ends, none passes twice, so this test shows nothing")
	}
}

// A living source says that its nonces live for so long.
type living struct {
	nonces
	life time.Duration
}

func (l living) MaxLife() time.Duration { return l.life }

// C09, E06: a store that forgets before the nonce ends is a mistake at start, and so is a source of which that is not known.
func TestTheWindowCoversTheNonce(t *testing.T) {
	source := newNonces(t, nonce.Config{}, "secret")
	long := newNonces(t, nonce.Config{Life: time.Hour, ClockSkew: time.Minute}, "secret")
	for name, tt := range map[string]struct {
		source dpop.NonceSource
		window time.Duration
		want   string // what the error says, or "" for none
	}{
		"the defaults need 90 + 2·5 + 2·5 + 1 s": {source, 111 * time.Second, ""},
		"a second less":                         {source, 110 * time.Second, "make its window at least 1m51s"},
		"what suffices without nonces":          {source, 81 * time.Second, "make its window at least 1m51s"},
		"nonces that live long":                 {long, time.Hour + 2*time.Minute + 11*time.Second, ""},
		"and a second less":                     {long, time.Hour + 2*time.Minute + 10*time.Second, "make its window at least 1h2m11s"},
		"nonces that live shorter than proofs":  {living{life: time.Second}, 12 * time.Second, ""},
		"a source that does not say":            {nonces{}, 81 * time.Second, ""},
		"for ever":                              {living{life: math.MaxInt64}, 24 * time.Hour, "Nonces has a MaxLife of"},
		"two days":                              {living{life: 48 * time.Hour}, 24 * time.Hour, "Nonces has a MaxLife of 48h"},
		"no time":                               {living{}, 24 * time.Hour, "Nonces has a MaxLife of 0s"},
		"less than no time":                     {living{life: -1}, 24 * time.Hour, "Nonces has a MaxLife of -1ns"},
		"a nil *nonce.Source":                   {(*nonce.Source)(nil), 24 * time.Hour, "Nonces has a MaxLife of 0s: set a source such as nonce.New"},
		"a *nonce.Source that New did not make": {new(nonce.Source), 24 * time.Hour, "Nonces has a MaxLife of 0s"},
	} {
		store, err := memstore.New(memstore.Config{Window: tt.window})
		require.NoError(t, err)
		_, err = dpop.NewVerifier(dpop.Config{Resolver: &registry{}, Replay: store, Nonces: tt.source})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: with a window of %v NewVerifier says %v, want %q", name, tt.window, err, tt.want)
		}
		require.NoError(t, store.Close())
	}
}

// R043, R047, R048, E09: over a connection, through a stack of middlewares that set what we set, an answer has one DPoP-Nonce if
// it has any, and then no cache keeps it.
func TestR043OneNonceThroughAStack(t *testing.T) {
	source := newNonces(t, nonce.Config{}, "secret")
	w := newWorld(t, nonced(source))
	protect, err := dpophttp.New(w.verifier, dpophttp.Config{Origins: []string{"https://api.example.com"}})
	require.NoError(t, err)
	var handler http.HandlerFunc
	inner := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { handler(rw, r) })
	outer := func(next http.Handler) http.Handler { // a cache policy and a logger, as many have them
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Cache-Control", "public, max-age=60")
			rw.Header().Set("Access-Control-Expose-Headers", "DPoP-Nonce")
			next.ServeHTTP(struct{ http.ResponseWriter }{rw}, r)
		})
	}
	server := httptest.NewServer(outer(http.StripPrefix("/orders", protect(dpophttp.RequireScope("orders:read")(inner)))))
	defer server.Close()
	send := func(nonce any) *http.Response {
		r, err := http.NewRequest("GET", server.URL+"/orders/7", nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", "DPoP "+token)
		r.Header.Set("DPoP", w.proof(set("nonce", nonce)))
		answer, err := server.Client().Do(r)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		return answer
	}
	fresh, old := source.Issue("", now), source.Issue("", now.Add(-time.Minute))
	for name, tt := range map[string]struct {
		nonce   any
		scope   string
		handler http.HandlerFunc
		status  int
		told    bool
	}{
		"no nonce":             {nil, "orders:read", nil, 401, true},
		"a bad nonce":          {"bad", "orders:read", nil, 401, true},
		"a fresh one":          {fresh, "orders:read", func(http.ResponseWriter, *http.Request) {}, 200, false},
		"an old one":           {old, "orders:read", func(http.ResponseWriter, *http.Request) {}, 200, true},
		"an old one, 204":      {old, "orders:read", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) }, 204, true},
		"an old one, an error": {old, "orders:read", func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "no", 500) }, 500, true},
		"an old one, 404":      {old, "orders:read", http.NotFound, 404, true},
		"an old one, no scope": {old, "other", nil, 403, true},
	} {
		w.registry.tokens[token].Scope, handler = tt.scope, tt.handler
		answer := send(tt.nonce)
		if answer.StatusCode != tt.status {
			t.Errorf("%s: the status is %d, want %d", name, answer.StatusCode, tt.status)
		}
		if !tt.told {
			if got := answer.Header; got.Values("DPoP-Nonce") != nil || got.Get("Cache-Control") != "public, max-age=60" {
				t.Errorf("%s: the answer has the nonce %q and the Cache-Control %q", name, got.Values("DPoP-Nonce"), got.Values("Cache-Control"))
			}
			continue
		}
		if got := wantOneNonce(t, answer.Header); got != fresh {
			t.Errorf("%s: the client is told %q, want %q", name, got, fresh)
		}
	}
}

// A hoarder is the naive source, which remembers what it gave out.
type hoarder struct{ known map[string]time.Time }

func (h hoarder) Issue(jkt string, now time.Time) string {
	text := jkt + strconv.Itoa(len(h.known))
	h.known[text] = now
	return text
}

func (h hoarder) Check(text, _ string, now time.Time) (made, expires time.Time, next string, ok bool) {
	made, ok = h.known[text]
	return made, now, "", ok
}

// F04: ten thousand requests without a nonce, each by a key of its own, leave nothing behind.
func TestRequestsWithoutANonceCostNoMemory(t *testing.T) {
	const requests = 10_000
	headers := make([]string, requests)
	for i := range headers {
		headers[i] = headerOfANewKey(t)
	}
	grows := func(source dpop.NonceSource, claims string) int64 {
		w := newWorld(t, nonced(source))
		send := func(header string) *dpop.Error {
			return w.verify(request(header + "." + b64([]byte(claims)) + "." + b64(make([]byte, 64))))
		}
		if e := send(headers[0]); e == nil || e.Code != dpop.CodeUseNonce {
			t.Fatalf("control: the request is refused by %v, want use_dpop_nonce", e)
		}
		before := heap()
		for _, header := range headers {
			send(header)
		}
		grown := heap() - before
		if w.store.calls > 0 {
			t.Errorf("the store was asked %d times by requests without a nonce", w.store.calls)
		}
		runtime.KeepAlive(w)
		runtime.KeepAlive(headers)
		return grown
	}
	claims := fmt.Sprintf(`{"jti":"jti-of-a-flood","htm":"GET","htu":%q,"iat":%d,"ath":%q}`, target, now.Unix(), hashOf(token))
	wrong := strings.TrimSuffix(claims, "}") + `,"nonce":"dGhpcyBpcyBub3Qgb25lIG9mIG91cnMsIHN1"}`
	const limit = 100 << 10 // ten bytes for each, which is the noise of all else
	for name, n := range map[string]int64{
		"without a nonce":                     grows(newNonces(t, nonce.Config{}, "secret"), claims),
		"with a wrong one, where it is bound": grows(newNonces(t, nonce.Config{BindToKey: true}, "secret"), wrong),
	} {
		if n > limit {
			t.Errorf("%d requests %s cost %d bytes, want none", requests, name, n)
		}
	}
	if n := grows(hoarder{map[string]time.Time{}}, claims); n <= limit {
		t.Errorf("control: a source that remembers what it gave out costs %d bytes, so this test shows nothing", n)
	}
}

// headerOfANewKey returns the header of a proof by a new key. Nonces are checked before signatures.
func headerOfANewKey(t *testing.T) string {
	t.Helper()
	header, err := json.Marshal(map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": dpoptest.NewKey().PublicJWK()})
	require.NoError(t, err)
	return b64(header)
}

// heap returns the bytes that are in use when all garbage is collected.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what a sync.Pool held goes with the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
