package introspect

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/internal/jose"
)

// maxToken is the longest token that is asked about, in bytes. Verify has the same limit; a Resolver may be used alone.
const maxToken = 16 << 10

// The members that are read, in the order of memberNames.
const (
	memberActive = iota
	memberTokenType
	memberCnf
	memberExp
	memberNbf
	memberIss
	memberAud
	memberSub
	memberClientID
	memberScope
	memberCount
)

var memberNames = []string{"active", "token_type", "cnf", "exp", "nbf", "iss", "aud", "sub", "client_id", "scope"}

// read returns the token that an answer describes (RFC 7662 §2.2), if it is active and fits. An answer that is no JSON
// object is an error of the server's. In one that is, whatever is not as it should be is held against the token: a user whose
// name has a character that is not taken here must not make a healthy server answer 503. No error quotes the answer.
func (c *Config) read(body []byte, now time.Time) (*dpop.Token, error) {
	var m [memberCount][]byte
	if err := jose.Scan(body, memberNames, m[:]); err != nil {
		if text := bytes.TrimLeft(body, " \t\r\n"); !bytes.HasPrefix(text, []byte("{")) || !json.Valid(text) {
			return nil, errors.New("introspect: the server's answer is not a JSON object")
		}
		return nil, refuse(dpop.ErrTokenMalformed, "the answer has a member twice, or is deeper, larger or of other characters than is taken")
	}
	// Nothing else in the answer means anything without it, be it a whole JWT.
	if active := string(m[memberActive]); active != "true" {
		if active == "false" {
			return nil, refuse(dpop.ErrTokenInvalid, "the server says that it is not active")
		}
		return nil, refuse(dpop.ErrTokenInvalid, "the server does not say that it is active: active is missing or no boolean")
	}
	t := &dpop.Token{Issuer: c.Issuer, Raw: bytes.Clone(body)}
	if err := c.readIssuer(t, m[memberIss]); err != nil {
		return nil, err
	}
	if err := c.readAudience(t, m[memberAud]); err != nil {
		return nil, err
	}
	if err := c.readTimes(t, m[memberExp], m[memberNbf], now); err != nil {
		return nil, err
	}
	for _, member := range []struct {
		index int
		dst   *string
	}{{memberSub, &t.Subject}, {memberClientID, &t.ClientID}, {memberScope, &t.Scope}} {
		text, err := optionalText(&m, member.index)
		if err != nil {
			return nil, err
		}
		*member.dst = text
	}
	// A cnf that is malformed makes the token Unknown, not invalid: Verify refuses it under either scheme, and says why.
	t.Confirmation, _ = dpop.ParseConfirmation(m[memberCnf])
	if err := checkType(t, &m); err != nil {
		return nil, err
	}
	return t, nil
}

// optionalText returns the string that a member is, or "" if there is none.
func optionalText(m *[memberCount][]byte, index int) (string, error) {
	if m[index] == nil {
		return "", nil
	}
	text, err := jose.Text(m[index])
	if err != nil {
		return "", refuse(dpop.ErrTokenMalformed, "its %s %v", memberNames[index], err)
	}
	return string(text), nil
}

// readIssuer checks iss. An answer without one is the issuer's who was asked.
func (c *Config) readIssuer(t *dpop.Token, value []byte) error {
	if value == nil {
		return nil
	}
	iss, err := jose.Text(value)
	if err != nil {
		return refuse(dpop.ErrTokenMalformed, "its iss %v", err)
	}
	if c.Issuer != "" && string(iss) != c.Issuer {
		return refuse(dpop.ErrTokenIssuer, "its iss is not %q", c.Issuer)
	}
	t.Issuer = string(iss)
	return nil
}

func (c *Config) readAudience(t *dpop.Token, value []byte) error {
	list, err := jose.Strings(value)
	if one, oneErr := jose.Text(value); oneErr == nil {
		list, err = []string{string(one)}, nil
	}
	switch {
	case value == nil && c.AllowAnyAudience:
		return nil
	case value == nil:
		return refuse(dpop.ErrTokenAudience, "the answer has no aud, which should hold %q (AllowAnyAudience does without)", c.Audience)
	case err != nil:
		return refuse(dpop.ErrTokenMalformed, "its aud %v", err)
	case !c.AllowAnyAudience && !slices.Contains(list, c.Audience):
		return refuse(dpop.ErrTokenAudience, "its aud does not hold %q", c.Audience)
	}
	t.Audience = list
	return nil
}

func (c *Config) readTimes(t *dpop.Token, exp, nbf []byte, now time.Time) (err error) {
	if exp != nil {
		if t.Expiry, err = jose.Time(exp); err != nil {
			return refuse(dpop.ErrTokenMalformed, "its exp %v", err)
		}
		if !now.Before(t.Expiry) {
			return refuse(dpop.ErrTokenExpired, "it expired %v ago", now.Sub(t.Expiry).Round(time.Second))
		}
	}
	if nbf != nil {
		start, err := jose.Time(nbf)
		if err != nil {
			return refuse(dpop.ErrTokenMalformed, "its nbf %v", err)
		}
		if start.After(now.Add(c.Leeway)) {
			return refuse(dpop.ErrTokenNotYetValid, "its nbf lies %v ahead of this server's clock, and %v are allowed",
				start.Sub(now).Round(time.Second), c.Leeway)
		}
	}
	return nil
}

// checkType refuses an answer that contradicts itself: a token that is bound to a key is of the type DPoP, and no other is
// (RFC 9449 §6.2). Some servers leave token_type out. A type that is neither DPoP nor Bearer is no access token's: Keycloak
// calls refresh tokens Refresh and ID tokens ID, and they are active, too.
func checkType(t *dpop.Token, m *[memberCount][]byte) error {
	typ, err := optionalText(m, memberTokenType)
	if err != nil {
		return err
	}
	isDPoP, isBound := strings.EqualFold(typ, "DPoP"), t.Confirmation.JKT != ""
	switch {
	case isDPoP && !isBound && !t.Confirmation.Unknown: // which Verify refuses, and says why
		return refuse(dpop.ErrTokenInvalid, "its token_type is DPoP, but its cnf has no jkt")
	case isDPoP || typ == "":
		return nil
	case !strings.EqualFold(typ, "Bearer"):
		return refuse(dpop.ErrTokenType, "its token_type is neither DPoP nor Bearer")
	case isBound:
		return refuse(dpop.ErrTokenInvalid, "its cnf has a jkt, but its token_type is Bearer")
	}
	return nil
}
