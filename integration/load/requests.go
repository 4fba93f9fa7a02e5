package main

import (
	"context"
	"fmt"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/replay"
)

// A requests has a Verifier with each store, as one would run it: the tokens are JWTs, and the one that is used is known.
// Proofs are signed with ES256.
type requests struct {
	issuer    *dpoptest.Issuer
	key       *dpopclient.Key
	token     string
	verifiers []*dpop.Verifier // by the ways below
}

// The ways of compare.
const (
	verifyAlone = iota
	verifyMemory
	verifyTiered
	verifyRedis
)

const (
	audience = "api"
	target   = "https://api.example.com/orders/17"
)

func newRequests(ctx context.Context, s *stores) (*requests, error) {
	r := &requests{issuer: dpoptest.NewIssuer(), key: dpoptest.NewKey()}
	resolver, err := atjwt.NewResolver(ctx, atjwt.Config{Issuer: r.issuer.URL, Audience: audience})
	if err != nil {
		return nil, err
	}
	for _, store := range []replay.Store{verifyAlone: always{}, verifyMemory: s.memory, verifyTiered: s.tiered, verifyRedis: s.redis} {
		v, err := dpop.NewVerifier(dpop.Config{Resolver: resolver, Replay: store, Leeway: leeway, ClockSkew: clockSkew})
		if err != nil {
			return nil, err
		}
		r.verifiers = append(r.verifiers, v)
	}
	r.token = r.issuer.Token(audience, r.key.JKT(), map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()})
	return r, nil
}

func (r *requests) close() { r.issuer.Close() }

// compare compares requests.
func (r *requests) compare() (contests []*contest) {
	const size = 512 // a request takes longer than the use of a key
	for _, inFlight := range requestsInFlight {
		batch := make([]dpop.Request, size)
		c := &contest{inFlight: inFlight, size: size, prepare: func() error {
			for i := range batch {
				proof, err := r.key.Proof(dpopclient.Claims{Method: "GET", URI: target, AccessToken: r.token})
				if err != nil {
					return err
				}
				batch[i] = dpop.Request{Method: "GET", URI: target, Authorization: []string{"DPoP " + r.token}, DPoP: []string{proof}}
			}
			return nil
		}}
		for _, v := range r.verifiers {
			c.ways = append(c.ways, &way{do: func(i int) error {
				if _, err := v.Verify(context.Background(), batch[i]); err != nil {
					return fmt.Errorf("a request is refused: %w", err)
				}
				return nil
			}})
		}
		contests = append(contests, c)
	}
	return contests
}
