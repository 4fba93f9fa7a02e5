package redisstore_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/redisstore"
)

// A proof passes once, whichever of the processes that share the servers it is sent to.
func ExampleNew() {
	ctx := context.Background()
	cfg, err := redisstore.ParseURL("rediss://redis-1.internal,redis-2.internal,redis-3.internal")
	if err != nil {
		panic(err)
	}
	cfg.Username, cfg.Password = "dpop", os.Getenv("REDIS_PASSWORD")
	store, err := redisstore.New(ctx, cfg)
	if err != nil {
		panic(err) // it says which server, and what to change
	}
	defer store.Close()
	time.Sleep(time.Until(store.Ready())) // a memory that is empty can judge only what is made from now on

	key := replay.Key("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", "-BwC3ESc6acc2lTc") // a Verifier does all this
	first, err := store.FirstUse(ctx, key, time.Now(), time.Now().Add(time.Minute))
	fmt.Println(first, err)
}

// yourClient stands for the client of Redis that a program has already.
type yourClient struct{ known map[string]string }

// Do sends a command.
func (c *yourClient) Do(_ context.Context, args ...string) (reply string, null bool, err error) {
	switch args[0] {
	case "INFO":
		return "redis_mode:standalone\r\nmaxmemory_policy:noeviction\r\nrole:master\r\nmaster_replid:8371b4fb1155b71f\r\n", false, nil
	case "SET":
		old, existed := c.known[args[1]]
		if !existed {
			c.known[args[1]] = args[2]
		}
		return old, !existed, nil
	}
	reply, ok := c.known[args[1]]
	return reply, !ok, nil
}

func ExampleAdapt() {
	client := &yourClient{known: map[string]string{"dpop:epoch": "1764000000000/8371b4fb1155b71f"}}
	store, err := redisstore.Adapt(context.Background(), func(ctx context.Context, args ...string) (any, error) {
		reply, null, err := client.Do(ctx, args...)
		if err != nil || null {
			return nil, err
		}
		return reply, nil
	}, redisstore.Config{})
	if err != nil {
		panic(err)
	}
	defer store.Close()
	key := replay.Key("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", "-BwC3ESc6acc2lTc")
	for range 2 {
		fmt.Println(store.FirstUse(context.Background(), key, time.Now(), time.Now().Add(time.Minute)))
	}
	// Output:
	// true <nil>
	// false <nil>
}
