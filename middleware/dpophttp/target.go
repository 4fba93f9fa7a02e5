package dpophttp

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Header is a family of forwarding fields. Only one is read: a proxy that sets one family passes the other on as the
// client sent it.
type Header string

const (
	// XForwarded is X-Forwarded-Host and X-Forwarded-Proto, and X-Forwarded-Prefix if there is a Config.PathPrefix: then a
	// proxy that says that it stripped another one contradicts it, and the request is refused.
	XForwarded Header = "X-Forwarded"
	// Forwarded is the field of RFC 7239 and its parameters host and proto.
	Forwarded Header = "Forwarded"
)

// targets derives target URIs.
type targets struct {
	origins []origin
	prefix  string
	trusted []netip.Prefix
	header  Header
}

// An origin is one that clients address; authority is without the default port.
type origin struct{ scheme, authority string }

func newTargets(cfg Config) (*targets, error) {
	t := &targets{prefix: cfg.PathPrefix, trusted: cfg.TrustedProxies, header: cfg.Forwarded}
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf("dpophttp: Config."+format, args...)) }

	if len(cfg.Origins) == 0 {
		wrong("Origins is empty: name what clients address, such as https://api.example.com")
	}
	for _, s := range cfg.Origins {
		o, ok := parseOrigin(s)
		if !ok {
			wrong("Origins has %q: an origin is http or https, a host, and a port if need be, without a path: https://api.example.com", s)
		}
		if !slices.Contains(t.origins, o) {
			t.origins = append(t.origins, o)
		}
	}
	if p := cfg.PathPrefix; p != "" && (!pathPrefix.MatchString(p) || hasDotSegments(p)) {
		wrong("PathPrefix is %q: begin it with a slash, end it without one, and encode it as a URI needs, as in /v1", p)
	}
	switch cfg.Forwarded {
	case "":
		if len(cfg.TrustedProxies) > 0 && !cfg.ClientCert {
			wrong("TrustedProxies is set: set Forwarded, too, to the family of fields that these proxies send, or ClientCert")
		}
	case XForwarded, Forwarded:
		if len(cfg.TrustedProxies) == 0 {
			wrong("Forwarded is set: set TrustedProxies, too, to the addresses of the proxies that send these fields")
		}
	default:
		wrong("Forwarded is %q: use XForwarded or Forwarded", cfg.Forwarded)
	}
	if cfg.ClientCert && len(cfg.TrustedProxies) == 0 {
		wrong("ClientCert is set: set TrustedProxies, too, to the addresses of the proxies that send Client-Cert")
	}
	for i, p := range cfg.TrustedProxies {
		if !p.IsValid() || p.Addr().Is4In6() {
			wrong("TrustedProxies has the prefix %v: use netip.ParsePrefix, and IPv4 addresses as such", p)
		}
		for _, other := range cfg.TrustedProxies[:i] {
			if p.Overlaps(other) {
				wrong("TrustedProxies has %v and %v, which overlap: leave the one out that the other contains", other, p)
			}
		}
	}
	return t, errors.Join(errs...)
}

func parseOrigin(s string) (origin, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || s != u.Scheme+"://"+u.Host || !authority.MatchString(u.Host) {
		return origin{}, false
	}
	if _, err := strconv.ParseUint(u.Port(), 10, 16); err != nil && u.Port() != "" {
		return origin{}, false
	}
	return origin{u.Scheme, canonicalHost(u.Scheme, u.Host)}, true
}

var (
	// authority is a host as it stands in a request: ASCII, and a port without leading zeros.
	authority  = regexp.MustCompile(`^([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[1-9][0-9]{0,4})?$`)
	pathPrefix = regexp.MustCompile(`^(/([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)+$`)
)

// canonicalHost returns an authority in lower case and without scheme's default port.
func canonicalHost(scheme, host string) string {
	port := ":443"
	if scheme == "http" {
		port = ":80"
	}
	return strings.TrimSuffix(strings.ToLower(host), port)
}

// uri returns the request's target URI, or "" if it is for none of the origins.
func (t *targets) uri(r *http.Request) string {
	path, ok := rawPath(r)
	if !ok || t.prefix != "" && hasDotSegments(path) { // which could lead out of the prefix
		return ""
	}
	o, ok := t.origin(r)
	if !ok || t.contradictsPrefix(r) {
		return ""
	}
	return o.scheme + "://" + o.authority + t.prefix + path
}

// rawPath returns the path as it stood on the wire. URL.Path is decoded, and routers rewrite it.
func rawPath(r *http.Request) (string, bool) {
	path := r.RequestURI
	if path == "" { // a request that was not read from the wire
		path = r.URL.RequestURI()
	}
	path, _, _ = strings.Cut(path, "?")
	switch {
	case strings.Contains(path, "#"): // a target has no fragment, and net/http takes it for a part of the path
		return "", false
	case strings.HasPrefix(path, "/"): // RFC 9112 §3.2.1
		return path, true
	case path == "*": // RFC 9112 §3.2.4
		return "", true
	}
	// RFC 9112 §3.2.2. Only what net/http reads as such, too: of http:/a/://b/c the handler sees /a/://b/c.
	for _, scheme := range [...]string{"http://", "https://"} {
		if len(path) >= len(scheme) && strings.EqualFold(path[:len(scheme)], scheme) {
			rest := path[len(scheme):]
			host, _, _ := strings.Cut(rest, "/")
			return rest[len(host):], true
		}
	}
	return "", false
}

// hasDotSegments reports whether a path has segments that would remove others (RFC 3986 §5.2.4), encoded or not.
func hasDotSegments(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		switch strings.ReplaceAll(strings.ToLower(segment), "%2e", ".") {
		case ".", "..":
			return true
		}
	}
	return false
}

// origin returns the origin that the request selects.
func (t *targets) origin(r *http.Request) (origin, bool) {
	if len(t.origins) == 1 {
		return t.origins[0], true
	}
	host, scheme := r.Host, "http"
	if r.TLS != nil {
		scheme = "https"
	}
	if t.header != "" && t.isTrusted(r.RemoteAddr) {
		var ok bool
		if host, scheme, ok = t.forwarded(r.Header, host, scheme); !ok {
			return origin{}, false
		}
	}
	var found origin
	n := 0
	for _, o := range t.origins {
		if canonicalHost(o.scheme, host) != o.authority {
			continue
		}
		if strings.EqualFold(o.scheme, scheme) { // of the same host under two schemes
			return o, true
		}
		found = o
		n++
	}
	return found, n == 1
}

// contradictsPrefix reports whether a trusted proxy says that it stripped another prefix than the configured one.
func (t *targets) contradictsPrefix(r *http.Request) bool {
	if t.prefix == "" || t.header != XForwarded || r.Header["X-Forwarded-Prefix"] == nil || !t.isTrusted(r.RemoteAddr) {
		return false
	}
	stripped, ok := single(r.Header["X-Forwarded-Prefix"])
	return !ok || strings.TrimRight(stripped, "/") != t.prefix
}

func (t *targets) isTrusted(remote string) bool {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	for _, p := range t.trusted {
		if p.Contains(peer.Addr().Unmap()) {
			return true
		}
	}
	return false
}

// forwarded returns the host and scheme that a trusted proxy's fields name, or those given where they name none. Of
// several values it is not known which proxy wrote which, so they are refused.
func (t *targets) forwarded(h http.Header, host, scheme string) (_, _ string, ok bool) {
	if t.header == Forwarded {
		params, ok := forwardedParams(h["Forwarded"])
		return cmp.Or(params["host"], host), cmp.Or(params["proto"], scheme), ok
	}
	forwardedHost, okHost := single(h["X-Forwarded-Host"])
	forwardedProto, okProto := single(h["X-Forwarded-Proto"])
	return cmp.Or(forwardedHost, host), cmp.Or(forwardedProto, scheme), okHost && okProto
}

// single returns the one value of a field, or "" if there is none.
func single(lines []string) (string, bool) {
	switch {
	case len(lines) == 0:
		return "", true
	case len(lines) > 1 || strings.Contains(lines[0], ","):
		return "", false
	}
	return strings.TrimSpace(lines[0]), true
}

// forwardedParams returns the parameters of a Forwarded field with one element (RFC 7239 §4).
func forwardedParams(lines []string) (map[string]string, bool) {
	line, ok := single(lines)
	if !ok || line == "" {
		return nil, ok
	}
	params := make(map[string]string)
	for pair := range strings.SplitSeq(line, ";") {
		if strings.TrimSpace(pair) == "" { // RFC 7239 §4: pairs may be empty
			continue
		}
		name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		name = strings.ToLower(name)
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
		}
		// What is left of quotes shows that a quoted value was cut at a semicolon in it.
		if _, twice := params[name]; !ok || twice || name == "" || strings.ContainsAny(name+value, " \t\"\\") {
			return nil, false
		}
		params[name] = value
	}
	return params, true
}
