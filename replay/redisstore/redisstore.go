// Package redisstore remembers used DPoP proofs in a server that many processes share: Redis 6 or later or Valkey, alone,
// as a Cluster or behind Sentinels, and Infinispan through its RESP endpoint.
//
//	cfg, err := redisstore.ParseURL("redis://redis.internal:6379")
//	cfg.Password = os.Getenv("REDIS_PASSWORD")
//	store, err := redisstore.New(ctx, cfg)
//	defer store.Close()
//
// Use it behind a tieredstore: that answers most replays without a trip, and leaves a server that is down alone.
//
// # One use
//
// A first use is one command, SET key nonce NX GET PX life, which is atomic on the server. The nonce is new for each call.
// When a reply is lost and the command is repeated, the server returns the nonce that it holds: if it is the call's own, an
// earlier attempt was the first use. Redis 6 needs a GET after a SET that was refused; only replays pay for it. An entry is
// kept 2·ClockSkew longer than asked, as the server's clock may be off, too.
// Nor is it kept shorter than that of a proof which was just made, so a clock of this process that runs ahead, and is set
// right later, forgets none.
//
// # Loss of memory
//
// A server that crashed and started empty, or a replica that was promoted before it had received everything, would grant
// proofs that were used before. Each server therefore bears a mark (see replay.Floor), which is read on every new
// connection before anything else is sent there. Where the mark is missing or from before a restart or a promotion, proofs
// that may have been used before the loss are refused, by all processes: for Leeway + 2·ClockSkew, 20 s by default, with a
// *replay.Unavailable that says how long, and those made before with replay.ErrStale. The first use of an empty
// server is no different, so [Store.Ready] says when a new store can be used.
//
// Not seen, or late: FLUSHALL, a manual change of role, and a proxy that changes servers under open connections are
// noticed at the next check (Config.CheckInterval). Two primaries at once, in a network that has split, both grant: set
// min-replicas-to-write and min-replicas-max-lag.
//
// # Permissions
//
// The server's user needs HELLO, AUTH, PING and INFO, SET and GET on keys that begin with the prefix, behind Sentinels ROLE,
// and in a Cluster ASKING and CLUSTER NODES, SLOTS and SHARDS.
package redisstore

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/senderbound/senderbound/replay"
)

// A Store is a replay.Store in a server that several processes share. Its methods may be called by any number of
// goroutines.
type Store struct {
	cfg    Config
	guard  guard
	client client
	latest atomic.Pointer[limit]

	close  context.CancelFunc
	closed context.Context
	ending sync.Once
	ended  sync.WaitGroup // of what looks at the servers

	sharedReplays, ownRetries, full, stale, unavailable atomic.Int64
}

var (
	_ replay.Store   = (*Store)(nil)
	_ replay.Floorer = (*Store)(nil)
	_ replay.Statser = (*Store)(nil)
)

// A client sends commands to wherever a key is.
type client interface {
	// setNX sets key if it does not exist, with get in the same command, and returns what was there before.
	setNX(ctx context.Context, key, value string, life time.Duration, get bool) (old string, existed bool, err error)
	get(ctx context.Context, key string) (string, error)
	// granted confirms that a first use which was granted after the guard had looked is one.
	granted(ctx context.Context) error
	look(ctx context.Context)
	close()
}

var (
	errClosed  = errors.New("redisstore: the store is closed")
	errExpired = errors.New("redisstore: expires is not in the future")
	errLate    = errors.New("redisstore: expires passed while the server was asked")
	errFull    = fmt.Errorf("redisstore: the server has no room: %w", replay.ErrFull)
)

// newStore makes a store whose client is still to be set.
func newStore(cfg Config, floor *replay.Floor) *Store {
	s := &Store{cfg: cfg}
	s.guard.Floor, s.guard.cfg = floor, &s.cfg
	s.closed, s.close = context.WithCancel(context.Background())
	return s
}

// watch looks at the servers again and again, until Close.
func (s *Store) watch() {
	s.ended.Go(func() {
		tick := time.NewTicker(s.cfg.CheckInterval)
		defer tick.Stop()
		for {
			select {
			case <-s.closed.Done():
				return
			case <-tick.C:
				s.client.look(s.closed)
			}
		}
	})
}

// FirstUse implements replay.Store. An error is a *replay.Unavailable if no server answers, refuses, or has just lost its
// memory; replay.ErrStale or replay.ErrFull; and one without a name if expires is not in the future or the store is closed.
//
// It takes as long as Config.Timeout at most, and does not look at ctx once it has begun: all callers share a connection,
// and one that leaves must not cost the others theirs.
func (s *Store) FirstUse(ctx context.Context, key string, made, expires time.Time) (bool, error) {
	if s.closed.Err() != nil {
		return false, errClosed
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	first, err := s.firstUse(key, made, expires)
	switch {
	case err == nil && !first:
		s.sharedReplays.Add(1)
	case errors.Is(err, replay.ErrFull):
		s.full.Add(1)
	case errors.Is(err, replay.ErrStale):
		s.stale.Add(1)
	case err != nil && err != errExpired && err != errClosed:
		s.unavailable.Add(1)
	}
	return first, err
}

func (s *Store) firstUse(key string, made, expires time.Time) (bool, error) {
	now := s.cfg.Now()
	if !now.Before(expires) {
		return false, errExpired
	}
	if err := s.guard.Check(made, now); err != nil {
		return false, err
	}
	first, err := s.record(s.limit(), s.key(key), made, expires)
	if err != nil || !first {
		return false, err
	}
	// The connection over which the answer came was looked at before it was used, and that counts now.
	now = s.cfg.Now()
	if err := s.guard.Check(made, now); err != nil {
		return false, err
	}
	if !now.Before(expires) {
		return false, errLate
	}
	return true, nil
}

// A limit is a context for all calls that begin before a moment.
type limit struct {
	context.Context
	until time.Time
}

// limit returns a context that ends after Config.Timeout, or up to an eighth of it earlier. Calls share one: one for each
// would cost more than everything else that is done here.
func (s *Store) limit() context.Context {
	now := time.Now()
	l := s.latest.Load()
	if l == nil || !now.Before(l.until) {
		ctx, cancel := context.WithTimeout(s.closed, s.cfg.Timeout)
		_ = cancel // it ends by itself
		l = &limit{ctx, now.Add(s.cfg.Timeout / 8)}
		s.latest.Store(l) // two at once do no harm
	}
	return l.Context
}

// record sets the key, again and again if no answer comes, until ctx ends.
func (s *Store) record(ctx context.Context, key string, made, expires time.Time) (first bool, err error) {
	nonce := newNonce()
	for attempt := range maxAttempts {
		if attempt > 0 && !sleep(ctx, time.Millisecond<<attempt) {
			break
		}
		var old string
		var existed bool
		if old, existed, err = s.set(ctx, key, nonce, s.life(made, expires)); err == nil {
			own := existed && old == nonce
			if existed && !own {
				return false, nil
			}
			if err = s.client.granted(ctx); err == nil && own {
				s.ownRetries.Add(1)
			}
			return err == nil, s.explain(err)
		}
		if isFinal(err) || attempt > 0 && isUnreachable(err) {
			break
		}
	}
	return false, s.explain(err)
}

// maxAttempts are those with pauses between them that double: together a quarter of a second.
const maxAttempts = 8

// isFinal reports whether a server has answered, so that to ask again is of no use.
func isFinal(err error) bool {
	var refused refusal
	var answer serverError
	return errors.As(err, &answer) || errors.As(err, &refused)
}

// isUnreachable reports whether no connection could be made.
func isUnreachable(err error) bool {
	var op *net.OpError
	var client clientError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &client) && client.unreachable
}

// set makes one attempt. existed is whether there was a value, which is "" if it went away meanwhile.
func (s *Store) set(ctx context.Context, key, nonce string, life time.Duration) (old string, existed bool, err error) {
	if !s.guard.twoStep.Load() {
		old, existed, err = s.client.setNX(ctx, key, nonce, life, true)
		if err == nil || !strings.Contains(err.Error(), "syntax error") {
			return old, existed, err
		}
		s.guard.twoStep.Store(true) // its version was not asked
	}
	_, existed, err = s.client.setNX(ctx, key, nonce, life, false)
	if err == nil && existed {
		old, err = s.client.get(ctx, key)
	}
	return old, existed, err
}

// life returns for how long the server is to remember a key that is set now, rounded up to milliseconds. A proof gets no
// less than one that was just made, however late it is: what this process takes for late may be its own clock, which is
// then set right.
func (s *Store) life(made, expires time.Time) time.Duration {
	left := max(expires.Sub(s.cfg.Now()), min(expires.Sub(made), maxLife))
	return min(left, math.MaxInt64/2) + 2*s.guard.skew() + time.Millisecond - 1
}

const maxLife = 24 * time.Hour // more than a proof lives, whatever it says of when it was made

// explain makes of why there was no answer what replay.Store promises.
func (s *Store) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case s.closed.Err() != nil:
		return errClosed
	case isFull(err):
		return errFull
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("no answer within %v", s.cfg.Timeout)
	}
	return &replay.Unavailable{Err: fmt.Errorf("redisstore: %w", err), RetryAfter: retryAfter}
}

// retryAfter is when to come again where nobody knows how long it will take.
const retryAfter = time.Second

// isFull reports whether a Redis, or the cache of an Infinispan, says that it has no room.
func isFull(err error) bool {
	return strings.Contains(err.Error(), "OOM command not allowed") || strings.Contains(err.Error(), "ISPN000514")
}

// key returns the name of a proof's key on the server.
func (s *Store) key(key string) string {
	if len(s.cfg.Secret) == 0 {
		return s.cfg.Prefix + keyName + key
	}
	mac := hmac.New(sha256.New, s.cfg.Secret)
	mac.Write([]byte(key))
	return s.cfg.Prefix + keyName + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:18])
}

// newNonce returns a value that no other call ever has, not even one in a copy of this process, as a snapshot makes it.
func newNonce() string { return rand.Text()[:16] }

// Ready returns when a proof that is made then will be accepted, as far as the memory of the servers is concerned: later
// than now for the first use of an empty server. The zero time means at once.
func (s *Store) Ready() time.Time { return s.guard.Ready() }

// Allowance returns Config.Leeway and Config.ClockSkew, with their defaults; ok is false with Config.InsecureSkipChecks.
func (s *Store) Allowance() (leeway, clockSkew time.Duration, ok bool) {
	leeway, clockSkew, _ = s.guard.Allowance()
	return leeway, clockSkew, !s.cfg.InsecureSkipChecks
}

// Stats returns what was counted. How many keys there are, and have room, only the servers know.
func (s *Store) Stats() replay.Stats {
	return replay.Stats{
		SharedReplays: s.sharedReplays.Load(), OwnRetries: s.ownRetries.Load(),
		Full: s.full.Load(), Stale: s.stale.Load(), Unavailable: s.unavailable.Load(),
	}
}

// Close ends the connections and all goroutines. FirstUse is an error from then on, and in calls that are under way. A
// client of the caller's is not closed. Closing again does nothing. The error is always nil.
func (s *Store) Close() error {
	s.close()
	s.ending.Do(s.client.close)
	s.ended.Wait()
	return nil
}

// sleep waits, and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
