package dpop_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/memstore"
)

// A floored store reckons with these when it has lost its memory, if it says so.
type floored struct {
	replay.Store
	leeway, clockSkew time.Duration
	says              bool
}

func (f floored) Allowance() (leeway, clockSkew time.Duration, ok bool) {
	return f.leeway, f.clockSkew, f.says
}

// C15: a store that would take too little back after a loss of memory is a mistake at start, not a hole in production.
func TestC15TheStoresAllowanceIsCompared(t *testing.T) {
	defaults := floored{nil, 10 * time.Second, 5 * time.Second, true}
	for name, tt := range map[string]struct {
		store  floored
		change func(*dpop.Config)
		fits   bool
	}{
		"the defaults":                         {defaults, nil, true},
		"more than the defaults":               {floored{nil, 60 * time.Second, time.Hour, true}, nil, true},
		"a smaller leeway":                     {floored{nil, 10*time.Second - 1, 5 * time.Second, true}, nil, false},
		"a smaller skew":                       {floored{nil, 10 * time.Second, 5*time.Second - 1, true}, nil, false},
		"a smaller skew, with a longer leeway": {floored{nil, time.Hour, time.Second, true}, nil, false},
		"too small, but it never refuses so":   {floored{nil, 0, 0, false}, nil, true},
		"a verifier with a longer leeway":      {defaults, leeway(11 * time.Second), false},
		"a verifier with a longer skew":        {defaults, skew(6 * time.Second), false},
		"a verifier with a shorter skew":       {floored{nil, 10 * time.Second, time.Second, true}, skew(time.Second), true},
	} {
		tt.store.Store = new(memory)
		for wrapping, store := range map[string]replay.Store{
			"bare": tt.store, "namespaced": replay.Namespace(replay.Namespace(tt.store, "x"), "y"),
		} {
			cfg := dpop.Config{Resolver: &registry{}, Replay: store}
			if tt.change != nil {
				tt.change(&cfg)
			}
			_, err := dpop.NewVerifier(cfg)
			if (err == nil) != tt.fits {
				t.Errorf("%s, %s: %v, want a verifier: %t", name, wrapping, err, tt.fits)
			}
			if err != nil && (!strings.Contains(err.Error(), "Config.Replay reckons with") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("%s, %s: the error does not name Config.Replay, once: %v", name, wrapping, err)
			}
		}
	}
	_, err := dpop.NewVerifier(dpop.Config{Replay: floored{new(memory), 0, 0, true}, Realm: "\n"})
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("the allowance is not reported beside other mistakes: %v", err)
	}
}

func skew(d time.Duration) func(*dpop.Config) { return func(c *dpop.Config) { c.ClockSkew = d } }

// The floor's defaults are the Verifier's, so that neither need be set.
func TestTheFloorsDefaultsAreTheVerifiers(t *testing.T) {
	floor, err := replay.NewFloor(0, 0)
	require.NoError(t, err)
	if leeway, skew, ok := floor.Allowance(); leeway != dpop.DefaultLeeway || skew != dpop.DefaultClockSkew || !ok {
		t.Errorf("a floor reckons with a Leeway of %v and a ClockSkew of %v, the Verifier with %v and %v",
			leeway, skew, dpop.DefaultLeeway, dpop.DefaultClockSkew)
	}
}

// C15: what a client sees while a process with memstore starts again. A proof that was used before never passes; a new one
// does when the client has waited as long as it was told. The control is a memstore without BootFloor.
func TestC15ARestartWithBootFloor(t *testing.T) {
	for name, floor := range map[string]bool{"control: without BootFloor": false, "with BootFloor": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			start := func() {
				store, err := memstore.New(memstore.Config{BootFloor: floor, Now: func() time.Time { return w.now }})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, store.Close()) })
				w.verifier = w.newVerifier(func(c *dpop.Config) { c.Replay = store })
			}
			start()
			w.now = w.now.Add(time.Hour) // whatever this start may have lost is too old by now
			// Made by a client whose clock is ahead, as far as may be, so it lives longest.
			used := request(w.proof(set("iat", w.now.Unix()+10)))
			wantReason(t, w.verify(used), "")
			start()
			if !floor {
				wantReason(t, w.verify(used), "") // or this test shows nothing
				return
			}

			for _, req := range []dpop.Request{used, request(w.proof())} {
				e := w.verify(req)
				wantReason(t, e, dpop.ErrReplayUnavailable)
				answer := httptest.NewRecorder()
				dpop.WriteError(answer, e)
				if answer.Code != 503 || answer.Header().Get("Retry-After") != "21" {
					t.Errorf("a request at the start got %d and Retry-After %q, want 503 and 21, Leeway + 2·ClockSkew and a second",
						answer.Code, answer.Header().Get("Retry-After"))
				}
			}
			w.now = w.now.Add(20 * time.Second)
			wantReason(t, w.verify(request(w.proof())), dpop.ErrReplayUnavailable)
			w.now = w.now.Add(time.Second)
			e := w.verify(used)
			wantReason(t, e, dpop.ErrProofStale)
			if e.Status != 401 || e.Code != dpop.CodeInvalidProof {
				t.Errorf("a proof that may have been used got %d %s, want 401 invalid_dpop_proof", e.Status, e.Code)
			}
			wantReason(t, w.verify(request(w.proof())), "")
		})
	}
}
