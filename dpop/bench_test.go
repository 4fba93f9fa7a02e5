package dpop_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/replay/memstore"
)

// A bench is a Verifier as one would run it, with JWT access tokens and memstore, and requests for it.
type bench struct {
	tb       testing.TB
	verifier *dpop.Verifier
	key      *dpopclient.Key
	token    string
	requests []dpop.Request
}

// newBench returns a bench for proofs with alg. Warm, its token is known already; cold, its signature, by ES256, is verified
// with each request.
func newBench(tb testing.TB, alg string, warm bool) *bench {
	tb.Helper()
	issuer := dpoptest.NewIssuer()
	tb.Cleanup(issuer.Close)
	resolver, err := atjwt.NewResolver(tb.Context(), atjwt.Config{Issuer: issuer.URL, Audience: "api", NoCache: !warm})
	require.NoError(tb, err)
	store, err := memstore.New(memstore.Config{MaxPerClient: 1_000_000})
	require.NoError(tb, err)
	tb.Cleanup(func() { store.Close() })
	verifier, err := dpop.NewVerifier(dpop.Config{Resolver: resolver, Replay: store})
	require.NoError(tb, err)
	b := &bench{tb: tb, verifier: verifier, key: keys()[alg]}
	b.token = issuer.Token("api", b.key.JKT(), nil)
	b.prepare(1)
	b.verify(0)
	return b
}

// prepare makes n requests, each with a proof of its own. To make one takes longer than to verify it, so it is not measured.
func (b *bench) prepare(n int) {
	b.requests = b.requests[:0]
	for range n {
		proof := dpoptest.Proof(b.key, dpopclient.Claims{Method: "GET", URI: target, AccessToken: b.token})
		b.requests = append(b.requests, dpop.Request{
			Method: "GET", URI: target, Authorization: []string{"DPoP " + b.token}, DPoP: []string{proof},
		})
	}
}

func (b *bench) verify(i int) {
	if _, err := b.verifier.Verify(context.Background(), b.requests[i]); err != nil {
		b.tb.Fatal(err)
	}
}

// newFloor returns what no verifier of ES256 proofs can do without: the SHA-256 of what was signed, and one verification.
func newFloor(b *bench) func() {
	proof := b.requests[0].DPoP[0]
	input := []byte(proof[:strings.LastIndexByte(proof, '.')])
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(b.tb, err)
	sum := sha256.Sum256(input)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	require.NoError(b.tb, err)
	return func() {
		sum := sha256.Sum256(input)
		if !ecdsa.VerifyASN1(&key.PublicKey, sum[:], signature) {
			b.tb.Fatal("the signature does not verify")
		}
	}
}

func BenchmarkFloor(b *testing.B) {
	floor := newFloor(newBench(b, "ES256", true))
	b.ReportAllocs()
	for b.Loop() {
		floor()
	}
}

func BenchmarkVerify(b *testing.B) {
	const round = 512
	for _, alg := range []string{"ES256", "EdDSA", "PS256"} {
		for _, name := range []string{"warm", "cold"} {
			b.Run(alg+"/"+name, func(b *testing.B) {
				bench := newBench(b, alg, name == "warm")
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if i%round == 0 {
						b.StopTimer()
						bench.prepare(round)
						b.StartTimer()
					}
					bench.verify(i % round)
				}
			})
		}
	}
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
		"200 members": w.proof(set("htm", "POST"), func(_, c map[string]any) {
			for i := range 200 {
				c[fmt.Sprintf("ääää%03d", i)] = 1
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
