package dpophttp_test

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/replay/memstore"
)

// The handler of the README.
func Example() {
	ctx := context.Background()
	tokens, err := atjwt.NewResolver(ctx, atjwt.Keycloak("https://id.example.com/realms/shop", "orders-api"))
	if err != nil {
		log.Fatal(err)
	}
	used, err := memstore.New(memstore.Config{})
	if err != nil {
		log.Fatal(err)
	}
	verifier, err := dpop.NewVerifier(dpop.Config{Resolver: tokens, Replay: used})
	if err != nil {
		log.Fatal(err)
	}
	protect, err := dpophttp.New(verifier, dpophttp.Config{Origins: []string{"https://api.example.com"}})
	if err != nil {
		log.Fatal(err)
	}

	orders := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, _ := dpop.FromContext(r.Context())
		fmt.Fprintf(w, "orders of %s", caller.Token.Subject)
	})
	http.Handle("GET /orders", protect(dpophttp.RequireScope("orders:read")(orders)))
}
