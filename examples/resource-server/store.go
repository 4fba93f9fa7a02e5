package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/memstore"
	"github.com/senderbound/senderbound/replay/redisstore"
	"github.com/senderbound/senderbound/replay/tieredstore"
)

const replayMemory = "memory"

// A store remembers used proofs until it is closed.
type store interface {
	replay.Store
	Close() error
}

// sharedStore returns what -replay says of a store that several servers share, and whether a memory is to stand in front
// of it.
func (o *options) sharedStore() (config redisstore.Config, tiered bool, err error) {
	if o.replay == replayMemory {
		return config, false, nil
	}
	url, tiered := strings.CutPrefix(o.replay, "tiered+")
	if config, err = redisstore.ParseURL(url); err != nil {
		return config, tiered, fmt.Errorf("-replay: %w (environment: REPLAY_USER and REPLAY_PASSWORD)", err)
	}
	config.Username, config.Password = os.Getenv("REPLAY_USER"), os.Getenv("REPLAY_PASSWORD")
	config.Leeway, config.ClockSkew = o.leeway, o.clockSkew
	return config, tiered, nil
}

// openStore returns the store of -replay when it can be used, for a Verifier of config.
func (o *options) openStore(ctx context.Context, config dpop.Config, logger *slog.Logger, stderr io.Writer) (store, error) {
	if o.replay == replayMemory {
		return memstore.New(memstore.Config{Window: config.Window()})
	}
	servers, tiered, err := o.sharedStore()
	if err != nil {
		return nil, err
	}
	servers.Logger = logger
	shared, err := redisstore.New(ctx, servers)
	if err != nil {
		return nil, fmt.Errorf("-replay: %w", err)
	}
	if wait := time.Until(shared.Ready()); wait > 0 {
		fmt.Fprintf(stderr, "waiting %v: the replay store has begun to remember only now, and a proof could have been used before\n",
			wait.Round(time.Second/10))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	if !tiered {
		return shared, nil
	}
	local, err := memstore.New(memstore.Config{Window: config.Window()})
	if err != nil {
		return nil, err
	}
	both, err := tieredstore.New(tieredstore.Config{Local: local, Shared: shared, Logger: logger})
	if err != nil {
		return nil, err
	}
	return tiers{both, shared, local}, nil
}

// tiers close what they are made of.
type tiers struct {
	*tieredstore.Store
	shared, local store
}

func (t tiers) Close() error { return errors.Join(t.shared.Close(), t.local.Close()) }
