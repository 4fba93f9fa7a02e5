package introspect_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/introspect"
)

// fuzzTime is the clock of FuzzAnswer; seeds from other times would have expired.
var fuzzTime = time.Unix(1_800_000_000, 0)

// FuzzAnswer gives a Resolver anything at all as an answer. Nothing panics; what is no JSON object says nothing about the
// token, and all else is a verdict; and of what is accepted encoding/json reads the same.
func FuzzAnswer(f *testing.F) {
	good := active().with(members{"exp": fuzzTime.Unix() + 60, "iat": fuzzTime.Unix(), "nbf": fuzzTime.Unix()})
	for _, changes := range []members{
		{}, {"active": false}, {"active": "true"}, {"active": 1}, {"active": nil}, {"active": null}, {"aud": audience}, {"aud": nil},
		{"exp": 1.5e9}, {"exp": 1e300}, {"exp": "1"}, {"nbf": 1e18}, {"iss": nil}, {"iss": 7}, {"cnf": nil}, {"cnf": "x"}, {"token_type": nil},
		{"token_type": "bearer", "cnf": members{"x5t#S256": x5t}}, {"active": false, "jwt": "e30.e30."}, {"scope": null},
	} {
		f.Add(good.with(changes).String())
	}
	for _, body := range []string{
		"", "{", "[]", "null", "<html>", `{"active":true,"active":false}`, `{"active":true,"ACTIVE":false}`, `{"\u0061ctive":true}`,
		strings.Replace(good.String(), "alice", `\ud83d\ude00\u0000`, 1), strings.Repeat(`{"a":`, 20), " {\"active\":true}\n",
	} {
		f.Add(body)
	}
	s := &server{}
	r, err := introspect.NewResolver(config(s, func(c *introspect.Config) {
		c.Now = func() time.Time { return fuzzTime }
		c.NoNegativeCache = true
	}))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, body string) {
		s.set(text(body))
		got, err := r.ResolveToken(context.Background(), token)
		said := verdictOf(t, got, err)
		isObject := json.Valid([]byte(body)) && strings.HasPrefix(strings.TrimLeft(body, " \t\r\n"), "{")
		if (said == unavailable) == isObject {
			t.Errorf("%q, and the answer is an object: %v (%v)", said, isObject, err)
		}
		if err != nil {
			return
		}
		var answer map[string]any
		require.NoError(t, json.Unmarshal([]byte(body), &answer))
		str := func(m map[string]any, name string) string { s, _ := m[name].(string); return s }
		require.Equal(t, true, answer["active"])
		if iss, ok := answer["iss"]; ok {
			require.Equal(t, issuerURL, iss)
		}
		require.Equal(t, []string{str(answer, "sub"), str(answer, "client_id"), str(answer, "scope")}, []string{got.Subject, got.ClientID, got.Scope})
		if list, ok := answer["aud"].([]any); ok {
			require.True(t, slices.Contains(list, any(audience)))
		} else {
			require.Equal(t, audience, answer["aud"])
		}
		if exp, ok := answer["exp"]; ok {
			require.Greater(t, exp, float64(fuzzTime.Unix()))
			require.False(t, got.Expiry.IsZero())
		}
		if nbf, ok := answer["nbf"]; ok {
			require.LessOrEqual(t, nbf, float64(fuzzTime.Unix()+10))
		}
		cnf, isMap := answer["cnf"].(map[string]any)
		_, hasCnf := answer["cnf"]
		want := dpop.Confirmation{JKT: str(cnf, "jkt"), X5T: str(cnf, "x5t#S256"), Unknown: hasCnf && !isMap}
		if !got.Confirmation.Unknown {
			require.Equal(t, want, got.Confirmation)
		}
		typ := str(answer, "token_type")
		require.False(t, strings.EqualFold(typ, "DPoP") && got.Confirmation == dpop.Confirmation{}, "DPoP without a cnf")
		require.False(t, typ != "" && !strings.EqualFold(typ, "DPoP") && got.Confirmation.JKT != "", "a jkt with another type")
	})
}
