// Own-client remembers used proofs in a Redis or Valkey through a client that a program has already, go-redis or valkey-go,
// in place of the one that redisstore brings.
//
//	REDIS_PASSWORD=… go run ./examples/own-client -client valkey-go -redis 127.0.0.1:6379
//
// It uses one proof twice and prints both answers: granted, and refused as a replay. Where redisstore.New will do, it is the
// better choice: it notices at once that a server has lost its memory. See redisstore.Adapt.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/valkey-io/valkey-go"

	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/redisstore"
)

func main() {
	library := flag.String("client", "go-redis", "the client: go-redis or valkey-go")
	address := flag.String("redis", "127.0.0.1:6379", "host:port of the server; its password is REDIS_PASSWORD in the environment")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *library, *address, os.Getenv("REDIS_PASSWORD")); err != nil {
		fmt.Fprintf(os.Stderr, "own-client: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, library, address, password string) error {
	command, done, err := connect(library, address, password)
	if err != nil {
		return err
	}
	defer done()
	// Leeway and ClockSkew are those of the Verifier. Small ones make the wait below short.
	store, err := redisstore.Adapt(ctx, command, redisstore.Config{
		Timeout: timeout, Leeway: 5 * time.Second, ClockSkew: time.Second,
	})
	if err != nil {
		return fmt.Errorf("%s through %s: %w", address, library, err)
	}
	defer store.Close()
	if wait := time.Until(store.Ready()); wait > 0 {
		fmt.Fprintf(out, "waiting %v: the server has begun to remember only now\n", wait.Round(time.Second/10))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	key := replay.Key("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", rand.Text()) // of a client's key and a jti; a Verifier does this
	made := time.Now()
	for range 2 {
		first, err := store.FirstUse(ctx, key, made, made.Add(time.Minute))
		switch {
		case err != nil:
			return err
		case first:
			fmt.Fprintln(out, "granted: the proof was not used before")
		default:
			fmt.Fprintln(out, "refused: the proof is a replay")
		}
	}
	return nil
}

// timeout is that of the store's Config, and so that of the clients.
const timeout = 500 * time.Millisecond

// connect makes the client that your program has already. Two settings matter: nothing takes longer than the store may take;
// and only the store repeats a command, so that it knows that something went wrong and looks at the server.
func connect(library, address, password string) (command redisstore.Command, done func(), err error) {
	switch library {
	case "go-redis":
		client := redis.NewClient(&redis.Options{
			Addr: address, Password: password,
			ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1,
		})
		return goRedis(client), func() { client.Close() }, nil
	case "valkey-go":
		client, err := valkey.NewClient(valkey.ClientOption{
			InitAddress: []string{address}, Password: password, ForceSingleClient: true, DisableCache: true,
			Dialer: net.Dialer{Timeout: timeout}, ConnWriteTimeout: timeout, DisableRetry: true,
		})
		if err != nil {
			return nil, nil, fmt.Errorf("%s through valkey-go: %w", address, err)
		}
		return valkeyGo(client), client.Close, nil
	}
	return nil, nil, fmt.Errorf("-client is %q: set go-redis or valkey-go", library)
}

// goRedis sends commands through go-redis.
func goRedis(client *redis.Client) redisstore.Command {
	return func(ctx context.Context, args ...string) (any, error) {
		words := make([]any, len(args))
		for i, arg := range args {
			words[i] = arg
		}
		reply, err := client.Do(ctx, words...).Result()
		if errors.Is(err, redis.Nil) {
			return nil, nil
		}
		return reply, err
	}
}

// valkeyGo sends commands through valkey-go.
func valkeyGo(client valkey.Client) redisstore.Command {
	return func(ctx context.Context, args ...string) (any, error) {
		reply, err := client.Do(ctx, client.B().Arbitrary(args...).Build()).ToAny()
		if valkey.IsValkeyNil(err) {
			return nil, nil
		}
		return reply, err
	}
}
