package introspect_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/senderbound/senderbound/introspect"
)

// jwtSized is a token as long as those that servers make of JWTs.
var jwtSized = strings.Repeat("eyJhbGciOiJF", 80)

// warm returns a resolver that knows jwtSized.
func warm(tb testing.TB) *introspect.Resolver {
	r := newResolver(tb, config(says(active()), caching(5*time.Minute)))
	wantVerdict(tb, r, jwtSized, accepted)
	return r
}

// floor returns what no verifier of ES256 proofs can do without: one SHA-256 and one verification.
func floor(tb testing.TB) func() {
	key := signers()["ES256"].(*ecdsa.PrivateKey)
	input := []byte(strings.Repeat("a", 500))
	sum := sha256.Sum256(input)
	signature := must(ecdsa.SignASN1(rand.Reader, key, sum[:]))
	return func() {
		sum := sha256.Sum256(input)
		if !ecdsa.VerifyASN1(&key.PublicKey, sum[:], signature) {
			tb.Fatal("the signature does not verify")
		}
	}
}

// hit returns what a request costs whose token is known: Verify asks Cached, with a hash that it needs anyway.
func hit(tb testing.TB) func() {
	r, key := warm(tb), sum(jwtSized)
	return func() {
		if _, ok := r.Cached(key); !ok {
			tb.Fatal("the token is not known")
		}
	}
}

// resolve returns what ResolveToken costs then.
func resolve(tb testing.TB) func() {
	r := warm(tb)
	return func() {
		if _, err := r.ResolveToken(context.Background(), jwtSized); err != nil {
			tb.Fatal(err)
		}
	}
}

func BenchmarkFloor(b *testing.B)        { bench(b, floor(b)) }
func BenchmarkCached(b *testing.B)       { bench(b, hit(b)) }
func BenchmarkResolveToken(b *testing.B) { bench(b, resolve(b)) }

// BenchmarkCall is without a cache and without a network: what making a call and reading its answer costs here.
func BenchmarkCall(b *testing.B) {
	r := newResolver(b, config(says(active())))
	bench(b, func() {
		if _, err := r.ResolveToken(context.Background(), jwtSized); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkCachedParallel(b *testing.B) {
	f := hit(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f()
		}
	})
}

func bench(b *testing.B, f func()) {
	b.ReportAllocs()
	for b.Loop() {
		f()
	}
}
