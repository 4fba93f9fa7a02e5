// Nethttp is the least that protects an API of net/http with DPoP: a resolver, a replay store, a Verifier, a middleware.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/replay/memstore"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: nethttp REALM-URL AUDIENCE ORIGIN, such as http://localhost:8180/realms/demo api http://127.0.0.1:8080")
	}
	handler, err := newHandler(context.Background(), atjwt.Keycloak(os.Args[1], os.Args[2]), os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Addr: "127.0.0.1:8080", Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

// newHandler returns an API with one resource, which needs the scope orders:read.
func newHandler(ctx context.Context, issuer atjwt.Config, origin string) (http.Handler, error) {
	resolver, err := atjwt.NewResolver(ctx, issuer)
	if err != nil {
		return nil, err
	}
	store, err := memstore.New(memstore.Config{}) // one process; several need a store that they share
	if err != nil {
		return nil, err
	}
	verifier, err := dpop.NewVerifier(dpop.Config{Resolver: resolver, Replay: store})
	if err != nil {
		return nil, err
	}
	protect, err := dpophttp.New(verifier, dpophttp.Config{Origins: []string{origin}})
	if err != nil {
		return nil, err
	}
	orders := dpophttp.RequireScope("orders:read")(http.HandlerFunc(listOrders))
	mux := http.NewServeMux()
	mux.Handle("GET /orders", protect(orders))
	return mux, nil
}

func listOrders(w http.ResponseWriter, r *http.Request) {
	caller, _ := dpop.FromContext(r.Context())
	fmt.Fprintf(w, "orders of %s\n", caller.Token.Subject)
}
