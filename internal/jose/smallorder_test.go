package jose

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"math/big"
	"testing"
)

// The curve of Ed25519, -x² + y² = 1 + d·x²·y² over the integers modulo p, computed here with math/big and nothing else
// (RFC 8032 §5.1). It is slow and plain: its only task is to check smallOrderPoints without trusting whoever wrote it.
var (
	fieldPrime = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	curveD     = mul(big.NewInt(-121665), inverse(big.NewInt(121666)))
)

func mod(a *big.Int) *big.Int        { return new(big.Int).Mod(a, fieldPrime) }
func mul(a, b *big.Int) *big.Int     { return mod(new(big.Int).Mul(a, b)) }
func add(a, b *big.Int) *big.Int     { return mod(new(big.Int).Add(a, b)) }
func sub(a, b *big.Int) *big.Int     { return mod(new(big.Int).Sub(a, b)) }
func inverse(a *big.Int) *big.Int    { return new(big.Int).ModInverse(mod(a), fieldPrime) }
func squareRoot(a *big.Int) *big.Int { return new(big.Int).ModSqrt(mod(a), fieldPrime) }

type point struct{ x, y *big.Int }

var one = big.NewInt(1)

// double returns P + P. The addition law of this curve has no exceptions.
func (p point) double() point {
	xx, yy, xy := mul(p.x, p.x), mul(p.y, p.y), mul(p.x, p.y)
	t := mul(curveD, mul(xx, yy))
	return point{mul(add(xy, xy), inverse(add(one, t))), mul(add(yy, xx), inverse(sub(one, t)))}
}

// orderDivides8 reports whether 8·P is the neutral element (0, 1).
func (p point) orderDivides8() bool {
	q := p.double().double().double()
	return q.x.Sign() == 0 && q.y.Cmp(one) == 0
}

// onCurve returns a point with this y, or false if there is none.
func onCurve(y *big.Int) (point, bool) {
	yy := mul(y, y)
	x := squareRoot(mul(sub(yy, one), inverse(add(one, mul(curveD, yy)))))
	return point{x, mod(y)}, x != nil
}

// encode returns the encoding of y, which may be beyond the field, with a sign bit.
func encode(y *big.Int, sign byte) []byte {
	b := y.FillBytes(make([]byte, 32))
	for i := range 16 {
		b[i], b[31-i] = b[31-i], b[i]
	}
	b[31] |= sign << 7
	return b
}

// smallOrderY finds the y of every point whose order divides 8, from the equations alone. The points of order 1, 2 and 4
// have y = 1, y = -1 and y = 0. A point of order 8 is one whose double has y = 0, which the addition law gives for
// x² = -y²; put into the curve's equation, d·y⁴ + 2·y² = 1.
func smallOrderY(t *testing.T) []*big.Int {
	found := []*big.Int{big.NewInt(0), big.NewInt(1), sub(big.NewInt(0), one)}
	// y² = (-1 ± √(1+d))/d
	root := squareRoot(add(one, curveD))
	if root == nil {
		t.Fatal("1+d is no square, so there would be no point of order 8")
	}
	for _, r := range []*big.Int{root, sub(big.NewInt(0), root)} {
		if y := squareRoot(mul(sub(r, one), inverse(curveD))); y != nil {
			found = append(found, y, sub(big.NewInt(0), y))
		}
	}
	return found
}

func TestSmallOrderPointsAreAllOfThem(t *testing.T) {
	want := map[string]bool{}
	points := 0
	for _, y := range smallOrderY(t) {
		p, ok := onCurve(y)
		if !ok || !p.orderDivides8() {
			t.Fatalf("y = %x is not of a point whose order divides 8", y)
		}
		points++
		if p.x.Sign() != 0 {
			points++ // -x is another point with the same y
		}
		want[string(encode(y, 0))] = true
		// A decoder that does not reduce takes y+p for y, if it still fits into 255 bits.
		if beyond := new(big.Int).Add(y, fieldPrime); beyond.BitLen() <= 255 {
			want[string(encode(beyond, 0))] = true
		}
	}
	if points != 8 {
		t.Fatalf("found %d points whose order divides the cofactor 8: the group has exactly 8", points)
	}
	got := map[string]bool{}
	for _, encoding := range smallOrderPoints {
		got[encoding] = true
		if !want[encoding] {
			t.Errorf("%x is in the table and is not of small order", encoding)
		}
	}
	for encoding := range want {
		if !got[encoding] {
			t.Errorf("%x is of small order and is not in the table", encoding)
		}
	}
}

// No other encoding hides a point of small order: those beyond the field are 19, and each is decoded here.
func TestSmallOrderKnowsEveryEncodingBeyondTheField(t *testing.T) {
	for i := range 19 {
		y := new(big.Int).Add(fieldPrime, big.NewInt(int64(i)))
		p, ok := onCurve(y)
		if ok && p.orderDivides8() != smallOrder(encode(y, 0)) {
			t.Errorf("smallOrder is wrong about p+%d", i)
		}
	}
}

// The control: crypto/ed25519 accepts one signature, made without any private key, for every message under such a key.
func TestA08AnyoneCanSignForAKeyOfSmallOrder(t *testing.T) {
	for _, encoding := range smallOrderPoints {
		for _, sign := range []byte{0, 1} {
			key := []byte(encoding)
			key[31] |= sign << 7
			if !smallOrder(key) {
				t.Errorf("smallOrder(%x) = false", key)
			}
			jwk := []byte(`{"kty":"OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(key) + `"}`)
			if _, err := ParseKey(jwk, "EdDSA"); err == nil {
				t.Errorf("ParseKey takes the point of small order %x", key)
			}
		}
	}
	// Key and R are the neutral element and S is 0, so S·B = R + h·A whatever the message, and with it h, is.
	neutral := encode(one, 0)
	forged := append(bytes.Clone(neutral), make([]byte, 32)...)
	for _, message := range []string{"transfer 1", "transfer 1000000"} {
		if !ed25519.Verify(neutral, []byte(message), forged) {
			t.Error("the control is wrong: crypto/ed25519 refuses the forged signature, so the check would not be needed")
		}
	}
}

func TestSmallOrderAcceptsOtherKeys(t *testing.T) {
	for i := range 100 {
		seed := [32]byte{byte(i)}
		if key := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey); smallOrder(key) {
			t.Errorf("smallOrder(%x) = true", key)
		}
	}
}
