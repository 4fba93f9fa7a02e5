package jkt_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"math/big"
	"testing"

	"github.com/senderbound/senderbound/jkt"
)

// A key made by hand may be no point at all. Asked for by internal/house/deletion.
func TestA09APointOffTheCurveHasNoThumbprint(t *testing.T) {
	key := &ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)}
	if got, err := jkt.Thumbprint(key); err == nil {
		t.Errorf("A09 Thumbprint of a point off the curve = %s: want an error", got)
	}
}
