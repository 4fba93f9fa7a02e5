//go:build integration

package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/replay/redisstore"
)

// gridAt returns how to reach a cache at nodes of an Infinispan that has to have so many.
func gridAt(cache string, minNodes int, nodes ...*infinispanNode) redisstore.Config {
	cfg := redisstore.Config{
		Infinispan: true, MinNodes: minNodes, Username: infinispanUser, Password: infinispanPassword,
		Leeway: time.Second, ClockSkew: 500 * time.Millisecond, Timeout: 2 * time.Second,
	}
	for _, node := range nodes {
		cfg.Addresses = append(cfg.Addresses, node.respAddr(cache))
	}
	return cfg
}

// startDocumented starts a node by itself whose configuration is that of docs/replay.md.
func startDocumented(t *testing.T) *infinispanNode {
	t.Helper()
	page, err := os.ReadFile("../docs/replay.md")
	require.NoError(t, err)
	match := regexp.MustCompile("(?s)```xml\n(.*?)```").FindSubmatch(page)
	require.NotNil(t, match, "docs/replay.md has no configuration of Infinispan")
	node, err := newInfinispanNode()
	require.NoError(t, err)
	node.endWith(t)
	for name := range node.ports {
		if name != "cluster" {
			node.ports[name] = node.ports["default"]
		}
	}
	node.args = append([]string{fmt.Sprintf("-Dtests.hosts=127.0.0.1[%d]", node.ports["cluster"])}, node.args...)
	file := filepath.Join(node.dir, "conf", "infinispan.xml")
	xml, err := os.ReadFile(file)
	require.NoError(t, err)
	documented, ours := string(match[1]), string(xml)
	cache := regexp.MustCompile(`(?s)<distributed-cache name="replay".*?</distributed-cache>`)
	squeeze := func(xml string) string { return strings.Join(strings.Fields(cache.FindString(xml)), " ") }
	require.NotEmpty(t, squeeze(ours))
	require.Equal(t, squeeze(ours), squeeze(documented), "the cache of the tests is not that of docs/replay.md")
	stack := regexp.MustCompile(`(?s)<jgroups>.*</jgroups>`).FindString(ours) // by which it finds nobody
	require.NoError(t, os.WriteFile(file, []byte(strings.NewReplacer(
		`port="11222"`, fmt.Sprintf(`port="%d"`, node.ports["default"]),
		`stack="${infinispan.cluster.stack:tcp}"`, `stack="loopback"`,
		`<cache-container`, stack+`<cache-container`,
	).Replace(documented)), 0o600))
	restartDocumented(t, node)
	return node
}

// restartDocumented starts it, or starts it once more after kill. It has no web endpoint that the tests could ask.
func restartDocumented(t *testing.T, node *infinispanNode) {
	t.Helper()
	offset := 0
	if text, err := node.log(0); err == nil {
		offset = len(text)
	}
	node.restart(t) // and waits for the nodes of its cluster, of which none is told
	require.NoError(t, node.await(func() bool {
		text, err := node.log(offset)
		return err == nil && strings.Contains(string(text), "ISPN080001") // it has started
	}, time.Minute))
}

// lasting returns a proof that does not expire before a test is over, however long that takes.
func lasting(cfg redisstore.Config) proof {
	p := newProof(time.Now(), cfg.ClockSkew)
	p.expires = p.expires.Add(time.Hour)
	return p
}

// A node by itself keeps the law, says when it is full, and must not be told to evict.
func TestReplayInOneInfinispan(t *testing.T) {
	const proofs = 400
	node := infinispan(t)
	cfg, full := gridAt(replayCache, 1, node), gridAt(boundedCache, 1, node)
	t.Cleanup(func() { node.cli(t, boundedCache, "FLUSHALL") }) // others use it, too
	age(t, full)
	keepsTheLaw(t, []redisstore.Config{cfg, cfg}, false, func(*testing.T) []redisstore.Config {
		return []redisstore.Config{full, full}
	})

	// The law has filled it.
	s := newSite(t, dpop.Config{Replay: newPod(t, full, nil).tiered, Leeway: cfg.Leeway, ClockSkew: cfg.ClockSkew})
	if h := s.send(t, prove()); h != (heard{503, -1}) {
		t.Errorf("C07: a new proof, and the cache is full, is answered %v, want 503", h)
	}

	careless := gridAt(evictingCache, 1, node)
	careless.InsecureSkipChecks = true // or the mark would tell, which is forgotten, too
	p := newPod(t, careless, nil)
	var first, again history
	for range proofs {
		first.use(p.shared, lasting(careless))
	}
	for _, a := range first.attempts {
		again.use(p.shared, a.proof)
	}
	if got := count(first.attempts); !got.only("") {
		t.Errorf("a cache that evicts answers %s, and docs/replay.md says that it tells nobody", got)
	}
	if len(again.accepted()) == 0 {
		t.Errorf("control: a cache that evicts lets none of %d used proofs pass again, and docs/replay.md says that it does", proofs)
	}
}

// C15: a node by itself that is killed and comes back has lost its memory, and what was used before is not accepted again.
// Two such nodes are two memories, as the halves of a cluster that is split.
func TestReplayInALostInfinispan(t *testing.T) {
	const proofs = 200
	node := startDocumented(t)
	cfg := gridAt(replayCache, 1, node)
	age(t, cfg)
	unguarded := cfg
	unguarded.InsecureSkipChecks, unguarded.Prefix = true, "control:"
	pods := []*pod{newPod(t, cfg, nil), newPod(t, cfg, nil)}
	careless := newPod(t, unguarded, nil)
	otherHalf := gridAt(replayCache, 1, infinispan(t))
	age(t, otherHalf)
	elsewhere := newPod(t, otherHalf, nil)
	var first, split, control, again, old, fresh history
	for i := range proofs {
		p := lasting(cfg)
		first.use(pods[i%2].shared, p)
		split.use(elsewhere.shared, p)
		control.use(careless.shared, p)
	}
	require.Len(t, first.accepted(), proofs)
	require.Len(t, control.accepted(), proofs)
	if n := len(split.accepted()); n != proofs {
		t.Errorf("control: two nodes that have lost each other both accept %d of %d proofs, so MinNodes has no use", n, proofs)
	}
	for _, half := range []redisstore.Config{cfg, otherHalf} {
		half.MinNodes = 2
		mistake{half, words{half.Addresses[0], "1 nodes", "Config.MinNodes, 2"}}.check(t)
	}
	node.kill()
	restartDocumented(t, node)

	pods = append(pods, newPod(t, cfg, nil))
	noticed := time.Now()
	for _, a := range first.attempts {
		for _, p := range pods {
			again.use(p.shared, a.proof)
		}
		control.use(careless.shared, a.proof)
	}
	if n, got := len(again.accepted()), count(again.attempts); n > 0 || got.counts[dpop.ErrReplayUnavailable] == 0 {
		t.Errorf("C15: right after an Infinispan lost its memory, used proofs are answered %s; want nearly all unavailable", got)
	}
	if n := control.repeated(noticed); n == 0 {
		t.Error("control: one who does not look at the mark accepts nothing again, so this test shows nothing")
	}
	for _, p := range pods {
		if wait, most := p.shared.Ready().Sub(noticed), cfg.Leeway+2*cfg.ClockSkew+time.Second; wait > most {
			t.Errorf("C15: new proofs are to be accepted %v after the loss was noticed, want at most %v", wait, most)
		}
		time.Sleep(time.Until(p.shared.Ready()))
		if a := fresh.use(p.shared, lasting(cfg)); a.reason != "" {
			t.Errorf("C15: a new proof is answered %q when the store says that it is ready", a.reason)
		}
	}
	for _, a := range first.attempts {
		for _, p := range pods {
			old.use(p.shared, a.proof)
		}
	}
	if got := count(old.attempts); !got.only(dpop.ErrProofStale) {
		t.Errorf("C15: after an Infinispan lost its memory, used proofs are answered %s; want all stale", got)
	}
}

// Two nodes are one memory, and when one is killed the other has it all.
func TestReplayInTwoInfinispans(t *testing.T) {
	nodes := startInfinispan(t, 2)
	at := func(cache string) (cfgs []redisstore.Config) {
		for _, node := range nodes {
			cfgs = append(cfgs, gridAt(cache, 2, node))
		}
		return cfgs
	}
	keepsTheLaw(t, at(replayCache), false, func(*testing.T) []redisstore.Config { return at(boundedCache) })

	t.Run("resource server", func(t *testing.T) {
		both := gridAt(replayCache, 2, nodes...)
		age(t, both)
		t.Setenv("REPLAY_USER", infinispanUser)
		t.Setenv("REPLAY_PASSWORD", infinispanPassword)
		url := "tiered+infinispan://" + strings.Join(both.Addresses, ",") + "?min-nodes=2"
		startTwins(t, "-replay", url, "-leeway", "1s", "-clock-skew", "500ms").shareAMemory(t)
	})
	t.Run("one is killed", func(t *testing.T) {
		age(t, gridAt(replayCache, 2, nodes[0]))
		strictly := gridAt(replayCache, 2, nodes[1])
		strictly.CheckInterval, strictly.Timeout = 200*time.Millisecond, 500*time.Millisecond
		doomed, survivor := newPod(t, gridAt(replayCache, 1, nodes[0]), nil), newPod(t, gridAt(replayCache, 1, nodes[1]), nil)
		moving, strict := newPod(t, gridAt(replayCache, 1, nodes...), nil), newPod(t, strictly, nil)
		pods := []*pod{doomed, survivor, moving, strict}
		var all history
		stop := load(t, time.Millisecond, func() { all.use(pods[rand.IntN(len(pods))].shared, lasting(strictly)) })
		require.Eventually(t, func() bool { return len(all.accepted()) > 1000 }, patience, tick)

		nodes[0].kill()
		killed := time.Now()
		var since history
		require.Eventually(t, func() bool {
			new := func(p *pod) dpop.Reason { return since.use(p.shared, lasting(strictly)).reason }
			return new(survivor) == "" && new(moving) == "" && new(strict) == dpop.ErrReplayUnavailable
		}, patience, tick, "one of two nodes was killed, and the other does not serve those that allow it")
		t.Logf("served again after %v", time.Since(killed))
		stop()
		if got := count([]attempt{all.use(doomed.shared, lasting(strictly))}); !got.only(dpop.ErrReplayUnavailable) {
			t.Errorf("a pod that knows only the node that was killed is answered %s, want unavailable", got)
		}
		used := all.accepted()
		for name, test := range map[string]struct {
			pod  *pod
			used []attempt
			want dpop.Reason
		}{
			"the other node":                {survivor, used, dpop.ErrProofReplayed},
			"a pod that has moved there":    {moving, used, dpop.ErrProofReplayed},
			"a pod that wants both of them": {strict, used[:64], dpop.ErrReplayUnavailable}, // each takes the whole Timeout
		} {
			var again history
			each(test.used, 8, func(a attempt) { again.use(test.pod.shared, a.proof) })
			if got := count(again.attempts); !got.only(test.want) {
				t.Errorf("C15: one of two nodes was killed, and used proofs are answered %s by %s; want all %s", got, name, test.want)
			}
		}
		t.Logf("%d proofs, of which %s", len(all.attempts), count(all.attempts))
	})
}
