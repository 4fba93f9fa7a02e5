package dpophttp_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/replay/memstore"
)

// newCertificate returns a self-signed certificate, as RFC 8705 §2.2 takes them.
func newCertificate(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// field returns the value of a Client-Cert field (RFC 9440 §2.2).
func field(der []byte) string { return ":" + base64.StdEncoding.EncodeToString(der) + ":" }

const (
	proxyAddress = "192.0.2.1:1234"
	stranger     = "198.51.100.1:1234"
)

func behindProxy(cfg dpophttp.Config) dpophttp.Config {
	cfg.Origins = []string{"https://api.example.com"}
	cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	return cfg
}

// R150, B10: the client's certificate is what a trusted proxy says in one well-formed field, or that of the connection, and never
// that of the proxy's own connection.
func TestClientCert(t *testing.T) {
	client, proxy, other := newCertificate(t, "client"), newCertificate(t, "proxy"), newCertificate(t, "other")
	der := client.Certificate[0]
	good := field(der)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	on, off := dpophttp.Config{ClientCert: true}, dpophttp.Config{Forwarded: dpophttp.XForwarded}
	none, fromClient, fromProxy := (*x509.Certificate)(nil), client.Leaf, proxy.Leaf

	for name, tt := range map[string]struct {
		config     dpophttp.Config
		remote     string
		connection *x509.Certificate // of TLS
		lines      []string
		want       *x509.Certificate
	}{
		"R150 from the proxy":               {on, proxyAddress, none, []string{good}, fromClient},
		"R150 the proxy has one of its own": {on, proxyAddress, fromProxy, []string{good}, fromClient},
		"spaces around it":                  {on, proxyAddress, none, []string{"  " + good + " "}, fromClient},
		"B10 no field, the proxy's own":     {on, proxyAddress, fromProxy, nil, none},
		"B10 a bad field, the proxy's own":  {on, proxyAddress, fromProxy, []string{"::"}, none},
		"B10 from a stranger":               {on, stranger, none, []string{good}, none},
		"B10 from a stranger with another":  {on, stranger, other.Leaf, []string{good}, other.Leaf},
		"B10 from no address":               {on, "@", none, []string{good}, none},
		"B10 not configured":                {off, proxyAddress, none, []string{good}, none},
		"B10 not configured, the proxy's":   {off, proxyAddress, fromProxy, nil, none},
		"no proxy, on the connection":       {on, stranger, fromClient, nil, fromClient},
		"B10 two lines":                     {on, proxyAddress, none, []string{good, good}, none},
		"B10 two lines, one is empty":       {on, proxyAddress, none, []string{"", good}, none},
		"B10 a list":                        {on, proxyAddress, none, []string{good + ", " + good}, none},
		"B10 a list of two":                 {on, proxyAddress, none, []string{good + "," + field(other.Certificate[0])}, none},
		"a parameter":                       {on, proxyAddress, none, []string{good + ";a=1"}, none},
		"empty":                             {on, proxyAddress, none, []string{""}, none},
		"one colon":                         {on, proxyAddress, none, []string{":"}, none},
		"two colons, as HAProxy for none":   {on, proxyAddress, none, []string{"::"}, none},
		"no colons":                         {on, proxyAddress, none, []string{strings.Trim(good, ":")}, none},
		"one colon is missing":              {on, proxyAddress, none, []string{strings.TrimSuffix(good, ":")}, none},
		"another character for the first":   {on, proxyAddress, none, []string{"x" + good[1:]}, none},
		"another character for the last":    {on, proxyAddress, none, []string{good[:len(good)-1] + "x"}, none},
		"three colons":                      {on, proxyAddress, none, []string{":" + good}, none},
		"no base64":                         {on, proxyAddress, none, []string{":#" + good[1:]}, none},
		"base64url":                         {on, proxyAddress, none, []string{":" + base64.URLEncoding.EncodeToString(urlSensitive(t)) + ":"}, none},
		"no padding":                        {on, proxyAddress, none, []string{":" + base64.RawStdEncoding.EncodeToString(padded(t)) + ":"}, none},
		"other last bits":                   {on, proxyAddress, none, []string{otherLastBits(t)}, none},
		"a line break":                      {on, proxyAddress, none, []string{good[:20] + "\n" + good[20:]}, none},
		"a space in it":                     {on, proxyAddress, none, []string{good[:20] + " " + good[20:]}, none},
		"PEM":                               {on, proxyAddress, none, []string{text}, none},
		"PEM in URL encoding":               {on, proxyAddress, none, []string{url.QueryEscape(text)}, none},
		"PEM between colons":                {on, proxyAddress, none, []string{field([]byte(text))}, none},
		"D13 something behind it":           {on, proxyAddress, none, []string{field(append(bytes.Clone(der), 0))}, none},
		"D13 another certificate behind it": {on, proxyAddress, none, []string{field(append(bytes.Clone(der), other.Certificate[0]...))}, none},
		"half a certificate":                {on, proxyAddress, none, []string{field(der[:len(der)/2])}, none},
		"no certificate":                    {on, proxyAddress, none, []string{field([]byte("certificate"))}, none},
	} {
		t.Run(name, func(t *testing.T) {
			v := &recorder{result: accepted}
			protect, err := dpophttp.New(v, behindProxy(tt.config))
			require.NoError(t, err)
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = tt.remote
			if tt.connection != nil {
				r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{tt.connection}}
			}
			if tt.lines != nil {
				r.Header["Client-Cert"] = tt.lines
			}
			protect(ok).ServeHTTP(httptest.NewRecorder(), r)
			got := v.got.ClientCertificate
			if (got == nil) != (tt.want == nil) || got != nil && !got.Equal(tt.want) {
				t.Errorf("R150: the client's certificate is %s, want %s", nameOf(got), nameOf(tt.want))
			}
		})
	}
}

func nameOf(cert *x509.Certificate) string {
	if cert == nil {
		return "none"
	}
	return cert.Subject.CommonName
}

// urlSensitive returns a certificate whose base64 has a character that base64url spells otherwise; padded one whose base64
// ends in an equals sign. Most have, so that this ends soon.
func urlSensitive(t testing.TB) []byte {
	return certificateWhere(t, func(text string) bool { return strings.ContainsAny(text, "+/") })
}

func padded(t testing.TB) []byte {
	return certificateWhere(t, func(text string) bool { return strings.HasSuffix(text, "=") })
}

func certificateWhere(t testing.TB, is func(base64 string) bool) []byte {
	for n := 0; ; n++ {
		der := newCertificate(t, strings.Repeat("x", n%50)).Certificate[0]
		if is(base64.StdEncoding.EncodeToString(der)) {
			return der
		}
	}
}

// otherLastBits returns a field whose base64 has bits behind the last byte.
func otherLastBits(t testing.TB) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	text := []byte(base64.StdEncoding.EncodeToString(padded(t)))
	last := bytes.IndexByte(text, '=') - 1
	text[last] = alphabet[strings.IndexByte(alphabet, text[last])+1]
	return ":" + string(text) + ":"
}

func TestClientCertConfig(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	for name, tt := range map[string]struct {
		config dpophttp.Config
		want   string // "" for none
	}{
		"no proxies":           {dpophttp.Config{ClientCert: true}, "ClientCert is set: set TrustedProxies, too"},
		"proxies":              {dpophttp.Config{ClientCert: true, TrustedProxies: proxies}, ""},
		"and forwarding":       {dpophttp.Config{ClientCert: true, TrustedProxies: proxies, Forwarded: dpophttp.XForwarded}, ""},
		"proxies for nothing":  {dpophttp.Config{TrustedProxies: proxies}, "set Forwarded, too"},
		"forwarding, no proxy": {dpophttp.Config{ClientCert: true, Forwarded: dpophttp.Forwarded}, "Forwarded is set: set TrustedProxies, too"},
	} {
		tt.config.Origins = []string{"https://api.example.com"}
		_, err := dpophttp.New(&recorder{}, tt.config)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error is %v, want %q", name, err, tt.want)
		}
	}
}

// B10: forwarding fields of proxies that are trusted with certificates only mean nothing.
func TestClientCertAloneTrustsNoForwarding(t *testing.T) {
	v := &recorder{result: accepted}
	cfg := behindProxy(dpophttp.Config{ClientCert: true})
	cfg.Origins = append(cfg.Origins, "https://admin.example.com")
	for header, want := range map[dpophttp.Header]string{"": "https://api.example.com/", dpophttp.XForwarded: "https://admin.example.com/"} {
		cfg.Forwarded = header // the second is the control
		protect, err := dpophttp.New(v, cfg)
		require.NoError(t, err)
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host, r.RemoteAddr = "api.example.com", proxyAddress
		r.Header.Set("X-Forwarded-Host", "admin.example.com")
		protect(ok).ServeHTTP(httptest.NewRecorder(), r)
		if v.got.URI != want {
			t.Errorf("B10 Forwarded %q: the target is %q, want %q", header, v.got.URI, want)
		}
	}
}

// certVerifier returns a Verifier of tokens that are bound to this certificate.
func certVerifier(t testing.TB, cert *x509.Certificate) *dpop.Verifier {
	t.Helper()
	sum := sha256.Sum256(cert.Raw)
	token := &dpop.Token{Subject: "alice", Confirmation: dpop.Confirmation{X5T: base64.RawURLEncoding.EncodeToString(sum[:])}}
	store, err := memstore.New(memstore.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { store.Close() })
	v, err := dpop.NewVerifier(dpop.Config{
		Resolver: dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) { return token, nil }), Replay: store,
	})
	require.NoError(t, err)
	return v
}

// R150: a token that is bound to a certificate passes with this certificate only, be it that of the TLS connection or what a
// trusted proxy says.
func TestR150CertificateBoundTokens(t *testing.T) {
	client, other, proxy := newCertificate(t, "client"), newCertificate(t, "other"), newCertificate(t, "proxy")
	v := certVerifier(t, client.Leaf)
	t.Run("in TLS", func(t *testing.T) {
		protect, err := dpophttp.New(v, dpophttp.Config{Origins: []string{"https://api.example.com"}})
		require.NoError(t, err)
		server := httptest.NewUnstartedServer(protect(ok))
		server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		server.StartTLS()
		defer server.Close()
		for name, tt := range map[string]struct {
			certificates []tls.Certificate
			field        string
			want         int
		}{
			"R150 its own":                      {[]tls.Certificate{client}, "", 200},
			"R150 another":                      {[]tls.Certificate{other}, "", 401},
			"R150 none":                         {nil, "", 401},
			"B10 none, and a field":             {nil, field(client.Certificate[0]), 401},
			"B10 another, and a field":          {[]tls.Certificate{other}, field(client.Certificate[0]), 401},
			"B10 its own, and another's, field": {[]tls.Certificate{client}, field(other.Certificate[0]), 200},
		} {
			t.Run(name, func(t *testing.T) {
				transport := server.Client().Transport.(*http.Transport).Clone()
				transport.TLSClientConfig.Certificates = tt.certificates
				defer transport.CloseIdleConnections()
				r, err := http.NewRequest(http.MethodGet, server.URL, nil)
				require.NoError(t, err)
				r.Header.Set("Authorization", "Bearer token")
				if tt.field != "" {
					r.Header.Set("Client-Cert", tt.field)
				}
				res, err := transport.RoundTrip(r)
				require.NoError(t, err)
				defer res.Body.Close()
				if res.StatusCode != tt.want {
					t.Errorf("R150: status is %d, want %d", res.StatusCode, tt.want)
				}
			})
		}
	})
	t.Run("behind a proxy", func(t *testing.T) {
		for name, tt := range map[string]struct {
			verifier *dpop.Verifier
			remote   string
			field    string
			want     int
		}{
			"R150 its own":                    {v, proxyAddress, field(client.Certificate[0]), 200},
			"R150 another":                    {v, proxyAddress, field(other.Certificate[0]), 401},
			"R150 none":                       {v, proxyAddress, "", 401},
			"B10 its own, from a stranger":    {v, stranger, field(client.Certificate[0]), 401},
			"B10 bound to the proxy's, none":  {certVerifier(t, proxy.Leaf), proxyAddress, "", 401},
			"B10 bound to the proxy's, given": {certVerifier(t, proxy.Leaf), proxyAddress, field(client.Certificate[0]), 401},
		} {
			t.Run(name, func(t *testing.T) {
				protect, err := dpophttp.New(tt.verifier, behindProxy(dpophttp.Config{ClientCert: true}))
				require.NoError(t, err)
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.RemoteAddr = tt.remote
				if tt.remote == proxyAddress {
					r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{proxy.Leaf}}
				}
				r.Header.Set("Authorization", "Bearer token")
				if tt.field != "" {
					r.Header.Set("Client-Cert", tt.field)
				}
				w := httptest.NewRecorder()
				protect(ok).ServeHTTP(w, r)
				if w.Code != tt.want {
					t.Errorf("R150: status is %d, want %d", w.Code, tt.want)
				}
			})
		}
	})
}

// FuzzClientCert sends anything at all as a Client-Cert field. Nothing panics, and what is taken for a certificate is spelled in
// the one way that it has.
func FuzzClientCert(f *testing.F) {
	good := field(newCertificate(f, "client").Certificate[0])
	for _, seed := range []string{
		good, "", ":", "::", ":::", ":AA==:", ":AB==:", good[1:], good + ";a=1", good + ", " + good, " " + good, good[:20] + "\n" + good[20:],
	} {
		f.Add(seed)
	}
	v := &recorder{result: accepted}
	protect, err := dpophttp.New(v, behindProxy(dpophttp.Config{ClientCert: true}))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, line string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = proxyAddress
		r.Header["Client-Cert"] = []string{line}
		protect(ok).ServeHTTP(httptest.NewRecorder(), r)
		if cert := v.got.ClientCertificate; cert != nil && field(cert.Raw) != strings.Trim(line, " ") {
			t.Errorf("%q is taken for the certificate %q", line, field(cert.Raw))
		}
	})
}

func BenchmarkClientCert(b *testing.B) {
	v := &recorder{result: accepted}
	protect, err := dpophttp.New(v, behindProxy(dpophttp.Config{ClientCert: true}))
	require.NoError(b, err)
	handler := protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for name, lines := range map[string][]string{"none": nil, "one": {field(newCertificate(b, "client").Certificate[0])}} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = proxyAddress
			r.Header["Client-Cert"] = lines
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				handler.ServeHTTP(w, r)
			}
		})
	}
}

// A proxy ends TLS and says with which certificate a client came. It must replace what a client sends under that name.
func ExampleConfig_clientCert() {
	var verifier *dpop.Verifier // such as dpop.NewVerifier returns
	protect, err := dpophttp.New(verifier, dpophttp.Config{
		Origins:        []string{"https://api.example.com"},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		ClientCert:     true,
	})
	if err != nil {
		log.Fatal(err)
	}
	_ = protect // for a handler
}
