//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/introspect"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/replay/memstore"
)

// A gate is an API in this process, for what the resource server has no flags for: caches, clocks, and several resolvers. It
// takes bound tokens, and unbound ones under Bearer. Any number of goroutines may call it.
type gate struct{ http.Handler }

func newGate(t *testing.T, resolver dpop.TokenResolver) gate {
	t.Helper()
	store, err := memstore.New(memstore.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { store.Close() })
	verifier, err := dpop.NewVerifier(dpop.Config{Resolver: resolver, Replay: store, AllowBearer: func() bool { return true }})
	require.NoError(t, err)
	protect, err := dpophttp.New(observer{verifier}, dpophttp.Config{Origins: []string{"https://api.example.com"}})
	require.NoError(t, err)
	return gate{protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))}
}

// An observer puts the reason of a refusal into the variable that the request's context has.
type observer struct{ dpop.RequestVerifier }

type reasonKey struct{}

func (o observer) Verify(ctx context.Context, req dpop.Request) (*dpop.Result, error) {
	result, err := o.RequestVerifier.Verify(ctx, req)
	if refusal := (*dpop.Error)(nil); errors.As(err, &refusal) {
		*ctx.Value(reasonKey{}).(*string) = string(refusal.Reason)
	}
	return result, err
}

// expect sends a request with a token, and a proof that is right for it, and compares what the gate says with want. Without
// a key, the token comes under Bearer.
func (g gate) expect(t *testing.T, token string, key *dpopclient.Key, want verdict, when string) {
	t.Helper()
	var got verdict
	req := httptest.NewRequest("GET", siteURL, nil)
	req = req.WithContext(context.WithValue(req.Context(), reasonKey{}, &got.Reason))
	req.Header.Set("Authorization", "Bearer "+token)
	if key != nil {
		req.Header.Set("Authorization", "DPoP "+token)
		req.Header.Set("DPoP", dpoptest.Proof(key, dpopclient.Claims{Method: "GET", URI: siteURL, AccessToken: token}))
	}
	answer := httptest.NewRecorder()
	g.ServeHTTP(answer, req)
	got.Status = answer.Code
	var body struct{ Error string }
	if err := json.Unmarshal(answer.Body.Bytes(), &body); err != nil && answer.Code != http.StatusOK {
		t.Errorf("%s: the body of a refusal is no JSON: %v", when, err)
	}
	if got.Code = body.Error; got != want {
		t.Errorf("%s: the API says %+v, want %+v", when, got, want)
	}
}

// What an API says of a token that is not, or not any more, active, and where that cannot be told.
var (
	inactive = badToken("token_invalid")
	unknown  = verdict{503, "temporarily_unavailable", "unavailable.resolver"}
)

func badToken(reason string) verdict { return verdict{401, "invalid_token", reason} }
func badProof(reason string) verdict { return verdict{401, "invalid_dpop_proof", reason} }

// A clock shows the time, and a test can set it ahead.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }
func (c *clock) setTo(moment time.Time)  { c.set(time.Until(moment)) }

// A validator is a resolver of the realm "introspected" that validates tokens itself, and a gate that relies on it.
type validator struct {
	*atjwt.Resolver
	gate
	clock clock // of the resolver
}

func newValidator(t *testing.T, w *world, change func(*atjwt.Config)) *validator {
	t.Helper()
	var v validator
	cfg := atjwt.Keycloak(w.keycloak.issuer(introspected), audience)
	cfg.Now = v.clock.now
	if change != nil {
		change(&cfg)
	}
	var err error
	v.Resolver, err = atjwt.NewResolver(t.Context(), cfg)
	require.NoError(t, err)
	v.gate = newGate(t, v.Resolver)
	return &v
}

// An asker is a resolver of the same realm that asks Keycloak, as the orders API, and a gate that relies on it.
type asker struct {
	*introspect.Resolver
	gate
	clock  clock  // of the resolver
	accept string // what it says in Accept, if not what the resolver does

	calls  atomic.Int64 // to the introspection endpoint
	mu     sync.Mutex
	answer []byte // the last one
}

func newAsker(t *testing.T, w *world, change func(*introspect.Config)) *asker {
	t.Helper()
	var a asker
	cfg := introspect.Config{
		Issuer: w.keycloak.issuer(introspected), Audience: audience,
		Authenticate: introspect.BasicAuth("orders-api", "orders-api-secret"),
		Now:          a.clock.now,
		HTTPClient:   &http.Client{Transport: counting(a.roundTrip)},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	a.Resolver, err = introspect.NewResolver(cfg)
	require.NoError(t, err)
	a.gate = newGate(t, a.Resolver)
	return &a
}

func (a *asker) roundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodPost {
		a.calls.Add(1)
	}
	if a.accept != "" {
		req = req.Clone(req.Context())
		req.Header.Set("Accept", a.accept)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = body
	return resp, err
}

// answered returns a member of the last answer.
func (a *asker) answered(t *testing.T, member string) any {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	var members map[string]any
	require.NoError(t, json.Unmarshal(a.answer, &members))
	return members[member]
}

func (k *keycloak) introspectionEndpoint(realm string) string {
	return k.tokenEndpoint(realm) + "/introspect"
}

const bobID = "5e4dcb0e-0b0d-4a57-9a54-0d3c0f0a0003" // in testdata

// bob returns the tokens of a user of the realm "introspected", bound to key, in a session of their own.
func (k *keycloak) bob(t *testing.T, client string, key *dpopclient.Key) grant {
	t.Helper()
	g, err := k.grant(introspected, key, url.Values{
		"grant_type": {"password"}, "client_id": {client}, "username": {"bob"}, "password": {"bob-password"},
		"scope": {"openid"},
	})
	require.NoError(t, err)
	return g
}

// revoke revokes a token that was issued to a client (RFC 7009).
func (k *keycloak) revoke(t *testing.T, token string, as url.Values) {
	t.Helper()
	as.Set("token", token)
	resp, err := client.PostForm(k.issuer(introspected)+"/protocol/openid-connect/revoke", as)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode, "revocation")
}

// change sets a member of what the admin API has at path, in the realm "introspected", until the test is over.
func (k *keycloak) change(t *testing.T, path, member string, value any) {
	t.Helper()
	now := map[string]any{}
	require.NoError(t, k.admin("GET", introspected, path, nil, &now))
	before := now[member]
	now[member] = value
	require.NoError(t, k.admin("PUT", introspected, path, now, nil))
	t.Cleanup(func() {
		now[member] = before
		if err := k.admin("PUT", introspected, path, now, nil); err != nil {
			t.Errorf("%s cannot be changed back: %v", path, err)
		}
	})
}

// changeAttribute sets an attribute of a client of the realm "introspected", until the test is over.
func (k *keycloak) changeAttribute(t *testing.T, clientID, name, value string) {
	t.Helper()
	path := k.client(t, clientID)
	set := func(value string) error { // which leaves those alone that it does not name
		return k.admin("PUT", introspected, path, map[string]any{"attributes": map[string]string{name: value}}, nil)
	}
	require.NoError(t, set(value))
	t.Cleanup(func() {
		if err := set(""); err != nil {
			t.Errorf("%s cannot be changed back: %v", clientID, err)
		}
	})
}

// client returns the path of a client of the realm "introspected" in the admin API.
func (k *keycloak) client(t *testing.T, clientID string) string {
	t.Helper()
	var found []struct{ ID string }
	require.NoError(t, k.admin("GET", introspected, "/clients?clientId="+clientID, nil, &found))
	require.Len(t, found, 1, clientID)
	return "/clients/" + found[0].ID
}

// halt stops Keycloak without ending it, until the test is over or resume is called: it accepts connections and does not
// answer. It returns when that is so. The process of the run is a script, and the server its child.
func (k *keycloak) halt(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { _ = k.signalAll(syscall.SIGCONT) })
	require.NoError(t, k.signalAll(syscall.SIGSTOP))
	impatient := &http.Client{Timeout: time.Second}
	require.Eventually(t, func() bool {
		resp, err := impatient.Get(k.issuer(introspected))
		if err == nil {
			resp.Body.Close()
		}
		return err != nil
	}, patience, tick, "Keycloak answers although it was halted")
}

func (k *keycloak) resume(t *testing.T) {
	t.Helper()
	require.NoError(t, k.signalAll(syscall.SIGCONT))
}

func (k *keycloak) signalAll(signal syscall.Signal) error {
	return syscall.Kill(-k.cmd.Process.Pid, signal)
}

// A relay passes on connections to Keycloak. When it is stopped nobody listens at its address, as if Keycloak had ended.
type relay struct {
	url    string // in place of Keycloak's
	addr   string
	target string

	wg       sync.WaitGroup
	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn // nil while it is stopped
}

// startRelay returns a relay that ends with the test.
func startRelay(t *testing.T, k *keycloak) *relay {
	t.Helper()
	port, err := serverPort()
	require.NoError(t, err)
	target, err := url.Parse(k.url)
	require.NoError(t, err)
	r := &relay{url: "http://" + loopback(port), addr: loopback(port), target: target.Host}
	r.start(t)
	t.Cleanup(r.stop)
	return r
}

func (r *relay) start(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", r.addr)
	require.NoError(t, err)
	r.listener, r.conns = listener, []net.Conn{}
	r.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.serve(conn) })
		}
	})
}

func (r *relay) serve(conn net.Conn) {
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		conn.Close()
		return
	}
	r.mu.Lock()
	if r.conns == nil { // stopped meanwhile
		conn.Close()
		server.Close()
	} else {
		r.conns = append(r.conns, conn, server)
	}
	r.mu.Unlock()
	r.wg.Go(func() {
		_, _ = io.Copy(server, conn)
		server.Close()
	})
	_, _ = io.Copy(conn, server)
	conn.Close()
}

// stop returns when nothing listens any more and all connections have ended.
func (r *relay) stop() {
	r.listener.Close()
	r.mu.Lock()
	for _, conn := range r.conns {
		conn.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	r.wg.Wait()
}

// startIntrospecting runs the resource server as the orders API of the realm "introspected", which asks at endpoint. It
// ends with the test.
func startIntrospecting(t *testing.T, w *world, endpoint, secret string, flags ...string) *api {
	t.Helper()
	t.Setenv("CLIENT_SECRET", secret)
	a, err := runAPI(fmt.Sprintf("introspecting-%d", serverCount.Add(1)), append([]string{
		"-introspect", endpoint, "-client-id", "orders-api",
		"-issuer", w.keycloak.issuer(introspected), "-audience", audience,
	}, flags...)...)
	require.NoError(t, err)
	a.endWith(t)
	return a
}

// startUnclustered returns an Infinispan that is no node of a cluster, nor could be, and ends with the test. It is the only
// kind that the resource server can use: its flags do not say how many nodes there must be.
func startUnclustered(t *testing.T) *infinispanNode {
	t.Helper()
	node, err := newInfinispanNode()
	require.NoError(t, err)
	file := filepath.Join(node.dir, "conf", "infinispan.xml")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, change := range []struct{ of, into string }{
		{`(?s)<jgroups>.*</jgroups>`, ""}, {`<transport [^>]*>`, ""}, {`<partition-handling [^>]*>`, ""},
		{`<distributed-cache (name="[^"]*")[^>]*>`, `<local-cache $1>`}, {`</distributed-cache>`, `</local-cache>`},
	} {
		text = regexp.MustCompile(change.of).ReplaceAll(text, []byte(change.into))
	}
	require.NoError(t, os.WriteFile(file, text, 0o600))
	node.endWith(t)
	require.NoError(t, node.run()) // which waits for the nodes of a cluster only
	require.NoError(t, node.await(func() bool {
		pong, err := node.try(replayCache, "PING")
		return err == nil && pong == "PONG"
	}, time.Minute))
	return node
}

// hides checks that what an operator reads has none of the secrets in it; "" is none.
func hides(t *testing.T, what, text string, secrets ...string) {
	t.Helper()
	for i, secret := range secrets {
		if secret != "" && strings.Contains(text, secret) {
			t.Errorf("%s holds secret %d of %d", what, i+1, len(secrets))
		}
	}
}
