// Package jose decodes JSON Web Signatures and JSON Web Keys more strictly than the RFCs ask: what two parsers could
// read in two ways is refused. It knows no policy; package dpop decides what a proof must say.
//
// It is written here rather than taken from a library because it reads what strangers send before anything vouches for
// them, and because one request must cost little more than one signature (docs/decisions/0003-strict-decoder.md).
package jose

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits of one JSON text. Proofs stay far below them; access tokens may nest roles and resources.
const (
	maxDepth   = 16
	maxMembers = 256
	maxNumber  = 40 // and an exponent of two digits, so that a float64 holds it and is quick to compute
)

var (
	errSyntax  = errors.New("is not well-formed JSON")
	errNotUTF8 = errors.New("is not valid UTF-8")
	errDepth   = fmt.Errorf("is nested deeper than %d levels", maxDepth)
	errMembers = fmt.Errorf("has an object of more than %d members", maxMembers)
	errNumber  = fmt.Errorf("has a number of more than %d characters, or an exponent of more than two digits", maxNumber)
	errObject  = errors.New("is not a JSON object")
)

// Scan reads the JSON object data and sets values[i] to the raw value of the member called names[i], or to nil if there
// is none. Values alias data.
//
// The whole text is checked: UTF-8, grammar, depth, size of numbers, no lone surrogates, no NUL, no duplicate member at
// any level. In data itself, whose members are about to be believed, two names that differ only in case count as
// duplicates: some parsers, encoding/json among them, take one for the other.
func Scan(data []byte, names []string, values [][]byte) error {
	clear(values)
	if !utf8.Valid(data) {
		return errNotUTF8
	}
	s := scanner{data: data}
	s.space()
	if s.peek() != '{' {
		return errObject
	}
	if err := s.object(1, names, values); err != nil {
		return err
	}
	if s.space(); s.pos != len(data) {
		return errSyntax
	}
	return nil
}

type scanner struct {
	data []byte
	pos  int
}

// peek returns the next byte, or 0 at the end: no token of JSON starts with 0.
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

func (s *scanner) take(b byte) bool {
	if s.peek() != b {
		return false
	}
	s.pos++
	return true
}

// object reads an object. At depth 1 it fills values.
func (s *scanner) object(depth int, names []string, values [][]byte) error {
	if depth > maxDepth {
		return errDepth
	}
	s.pos++
	if s.space(); s.take('}') {
		return nil
	}
	seen := nameSet{fold: depth == 1}
	for {
		name, err := s.name()
		if err != nil {
			return err
		}
		if seen.size == maxMembers {
			return errMembers
		}
		if !seen.add(name) {
			return fmt.Errorf("has the member %.32q twice", name)
		}
		start := s.pos
		if err := s.value(depth); err != nil {
			return err
		}
		if depth == 1 {
			for i, want := range names {
				if string(name) == want {
					values[i] = s.data[start:s.pos]
				}
			}
		}
		s.space()
		if s.take('}') {
			return nil
		}
		if !s.take(',') {
			return errSyntax
		}
		s.space()
	}
}

// A nameSet holds the names of one object. Few are compared each with each, which allocates nothing; with many that
// would take longer than a signature, so further ones go into a map.
type nameSet struct {
	fold bool // whether two names that differ only in case are the same
	size int
	few  [12][]byte
	many map[string]struct{}
}

// add reports whether name is new.
func (s *nameSet) add(name []byte) bool {
	if s.size < len(s.few) {
		for _, other := range s.few[:s.size] {
			if bytes.Equal(name, other) || s.fold && bytes.EqualFold(name, other) {
				return false
			}
		}
		s.few[s.size] = name
		s.size++
		return true
	}
	if s.many == nil {
		s.many = make(map[string]struct{}, 2*len(s.few))
		for _, other := range s.few {
			s.many[s.key(other)] = struct{}{}
		}
	}
	s.many[s.key(name)] = struct{}{}
	s.size++
	return len(s.many) == s.size
}

// key returns what all names that count as the same have in common.
func (s *nameSet) key(name []byte) string {
	if !s.fold {
		return string(name)
	}
	return string(bytes.Map(smallestFold, name))
}

// smallestFold returns the least of the runes that bytes.EqualFold takes for r, such as K for k and for the Kelvin sign.
func smallestFold(r rune) rune {
	least := r
	for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
		least = min(least, other)
	}
	return least
}

// name reads a member's name, the colon, and the space around it.
func (s *scanner) name() ([]byte, error) {
	start := s.pos
	if err := s.str(); err != nil {
		return nil, err
	}
	name, err := Text(s.data[start:s.pos])
	if err != nil {
		return nil, err
	}
	s.space()
	if !s.take(':') {
		return nil, errSyntax
	}
	s.space()
	return name, nil
}

func (s *scanner) array(depth int) error {
	if depth > maxDepth {
		return errDepth
	}
	s.pos++
	if s.space(); s.take(']') {
		return nil
	}
	for {
		if err := s.value(depth); err != nil {
			return err
		}
		s.space()
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return errSyntax
		}
		s.space()
	}
}

// value reads any value; depth is that of the object or array it stands in.
func (s *scanner) value(depth int) error {
	switch c := s.peek(); {
	case c == '"':
		return s.str()
	case c == '{':
		return s.object(depth+1, nil, nil)
	case c == '[':
		return s.array(depth + 1)
	case c == '-' || '0' <= c && c <= '9':
		return s.number()
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
			s.pos += len(word)
			return nil
		}
	}
	return errSyntax
}

// str reads a string and checks its escapes.
func (s *scanner) str() error {
	if !s.take('"') {
		return errSyntax
	}
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return nil
		case c == '\\':
			_, n := unescape(s.data[s.pos:])
			if n == 0 {
				return errSyntax
			}
			s.pos += n
		case c < ' ':
			return errSyntax
		default:
			s.pos++
		}
	}
	return errSyntax
}

func (s *scanner) digits() bool {
	start := s.pos
	for c := s.peek(); '0' <= c && c <= '9'; c = s.peek() {
		s.pos++
	}
	return s.pos > start
}

func (s *scanner) number() error {
	start := s.pos
	s.take('-')
	if !s.take('0') && !s.digits() {
		return errSyntax
	}
	if s.take('.') && !s.digits() {
		return errSyntax
	}
	exponent := 0
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		first := s.pos
		if !s.digits() {
			return errSyntax
		}
		exponent = s.pos - first
	}
	if s.pos-start > maxNumber || exponent > 2 {
		return errNumber
	}
	return nil
}

// unescape decodes the escape sequence at the start of b and returns its rune and length, or length 0 if it is none or
// stands for NUL or for half of a surrogate pair.
func unescape(b []byte) (rune, int) {
	if len(b) < 2 {
		return 0, 0
	}
	switch b[1] {
	case '"', '\\', '/':
		return rune(b[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	}
	r, ok := hex4(b)
	if !ok || r == 0 {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	low, ok := hex4(b[6:])
	if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
		return 0, 0
	}
	return r, 12
}

// hex4 decodes \uXXXX.
func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	for _, c := range b[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

var errNotString = errors.New("is not a string")

// Text returns the contents of the JSON string value, a value that [Scan] has found. It aliases value unless there are
// escapes to decode. A nil value, or one of another type, is an error.
func Text(value []byte) ([]byte, error) {
	if len(value) < 2 || value[0] != '"' {
		return nil, errNotString
	}
	value = value[1 : len(value)-1]
	i := bytes.IndexByte(value, '\\')
	if i < 0 {
		return value, nil
	}
	out := append(make([]byte, 0, len(value)), value[:i]...)
	for value = value[i:]; len(value) > 0; {
		if value[0] != '\\' {
			out, value = append(out, value[0]), value[1:]
			continue
		}
		r, n := unescape(value)
		if n == 0 {
			return nil, errSyntax
		}
		out, value = utf8.AppendRune(out, r), value[n:]
	}
	return out, nil
}

// maxSeconds is the end of the year 9999, the last that a time.Time can be written in.
const maxSeconds = 253402300799

var (
	errNotTime  = errors.New("is not a number of seconds since 1970")
	errLateTime = errors.New("lies after the year 9999: it seems to be in milliseconds")
)

// Time returns the NumericDate value (RFC 7519 §2), a value that [Scan] has found: a JSON number of seconds since 1970,
// in whole seconds or parts of them. A nil value, or one of another type, is an error.
func Time(value []byte) (time.Time, error) {
	if len(value) == 0 || value[0] < '0' || value[0] > '9' {
		return time.Time{}, errNotTime
	}
	f, err := strconv.ParseFloat(string(value), 64)
	if err != nil {
		return time.Time{}, errNotTime
	}
	if f > maxSeconds {
		return time.Time{}, errLateTime
	}
	whole, part := math.Modf(f)
	return time.Unix(int64(whole), int64(part*1e9)), nil
}

// Strings returns the elements of the JSON array value, a value that [Scan] has found, if all are strings. A nil value,
// or one of another type, is an error.
func Strings(value []byte) ([]string, error) {
	s := scanner{data: value}
	if !s.take('[') {
		return nil, errNotStrings
	}
	var list []string
	for s.space(); !s.take(']'); s.space() {
		start := s.pos
		if s.str() != nil {
			return nil, errNotStrings
		}
		text, err := Text(value[start:s.pos])
		if err != nil {
			return nil, err
		}
		list = append(list, string(text))
		s.space()
		s.take(',')
	}
	return list, nil
}

var errNotStrings = errors.New("is not an array of strings")
