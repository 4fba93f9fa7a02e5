package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/memstore"
	"github.com/senderbound/senderbound/replay/redisstore"
	"github.com/senderbound/senderbound/replay/tieredstore"
)

// Leeway and ClockSkew are tiny, so that a server that is empty grants at once, and Timeout is longer than by default, as it is
// not measured how busy the machine is. They have no part in what a call costs.
const (
	leeway    = time.Millisecond
	clockSkew = time.Millisecond
	timeout   = 2 * time.Second
)

// A stores has one of each kind. None knows what another has seen.
type stores struct {
	memory              *memstore.Store
	redis               *redisstore.Store
	tiered, tieredPlain *tieredstore.Store // over redisstore, and over go-redis

	setNX   map[int]*redis.Client // by the size of the pool; 0 is the default
	closers []io.Closer
}

// How many calls are under way at once, of requests and of stores.
var (
	requestsInFlight = []int{1, 16, 64}
	storesInFlight   = []int{1, 16, 64, 256}
)

// openStores returns when the stores can be used.
func openStores(ctx context.Context, server *server) (s *stores, err error) {
	s = &stores{setNX: map[int]*redis.Client{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	for _, size := range append([]int{0}, storesInFlight...) {
		options := server.options()
		options.PoolSize = size
		s.setNX[size] = redis.NewClient(options)
		s.closers = append(s.closers, s.setNX[size])
	}
	if s.memory, err = s.newMemory(); err != nil {
		return s, err
	}
	if s.redis, err = s.newRedis(ctx, server, "load:r:"); err != nil {
		return s, err
	}
	shared, err := s.newRedis(ctx, server, "load:t:")
	if err != nil {
		return s, err
	}
	if s.tiered, err = s.newTiers(shared); err != nil {
		return s, err
	}
	if s.tieredPlain, err = s.newTiers(s.plain(0, "load:p:")); err != nil {
		return s, err
	}
	// For twice its Timeout after a connection was made, redisstore guards each call against waiting for the next one. That is
	// not what calls cost. A new server is ready long before.
	time.Sleep(max(2*timeout+100*time.Millisecond, time.Until(s.redis.Ready()), time.Until(shared.Ready())))
	return s, nil
}

// newMemory has room for all keys of a long run, which are those of one client.
func (s *stores) newMemory() (*memstore.Store, error) {
	const room = 2_000_000
	store, err := memstore.New(memstore.Config{MaxEntries: room, MaxPerClient: room})
	if err == nil {
		s.closers = append(s.closers, store)
	}
	return store, err
}

func (s *stores) newRedis(ctx context.Context, server *server, prefix string) (*redisstore.Store, error) {
	cfg := server.config
	cfg.Prefix, cfg.Leeway, cfg.ClockSkew, cfg.Timeout = prefix, leeway, clockSkew, timeout
	store, err := redisstore.New(ctx, cfg)
	if err == nil {
		s.closers = append(s.closers, store)
	}
	return store, err
}

func (s *stores) newTiers(shared replay.Store) (*tieredstore.Store, error) {
	local, err := s.newMemory()
	if err != nil {
		return nil, err
	}
	return tieredstore.New(tieredstore.Config{Local: local, Shared: shared})
}

func (s *stores) close() {
	for _, c := range s.closers {
		_ = c.Close()
	}
}

// plain is what one would write around go-redis: a command of its own for each call.
func (s *stores) plain(poolSize int, prefix string) replay.Store {
	client := s.setNX[poolSize]
	return replay.SetNXFunc(func(ctx context.Context, key string, ttl time.Duration) (bool, error) {
		return client.SetNX(ctx, prefix+"jti:"+key, 1, ttl).Result()
	})
}

// always grants, which costs nothing.
type always struct{}

func (always) FirstUse(context.Context, string, time.Time, time.Time) (bool, error) { return true, nil }

// proofs are keys, and when they were made.
type proofs struct {
	keys []string
	made time.Time
}

// life is longer than a round takes on any machine, and so short that few keys are on the server at once.
const life = 15 * time.Second

func (p *proofs) renew(n int) {
	p.made, p.keys = time.Now(), p.keys[:0]
	for range n {
		p.keys = append(p.keys, replay.Key("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", rand.Text()))
	}
}

var errAnswer = errors.New("a store answered wrongly: a new key must be granted, and a used one be refused")

// use returns what asks a store about each proof. Each must be a first use, or none.
func (p *proofs) use(store replay.Store, wantFirst bool) func(i int) error {
	return func(i int) error {
		first, err := store.FirstUse(context.Background(), p.keys[i], p.made, p.made.Add(life))
		if err == nil && first != wantFirst {
			err = errAnswer
		}
		return err
	}
}

// size is how many keys are used in a round: many to each call that is under way at once.
const size = 2048

// The ways of compareStores.
const (
	firstRedis = iota
	firstTiered
	firstPlain       // go-redis with its own size of the pool
	firstPlainPooled // and with a connection for each call that is under way
	firstTieredPlain // the former behind tieredstore
)

// compareStores compares first uses over the network.
func compareStores(s *stores) (contests []*contest) {
	for _, inFlight := range storesInFlight {
		p := new(proofs)
		contests = append(contests, &contest{
			inFlight: inFlight, size: size,
			prepare: func() error { p.renew(size); return nil },
			ways: []*way{
				firstRedis:       {do: p.use(s.redis, true)},
				firstTiered:      {do: p.use(s.tiered, true)},
				firstPlain:       {do: p.use(s.plain(0, "load:d:"), true)},
				firstPlainPooled: {do: p.use(s.plain(inFlight, "load:c:"), true)},
				firstTieredPlain: {do: p.use(s.tieredPlain, true)},
			},
		})
	}
	return contests
}

// The ways of compareReplays.
const (
	replayLocal = iota
	replayFirstMemory
	replayFirstTiered
)

// compareReplays compares replays that tieredstore refuses by itself with first uses.
func compareReplays(s *stores) *contest {
	fresh, used := new(proofs), new(proofs)
	c := &contest{
		inFlight: 16, size: size,
		ways: []*way{
			replayLocal:       {do: used.use(s.tiered, false)},
			replayFirstMemory: {do: fresh.use(s.memory, true)},
			replayFirstTiered: {do: fresh.use(s.tiered, true)},
		},
	}
	c.prepare = func() error {
		fresh.renew(size)
		used.renew(size)
		return c.all(used.use(s.tiered, true))
	}
	return c
}
