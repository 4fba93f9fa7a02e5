package redisstore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/redisstore"
)

// The defaults of a Verifier, and of a Config.
const (
	leeway        = 10 * time.Second
	clockSkew     = 5 * time.Second
	maxAge        = time.Minute
	allowance     = leeway + 2*clockSkew
	timeout       = 500 * time.Millisecond
	checkInterval = time.Second
)

// A server is a Redis in a map, as far as a store uses one. Its methods may be called by any number of goroutines.
type server struct {
	mu    sync.Mutex
	keys  map[string]entry
	order []string // the keys as they were set

	id, role, policy string                       // "" is not told
	mode             string                       // "redis_mode:…" of Redis, "server_mode:…" of Valkey
	version          string                       // of HELLO
	old              bool                         // as Redis 6 it does not know NX with GET
	room             int                          // how many keys it takes; 0: any number
	denies           func(args []string) string   // an error instead of an answer, "" for none
	did              func(args []string, got any) // hears of every command
}

type entry struct {
	value   string
	expires time.Time // zero: never
}

// A failure is an error reply.
type failure string

func (f failure) Error() string { return string(f) }

func newServer() *server {
	return &server{
		keys: map[string]entry{}, id: rand.Text(), role: "master", policy: "noeviction", mode: "redis_mode:standalone", version: "7.0.15",
	}
}

// do executes a command and returns nil, a string or a failure.
func (s *server) do(args ...string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.execute(args)
	if s.did != nil {
		s.did(args, got)
	}
	return got
}

func (s *server) execute(args []string) any {
	if s.denies != nil {
		if text := s.denies(args); text != "" {
			return failure(text)
		}
	}
	switch strings.Join(args[:min(2, len(args))], " ") {
	case "INFO server":
		return "# Server\r\nredis_version:" + s.version + "\r\n" + s.mode + "\r\n"
	case "INFO memory":
		return "# Memory\r\nused_memory:1\r\n" + field("maxmemory_policy", s.policy)
	case "INFO replication":
		return "# Replication\r\n" + field("role", s.role) + "connected_slaves:0\r\n" + field("master_replid", s.id) + "master_replid2:0\r\n"
	}
	switch args[0] {
	case "GET":
		if e, ok := s.live(args[1]); ok {
			return e.value
		}
		return nil
	case "SET":
		return s.set(args[1], args[2], args[3:])
	}
	return failure("ERR unknown command '" + args[0] + "', with args beginning with: '" + strings.Join(args[1:], "' '") + "' ")
}

func field(name, value string) string {
	if value == "" {
		return ""
	}
	return name + ":" + value + "\r\n"
}

func (s *server) set(key, value string, options []string) any {
	nx, get := slices.Contains(options, "NX"), slices.Contains(options, "GET")
	if s.role != "master" {
		return failure("READONLY You can't write against a read only replica.")
	}
	if nx && get && s.old {
		return failure("ERR syntax error")
	}
	if s.room > 0 && len(s.keys) >= s.room {
		return failure("OOM command not allowed when used memory > 'maxmemory'.")
	}
	e := entry{value: value}
	if i := slices.Index(options, "PX"); i >= 0 {
		millis, err := strconv.ParseInt(options[i+1], 10, 64)
		if err != nil || millis <= 0 {
			return failure("ERR invalid expire time in 'set' command")
		}
		e.expires = time.Now().Add(time.Duration(min(millis, 1e10)) * time.Millisecond)
	}
	was, existed := s.live(key)
	if !existed || !nx {
		s.keys[key] = e
		s.order = append(s.order, key)
	}
	switch {
	case get && existed:
		return was.value
	case get, nx && existed:
		return nil
	}
	return "OK"
}

func (s *server) live(key string) (entry, bool) {
	e, ok := s.keys[key]
	if ok && !e.expires.IsZero() && !time.Now().Before(e.expires) {
		delete(s.keys, key)
		return entry{}, false
	}
	return e, ok
}

// change sets what the server is from now on.
func (s *server) change(f func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// restart is a crash and a start with an empty memory.
func (s *server) restart() {
	s.change(func(s *server) { s.keys, s.order, s.id = map[string]entry{}, nil, rand.Text() })
}

// promote returns a replica that takes over from s without having received the last keys.
func (s *server) promote(lag int) *server {
	replica := newServer()
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(replica.keys, s.keys)
	for _, key := range s.order[max(0, len(s.order)-lag):] {
		delete(replica.keys, key)
	}
	return replica
}

// get returns the value of a key, "" if it is not there.
func (s *server) get(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[key].value
}

// names returns the names of all keys but the mark.
func (s *server) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.keys)), func(key string) bool { return key == markKey })
}

const markKey = "dpop:epoch"

// A link is a client of the caller's, through which one process reaches a server.
type link struct {
	mu     sync.Mutex
	server *server
	broken bool                     // the next command finds that the server went away
	loses  func(args []string) bool // whether the reply to a command that was executed is lost
	tries  int                      // how often the client itself sends a command; default once
	lost   int                      // first uses whose reply was lost
	delay  time.Duration            // until a command is executed, and again until its reply comes
	shape  func(reply any) any      // how the client represents a reply
	other  redisstore.Command       // is sent everything instead
}

var errReset = errors.New("read tcp 192.0.2.1:50000->192.0.2.2:6379: connection reset by peer")

// lead leads to another server, to which connections have to be made anew.
func (l *link) lead(s *server) {
	l.change(func(l *link) { l.server, l.broken = s, true })
}

// change sets how the server is reached from now on.
func (l *link) change(f func(*link)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
}

func (l *link) command(ctx context.Context, args ...string) (reply any, err error) {
	l.mu.Lock()
	other, tries := l.other, max(1, l.tries)
	l.mu.Unlock()
	if other != nil {
		return other(ctx, args...)
	}
	for range tries {
		if reply, err = l.send(ctx, args); !errors.Is(err, errReset) {
			break
		}
	}
	return reply, err
}

func (l *link) send(ctx context.Context, args []string) (any, error) {
	l.mu.Lock()
	delay := l.delay
	l.mu.Unlock()
	if err := wait(ctx, delay); err != nil {
		return nil, err
	}
	reply, err := l.execute(args)
	if err == nil {
		err = wait(ctx, delay)
	}
	return reply, err
}

func (l *link) execute(args []string) (any, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		l.broken = false
		return nil, errReset
	}
	reply := l.server.do(args...)
	if l.loses != nil && l.loses(args) {
		if args[0] == "SET" && (reply == nil) == slices.Contains(args, "GET") {
			l.lost++
		}
		return nil, errReset
	}
	if err, ok := reply.(failure); ok {
		return nil, err
	}
	if l.shape != nil {
		reply = l.shape(reply)
	}
	return reply, nil
}

func wait(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// adapt opens a store that ends with the test.
func adapt(t *testing.T, command redisstore.Command, cfg redisstore.Config) *redisstore.Store {
	t.Helper()
	store, err := redisstore.Adapt(t.Context(), command, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// ready opens a store and waits until it can be used.
func ready(t *testing.T, command redisstore.Command, cfg redisstore.Config) *redisstore.Store {
	t.Helper()
	store := adapt(t, command, cfg)
	time.Sleep(time.Until(store.Ready()))
	return store
}

// ahead returns a clock that is ahead of true time.
func ahead(by time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(by) } }

func in(d time.Duration) time.Time { return time.Now().Add(d) }

// use uses a proof that was just made.
func use(store replay.Store, key string) (bool, error) {
	return store.FirstUse(context.Background(), key, time.Now(), in(maxAge))
}

func requireFirst(t *testing.T, store replay.Store, key string) {
	t.Helper()
	first, err := use(store, key)
	require.NoError(t, err)
	require.True(t, first)
}

// proof returns the key of the i-th proof of a client.
func proof(i int) string { return replay.Key("client", strconv.Itoa(i)) }

// mentions reports whether an error, or what it wraps, says one of these.
func mentions(err error, secrets ...string) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		for _, secret := range secrets {
			if strings.Contains(err.Error(), secret) || strings.Contains(fmt.Sprintf("%+v", err), secret) {
				return true
			}
		}
	}
	return false
}
