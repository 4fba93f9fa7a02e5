package dpop_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
)

// A message of a queue that carries an access token and a proof: DPoP needs no HTTP. The method and the URI are what both
// sides agree on for this transport.
type message struct {
	Subject, Authorization, Proof string
}

// Verify is called directly, here for messages of a queue.
func ExampleVerifier_Verify() {
	key := dpoptest.NewKey()
	verifier, err := dpop.NewVerifier(dpop.Config{
		// A resolver that knows one token. Package atjwt validates JWTs instead.
		Resolver: dpop.TokenResolverFunc(func(_ context.Context, token string) (*dpop.Token, error) {
			if token != "alices-token" {
				return nil, dpop.ErrTokenInvalid
			}
			return &dpop.Token{Subject: "alice", Scope: "orders:write", Confirmation: dpop.Confirmation{JKT: key.JKT()}}, nil
		}),
		// A store for this example alone. Package memstore is one for a process.
		Replay: new(memory),
	})
	if err != nil {
		panic(err)
	}
	handle := func(m message) {
		result, err := verifier.Verify(context.Background(), dpop.Request{
			Method:        "SEND",
			URI:           "queue://orders.example.com/" + m.Subject,
			Authorization: []string{m.Authorization},
			DPoP:          []string{m.Proof},
		})
		var refused *dpop.Error
		switch {
		case errors.As(err, &refused):
			fmt.Println("refused:", refused.Code, "because of", refused.Reason)
		case result.Require("orders:write") != nil:
			fmt.Println("not permitted")
		default:
			fmt.Println("accepted from", result.Token.Subject)
		}
	}

	proof, err := key.Proof(dpopclient.Claims{Method: "SEND", URI: "queue://orders.example.com/new", AccessToken: "alices-token"})
	if err != nil {
		panic(err)
	}
	handle(message{"new", "DPoP alices-token", proof})
	handle(message{"new", "DPoP alices-token", proof})
	handle(message{"cancel", "DPoP alices-token", proof})
	// Output:
	// accepted from alice
	// refused: invalid_dpop_proof because of proof_replayed
	// refused: invalid_dpop_proof because of htu_mismatch
}

// A handler learns from its context who sent a request.
func ExampleFromContext() {
	ctx := dpoptest.Context(context.Background(), &dpop.Token{Subject: "alice", Confirmation: dpop.Confirmation{JKT: "…"}})

	if result, ok := dpop.FromContext(ctx); ok && result.SenderConstrained() {
		fmt.Println("hello,", result.Token.Subject)
	}
	// Output: hello, alice
}

// The operator's record of a refusal says what was expected; the client's answer does not.
func ExampleError_LogValue() {
	w := &world{key: dpoptest.NewKey(), now: time.Now()}
	verifier, err := dpop.NewVerifier(dpop.Config{Replay: new(memory), Resolver: &registry{}})
	if err != nil {
		panic(err)
	}
	req := request(w.proof())
	req.URI = "http://api.example.com/orders/7"
	_, err = verifier.Verify(context.Background(), req)
	var refused *dpop.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.LogValue())
	}
	// Output: [reason=htu_mismatch code=invalid_dpop_proof status=401 detail=the proof is for "https://api.example.com/orders/7", the request is for "http://api.example.com/orders/7": the proof was made for "https", this server is configured for http]
}
