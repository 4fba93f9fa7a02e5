package dpop_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
)

// What every test starts from: one API, one client with one key and one token, and a clock that stands still.
const (
	target = "https://api.example.com/orders/7"
	token  = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
)

var now = time.Unix(1_764_000_000, 0)

var b64 = base64.RawURLEncoding.EncodeToString

// keys holds one client key for each algorithm, made once, since RSA keys take their time.
var keys = sync.OnceValue(func() map[string]*dpopclient.Key {
	made := map[string]*dpopclient.Key{}
	add := func(signer crypto.Signer, err error) {
		if err != nil {
			panic(err)
		}
		key, err := dpopclient.NewKey(signer)
		if err != nil {
			panic(err)
		}
		made[key.Algorithm()] = key
	}
	add(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	add(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	add(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	add(rsa.GenerateKey(rand.Reader, 2048))
	_, private, err := ed25519.GenerateKey(rand.Reader)
	add(private, err)
	return made
})

var thief = sync.OnceValue(dpoptest.NewKey) // another client's key

// A memory is a replay store that counts its calls and remembers the arguments of the last one.
type memory struct {
	mu            sync.Mutex
	used          map[string]bool
	calls         int
	key           string
	made, expires time.Time
	err           error // what to answer, if not nil
}

func (m *memory) FirstUse(_ context.Context, key string, made, expires time.Time) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	m.key, m.made, m.expires = key, made, expires
	if m.err != nil {
		return false, m.err
	}
	if m.used == nil {
		m.used = map[string]bool{}
	}
	first := !m.used[key]
	m.used[key] = true
	return first, nil
}

// A registry is a token resolver: it knows some tokens, counts its calls, and can be down.
type registry struct {
	tokens map[string]*dpop.Token
	calls  int
	err    error
}

func (r *registry) ResolveToken(_ context.Context, token string) (*dpop.Token, error) {
	r.calls++
	if r.err != nil {
		return nil, r.err
	}
	if t, ok := r.tokens[token]; ok {
		return t, nil
	}
	return nil, dpop.ErrTokenInvalid
}

// A world is a verifier with all that stands around it.
type world struct {
	t        *testing.T
	key      *dpopclient.Key
	now      time.Time
	store    *memory
	registry *registry
	verifier *dpop.Verifier
}

// newWorld returns a world in which token is bound to the ES256 key. Each change may alter the Config.
func newWorld(t *testing.T, changes ...func(*dpop.Config)) *world {
	t.Helper()
	w := &world{t: t, key: keys()["ES256"], now: now, store: new(memory)}
	w.registry = &registry{tokens: map[string]*dpop.Token{token: w.token()}}
	w.verifier = w.newVerifier(changes...)
	return w
}

// newVerifier returns another verifier in the same world.
func (w *world) newVerifier(changes ...func(*dpop.Config)) *dpop.Verifier {
	w.t.Helper()
	cfg := dpop.Config{Resolver: w.registry, Replay: w.store, Now: func() time.Time { return w.now }}
	for _, change := range changes {
		change(&cfg)
	}
	v, err := dpop.NewVerifier(cfg)
	require.NoError(w.t, err)
	return v
}

// token returns what the token stands for.
func (w *world) token() *dpop.Token {
	return &dpop.Token{
		Issuer: "https://as.example.com", Subject: "alice", ClientID: "app", Scope: "orders:read orders:write",
		Confirmation: dpop.Confirmation{JKT: w.key.JKT()},
	}
}

// forge returns a proof by key that is right but for what changes did to it. A nil value removes a member.
func (w *world) forge(key *dpopclient.Key, changes ...func(header, claims map[string]any)) string {
	claims := dpopclient.Claims{Method: "GET", URI: target, AccessToken: token}
	return dpoptest.Forge(key, claims, func(h, c map[string]any) {
		c["iat"] = w.now.Unix()
		for _, change := range changes {
			change(h, c)
		}
		isNil := func(_ string, value any) bool { return value == nil }
		maps.DeleteFunc(h, isNil)
		maps.DeleteFunc(c, isNil)
	})
}

// proof returns a proof that is right but for what changes did to it.
func (w *world) proof(changes ...func(header, claims map[string]any)) string {
	return w.forge(w.key, changes...)
}

// forgeJSON returns a proof by the world's key of any header and claims.
func (w *world) forgeJSON(header, claims string) string {
	return dpoptest.ForgeJSON(w.key, header, claims)
}

// request returns a request that is right, with these DPoP lines.
func request(proofs ...string) dpop.Request {
	return dpop.Request{Method: "GET", URI: target, Authorization: []string{"DPoP " + token}, DPoP: proofs}
}

// verify returns the refusal of a request, or nil if it is accepted.
func (w *world) verify(req dpop.Request) *dpop.Error {
	w.t.Helper()
	return refusal(w.t, w.verifier, req)
}

func refusal(t *testing.T, v dpop.RequestVerifier, req dpop.Request) *dpop.Error {
	t.Helper()
	result, err := v.Verify(context.Background(), req)
	if err == nil {
		if result == nil || result.Token == nil {
			t.Fatal("Verify accepted a request and returned no token")
		}
		return nil
	}
	if result != nil {
		t.Error("Verify returned a result beside an error")
	}
	var e *dpop.Error
	if !errors.As(err, &e) {
		t.Fatalf("Verify returned %T, not an *Error: %v", err, err)
	}
	return e
}

// wantReason fails the test unless the request was refused for this reason; "" stands for accepted.
func wantReason(t *testing.T, e *dpop.Error, want dpop.Reason) {
	t.Helper()
	if e == nil && want != "" {
		t.Fatalf("accepted, want reason %q", want) // what follows looks into the error
	}
	if got := reasonOf(e); got != want {
		t.Errorf("got reason %q, want %q (%v)", got, want, e)
	}
}

func reasonOf(e *dpop.Error) dpop.Reason {
	if e == nil {
		return ""
	}
	return e.Reason
}

// set returns a change of one claim, and setHeader of one member of the header. A nil value removes it.
func set(name string, value any) func(_, claims map[string]any) {
	return func(_, claims map[string]any) { claims[name] = value }
}

func setHeader(name string, value any) func(header, _ map[string]any) {
	return func(header, _ map[string]any) { header[name] = value }
}

// raw is a JSON value that encoding/json must not touch.
func raw(text string) json.RawMessage { return json.RawMessage(text) }

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return b64(sum[:])
}

// segments returns the three segments of a proof.
func segments(proof string) (header, claims, signature string) {
	parts := strings.SplitN(proof, ".", 3)
	return parts[0], parts[1], parts[2]
}
