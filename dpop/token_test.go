package dpop_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
)

const (
	aJKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
	aX5T = "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg0"
)

func TestParseConfirmation(t *testing.T) {
	unknown := dpop.Confirmation{Unknown: true}
	for name, tt := range map[string]struct {
		cnf  string
		want dpop.Confirmation
	}{
		"none":                           {``, dpop.Confirmation{}},
		"jkt":                            {`{"jkt":"` + aJKT + `"}`, dpop.Confirmation{JKT: aJKT}},
		"x5t#S256":                       {`{"x5t#S256":"` + aX5T + `"}`, dpop.Confirmation{X5T: aX5T}},
		"both":                           {`{"jkt":"` + aJKT + `","x5t#S256":"` + aX5T + `"}`, dpop.Confirmation{JKT: aJKT, X5T: aX5T}},
		"D04 with Keycloak's member":     {`{"kc-jkt-type":"dpop","jkt":"` + aJKT + `"}`, dpop.Confirmation{JKT: aJKT}},
		"R152 with a method unknown":     {`{"jkt":"` + aJKT + `","jwk":{"kty":"EC"}}`, dpop.Confirmation{JKT: aJKT}},
		"D03 a method unknown alone":     {`{"jwk":{"kty":"EC"}}`, unknown},
		"D03 empty":                      {`{}`, unknown},
		"D03 null":                       {`null`, unknown},
		"D03 a string":                   {`"` + aJKT + `"`, unknown},
		"D03 an array":                   {`["jkt"]`, unknown},
		"D03 false":                      {`false`, unknown},
		"D03 jkt empty":                  {`{"jkt":""}`, unknown},
		"D03 jkt null":                   {`{"jkt":null}`, unknown},
		"D03 jkt a number":               {`{"jkt":1}`, unknown},
		"D03 jkt an array":               {`{"jkt":["` + aJKT + `"]}`, unknown},
		"D03 jkt of 42 characters":       {`{"jkt":"` + aJKT[:42] + `"}`, unknown},
		"D03 jkt with padding":           {`{"jkt":"` + aJKT + `="}`, unknown},
		"D03 jkt in the wrong alphabet":  {`{"jkt":"` + aJKT[:42] + `+"}`, unknown},
		"D23 jkt in SHA-1":               {`{"jkt":"AAAAAAAAAAAAAAAAAAAAAAAAAAA"}`, unknown},
		"D23 jkt with other last bits":   {`{"jkt":"` + aJKT[:42] + `J"}`, unknown},
		"D13 jkt right and x5t#S256 not": {`{"jkt":"` + aJKT + `","x5t#S256":""}`, unknown},
		"D13 x5t#S256 right and jkt not": {`{"jkt":{},"x5t#S256":"` + aX5T + `"}`, unknown},
		"A22 JKT":                        {`{"JKT":"` + aJKT + `"}`, unknown},
		"A19 jkt twice":                  {`{"jkt":"` + aJKT + `","jkt":"` + aX5T + `"}`, unknown},
		"A19 jkt and JKT":                {`{"jkt":"` + aJKT + `","JKT":"` + aX5T + `"}`, unknown},
		"not JSON":                       {`{"jkt"`, unknown},
		"invalid UTF-8":                  {"{\"jkt\":\"" + aJKT + "\",\"\xff\":1}", unknown},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := dpop.ParseConfirmation(json.RawMessage(tt.cnf))
			if got != tt.want {
				t.Errorf("ParseConfirmation(%s) = %+v, want %+v", tt.cnf, got, tt.want)
			}
			if err != nil && got != unknown {
				t.Errorf("an error beside %+v: %v", got, err)
			}
			if len(tt.cnf) > 0 && got == (dpop.Confirmation{}) {
				t.Error("a token with a cnf counts as unbound")
			}
		})
	}
}

func TestHasScope(t *testing.T) {
	for _, tt := range []struct {
		have string
		want []string
		ok   bool
	}{
		{"read write", []string{"read"}, true},
		{"read write", []string{"write", "read"}, true},
		{"read write", nil, true},
		{"read write", []string{"delete"}, false},
		{"read write", []string{"read", "delete"}, false},
		{"read write", []string{"read write"}, false},
		{"read write", []string{"Read"}, false},
		{"read write", []string{"rea"}, false},
		{"read  write", []string{""}, false},
		{"", []string{""}, false},
		{"", []string{"read"}, false},
		{"", nil, true},
	} {
		if got := (&dpop.Token{Scope: tt.have}).HasScope(tt.want...); got != tt.ok {
			t.Errorf("a token with scope %q has %q: %v", tt.have, tt.want, got)
		}
	}
}

func TestClaims(t *testing.T) {
	token := &dpop.Token{Raw: json.RawMessage(`{"tenant":"a","n":1}`)}
	var claims struct{ Tenant string }
	require.NoError(t, token.Claims(&claims))
	if claims.Tenant != "a" {
		t.Errorf("tenant is %q", claims.Tenant)
	}
	if err := new(dpop.Token).Claims(&claims); err == nil {
		t.Error("a token without claims has none to decode: want an error")
	}
}

func TestRequire(t *testing.T) {
	for name, tt := range map[string]struct {
		bearer bool
		scheme string
		want   []string
	}{
		"R172 DPoP": {false, "DPoP", []string{`DPoP realm="api", error="insufficient_scope", error_description="The access token does not have the scope that this request needs", scope="admin audit", algs="ES256 EdDSA PS256"`}},
		"R172 Bearer": {true, "Bearer", []string{
			`DPoP realm="api", algs="ES256 EdDSA PS256"`,
			`Bearer realm="api", error="insufficient_scope", error_description="The access token does not have the scope that this request needs", scope="admin audit"`}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *dpop.Config) { c.Realm = "api"; c.AllowBearer = func() bool { return tt.bearer } })
			req := request(w.proof())
			if tt.bearer {
				w.registry.tokens[token].Confirmation = dpop.Confirmation{}
				req.Authorization, req.DPoP = []string{"Bearer " + token}, nil
			}
			result, err := w.verifier.Verify(context.Background(), req)
			require.NoError(t, err)
			require.NoError(t, result.Require())
			require.NoError(t, result.Require("orders:read"))
			require.NoError(t, result.Require("orders:write", "orders:read"))

			err = result.Require("admin", "audit")
			var e *dpop.Error
			require.ErrorAs(t, err, &e)
			if e.Status != 403 || e.Code != dpop.CodeInsufficientScope || !errors.Is(e, dpop.ErrInsufficientScope) {
				t.Errorf("status %d, code %s: %v", e.Status, e.Code, e)
			}
			if len(e.Challenges) != len(tt.want) {
				t.Fatalf("challenges %q, want %q", e.Challenges, tt.want)
			}
			for i := range tt.want {
				if e.Challenges[i] != tt.want[i] {
					t.Errorf("challenge\n%s\nwant\n%s", e.Challenges[i], tt.want[i])
				}
			}
		})
	}
}

// A Result made by hand, as in a test of a handler, works without a verifier.
func TestRequireOfAResultMadeByHand(t *testing.T) {
	result := &dpop.Result{Token: &dpop.Token{Scope: "read"}, Nonce: "n"}
	require.NoError(t, result.Require("read"))
	var e *dpop.Error
	require.ErrorAs(t, result.Require(`a"b\c`), &e)
	if e.Nonce != "n" || len(e.Challenges) == 0 {
		t.Errorf("nonce %q, challenges %q", e.Nonce, e.Challenges)
	}
}

func TestContext(t *testing.T) {
	if r, ok := dpop.FromContext(context.Background()); ok || r != nil {
		t.Errorf("an empty context has %v", r)
	}
	want := &dpop.Result{Token: new(dpop.Token)}
	if got, ok := dpop.FromContext(dpop.NewContext(context.Background(), want)); !ok || got != want {
		t.Errorf("got %v, %v", got, ok)
	}
}
