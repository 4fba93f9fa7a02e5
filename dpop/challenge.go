package dpop

import "strings"

// A challenger writes the WWW-Authenticate values of one configuration (RFC 9110 §11.6.1, RFC 6750 §3, RFC 9449 §7.1).
type challenger struct {
	realm, algs, metadata string
}

// values returns one challenge for each scheme that the resource takes, DPoP first. The error code stands in the one
// for scheme failed, which is what the client used (RFC 9449 §7.2); without a code, in none. scope is named in it, too.
func (c *challenger) values(code Code, failed string, bearer bool, scope string) []string {
	schemes := []string{schemeDPoP}
	if bearer {
		schemes = append(schemes, schemeBearer)
	}
	if !bearer || failed == "" { // what the client used is not on offer, or not known
		failed = schemeDPoP
	}
	lines := make([]string, 0, len(schemes))
	for _, scheme := range schemes {
		var b strings.Builder
		b.WriteString(scheme)
		param := func(name, value string) {
			if value == "" || !isQuotable(value) { // a scope may be anything; all else was checked at start
				return
			}
			if b.Len() > len(scheme) {
				b.WriteByte(',')
			}
			b.WriteString(" " + name + `="`)
			b.WriteString(quoteEscaper.Replace(value))
			b.WriteByte('"')
		}
		param("realm", c.realm)
		if scheme == failed {
			param("error", string(code))
			param("error_description", descriptions[code])
			param("scope", scope)
		}
		if scheme == schemeDPoP {
			param("algs", c.algs)
		}
		param("resource_metadata", c.metadata)
		lines = append(lines, b.String())
	}
	return lines
}

var quoteEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`)
