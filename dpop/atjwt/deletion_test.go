package atjwt_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

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

// broken is an issuer whose connection breaks once all of the key set has come, but not the end of the answer.
type broken struct{ *issuer }

func (b broken) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.issuer.RoundTrip(r)
	if err == nil && r.URL.Path == jwksPath {
		res.Body = io.NopCloser(io.MultiReader(res.Body, iotest.ErrReader(io.ErrUnexpectedEOF)))
	}
	return res, err
}

func TestD18AnAnswerThatBreaksOff(t *testing.T) {
	i := newIssuer(all()...)
	cfg := config(i)
	cfg.HTTPClient = &http.Client{Transport: broken{i}}
	_, err := newResolver(t, cfg).ResolveToken(t.Context(), token(nil, nil))
	requireUnavailable(t, err)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}
