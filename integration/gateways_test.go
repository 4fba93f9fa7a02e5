//go:build integration

package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/replay/memstore"
)

// A gatewayKind is a program that stands between clients and an API and speaks HTTP to both.
type gatewayKind struct {
	variable string // names the program
	config   string // a file of testdata/gateways
	args     func(config string) []string
}

// The configurations are templates, so that a test of something else can have some of its own.
var (
	nginx = gatewayKind{"NGINX", "nginx.conf", func(config string) []string {
		return []string{"-p", filepath.Dir(config), "-e", "stderr", "-c", config}
	}}
	caddy = gatewayKind{"CADDY", "Caddyfile", func(config string) []string {
		return []string{"run", "--adapter", "caddyfile", "--config", config}
	}}
	haproxy = gatewayKind{"HAPROXY", "haproxy.cfg", func(config string) []string { return []string{"-db", "-f", config} }}
	envoy   = gatewayKind{"ENVOY", "envoy.yaml", func(config string) []string {
		return []string{"-c", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"}
	}}
)

// A gateway is one of these, running.
type gateway struct {
	*process
	listeners map[string]string // name → address
	roots     *x509.CertPool    // of the gateway's certificate
}

// startGateway runs a gateway of the kind, which ends with the test. In its configuration, {{listen NAME}} is an address of
// the gateway and {{upstream NAME}} one that upstreams has, {{port ADDRESS}} is the port of either, and {{certificate}} a PEM
// file with a certificate for hosts and its key.
func startGateway(t *testing.T, kind gatewayKind, upstreams map[string]string, hosts ...string) *gateway {
	t.Helper()
	program, err := need(kind.variable)
	require.NoError(t, err)
	p, err := newProcess(fmt.Sprintf("%s-%d", strings.ToLower(kind.variable), serverCount.Add(1)))
	require.NoError(t, err)
	p.endWith(t)
	g := &gateway{process: p, listeners: map[string]string{}, roots: x509.NewCertPool()}
	certificate := filepath.Join(p.dir, "certificate.pem")
	require.NoError(t, os.WriteFile(certificate, newCertificate(t, g.roots, hosts...), 0o600))

	config, err := template.New(kind.config).Funcs(template.FuncMap{
		"certificate": func() string { return certificate },
		"list":        func(names ...string) []string { return names },
		"listen": func(name string) (string, error) {
			if g.listeners[name] == "" {
				port, err := serverPort()
				if err != nil {
					return "", err
				}
				g.listeners[name] = loopback(port)
			}
			return g.listeners[name], nil
		},
		"upstream": func(name string) string {
			require.Contains(t, upstreams, name, "%s names an upstream that there is not", kind.config)
			return upstreams[name]
		},
		"port": func(addr string) string {
			_, port, err := net.SplitHostPort(addr)
			require.NoError(t, err)
			return port
		},
	}).ParseFiles(filepath.Join("testdata", "gateways", kind.config))
	require.NoError(t, err)
	var text strings.Builder
	require.NoError(t, config.Execute(&text, nil))
	file := filepath.Join(p.dir, kind.config)
	require.NoError(t, os.WriteFile(file, []byte(text.String()), 0o600))

	cmd := exec.Command(program, kind.args(file)...)
	cmd.Env = append(os.Environ(), "HOME="+p.dir, "XDG_CONFIG_HOME="+p.dir, "XDG_DATA_HOME="+p.dir)     // where Caddy writes
	cmd.Env = slices.DeleteFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "NGINX=") }) // nginx reads it
	require.NoError(t, p.start(cmd))
	require.NoError(t, p.await(func() bool {
		for _, addr := range g.listeners {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return false
			}
			conn.Close()
		}
		return true
	}, time.Minute))
	return g
}

// newCertificate returns a certificate for hosts and its key, and adds it to roots.
func newCertificate(t *testing.T, roots *x509.CertPool, hosts ...string) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: hosts, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots.AddCert(certificate)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
}

// client returns a client that connects to a listener, whatever host it addresses. It sends nothing twice by itself: each
// request has a connection of its own.
func (g *gateway) client(t *testing.T, listener string, http2 bool) *http.Client {
	t.Helper()
	require.Contains(t, g.listeners, listener)
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	return &http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, g.listeners[listener])
			},
			TLSClientConfig:   &tls.Config{RootCAs: g.roots},
			Protocols:         &protocols,
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// A backend is what stands behind a gateway and judges requests.
type backend interface {
	mark() int                          // where its log ends
	refusal(offset int) (string, error) // the reason of the only refusal since then, or ""
}

func (a *api) mark() int {
	text, _ := a.log(0) // without it, refusal will fail
	return len(text)
}

// An inProcess is a backend for what the resource server has no flags for. It shows what a gateway makes of requests.
type inProcess struct {
	*httptest.Server

	mu      sync.Mutex
	handler http.Handler
	got     []*http.Request
	reasons []string
}

func startInProcess(t *testing.T) *inProcess {
	b := &inProcess{}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

// set says how requests are judged from now on, and what those get that are accepted.
func (b *inProcess) set(t *testing.T, resolver dpop.TokenResolver, targets dpophttp.Config, then http.HandlerFunc) {
	t.Helper()
	store, err := memstore.New(memstore.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { store.Close() })
	verifier, err := dpop.NewVerifier(dpop.Config{Resolver: resolver, Replay: store})
	require.NoError(t, err)
	targets.Origins = []string{"http://" + siteHost}
	targets.OnError = func(w http.ResponseWriter, _ *http.Request, err error) {
		var refusal *dpop.Error
		if errors.As(err, &refusal) {
			b.mu.Lock()
			b.reasons = append(b.reasons, string(refusal.Reason))
			b.mu.Unlock()
		}
		dpop.WriteError(w, err)
	}
	protect, err := dpophttp.New(verifier, targets)
	require.NoError(t, err)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handler, b.got = protect(then), nil
}

// The answers of an inProcess.
func reply(http.ResponseWriter, *http.Request)  {}
func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) } // the connection ends instead

func (b *inProcess) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	handler := b.handler
	b.got = append(b.got, r)
	b.mu.Unlock()
	handler.ServeHTTP(w, r)
}

// requests returns what came since set.
func (b *inProcess) requests() []*http.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

func (b *inProcess) mark() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.reasons)
}

func (b *inProcess) refusal(offset int) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.reasons[offset:], " "), nil
}

// A scene is what stands behind every gateway, and one client.
type scene struct {
	key   *dpopclient.Key
	token string

	plain, overTLS, nonce, several *api
	raw, strip                     *inProcess
}

const (
	siteHost  = "api.example.com"
	otherHost = "api.example.org"
)

func newScene(t *testing.T) *scene {
	issuer := dpoptest.NewIssuer()
	t.Cleanup(issuer.Close)
	s := &scene{key: dpoptest.NewKey()}
	s.token = issuer.Token(audience, s.key.JKT(), nil)
	t.Setenv("NONCE_SECRET", base64.RawURLEncoding.EncodeToString([]byte(rand.Text()+rand.Text())))
	origins := []string{"http://" + siteHost, "https://" + siteHost, "http://" + otherHost, "https://" + otherHost}
	for _, server := range []struct {
		api   **api
		name  string
		flags []string
	}{
		{&s.plain, "plain", []string{"-origin", origins[0]}},
		{&s.overTLS, "tls", []string{"-origin", origins[1]}},
		{&s.nonce, "nonce", []string{"-origin", origins[0], "-nonce"}},
		{&s.several, "several", []string{"-origin", strings.Join(origins, ","), "-trusted-proxies", "127.0.0.0/8"}},
	} {
		name := fmt.Sprintf("behind-gateways-%s-%d", server.name, serverCount.Add(1))
		a, err := runAPI(name, append(server.flags, "-issuer", issuer.URL, "-audience", audience)...)
		require.NoError(t, err)
		a.endWith(t)
		*server.api = a
	}
	s.raw, s.strip = startInProcess(t), startInProcess(t)
	return s
}

func (s *scene) upstreams() map[string]string {
	upstreams := map[string]string{}
	for name, url := range map[string]string{
		"plain": s.plain.url, "tls": s.overTLS.url, "nonce": s.nonce.url, "several": s.several.url,
		"raw": s.raw.URL, "strip": s.strip.URL,
	} {
		upstreams[name] = strings.TrimPrefix(url, "http://")
	}
	return upstreams
}

// ResolveToken knows the client's token, for the backends in this process.
func (s *scene) ResolveToken(context.Context, string) (*dpop.Token, error) {
	return &dpop.Token{Subject: "alice", Confirmation: dpop.Confirmation{JKT: s.key.JKT()}}, nil
}

// prove returns the fields of a request with a new proof for htu, and other fields: names and values.
func (s *scene) prove(htu string, others ...string) http.Header {
	h := http.Header{
		"Authorization": {"DPoP " + s.token},
		"DPoP":          {dpoptest.Proof(s.key, dpopclient.Claims{Method: "GET", URI: htu, AccessToken: s.token})},
	}
	for i := 0; i < len(others); i += 2 {
		h.Add(others[i], others[i+1])
	}
	return h
}

// get sends one request, and returns the verdict and what the client hears. The reason is what was logged meanwhile, so no
// test is parallel.
func get(t *testing.T, c *http.Client, b backend, url string, header http.Header) (verdict, http.Header) {
	t.Helper()
	before := b.mark()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	require.NoError(t, err)
	req.Header = header
	resp, err := c.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var body struct{ Error string }
	if resp.Header.Get("Content-Type") == "application/json" { // what gateways answer by themselves is not
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&body))
	}
	v := verdict{Status: resp.StatusCode, Code: body.Error}
	v.Reason, err = b.refusal(before)
	require.NoError(t, err)
	return v, resp.Header
}

// expectGet does the same and compares the verdict.
func expectGet(t *testing.T, c *http.Client, b backend, url string, header http.Header, want verdict, why string) {
	t.Helper()
	if got, _ := get(t, c, b, url, header); got != want {
		t.Errorf("%s: GET %s is answered %+v, want %+v", why, url, got, want)
	}
}

var (
	usedBefore    = verdict{401, "invalid_dpop_proof", string(dpop.ErrProofReplayed)}
	twoProofs     = verdict{401, "invalid_dpop_proof", string(dpop.ErrProofMultiple)}
	mismatched    = verdict{401, "invalid_dpop_proof", string(dpop.ErrURIMismatch)}
	targetUnknown = verdict{400, "invalid_request", string(dpop.ErrTargetUnknown)}
)

// A seen is what a gateway does with the settings of docs/proxies.md, where they differ.
type seen struct {
	gatewayKind
	passesOn []string // forwarding fields that arrive as the client wrote them where nothing is set for them
	stripped string   // what is left of /v1//a/c%2Fd?q=%7E where /v1 is stripped
	beyond   int      // the status of a path that leads out of the prefix
	cut      int      // the status when the API ends the connection without an answer
}

// TestGateways shows each gateway with what docs/proxies.md recommends for it, and as a control with what it warns of.
func TestGateways(t *testing.T) {
	s := newScene(t)
	all := []string{"Forwarded", "X-Forwarded-Host", "X-Forwarded-Prefix", "X-Forwarded-Proto"}
	for _, g := range []seen{
		{nginx, all, "//a/c%2Fd?q=%7E", 404, 502},
		{caddy, []string{"Forwarded", "X-Forwarded-Prefix"}, "/a/c%2Fd?q=%7E", 404, 502},
		{haproxy, all, "//a/c%2Fd?q=%7E", 400, 502},
		{envoy, []string{"Forwarded", "X-Forwarded-Host", "X-Forwarded-Prefix"}, "//a/c%2Fd?q=%7E", 400, 503},
	} {
		t.Run(strings.ToLower(g.variable), func(t *testing.T) {
			running := startGateway(t, g.gatewayKind, s.upstreams(), siteHost, otherHost)
			t.Run("one origin", func(t *testing.T) { testOneOrigin(t, s, running) })
			t.Run("several origins", func(t *testing.T) { testSeveralOrigins(t, s, running) })
			t.Run("what passes on", func(t *testing.T) { testWhatPassesOn(t, s, running, g.passesOn) })
			t.Run("stripped prefix", func(t *testing.T) { testStrippedPrefix(t, s, running, g) })
			t.Run("raw path", func(t *testing.T) { testRawPath(t, s, running) })
			t.Run("two fields", func(t *testing.T) { testTwoFields(t, s, running) })
			t.Run("challenge", func(t *testing.T) { testChallenge(t, s, running) })
			t.Run("no answer", func(t *testing.T) { testNoAnswer(t, s, running, g.cut) })
		})
	}
}

// With one origin nothing that a gateway writes matters: not Host, which some replace, and no forwarding field.
func testOneOrigin(t *testing.T, s *scene, g *gateway) {
	for _, way := range []struct {
		listener, scheme string
		http2            bool
		api              *api
	}{
		{"plain", "http://", false, s.plain}, {"tls", "https://", false, s.overTLS}, {"tls", "https://", true, s.overTLS},
	} {
		c := g.client(t, way.listener, way.http2)
		url := way.scheme + siteHost + "/orders?page=2"
		proof := s.prove(url)
		expectGet(t, c, way.api, url, proof, accepted, "a proof for what the client addresses")
		expectGet(t, c, way.api, url, proof, usedBefore, "the same proof again")
		for _, other := range []string{way.api.url, "http://" + g.listeners[way.listener], way.scheme + otherHost} {
			expectGet(t, c, way.api, url, s.prove(other+"/orders"), mismatched, "a proof for "+other)
		}
		forged := s.prove(url, "X-Forwarded-Host", otherHost, "X-Forwarded-Proto", "ftp", "Forwarded", "host="+otherHost)
		expectGet(t, c, way.api, url, forged, accepted, "B10: fields that mean nothing with one origin")
	}
}

// With several origins the client says which it addresses, in Host or :authority and nowhere else.
func testSeveralOrigins(t *testing.T, s *scene, g *gateway) {
	for _, way := range []struct {
		listener, scheme, otherScheme string
		http2                         bool
	}{
		{"several", "http", "https", false},
		{"several over TLS", "https", "http", false},
		{"several over TLS", "https", "http", true},
	} {
		c := g.client(t, way.listener, way.http2)
		own, other, evil := way.scheme+"://"+siteHost+"/", way.scheme+"://"+otherHost+"/", way.scheme+"://evil.example/"
		expectGet(t, c, s.several, own, s.prove(own), accepted, "B09: one of the origins")
		expectGet(t, c, s.several, other, s.prove(other), accepted, "B09: another of them")
		expectGet(t, c, s.several, own, s.prove(other), mismatched, "B09: a proof for another of them")
		if way.scheme == "http" { // over TLS there is no certificate for it
			expectGet(t, c, s.several, evil, s.prove(evil), targetUnknown, "B09: none of the origins")
		}
		for _, forged := range []struct{ name, value, names string }{
			{"X-Forwarded-Host", otherHost, other},
			{"X-Forwarded-Host", otherHost + ", " + siteHost, other},
			{"X-Forwarded-Host", "evil.example", evil},
			{"X-Forwarded-Proto", way.otherScheme, way.otherScheme + "://" + siteHost + "/"},
			{"Forwarded", "host=" + otherHost + ";proto=" + way.otherScheme, way.otherScheme + "://" + otherHost + "/"},
		} {
			why := "B10: " + way.listener + ", a client writes " + forged.name + ": " + forged.value
			expectGet(t, c, s.several, own, s.prove(own, forged.name, forged.value), accepted, why)
			expectGet(t, c, s.several, own, s.prove(forged.names, forged.name, forged.value), mismatched, why)
		}
	}

	// Control: where a gateway passes on what a client wrote, that selects. But only one of the origins.
	c := g.client(t, "passes on", false)
	own, other, overTLS := "http://"+siteHost+"/", "http://"+otherHost+"/", "https://"+siteHost+"/"
	for _, forged := range []struct {
		name, value, htu string
		want             verdict
	}{
		{"X-Forwarded-Host", siteHost, own, accepted},
		{"X-Forwarded-Host", otherHost, other, accepted},
		{"X-Forwarded-Host", otherHost, own, mismatched},
		{"X-Forwarded-Host", "evil.example", "http://evil.example/", targetUnknown},
		{"X-Forwarded-Host", otherHost + ", " + siteHost, own, targetUnknown},
		{"X-Forwarded-Proto", "https", overTLS, accepted},
		{"X-Forwarded-Proto", "https", own, mismatched},
		{"Forwarded", "host=" + otherHost, own, accepted}, // the family that is not read
	} {
		why := "control: what a client writes is passed on, " + forged.name + ": " + forged.value
		expectGet(t, c, s.several, own, s.prove(forged.htu, forged.name, forged.value), forged.want, why)
	}
}

func testWhatPassesOn(t *testing.T, s *scene, g *gateway, want []string) {
	s.raw.set(t, s, dpophttp.Config{}, reply)
	url := "http://" + siteHost + "/"
	written := []string{"Forwarded", "host=a", "X-Forwarded-Host", "b", "X-Forwarded-Prefix", "/c", "X-Forwarded-Proto", "d"}
	expectGet(t, g.client(t, "raw", false), s.raw, url, s.prove(url, written...), accepted, "fields that mean nothing here")
	require.Len(t, s.raw.requests(), 1)
	var got []string
	for i := 0; i < len(written); i += 2 {
		if slices.Equal(s.raw.requests()[0].Header[written[i]], written[i+1:i+2]) {
			got = append(got, written[i])
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("B10: the gateway passes on %q as the client wrote them, want %q: correct docs/proxies.md", got, want)
	}
}

func testStrippedPrefix(t *testing.T, s *scene, g *gateway, want seen) {
	c := g.client(t, "strip", false)
	behind := dpophttp.Config{
		PathPrefix: "/v1", Forwarded: dpophttp.XForwarded, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}
	url := "http://" + siteHost + "/v1/orders?page=2"

	s.strip.set(t, s, behind, reply)
	proof := s.prove(url)
	expectGet(t, c, s.strip, url, proof, accepted, "a proof for what the client addresses")
	expectGet(t, c, s.strip, url, proof, usedBefore, "the same proof again")
	expectGet(t, c, s.strip, url, s.prove("http://"+siteHost+"/orders"), mismatched, "a proof for what arrives here")
	forged := s.prove(url, "X-Forwarded-Prefix", "/evil")
	expectGet(t, c, s.strip, url, forged, accepted, "B10: a client writes X-Forwarded-Prefix")
	if got := s.strip.requests()[0].RequestURI; got != "/orders?page=2" {
		t.Errorf("the gateway leaves %s of /v1/orders, so this test shows nothing", got)
	}

	raw, verdict := "http://"+siteHost+"/v1//a/c%2Fd?q=%7E", accepted
	if want.stripped != "//a/c%2Fd?q=%7E" {
		verdict = mismatched
	}
	expectGet(t, c, s.strip, raw, s.prove(raw), verdict, "a path that some gateways rewrite where they strip")
	all := s.strip.requests()
	if got := all[len(all)-1].RequestURI; got != want.stripped {
		t.Errorf("where /v1 is stripped, %s arrives as %s, want %s: correct docs/proxies.md", raw, got, want.stripped)
	}
	beyond := "http://" + siteHost + "/v1/../v2/orders"
	if got, _ := get(t, c, s.strip, beyond, s.prove(beyond)); got.Status != want.beyond {
		t.Errorf("B06: a path that leads out of the prefix is answered %+v, want %d", got, want.beyond)
	}

	wrong := behind
	wrong.PathPrefix = "/v2"
	s.strip.set(t, s, wrong, reply)
	expectGet(t, c, s.strip, url, s.prove(url), targetUnknown, "B10: the gateway says that it stripped another prefix")
	s.strip.set(t, s, dpophttp.Config{}, reply)
	expectGet(t, c, s.strip, url, s.prove(url), mismatched, "control: the API does not know of the prefix")
}

func testRawPath(t *testing.T, s *scene, g *gateway) {
	const path, rewritten = "//a/./b/../c%2Fd?q=%7E", "/a/c/d?q=%7E"
	url := "http://" + siteHost + path
	for listener, want := range map[string]struct {
		path string
		verdict
	}{
		"raw":      {path, accepted},
		"rewrites": {rewritten, mismatched}, // control
	} {
		if listener == "rewrites" && g.listeners[listener] == "" {
			continue // it has no such setting
		}
		s.raw.set(t, s, dpophttp.Config{}, reply)
		expectGet(t, g.client(t, listener, false), s.raw, url, s.prove(url), want.verdict, listener)
		require.Len(t, s.raw.requests(), 1)
		if got := s.raw.requests()[0].RequestURI; got != want.path {
			t.Errorf("%s: %s arrives as %s, want %s", listener, path, got, want.path)
		}
	}
}

// Of two fields, a gateway may pass on both, join them, or answer by itself. They never count as one.
func testTwoFields(t *testing.T, s *scene, g *gateway) {
	url := "https://" + siteHost + "/orders"
	for _, http2 := range []bool{false, true} {
		c := g.client(t, "tls", http2)
		h := s.prove(url)
		h["DPoP"] = append(h["DPoP"], s.prove(url)["DPoP"]...)
		expectGet(t, c, s.overTLS, url, h, twoProofs, "R009: two DPoP fields")
		for _, second := range []string{"Bearer " + s.token, "DPoP " + s.token} {
			h := s.prove(url)
			h["Authorization"] = append(h["Authorization"], second)
			if got, _ := get(t, c, s.overTLS, url, h); got.Status != http.StatusBadRequest {
				t.Errorf("R143: two Authorization fields, HTTP/2 %v: %+v, want 400", http2, got)
			}
		}
	}
}

// What a client needs of a refusal comes through every gateway as the API wrote it, and once.
func testChallenge(t *testing.T, s *scene, g *gateway) {
	c := g.client(t, "nonce", false)
	url := "http://" + siteHost + "/orders"
	want, direct := get(t, http.DefaultClient, s.nonce, s.nonce.url+"/orders", s.prove(url))
	got, heard := get(t, c, s.nonce, url, s.prove(url))
	if want.Code != "use_dpop_nonce" || got != want {
		t.Errorf("E01: a proof without a nonce is answered %+v, and without a gateway %+v", got, want)
	}
	for _, name := range []string{"WWW-Authenticate", "Cache-Control", "Content-Type"} {
		if len(heard[http.CanonicalHeaderKey(name)]) != 1 || heard.Get(name) != direct.Get(name) {
			t.Errorf("E01: the client hears %s: %q, and without a gateway %q", name, heard.Values(name), direct.Values(name))
		}
	}
	nonces := heard.Values("DPoP-Nonce")
	if len(nonces) != 1 || nonces[0] == "" {
		t.Fatalf("E01: the client hears DPoP-Nonce: %q, want one", nonces)
	}
	h := s.prove(url)
	claims := dpopclient.Claims{Method: "GET", URI: url, AccessToken: s.token, Nonce: nonces[0]}
	h["DPoP"] = []string{dpoptest.Proof(s.key, claims)}
	expectGet(t, c, s.nonce, url, h, accepted, "a proof with the nonce that came through the gateway")
}

// An API that has used up a proof and whose answer is lost must not be asked again with the same proof: the client would be
// told that it sent a proof twice.
func testNoAnswer(t *testing.T, s *scene, g *gateway, want int) {
	url := "http://" + siteHost + "/orders"
	// ask asks once over a connection that the gateway may have kept from a request before, or over a new one.
	ask := func(listener string, kept bool) (verdict, int) {
		c := g.client(t, listener, false)
		s.raw.CloseClientConnections()
		if kept {
			s.raw.set(t, s, dpophttp.Config{}, reply)
			expectGet(t, c, s.raw, url, s.prove(url), accepted, "before the API ends connections")
		}
		s.raw.set(t, s, dpophttp.Config{}, hangUp)
		v, _ := get(t, c, s.raw, url, s.prove(url))
		return v, len(s.raw.requests())
	}
	for _, kept := range []bool{false, true} {
		if got, n := ask("raw", kept); got != (verdict{Status: want}) || n != 1 {
			t.Errorf("an answer is lost (kept connection: %v): the client hears %+v after %d requests, want %d after one",
				kept, got, n, want)
		}
	}
	if got, n := ask("retries", false); got != usedBefore || n != 2 {
		t.Errorf("control: a gateway that tries again makes %d requests, and the client hears %+v, want 2, %+v", n, got, usedBefore)
	}
	if g.listeners["kept"] == "" {
		return
	}
	// Control: the connection is kept a moment after the answer, so it may take some tries to be sent over it.
	require.Eventually(t, func() bool {
		got, n := ask("kept", true)
		return got == usedBefore && n == 2
	}, patience, tick, "control: a gateway that keeps connections does not try again")
}
