package dpop_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/replay"
)

// nonces is a NonceSource that knows three nonces: good-nonce, which was made 20 seconds ago and lasts 40 seconds more;
// old-nonce, which is good but has a successor; and fresh-nonce, which it gives out.
type nonces struct{}

func (nonces) Issue(string, time.Time) string { return "fresh-nonce" }

func (nonces) Check(nonce, _ string, now time.Time) (made, expires time.Time, next string, ok bool) {
	switch nonce {
	case "fresh-nonce":
		return now, now.Add(time.Minute), "", true
	case "good-nonce":
		return now.Add(-20 * time.Second), now.Add(40 * time.Second), "", true
	case "old-nonce":
		return now.Add(-50 * time.Second), now.Add(10 * time.Second), "fresh-nonce", true
	}
	return time.Time{}, time.Time{}, "", false
}

func TestNonces(t *testing.T) {
	for name, tt := range map[string]struct {
		nonce any
		want  dpop.Reason
		next  string
	}{
		"E01 none":                  {nil, dpop.ErrNonceMissing, ""},
		"E02 not ours":              {"random", dpop.ErrNonceInvalid, ""},
		"E02 empty":                 {"", dpop.ErrNonceInvalid, ""},
		"E02 null":                  {raw("null"), dpop.ErrNonceInvalid, ""},
		"E02 a number":              {1, dpop.ErrNonceInvalid, ""},
		"E02 an array":              {[]string{"good-nonce"}, dpop.ErrNonceInvalid, ""},
		"E07 with CR, LF and quote": {"x\r\nSet-Cookie: \"a\"", dpop.ErrNonceInvalid, ""},
		"good":                      {"good-nonce", "", ""},
		"good, with a successor":    {"old-nonce", "", "fresh-nonce"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, withNonces)
			result, err := w.verifier.Verify(context.Background(), request(w.proof(set("nonce", tt.nonce))))
			if tt.want != "" {
				require.ErrorIs(t, err, tt.want)
				if got := err.(*dpop.Error).Nonce; got != "fresh-nonce" {
					t.Errorf("the client is told to use the nonce %q", got)
				}
				return
			}
			require.NoError(t, err)
			if result.Nonce != tt.next {
				t.Errorf("the client is given %q for its next request, want %q", result.Nonce, tt.next)
			}
		})
	}
}

// E05: with nonces, the client's clock does not matter; the form of iat still does.
func TestE05WithNoncesTheClientsClockDoesNotMatter(t *testing.T) {
	w := newWorld(t, withNonces)
	for _, iat := range []any{0, 1, now.Unix() - 86400, now.Unix() + 86400, 253402300799} {
		if e := w.verify(request(w.proof(set("nonce", "good-nonce"), set("iat", iat)))); e != nil {
			t.Errorf("refused with iat %v: %v", iat, e)
		}
	}
	for _, iat := range []any{nil, "1", raw("null"), -1} {
		wantReason(t, w.verify(request(w.proof(set("nonce", "good-nonce"), set("iat", iat)))), dpop.ErrProofMalformed)
	}
	wantReason(t, w.verify(request(w.proof(set("nonce", "good-nonce"), set("exp", now.Unix()-1)))), dpop.ErrProofTooOld)
}

// Without nonces a nonce in a proof has no meaning, as the documentation of Config.Nonces says.
func TestWithoutNoncesANonceIsIgnored(t *testing.T) {
	w := newWorld(t)
	for _, nonce := range []any{"anything", 1, raw("null"), []any{}} {
		wantReason(t, w.verify(request(w.proof(set("nonce", nonce)))), "")
	}
}

// A nonce source may bind its nonces to clients: it is told the thumbprint of the proof's key, not the token's.
func TestNoncesAreToldTheKey(t *testing.T) {
	spy := &spyingNonces{}
	w := newWorld(t, func(c *dpop.Config) { c.Nonces = spy })
	wantReason(t, w.verify(request(w.forge(thief()))), dpop.ErrNonceMissing)
	wantReason(t, w.verify(request(w.proof(set("nonce", "n")))), dpop.ErrNonceInvalid)
	want := []string{"issue " + thief().JKT(), "check " + w.key.JKT(), "issue " + w.key.JKT()}
	if len(spy.calls) != 3 || spy.calls[0] != want[0] || spy.calls[1] != want[1] || spy.calls[2] != want[2] {
		t.Errorf("the nonce source saw %q, want %q", spy.calls, want)
	}
}

type spyingNonces struct{ calls []string }

func (s *spyingNonces) Issue(jkt string, _ time.Time) string {
	s.calls = append(s.calls, "issue "+jkt)
	return "fresh-nonce"
}

func (s *spyingNonces) Check(_, jkt string, _ time.Time) (made, expires time.Time, next string, ok bool) {
	s.calls = append(s.calls, "check "+jkt)
	return made, expires, "", false
}

// The proof is not used up by being told to come back with a nonce, and a stale one leads to a fresh one, not to a dead
// end.
func TestStaleNonceLeadsToAFreshOne(t *testing.T) {
	w := newWorld(t, withNonces)
	w.store.err = replay.ErrStale
	e := w.verify(request(w.proof(set("nonce", "good-nonce"))))
	wantReason(t, e, dpop.ErrNonceStale)
	if e.Code != dpop.CodeUseNonce || e.Nonce != "fresh-nonce" {
		t.Errorf("code %q with nonce %q: the client needs use_dpop_nonce and a fresh nonce", e.Code, e.Nonce)
	}
	w.store.err = nil
	wantReason(t, w.verify(request(w.proof(set("nonce", e.Nonce)))), "")
}
