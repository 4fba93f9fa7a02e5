package dpop

import (
	"net/url"
	"strings"
	"testing"
)

func normal(uri string) string {
	got, err := normalizeURI(nil, uri)
	if err != nil {
		return "error"
	}
	return string(got)
}

// R017, R021, B14: what RFC 3986 §6.2.2 and §6.2.3 take for the same, and nothing else.
func TestNormalizeURI(t *testing.T) {
	for uri, want := range map[string]string{
		// scheme and host
		"https://api.example.com/":     "https://api.example.com/",
		"HTTPS://API.Example.COM/":     "https://api.example.com/",
		"https://ex%41mple.com/":       "https://example.com/",
		"https://ex%c3%a4mple.com/":    "https://ex%C3%A4mple.com/",
		"https://xn--exmple-cua.com/":  "https://xn--exmple-cua.com/",
		"https://api.example.com./":    "https://api.example.com./",
		"https://192.0.2.1/":           "https://192.0.2.1/",
		"https://[2001:DB8::A]/":       "https://[2001:db8::a]/",
		"https://[::FFFF:192.0.2.1]/":  "https://[::ffff:192.0.2.1]/",
		"https://a_b.example/":         "https://a_b.example/",
		"wss://api.example.com:443/":   "wss://api.example.com/",
		"coap+tcp://api.example.com/a": "coap+tcp://api.example.com/a",
		// port
		"https://a.example:443/":  "https://a.example/",
		"https://a.example:0443/": "https://a.example/",
		"https://a.example:/":     "https://a.example/",
		"https://a.example:80/":   "https://a.example:80/",
		"http://a.example:80/":    "http://a.example/",
		"http://a.example:443/":   "http://a.example:443/",
		"https://a.example:8443/": "https://a.example:8443/",
		"https://a.example:0/":    "https://a.example:0/", // not the default port
		"https://a.example:000/":  "https://a.example:0/",
		"https://[::1]:443/":      "https://[::1]/",
		"https://[::1]:8443/":     "https://[::1]:8443/",
		// path
		"https://a.example":           "https://a.example/",
		"https://a.example/a":         "https://a.example/a",
		"https://a.example/a/":        "https://a.example/a/",
		"https://a.example/A":         "https://a.example/A",
		"https://a.example//a//":      "https://a.example//a//",
		"https://a.example/./a/./b/.": "https://a.example/a/b/",
		"https://a.example/a/../b":    "https://a.example/b",
		"https://a.example/a/b/..":    "https://a.example/a/",
		"https://a.example/../../a":   "https://a.example/a",
		"https://a.example/..":        "https://a.example/",
		"https://a.example//../a":     "https://a.example/a",
		"https://a.example/a//../b":   "https://a.example/a/b",
		"https://a.example/a/.../b":   "https://a.example/a/.../b",
		"https://a.example/a/..b":     "https://a.example/a/..b",
		"https://a.example/%2e%2E/a":  "https://a.example/a",
		"https://a.example/a/.%2e/b":  "https://a.example/b",
		"https://a.example/%252e/":    "https://a.example/%252e/",
		// percent-encoding
		"https://a.example/%7Ea":          "https://a.example/~a",
		"https://a.example/%41%5a":        "https://a.example/AZ",
		"https://a.example/%2f":           "https://a.example/%2F",
		"https://a.example/%5c":           "https://a.example/%5C",
		"https://a.example/%00":           "https://a.example/%00",
		"https://a.example/%c3%a9":        "https://a.example/%C3%A9",
		"https://a.example/a;b=c":         "https://a.example/a;b=c",
		"https://a.example/a%3bb=c":       "https://a.example/a%3Bb=c", // a sub-delimiter means something else when encoded
		"https://a.example/:@!$&'()*+,;=": "https://a.example/:@!$&'()*+,;=",
		"https://a.example/[a]|^":         "https://a.example/[a]|^", // what browsers leave bare
		"https://a.example/a:b":           "https://a.example/a:b",
		// query and fragment
		"https://a.example?b":              "https://a.example/",
		"https://a.example/a?b#c":          "https://a.example/a",
		"https://a.example/a#c?b":          "https://a.example/a",
		"https://a.example#@evil.example/": "https://a.example/",
		"https://a.example/a?é \\":         "https://a.example/a",
		// B04, B06, B07, B08, B13: errors
		"":                                "error",
		"/a":                              "error",
		"//a.example/a":                   "error",
		"a.example/a":                     "error",
		"https:":                          "error",
		"https:/a":                        "error",
		"https:a.example/a":               "error",
		"https://":                        "error",
		"https:///a":                      "error",
		"https://:443/":                   "error",
		"://a.example/":                   "error",
		"1https://a.example/":             "error",
		"ht tp://a.example/":              "error",
		"https://user@a.example/":         "error",
		"https://user:pw@a.example/":      "error",
		"https://a.example@evil.example/": "error",
		"https://@a.example/":             "error",
		"https://a.example:port/":         "error",
		"https://a.example:-1/":           "error",
		"https://a.example:100000/":       "error",
		"https://a.example:4 43/":         "error",
		"https://a:b:443/":                "error",
		"https://[::1/":                   "error",
		"https://::1]/":                   "error",
		"https://[]/":                     "error",
		"https://[::1]x/":                 "error",
		"https://x[::1]/":                 "error",
		"https://[fe80::1%25eth0]/":       "error",
		"https://[v1.a]/":                 "error",
		`https:\\a.example\`:              "error",
		`https://a.example\@b.example/`:   "error",
		`https://a.example/a\b`:           "error",
		" https://a.example/":             "error",
		"https://a.example/ ":             "error",
		"https://a.example/\t":            "error",
		"https://a.example/\r\n":          "error",
		"https://a.example/\x00":          "error",
		"https://a.example/\x7f":          "error",
		"https://a.example/é":             "error",
		"https://é.example/":              "error",
		"https://a.example/%":             "error",
		"https://a.example/%4":            "error",
		"https://a.example/%zz":           "error",
		"https://a%2.example/":            "error",
		"https://a.example/<>":            "error",
		`https://a.example/"`:             "error",
		"https://a.example/{a}":           "error",
		"https://a.example/`":             "error",
	} {
		if got := normal(uri); got != want {
			t.Errorf("normalizeURI(%q) = %s, want %s", uri, got, want)
		}
	}
}

// removeDotSegments is the algorithm of RFC 3986 §5.2.4, step by step as it stands there, for absolute paths. (net/url
// differs from it: it takes /..//a for /a.)
func removeDotSegments(in string) string {
	out := ""
	for in != "" {
		switch {
		case strings.HasPrefix(in, "/./"):
			in = in[2:]
		case in == "/.":
			in = "/"
		case strings.HasPrefix(in, "/../"), in == "/..":
			in = "/" + strings.TrimPrefix(in[3:], "/")
			out = out[:max(0, strings.LastIndexByte(out, '/'))]
		default:
			end := strings.IndexByte(in[1:], '/') + 1
			if end == 0 {
				end = len(in)
			}
			out, in = out+in[:end], in[end:]
		}
	}
	return out
}

// Every path of up to five segments, empty ones and dots among them.
func TestDotSegments(t *testing.T) {
	segments := []string{"", ".", "..", "a", "b."}
	for length, count := 1, 5; length <= 5; length, count = length+1, count*5 {
		for i := range count {
			path := ""
			for n, j := i, 0; j < length; n, j = n/5, j+1 {
				path += "/" + segments[n%5]
			}
			want := "https://a.example" + removeDotSegments(path)
			if got := normal("https://a.example" + path); got != want {
				t.Errorf("normalizeURI of the path %s is %s, want %s", path, got, want)
			}
		}
	}
}

// checkProperties holds for any two strings.
func checkProperties(t *testing.T, a, b string) {
	t.Helper()
	first, err := normalizeURI(nil, a)
	if err != nil {
		return
	}
	again, err := normalizeURI(nil, string(first))
	if err != nil || string(again) != string(first) {
		t.Fatalf("normalizing twice is not once: %q becomes %q, then %q (%v)", a, first, again, err)
	}
	if strings.ContainsAny(string(first), "\\ \t\r\n?#@") && strings.ContainsAny(strings.SplitN(string(first), "/", 4)[2], "\\ \t\r\n?#@") {
		t.Fatalf("%q becomes %q", a, first)
	}
	// net/url must see the same origin: the host that a proof names is the one that a client would go to.
	if parsed, err := url.Parse(a); err == nil {
		if !strings.HasPrefix(string(first), strings.ToLower(parsed.Scheme)+"://") || parsed.User != nil {
			t.Fatalf("%q becomes %q, net/url sees scheme %q and user %v", a, first, parsed.Scheme, parsed.User)
		}
		normalized, err := url.Parse(string(first))
		if err != nil {
			t.Fatalf("%q becomes %q, which net/url does not take: %v", a, first, err)
		}
		if !strings.EqualFold(parsed.Hostname(), normalized.Hostname()) {
			t.Fatalf("%q becomes %q, the hosts are %q and %q", a, first, parsed.Hostname(), normalized.Hostname())
		}
		second, err := normalizeURI(nil, b)
		other, parseErr := url.Parse(b)
		if err == nil && parseErr == nil && string(first) == string(second) && !strings.EqualFold(parsed.Hostname(), other.Hostname()) {
			t.Fatalf("%q and %q are the same URI with different hosts", a, b)
		}
	}
}

func FuzzNormalizeURI(f *testing.F) {
	for _, seed := range [][2]string{
		{"https://a.example/a/../b?c#d", "HTTPS://A.EXAMPLE:443/%61"}, {"https://[2001:DB8::1]:8443//", "https://[::1]:/."},
		{"http://a.example:080/%2e%2E/", "http://a%41.example"}, {"https://user@a.example/", `https://a.example\@b`},
		{"https://a.example:0/", "https://a.example"}, {"https://a.example/%2F%5c", "https://a.example//"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(checkProperties)
}
