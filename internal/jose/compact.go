package jose

import (
	"bytes"
	"errors"
)

var (
	errSegments = errors.New("does not have three segments")
	errHeader   = errors.New("has a header that is not a JSON object, or has white space around it")
)

// A Compact is a decoded JWS in compact serialization (RFC 7515 §7.1). Nothing in it is verified.
type Compact struct {
	Input           []byte // what the signature is over: the first two segments as sent
	Header, Payload []byte
	Signature       []byte
}

// ParseCompact splits and decodes a compact JWS: exactly three segments of canonical, unpadded base64url, of which the
// first begins and ends as a JSON object does. The caller limits its size.
func ParseCompact(s string) (Compact, error) {
	// One block of memory for the text and, behind it, for what it decodes to.
	buf := append(make([]byte, 0, len(s)+len(s)/4*3+6), s...)
	raw := buf
	first := bytes.IndexByte(raw, '.')
	last := bytes.LastIndexByte(raw, '.')
	if first < 0 || first == last || bytes.IndexByte(raw[first+1:last], '.') >= 0 {
		return Compact{}, errSegments
	}
	c := Compact{Input: raw[:last]}
	var err error
	for _, segment := range [...]struct {
		dst *[]byte
		src []byte
	}{{&c.Header, raw[:first]}, {&c.Payload, raw[first+1 : last]}, {&c.Signature, raw[last+1:]}} {
		start := len(buf)
		if buf, err = Decode(buf, segment.src); err != nil {
			return Compact{}, err
		}
		*segment.dst = buf[start:len(buf):len(buf)]
	}
	// Some decoders cut white space off and then compute another signing input.
	if h := c.Header; len(h) < 2 || h[0] != '{' || h[len(h)-1] != '}' {
		return Compact{}, errHeader
	}
	return c, nil
}
