package jose

import (
	"errors"
	"slices"
)

// The decoder below is here for speed, and for what it does not know: padding, line breaks, and a second spelling of
// anything. encoding/base64 takes three times as long, skips line breaks, and checks trailing bits only if asked to.

var errBase64 = errors.New("is not canonical base64url without padding")

const (
	alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" // RFC 4648 §5
	invalid  = 1 << 31
)

// sextets has the value of each character at each of four places, or invalid.
var sextets = func() (t [4][256]uint32) {
	for place := range t {
		for c := range t[place] {
			t[place][c] = invalid
		}
		for value, c := range []byte(alphabet) {
			t[place][c] = uint32(value) << (18 - 6*place)
		}
	}
	return t
}()

// Decode appends to dst what src holds in canonical, unpadded base64url (RFC 7515 §2): one text for each value.
func Decode(dst, src []byte) ([]byte, error) {
	dst = slices.Grow(dst, len(src)/4*3+2)
	for len(src) >= 4 {
		v := sextets[0][src[0]] | sextets[1][src[1]] | sextets[2][src[2]] | sextets[3][src[3]]
		if v&invalid != 0 {
			return dst, errBase64
		}
		dst = append(dst, byte(v>>16), byte(v>>8), byte(v))
		src = src[4:]
	}
	var v uint32
	switch len(src) {
	case 0:
		return dst, nil
	case 2:
		v = sextets[0][src[0]] | sextets[1][src[1]]
	case 3:
		v = sextets[0][src[0]] | sextets[1][src[1]] | sextets[2][src[2]]
	default: // six bits are no byte
		v = invalid
	}
	whole := len(src) - 1
	if v&invalid != 0 || v<<(8+8*whole) != 0 { // the bits behind the last whole byte must be zero
		return dst, errBase64
	}
	return append(dst, byte(v>>16), byte(v>>8))[:len(dst)+whole], nil
}
