//go:build integration

package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The servers that speak Redis's protocol as Redis does, by the variable that names the program.
const (
	redis7 = "REDIS_SERVER"
	redis6 = "REDIS6_SERVER"
	valkey = "VALKEY_SERVER"
)

// A redisServer keeps nothing on disk: what it knew is gone when it ends. Its methods are for the test's own goroutine,
// but for try.
type redisServer struct {
	*process
	addr     string
	password string // of the user default; "" if none is needed
	program  string
	args     []string
}

// startRedis returns a Redis 7 that ends with the test. args are settings of its configuration file: "--maxmemory", "20mb".
func startRedis(t *testing.T, args ...string) *redisServer {
	t.Helper()
	return startServer(t, redis7, args...)
}

// startServer does the same for any of the servers above.
func startServer(t *testing.T, variable string, args ...string) *redisServer {
	t.Helper()
	s := newServer(t, variable, args...)
	s.restart(t)
	return s
}

var serverCount atomic.Int64

// newServer chooses where a server will be. restart starts it.
func newServer(t *testing.T, variable string, args ...string) *redisServer {
	t.Helper()
	program, err := need(variable)
	require.NoError(t, err)
	port, err := serverPort()
	require.NoError(t, err)
	name := strings.ToLower(strings.TrimSuffix(variable, "_SERVER"))
	p, err := newProcess(fmt.Sprintf("%s-%d", name, serverCount.Add(1)))
	require.NoError(t, err)
	p.endWith(t)
	s := &redisServer{process: p, addr: loopback(port), program: program}
	if i := slices.Index(args, "--requirepass"); i >= 0 {
		s.password = args[i+1]
	}
	s.args = append([]string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", p.dir, "--save", "", "--appendonly", "no",
		"--repl-diskless-sync-delay", "0", // a replica is in sync at once, not after 5 s
	}, args...)
	return s
}

// restart starts the server once more after kill, at the same address and with nothing in its memory.
func (s *redisServer) restart(t *testing.T) {
	t.Helper()
	require.NoError(t, s.process.start(exec.Command(s.program, s.args...)))
	require.NoError(t, s.await(func() bool {
		pong, err := s.try("PING")
		return err == nil && pong == "PONG"
	}, patience))
}

// cli sends one command, as the user default and over a connection of its own. It returns the words of the answer, one to a
// line; a nil is (nil), an error begins with (error). The test ends when there is no answer.
func (s *redisServer) cli(t *testing.T, args ...string) string {
	t.Helper()
	answer, err := s.try(args...)
	require.NoError(t, err, "%s to %s", args[0], s.name)
	return answer
}

// try does the same for a server that may be unable to answer, and may be called by any number of goroutines.
func (s *redisServer) try(args ...string) (string, error) {
	return ask(s.addr, "default", s.password, args...)
}

// info returns a field of INFO, or "" if the server does not answer.
func (s *redisServer) info(section, field string) string {
	answer, _ := s.try("INFO", section)
	return fieldOf(answer, field)
}

// fieldOf returns the value of a line field:value.
func fieldOf(text, field string) string {
	for line := range strings.Lines(text) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ":"); name == field {
			return value
		}
	}
	return ""
}

// follow makes the server a replica of what listens at an address, and returns when it is in sync with it.
func (s *redisServer) follow(t *testing.T, addr string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	require.Equal(t, "OK", s.cli(t, "REPLICAOF", host, port))
	require.Eventually(t, func() bool {
		return s.info("replication", "master_port") == port && s.info("replication", "master_link_status") == "up"
	}, patience, tick, "%s does not come in sync", s.name)
}

// tick is how often the tests look whether something has come about.
const tick = 50 * time.Millisecond

// A redisCluster is a Redis Cluster of three masters, with a third of the slots each, in order.
type redisCluster struct {
	masters  []*redisServer
	replicas []*redisServer // as many as masters, in their order, or none
}

const slots = 16384

// startCluster returns a cluster that ends with the test and serves every slot. Each master has a replica if replicas says
// so. A node counts as lost when the others have not heard of it for a second.
func startCluster(t *testing.T, replicas bool) *redisCluster {
	t.Helper()
	const size = 3
	c := &redisCluster{}
	node := func() *redisServer {
		return startRedis(t, "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "1000")
	}
	for i := range size {
		master := node()
		c.masters = append(c.masters, master)
		require.Equal(t, "OK", master.cli(t, "CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1)))
		first, last := i*slots/size, (i+1)*slots/size-1
		require.Equal(t, "OK", master.cli(t, "CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(first), strconv.Itoa(last)))
	}
	if replicas {
		for range size {
			c.replicas = append(c.replicas, node())
		}
	}
	for _, node := range c.nodes()[1:] {
		host, port, err := net.SplitHostPort(node.addr)
		require.NoError(t, err)
		require.Equal(t, "OK", c.masters[0].cli(t, "CLUSTER", "MEET", host, port))
	}
	c.await(t)
	for i, replica := range c.replicas {
		id := c.masters[i].cli(t, "CLUSTER", "MYID")
		require.Equal(t, "OK", replica.cli(t, "CLUSTER", "REPLICATE", id))
		require.Eventually(t, func() bool { return replica.info("replication", "master_link_status") == "up" },
			patience, tick, "a replica of the cluster does not come in sync")
	}
	return c
}

func (c *redisCluster) nodes() []*redisServer { return slices.Concat(c.masters, c.replicas) }

func (c *redisCluster) addrs() []string {
	var addrs []string
	for _, node := range c.nodes() {
		addrs = append(addrs, node.addr)
	}
	return addrs
}

// await returns when every node that runs knows all others and says that every slot is served.
func (c *redisCluster) await(t *testing.T) {
	t.Helper()
	known := strconv.Itoa(len(c.nodes()))
	require.Eventually(t, func() bool {
		for _, node := range c.nodes() {
			if !node.runs() {
				continue
			}
			info, _ := node.try("CLUSTER", "INFO")
			if fieldOf(info, "cluster_state") != "ok" || fieldOf(info, "cluster_known_nodes") != known {
				return false
			}
		}
		return true
	}, patience, tick, "the cluster does not serve every slot")
}

// masterOf returns the index of the master that had a key's slot at the start.
func (c *redisCluster) masterOf(t *testing.T, key string) int {
	t.Helper()
	slot, err := strconv.Atoi(c.masters[0].cli(t, "CLUSTER", "KEYSLOT", key))
	require.NoError(t, err)
	for i := range c.masters {
		if slot < (i+1)*slots/len(c.masters) {
			return i
		}
	}
	t.Fatalf("there is no slot %d", slot)
	return 0
}

// A sentinelGroup is a master with one replica, and three Sentinels that watch them under masterName.
type sentinelGroup struct {
	master, replica *redisServer
	sentinels       []*redisServer
}

const masterName = "replay"

// startSentinel returns a group that ends with the test. The replica is in sync, and every Sentinel knows it and the other
// Sentinels. They take a server for lost when it has not answered for a second.
func startSentinel(t *testing.T) *sentinelGroup {
	t.Helper()
	g := &sentinelGroup{master: startRedis(t), replica: startRedis(t, "--repl-timeout", "3600")}
	g.replica.follow(t, g.master.addr)
	host, port, err := net.SplitHostPort(g.master.addr)
	require.NoError(t, err)
	for range 3 {
		s := newServer(t, redis7)
		_, own, err := net.SplitHostPort(s.addr)
		require.NoError(t, err)
		file := filepath.Join(s.dir, "sentinel.conf") // which it rewrites
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `port %s
bind 127.0.0.1
dir %s
sentinel monitor %s %s %s 2
sentinel down-after-milliseconds %[3]s 1000
sentinel failover-timeout %[3]s %[6]s
`, own, s.dir, masterName, host, port, failoverTimeout), 0o600))
		s.args = []string{file, "--sentinel"}
		s.restart(t)
		g.sentinels = append(g.sentinels, s)
	}
	require.Eventually(t, func() bool {
		return !slices.ContainsFunc(g.sentinels, func(s *redisServer) bool {
			others, _ := s.try("SENTINEL", "SENTINELS", masterName)
			replicas, _ := s.try("SENTINEL", "REPLICAS", masterName)
			return strings.Count(others, "runid\n") != 2 || !strings.Contains(replicas, "master-link-status\nok")
		})
	}, patience, tick, "the Sentinels do not come to know each other and the replica")
	return g
}

const failoverTimeout = "5000" // ms: when Sentinels try once more after they could not agree on who acts

func (g *sentinelGroup) addrs() []string {
	var addrs []string
	for _, s := range g.sentinels {
		addrs = append(addrs, s.addr)
	}
	return addrs
}

// cutReplica lets nothing through to the replica any more. It does not notice, as in a network that loses everything, so
// the Sentinels go on to believe that it could take over.
func (g *sentinelGroup) cutReplica(t *testing.T) {
	t.Helper()
	// Sentinels that see a replica follow another address than the master's put it right after that time.
	g.setFailoverTimeout(t, "3600000")
	link := startProxy(t, g.master.addr)
	g.replica.follow(t, link.addr)
	require.Eventually(t, func() bool {
		return g.replica.info("replication", "master_repl_offset") == g.master.info("replication", "master_repl_offset")
	}, patience, tick, "the replica does not come in sync through a proxy")
	link.blackhole(true)
}

// killMaster kills the master, and returns the address of the replica when it has taken over and every Sentinel says so.
func (g *sentinelGroup) killMaster(t *testing.T) string {
	t.Helper()
	g.master.kill()
	g.setFailoverTimeout(t, failoverTimeout)
	want := strings.ReplaceAll(g.replica.addr, ":", "\n")
	require.Eventually(t, func() bool {
		return g.replica.info("replication", "role") == "master" && !slices.ContainsFunc(g.sentinels, func(s *redisServer) bool {
			addr, _ := s.try("SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName)
			return addr != want
		})
	}, time.Minute, tick, "the replica does not take over")
	return g.replica.addr
}

func (g *sentinelGroup) setFailoverTimeout(t *testing.T, ms string) {
	t.Helper()
	for _, s := range g.sentinels {
		require.Equal(t, "OK", s.cli(t, "SENTINEL", "SET", masterName, "failover-timeout", ms))
	}
}
