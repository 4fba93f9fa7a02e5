//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The caches of testdata/infinispan, each of which is served as RESP at a port of its own.
const (
	replayCache   = "replay"   // unbounded; each half of a cluster that splits goes on
	denyingCache  = "denying"  // the same, but a node that may not know all denies everything
	evictingCache = "evicting" // 100 keys; makes room by forgetting
	boundedCache  = "bounded"  // 100 keys; an error when it is full
)

var caches = []string{replayCache, denyingCache, evictingCache, boundedCache}

// The only user of testdata/infinispan, who may read and write.
const (
	infinispanUser     = "api"
	infinispanPassword = "api-password"
)

// An infinispanNode is an Infinispan server, by itself or of a cluster. It keeps nothing on disk that a test could miss.
type infinispanNode struct {
	*process
	ports   map[string]int // of the caches; "default" is that of the REST API
	args    []string       // of the JVM
	cluster []*infinispanNode
}

// startInfinispan returns a cluster of n nodes that ends with the test. Two clusters of one node each know nothing of each
// other, as the halves of a cluster that is split.
func startInfinispan(t *testing.T, n int) []*infinispanNode {
	t.Helper()
	nodes, err := newInfinispan(n)
	for _, node := range nodes {
		node.endWith(t)
	}
	require.NoError(t, err)
	return nodes
}

// infinispan returns a node by itself, which all tests share that do not end it.
func infinispan(t *testing.T) *infinispanNode {
	t.Helper()
	nodes, err := theInfinispan()
	require.NoError(t, err)
	return nodes[0]
}

var theInfinispan = sync.OnceValues(func() ([]*infinispanNode, error) { return newInfinispan(1) })

// newInfinispan starts n nodes one after another, so that each finds those before it. Where there is an error, too, it
// returns the nodes that it made.
func newInfinispan(n int) ([]*infinispanNode, error) {
	var nodes []*infinispanNode
	var hosts []string
	for range n {
		node, err := newInfinispanNode()
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, node)
		hosts = append(hosts, fmt.Sprintf("127.0.0.1[%d]", node.ports["cluster"]))
	}
	for i, node := range nodes {
		node.args = append([]string{"-Dtests.hosts=" + strings.Join(hosts, ",")}, node.args...)
		node.cluster = nodes
		if err := node.run(); err != nil {
			return nodes[:i+1], err
		}
	}
	return nodes, nil
}

func newInfinispanNode() (*infinispanNode, error) {
	libraries, err := need("INFINISPAN_LIB")
	if err != nil {
		return nil, err
	}
	p, err := newProcess(fmt.Sprintf("infinispan-%d", serverCount.Add(1)))
	if err != nil {
		return nil, err
	}
	node := &infinispanNode{process: p, ports: map[string]int{}}
	for _, name := range append([]string{"cluster", "default"}, caches...) {
		if node.ports[name], err = serverPort(); err != nil {
			return nil, err
		}
		node.args = append(node.args, fmt.Sprintf("-Dtests.port.%s=%d", name, node.ports[name]))
	}
	if err := os.CopyFS(filepath.Join(p.dir, "conf"), os.DirFS("testdata/infinispan")); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(p.dir, "lib"), 0o700); err != nil { // without which it does not start
		return nil, err
	}
	node.args = append(node.args,
		"-Djgroups.bind.address=127.0.0.1", "-Djgroups.bind.port="+strconv.Itoa(node.ports["cluster"]),
		"-Djgroups.fd.port-offset="+strconv.Itoa(busOffset),
		"-Dinfinispan.server.home.path="+p.dir,
		"-Djava.util.logging.manager=org.apache.logging.log4j.jul.LogManager",
		"--add-opens=java.base/java.util=ALL-UNNAMED", "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
		// Quick to start rather than quick to serve.
		"-Xms64m", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
		"-cp", filepath.Join(libraries, "*"), "org.infinispan.server.Bootstrap",
		"--server-root="+p.dir, "--server-config=infinispan.xml", "--logging-config="+filepath.Join(p.dir, "conf", "log4j2.xml"),
		"--bind-address=127.0.0.1", "--node-name="+p.name)
	return node, nil
}

// restart starts a node that is no one's neighbour once more after kill, at the same addresses and with nothing in its
// memory. A cluster of which a node was killed does not take it back: the cache that denies goes on to do so.
func (n *infinispanNode) restart(t *testing.T) {
	t.Helper()
	require.NoError(t, n.run())
}

// run starts the node. It returns when all nodes of its cluster that run are one cluster in good health.
func (n *infinispanNode) run() error {
	java := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		java = filepath.Join(home, "bin", "java")
	}
	if err := os.RemoveAll(filepath.Join(n.dir, "data")); err != nil {
		return err
	}
	// How long it looks for others, after which it would be a cluster by itself.
	look := "-Djgroups.join_timeout=30s"
	if len(n.members()) == 0 {
		look = "-Djgroups.join_timeout=100ms"
	}
	if err := n.start(exec.Command(java, append([]string{look}, n.args...)...)); err != nil {
		return err
	}
	return n.await(func() bool {
		members := n.members()
		return !slices.ContainsFunc(members, func(m *infinispanNode) bool { return !m.healthy(len(members)) })
	}, 2*time.Minute)
}

// members returns the nodes of the cluster that run.
func (n *infinispanNode) members() []*infinispanNode {
	return slices.DeleteFunc(slices.Clone(n.cluster), func(m *infinispanNode) bool { return !m.runs() })
}

// healthy reports whether the node is one of so many, no cache is being moved between them, and every cache answers.
func (n *infinispanNode) healthy(members int) bool {
	req, err := http.NewRequest("GET", "http://"+loopback(n.ports["default"])+"/rest/v2/container/health", nil)
	if err != nil {
		return false
	}
	req.SetBasicAuth(infinispanUser, infinispanPassword)
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var health struct {
		Cluster struct {
			Status string `json:"health_status"`
			Nodes  int    `json:"number_of_nodes"`
		} `json:"cluster_health"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&health); err != nil {
		return false
	}
	return health.Cluster.Status == "HEALTHY" && health.Cluster.Nodes == members &&
		!slices.ContainsFunc(caches, func(cache string) bool {
			pong, err := n.try(cache, "PING")
			return err != nil || pong != "PONG"
		})
}

// respAddr returns the address at which a cache is served as RESP.
func (n *infinispanNode) respAddr(cache string) string { return loopback(n.ports[cache]) }

// cli sends one command to a cache. It answers as redisServer.cli does.
func (n *infinispanNode) cli(t *testing.T, cache string, args ...string) string {
	t.Helper()
	answer, err := n.try(cache, args...)
	require.NoError(t, err, "%s to %s of %s", args[0], cache, n.name)
	return answer
}

// try does the same for a node that may be unable to answer, and may be called by any number of goroutines.
func (n *infinispanNode) try(cache string, args ...string) (string, error) {
	return ask(n.respAddr(cache), infinispanUser, infinispanPassword, args...)
}
