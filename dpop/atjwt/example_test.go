package atjwt_test

import (
	"context"
	"log"
	"log/slog"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/replay"
)

var store replay.Store // such as memstore.New returns

// A resource server that takes the access tokens of a Keycloak realm.
func ExampleKeycloak() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // ends the background refresh of the keys

	cfg := atjwt.Keycloak("https://id.example.com/realms/demo", "https://api.example.com")
	cfg.Logger = slog.Default()
	resolver, err := atjwt.NewResolver(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	verifier, err := dpop.NewVerifier(dpop.Config{Resolver: resolver, Replay: store})
	if err != nil {
		log.Fatal(err)
	}
	_ = verifier // for dpophttp.New
}

// An issuer that follows RFC 9068 needs no more than its name and ours.
func ExampleNewResolver() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	resolver, err := atjwt.NewResolver(ctx, atjwt.Config{
		Issuer:   "https://id.example.com",
		Audience: "https://api.example.com",
	})
	if err != nil {
		log.Fatal(err)
	}
	_ = resolver // for dpop.Config
}
