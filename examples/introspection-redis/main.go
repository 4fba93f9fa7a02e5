// Introspection-redis is a set-up for production in one page: an API that asks the authorization server about access tokens,
// and remembers used proofs in Redis, so that any number of its processes can answer for one origin.
//
//	CLIENT_SECRET=… REDIS_PASSWORD=… go run ./examples/introspection-redis -issuer https://id.example.com/realms/demo \
//		-client-id orders-api -origin https://api.example.com -redis rediss://redis.internal:6379
//
// TLS ends in front of it. It listens when its store can tell new proofs from old ones, which may take some seconds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/introspect"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/memstore"
	"github.com/senderbound/senderbound/replay/redisstore"
	"github.com/senderbound/senderbound/replay/tieredstore"
)

// cacheTTL is how long an answer is believed, and so how long a token may pass that was just revoked.
const cacheTTL = 3 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], slog.New(slog.NewJSONHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintf(os.Stderr, "introspection-redis: %v\n", err)
		os.Exit(1)
	}
}

// settings are the flags. Secrets come from the environment.
type settings struct{ issuer, clientID, audience, origin, redis, listen string }

func parse(args []string) (s settings, err error) {
	f := flag.NewFlagSet("introspection-redis", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&s.issuer, "issuer", "", "`URL` of the authorization server")
	f.StringVar(&s.clientID, "client-id", "", "`ID` of this API there (secret: environment CLIENT_SECRET)")
	f.StringVar(&s.audience, "audience", "", "what tokens must be meant for (default: the client's ID)")
	f.StringVar(&s.origin, "origin", "", "`origin` that clients address, such as https://api.example.com")
	f.StringVar(&s.redis, "redis", "", "`URL` of Redis, Valkey or Infinispan (password: environment REDIS_PASSWORD)")
	f.StringVar(&s.listen, "listen", "127.0.0.1:8080", "address to listen on")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			f.SetOutput(os.Stderr)
			f.PrintDefaults()
		}
		return s, err
	}
	if s.audience == "" {
		s.audience = s.clientID
	}
	for _, required := range []struct{ value, what string }{
		{s.issuer, "-issuer is missing: give the URL of the authorization server"},
		{s.clientID, "-client-id is missing: give the client ID that this API has there"},
		{os.Getenv("CLIENT_SECRET"), "the environment has no CLIENT_SECRET: set the secret of -client-id"},
		{s.origin, "-origin is missing: give what clients address, such as https://api.example.com"},
		{s.redis, "-redis is missing: give the URL of the server that remembers used proofs, such as redis://localhost:6379"},
	} {
		if required.value == "" {
			return s, errors.New(required.what)
		}
	}
	return s, nil
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, logger *slog.Logger) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	config, err := redisstore.ParseURL(s.redis)
	if err != nil {
		return fmt.Errorf("-redis: %w", err)
	}
	config.Password, config.Logger = os.Getenv("REDIS_PASSWORD"), logger
	shared, err := redisstore.New(ctx, config)
	if err != nil {
		return fmt.Errorf("-redis: %w", err)
	}
	defer shared.Close()
	local, err := memstore.New(memstore.Config{}) // refuses replays that this process has seen without a trip
	if err != nil {
		return err
	}
	defer local.Close()
	store, err := tieredstore.New(tieredstore.Config{Local: local, Shared: shared, Logger: logger})
	if err != nil {
		return err
	}
	handler, err := newHandler(s, store, logger)
	if err != nil {
		return err
	}
	select { // until no proof can come that was used before this store began to remember
	case <-time.After(time.Until(shared.Ready())):
	case <-ctx.Done():
		return nil
	}
	server := &http.Server{Addr: s.listen, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Shutdown(context.WithoutCancel(ctx))
	}()
	logger.Info("listening", "address", s.listen)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("-listen: %w", err)
	}
	return nil
}

// newHandler returns an API with one resource, which needs the scope orders:read.
func newHandler(s settings, store replay.Store, logger *slog.Logger) (http.Handler, error) {
	tokens, err := introspect.NewResolver(introspect.Config{
		Issuer:       s.issuer,
		Audience:     s.audience,
		Authenticate: introspect.BasicAuth(s.clientID, os.Getenv("CLIENT_SECRET")),
		CacheTTL:     cacheTTL,
	})
	if err != nil {
		return nil, err
	}
	verifier, err := dpop.NewVerifier(dpop.Config{Resolver: tokens, Replay: store, Logger: logger})
	if err != nil {
		return nil, err
	}
	protect, err := dpophttp.New(verifier, dpophttp.Config{Origins: []string{s.origin}})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /orders", protect(dpophttp.RequireScope("orders:read")(http.HandlerFunc(listOrders))))
	return mux, nil
}

func listOrders(w http.ResponseWriter, r *http.Request) {
	caller, _ := dpop.FromContext(r.Context())
	fmt.Fprintf(w, "orders of %s\n", caller.Token.Subject)
}
