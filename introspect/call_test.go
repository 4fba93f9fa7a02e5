package introspect_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/introspect"
)

// live starts a server on loopback and returns a Config for it.
func live(t *testing.T, h http.Handler, changes ...func(*introspect.Config)) introspect.Config {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	cfg := config(nil, changes...)
	cfg.Endpoint, cfg.HTTPClient = server.URL+"/introspect", server.Client()
	return cfg
}

// What a server answers that is not 200 says nothing about the token: it is a 503 and never a 401, and the operator learns
// which status it was.
func TestStatuses(t *testing.T) {
	for _, code := range []int{201, 204, 206, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 407, 429, 500, 502, 503, 504} {
		s := &server{answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", endpoint+"/again")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, active().String())
		}}
		_, err := newResolver(t, config(s)).ResolveToken(t.Context(), token)
		if verdictOf(t, nil, err) != unavailable || !strings.Contains(fmt.Sprint(err), fmt.Sprintf("%s: it answered %d", endpoint, code)) {
			t.Errorf("status %d: error is %v", code, err)
		}
		if s.count() != 1 {
			t.Errorf("status %d: %d calls", code, s.count())
		}
	}
}

// The operator learns whom the server could not reach.
func TestNobodyIsListening(t *testing.T) {
	r := newResolver(t, config(nil, func(c *introspect.Config) {
		c.Endpoint, c.HTTPClient = "http://127.0.0.1:1/introspect?key=value", nil
	}))
	_, err := r.ResolveToken(t.Context(), token)
	require.Equal(t, unavailable, verdictOf(t, nil, err))
	require.ErrorContains(t, err, "introspect: http://127.0.0.1:1/introspect: dial tcp 127.0.0.1:1: ")
}

// D21: a redirect would take token and secret along. It is never followed, wherever it leads.
func TestD21Redirects(t *testing.T) {
	var mu sync.Mutex
	taken := 0 // how many requests with the token came to where the redirect leads
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.FormValue("token") == token {
			taken++
		}
		text(active().String())(w, r)
	}))
	defer thief.Close()
	for name, to := range map[string]func(*http.Request) string{
		"elsewhere":       func(*http.Request) string { return thief.URL },
		"to itself":       func(r *http.Request) string { return r.URL.String() },
		"broken, a token": func(r *http.Request) string { return "https://%zz/" + r.FormValue("token") },
	} {
		for _, code := range []int{301, 302, 303, 307, 308} {
			t.Run(fmt.Sprint(code, " ", name), func(t *testing.T) {
				s := &server{answer: func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Location", to(r))
					w.WriteHeader(code)
				}}
				cfg := live(t, s)
				_, err := newResolver(t, cfg).ResolveToken(t.Context(), token)
				if verdictOf(t, nil, err) != unavailable || strings.Contains(fmt.Sprint(err), "canary") {
					t.Errorf("D21: error is %v", err)
				}
				if s.count() != 1 || taken != 0 {
					t.Errorf("D21: %d calls, %d of them elsewhere: want one", s.count(), taken)
				}
			})
		}
	}
	t.Run("the control", func(t *testing.T) {
		redirecting := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
		defer redirecting.Close()
		res, err := http.PostForm(redirecting.URL, url.Values{"token": {token}})
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, 1, taken, "net/http by itself takes the form along")
	})
}

// A server that is slow, or sends what is no answer, costs a bounded time and a bounded memory, says nothing about the token,
// and leaves nothing behind.
func TestSlowAndLyingServers(t *testing.T) {
	endless := func(w http.ResponseWriter, prefix, part string) {
		_, _ = io.WriteString(w, prefix)
		part = strings.Repeat(part, 1000)
		for sent := 0; sent < 100<<20; sent += len(part) {
			if _, err := io.WriteString(w, part); err != nil {
				return // who reads has had enough
			}
		}
	}
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   string // what the error says, or "" if the token is refused
	}{
		"100 MB of white space":  {func(w http.ResponseWriter, _ *http.Request) { endless(w, "", " ") }, "more than 524288 bytes"},
		"100 MB of members":      {func(w http.ResponseWriter, _ *http.Request) { endless(w, `{"active":true,"x":"`, "a") }, "more than 524288 bytes"},
		"100 MB beside a status": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); endless(w, "", "a") }, "it answered 500"},
		"a bomb of gzip":         {bomb, "more than 524288 bytes"},
		"gzip that is none": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "canary, which is no gzip")
		}, "no answer in HTTP"},
		"HTML":               {text("<!DOCTYPE html><p>canary"), "not a JSON object"},
		"active as a string": {text(`{"active":"true"}`), ""},
		"a slow drip":        {drip, "deadline exceeded"},
		"no answer":          {hang, "deadline exceeded"},
		"half an answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
		}, "unexpected EOF"},
		"the connection is closed": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := live(t, &server{answer: tt.answer}, func(c *introspect.Config) { c.Timeout = 500 * time.Millisecond })
			if !strings.Contains(tt.want, "deadline") {
				cfg.Timeout = time.Minute // a busy machine has time to spare
			}
			before := goroutines(reading)
			r := newResolver(t, cfg)
			_, err := r.ResolveToken(t.Context(), token)
			if tt.want == "" {
				require.ErrorIs(t, err, dpop.ErrTokenInvalid)
			} else if verdictOf(t, nil, err) != unavailable || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("error is %v, want one that says %q", err, tt.want)
			}
			cfg.HTTPClient.CloseIdleConnections()
			if !settles(func() bool { return goroutines(looking) == 0 && goroutines(reading) == before }, 1000) {
				t.Errorf("a goroutine is left: %d calls, %d connections more", goroutines(looking), goroutines(reading)-before)
			}
		})
	}
	t.Run("the control", func(t *testing.T) { // who does not read an answer to its end, nor closes it, leaves its connection
		cfg := live(t, &server{answer: drip})
		before := goroutines(reading)
		res, err := cfg.HTTPClient.PostForm(cfg.Endpoint, nil)
		require.NoError(t, err)
		cfg.HTTPClient.CloseIdleConnections()
		require.False(t, settles(func() bool { return goroutines(reading) == before }, 10))
		res.Body.Close()
	})
}

// The functions of goroutines that could be left: that of a call, and that of a connection.
const (
	looking = "introspect.(*Resolver).look"
	reading = "net/http.(*persistConn).readLoop"
)

// settles reports whether something comes to be so, and looks so often.
func settles(so func() bool, times int) bool {
	for range times {
		if so() {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return so()
}

func bomb(w http.ResponseWriter, _ *http.Request) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write([]byte(`{"active":true`))
	_, _ = z.Write(bytes.Repeat([]byte{' '}, 4<<20))
	_, _ = z.Write([]byte("}"))
	_ = z.Close()
	w.Header().Set("Content-Encoding", "gzip")
	_, _ = w.Write(packed.Bytes())
}

func drip(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		_, _ = io.WriteString(w, " ")
		_ = http.NewResponseController(w).Flush()
		time.Sleep(10 * time.Millisecond)
	}
}

// D21, R104: the server's certificate is verified; a CA of one's own belongs into RootCAs.
func TestD21Certificates(t *testing.T) {
	s := httptest.NewUnstartedServer(says(active()))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes
	s.StartTLS()
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	trusting := func() *http.Transport {
		return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	}
	for name, tt := range map[string]struct {
		transport *http.Transport
		url       string
		want      string // "" for accepted
	}{
		"R104 self-signed":               {&http.Transport{}, s.URL, "certificate signed by unknown authority"},
		"R104 of another host":           {trusting(), strings.Replace(s.URL, "127.0.0.1", "localhost", 1), "certificate is valid for"},
		"R104 HTTP where HTTPS is meant": {trusting(), "https://" + plain(t), "no answer in HTTP"},
		"the control: of a CA of ours":   {trusting(), s.URL, ""},
	} {
		t.Run(name, func(t *testing.T) {
			defer tt.transport.CloseIdleConnections()
			r := newResolver(t, config(nil, func(c *introspect.Config) {
				c.Endpoint, c.HTTPClient = tt.url+"/introspect", &http.Client{Transport: tt.transport}
			}))
			_, err := r.ResolveToken(t.Context(), token)
			switch {
			case tt.want == "":
				require.NoError(t, err)
			case verdictOf(t, nil, err) != unavailable || !strings.Contains(err.Error(), tt.want):
				t.Errorf("D21: error is %v, want one that says %q", err, tt.want)
			}
		})
	}
}

// plain returns the address of a server without TLS.
func plain(t *testing.T) string {
	s := httptest.NewServer(says(active()))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// raw starts a server that writes what a function makes of a request's text, and closes the connection.
func raw(t *testing.T, answer func(request string) string) (url string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				body, _ := io.ReadAll(r.Body)
				_, _ = io.WriteString(conn, answer(r.Header.Get("Authorization")+" "+string(body)))
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// F02: no error holds the token, the secret, the assertion, the query of the endpoint, or anything that the server sent, be it
// a server that sends back what it was sent.
func TestF02NothingSecretIsTold(t *testing.T) {
	echo := func(member string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			sent := r.Header.Get("Authorization") + r.PostForm.Encode() + r.PostForm.Get("token")
			var value any = sent
			if member == "aud" {
				value = []string{sent}
			}
			text(active().with(members{member: value}).String())(w, r)
		}
	}
	rawly := func(format string) func(t *testing.T) string {
		return func(t *testing.T) string {
			return raw(t, func(sent string) string { return fmt.Sprintf(format, strings.ReplaceAll(sent, "\n", "")) })
		}
	}
	handler := func(h http.HandlerFunc) func(t *testing.T) string {
		return func(t *testing.T) string {
			s := httptest.NewServer(&server{answer: h})
			t.Cleanup(s.Close)
			return s.URL
		}
	}
	servers := map[string]func(t *testing.T) string{
		"iss":        handler(echo("iss")),
		"aud":        handler(echo("aud")),
		"token_type": handler(echo("token_type")),
		"active":     handler(echo("active")),
		"exp":        handler(echo("exp")),
		"cnf":        handler(echo("cnf")),
		"a member, twice": handler(func(w http.ResponseWriter, r *http.Request) {
			t := r.PostForm.Get("token")
			text(fmt.Sprintf(`{"active":true,%q:1,%[1]q:2}`, t))(w, r)
		}),
		"HTML": handler(func(w http.ResponseWriter, r *http.Request) { text("<p>"+r.PostForm.Encode())(w, r) }),
		"401": handler(func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, r.PostForm.Encode(), http.StatusUnauthorized)
		}),
		"a broken Location": handler(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "https://%zz/"+r.PostForm.Get("token"))
			w.WriteHeader(307)
		}),
		"no HTTP":             rawly("%s\r\n\r\n"),
		"a status line":       rawly("HTTP/1.1 %s\r\n\r\n"),
		"a header":            rawly("HTTP/1.1 200 OK\r\n%s\r\n\r\n"),
		"Transfer-Encoding":   rawly("HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n"),
		"Content-Length":      rawly("HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n"),
		"a trailer":           rawly("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n%s\r\n\r\n"),
		"nobody is listening": func(*testing.T) string { return "http://127.0.0.1:1" },
	}
	authentications := map[string]func(*http.Request, url.Values) error{
		"BasicAuth":        introspect.BasicAuth("the-canary-client", secret),
		"ClientSecretPost": introspect.ClientSecretPost("the-canary-client", secret),
		"PrivateKeyJWT":    must(introspect.PrivateKeyJWT("the-canary-client", issuerURL, signers()["ES256"], "the-canary-kid")),
		"Bearer":           introspect.Bearer(func(context.Context) (string, error) { return "the-canary-bearer", nil }),
		"a bad field":      introspect.Bearer(func(context.Context) (string, error) { return "the-canary\r\nbearer", nil }),
	}
	const key = "the-canary-key"
	for name, start := range servers {
		for authName, authenticate := range authentications {
			t.Run(name+", "+authName, func(t *testing.T) {
				var sent []string
				cfg := config(nil, func(c *introspect.Config) {
					c.Authenticate = func(r *http.Request, form url.Values) error {
						err := authenticate(r, form)
						sent = append(sent, form.Get("client_assertion"), form.Encode(), r.Header.Get("Authorization"))
						return err
					}
				})
				cfg.Endpoint, cfg.HTTPClient = start(t)+"/introspect?key="+key, &http.Client{Transport: new(http.Transport)}
				defer cfg.HTTPClient.CloseIdleConnections()
				r := newResolver(t, cfg)
				_, err := r.ResolveToken(t.Context(), token)
				if err == nil && name != "cnf" { // which Verify refuses
					t.Fatal("accepted")
				}
				for said, text := range map[string]string{
					"%v": fmt.Sprintf("%v", err), "%+v": fmt.Sprintf("%+v", err), "%#v": fmt.Sprintf("%#v", err),
					"the Config": fmt.Sprintf("%v %+v %#v", cfg, cfg, &cfg), "the Resolver": fmt.Sprintf("%+v %#v", r, r),
				} {
					if strings.HasPrefix(said, "the ") { // what was configured is in it
						text = strings.ReplaceAll(text, key, "")
					}
					for _, secret := range append(sent, "canary") {
						if secret != "" && strings.Contains(text, secret) {
							t.Errorf("F02: %s holds %.40q: %s", said, secret, text)
						}
					}
				}
			})
		}
	}
	// The control: net/http does tell.
	for _, name := range []string{"a broken Location", "no HTTP", "a header", "Transfer-Encoding", "Content-Length"} {
		res, err := http.PostForm(servers[name](t), url.Values{"token": {token}})
		if err == nil {
			res.Body.Close()
		}
		if !strings.Contains(fmt.Sprint(err), "canary") {
			t.Errorf("the control: %s: net/http says only %v", name, err)
		}
	}
}

// A server may close a connection that was kept. net/http asks again then, because asking twice changes nothing.
func TestAConnectionThatWasKept(t *testing.T) {
	ask := func(t *testing.T, post func(url string) error) (first, second error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		go func() {
			for n := 0; ; n++ {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					br := bufio.NewReader(conn)
					for {
						r, err := http.ReadRequest(br)
						if err != nil {
							return
						}
						_, _ = io.Copy(io.Discard, r.Body)
						if n == 0 && r.Header.Get("Second") != "" {
							return // as a server does that restarts
						}
						body := active().String()
						_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
					}
				}()
			}
		}()
		address := "http://" + l.Addr().String()
		return post(address), post(address)
	}
	client := func() *http.Client { return &http.Client{Transport: new(http.Transport)} }
	t.Run("ours", func(t *testing.T) {
		var r *introspect.Resolver
		first, second := ask(t, func(url string) error {
			if r == nil {
				n := 0
				r = newResolver(t, config(nil, func(c *introspect.Config) {
					c.Endpoint, c.HTTPClient = url, client()
					c.Authenticate = markSecond(&n)
				}))
			}
			_, err := r.ResolveToken(t.Context(), token)
			return err
		})
		require.NoError(t, first)
		if second != nil {
			t.Errorf("a connection that the server closed is told to the caller: %v", second)
		}
	})
	t.Run("the control", func(t *testing.T) {
		c, n := client(), 0
		first, second := ask(t, func(address string) error {
			r, err := http.NewRequest(http.MethodPost, address, strings.NewReader("token=x"))
			require.NoError(t, err)
			require.NoError(t, markSecond(&n)(r, nil))
			res, err := c.Do(r)
			if err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			return err
		})
		require.NoError(t, first)
		require.Error(t, second, "net/http repeats no POST by itself")
	})
}

// markSecond returns an Authenticate that marks each request but the first.
func markSecond(n *int) func(*http.Request, url.Values) error {
	return func(r *http.Request, _ url.Values) error {
		if *n++; *n > 1 {
			r.Header.Set("Second", "yes")
		}
		return nil
	}
}

// Where to ask is what the issuer's metadata say.
func TestDiscovery(t *testing.T) {
	const (
		oauthPath  = "/.well-known/oauth-authorization-server/realms/demo"
		openIDPath = "/realms/demo/.well-known/openid-configuration"
		askPath    = "/realms/demo/introspect"
	)
	// world is a server with metadata and endpoints, and a resolver for it.
	type world struct {
		routes map[string]http.HandlerFunc
		server *server
		r      *introspect.Resolver
	}
	metadata := func(issuer, endpoint string) http.HandlerFunc {
		return text(members{"issuer": issuer, "introspection_endpoint": endpoint}.String())
	}
	redirect := func(to string) http.HandlerFunc {
		return http.RedirectHandler(to, http.StatusTemporaryRedirect).ServeHTTP
	}
	newWorld := func(t *testing.T) *world {
		w := &world{routes: map[string]http.HandlerFunc{
			openIDPath: metadata(issuerURL, "https://id.example.com"+askPath), askPath: text(active().String()),
		}}
		var mu sync.Mutex
		w.server = &server{}
		w.server.set(func(rw http.ResponseWriter, r *http.Request) {
			mu.Lock()
			h, ok := w.routes[r.URL.Path]
			mu.Unlock()
			if !ok {
				h = http.NotFound
			}
			h(rw, r)
		})
		w.r = newResolver(t, config(w.server, func(c *introspect.Config) { c.Endpoint = "" }))
		return w
	}
	for name, tt := range map[string]struct {
		metadata http.HandlerFunc
		want     string // "" for accepted
	}{
		"found":                        {metadata(issuerURL, "https://id.example.com"+askPath), ""},
		"on another host":              {metadata(issuerURL, "https://ask.example.com"+askPath), ""},
		"D24 metadata of another":      {metadata(issuerURL+"2", "https://id.example.com"+askPath), "the metadata are those of"},
		"R104 an endpoint over http":   {metadata(issuerURL, "http://id.example.com"+askPath), "neither https nor"},
		"no endpoint":                  {text(members{"issuer": issuerURL}.String()), "have no introspection_endpoint"},
		"no metadata":                  {http.NotFound, "answered 404"},
		"the server is down":           {status(500), "answered 500"},
		"metadata that are not JSON":   {text("<html>"), "not a JSON object"},
		"R104 redirected elsewhere":    {redirect("https://evil.example.com/"), "redirects to another origin"},
		"redirected within the origin": {redirect("https://id.example.com" + openIDPath + "?"), "redirects more than 3 times"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.routes[openIDPath] = tt.metadata
			_, err := w.r.ResolveToken(t.Context(), token)
			switch {
			case tt.want == "":
				require.NoError(t, err)
			case verdictOf(t, nil, err) != unavailable || !strings.Contains(err.Error(), tt.want):
				t.Errorf("error is %v, want one that says %q", err, tt.want)
			}
		})
	}
	count := func(w *world, path string) (n int) {
		for _, p := range w.server.paths {
			if p == path {
				n++
			}
		}
		return n
	}
	t.Run("RFC 8414 comes first", func(t *testing.T) {
		w := newWorld(t)
		w.routes[oauthPath] = metadata(issuerURL, "https://id.example.com"+askPath)
		wantVerdict(t, w.r, token, accepted)
		require.Equal(t, []string{oauthPath, askPath}, w.server.paths)
	})
	t.Run("once for all", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.server.latency = time.Second
			var wg sync.WaitGroup
			for n := range 100 {
				wg.Go(func() { wantVerdict(t, w.r, fmt.Sprint(n), accepted) })
			}
			wg.Wait()
			require.Equal(t, 1, count(w, openIDPath))
		})
	})
	t.Run("it fails, once a second", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			good := w.routes[openIDPath]
			w.routes[openIDPath] = status(500)
			for range 100 {
				wantVerdict(t, w.r, token, unavailable)
			}
			require.Equal(t, 1, count(w, openIDPath))
			w.routes[openIDPath] = good
			time.Sleep(time.Second)
			wantVerdict(t, w.r, token, accepted)
		})
	})
	t.Run("it moves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			wantVerdict(t, w.r, token, accepted)
			time.Sleep(time.Second)
			delete(w.routes, askPath)
			w.routes[openIDPath] = metadata(issuerURL, "https://id.example.com/new")
			w.routes["/new"] = text(active().String())
			wantVerdict(t, w.r, token, unavailable)
			wantVerdict(t, w.r, token, accepted)
			for range 10 {
				time.Sleep(10 * time.Second)
				wantVerdict(t, w.r, token, accepted)
			}
			if n := count(w, openIDPath); n != 2 {
				t.Errorf("the metadata were read %d times, want twice: there is no doubt any more", n)
			}
		})
	})
	// One failed call must not make what is known be forgotten, nor a server whose metadata are slow be waited for.
	for name, broken := range map[string]http.HandlerFunc{
		"are down": status(500), "hang": hang, "are of another": metadata("x", "https://id.example.com/new"),
	} {
		t.Run("one call fails, and the metadata "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				wantVerdict(t, w.r, token, accepted)
				time.Sleep(time.Second)
				good := w.routes[askPath]
				w.routes[askPath] = status(500)
				wantVerdict(t, w.r, token, unavailable)
				w.routes[askPath], w.routes[openIDPath] = good, broken
				go verdict(t, w.r, "this one reads them")
				synctest.Wait()
				start := time.Now()
				wantVerdict(t, w.r, token, accepted)
				if took := time.Since(start); took > 0 {
					t.Errorf("it took %v", took)
				}
				time.Sleep(time.Minute)
				wantVerdict(t, w.r, token, map[bool]string{true: unavailable, false: accepted}[name == "hang"])
			})
		})
	}
	// A call that had to wait has little time left; that its discovery ran out says nothing of the next one's.
	t.Run("a call in a hurry", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			good := w.routes[openIDPath]
			w.routes[openIDPath] = hang
			wantVerdict(t, w.r, token, unavailable)
			w.routes[openIDPath] = good
			wantVerdict(t, w.r, token, accepted)
		})
	})
}

// The name and the secret arrive as RFC 6749 §2.3.1 says, whatever characters they have.
func TestBasicAuth(t *testing.T) {
	for _, text := range []string{"plain", "a:b", "100%", "a+b", "a&b=c", "a b", "é", "~*'()!", "%41", strings.Repeat("x", 500)} {
		s := says(active())
		r := newResolver(t, config(s, func(c *introspect.Config) { c.Authenticate = introspect.BasicAuth("id "+text, text) }))
		wantVerdict(t, r, token, accepted)
		scheme, credentials, _ := strings.Cut(s.header.Get("Authorization"), " ")
		require.Equal(t, "Basic", scheme)
		id, secret, ok := strings.Cut(string(must(base64.StdEncoding.DecodeString(credentials))), ":")
		if !ok || must(url.QueryUnescape(id)) != "id "+text || must(url.QueryUnescape(secret)) != text || strings.ContainsAny(id+secret, " :&=é") {
			t.Errorf("%q arrives as %q and %q", text, id, secret)
		}
		if len(s.form) != 2 {
			t.Errorf("the form is %v, want no secret in it", s.form)
		}
	}
}

func TestSecretInTheForm(t *testing.T) {
	s := says(active())
	r := newResolver(t, config(s, func(c *introspect.Config) { c.Authenticate = introspect.ClientSecretPost("a&b", "c=d+ é%") }))
	wantVerdict(t, r, token, accepted)
	if s.form.Get("client_id") != "a&b" || s.form.Get("client_secret") != "c=d+ é%" || s.header.Get("Authorization") != "" {
		t.Errorf("the form is %v, the field %q", s.form, s.header.Get("Authorization"))
	}
}

func TestBearer(t *testing.T) {
	s := says(active())
	n := 0
	r := newResolver(t, config(s, func(c *introspect.Config) {
		c.Authenticate = introspect.Bearer(func(ctx context.Context) (string, error) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("the context has no end")
			}
			n++
			return fmt.Sprint("own-", n), nil
		})
	}))
	for n := range 2 {
		wantVerdict(t, r, token, accepted)
		if got, want := s.header.Get("Authorization"), fmt.Sprint("Bearer own-", n+1); got != want {
			t.Errorf("Authorization is %q, want %q: a token for each call", got, want)
		}
	}
}

// What cannot authenticate does not ask.
func TestNoCredentials(t *testing.T) {
	failed := errors.New("no token from the vault")
	for name, tt := range map[string]struct {
		authenticate func(*http.Request, url.Values) error
		want         string
	}{
		"BasicAuth, no secret":        {introspect.BasicAuth("id", ""), "give both"},
		"BasicAuth, no id":            {introspect.BasicAuth("", "secret"), "give both"},
		"ClientSecretPost, no secret": {introspect.ClientSecretPost("id", ""), "give both"},
		"ClientSecretPost, no id":     {introspect.ClientSecretPost("", "secret"), "give both"},
		"MutualTLS, no id":            {introspect.MutualTLS(""), "the client's id is empty"},
		"Bearer, no token":            {introspect.Bearer(func(context.Context) (string, error) { return "", nil }), "returned no token"},
		"Bearer fails":                {introspect.Bearer(func(context.Context) (string, error) { return "", failed }), failed.Error()},
		"Bearer of nothing":           {introspect.Bearer(nil), "nil pointer dereference"},
	} {
		t.Run(name, func(t *testing.T) {
			s := says(active())
			_, err := newResolver(t, config(s, func(c *introspect.Config) { c.Authenticate = tt.authenticate })).ResolveToken(t.Context(), token)
			if verdictOf(t, nil, err) != unavailable || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want one that says %q", err, tt.want)
			}
			if s.count() != 0 {
				t.Error("the server was asked")
			}
		})
	}
}

// A client certificate in the transport is what authenticates with MutualTLS.
func TestMutualTLS(t *testing.T) {
	s := says(active())
	var id string
	s.set(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) != 1 {
			w.WriteHeader(401)
			return
		}
		id = r.PostForm.Get("client_id")
		text(active().String())(w, r)
	})
	l := httptest.NewUnstartedServer(s)
	l.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	l.StartTLS()
	defer l.Close()
	roots := x509.NewCertPool()
	roots.AddCert(l.Certificate())
	for name, tt := range map[string]struct {
		certificates []tls.Certificate
		want         string
	}{
		"with a certificate":   {l.TLS.Certificates, accepted}, // the server's own will do
		"without: the control": {nil, unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: tt.certificates}}
			defer transport.CloseIdleConnections()
			wantVerdict(t, newResolver(t, config(nil, func(c *introspect.Config) {
				c.Endpoint, c.HTTPClient = l.URL, &http.Client{Transport: transport}
				c.Authenticate = introspect.MutualTLS("orders-api")
			})), token, tt.want)
		})
	}
	require.Equal(t, "orders-api", id)
}
