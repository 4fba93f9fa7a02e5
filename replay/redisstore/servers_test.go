package redisstore_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/redisstore"
)

// A host is a server at a port, as Redis is one. It speaks as much of RESP as a store and its client need.
type host struct {
	*server
	addr, password string
	name           string                   // of the server, in HELLO
	mute           bool                     // accepts, and says nothing ever
	loses          func(args []string) bool // whether the connection breaks before the reply to a command that was executed

	mu      sync.Mutex
	resumed *sync.Cond
	halted  bool
	conns   map[net.Conn]bool
	count   int
	wire    []event
}

// An event is that a command came over a connection, or that its reply was sent.
type event struct {
	conn    int
	args    []string
	replied bool
}

// serve returns a host that ends with the test, and that has remembered for an hour.
func serve(t *testing.T, change func(*host)) *host {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h := &host{server: newServer(), addr: listener.Addr().String(), name: "redis", conns: map[net.Conn]bool{}}
	h.resumed = sync.NewCond(&h.mu)
	h.keys[markKey] = entry{value: millis(time.Now().Add(-time.Hour)) + "/" + h.id}
	if change != nil {
		change(h)
	}
	var ended sync.WaitGroup
	ended.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			h.mu.Lock()
			h.count++
			id := h.count
			h.conns[conn] = true
			h.mu.Unlock()
			ended.Go(func() { h.talk(conn, id) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		h.resume()
		h.drop()
		ended.Wait()
	})
	return h
}

// talk answers commands until the connection ends.
func (h *host) talk(conn net.Conn, id int) {
	defer func() {
		conn.Close()
		h.mu.Lock()
		delete(h.conns, conn)
		h.mu.Unlock()
	}()
	r := bufio.NewReader(conn)
	for {
		args, err := readCommand(r)
		if err != nil {
			return
		}
		if h.mute {
			continue
		}
		h.mu.Lock()
		for h.halted {
			h.resumed.Wait()
		}
		h.wire = append(h.wire, event{id, args, false})
		h.mu.Unlock()
		reply := appendReply(nil, h.reply(args))
		h.mu.Lock()
		if h.loses != nil && h.loses(args) {
			h.mu.Unlock()
			return
		}
		h.wire = append(h.wire, event{id, args, true})
		h.mu.Unlock()
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readCount(r, '*')
	if err != nil {
		return nil, err
	}
	args := make([]string, n)
	for i := range args {
		if n, err = readCount(r, '$'); err != nil {
			return nil, err
		}
		text := make([]byte, n+2)
		if _, err = io.ReadFull(r, text); err != nil {
			return nil, err
		}
		args[i] = string(text[:n])
	}
	return args, nil
}

func readCount(r *bufio.Reader, kind byte) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil || line[0] != kind {
		return 0, fmt.Errorf("%q is no count of %c: %w", line, kind, err)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

// reply is what the host says to a command.
func (h *host) reply(args []string) any {
	clustered := h.mode == "redis_mode:cluster"
	switch strings.ToUpper(strings.Join(args[:min(2, len(args))], " ")) {
	case "HELLO 3":
		if text := h.denied(args); text != "" {
			return failure(text)
		}
		if given := slices.Concat(args, []string{"", "", ""})[4]; h.password != "" && given != h.password {
			return failure("WRONGPASS invalid username-password pair or user is disabled.")
		}
		reply := hello("server", h.name, "version", h.version, "mode", strings.TrimPrefix(h.mode, "redis_mode:"), "role", h.role)
		reply["proto"], reply["id"] = 3, 1
		return reply
	case "PING":
		return "PONG"
	case "CLUSTER NODES":
		return aNode + " " + h.addr + "@1 myself,master - 0 0 1 connected 0-16383\n"
	case "CLUSTER SLOTS":
		if text := h.denied(args); text != "" || !clustered {
			return failure(text)
		}
		name, port, _ := net.SplitHostPort(h.addr)
		number, _ := strconv.Atoi(port)
		return []any{[]any{0, 16383, []any{name, number, aNode}}}
	}
	return h.do(args...)
}

func (h *host) denied(args []string) string {
	h.server.mu.Lock()
	defer h.server.mu.Unlock()
	if h.denies == nil {
		return ""
	}
	return h.denies(args)
}

func appendReply(out []byte, reply any) []byte {
	switch reply := reply.(type) {
	case nil:
		return append(out, "_\r\n"...)
	case failure:
		return fmt.Appendf(out, "-%s\r\n", string(reply))
	case int:
		return fmt.Appendf(out, ":%d\r\n", reply)
	case string:
		if strings.HasPrefix(reply, "#") || strings.Contains(reply, "myself") {
			return fmt.Appendf(out, "=%d\r\ntxt:%s\r\n", len(reply)+4, reply)
		}
		return fmt.Appendf(out, "$%d\r\n%s\r\n", len(reply), reply)
	case []any:
		out = fmt.Appendf(out, "*%d\r\n", len(reply))
		for _, item := range reply {
			out = appendReply(out, item)
		}
		return out
	case map[string]any:
		out = fmt.Appendf(out, "%%%d\r\n", len(reply))
		for name, item := range reply {
			out = appendReply(appendReply(out, name), item)
		}
		return out
	}
	panic(fmt.Sprintf("%T", reply))
}

// halt makes the host accept connections and commands, and answer none until resume.
func (h *host) halt() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.halted = true
}

func (h *host) resume() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.halted = false
	h.resumed.Broadcast()
}

// drop ends all connections.
func (h *host) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for conn := range h.conns {
		conn.Close()
	}
}

func (h *host) events() []event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.wire)
}

// connect opens a store that ends with the test, and that waits for a machine that is busy.
func connect(t *testing.T, h *host, cfg redisstore.Config) *redisstore.Store {
	t.Helper()
	cfg.Addresses, cfg.Timeout = []string{h.addr}, cmp.Or(cfg.Timeout, 10*time.Second)
	store, err := redisstore.New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// TestNew goes through the life of a store with a client of its own: alone and as a Cluster, with Redis 7 and Redis 6.
func TestNew(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*host)
		cfg    redisstore.Config
	}{
		"Redis 7":    {},
		"Redis 6":    {change: func(h *host) { h.version, h.old = "6.0.20", true }},
		"a password": {change: func(h *host) { h.password = "hunter2" }, cfg: redisstore.Config{Password: "hunter2"}},
		"a Cluster": {change: func(h *host) {
			h.mode = "redis_mode:cluster"
			h.keys[markKey+redisstore.TagOf(0)] = h.keys[markKey]
		}, cfg: redisstore.Config{Cluster: true}},
		"without any check": {cfg: redisstore.Config{InsecureSkipChecks: true}},
	} {
		h := serve(t, tt.change)
		store := connect(t, h, tt.cfg)
		if ready := store.Ready(); ready.After(time.Now()) {
			t.Errorf("%s: a server that has remembered for an hour can be used at %v only", name, ready)
		}
		for i := range 50 {
			requireFirst(t, store, proof(i))
			if first, err := use(store, proof(i)); first || err != nil {
				t.Errorf("%s: a used proof got (%t, %v), want (false, nil)", name, first, err)
			}
			if i%10 == 0 {
				h.drop() // and the next call connects anew
			}
		}
		// A key is one argument, whatever it holds.
		for _, key := range []string{"a\r\nSET dpop:epoch 1/x\r\n", "$3\r\nx", "", "\x00"} {
			requireFirst(t, store, key)
			if first, err := use(store, key); first || err != nil {
				t.Errorf("%s: the used key %q got (%t, %v), want (false, nil)", name, key, first, err)
			}
		}
		require.Equal(t, replay.Stats{SharedReplays: 54, OwnRetries: store.Stats().OwnRetries}, store.Stats(), name)
	}
}

// TestNewIsRefused: the error of New says which server, and what to change, and shows no password.
func TestNewIsRefused(t *testing.T) {
	deserted, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, deserted.Close())
	denies := func(name, text string) func(*host) {
		return func(h *host) {
			h.denies = func(args []string) string {
				if strings.HasPrefix(strings.Join(args, " "), name) {
					return strings.ReplaceAll(text, "ARGS", strings.Join(args, " "))
				}
				return ""
			}
		}
	}
	for name, tt := range map[string]struct {
		change func(*host)
		cfg    redisstore.Config
		want   string // ADDR stands for the address
	}{
		"nobody there": {cfg: redisstore.Config{Addresses: []string{deserted.Addr().String()}},
			want: "dial tcp ADDR: connect: connection refused: start the server, or correct Config.Addresses"},
		"a replica": {change: func(h *host) { h.role = "replica" }, want: "ADDR: this is a replica, which forgets what its primary did not send: " +
			"name the primary, or use Sentinel (redis+sentinel://)"},
		"a server that evicts": {change: func(h *host) { h.policy = "allkeys-lru" }, want: `ADDR: the server's maxmemory-policy is "allkeys-lru", ` +
			"which may drop used proofs to make room: set it to noeviction (CONFIG SET maxmemory-policy noeviction)"},
		"a wrong password": {change: func(h *host) { h.password = "other" }, cfg: redisstore.Config{Password: "hunter2"}, want: "ADDR: the server " +
			"refused the user name or the password: correct Config.Username and Config.Password (WRONGPASS invalid username-password pair or user " +
			"is disabled.)"},
		"a password that is repeated": {change: denies("HELLO", "ERR I do not like ARGS"), cfg: redisstore.Config{Password: "hunter2"},
			want: "ADDR: ERR"},
		"not a Cluster": {cfg: redisstore.Config{Cluster: true}, want: "ADDR: this is not a node of a Redis Cluster: name only one address, without " +
			"Config.Cluster (redis://host)"},
		"a Cluster that tells nothing": {change: func(h *host) {
			h.mode = "redis_mode:cluster"
			denies("CLUSTER SLOTS", "NOPERM User app has no permissions to run the 'cluster|slots' command")(h)
		}, cfg: redisstore.Config{Cluster: true}, want: "the server does not answer CLUSTER SLOTS or CLUSTER SHARDS: let its user (ACL) do that"},
		"not a Sentinel": {cfg: redisstore.Config{SentinelMaster: "m", SentinelPassword: "hunter2"}, want: "ADDR: this is not a Sentinel: name the " +
			"Sentinels, or leave Config.SentinelMaster empty (redis://host)"},
		"not Infinispan": {cfg: redisstore.Config{Infinispan: true}, want: `ADDR: this is not Infinispan but "redis": set Config.Infinispan for ` +
			"Infinispan only (infinispan://)"},
		"TLS where there is none": {cfg: redisstore.Config{TLS: &tls.Config{}}, want: "ADDR: no TLS: "},
	} {
		h := serve(t, tt.change)
		if tt.cfg.Addresses == nil {
			tt.cfg.Addresses = []string{h.addr}
		}
		store, err := redisstore.New(t.Context(), tt.cfg)
		want := "redisstore: " + strings.ReplaceAll(tt.want, "ADDR", tt.cfg.Addresses[0])
		if store != nil || err == nil || !strings.HasPrefix(err.Error(), want) || tt.cfg.TLS == nil && err.Error() != want {
			t.Errorf("%s: New got (%v, %v), want the error %q", name, store, err, want)
		}
		if mentions(err, "hunter2") {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
	requireNoGoroutines(t)
}

// TestNewSpeaksToWhatIsNoServer: what answers otherwise, or not at all, is an error that says so.
func TestNewSpeaksToWhatIsNoServer(t *testing.T) {
	for name, tt := range map[string]struct{ says, want string }{
		"closes at once": {"", "the server closed the connection at once: does it expect TLS (rediss://)?"},
		"HTTP":           {"HTTP/1.1 400 Bad Request\r\n\r\n", "the reply is not RESP: is there a Redis or Infinispan at this address, and is TLS set as it has it?"},
		"half a reply":   {"%1\r\n$6\r\nser", "the server closed the connection at once: does it expect TLS (rediss://)?"},
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = readCommand(bufio.NewReader(conn)) // else it would be reset
				_, _ = io.WriteString(conn, tt.says)
				conn.Close()
			}
		}()
		_, err = redisstore.New(t.Context(), redisstore.Config{Addresses: []string{listener.Addr().String()}})
		if want := "redisstore: " + listener.Addr().String() + ": " + tt.want; err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
		require.NoError(t, listener.Close())
	}
	requireNoGoroutines(t)
}

// TestLooksFirst reads on the wire that no proof is sent over a connection before the mark was read over that same one. The
// control is a store that does not look.
func TestLooksFirst(t *testing.T) {
	early := func(cfg redisstore.Config) (unseen, conns int) {
		h := serve(t, nil)
		store := connect(t, h, cfg)
		var wg sync.WaitGroup
		for part := range 8 {
			wg.Go(func() {
				for i := range 100 {
					if first, err := use(store, replay.Key(strconv.Itoa(part), strconv.Itoa(i))); !first || err != nil {
						t.Errorf("a new proof got (%t, %v), want (true, nil) whatever breaks", first, err)
					}
					if part == 0 && i%10 == 5 {
						h.drop()
					}
				}
			})
		}
		wg.Wait()
		looked, seen := map[int]bool{}, map[int]bool{}
		for _, e := range h.events() {
			switch {
			case e.replied && slices.Equal(e.args, []string{"GET", markKey}):
				looked[e.conn] = true
			case !e.replied && e.args[0] == "SET" && strings.HasPrefix(e.args[1], "dpop:jti:") && !seen[e.conn]:
				seen[e.conn] = true
				if !looked[e.conn] {
					unseen++
				}
			}
		}
		return unseen, len(seen)
	}
	if unseen, conns := early(redisstore.Config{}); unseen > 0 || conns < 3 {
		t.Errorf("over %d of %d connections a proof was sent before the mark had been read", unseen, conns)
	}
	if unseen, conns := early(redisstore.Config{InsecureSkipChecks: true}); unseen == 0 {
		t.Errorf("control: with InsecureSkipChecks a mark was read on all of %d connections, so this test shows nothing", conns)
	}
}

// TestLostRepliesOverTheWire breaks every third connection when a proof was recorded and before the reply.
func TestLostRepliesOverTheWire(t *testing.T) {
	for _, old := range []bool{false, true} {
		asked := 0
		var lost atomic.Int64
		h := serve(t, func(h *host) {
			if h.old = old; old {
				h.version = "6.2.14"
			}
			h.loses = func(args []string) bool {
				if args[0] != "SET" {
					return false
				}
				if asked++; asked%3 == 0 {
					lost.Add(1)
				}
				return asked%3 == 0
			}
		})
		store := connect(t, h, redisstore.Config{})
		for i := range 60 {
			if first, err := use(store, proof(i)); !first || err != nil {
				t.Errorf("Redis 6 %t: a new proof got (%t, %v), want (true, nil)", old, first, err)
			}
		}
		if own := store.Stats().OwnRetries; own == 0 || own != lost.Load() {
			t.Errorf("Redis 6 %t: %d replies were lost, and %d proofs recognised as own", old, lost.Load(), own)
		}
	}
}

// TestC15LossOverTheWire restarts the server while proofs are used, and sends all of them again: to the process that used
// them, to another, and to one that starts then.
func TestC15LossOverTheWire(t *testing.T) {
	twice := func(cfg redisstore.Config) (twice, all int) {
		h := serve(t, nil)
		stores := []*redisstore.Store{connect(t, h, cfg), connect(t, h, cfg)}
		var mu sync.Mutex
		used := map[string]time.Time{}
		var wg sync.WaitGroup
		for part := range 8 {
			wg.Go(func() {
				for i := range 200 {
					key, made := replay.Key(strconv.Itoa(part), strconv.Itoa(i)), time.Now().Add(leeway)
					if first, _ := stores[part%2].FirstUse(t.Context(), key, made, in(maxAge)); first {
						mu.Lock()
						used[key] = made
						mu.Unlock()
					}
					if part == 0 && i == 100 {
						h.restart()
						h.drop()
					}
				}
			})
		}
		wg.Wait()
		for _, s := range append(stores, connect(t, h, cfg)) {
			for key, made := range used {
				if first, _ := s.FirstUse(t.Context(), key, made, in(maxAge)); first {
					twice++
				}
			}
		}
		return twice, len(used)
	}
	if n, all := twice(redisstore.Config{}); n > 0 {
		t.Errorf("C15: %d of %d used proofs pass after a restart", n, all)
	}
	if n, all := twice(redisstore.Config{InsecureSkipChecks: true}); n == 0 {
		t.Errorf("control: with InsecureSkipChecks none of %d used proofs passes after a restart, so this test shows nothing", all)
	}
}

// TestErrorsOverTheWireShowNothing: the store does not repeat what a server repeats, neither a key nor a password.
func TestErrorsOverTheWireShowNothing(t *testing.T) {
	h := serve(t, func(h *host) { h.password = "hunter2" })
	store := connect(t, h, redisstore.Config{Password: "hunter2"})
	for name, echo := range map[string]string{
		"in quotes": "ERR unknown command 'SET', with args beginning with: 'ARGS'", "bare": "ERR SET of ARGS and hunter2 failed", "in front": "ARGS",
	} {
		var secrets []string
		h.change(func(s *server) {
			s.denies = func(args []string) string {
				if args[0] != "SET" {
					return ""
				}
				secrets = append(secrets, args[1], args[2])
				return strings.ReplaceAll(echo, "ARGS", args[1]+" "+args[2])
			}
		})
		_, err := use(store, proof(1))
		h.change(func(s *server) { s.denies = nil }) // and nothing is added to secrets any more
		if err == nil || len(secrets) == 0 {
			t.Errorf("%s: control: no error, or nothing that it could show", name)
		}
		if mentions(err, append(secrets, proof(1), "hunter2")...) {
			t.Errorf("%s: the error shows a key, a nonce or the password: %v", name, err)
		}
	}
}

// inTime runs f, which returns how long the slowest of what it does took, until that is at most what is wanted. It has three
// tries, as things take longer on a machine that is busy, and half as long again under the race detector.
func inTime(t *testing.T, what string, want time.Duration, f func() time.Duration) {
	t.Helper()
	if raceEnabled {
		want += want / 2
	}
	var took time.Duration
	for range 3 {
		if took = f(); took <= want {
			return
		}
	}
	t.Errorf("%s takes %v, want at most %v", what, took, want)
}

// TestSilentServer: New and FirstUse give up after Config.Timeout where nobody answers, New also when its context ends.
func TestSilentServer(t *testing.T) {
	const timeout = 500 * time.Millisecond
	silent := serve(t, func(h *host) { h.mute = true })
	cfg := redisstore.Config{Addresses: []string{silent.addr}, Timeout: timeout}
	inTime(t, "New where nobody answers", timeout*12/10, func() time.Duration {
		start := time.Now()
		_, err := redisstore.New(t.Context(), cfg)
		want := "redisstore: no answer from " + silent.addr + " within 500ms: correct Config.Addresses, or set a longer Config.Timeout ("
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("New where nobody answers got %v, want %q", err, want)
		}
		return time.Since(start)
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := len(silent.events())
	if _, err := redisstore.New(ctx, cfg); err != context.Canceled || len(silent.events()) > before {
		t.Errorf("New with a context that has ended got %v, want its error and no connection", err)
	}
	inTime(t, "New with a context that ends meanwhile", timeout/2, func() time.Duration {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(timeout/10, cancel)
		start := time.Now()
		if _, err := redisstore.New(ctx, cfg); !errors.Is(err, context.Canceled) {
			t.Errorf("New with a context that ends meanwhile got %v, want its error", err)
		}
		return time.Since(start)
	})
	h := serve(t, nil)
	store := connect(t, h, redisstore.Config{Timeout: timeout})
	h.halt()
	inTime(t, "a call where nobody answers", timeout*12/10, func() time.Duration {
		start := time.Now()
		if first, err := use(store, proof(1)); first || err == nil || !strings.HasSuffix(err.Error(), "no answer within 500ms") {
			t.Errorf("a call where nobody answers got (%t, %v), want an error", first, err)
		}
		return time.Since(start)
	})
	requireNoGoroutines(t, store)
}

// TestManyWaitForASilentServer: more callers than the client has places for come while the server answers nothing, for long
// enough that connections are given up and made again. Each gets its error in time, and when the server is back all is well.
func TestManyWaitForASilentServer(t *testing.T) {
	const callers, timeout = 4000, 700 * time.Millisecond
	inTime(t, "one of 4,000 calls that nobody answers", timeout*12/10, func() time.Duration {
		h := serve(t, nil)
		store := connect(t, h, redisstore.Config{Timeout: timeout, CheckInterval: time.Minute})
		time.Sleep(2 * timeout) // until the connection is no longer a new one
		var wg sync.WaitGroup
		for i := range 100 { // for the client treats a connection otherwise that was never used by several
			wg.Go(func() {
				if _, err := use(store, proof(-i)); err != nil {
					t.Errorf("a call before the server is silent got %v", err)
				}
			})
		}
		wg.Wait()
		h.halt()
		var slowest, waiting, most atomic.Int64
		for i := range callers {
			if i%20 == 0 {
				time.Sleep(timeout / 100) // so that they come over twice the time that one may take
			}
			wg.Go(func() {
				start := time.Now()
				if n := waiting.Add(1); n > most.Load() {
					most.Store(n)
				}
				if first, err := use(store, proof(i)); first || err == nil {
					t.Errorf("a call that nobody answers got (%t, %v), want an error", first, err)
				}
				waiting.Add(-1)
				if took := int64(time.Since(start)); took > slowest.Load() {
					slowest.Store(took)
				}
			})
		}
		wg.Wait()
		if most.Load() < 1100 {
			t.Errorf("control: only %d calls waited at once, for which the client has places", most.Load())
		}
		h.resume()
		start := time.Now()
		for i := callers; ; i++ {
			if first, err := use(store, proof(i)); first && err == nil {
				break
			}
			if since := time.Since(start); since > 10*timeout {
				t.Fatalf("nothing works %v after the server is back", since)
			}
		}
		requireNoGoroutines(t, store)
		return time.Duration(slowest.Load())
	})
}

// TestCloseWhileNobodyAnswers: Close ends calls that wait for a reply, or for a connection that cannot be made, at once, and
// leaves nothing behind.
func TestCloseWhileNobodyAnswers(t *testing.T) {
	for name, drops := range map[string]bool{"for replies": false, "for a connection": true} {
		inTime(t, "Close while calls wait "+name, 500*time.Millisecond, func() time.Duration {
			h := serve(t, nil)
			store, err := redisstore.New(t.Context(), redisstore.Config{Addresses: []string{h.addr}, Timeout: time.Minute})
			require.NoError(t, err)
			h.halt()
			if drops {
				h.drop()
			}
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() {
					if first, err := use(store, proof(i)); first || err == nil || err.Error() != "redisstore: the store is closed" {
						t.Errorf("a call that Close ends got (%t, %v), want an error", first, err)
					}
				})
			}
			time.Sleep(100 * time.Millisecond)
			start := time.Now()
			require.NoError(t, store.Close())
			wg.Wait()
			took := time.Since(start)
			require.NoError(t, store.Close())
			h.resume()
			return took
		})
	}
	requireNoGoroutines(t)
}

// TestCloseUnderLoad: no call hangs, and none is granted by a store that is closed.
func TestCloseUnderLoad(t *testing.T) {
	for range 5 {
		h := serve(t, nil)
		store, err := redisstore.New(t.Context(), redisstore.Config{Addresses: []string{h.addr}, Timeout: 10 * time.Second})
		require.NoError(t, err)
		var wg sync.WaitGroup
		closed := make(chan struct{})
		for part := range 50 {
			wg.Go(func() {
				for i := range 1_000_000 {
					_, err := use(store, replay.Key(strconv.Itoa(part), strconv.Itoa(i)))
					if err != nil {
						if err.Error() != "redisstore: the store is closed" {
							t.Errorf("a call during Close got %v", err)
						}
						return
					}
				}
			})
		}
		go func() {
			time.Sleep(20 * time.Millisecond)
			_ = store.Close()
			close(closed)
		}()
		wg.Wait()
		<-closed
	}
	requireNoGoroutines(t)
}

// TestNewWhoseContextEndsLate: a store that New returns is one that can be used, or New returns an error and leaves nothing.
func TestNewWhoseContextEndsLate(t *testing.T) {
	h := serve(t, nil)
	for i := range 60 {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Duration(i)*50*time.Microsecond, cancel)
		store, err := redisstore.New(ctx, redisstore.Config{Addresses: []string{h.addr}})
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("New got %v, want its context's error", err)
			}
			continue
		}
		<-ctx.Done()
		time.Sleep(time.Millisecond)
		if _, err := use(store, proof(i)); err != nil {
			t.Errorf("New returned a store without an error, and it says %v", err)
		}
		require.NoError(t, store.Close())
	}
	requireNoGoroutines(t)
}

// TestInfinispanAddresses are tried in turn, and one that is silent leaves time for the others.
func TestInfinispanAddresses(t *testing.T) {
	silent := serve(t, func(h *host) { h.mute = true })
	h := serve(t, func(h *host) {
		h.name = "infinispan"
		h.keys[markKey] = entry{value: millis(time.Now().Add(-time.Hour)) + "/"}
	})
	for _, addresses := range [][]string{{h.addr}, {h.addr, silent.addr}, {silent.addr, h.addr}, {"127.0.0.1:1", silent.addr, h.addr}} {
		store, err := redisstore.New(t.Context(), redisstore.Config{Addresses: addresses, Infinispan: true})
		if err != nil {
			t.Errorf("of %d addresses, of which one is good: %v", len(addresses), err)
			continue
		}
		requireFirst(t, store, strings.Join(addresses, " "))
		require.NoError(t, store.Close())
	}
}

// requireNoGoroutines closes stores, and fails if goroutines of a store or its client are left.
func requireNoGoroutines(t *testing.T, stores ...*redisstore.Store) {
	t.Helper()
	if len(stores) > 0 && len(goroutines(t)) == 0 {
		t.Error("control: an open store has no goroutines, so this shows nothing")
	}
	for _, s := range stores {
		require.NoError(t, s.Close())
	}
	var left []string
	for range 100 {
		if left = goroutines(t); len(left) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left, such as\n%s", len(left), left[0])
}

// goroutines returns the stacks of those of stores and their clients.
func goroutines(t *testing.T) []string {
	t.Helper()
	var all bytes.Buffer
	require.NoError(t, pprof.Lookup("goroutine").WriteTo(&all, 2))
	return slices.DeleteFunc(strings.Split(all.String(), "\n\n"), func(stack string) bool {
		return !strings.Contains(stack, "/rueidis.") && !strings.Contains(stack, "/redisstore.")
	})
}
