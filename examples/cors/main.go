// Cors is an API that scripts of another origin call from a browser: rs/cors stands outside of the DPoP middleware.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/rs/cors"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/dpop/nonce"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/replay/memstore"
)

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: cors REALM-URL AUDIENCE ORIGIN APP-ORIGIN, such as " +
			"http://localhost:8180/realms/demo api http://127.0.0.1:8080 http://localhost:3000")
	}
	verifier, err := newVerifier(context.Background(), atjwt.Keycloak(os.Args[1], os.Args[2]))
	if err != nil {
		log.Fatal(err)
	}
	handler, err := newHandler(verifier, os.Args[3], os.Args[4])
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Addr: "127.0.0.1:8080", Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

// newVerifier returns one that asks for nonces, since the clock of whoever runs a browser may be wrong.
func newVerifier(ctx context.Context, issuer atjwt.Config) (*dpop.Verifier, error) {
	resolver, err := atjwt.NewResolver(ctx, issuer)
	if err != nil {
		return nil, err
	}
	store, err := memstore.New(memstore.Config{}) // one process; several need a store that they share
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 32) // of one process; several need the same
	_, _ = rand.Read(secret)   // never fails
	nonces, err := nonce.New(nonce.Config{}, secret)
	if err != nil {
		return nil, err
	}
	return dpop.NewVerifier(dpop.Config{Resolver: resolver, Replay: store, Nonces: nonces})
}

// newHandler returns an API that clients address under origin, and that scripts of the origin app may call.
func newHandler(verifier dpop.RequestVerifier, origin, app string) (http.Handler, error) {
	protect, err := dpophttp.New(verifier, dpophttp.Config{Origins: []string{origin}})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /orders", protect(http.HandlerFunc(listOrders)))

	// It stands outside, of the routes too: it answers preflights, which carry no credentials, and lets scripts read also
	// what is refused.
	return cors.New(cors.Options{
		AllowedOrigins: []string{app}, // none means all
		AllowedMethods: []string{http.MethodGet},
		AllowedHeaders: []string{"Authorization", "DPoP"}, // rs/cors refuses both by default

		// What the handlers set. DPoP-Nonce, WWW-Authenticate and Date need not be named: protect adds them in a line of
		// its own, and here, outside, that stays. Inside of protect rs/cors writes over it, and they must be named.
		ExposedHeaders: []string{"X-Total-Count"},

		// AllowCredentials is for cookies. A script sets Authorization itself, which does not need it.
	}).Handler(mux), nil
}

func listOrders(w http.ResponseWriter, r *http.Request) {
	caller, _ := dpop.FromContext(r.Context())
	w.Header().Set("X-Total-Count", "1")
	fmt.Fprintf(w, "orders of %s\n", caller.Token.Subject)
}
