package dpop

import (
	"errors"
	"fmt"
	"strings"
)

var errURI = errors.New("is not an absolute URI of RFC 3986 with a host")

// normalizeURI appends to dst the normal form of an absolute URI without query and fragment: lower-case scheme and
// host, no default port, no empty path, no dot segments, percent-encoding only where it is needed and in upper case
// (RFC 3986 §6.2.2 and §6.2.3, as RFC 9449 §4.3 asks).
//
// Two URIs are the same if and only if their normal forms are. %2F stays apart from a slash, a path keeps its case, its
// empty segments and its last slash, and a host is compared as ASCII, without any guess about other scripts. User
// information, a backslash, white space, control and non-ASCII characters are errors.
func normalizeURI(dst []byte, uri string) ([]byte, error) {
	if i := strings.IndexAny(uri, "?#"); i >= 0 {
		uri = uri[:i]
	}
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok || !isScheme(scheme) {
		return nil, errURI
	}
	for i := range len(scheme) {
		dst = append(dst, lower(scheme[i]))
	}
	authority, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	dst = append(dst, "://"...)
	dst, err := appendAuthority(dst, string(dst[:len(scheme)]), authority)
	if err != nil {
		return nil, err
	}
	return appendPath(dst, path)
}

func isScheme(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlpha(c) && (i == 0 || !isDigit(c) && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return s != ""
}

// appendAuthority appends host and port; scheme is in lower case.
func appendAuthority(dst []byte, scheme, authority string) ([]byte, error) {
	host, port := authority, ""
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		host, port = authority[:i], authority[i+1:]
	}
	dst, err := appendHost(dst, host)
	if err != nil {
		return nil, err
	}
	for i := range len(port) {
		if !isDigit(port[i]) {
			return nil, errURI
		}
	}
	for len(port) > 1 && port[0] == '0' {
		port = port[1:]
	}
	if len(port) > 5 {
		return nil, errURI
	}
	if port == "" || port == defaultPorts[scheme] {
		return dst, nil
	}
	return append(append(dst, ':'), port...), nil
}

var defaultPorts = map[string]string{"http": "80", "https": "443", "ws": "80", "wss": "443"}

func appendHost(dst []byte, host string) ([]byte, error) {
	if ip, ok := strings.CutPrefix(host, "["); ok {
		ip, ok := strings.CutSuffix(ip, "]")
		if !ok || ip == "" {
			return nil, errURI
		}
		dst = append(dst, '[')
		for i := range len(ip) {
			c := lower(ip[i])
			if !isHex(c) && c != ':' && c != '.' {
				return nil, errURI
			}
			dst = append(dst, c)
		}
		return append(dst, ']'), nil
	}
	if host == "" {
		return nil, errURI
	}
	start := len(dst)
	dst, err := appendEncoded(dst, host, "!$&'()*+,;=")
	if err != nil {
		return nil, err
	}
	for i := start; i < len(dst); i++ {
		if dst[i] == '%' {
			i += 2 // the digits stay in upper case
		} else {
			dst[i] = lower(dst[i])
		}
	}
	return dst, nil
}

// appendPath appends path, which is empty or begins with a slash, without its dot segments (RFC 3986 §5.2.4).
func appendPath(dst []byte, path string) ([]byte, error) {
	root := len(dst)
	if path == "" {
		return append(dst, '/'), nil
	}
	for path != "" {
		segment := path[1:]
		path = ""
		if i := strings.IndexByte(segment, '/'); i >= 0 {
			segment, path = segment[:i], segment[i:]
		}
		start := len(dst)
		var err error
		// Beside the characters of RFC 3986 §3.3, those that browsers leave as they are in a path, on the wire and in
		// htu alike. They equal only themselves.
		if dst, err = appendEncoded(append(dst, '/'), segment, "!$&'()*+,;=:@[]|^"); err != nil {
			return nil, err
		}
		switch string(dst[start+1:]) {
		case "..":
			dst = dst[:start]
			for len(dst) > root && dst[len(dst)-1] != '/' {
				dst = dst[:len(dst)-1]
			}
			dst = dst[:max(root, len(dst)-1)]
		case ".":
			dst = dst[:start]
		default:
			continue
		}
		if path == "" { // a dot segment at the end leaves the slash before it
			dst = append(dst, '/')
		}
	}
	return dst, nil
}

// appendEncoded appends s, of unreserved characters, those of also, and percent-encodings, in normal form.
func appendEncoded(dst []byte, s, also string) ([]byte, error) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case isUnreserved(c) || strings.IndexByte(also, c) >= 0:
			dst = append(dst, c)
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			if b := unhex(s[i+1])<<4 | unhex(s[i+2]); isUnreserved(b) {
				dst = append(dst, b)
			} else {
				dst = append(dst, '%', upper(s[i+1]), upper(s[i+2]))
			}
			i += 2
		default:
			return nil, errURI
		}
	}
	return dst, nil
}

func isAlpha(c byte) bool { return 'a' <= lower(c) && lower(c) <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isHex(c byte) bool   { return isDigit(c) || 'a' <= lower(c) && lower(c) <= 'f' }

func isUnreserved(c byte) bool { return classes[c]&unreserved != 0 }

// classes says of each byte to which sets of characters it belongs. A table, because it is asked for every byte of a
// token and of two URIs.
var classes = func() (t [256]byte) {
	for c := range t {
		b := byte(c)
		if isAlpha(b) || isDigit(b) || b == '-' || b == '.' || b == '_' || b == '~' {
			t[c] = unreserved | token68
		}
	}
	t['+'], t['/'] = token68, token68
	return t
}()

const (
	unreserved = 1 << iota // RFC 3986 §2.3
	token68                // RFC 9110 §11.2, but for the = at its end
)

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		c -= 'a' - 'A'
	}
	return c
}

// unhex returns the value of a hexadecimal digit.
func unhex(c byte) byte {
	if isDigit(c) {
		return c - '0'
	}
	return lower(c) - 'a' + 10
}

// uriMismatch explains to the operator why a proof is for another URI. Both are shown without query, quoted and cut;
// want is the request's and got the proof's.
func uriMismatch(want, got []byte) error {
	return fmt.Errorf("the proof is for %s, the request is for %s: %s", quote(string(got)), quote(string(want)),
		uriCause(string(want), string(got)))
}

// uriCause returns the likely cause, from experience with proxies.
func uriCause(want, got string) string {
	wantScheme, wantRest, _ := strings.Cut(want, "://")
	gotScheme, gotRest, _ := strings.Cut(got, "://")
	wantHost, wantPath, _ := strings.Cut(wantRest, "/")
	gotHost, gotPath, _ := strings.Cut(gotRest, "/")
	switch {
	case withoutPort(wantHost) != withoutPort(gotHost):
		return "the client addresses a host that is not the configured origin's"
	case wantScheme != gotScheme:
		return fmt.Sprintf("the proof was made for %s, this server is configured for %s", quote(gotScheme), wantScheme)
	case wantHost != gotHost:
		return "the client addresses a port that is not the configured origin's"
	case strings.HasSuffix("/"+gotPath, "/"+wantPath) && wantPath != gotPath:
		return "a proxy seems to strip a path prefix that is not configured here"
	case strings.HasSuffix("/"+wantPath, "/"+gotPath):
		return "the configured path prefix seems not to be part of what the client addresses"
	case strings.TrimSuffix(wantPath, "/") == strings.TrimSuffix(gotPath, "/"):
		return "the paths differ by a slash at the end"
	case strings.EqualFold(wantPath, gotPath):
		return "the paths differ in case"
	}
	return "the proof was made for another path"
}

// withoutPort returns the host of a normal authority; the colons of an IPv6 address stand in brackets.
func withoutPort(authority string) string {
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		return authority[:i]
	}
	return authority
}

// quote returns what a client sent as it may stand in a log: quoted and cut. A normal form has no query.
func quote(s string) string { return cut(s, 200) }

// short is quote for what should be a word.
func short(s string) string { return cut(s, 16) }

func cut(s string, most int) string {
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
