package dpop_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
)

// trivialStore is a replay store that costs as little as one can: what Verify costs is not the store's.
type trivialStore struct {
	mu   sync.Mutex
	used map[string]struct{}
}

func (s *trivialStore) FirstUse(_ context.Context, key string, _, _ time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := len(s.used)
	s.used[key] = struct{}{}
	return len(s.used) > size, nil
}

// benchProofs are made ahead, since making one costs more than verifying it. A run that is longer than their number
// starts again with an empty store.
const benchProofs = 512

type bench struct {
	proofs []string
	reqs   []dpop.Request
	store  *trivialStore
	v      *dpop.Verifier
}

// newBench returns a verifier that knows the token already, or one that must ask.
func newBench(b *testing.B, alg string, known bool) *bench {
	b.Helper()
	key := keys()[alg]
	t := &dpop.Token{Subject: "alice", Confirmation: dpop.Confirmation{JKT: key.JKT()}}
	resolver := &registry{tokens: map[string]*dpop.Token{token: t}}
	cfg := dpop.Config{Resolver: resolver, Now: func() time.Time { return now }}
	if known {
		cfg.Resolver = cache{resolver, map[[32]byte]*dpop.Token{sha256.Sum256([]byte(token)): t}}
	}
	bn := &bench{store: &trivialStore{used: map[string]struct{}{}}}
	cfg.Replay = bn.store
	var err error
	if bn.v, err = dpop.NewVerifier(cfg); err != nil {
		b.Fatal(err)
	}
	for range benchProofs {
		proof := dpoptest.Forge(key, dpopclient.Claims{Method: "GET", URI: target, AccessToken: token}, func(_, c map[string]any) { c["iat"] = now.Unix() })
		bn.proofs = append(bn.proofs, proof)
		bn.reqs = append(bn.reqs, request(proof))
	}
	return bn
}

func (bn *bench) verify(b *testing.B, i int) {
	if i%benchProofs == 0 {
		clear(bn.store.used)
	}
	if _, err := bn.v.Verify(context.Background(), bn.reqs[i%benchProofs]); err != nil {
		b.Fatal(err)
	}
}

// floor returns what no verifier of ES256 proofs can do without: the SHA-256 of what was signed, and one verification.
func floor(b *testing.B) func(i int) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	input := []byte(newBench(b, "ES256", true).proofs[0])
	input = input[:len(input)-87] // without a dot and 86 characters of signature
	sum := sha256.Sum256(input)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		b.Fatal(err)
	}
	return func(int) {
		sum := sha256.Sum256(input)
		if !ecdsa.VerifyASN1(&key.PublicKey, sum[:], sig) {
			b.Fatal("the signature does not verify")
		}
	}
}

func BenchmarkFloor(b *testing.B) {
	run := floor(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		run(i)
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, alg := range []string{"ES256", "EdDSA", "PS256"} {
		for name, known := range map[string]bool{"warm": true, "cold": false} {
			b.Run(alg+"/"+name, func(b *testing.B) {
				bn := newBench(b, alg, known)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					bn.verify(b, i)
				}
			})
		}
	}
}

// BenchmarkVerifyRatio prints what a warm request costs in units of the floor. Rounds of both alternate, so that a busy
// machine slows both alike, and the fastest round of each counts.
func BenchmarkVerifyRatio(b *testing.B) {
	const round = 200
	run, bn := floor(b), newBench(b, "ES256", true)
	bestFloor, bestVerify := time.Hour, time.Hour
	next := 0
	for b.Loop() {
		start := time.Now()
		for i := range round {
			run(i)
		}
		bestFloor = min(bestFloor, time.Since(start))
		start = time.Now()
		for range round {
			bn.verify(b, next)
			next++
		}
		bestVerify = min(bestVerify, time.Since(start))
	}
	b.ReportMetric(float64(bestVerify)/float64(bestFloor), "warm/floor")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRefuse shows what garbage costs: each of these is refused before any signature is verified.
func BenchmarkRefuse(b *testing.B) {
	w := &world{key: keys()["ES256"], now: now}
	v, err := dpop.NewVerifier(dpop.Config{Resolver: &registry{}, Replay: new(memory), Now: func() time.Time { return now }})
	if err != nil {
		b.Fatal(err)
	}
	for name, proof := range map[string]string{
		"htu":      w.proof(set("htu", "https://api.example.com/orders/8")),
		"typ":      w.proof(setHeader("typ", "JWT")),
		"no proof": "garbage",
		"256 members": w.proof(func(_, c map[string]any) {
			for i := range 300 {
				c[fmt.Sprintf("ääääää%03d", i)] = 1
			}
		}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(context.Background(), request(proof)); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}
