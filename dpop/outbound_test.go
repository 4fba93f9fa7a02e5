package dpop_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
)

// A17: a proof that points at a server makes nobody call there, wherever in it the reference stands.
func TestA17NothingIsFetched(t *testing.T) {
	var calls atomic.Int32
	canary := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	defer canary.Close()

	w := newWorld(t)
	var jwk map[string]any
	require.NoError(t, json.Unmarshal(w.key.PublicJWK(), &jwk))
	for _, member := range []string{"kid", "jku", "x5u", "x5c", "x5t"} {
		jwk[member] = canary.URL + "/in-jwk"
		wantReason(t, w.verify(request(w.proof(setHeader(member, canary.URL+"/in-header")))), "")
		wantReason(t, w.verify(request(w.proof(setHeader("jwk", jwk)))), "")
		wantReason(t, w.verify(request(w.proof(setHeader(member, canary.URL), setHeader("jwk", nil)))), dpop.ErrProofKey)
	}
	if n := calls.Load(); n > 0 {
		t.Errorf("the server that the proofs point at was called %d times", n)
	}
	resp, err := http.Get(canary.URL) // the control: a call is counted
	require.NoError(t, err)
	resp.Body.Close()
	require.EqualValues(t, 1, calls.Load())
}

// A loop is a resolver that says it wraps itself.
type loop struct{ *registry }

func (l loop) Unwrap() dpop.TokenResolver { return l }

func TestAResolverThatWrapsItself(t *testing.T) {
	w := newWorld(t)
	v, err := dpop.NewVerifier(dpop.Config{Resolver: loop{w.registry}, Replay: w.store, Now: func() time.Time { return now }})
	require.NoError(t, err)
	if _, err := v.Verify(context.Background(), request(w.proof())); err != nil {
		t.Errorf("refused: %v", err)
	}
}

// D10: a token in the query is refused, alone or beside another, and however its name is spelled.
func TestD10TokenInTheQuery(t *testing.T) {
	for name, tt := range map[string]struct {
		query string
		want  dpop.Reason
	}{
		"R144 beside the field":       {"?a=b&access_token=x", dpop.ErrMalformedAuthorization},
		"R162 with an escape":         {"?access%5Ftoken=x", dpop.ErrMalformedAuthorization},
		"R170 without a value":        {"?access_token", dpop.ErrMalformedAuthorization},
		"another name":                {"?x_access_token=x&access_tokens=y", ""},
		"the name as a value":         {"?a=access_token", ""},
		"the name in a path":          {"", ""},
		"an escape that is no escape": {"?%zz=1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := httptest.NewRequest(http.MethodGet, "/"+tt.query, nil)
			r.Header["Authorization"], r.Header["Dpop"] = []string{"DPoP " + token}, []string{w.proof()}
			e := w.verify(dpop.RequestFromHTTP(r, target))
			wantReason(t, e, tt.want)
			if tt.want != "" {
				r.Header.Del("Authorization")
				e = w.verify(dpop.RequestFromHTTP(r, target))
				wantReason(t, e, tt.want)
				if e.Status != http.StatusBadRequest || e.Code != dpop.CodeInvalidRequest {
					t.Errorf("answered %d %s, want 400 invalid_request", e.Status, e.Code)
				}
			}
		})
	}
}
