// Resource-server is an echo API that DPoP protects: it answers every method on every path with what it knows of the
// caller. It is for those who write DPoP clients, and to see what this library does with what they send.
//
//	go run ./examples/resource-server -issuer https://id.example.com/realms/demo -audience api -keycloak
//
// Refusals are logged to standard error, one JSON object a line, with the reason and the detail that clients are not told.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	o, err := parseOptions(os.Args[1:], os.Stderr)
	if err != nil {
		fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stderr); err != nil {
		fail(err)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, o options, stderr io.Writer) error {
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	defer listener.Close()
	if err := o.setOrigin(listener.Addr()); err != nil {
		return err
	}
	logger := slog.New(slog.NewJSONHandler(stderr, nil))
	config, err := o.verifierConfig(logger)
	if err != nil {
		return err
	}
	if config.Resolver, err = o.newResolver(ctx, logger); err != nil {
		return err
	}
	store, err := o.openStore(ctx, config, logger, stderr)
	if err != nil {
		return err
	}
	defer store.Close()
	config.Replay = store
	handler, err := o.newHandler(config)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelError),
	}
	if o.tlsCert != "" {
		cert, err := tls.LoadX509KeyPair(o.tlsCert, o.tlsKey)
		if err != nil {
			return fmt.Errorf("-tls-cert and -tls-key: %w", err)
		}
		server.TLSConfig = &tls.Config{
			Certificates: []tls.Certificate{cert},
			ClientAuth:   tls.RequestClientCert, // for tokens that are bound to one; no chain is asked for (RFC 8705 §2.2)
			MinVersion:   tls.VersionTLS12,
			CipherSuites: []uint16{ // of TLS 1.2; FAPI 2.0 Security Profile §5.2.1
				tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
				tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			},
			NextProtos: []string{"h2", "http/1.1"},
		}
		listener = tls.NewListener(listener, server.TLSConfig)
	}
	fmt.Fprintf(stderr, "listening on %s://%s\n", o.scheme(), listener.Addr())

	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(shutdown); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
