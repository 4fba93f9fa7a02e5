package dpop_test

import (
	"context"
	"testing"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/replay"
)

// A pod is a Verifier with a clock of its own, whose resolver takes its time.
type pod struct {
	world *world
	ahead time.Duration // of true time, which is the world's
	slow  time.Duration // what the resolver takes
}

func (p pod) verifier(changes ...func(*dpop.Config)) *dpop.Verifier {
	return p.world.newVerifier(append(changes, func(c *dpop.Config) {
		c.Now = func() time.Time { return p.world.now.Add(p.ahead) }
		c.Resolver = dpop.TokenResolverFunc(func(ctx context.Context, token string) (*dpop.Token, error) {
			p.world.now = p.world.now.Add(p.slow)
			return p.world.registry.ResolveToken(ctx, token)
		})
	})...)
}

// An expiring store forgets when a key's time is over by the clock of the pod that recorded it, as Redis does.
type expiring struct {
	world *world
	until map[string]time.Time
	ahead time.Duration
}

func (s expiring) FirstUse(_ context.Context, key string, _, expires time.Time) (bool, error) {
	if s.world.now.Before(s.until[key]) {
		return false, nil
	}
	s.until[key] = expires.Add(-s.ahead)
	return true, nil
}

// C02: a pod whose resolver is slow must not accept a proof that another pod has used and that the store has forgotten.
func TestASlowResolverOpensNoReplayHole(t *testing.T) {
	for name, nonced := range map[string]bool{"by iat": false, "by nonce": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			until := map[string]time.Time{}
			store := func(ahead time.Duration) func(*dpop.Config) {
				return func(c *dpop.Config) {
					c.Replay = expiring{w, until, ahead}
					if nonced {
						c.Nonces = fixedNonce{made: w.now, expires: w.now.Add(time.Minute)}
					}
				}
			}
			const skew = dpop.DefaultClockSkew
			quick := pod{world: w, ahead: skew}.verifier(store(skew))
			slow := pod{world: w, ahead: -skew, slow: 15 * time.Second}.verifier(store(-skew))
			proof := request(w.proof(set("nonce", "n")))

			wantReason(t, refusal(t, quick, proof), "")
			w.now = now.Add(time.Minute) // the slow pod's clock still shows five seconds less
			e := refusal(t, slow, proof)
			want := dpop.ErrProofTooOld
			if nonced {
				want = dpop.ErrNonceInvalid
			}
			wantReason(t, e, want)
			if nonced && e.Nonce != "fresh" {
				t.Errorf("the client is told to use the nonce %q, want a new one", e.Nonce)
			}
		})
	}
}

// fixedNonce takes any nonce, with a life that does not move.
type fixedNonce struct{ made, expires time.Time }

func (n fixedNonce) Issue(string, time.Time) string { return "fresh" }

func (n fixedNonce) Check(_, _ string, now time.Time) (made, expires time.Time, next string, ok bool) {
	return n.made, n.expires, "next", !now.After(n.expires)
}

// A request whose time runs out while the store is asked is told so, whatever the store answers by then.
func TestTimeRunsOutInTheStore(t *testing.T) {
	w := newWorld(t)
	v := w.newVerifier(func(c *dpop.Config) {
		c.Replay = storeFunc(func() (bool, error) {
			w.now = w.now.Add(2 * time.Minute)
			return true, nil
		})
	})
	wantReason(t, refusal(t, v, request(w.proof())), dpop.ErrProofTooOld)
}

// A store that blocks and then fails is the operator's trouble, and not said to be the client's.
func TestASlowStoreThatFailsIsUnavailable(t *testing.T) {
	w := newWorld(t)
	v := w.newVerifier(func(c *dpop.Config) {
		c.Replay = storeFunc(func() (bool, error) {
			w.now = w.now.Add(2 * time.Minute)
			return false, &replay.Unavailable{Err: context.DeadlineExceeded}
		})
	})
	wantReason(t, refusal(t, v, request(w.proof())), dpop.ErrReplayUnavailable)
}

type storeFunc func() (bool, error)

func (f storeFunc) FirstUse(context.Context, string, time.Time, time.Time) (bool, error) { return f() }

// R047, §8.2 of RFC 9449: a newer nonce comes with refusals, too.
func TestANewerNonceComesWithRefusals(t *testing.T) {
	w := newWorld(t, withNonces)
	req := request(w.proof(set("nonce", "old-nonce")))
	wantReason(t, w.verify(req), "")
	e := w.verify(req)
	wantReason(t, e, dpop.ErrProofReplayed)
	if e.Nonce != "fresh-nonce" {
		t.Errorf("the refusal has the nonce %q, want the newer one", e.Nonce)
	}
}

// B09: a request for none of the origins is refused under either scheme, and costs no look-up.
func TestNoTarget(t *testing.T) {
	for _, scheme := range []string{"DPoP", "Bearer"} {
		t.Run(scheme, func(t *testing.T) {
			w := newWorld(t, func(c *dpop.Config) { c.AllowBearer = func() bool { return true } })
			w.registry.tokens[token].Confirmation = dpop.Confirmation{}
			req := request(w.proof())
			req.URI, req.Authorization = "", []string{scheme + " " + token}
			wantReason(t, w.verify(req), dpop.ErrTargetUnknown)
			if w.registry.calls > 0 {
				t.Error("the resolver was asked")
			}
		})
	}
}

// R016: a transport that forgets the method gets no proof accepted, not even one for no method.
func TestNoMethod(t *testing.T) {
	w := newWorld(t)
	req := request(w.proof(set("htm", "")))
	req.Method = ""
	wantReason(t, w.verify(req), dpop.ErrMethodMismatch)
}
