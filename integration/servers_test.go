//go:build integration

package integration

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// These tests show that the servers do what the tests of stores rely on, and that each way to make them fail does make
// them fail: a test of a store against a fault that never comes would show nothing.

// use returns the command by which stores set a key, unless it is there: its answer is (nil), or what it was set to.
func use(key, value string) []string {
	return []string{"SET", key, value, "NX", "GET", "PX", "600000"}
}

func TestRedisServers(t *testing.T) {
	for variable, version := range map[string]string{
		redis7: "redis_version:", redis6: "redis_version:6.2.", valkey: "valkey_version:9.",
	} {
		t.Run(variable, func(t *testing.T) {
			s := startServer(t, variable, "--requirepass", "secret")
			if info := s.cli(t, "INFO", "server"); !strings.Contains(info, version) {
				t.Errorf("%s is not the server that it should be; it says\n%s", variable, info)
			}
			if answer, err := ask(s.addr, "", "", "PING"); err != nil || !strings.HasPrefix(answer, "(error) NOAUTH") {
				t.Errorf("without a password, the server answers %s, %v", answer, err)
			}
			if variable == redis6 {
				if answer := s.cli(t, use("key", "first")...); answer != "(error) ERR syntax error" {
					t.Errorf("SET with NX and GET is of Redis 7, and Redis 6 answers %s", answer)
				}
				return
			}
			for _, want := range []string{"(nil)", "first"} {
				if answer := s.cli(t, use("key", "first")...); answer != want {
					t.Errorf("a key is set, and the answer is %s, want %s", answer, want)
				}
			}
		})
	}
}

func TestRedisKilled(t *testing.T) {
	s := startRedis(t)
	s.cli(t, use("key", "first")...)
	s.kill()
	if answer, err := s.try("PING"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a server that was killed answers %q, %v", answer, err)
	}
	s.restart(t)
	if answer := s.cli(t, use("key", "second")...); answer != "(nil)" {
		t.Errorf("a server that was killed and started anew remembers %s", answer)
	}
}

func TestRedisHalted(t *testing.T) {
	s := startRedis(t)
	s.halt(t)
	conn := dial(t, s.addr)
	noAnswer(t, conn, "INCR", "n")
	s.resume(t)
	if answer := receive(t, conn); answer != "1" {
		t.Errorf("what was sent to a server that was halted is answered %s later, want 1", answer)
	}
}

func TestRedisCluster(t *testing.T) {
	c := startCluster(t, true)
	key := "key"
	own := c.masterOf(t, key)
	for i, master := range c.masters {
		conn := dial(t, master.addr)
		answer := exchange(t, conn, use(key, "first")...)
		if i == own && answer != "(nil)" || i != own && !strings.HasPrefix(answer, "(error) MOVED ") {
			t.Errorf("master %d answers %s to a key of master %d", i, answer, own)
		}
		if i == own {
			replicated(t, conn)
		}
	}

	c.masters[own].kill()
	require.Eventually(t, func() bool { return c.replicas[own].info("replication", "role") == "master" },
		patience, tick, "no replica takes over")
	c.await(t)
	if answer := c.replicas[own].cli(t, use(key, "second")...); answer != "first" {
		t.Errorf("a replica that was in sync and took over answers %s, want first", answer)
	}
}

// Replication is asynchronous: what a master acknowledged is lost when it fails before its replica has it.
func TestSentinelFailoverLosesKeys(t *testing.T) {
	g := startSentinel(t)
	conn := dial(t, g.master.addr)
	if answer := exchange(t, conn, use("early", "first")...); answer != "(nil)" {
		t.Errorf("the master answers %s to a new key", answer)
	}
	replicated(t, conn)
	g.cutReplica(t)
	for _, want := range []string{"(nil)", "first"} {
		if answer := exchange(t, conn, use("late", "first")...); answer != want {
			t.Errorf("a key is set at a master without its replica, and the answer is %s, want %s", answer, want)
		}
	}
	addr := g.killMaster(t)
	for key, want := range map[string]string{"early": "first", "late": "(nil)"} {
		answer, err := ask(addr, "", "", use(key, "third")...)
		require.NoError(t, err)
		if answer != want {
			t.Errorf("after the failover, the key %s is answered %s, want %s", key, answer, want)
		}
	}
}

func TestProxy(t *testing.T) {
	server := startRedis(t)
	count := func(t *testing.T) string { return server.cli(t, "GET", "n") }
	start := func(t *testing.T) *proxy {
		require.Equal(t, "OK", server.cli(t, "FLUSHALL"))
		return startProxy(t, server.addr)
	}

	t.Run("passes on", func(t *testing.T) {
		p := start(t)
		conn := dial(t, p.addr)
		large := strings.Repeat("\r\n\x00*3", 1<<18)
		for _, step := range []struct{ want, value, flag string }{
			{"(nil)", large, "NX"}, {large, "", "NX"}, {"(error) ERR syntax error", "", "flag"},
		} {
			if answer := exchange(t, conn, "SET", "key", step.value, step.flag, "GET"); answer != step.want {
				t.Errorf("through a proxy, a SET is answered %.50q, want %.50q", answer, step.want)
			}
		}
		if n := p.passed("SET"); n != 3 {
			t.Errorf("the proxy passed on %d SETs, want 3", n)
		}
	})

	t.Run("pipelines", func(t *testing.T) {
		p := start(t)
		conn := dial(t, p.addr)
		increments(t, conn, 5000)
		for i := range 5000 {
			if answer := receive(t, conn); answer != strconv.Itoa(i+1) {
				t.Fatalf("answer %d of a pipeline is %s", i+1, answer)
			}
		}
	})

	t.Run("delay", func(t *testing.T) {
		const late, many = 200 * time.Millisecond, 100
		p := start(t)
		conn := dial(t, p.addr)
		p.delay(late)
		begin := time.Now()
		increments(t, conn, many)
		for range many {
			receive(t, conn)
		}
		if took := time.Since(begin); took < late || took > many*late/4 {
			t.Errorf("%d answers that come %v later, all of them at once, took %v", many, late, took)
		}
		p.delay(0)
		exchange(t, conn, "INCR", "n")
	})

	t.Run("lose", func(t *testing.T) {
		p := start(t)
		p.lose(3, "INCR")
		conn := dial(t, p.addr)
		// The others are not counted, be they answered or on their way.
		_, err := conn.Write(bytes.Repeat(append(command("INCR", "n"), command("PING")...), 3))
		require.NoError(t, err)
		for _, want := range []string{"1", "PONG", "2", "PONG"} {
			if answer := receive(t, conn); answer != want {
				t.Errorf("an answer that is not to be lost is %s, want %s", answer, want)
			}
		}
		ended(t, conn, "whose answer was lost")
		if n := p.lost(); n != 1 || count(t) != "3" {
			t.Errorf("%d answers were lost and %s commands executed, want 1 and 3", n, count(t))
		}
	})

	t.Run("lose under load", func(t *testing.T) {
		const clients, each, every = 8, 250, 7
		p := start(t)
		p.lose(every, "INCR")
		var failures atomic.Int64
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				var conn *respClient
				for range each {
					if conn == nil {
						var err error
						if conn, err = dialRESP(p.addr, "", ""); err != nil {
							t.Errorf("no connection: %v", err)
							return
						}
					}
					if _, err := conn.do("INCR", "n"); err != nil {
						failures.Add(1)
						conn.Close()
						conn = nil
					}
				}
				if conn != nil {
					conn.Close()
				}
			})
		}
		wg.Wait()
		const sent = clients * each
		if n := p.lost(); n != sent/every || failures.Load() != sent/every {
			t.Errorf("of %d answers %d were lost and %d missed, want %d", sent, n, failures.Load(), sent/every)
		}
		if n := count(t); n != strconv.Itoa(sent) {
			t.Errorf("of %d commands, %s were executed", sent, n)
		}
	})

	t.Run("cut", func(t *testing.T) {
		p := start(t)
		conn, other := dial(t, p.addr), dial(t, p.addr)
		require.Eventually(t, func() bool { return p.connections() == 2 }, patience, time.Millisecond)
		p.cut()
		ended(t, conn, "that was cut")
		ended(t, other, "that was cut")
		works(t, p)
	})

	t.Run("refuse", func(t *testing.T) {
		p := start(t)
		conn := dial(t, p.addr)
		exchange(t, conn, "PING") // so that it is accepted
		p.refuse(true)
		if late, err := dialRESP(p.addr, "", ""); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a proxy that refuses connections is asked for one: %v, %v", late, err)
		}
		if answer := exchange(t, conn, "PING"); answer != "PONG" {
			t.Errorf("a connection from before is answered %s", answer)
		}
		p.refuse(false)
		works(t, p)
	})

	t.Run("black hole", func(t *testing.T) {
		p := start(t)
		before := dial(t, p.addr)
		p.delay(200 * time.Millisecond)
		send(t, before, "INCR", "n")
		require.Eventually(t, func() bool { return p.passed("INCR") == 1 && count(t) == "1" }, patience, time.Millisecond)
		p.blackhole(true) // while the answer is on its way
		during := dial(t, p.addr)
		noAnswer(t, before, "INCR", "n")
		noAnswer(t, during, "INCR", "n")
		require.Eventually(t, func() bool { return p.connections() == 2 }, patience, time.Millisecond)
		p.blackhole(false)
		ended(t, before, "that was in a black hole")
		ended(t, during, "that began in a black hole")
		works(t, p)
		if n := count(t); n != "1" {
			t.Errorf("n is %s, want 1: what went into a black hole is executed", n)
		}
	})

	t.Run("retarget", func(t *testing.T) {
		p := start(t)
		other := startRedis(t)
		conn := dial(t, p.addr)
		exchange(t, conn, "INCR", "n")
		p.retarget(other.addr)
		if answer := exchange(t, conn, "INCR", "n"); answer != "2" {
			t.Errorf("a connection from before the change of targets is answered %s, want 2", answer)
		}
		p.cut()
		next := dial(t, p.addr)
		if answer := exchange(t, next, "INCR", "n"); answer != "1" {
			t.Errorf("the new target answers %s, want 1", answer)
		}
	})

	t.Run("server ends", func(t *testing.T) {
		p := start(t)
		doomed := startRedis(t)
		p.retarget(doomed.addr)
		conn := dial(t, p.addr)
		exchange(t, conn, "PING")
		doomed.kill()
		ended(t, conn, "whose server was killed")
		ended(t, dial(t, p.addr), "to a server that was killed")
	})
}

func TestInfinispan(t *testing.T) {
	node := startInfinispan(t, 1)[0]
	answer, err := ask(node.respAddr(replayCache), infinispanUser, "wrong", "GET", "key")
	if err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("with a wrong password, the server answers %s, %v", answer, err)
	}
	for _, cache := range caches {
		for _, want := range []string{"(nil)", "first"} {
			if answer := node.cli(t, cache, use("key", "first")...); answer != want {
				t.Errorf("a key is set in %s, and the answer is %s, want %s", cache, answer, want)
			}
		}
	}

	// The same number of keys for all, of which the small caches can hold a quarter.
	const keys = 400
	for _, test := range []struct {
		cache             string
		forgets, complain bool
	}{
		{replayCache, false, false}, {evictingCache, true, false}, {boundedCache, false, true},
	} {
		accepted, complaints, forgotten := fill(t, node, test.cache, keys)
		if (complaints > 0) != test.complain {
			t.Errorf("%s complains of %d keys of %d", test.cache, complaints, keys)
		}
		if (forgotten > 0) != test.forgets {
			t.Errorf("%s has forgotten %d keys of %d that it took", test.cache, forgotten, accepted)
		}
	}

	// What a split costs: each half takes the same key once. What a crash costs: the node takes it again.
	key := rand.Text() // the other node is shared
	for name, half := range map[string]*infinispanNode{"one": node, "the other": infinispan(t)} {
		if answer := half.cli(t, replayCache, use(key, "first")...); answer != "(nil)" {
			t.Errorf("of two nodes that know nothing of each other, %s remembers %s of a new key", name, answer)
		}
	}
	node.kill()
	node.restart(t)
	if answer := node.cli(t, replayCache, use(key, "second")...); answer != "(nil)" {
		t.Errorf("a server that was killed and started anew remembers %s", answer)
	}
}

// fill sets keys in a cache, and then those once more that it took.
func fill(t *testing.T, node *infinispanNode, cache string, keys int) (accepted, complaints, forgotten int) {
	conn, err := dialRESP(node.respAddr(cache), infinispanUser, infinispanPassword)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	var taken []string
	for i := range keys {
		key := fmt.Sprintf("fill %d", i)
		switch answer, err := conn.do(use(key, "first")...); {
		case err != nil:
			t.Fatalf("%s: %v", cache, err)
		case answer == "(nil)":
			taken = append(taken, key)
		case strings.HasPrefix(answer, "(error) ERR ISPN000514"):
			complaints++
		default:
			t.Fatalf("%s answers %s to a new key", cache, answer)
		}
	}
	for _, key := range taken {
		answer, err := conn.do(use(key, "second")...)
		require.NoError(t, err)
		if answer == "(nil)" {
			forgotten++
		}
	}
	return len(taken), complaints, forgotten
}

func TestInfinispanCluster(t *testing.T) {
	nodes := startInfinispan(t, 2)
	for _, cache := range []string{replayCache, denyingCache} {
		for i, want := range []string{"(nil)", "first"} {
			if answer := nodes[i].cli(t, cache, use("key", "first")...); answer != want {
				t.Errorf("node %d answers %s to a key of %s, want %s", i, answer, cache, want)
			}
		}
	}
	nodes[0].kill()
	var answer string
	require.Eventually(t, func() bool {
		var err error
		answer, err = nodes[1].try(replayCache, use("key", "second")...)
		return err == nil
	}, patience, tick, "the node that is left does not answer")
	if answer != "first" {
		t.Errorf("the node that is left answers %s, want first", answer)
	}
	require.Eventually(t, func() bool {
		answer, err := nodes[1].try(denyingCache, use("key", "second")...)
		return err == nil && strings.HasPrefix(answer, "(error) ERR ISPN000306")
	}, patience, tick, "half a cluster does not deny what it may not know")
}

// dial returns a connection for the rest of the test.
func dial(t *testing.T, addr string) *respClient {
	t.Helper()
	conn, err := dialRESP(addr, "", "")
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	t.Cleanup(func() { conn.Close() })
	return conn
}

func send(t *testing.T, conn *respClient, args ...string) {
	t.Helper()
	_, err := conn.Write(command(args...))
	require.NoError(t, err)
}

func receive(t *testing.T, conn *respClient) string {
	t.Helper()
	answer, err := conn.answer()
	require.NoError(t, err)
	return answer
}

func exchange(t *testing.T, conn *respClient, args ...string) string {
	t.Helper()
	send(t, conn, args...)
	return receive(t, conn)
}

// replicated returns when a replica has what was set over this connection.
func replicated(t *testing.T, conn *respClient) {
	t.Helper()
	require.Equal(t, "1", exchange(t, conn, "WAIT", "1", "10000"), "how many replicas have a key")
}

// increments sends many commands at once.
func increments(t *testing.T, conn *respClient, n int) {
	t.Helper()
	_, err := conn.Write(bytes.Repeat(command("INCR", "n"), n))
	require.NoError(t, err)
}

// noAnswer sends a command and waits in vain.
func noAnswer(t *testing.T, conn *respClient, args ...string) {
	t.Helper()
	send(t, conn, args...)
	require.NoError(t, conn.SetDeadline(time.Now().Add(300*time.Millisecond)))
	var late net.Error
	if answer, err := conn.answer(); !errors.As(err, &late) || !late.Timeout() {
		t.Errorf("there should be no answer, and there is %q, %v", answer, err)
	}
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
}

// ended checks that nothing more comes over a connection, and that it is over.
func ended(t *testing.T, conn *respClient, which string) {
	t.Helper()
	answer, err := conn.answer()
	if answer != "" || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection %s should be over, and there is %q, %v", which, answer, err)
	}
}

// works checks that a proxy takes new connections and serves them.
func works(t *testing.T, p *proxy) {
	t.Helper()
	conn := dial(t, p.addr)
	if answer := exchange(t, conn, "PING"); answer != "PONG" {
		t.Errorf("a new connection is answered %s", answer)
	}
}
