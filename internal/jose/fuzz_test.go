package jose_test

import (
	"crypto"
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/senderbound/senderbound/internal/jose"
)

// What Scan accepts, encoding/json accepts, and both find the same values. The other way round they differ on purpose:
// duplicates, case variants, NUL, lone surrogates, invalid UTF-8, depth, and the sizes of numbers and objects.
func FuzzScan(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":1}`, `{"a":"\u00e9\ud83d\ude00","jwk":{"kty":"EC"}}`, `{"a":[1,2.5e-7,true,null,{"b":[]}]}`,
		`{"a":1,"a":2}`, `{"a":1,"A":2}`, "{\"k\":1,\"\u212a\":2}", `{"\u0061":"x"}`, `{"a":1e400}`, `{"a":"\ud800"}`,
		`{"a":-0}`, many(13, ""), many(13, `,"N3":1`), `{"a":[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		names := []string{"a", "jwk", "kty", "b"}
		values := make([][]byte, len(names))
		if jose.Scan(data, names, values) != nil {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatalf("Scan accepts what encoding/json refuses: %v", err)
		}
		for i, name := range names {
			if string(values[i]) != string(want[name]) {
				t.Fatalf("member %s is %s, encoding/json finds %s", name, values[i], want[name])
			}
			checkText(t, values[i])
			if at, err := jose.Time(values[i]); err == nil && (at.Unix() < 0 || at.Year() > 9999) {
				t.Fatalf("Time(%s) = %v", values[i], at)
			}
			if list, err := jose.Strings(values[i]); err == nil {
				var want []string
				if err := json.Unmarshal(values[i], &want); err != nil || len(want) != len(list) {
					t.Fatalf("Strings(%s) = %q, encoding/json finds %q (%v)", values[i], list, want, err)
				}
			}
		}
	})
}

func checkText(t *testing.T, value []byte) {
	t.Helper()
	text, err := jose.Text(value)
	if err != nil {
		return
	}
	var want string
	if err := json.Unmarshal(value, &want); err != nil || string(text) != want {
		t.Fatalf("Text(%s) = %q, encoding/json finds %q (%v)", value, text, want, err)
	}
	if !utf8.Valid(text) {
		t.Fatalf("Text(%s) is not UTF-8", value)
	}
}

// What ParseKey accepts, jwx accepts, as the same key.
func FuzzParseKey(f *testing.F) {
	for alg, name := range keyFor {
		text, err := json.Marshal(jwkOf(keys()[name].Public()))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, alg)
	}
	f.Add([]byte(`{"kty":"RSA","n":"AQ","e":"AQ"}`), "PS256")
	f.Add([]byte(`{"kty":"OKP","crv":"Ed25519","x":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`), "EdDSA")
	f.Fuzz(func(t *testing.T, text []byte, alg string) {
		got, err := jose.ParseKey(text, alg)
		if err != nil {
			return
		}
		theirs, err := jwk.ParseKey(text)
		if err != nil {
			t.Fatalf("ParseKey accepts %s, jwx says %v", text, err)
		}
		var want any
		if err := theirs.Raw(&want); err != nil {
			t.Fatalf("ParseKey accepts %s, jwx says %v", text, err)
		}
		if !got.(interface{ Equal(crypto.PublicKey) bool }).Equal(want) {
			t.Fatalf("ParseKey returns %v for %s, jwx %v", got, text, want)
		}
		if jose.Verify(alg, got, []byte("input"), make([]byte, 64)) {
			t.Fatalf("a signature of zeros verifies for %s with %s", text, alg)
		}
	})
}
