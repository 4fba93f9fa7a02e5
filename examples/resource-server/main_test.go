package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
)

// start runs the server with args until the test ends, and returns its URL and the lines it logs after that.
func start(t *testing.T, args ...string) (string, *bufio.Scanner) {
	o, err := parseOptions(args, io.Discard)
	require.NoError(t, err)
	stderr, writer, err := os.Pipe() // unlike io.Pipe, it lets the server go on while nobody reads
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, o, writer)
		writer.Close()
	}()
	t.Cleanup(func() {
		cancel()
		defer stderr.Close()
		if err := <-ended; err != nil {
			t.Errorf("the server did not end cleanly: %v", err)
		}
	})
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
			return url, lines
		}
	}
	t.Fatalf("the server ended: %v", <-ended)
	return "", nil
}

type answer struct {
	Status    int
	Challenge string
	Subject   string `json:"sub"`
	ClientID  string `json:"client_id"`
	Scope     string `json:"scope"`
	JKT       string `json:"jkt"`
	Bound     bool   `json:"sender_constrained"`
	Error     string `json:"error"`
}

func send(t *testing.T, client *http.Client, method, url, authorization string, proofs ...string) (a answer) {
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	req.Header["DPoP"] = proofs
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	if len(body) > 0 {
		require.NoError(t, json.Unmarshal(body, &a), "body: %s", body)
	}
	a.Status, a.Challenge = resp.StatusCode, strings.Join(resp.Header.Values("WWW-Authenticate"), "\n")
	return a
}

func TestEcho(t *testing.T) {
	issuer := dpoptest.NewIssuer()
	defer issuer.Close()
	url, logged := start(t, "-listen", "127.0.0.1:0", "-issuer", issuer.URL, "-audience", "api")
	key := dpoptest.NewKey()
	token := issuer.Token("api", key.JKT(), nil)
	proof := func(method, uri string) string {
		return dpoptest.Proof(key, dpopclient.Claims{Method: method, URI: uri, AccessToken: token})
	}

	want := answer{Status: 200, Subject: "alice", ClientID: "test-client", Scope: "orders:read", JKT: key.JKT(), Bound: true}
	for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		for _, path := range []string{"/", "/a/b?c=d", "//a/../b", "/.well-known/x"} {
			if got := send(t, http.DefaultClient, method, url+path, "DPoP "+token, proof(method, url+path)); got != want {
				t.Errorf("%s %s: %+v, want %+v", method, path, got, want)
			}
		}
	}

	got := send(t, http.DefaultClient, "GET", url+"/", "DPoP "+token, proof("GET", url+"/other"))
	if got.Status != 401 || got.Error != "invalid_dpop_proof" || !strings.Contains(got.Challenge, url+wellKnown) {
		t.Errorf("proof for another URL: %+v, want 401 invalid_dpop_proof and a challenge that names the metadata", got)
	}
	for logged.Scan() && !strings.Contains(logged.Text(), "request refused") {
	}
	var record struct {
		DPoP struct{ Reason, Detail string }
	}
	require.NoError(t, json.Unmarshal(logged.Bytes(), &record))
	if record.DPoP.Reason != "htu_mismatch" || !strings.Contains(record.DPoP.Detail, url+"/other") {
		t.Errorf("logged %s, want the reason htu_mismatch and the htu received", logged.Text())
	}
}

// TestOrigins addresses the server by each of two names, and through a proxy that is trusted to say which.
func TestOrigins(t *testing.T) {
	issuer := dpoptest.NewIssuer()
	defer issuer.Close()
	const one, two = "https://one.example.com", "https://two.example.com"
	url, _ := start(t, "-listen", "127.0.0.1:0", "-issuer", issuer.URL, "-audience", "api",
		"-origin", one+","+two, "-trusted-proxies", "127.0.0.0/8")
	key := dpoptest.NewKey()
	token := issuer.Token("api", key.JKT(), nil)
	for name, test := range map[string]struct {
		host, forwarded, origin string
		want                    int
	}{
		"Host":                        {"two.example.com", "", two, 200},
		"Host, proof for the other":   {"two.example.com", "", one, 401},
		"forwarded by a proxy":        {"internal", "one.example.com", one, 200},
		"Host of none":                {"evil.example", "", one, 400},
		"forwarded, but none of ours": {"one.example.com", "evil.example", one, 400},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), "GET", url+"/", nil)
			require.NoError(t, err)
			req.Host = test.host
			if test.forwarded != "" {
				req.Header.Set("X-Forwarded-Host", test.forwarded)
			}
			req.Header.Set("Authorization", "DPoP "+token)
			req.Header.Set("DPoP", dpoptest.Proof(key, dpopclient.Claims{Method: "GET", URI: test.origin + "/", AccessToken: token}))
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			resp.Body.Close()
			if resp.StatusCode != test.want {
				t.Errorf("B10: status is %d, want %d", resp.StatusCode, test.want)
			}
		})
	}
}

// TestListenByName keeps the host of -listen, since that is what clients will use.
func TestListenByName(t *testing.T) {
	o := options{listen: "localhost:0"}
	require.NoError(t, o.setOrigin(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}))
	if want := "http://localhost:8080"; o.origins[0] != want {
		t.Errorf("the origin is %q, want %q", o.origins[0], want)
	}
}

const wellKnown = "/.well-known/oauth-protected-resource"

func TestMetadata(t *testing.T) {
	for name, test := range map[string]struct {
		flags []string
		want  string
	}{
		"strict":       {nil, `"dpop_signing_alg_values_supported":["ES256","EdDSA","PS256"],"dpop_bound_access_tokens_required":true`},
		"bearer, algs": {[]string{"-allow-bearer", "-algs", "ES384,ES256"}, `"dpop_signing_alg_values_supported":["ES384","ES256"]`},
	} {
		t.Run(name, func(t *testing.T) {
			url, _ := start(t, append([]string{"-listen", "127.0.0.1:0", "-origin", "https://api.example.com",
				"-issuer", "http://127.0.0.1:1", "-audience", "api"}, test.flags...)...)
			resp, err := http.Get(url + wellKnown)
			require.NoError(t, err)
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			want := `{"resource":"https://api.example.com","authorization_servers":["http://127.0.0.1:1"],"bearer_methods_supported":["header"],` + test.want + `}`
			if got := strings.TrimSpace(string(body)); got != want {
				t.Errorf("R131: metadata is\n%s, want\n%s", got, want)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	cert, key := certificate(t)
	url, _ := start(t, "-listen", "127.0.0.1:0", "-tls-cert", cert, "-tls-key", key, "-issuer", "http://127.0.0.1:1", "-audience", "api")
	dial := func(config *tls.Config) error {
		config.InsecureSkipVerify = true
		conn, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), config)
		if err == nil {
			conn.Close()
		}
		return err
	}
	require.NoError(t, dial(&tls.Config{MinVersion: tls.VersionTLS13}))
	require.NoError(t, dial(&tls.Config{MaxVersion: tls.VersionTLS12}))
	if dial(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}}) == nil {
		t.Error("a suite of TLS 1.2 without AES-GCM was accepted")
	}
	if dial(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}) == nil {
		t.Error("TLS 1.1 was accepted")
	}
}

// TestNoServerForReplay ends at once, and says which server is missing.
func TestNoServerForReplay(t *testing.T) {
	for _, url := range []string{"redis://127.0.0.1:1", "tiered+redis://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/main", "infinispan://127.0.0.1:1"} {
		o, err := parseOptions([]string{"-listen", "127.0.0.1:0", "-issuer", "http://127.0.0.1:1", "-audience", "api", "-replay", url}, io.Discard)
		require.NoError(t, err)
		start := time.Now()
		err = run(t.Context(), o, io.Discard)
		if err == nil || !strings.Contains(err.Error(), "-replay: redisstore: dial tcp 127.0.0.1:1: ") || time.Since(start) > 5*time.Second {
			t.Errorf("%s: error is %v after %v, want one at once that names the address", url, err, time.Since(start))
		}
	}
}

// certificate writes a self-signed certificate for 127.0.0.1.
func certificate(t *testing.T) (certFile, keyFile string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{{127, 0, 0, 1}}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return certFile, keyFile
}

func TestWrongFlags(t *testing.T) {
	good := []string{"-listen", "127.0.0.1:0", "-issuer", "http://127.0.0.1:1", "-audience", "api"}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no such flag":           {append(good, "-bogus"), "not defined: -bogus: -help lists the flags"},
		"no issuer":              {[]string{"-audience", "api"}, "-issuer is missing: give"},
		"no audience":            {[]string{"-issuer", "https://id.example.com"}, "-audience is missing: give"},
		"a word":                 {append(good, "memory"), `"memory" is no flag`},
		"introspection, no id":   {append(good, "-introspect", "https://id.example.com/introspect"), "-introspect and -client-id go together"},
		"introspection, secret":  {append(good, "-introspect", "https://id.example.com/introspect", "-client-id", "api"), "environment CLIENT_SECRET is empty"},
		"nonces":                 {append(good, "-nonce"), "environment NONCE_SECRET: set 32 random bytes"},
		"no such store":          {append(good, "-replay", "memcached://127.0.0.1"), "-replay: redisstore: the URL is of no kind that is known"},
		"secret in a URL":        {append(good, "-replay", "redis://:secret@127.0.0.1"), "the URL has a user name or a password: leave it out"},
		"no primary":             {append(good, "-replay", "redis+sentinel://127.0.0.1"), "names no primary"},
		"half of TLS":            {append(good, "-tls-cert", "cert.pem"), "-tls-cert and -tls-key go together"},
		"no such certificate":    {append(good, "-tls-cert", "no.pem", "-tls-key", "no.pem"), "-tls-cert and -tls-key: open no.pem"},
		"negative duration":      {append(good, "-max-age", "-5s"), "-max-age, -leeway and -clock-skew are not negative"},
		"duration without unit":  {append(good, "-leeway", "5"), `invalid value "5" for flag -leeway`},
		"leeway of an hour":      {append(good, "-leeway", "1h"), "Leeway is 1h0m0s: set at most 1m0s"},
		"symmetric algorithm":    {append(good, "-algs", "ES256,HS256"), `Algorithms has "HS256"`},
		"proxy without a length": {append(good, "-trusted-proxies", "10.0.0.1"), `-trusted-proxies has "10.0.0.1": give address ranges`},
		"issuer over plain http": {[]string{"-listen", "127.0.0.1:0", "-issuer", "http://id.example.com", "-audience", "api"}, "https"},
		"origin with a path":     {append(good, "-origin", "https://api.example.com/v1"), `Origins has "https://api.example.com/v1"`},
		"origin without scheme":  {append(good, "-origin", "api.example.com"), `-origin has "api.example.com": give scheme and host`},
		"any address, no origin": {append(good, "-listen", ":0"), "-origin is missing"},
		"no such address":        {append(good, "-listen", "127.0.0.1:x"), "-listen: "},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := parseOptions(test.args, io.Discard)
			if err == nil {
				ctx, cancel := context.WithCancel(t.Context())
				cancel() // so that a mistake that is not found ends the server at once
				err = run(ctx, o, io.Discard)
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want one that says %q", err, test.want)
			}
		})
	}
}
