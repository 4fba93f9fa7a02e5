package dpophttp

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// A Header is a family of forwarding fields. Only one is read: a proxy that sets one family passes the other on as the
// client sent it.
type Header string

const (
	// XForwarded is X-Forwarded-Host and X-Forwarded-Proto.
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
		t.origins = append(t.origins, o)
	}
	if p := cfg.PathPrefix; p != "" && (p[0] != '/' || strings.HasSuffix(p, "/") || strings.ContainsAny(p, "?#")) {
		wrong("PathPrefix is %q: begin it with a slash and end it without one, as in /v1", p)
	}
	switch cfg.Forwarded {
	case "":
		if len(cfg.TrustedProxies) > 0 {
			wrong("TrustedProxies is set: set Forwarded, too, to the family of fields that these proxies send")
		}
	case XForwarded, Forwarded:
		if len(cfg.TrustedProxies) == 0 {
			wrong("Forwarded is set: set TrustedProxies, too, to the addresses of the proxies that send these fields")
		}
	default:
		wrong("Forwarded is %q: use XForwarded or Forwarded", cfg.Forwarded)
	}
	for _, p := range cfg.TrustedProxies {
		if !p.IsValid() {
			wrong("TrustedProxies has an invalid prefix: use netip.ParsePrefix")
		}
	}
	return t, errors.Join(errs...)
}

func parseOrigin(s string) (origin, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || s != u.Scheme+"://"+u.Host {
		return origin{}, false
	}
	return origin{u.Scheme, canonicalHost(u.Scheme, u.Host)}, true
}

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
	if !ok {
		return ""
	}
	o, ok := t.origin(r)
	if !ok {
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
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	if _, rest, absolute := strings.Cut(path, "://"); absolute && path[0] != '/' { // RFC 9112 §3.2.2
		authority, _, _ := strings.Cut(rest, "/")
		path = rest[len(authority):]
	}
	if path == "*" { // RFC 9112 §3.2.4
		path = ""
	}
	return path, path == "" || path[0] == '/'
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
	if t.isTrusted(r.RemoteAddr) {
		var ok bool
		if host, scheme, ok = t.forwarded(r.Header, host, scheme); !ok {
			return origin{}, false
		}
	}
	var found []origin
	for _, o := range t.origins {
		if canonicalHost(o.scheme, host) == o.authority {
			found = append(found, o)
		}
	}
	if len(found) == 1 {
		return found[0], true
	}
	for _, o := range found { // the same host under two schemes
		if strings.EqualFold(o.scheme, scheme) {
			return o, true
		}
	}
	return origin{}, false
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
		name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		name = strings.ToLower(name)
		if _, twice := params[name]; !ok || twice {
			return nil, false
		}
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
		}
		params[name] = value
	}
	return params, true
}
