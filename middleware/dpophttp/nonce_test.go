package dpophttp_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/middleware/dpophttp"
)

// R043, R048, E09: whatever a handler sets and however it answers, an answer with a nonce of ours has that one alone, and no cache
// keeps it. The control is the same handler with two fields set before it.
func TestR043AHandlerThatSetsItsOwnNonce(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("DPoP-Nonce", "the-upstreams")
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = io.WriteString(w, "body")
	}))
	defer upstream.Close()
	to, err := url.Parse(upstream.URL)
	require.NoError(t, err)
	own := func(w http.ResponseWriter) {
		w.Header().Add("DPoP-Nonce", "the-handlers")
		w.Header().Set("Cache-Control", "public")
		w.Header().Add("Cache-Control", "max-age=60")
	}
	write := func(w http.ResponseWriter) { _, _ = io.WriteString(w, "body") }
	for name, handler := range map[string]http.HandlerFunc{
		"writes":          func(w http.ResponseWriter, _ *http.Request) { own(w); write(w) },
		"writes a status": func(w http.ResponseWriter, _ *http.Request) { own(w); w.WriteHeader(200); write(w) },
		"hints before":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); own(w); w.WriteHeader(200); write(w) },
		"flushes":         func(w http.ResponseWriter, _ *http.Request) { own(w); w.(http.Flusher).Flush(); write(w) },
		"flushes with a controller": func(w http.ResponseWriter, _ *http.Request) {
			own(w)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			write(w)
		},
		"copies": func(w http.ResponseWriter, _ *http.Request) {
			own(w)
			_, _ = io.Copy(w, io.LimitReader(neverEnding('b'), 4))
		},
		"writes nothing": func(w http.ResponseWriter, _ *http.Request) { own(w) },
		"proxies":        httputil.NewSingleHostReverseProxy(to).ServeHTTP,
	} {
		answer := func(protect func(http.Handler) http.Handler) *http.Response {
			server := httptest.NewServer(protect(handler))
			defer server.Close()
			answer, err := server.Client().Get(server.URL)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			return answer
		}
		result := *accepted
		result.Nonce = "ours"
		protect, err := dpophttp.New(&recorder{result: &result}, dpophttp.Config{Origins: []string{"https://api.example.com"}})
		require.NoError(t, err)
		got := answer(protect).Header
		if n, c := got.Values("DPoP-Nonce"), got.Values("Cache-Control"); len(n) != 1 || n[0] != "ours" || len(c) != 1 || c[0] != "no-store" {
			t.Errorf("a handler that %s: the answer has the nonces %q and the Cache-Control %q, want ours and no-store alone", name, n, c)
		}
		naive := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("DPoP-Nonce", "ours")
				w.Header().Set("Cache-Control", "no-store")
				next.ServeHTTP(w, r)
			})
		}
		if got := answer(naive).Header; len(got.Values("DPoP-Nonce")) == 1 && got.Get("Cache-Control") == "no-store" {
			t.Errorf("control: a handler that %s leaves fields alone that are set before it, so this test shows nothing", name)
		}
	}
}

type neverEnding byte

func (b neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

// Without a nonce the handler gets the server's own writer, and with one it can still take the connection over.
func TestTheWriterOfAHandler(t *testing.T) {
	for _, nonce := range []string{"", "ours"} {
		result := *accepted
		result.Nonce = nonce
		protect, err := dpophttp.New(&recorder{result: &result}, dpophttp.Config{Origins: []string{"https://api.example.com"}})
		require.NoError(t, err)
		server := httptest.NewServer(protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, isOwn := w.(io.ReaderFrom); isOwn != (nonce == "") {
				t.Errorf("with the nonce %q the handler has a writer of ours: %t", nonce, !isOwn)
			}
			if result, ok := dpop.FromContext(r.Context()); !ok || result.Nonce != nonce {
				t.Errorf("the handler finds the nonce %q", result.Nonce)
			}
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Errorf("with the nonce %q: %v", nonce, err)
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			_ = conn.Close()
		})))
		answer, err := server.Client().Get(server.URL)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		server.Close()
	}
}
