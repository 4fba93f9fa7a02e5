package dpop

import (
	"net/url"
	"strings"
)

// The schemes under which an access token may come.
const (
	schemeDPoP   = "DPoP"   // RFC 9449 §7.1
	schemeBearer = "Bearer" // RFC 6750 §2.1
)

// maxToken is the longest access token that is looked at, in bytes.
const maxToken = 16 << 10

const authorizationForm = "the Authorization field is not one scheme, spaces, and one token (RFC 9110 §11.4)"

// parseCredentials returns the scheme, schemeDPoP or schemeBearer, and the token of a request's Authorization fields. On
// a refusal, too, it returns the scheme if it is one of these.
func parseCredentials(lines []string) (scheme, token string, r *refusal) {
	if len(lines) == 0 {
		return "", "", &refusal{reason: ErrNoCredentials}
	}
	if len(lines) > 1 {
		return "", "", refuse(ErrMalformedAuthorization, "there are %d Authorization fields", len(lines))
	}
	name, token, _ := strings.Cut(lines[0], " ")
	switch {
	case strings.EqualFold(name, schemeDPoP):
		scheme = schemeDPoP
	case strings.EqualFold(name, schemeBearer):
		scheme = schemeBearer
	case name == "" || mentionsScheme(lines[0]):
		return "", "", refuse(ErrMalformedAuthorization, authorizationForm)
	default:
		return "", "", &refusal{reason: ErrUnsupportedScheme}
	}
	token = strings.TrimLeft(token, " ")
	if len(token) > maxToken {
		return scheme, "", refuse(ErrMalformedAuthorization, "the access token is longer than %d bytes", maxToken)
	}
	if !isToken68(token) {
		return scheme, "", refuse(ErrMalformedAuthorization, authorizationForm)
	}
	return scheme, token, nil
}

// hasQueryToken reports whether a URI's query has an access token. Such a token stands in logs and histories, and next to
// one in a field it is a second one (RFC 6750 §2, §5.3; RFC 9700 §4.3.2).
func hasQueryToken(uri string) bool {
	_, query, ok := strings.Cut(uri, "?")
	if !ok { // as most are
		return false
	}
	for pair := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if decoded, _ := url.QueryUnescape(name); decoded == "access_token" {
			return true
		}
	}
	return false
}

// mentionsScheme reports whether one of our schemes stands somewhere in a line that begins with another: two
// credentials in one field, or a scheme spelled with a tab.
func mentionsScheme(line string) bool {
	for word := range strings.FieldsFuncSeq(line, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' }) {
		if strings.EqualFold(word, schemeDPoP) || strings.EqualFold(word, schemeBearer) {
			return true
		}
	}
	return false
}

// isToken68 reports whether s is a token68 of RFC 9110 §11.2, which holds neither commas nor spaces.
func isToken68(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		if classes[s[i]]&token68 == 0 {
			return false
		}
	}
	return s != ""
}
