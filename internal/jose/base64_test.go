package jose_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/senderbound/senderbound/internal/jose"
)

// oracle is what the standard library decodes, if that is the one spelling of its value.
func oracle(src []byte) ([]byte, bool) {
	got, err := base64.RawURLEncoding.Strict().DecodeString(string(src))
	return got, err == nil && !bytes.ContainsAny(src, "\r\n") // which it skips
}

func checkDecode(t *testing.T, src []byte) {
	want, ok := oracle(src)
	got, err := jose.Decode([]byte("before"), src)
	if ok != (err == nil) {
		t.Fatalf("A13: %q: error is %v, the standard library takes it: %v", src, err, ok)
	}
	if ok && string(got) != "before"+string(want) {
		t.Fatalf("%q decodes to %q, want %q", src, got, want)
	}
}

// TestDecodeEveryEnd goes through every group of up to three bytes, in which all that is special about a text's end lies.
func TestDecodeEveryEnd(t *testing.T) {
	for _, before := range []string{"", "abcd"} {
		checkDecode(t, []byte(before))
		for a := range 256 {
			checkDecode(t, append([]byte(before), byte(a)))
			for b := range 256 {
				checkDecode(t, append([]byte(before), byte(a), byte(b)))
			}
		}
		for _, a := range "A_- \n=" {
			for b := range 256 {
				for c := range 256 {
					checkDecode(t, append([]byte(before), byte(a), byte(b), byte(c)))
					checkDecode(t, append([]byte(before), byte(b), byte(a), byte(c), 'A'))
				}
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{"", "e30", "e31", "AA==", "A\nAA", strings.Repeat("-_", 40)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(checkDecode)
}
