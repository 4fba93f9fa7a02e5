package atjwt_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
)

// The tests of this file are those that internal/house/deletion asked for: each misses one check that no other did.

// The operator learns that a token is encrypted, and not only that it cannot be read.
func TestR113EncryptedTokensAreNamed(t *testing.T) {
	r := newResolver(t, config(newIssuer(all()...)))
	encrypted := "eyJhbGciOiJSU0EtT0FFUCJ9.AAAA.AAAA.AAAA.AAAA"
	_, err := r.ResolveToken(t.Context(), encrypted)
	requireRefused(t, err, dpop.ErrTokenMalformed, encrypted)
	require.ErrorContains(t, err, "encrypted")

	_, err = r.ResolveToken(t.Context(), "AAAA.AAAA")
	require.ErrorIs(t, err, dpop.ErrTokenMalformed)
	require.ErrorContains(t, err, "segments")
	require.NotContains(t, err.Error(), "encrypted")
}

// Keys that come before what is broken do not count.
func TestD18KeySetsThatAreBrokenAtTheEnd(t *testing.T) {
	good := string(must(json.Marshal(members{"keys": all()})))
	for name, body := range map[string]string{
		"a second list that is none": strings.TrimSuffix(good, "}") + `,"keys":5}`,
		"no end":                     strings.TrimSuffix(good, "}"),
		"something after it":         good + "{",
	} {
		t.Run(name, func(t *testing.T) {
			i := newIssuer()
			i.route(jwksPath, text(body))
			_, err := newResolver(t, config(i)).ResolveToken(t.Context(), token(nil, nil))
			requireUnavailable(t, err)
		})
	}
}
