package atjwt

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/internal/jose"
)

// maxToken is the longest token that is looked at, in bytes. Verify has the same limit; a Resolver may be used alone.
const maxToken = 16 << 10

// A signed is a token whose header and claims are in order, and whose signature is still to be checked.
type signed struct {
	kid, alg         string // kid is "" if the header has none
	input, signature []byte
	token            *dpop.Token
}

// parse decodes a token and checks all that needs no key, in the order from "whose is it?" to "is it complete?": an
// operator learns first that a token is another's, and only then that it is not of the form expected here.
func (r *Resolver) parse(raw string, now time.Time) (*signed, error) {
	c, err := jose.ParseCompact(raw)
	if err != nil {
		if strings.Count(raw, ".") == 4 { // RFC 7516 §7.1
			return nil, refuse(dpop.ErrTokenMalformed, "it is encrypted; this resource takes tokens that are signed only")
		}
		return nil, refuse(dpop.ErrTokenMalformed, "it %v", err)
	}
	s := &signed{input: c.Input, signature: c.Signature}
	if err := r.readHeader(s, c.Header); err != nil {
		return nil, err
	}
	if s.token, err = r.readClaims(c.Payload, now); err != nil {
		return nil, err
	}
	return s, nil
}

// Members of the header, in the order in which readHeader reads them.
const (
	headerAlg = iota
	headerTyp
	headerKid
	headerCrit
)

var headerNames = []string{"alg", "typ", "kid", "crit"}

// readHeader checks the header (RFC 7515 §4, RFC 9068 §2.1 and §4) and sets alg and kid of s.
func (r *Resolver) readHeader(s *signed, header []byte) error {
	var m [4][]byte
	if err := jose.Scan(header, headerNames, m[:]); err != nil {
		return refuse(dpop.ErrTokenMalformed, "its header %v", err)
	}
	if m[headerCrit] != nil {
		// RFC 7515 §4.1.11: what is critical must be understood, and no extension is understood here.
		return refuse(dpop.ErrTokenMalformed, "its header has crit")
	}
	alg, err := jose.Text(m[headerAlg])
	if err != nil {
		return refuse(dpop.ErrTokenMalformed, "its header's alg %v", err)
	}
	if s.alg = jose.Canonical(string(alg)); !slices.Contains(r.cfg.Algorithms, s.alg) {
		return refuse(dpop.ErrTokenSignature, "its alg is %s, not one of %s", quote(string(alg)), strings.Join(r.cfg.Algorithms, ", "))
	}
	if err := r.checkHeaderType(m[headerTyp]); err != nil {
		return err
	}
	if m[headerKid] != nil {
		kid, err := jose.Text(m[headerKid])
		if err != nil {
			return refuse(dpop.ErrTokenMalformed, "its header's kid %v", err)
		}
		s.kid = string(kid)
	}
	return nil
}

// checkHeaderType keeps other JWTs of the same issuer, such as ID tokens, from passing as access tokens (RFC 9068 §4).
func (r *Resolver) checkHeaderType(value []byte) error {
	if value == nil {
		if slices.Contains(r.cfg.AllowHeaderTypes, "") {
			return nil
		}
		return refuse(dpop.ErrTokenType, "its header has no typ, which should be at+jwt")
	}
	text, err := jose.Text(value)
	if err != nil {
		return refuse(dpop.ErrTokenMalformed, "its header's typ %v", err)
	}
	typ := mediaType(string(text))
	if typ != "at+jwt" && (typ == "" || !slices.Contains(r.cfg.AllowHeaderTypes, typ)) {
		return refuse(dpop.ErrTokenType, "its header's typ is %s, not at+jwt (AllowHeaderTypes permits others)", quote(string(text)))
	}
	return nil
}

// The claims that are read, in the order of claimNames.
const (
	claimIss = iota
	claimTyp
	claimAud
	claimExp
	claimNbf
	claimIat
	claimSub
	claimClientID
	claimJti
	claimScope
	claimCnf
	claimCount
)

func claimNames(clientID string) []string {
	return []string{"iss", "typ", "aud", "exp", "nbf", "iat", "sub", clientID, "jti", "scope", "cnf"}
}

// readClaims checks the claims (RFC 9068 §2.2 and §4) and returns the token that they describe.
func (r *Resolver) readClaims(payload []byte, now time.Time) (*dpop.Token, error) {
	var m [claimCount][]byte
	if err := jose.Scan(payload, r.claims, m[:]); err != nil {
		return nil, refuse(dpop.ErrTokenMalformed, "its payload %v", err)
	}
	t := &dpop.Token{Issuer: r.cfg.Issuer}
	if err := r.checkIssuer(m[claimIss]); err != nil {
		return nil, err
	}
	if err := r.checkPayloadType(m[claimTyp]); err != nil {
		return nil, err
	}
	var err error
	if t.Audience, err = r.checkAudience(m[claimAud]); err != nil {
		return nil, err
	}
	if t.Expiry, err = r.checkTimes(m[claimExp], m[claimNbf], m[claimIat], now); err != nil {
		return nil, err
	}
	if err := r.readStrings(t, &m); err != nil {
		return nil, err
	}
	// A cnf that is malformed makes the token Unknown, not invalid: Verify refuses it under either scheme, and says why.
	t.Confirmation, _ = dpop.ParseConfirmation(m[claimCnf])
	t.Raw = bytes.Clone(payload) // payload shares its memory with the rest of the token
	return t, nil
}

func (r *Resolver) checkIssuer(value []byte) error {
	iss, err := jose.Text(value)
	if err != nil {
		return missing("iss", value, err)
	}
	if string(iss) != r.cfg.Issuer {
		return refuse(dpop.ErrTokenIssuer, "its iss is %s, not %q", quote(string(iss)), r.cfg.Issuer)
	}
	return nil
}

func (r *Resolver) checkPayloadType(value []byte) error {
	if len(r.cfg.PayloadTypes) == 0 {
		return nil
	}
	typ, err := jose.Text(value)
	if err != nil {
		return refuse(dpop.ErrTokenType, "its claim typ is not a string, and should be one of %s", strings.Join(r.cfg.PayloadTypes, ", "))
	}
	if !slices.Contains(r.cfg.PayloadTypes, string(typ)) {
		return refuse(dpop.ErrTokenType, "its claim typ is %s, not one of %s", quote(string(typ)), strings.Join(r.cfg.PayloadTypes, ", "))
	}
	return nil
}

// checkAudience returns the audience, which is one string or an array of strings (RFC 7519 §4.1.3).
func (r *Resolver) checkAudience(value []byte) ([]string, error) {
	list, err := jose.Strings(value)
	if one, oneErr := jose.Text(value); oneErr == nil {
		list, err = []string{string(one)}, nil
	}
	if err != nil {
		return nil, missing("aud", value, err)
	}
	if !slices.Contains(list, r.cfg.Audience) {
		return nil, refuse(dpop.ErrTokenAudience, "its aud is %s, not %q", quote(strings.Join(list, " ")), r.cfg.Audience)
	}
	return list, nil
}

// checkTimes returns the expiry. nbf and iat may be missing here; readStrings asks for iat.
func (r *Resolver) checkTimes(exp, nbf, iat []byte, now time.Time) (time.Time, error) {
	expiry, err := jose.Time(exp)
	if err != nil {
		return time.Time{}, missing("exp", exp, err)
	}
	if !now.Before(expiry) {
		return time.Time{}, refuse(dpop.ErrTokenExpired, "it expired %v ago", now.Sub(expiry).Round(time.Second))
	}
	for _, claim := range []struct {
		name  string
		value []byte
	}{{"nbf", nbf}, {"iat", iat}} {
		if claim.value == nil {
			continue
		}
		start, err := jose.Time(claim.value)
		if err != nil {
			return time.Time{}, missing(claim.name, claim.value, err)
		}
		if start.After(now.Add(r.cfg.Leeway)) {
			return time.Time{}, refuse(dpop.ErrTokenNotYetValid, "its %s lies %v ahead of this server's clock, and %v are allowed",
				claim.name, start.Sub(now).Round(time.Second), r.cfg.Leeway)
		}
	}
	return expiry, nil
}

// readStrings sets what t takes from claims that are strings, and sees to it that no claim that is required is missing.
func (r *Resolver) readStrings(t *dpop.Token, m *[claimCount][]byte) error {
	var jti string
	for _, claim := range []struct {
		index    int
		dst      *string
		required string // the name that AllowMissingClaims knows it by, or ""
	}{
		{claimSub, &t.Subject, "sub"},
		{claimClientID, &t.ClientID, "client_id"},
		{claimJti, &jti, "jti"},
		{claimScope, &t.Scope, ""},
	} {
		value := m[claim.index]
		if value == nil && (claim.required == "" || slices.Contains(r.cfg.AllowMissingClaims, claim.required)) {
			continue
		}
		text, err := jose.Text(value)
		if err != nil {
			return missing(r.claims[claim.index], value, err)
		}
		*claim.dst = string(text)
	}
	if m[claimIat] == nil && !slices.Contains(r.cfg.AllowMissingClaims, "iat") {
		return missing("iat", nil, nil)
	}
	return nil
}

// missing refuses a token for a claim that is not there, or is not of its type.
func missing(claim string, value []byte, err error) error {
	if value == nil {
		return refuse(dpop.ErrTokenMalformed, "its payload has no %s", claim)
	}
	return refuse(dpop.ErrTokenMalformed, "its payload's %s %v", claim, err)
}

// refuse returns an error that wraps reason. What comes from the token is in args, quoted and cut; see quote.
func refuse(reason dpop.Reason, format string, args ...any) error {
	return fmt.Errorf("%w: %s", reason, fmt.Sprintf(format, args...))
}

// quote makes what a stranger chose fit for a log: of one line, and short.
func quote(s string) string {
	const longest = 100
	if len(s) > longest {
		return fmt.Sprintf("%q…", s[:longest])
	}
	return fmt.Sprintf("%q", s)
}
