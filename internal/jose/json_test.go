package jose_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/internal/jose"
)

// scan returns the raw values of a and jwk, the two members that the tables below ask for.
func scan(text string) (a, jwk []byte, err error) {
	values := make([][]byte, 2)
	err = jose.Scan([]byte(text), []string{"a", "jwk"}, values)
	return values[0], values[1], err
}

func TestScanFindsMembers(t *testing.T) {
	for name, tt := range map[string]struct{ text, a, jwk string }{
		"none":                          {`{}`, "", ""},
		"a string":                      {`{"a":"b"}`, `"b"`, ""},
		"white space everywhere":        {"\t{ \"a\" :\r\n 1 , \"jwk\" : { } } \n", "1", "{ }"},
		"a name spelled with an escape": {`{"\u0061":1}`, "1", ""},
		"a surrogate pair":              {`{"a":"\ud83d\ude00"}`, `"\ud83d\ude00"`, ""},
		"null is a value":               {`{"a":null}`, "null", ""},
		"nested members are not found":  {`{"b":{"a":1},"c":[{"jwk":2}]}`, "", ""},
		"a case variant is another":     {`{"A":1}`, "", ""},
		"a fold of k is another":        {`{"jwK":1}`, "", ""},
		"numbers":                       {`{"a":[0,-0,1.5,1e9,1E+09,2.5e-7,1764000000]}`, `[0,-0,1.5,1e9,1E+09,2.5e-7,1764000000]`, ""},
		"duplicates in sister objects":  {`{"a":[{"x":1},{"x":2}]}`, `[{"x":1},{"x":2}]`, ""},
		"case variants below the top":   {`{"a":{"x":1,"X":2}}`, `{"x":1,"X":2}`, ""},
		"sixteen levels":                {`{"a":` + strings.Repeat("[", 15) + strings.Repeat("]", 15) + `}`, strings.Repeat("[", 15) + strings.Repeat("]", 15), ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, jwk, err := scan(tt.text)
			require.NoError(t, err)
			if string(a) != tt.a || string(jwk) != tt.jwk {
				t.Errorf("Scan(%s) found a=%s jwk=%s, want a=%s jwk=%s", tt.text, a, jwk, tt.a, tt.jwk)
			}
		})
	}
}

// lenient says that encoding/json accepts the text: rows where it does show what the strictness is for.
func TestScanRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		text    string
		lenient bool
	}{
		"A19 a duplicate member":                     {`{"a":1,"a":2}`, true},
		"A19 a duplicate spelled with an escape":     {`{"a":1,"\u0061":2}`, true},
		"A19 a duplicate below the top":              {`{"a":{"x":1,"x":2}}`, true},
		"A19 a duplicate in an array's object":       {`{"a":[{"x":1,"x":2}]}`, true},
		"A19 a duplicate of a member not asked for":  {`{"zzz":1,"zzz":2}`, true},
		"A19 a duplicate after twenty others":        {many(20, `,"n3":1`), true},
		"A22 two names that differ in case":          {`{"a":1,"A":2}`, true},
		"A22 k and the Kelvin sign":                  {"{\"jwk\":1,\"jw\u212a\":2}", true},
		"A22 s and the long s":                       {"{\"use\":1,\"u\u017fe\":2}", true},
		"A22 the Kelvin sign spelled with an escape": {`{"jwk":1,"jw\u212A":2}`, true},
		"A22 a case variant after twenty others":     {many(20, `,"N3":1`), true},
		"A22 a Kelvin sign after twenty others":      {many(20, ",\"k\":1,\"\u212a\":1"), true},
		"A20 seventeen levels":                       {`{"a":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`, true},
		"A20 seventeen levels of objects":            {strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17), true},
		"A20 1500 levels":                            {`{"a":` + strings.Repeat("[", 1500) + strings.Repeat("]", 1500) + `}`, true},
		"A20 257 members":                            {many(257, ""), true},
		"A20 a number beyond float64":                {`{"a":1e400}`, false},
		"A20 a number with a long exponent":          {`{"a":1e-340}`, true},
		"A20 a number of 41 digits":                  {`{"a":` + strings.Repeat("1", 41) + `}`, true},
		"A20 a lone high surrogate":                  {`{"a":"\ud800"}`, true},
		"A20 a lone low surrogate":                   {`{"a":"\udc00"}`, true},
		"A20 a high surrogate before another escape": {`{"a":"\ud800\n"}`, true},
		"A20 two high surrogates":                    {`{"a":"\ud800\ud800"}`, true},
		"A20 a lone surrogate in a name":             {`{"\ud800":1}`, true},
		"A20 an escaped NUL":                         {`{"a":"\u0000"}`, true},
		"A20 an escaped NUL in a name":               {`{"a\u0000":1}`, true},
		"A20 a NUL":                                  {"{\"a\":\"\x00\"}", false},
		"A20 a NUL between tokens":                   {"{\"a\":1\x00}", false},
		"A20 a control character":                    {"{\"a\":\"\n\"}", false},
		"A20 invalid UTF-8":                          {"{\"a\":\"\xff\"}", true},
		"A20 an overlong encoding":                   {"{\"a\":\"\xc0\xaf\"}", true},
		"A20 a surrogate in UTF-8":                   {"{\"a\":\"\xed\xa0\x80\"}", true},
		"invalid UTF-8 after the object":             {"{}\xff", false},
		"a byte order mark":                          {"\ufeff{}", false},
		"nothing":                                    {``, false},
		"white space":                                {` `, false},
		"an array":                                   {`[]`, false},
		"a string":                                   {`"a"`, false},
		"null":                                       {`null`, true}, // into a map, null is no error
		"trailing garbage":                           {`{}x`, false},
		"a second object":                            {`{}{}`, false},
		"no end":                                     {`{"a":1`, false},
		"no value":                                   {`{"a":}`, false},
		"no colon":                                   {`{"a" 1}`, false},
		"no name":                                    {`{1:1}`, false},
		"a comma too many":                           {`{"a":1,}`, false},
		"a comma too many in an array":               {`{"a":[1,]}`, false},
		"no comma":                                   {`{"a":1 "b":2}`, false},
		"no comma in an array":                       {`{"a":[1 2]}`, false},
		"a wrong bracket":                            {`{"a":[1}}`, false},
		"a leading zero":                             {`{"a":01}`, false},
		"a plus sign":                                {`{"a":+1}`, false},
		"a minus sign alone":                         {`{"a":-}`, false},
		"a point alone":                              {`{"a":1.}`, false},
		"an exponent without digits":                 {`{"a":1e}`, false},
		"a hexadecimal number":                       {`{"a":0x1}`, false},
		"NaN":                                        {`{"a":NaN}`, false},
		"a word with more letters":                   {`{"a":truex}`, false},
		"a word with fewer letters":                  {`{"a":tru}`, false},
		"a word in capitals":                         {`{"a":TRUE}`, false},
		"an unknown escape":                          {`{"a":"\x41"}`, false},
		"half an escape":                             {`{"a":"\u00"}`, false},
		"an escape at the end":                       {`{"a":"\`, false},
		"a string without end":                       {`{"a":"b`, false},
		"a single quote":                             {`{'a':1}`, false},
		"a comment":                                  {`{/**/}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			if a, jwk, err := scan(tt.text); err == nil {
				t.Errorf("Scan(%.80q) found a=%s jwk=%s: want an error", tt.text, a, jwk)
			}
			var control map[string]any
			if err := json.Unmarshal([]byte(tt.text), &control); (err == nil) != tt.lenient {
				t.Errorf("the control is wrong: json.Unmarshal(%.80q) = %v", tt.text, err)
			}
		})
	}
}

// many returns an object of count members, named n0, n1, …, and of those in more.
func many(count int, more string) string {
	var b strings.Builder
	for i := range count {
		fmt.Fprintf(&b, `,"n%d":1`, i)
	}
	return "{" + b.String()[1:] + more + "}"
}

func TestScanAcceptsManyMembers(t *testing.T) {
	if _, _, err := scan(many(256, "")); err != nil {
		t.Errorf("an object of 256 members: %v", err)
	}
	if _, _, err := scan(`{"a":` + many(200, `,"N3":1`) + `}`); err != nil {
		t.Errorf("below the top, names that differ in case are two names, as roles and resources may be: %v", err)
	}
}

// What one text costs before any signature is checked must stay far below a signature (F04, A20): a stranger sends it.
// The measure is encoding/json's own check of the grammar, on the same machine at the same time; comparing each name with
// each, and computing each number, took 80 to 150 times as long.
func TestF04ScanIsQuickOnWhatIsMadeToBeSlow(t *testing.T) {
	var unicodeNames strings.Builder
	for i := range 256 {
		fmt.Fprintf(&unicodeNames, `,"ääääääää%03d":1`, i)
	}
	for name, text := range map[string]string{
		"256 names that fold":            "{" + unicodeNames.String()[1:] + "}",
		"240 numbers with long exponent": `{"a":[` + strings.Repeat("1234567890123456789e-340,", 239) + `1]}`,
		"140 numbers of 40 digits":       `{"a":[` + strings.Repeat(strings.Repeat("7", 36)+"e-99,", 139) + `1]}`,
		"arrays in arrays":               `{"a":[` + strings.Repeat("[[[[[[[[[[[[[]]]]]]]]]]]]],", 200) + `1]}`,
	} {
		t.Run(name, func(t *testing.T) {
			bestScan, bestValid := time.Hour, time.Hour
			for range 50 {
				start := time.Now()
				_, _, _ = scan(text)
				middle := time.Now()
				json.Valid([]byte(text))
				bestScan, bestValid = min(bestScan, middle.Sub(start)), min(bestValid, time.Since(middle))
			}
			if ratio := float64(bestScan) / float64(bestValid); ratio > 30 {
				t.Errorf("Scan of %d bytes took %.0f times as long as json.Valid", len(text), ratio)
			}
		})
	}
}

func TestText(t *testing.T) {
	for name, tt := range map[string]struct{ value, want string }{
		"empty":              {`""`, ""},
		"plain":              {`"abc"`, "abc"},
		"each short escape":  {`"\"\\\/\b\f\n\r\t"`, "\"\\/\b\f\n\r\t"},
		"hexadecimal escape": {`"x\u00e9\u00C9y"`, "xéÉy"},
		"surrogate pair":     {`"\uD83D\uDE00"`, "😀"},
		"UTF-8":              {`"é😀"`, "é😀"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := jose.Text([]byte(tt.value))
			require.NoError(t, err)
			if string(got) != tt.want {
				t.Errorf("Text(%s) = %q, want %q", tt.value, got, tt.want)
			}
		})
	}
	for name, value := range map[string]string{
		"nothing": "", "a number": "1", "null": "null", "an array": `["a"]`, "an object": `{"a":"b"}`, "a boolean": "true",
	} {
		if got, err := jose.Text([]byte(value)); err == nil {
			t.Errorf("Text of %s = %q: want an error", name, got)
		}
	}
}

func TestTime(t *testing.T) {
	for name, tt := range map[string]struct {
		value string
		want  time.Time
	}{
		"whole seconds":        {"1562262618", time.Unix(1562262618, 0)},
		"a fraction":           {"1562262618.5", time.Unix(1562262618, 500_000_000)},
		"an exponent":          {"1.562262618e9", time.Unix(1562262618, 0)},
		"1970":                 {"0", time.Unix(0, 0)},
		"the end of year 9999": {"253402300799", time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := jose.Time([]byte(tt.value))
			require.NoError(t, err)
			if !got.Equal(tt.want) {
				t.Errorf("Time(%s) = %v, want %v", tt.value, got, tt.want)
			}
		})
	}
	for name, value := range map[string]string{
		"C10 null":                     "null",
		"C10 a string":                 `"1562262618"`,
		"C10 true":                     "true",
		"C10 an array":                 "[1562262618]",
		"C10 negative":                 "-1562262618",
		"C10 minus zero":               "-0",
		"C10 the second after 9999":    "253402300800",
		"C10 milliseconds":             "1562262618000",
		"C10 a number beyond all time": "1e99",
		"nothing":                      "",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := jose.Time([]byte(value))
			if err == nil {
				t.Fatalf("Time(%s) = %v: want an error", value, got)
			}
			if strings.Contains(name, "milliseconds") && !strings.Contains(err.Error(), "milliseconds") {
				t.Errorf("the operator is not told the likely cause: %v", err)
			}
		})
	}
}

func TestStrings(t *testing.T) {
	for value, want := range map[string][]string{
		`[]`: nil, `[ ]`: nil, `["a"]`: {"a"}, `[ "a" , "\u0062" ]`: {"a", "b"},
	} {
		got, err := jose.Strings([]byte(value))
		require.NoError(t, err, value)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("Strings(%s) = %q, want %q", value, got, want)
		}
	}
	for _, value := range []string{``, `null`, `"a"`, `{}`, `[1]`, `["a",1]`, `["a",null]`, `[["a"]]`, `["a`, `["a"`} {
		if got, err := jose.Strings([]byte(value)); err == nil {
			t.Errorf("Strings(%s) = %q: want an error", value, got)
		}
	}
}
