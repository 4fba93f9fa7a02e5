//go:build integration

package integration

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/redisstore"
	"github.com/senderbound/senderbound/replay/tieredstore"
)

// C02: of two processes that get a proof at the same moment, exactly one accepts it.
func TestOneProofAtTwoProcessesAtOnce(t *testing.T) {
	redis := startRedis(t)
	age(t, redisstore.Config{Addresses: []string{redis.addr}})
	const proofs = 10_000
	got := sendToTwo(t, "tiered+redis://"+redis.addr, proofs)
	if got[[2]int{200, 401}] != proofs {
		t.Errorf("C02: %d proofs, each sent to two processes at once, are answered %v; want one 200 and one 401 each", proofs, got)
	}
	if control := sendToTwo(t, "memory", proofs/50); control[[2]int{200, 200}] == 0 {
		t.Errorf("control: two processes that share nothing let no proof pass twice, so this test shows nothing: %v", control)
	}
}

// sendToTwo starts two APIs of one origin and sends each proof to both at once. It returns how many proofs got which two
// statuses, the lower one first.
func sendToTwo(t *testing.T, replay string, proofs int) map[[2]int]int {
	t.Helper()
	const host, workers = "api.example.com", 8
	const origin = "https://" + host
	issuer := dpoptest.NewIssuer()
	defer issuer.Close()
	var urls []string
	for range 2 {
		a, err := runAPI(fmt.Sprintf("pod-%d", serverCount.Add(1)),
			"-issuer", issuer.URL, "-audience", audience, "-origin", origin, "-replay", replay)
		require.NoError(t, err)
		a.endWith(t)
		urls = append(urls, a.url)
	}
	key := dpoptest.NewKey()
	token := issuer.Token(audience, key.JKT(), nil)
	kept := &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	defer kept.CloseIdleConnections()
	send := func(url, proof string) (int, error) {
		req, err := http.NewRequest("GET", url+"/orders", nil)
		if err != nil {
			return 0, err
		}
		req.Host = host
		req.Header.Set("Authorization", "DPoP "+token)
		req.Header.Set("DPoP", proof)
		resp, err := kept.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body) // or the connection cannot be used again
		return resp.StatusCode, err
	}
	counts := map[[2]int]int{}
	var mu sync.Mutex
	each(make([]struct{}, proofs), workers, func(struct{}) {
		proof := dpoptest.Proof(key, dpopclient.Claims{Method: "GET", URI: origin + "/orders", AccessToken: token})
		var statuses [2]int
		var both sync.WaitGroup
		for i, url := range urls {
			both.Go(func() {
				var err error
				if statuses[i], err = send(url, proof); err != nil {
					t.Errorf("a request fails: %v", err)
				}
			})
		}
		both.Wait()
		slices.Sort(statuses[:])
		mu.Lock()
		defer mu.Unlock()
		counts[statuses]++
	})
	return counts
}

// C15: a reply that is lost costs no client its proof, and lets no proof pass twice.
func TestLostReplies(t *testing.T) {
	const proofs, every, goroutines = 4000, 20, 8
	redis := startRedis(t)
	link := startProxy(t, redis.addr)
	cfg := redisstore.Config{Addresses: []string{link.addr}, Timeout: ample}
	age(t, cfg)
	pods := []*pod{newPod(t, cfg, nil), newPod(t, cfg, nil)}
	link.lose(every, "SET")
	var fresh, again history
	each(make([]struct{}, proofs), goroutines, func(struct{}) {
		p, i := newProof(time.Now(), dpop.DefaultClockSkew), rand.IntN(2)
		fresh.use(pods[i].tiered, p)
		again.use(pods[i].shared, p)
		again.use(pods[1-i].tiered, p)
	})
	if got := count(fresh.attempts); !got.only("") {
		t.Errorf("C15: with every %dth reply lost, %d new proofs are answered %s; want all accepted", every, proofs, got)
	}
	if got := count(again.attempts); !got.only(dpop.ErrProofReplayed) {
		t.Errorf("C15: with every %dth reply lost, used proofs are answered %s; want all refused as replays", every, got)
	}
	retries := pods[0].tiered.Stats().OwnRetries + pods[1].tiered.Stats().OwnRetries
	if retries == 0 || link.lost() < proofs/every {
		t.Errorf("control: %d replies were lost and %d first uses recognised as own, so this test shows little", link.lost(), retries)
	}
	t.Logf("%d replies lost, %d first uses recognised as own", link.lost(), retries)

	var control history
	each(make([]struct{}, proofs/10), goroutines, func(struct{}) {
		control.use(plainSetNX(link.addr), newProof(time.Now(), dpop.DefaultClockSkew))
	})
	if got := count(control.attempts); got.counts[dpop.ErrProofReplayed] == 0 {
		t.Errorf("control: SET NX that is repeated refuses no new proof, so this test shows nothing: %s", got)
	}
}

// plainSetNX returns a store as one is quickly written. It repeats a command whose reply did not come, and waits for
// replies longer than any request should.
func plainSetNX(addr string) replay.SetNXFunc {
	return func(_ context.Context, key string, ttl time.Duration) (first bool, err error) {
		for range 3 {
			var answer string
			answer, err = ask(addr, "", "", "SET", key, "used", "NX", "PX", strconv.FormatInt(ttl.Milliseconds(), 10))
			if err == nil {
				return answer == "OK", nil
			}
		}
		return false, err
	}
}

// C15: while Redis does not answer, nothing is accepted, and nobody waits for long, most not at all.
func TestHaltedRedis(t *testing.T) {
	const deadline, interval = 750 * time.Millisecond, time.Second
	redis := startRedis(t)
	cfg := redisstore.Config{Addresses: []string{redis.addr}, Timeout: deadline}
	age(t, cfg)
	strict := newPod(t, cfg, func(c *tieredstore.Config) { c.ProbeInterval = interval })
	lax := newPod(t, cfg, func(c *tieredstore.Config) { c.OnSharedFailure = tieredstore.LocalOnly })
	bare := newPod(t, cfg, nil)
	late := lateness(t)
	// When Redis answers again, a probe is still to come after the one, and under way after the other.
	for _, pause := range []time.Duration{1500 * time.Millisecond, 2200 * time.Millisecond} {
		tiers, localOnly := &stream{store: strict.tiered}, &stream{store: lax.tiered}
		noTiers, setNX := &stream{store: bare.shared}, &stream{store: plainSetNX(redis.addr)}
		stops := []func(){
			tiers.start(t, time.Millisecond), noTiers.start(t, 10*time.Millisecond),
			localOnly.start(t, 10*time.Millisecond), setNX.start(t, 50*time.Millisecond),
		}
		time.Sleep(2 * deadline) // until nothing is left of how the connections were made
		redis.halt(t)
		time.Sleep(tick) // for the signal to arrive, on a machine that has much else to do
		halted := time.Now()
		time.Sleep(pause)
		resumed := time.Now()
		redis.resume(t)
		back := tiers.acceptsAgain(t, resumed)
		for _, stop := range stops {
			stop()
		}

		meanwhile := func(a attempt) bool { return a.began.After(halted) && a.ended.Before(resumed) }
		for name, s := range map[string]*stream{"tiers": tiers, "no tiers": noTiers} {
			if got := count(s.that(meanwhile)); !got.only(dpop.ErrReplayUnavailable) {
				t.Errorf("C15: %s: while Redis is halted, proofs are answered %s; want none accepted, and no verdict", name, got)
			}
		}
		if got := count(localOnly.that(meanwhile)); got.counts[""] == 0 {
			t.Errorf("control: with LocalOnly, too, nothing is accepted while Redis is halted, so this test shows nothing: %s", got)
		}

		allowed := deadline*12/10 + late()
		waited := func(a attempt) bool { return a.ended.After(halted) }
		for name, s := range map[string]*stream{"tiers": tiers, "no tiers": noTiers, "LocalOnly": localOnly} {
			if longest := slices.Max(s.took(t, waited)); longest > allowed {
				t.Errorf("C15: %s: with a deadline of %v, an answer takes %v; want at most %v", name, deadline, longest, allowed)
			}
		}
		if longest := slices.Max(setNX.took(t, waited)); longest <= allowed {
			t.Errorf("control: a client without a deadline answers within %v, so this test shows nothing", longest)
		}

		// The breaker has opened by then.
		open := func(a attempt) bool { return a.began.After(halted.Add(allowed)) && a.began.Before(resumed) }
		if typical := median(tiers.took(t, open)); typical > deadline/100 {
			t.Errorf("C15: with the breaker open, the median answer takes %v; want at most %v", typical, deadline/100)
		}
		if typical := median(noTiers.took(t, open)); typical <= deadline/100 {
			t.Errorf("control: without a breaker, too, the median answer takes %v, so this test shows nothing", typical)
		}
		if outage := back.Sub(resumed); outage > interval+late() {
			t.Errorf("C15: Redis answers again, and proofs are refused for another %v; want at most ProbeInterval, here %v", outage,
				interval+late())
		}
		t.Logf("halted for %v: the longest answer took %v, the median one with the breaker open %v; back after %v; "+
			"the machine was late by %v", pause, slices.Max(tiers.took(t, waited)), median(tiers.took(t, open)), back.Sub(resumed), late())
	}
}

// A stream is what clients send to one store.
type stream struct {
	store replay.Store
	history
}

// start sends new proofs until stop is called. It returns when some were accepted.
func (s *stream) start(t *testing.T, every time.Duration) (stop func()) {
	t.Helper()
	stop = load(t, every, func() { s.use(s.store, newProof(time.Now(), dpop.DefaultClockSkew)) })
	require.Eventually(t, func() bool { return len(s.accepted()) >= 10 }, patience, tick, "nothing is accepted at first")
	return stop
}

// acceptsAgain returns when the first proof was accepted after a time.
func (s *stream) acceptsAgain(t *testing.T, since time.Time) (back time.Time) {
	t.Helper()
	require.Eventually(t, func() bool {
		accepted := s.that(func(a attempt) bool { return a.reason == "" && a.ended.After(since) })
		if len(accepted) > 0 {
			back = accepted[0].ended
		}
		return len(accepted) > 0
	}, patience, tick, "C15: nothing is accepted any more")
	return back
}

// took returns how long attempts took. It fails the test if there were none.
func (s *stream) took(t *testing.T, is func(attempt) bool) (all []time.Duration) {
	t.Helper()
	for _, a := range s.that(is) {
		all = append(all, a.ended.Sub(a.began))
	}
	require.NotEmpty(t, all, "the machine is too slow for this test")
	return all
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// lateness returns a function that says by how much a goroutine has woken up too late at worst: what no store can do
// anything about.
func lateness(t *testing.T) func() time.Duration {
	const nap = 5 * time.Millisecond
	var worst atomic.Int64
	var ended sync.WaitGroup
	ended.Go(func() {
		for t.Context().Err() == nil {
			before := time.Now()
			time.Sleep(nap)
			worst.Store(max(worst.Load(), int64(time.Since(before)-nap)))
		}
	})
	t.Cleanup(ended.Wait)
	return func() time.Duration { return time.Duration(worst.Load()) }
}

// What the tests of a loss set. The service is back after leeway + 2·clockSkew and a second for whole seconds.
const (
	leeway    = time.Second
	clockSkew = 500 * time.Millisecond
	probing   = 100 * time.Millisecond
	ample     = patience / 2 // for an answer, where it does not matter how long it takes
)

// A disaster takes their memory from servers.
type disaster struct {
	cfg redisstore.Config
	// skewed says that the clock of one pod is as far ahead, and of the other as far behind, as they may be.
	skewed bool
	// strike takes the memory while requests come in, and returns when the servers answer again.
	strike func()
	// unnoticed is for how long used proofs may be accepted again, because no connection ends.
	unnoticed time.Duration
}

// C15: a proof that was accepted before a Redis was killed is not accepted after it came back with nothing in its memory.
func TestKilledRedis(t *testing.T) {
	redis := startRedis(t)
	d := disaster{cfg: redisstore.Config{Addresses: []string{redis.addr}}}
	d.strike = func() {
		redis.kill()
		redis.restart(t)
	}
	age(t, d.cfg)
	d.run(t)
}

// C15: the same when the pod that accepted it has a clock that is ahead, and the one that dates the loss a clock that is
// behind: what was made before the loss then lies as far after it as can be.
func TestKilledRedisAndClocksThatDiffer(t *testing.T) {
	redis := startRedis(t)
	link := startProxy(t, redis.addr)
	d := disaster{cfg: redisstore.Config{Addresses: []string{link.addr}}, skewed: true}
	d.strike = func() {
		redis.kill()
		link.refuse(true)
		redis.restart(t)
		cfg := d.cfg
		cfg.Addresses = []string{redis.addr}
		cfg.Now = func() time.Time { return time.Now().Add(-clockSkew) }
		newPod(t, cfg, nil)
		link.refuse(false)
	}
	age(t, d.cfg)
	d.run(t)
}

// C15: the same after a failover to a replica that had not heard of it.
func TestFailoverToAReplicaThatWasCutOff(t *testing.T) {
	group := startSentinel(t)
	d := disaster{cfg: redisstore.Config{Addresses: group.addrs(), SentinelMaster: masterName}}
	d.strike = func() { group.killMaster(t) }
	age(t, d.cfg)
	group.cutReplica(t)
	d.run(t)
}

// C15: the same after one master of a Cluster was killed and came back with nothing.
func TestKilledMasterOfACluster(t *testing.T) {
	cluster := startCluster(t, false)
	d := disaster{cfg: redisstore.Config{Addresses: cluster.addrs(), Cluster: true}}
	d.strike = func() {
		cluster.masters[1].kill()
		cluster.masters[1].restart(t)
		cluster.await(t)
	}
	age(t, d.cfg)
	d.run(t)
}

// When a pod is ready for a Cluster that is new, it is for all of its masters, also for those that it was not told of.
func TestReadyForACluster(t *testing.T) {
	cluster := startCluster(t, false)
	p := newPod(t, redisstore.Config{
		Addresses: cluster.addrs()[:1], Cluster: true, Leeway: time.Millisecond, ClockSkew: time.Millisecond, Timeout: ample,
	}, nil)
	require.False(t, p.shared.Ready().IsZero(), "control: the Cluster is not new")
	time.Sleep(time.Until(p.shared.Ready()))
	var h history
	masters := map[int]bool{}
	for range 100 {
		a := h.use(p.tiered, newProof(time.Now(), time.Millisecond))
		masters[cluster.masterOf(t, "dpop:jti:"+a.key)] = true
	}
	if got := count(h.attempts); !got.only("") {
		t.Errorf("C15: after Ready, new proofs are answered %s; want all accepted", got)
	}
	if len(masters) != len(cluster.masters) {
		t.Errorf("control: the proofs belong to masters %v, so this test shows nothing of the others", masters)
	}
}

// C15: the same once it was noticed that someone has emptied Redis, which takes CheckInterval at most.
func TestFLUSHALL(t *testing.T) {
	redis := startRedis(t)
	d := disaster{cfg: redisstore.Config{Addresses: []string{redis.addr}}, unnoticed: time.Second}
	d.strike = func() { require.Equal(t, "OK", redis.cli(t, "FLUSHALL")) }
	age(t, d.cfg)
	d.run(t)
}

// run lets a disaster strike two fleets, of which one looks at its servers and the other, the control, does not.
func (d disaster) run(t *testing.T) {
	t.Helper()
	late := lateness(t)
	d.cfg.Leeway, d.cfg.ClockSkew, d.cfg.Timeout = leeway, clockSkew, ample
	blind := d
	blind.cfg.InsecureSkipChecks, blind.cfg.Prefix = true, "control:"
	f, control := d.newFleet(t), blind.newFleet(t)
	sites := f.sites(t)
	var old []string
	for range 300 {
		proof := prove()
		require.Equal(t, heard{200, -1}, sites[0].send(t, proof), "before the loss")
		old = append(old, proof)
	}
	stop, stopControl := load(t, time.Millisecond, f.request), load(t, time.Millisecond, control.request)
	require.Eventually(t, func() bool { return len(f.accepted()) > 1000 && len(control.accepted()) > 1000 }, patience, tick,
		"nothing is accepted before the loss")

	struck := time.Now()
	d.strike()
	up := time.Now()
	early := d.newPod(t, f.pods[0].now)
	require.Eventually(t, func() bool { return f.waits(0) && f.waits(1) }, patience, time.Millisecond,
		"C15: the loss is not noticed")
	noticed := time.Now()
	back := f.hear(t, sites, old)
	stop()
	stopControl()
	require.Eventually(t, func() bool { return !f.waits(0) && !f.waits(1) }, patience, tick)

	limit := leeway + 2*clockSkew + time.Second + probing + d.unnoticed
	if outage := back.Sub(up); outage > limit+late() {
		t.Errorf("C15: the service is back %v after its servers; want at most Leeway + 2·ClockSkew + 1 s, here %v", outage,
			limit+late())
	}
	var since time.Time
	if d.unnoticed > 0 {
		since = noticed // what passes before that is known to pass
		if took := noticed.Sub(struck); took > d.unnoticed+late() {
			t.Errorf("C15: the loss is noticed after %v; want at most CheckInterval, %v", took, d.unnoticed+late())
		}
	}

	used := f.accepted()
	for name, store := range map[string]replay.Store{
		"one pod": f.pods[0].tiered, "one pod without its own memory": f.pods[0].shared,
		"the other pod": f.pods[1].tiered, "the other pod without its own memory": f.pods[1].shared,
		"a pod that was started in the outage": early.tiered, "a pod that was started after it": d.newPod(t, f.pods[1].now).tiered,
	} {
		var again history
		each(used, 16, func(a attempt) { again.use(store, a.proof) })
		got := count(again.attempts)
		if got.counts[dpop.ErrProofReplayed]+got.counts[dpop.ErrProofStale] != len(used) {
			t.Errorf("C15: after a loss, %d used proofs are answered %s by %s; want all refused, as used or stale", len(used), got, name)
		}
	}
	if n := f.repeated(since); n > 0 {
		t.Errorf("C15: while the memory was lost, %d proofs are accepted again; want none", n)
	}
	each(control.accepted(), 16, func(a attempt) { control.use(control.pods[1].shared, a.proof) })
	if control.repeated(since) == 0 {
		t.Error("control: servers that are not looked at accept nothing again, so this test shows nothing")
	}
	t.Logf("noticed %v and back %v after the servers were; the control accepted %d again; the machine was late by %v", noticed.Sub(up),
		back.Sub(up), control.repeated(since), late())
}

// newPod returns a pod that remembers nothing yet, with a clock.
func (d disaster) newPod(t *testing.T, now func() time.Time) *pod {
	t.Helper()
	d.cfg.Now = now
	return newPod(t, d.cfg, func(c *tieredstore.Config) { c.ProbeInterval = probing })
}

// A fleet is two pods and what was sent to them.
type fleet struct {
	history
	pods   []*pod
	skewed bool

	lootMu sync.Mutex
	loot   []stolen
}

// A stolen proof is one that a pod has accepted. It is for another.
type stolen struct {
	proof
	other *pod
}

func (d disaster) newFleet(t *testing.T) *fleet {
	t.Helper()
	f := fleet{skewed: d.skewed}
	for _, off := range []time.Duration{clockSkew, -clockSkew} {
		if !d.skewed {
			off = 0
		}
		f.pods = append(f.pods, d.newPod(t, func() time.Time { return time.Now().Add(off) }))
	}
	return &f
}

// waits reports whether a pod accepts nothing because of a loss.
func (f *fleet) waits(i int) bool { return f.pods[i].shared.Ready().After(f.pods[i].now()) }

// sites returns an API for each pod.
func (f *fleet) sites(t *testing.T) (sites []site) {
	t.Helper()
	for _, p := range f.pods {
		sites = append(sites, newSite(t, dpop.Config{Replay: p.tiered, Leeway: leeway, ClockSkew: clockSkew, Now: p.now}))
	}
	return sites
}

// hear sends new proofs to both sites until both accept them, and old ones to the second. It returns when that was, and
// fails the test if clients are not told what they must know.
func (f *fleet) hear(t *testing.T, sites []site, old []string) (back time.Time) {
	t.Helper()
	answers := map[string][]int{} // statuses, without repetitions
	send := func(name string, i int, prove func() string) int {
		before := time.Now()
		h := sites[i].send(t, prove())
		if h.status == 503 && (h.retryAfter < 1 || h.retryAfter > 3) { // Leeway + 2·ClockSkew + 1 s
			t.Errorf("C15: after a loss was noticed, a client is told 503 and Retry-After %d; want 1 to 3", h.retryAfter)
		}
		if name != "old" && h.status == 401 && before.Before(f.pods[i].shared.Ready()) {
			return h.status // it was made a moment too early, and judged a moment later
		}
		if list := answers[name]; len(list) == 0 || list[len(list)-1] != h.status {
			answers[name] = append(list, h.status)
		}
		return h.status
	}
	next := func() (proof string) {
		proof, old = old[0], old[1:]
		return proof
	}
	require.Eventually(t, func() bool {
		if len(old) > 20 { // which are for later
			send("old", 1, next)
		}
		one, two := send("new", 0, prove), send("new, other", 1, prove)
		back = time.Now()
		return one == 200 && two == 200
	}, patience, 20*time.Millisecond, "C15: after a loss, nothing is accepted any more")
	for len(old) > 0 {
		send("old", 1, next)
	}
	for name, want := range map[string][]int{"old": {503, 401}, "new": {503, 200}, "new, other": {503, 200}} {
		// A clock that is ahead takes proofs for old that others call new, and one that is behind waits for longer.
		if !f.skewed && !slices.Equal(answers[name], want) {
			t.Errorf("C15: after a loss, proofs (%s) are answered %v in this order; want %v", name, answers[name], want)
		}
	}
	return back
}

// request is one by a client, with a new proof and a clock that is right or just not too far ahead; and one by a thief, with
// a proof that was accepted, to the memory that the pods share.
func (f *fleet) request() {
	i := rand.IntN(len(f.pods))
	made := f.pods[i].now()
	if rand.IntN(2) == 0 {
		made = made.Add(leeway)
	}
	p := newProof(made, clockSkew)
	accepted := f.use(f.pods[i].tiered, p).reason == ""
	if s, ok := f.steal(stolen{p, f.pods[1-i]}, accepted); ok {
		f.use(s.other.shared, s.proof)
	}
}

// steal adds a proof to the loot, if it was accepted, and returns one of it.
func (f *fleet) steal(s stolen, accepted bool) (stolen, bool) {
	f.lootMu.Lock()
	defer f.lootMu.Unlock()
	if accepted {
		f.loot = append(f.loot, s)
	}
	if len(f.loot) == 0 {
		return stolen{}, false
	}
	return f.loot[rand.IntN(len(f.loot))], true
}
