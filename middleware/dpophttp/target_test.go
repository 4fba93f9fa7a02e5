package dpophttp

import (
	"bufio"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// FuzzRawPath holds what a proof is compared with against what net/http gives to handlers: of any request line that it
// reads, the path is the same, or there is none.
func FuzzRawPath(f *testing.F) {
	for _, target := range []string{
		"/", "/a?b", "//a/./b/../c%2Fd", "*", "http://h/a", "HTTPS://h", "http:/admin/x://h/a", "http:x://h/a", "/a#b", "http:///a", "/a?b://c/d",
	} {
		f.Add(target)
	}
	f.Fuzz(func(t *testing.T, target string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: h\r\n\r\n")))
		if err != nil || r.RequestURI != target {
			return
		}
		path, ok := rawPath(r)
		if !ok || target == "*" {
			return
		}
		if decoded, err := url.PathUnescape(path); err != nil || decoded != r.URL.Path {
			t.Errorf("%q: the proof is compared with %q, and the handler sees %q", target, path, r.URL.Path)
		}
	})
}
