package redisstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A Command sends one command to a single Redis or Valkey, or to the primary behind Sentinels, with a client of yours, and
// returns the reply: nil for null, a string or a []byte for a text, and an error if the server answered with one or not at
// all. It must return when ctx ends, and may be called by any number of goroutines. The client may repeat a command whose
// reply was lost.
type Command func(ctx context.Context, args ...string) (reply any, err error)

// Adapt returns a Store that sends its commands through a client of the caller's, be it go-redis or valkey-go. Of cfg it
// uses what does not say how to connect. It is an error, within Config.Timeout, if the server cannot be reached or cannot be
// trusted with proofs.
//
// A client of yours does not let the store look at a server before each new connection carries proofs. The store looks
// before it grants anything after an error, and every CheckInterval; so a loss of memory that causes no error here, because
// no call was under way or because the client repeats commands by itself, is noticed up to CheckInterval late. [New] has no
// such gap. A Cluster needs New, as the marks of its parts cannot be read through a client that sends each command where its
// key belongs.
func Adapt(ctx context.Context, command Command, cfg Config) (*Store, error) {
	if command == nil {
		return nil, errors.New("redisstore: Command is nil: give a function that sends a command through your client")
	}
	floor, err := cfg.complete(false)
	if err != nil {
		return nil, err
	}
	s := newStore(cfg, floor)
	c := &adapted{store: s, command: command, turn: make(chan struct{}, 1)}
	s.client = c
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	if err := c.lookNow(ctx); err != nil {
		s.close()
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %v: correct the client's address, or set a longer Config.Timeout (%w)", s.cfg.Timeout, err)
		}
		return nil, fmt.Errorf("redisstore: %w", err)
	}
	s.watch()
	return s, nil
}

// adapted is a client of the caller's.
type adapted struct {
	store   *Store
	command Command

	events atomic.Int64 // what has happened that may have to do with a loss
	seen   atomic.Int64 // the events before the last look that found nothing wrong
	begun  atomic.Int64 // looks that have begun

	turn chan struct{} // has an element while someone looks
	last error         // what the last look found; of whose turn it is
}

func (c *adapted) setNX(ctx context.Context, key, value string, life time.Duration, get bool) (old string, existed bool, err error) {
	millis := strconv.FormatInt(life.Milliseconds(), 10)
	if get {
		return c.do(ctx, "SET", key, value, "NX", "GET", "PX", millis)
	}
	ok, _, err := c.do(ctx, "SET", key, value, "NX", "PX", millis)
	return "", ok != "OK", err
}

func (c *adapted) get(ctx context.Context, key string) (string, error) {
	value, _, err := c.do(ctx, "GET", key)
	return value, err
}

// do sends a command and returns the reply, a text or none. An error is an event, at once and not when the call ends: another
// may be granted over the next connection meanwhile.
func (c *adapted) do(ctx context.Context, args ...string) (text string, ok bool, err error) {
	reply, err := c.command(ctx, args...)
	if err != nil {
		c.events.Add(1)
		return "", false, c.explain(ctx, err, args)
	}
	switch reply := reply.(type) {
	case nil:
		return "", false, nil
	case string:
		return reply, true, nil
	case []byte:
		if reply != nil {
			return string(reply), true, nil
		}
	}
	// It could be meant as null. To guess wrong is to grant.
	c.events.Add(1)
	return "", false, refuse("the Command returned a %T for %s: return nil for null, and a string or a []byte for a text", reply, args[0])
}

// explain returns what may be shown of an error of the caller's client.
func (c *adapted) explain(ctx context.Context, err error, args []string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var secrets []string
	if args[0] != "INFO" {
		secrets = args[1:min(3, len(args))]
	}
	said := newServerError(err.Error(), secrets...)
	// What a server says begins with a code, such as NOPERM.
	if code, _, more := strings.Cut(string(said), " "); more && strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" {
		return said
	}
	return clientError{string(said), isUnreachable(err)}
}

// A clientError is what may be shown of an error of the caller's client. It does not wrap it: that could be shown, too.
type clientError struct {
	said        string
	unreachable bool // no connection could be made
}

func (e clientError) Error() string { return e.said }

// granted looks first if something has happened since the last look, before the key was set or after.
func (c *adapted) granted(ctx context.Context) error {
	if c.seen.Load() == c.events.Load() {
		return nil
	}
	return c.lookNow(ctx)
}

func (c *adapted) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, c.store.cfg.Timeout)
	defer cancel()
	_ = c.lookNow(ctx) // whoever wants to grant looks again
}

// lookNow looks at the server, or waits for another look that begins after this call did.
func (c *adapted) lookNow(ctx context.Context) error {
	begun := c.begun.Load()
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.begun.Load() > begun && !errors.Is(c.last, context.DeadlineExceeded) { // else its caller had less time
		return c.last
	}
	c.begun.Add(1)
	events := c.events.Load() // what happens from now on is to be looked at again
	if c.last = c.check(ctx); c.last == nil {
		c.seen.Store(events)
	} else {
		c.events.Add(1)
	}
	return c.last
}

func (c *adapted) check(ctx context.Context) error {
	if c.store.cfg.InsecureSkipChecks {
		return nil
	}
	replies, err := c.exchange(ctx, []string{"INFO", "server"})
	if err != nil {
		return err
	}
	if err, ok := replies[0].(serverError); ok {
		return refuseInfo(err)
	}
	server := parseInfo(replies[0])
	if cmp.Or(server["redis_mode"], server["server_mode"]) == "cluster" { // Redis, Valkey
		return refuse("this is a Redis Cluster: use redisstore.New, or set Config.InsecureSkipChecks")
	}
	return c.store.guard.look(ctx, c.exchange, false)
}

// exchange sends commands one after the other.
func (c *adapted) exchange(ctx context.Context, commands ...[]string) ([]any, error) {
	replies := make([]any, len(commands))
	for i, args := range commands {
		reply, ok, err := c.do(ctx, args...)
		if said, is := err.(serverError); is {
			replies[i] = said
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", args[0], err)
		} else if ok {
			replies[i] = reply
		}
	}
	return replies, nil
}

func (c *adapted) close() {}
