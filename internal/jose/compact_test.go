package jose_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/internal/jose"
)

func TestParseCompact(t *testing.T) {
	c, err := jose.ParseCompact("e30.YWJj.AAE")
	require.NoError(t, err)
	if string(c.Header) != "{}" || string(c.Payload) != "abc" || string(c.Signature) != "\x00\x01" {
		t.Errorf("segments are %q, %q and %q", c.Header, c.Payload, c.Signature)
	}
	if string(c.Input) != "e30.YWJj" {
		t.Errorf("the signature is over %q, want the first two segments as sent", c.Input)
	}
	// The three share one buffer; writing behind one must not reach the next.
	_ = append(c.Header, 'x')
	if string(c.Payload) != "abc" {
		t.Errorf("appending to the header changed the payload to %q", c.Payload)
	}
}

func TestParseCompactRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"A21 nothing":                                  "",
		"A21 one segment":                              "e30",
		"A21 two segments":                             "e30.YWJj",
		"A21 four segments":                            "e30.YWJj.AAE.AAE",
		"A21 five segments, as a JWE has":              "e30.AAE.AAE.AAE.AAE",
		"A21 a dot too many at the end":                "e30.YWJj.AAE.",
		"A21 JSON serialization":                       `{"protected":"e30","payload":"YWJj","signature":"AAE"}`,
		"A13 padding":                                  "e30=.YWJj.AAE",
		"A13 padding of the signature":                 "e30.YWJj.AAE=",
		"A13 trailing bits of the signature":           "e30.YWJj.AAF",
		"A13 trailing bits of the header":              "e31.YWJj.AAE",
		"A13 a line feed, which encoding/base64 skips": "e30.YW\nJj.AAE",
		"A13 a carriage return in the signature":       "e30.YWJj.AA\rE",
		"A13 a line feed at the end":                   "e30.YWJj.AAE\n",
		"a segment of one character":                   "e30.Y.AAE",
		"the standard alphabet":                        "e30.YWJj.+/+/",
		"a space":                                      "e30.YWJj .AAE",
		"a space before":                               " e30.YWJj.AAE",
		"a percent-encoding":                           "e30.YW%4Aj.AAE",
		"a character that is not ASCII":                "e30.YWJjé.AAE",
		"NUL":                                          "e30.YWJj\x00.AAE",
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := jose.ParseCompact(text); err == nil {
				t.Errorf("ParseCompact(%q) = %q, %q, %q: want an error", text, c.Header, c.Payload, c.Signature)
			}
		})
	}
}

// The control for A13: what Decode refuses and the standard library's decoder takes for the same bytes. With it, one proof
// would have as many spellings as one likes.
func TestDecodeIsStricterThanTheStandardLibrary(t *testing.T) {
	for _, spelling := range []string{"AAF", "A\nAE", "AAE\r\n"} {
		got, err := base64.RawURLEncoding.DecodeString(spelling)
		require.NoError(t, err)
		if string(got) != "\x00\x01" {
			t.Errorf("the control is wrong: %q decodes to %q", spelling, got)
		}
		if got, err := jose.Decode(nil, []byte(spelling)); err == nil {
			t.Errorf("Decode(%q) = %q: want an error, since AAE spells the same", spelling, got)
		}
	}
}

func TestDecodeAppends(t *testing.T) {
	got, err := jose.Decode([]byte("x"), []byte("YWJj"))
	require.NoError(t, err)
	if string(got) != "xabc" {
		t.Errorf("Decode appended to %q", got)
	}
	long := strings.Repeat("AAAA", 1000)
	if got, err := jose.Decode(nil, []byte(long)); err != nil || len(got) != 3000 {
		t.Errorf("Decode of 4000 characters: %d bytes, %v", len(got), err)
	}
}
