//go:build integration

package integration

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/memstore"
	"github.com/senderbound/senderbound/replay/redisstore"
	"github.com/senderbound/senderbound/replay/storetest"
	"github.com/senderbound/senderbound/replay/tieredstore"
)

// These tests are about servers that do what they should, servers that should not be used, and those that have no room or
// are slow. Those that fail are in faults_test.go.

// What changes nothing of a Cluster or of Sentinels shares one of each.
func TestStoresOnEveryServer(t *testing.T) {
	cluster, group := startCluster(t, false), startSentinel(t)
	t.Run("wrong", func(t *testing.T) { testWrongServers(t, cluster, group) })
	t.Run("resource server", func(t *testing.T) { testResourceServer(t, cluster, group) })
	t.Run("Close", func(t *testing.T) { testCloseUnderLoad(t, cluster, group) })
	t.Run("law", func(t *testing.T) { testLaw(t, cluster, group) })

	// Nothing is left of a store that could not be made or was closed, but that the library lets go of some connections of a
	// Cluster after a few seconds only.
	require.Eventually(t, func() bool { return belongings() == 0 }, patience, tick, "goroutines of stores go on after Close")
}

// The law of stores holds over every kind of server, with no more permissions than docs/replay.md asks for.
func testLaw(t *testing.T, cluster *redisCluster, group *sentinelGroup) {
	single := func(variable string, settings ...string) func(*testing.T) (redisstore.Config, []*redisServer) {
		return func(t *testing.T) (redisstore.Config, []*redisServer) {
			s := startServer(t, variable, settings...)
			return redisstore.Config{Addresses: []string{s.addr}, Password: s.password}, []*redisServer{s}
		}
	}
	for name, start := range map[string]func(*testing.T) (cfg redisstore.Config, holders []*redisServer){
		"Redis 6 with a password": single(redis6, "--requirepass", "the-password"),
		"Valkey":                  single(valkey),
		"tiers over Redis with TLS": func(t *testing.T) (redisstore.Config, []*redisServer) {
			s, cfg := startTLS(t)
			return documentedUser(t, cfg, s), []*redisServer{s}
		},
		"Cluster": func(t *testing.T) (redisstore.Config, []*redisServer) {
			cfg := redisstore.Config{Addresses: cluster.addrs(), Cluster: true}
			return documentedUser(t, cfg, cluster.masters...), cluster.masters
		},
		"Sentinel": func(t *testing.T) (redisstore.Config, []*redisServer) {
			cfg := redisstore.Config{Addresses: group.addrs(), SentinelMaster: masterName}
			return documentedUser(t, cfg, group.master, group.replica), []*redisServer{group.master}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, holders := start(t)
			cfgs := []redisstore.Config{cfg, cfg}
			keepsTheLaw(t, cfgs, strings.HasPrefix(name, "tiers"), func(t *testing.T) []redisstore.Config {
				for _, s := range holders {
					used, err := strconv.Atoi(s.info("memory", "used_memory"))
					require.NoError(t, err)
					require.Equal(t, "OK", s.cli(t, "CONFIG", "SET", "maxmemory", strconv.Itoa(used+1<<20)))
				}
				return cfgs
			})
			for _, s := range holders {
				if denied := s.cli(t, "ACL", "LOG"); denied != "" && cfg.Username != "" {
					t.Errorf("the user of docs/replay.md was denied something:\n%s", denied)
				}
			}
		})
	}
}

// keepsTheLaw runs storetest over pods, behind tiers or not. small returns where there is room for a few thousand keys.
func keepsTheLaw(t *testing.T, cfgs []redisstore.Config, tiers bool, small func(*testing.T) []redisstore.Config) {
	t.Helper()
	open := func(t *testing.T, cfgs []redisstore.Config) (pods []replay.Store) {
		for _, cfg := range cfgs {
			cfg.Timeout = 5 * time.Second // what the law says of time is not about how busy the machine is
			p := newPod(t, cfg, nil)
			if tiers {
				pods = append(pods, p.tiered)
			} else {
				pods = append(pods, p.shared)
			}
		}
		return pods
	}
	storetest.Run(t, storetest.Config{
		Open:      func(t *testing.T) []replay.Store { return open(t, cfgs) },
		OpenSmall: func(t *testing.T) []replay.Store { return open(t, small(t)) },
		Made:      func() time.Time { return time.Now().Add(time.Minute) }, // the servers have just begun to remember
	})
}

// unhurried returns how to reach a Redis where time is not what a test is about: within a deadline that no busy machine misses.
func unhurried(addr string) redisstore.Config {
	return redisstore.Config{Addresses: []string{addr}, Timeout: 5 * time.Second}
}

// documentedUser makes the user of docs/replay.md at servers, and returns cfg for that user.
func documentedUser(t *testing.T, cfg redisstore.Config, servers ...*redisServer) redisstore.Config {
	t.Helper()
	page, err := os.ReadFile("../docs/replay.md")
	require.NoError(t, err)
	match := regexp.MustCompile("`(ACL SETUSER [^`]*)`").FindSubmatch(page)
	require.NotNil(t, match, "docs/replay.md makes no user")
	cfg.Username, cfg.Password = "dpop", "the-password"
	line := strings.NewReplacer(`\|`, "|", ">…", ">"+cfg.Password).Replace(string(match[1]))
	for _, s := range servers {
		require.Equal(t, "OK", s.cli(t, strings.Fields(line)...))
	}
	return cfg
}

// startTLS returns a Redis 7 that speaks TLS at another port than that of its addr, and how to reach it there.
func startTLS(t *testing.T) (*redisServer, redisstore.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	require.NoError(t, os.WriteFile(certFile, cert, 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(cert))
	port, err := serverPort()
	require.NoError(t, err)
	s := startRedis(t, "--tls-port", strconv.Itoa(port), "--tls-cert-file", certFile, "--tls-key-file", keyFile,
		"--tls-ca-cert-file", certFile, "--tls-auth-clients", "no")
	return s, redisstore.Config{Addresses: []string{loopback(port)}, TLS: &tls.Config{RootCAs: roots}}
}

// C01: a pod that was started anew has no memory of its own, and still accepts nothing again.
func TestRestartedPod(t *testing.T) {
	const proofs = 1000
	cfg := unhurried(startRedis(t).addr)
	age(t, cfg)
	before := newPod(t, cfg, nil)
	alone := newMemory(t, memstore.Config{})
	var first, again, control history
	for range proofs {
		p := newProof(time.Now(), dpop.DefaultClockSkew)
		first.use(before.tiered, p)
		control.use(alone, p)
	}
	require.Len(t, first.accepted(), proofs)
	require.Len(t, control.accepted(), proofs)

	require.NoError(t, before.shared.Close())
	after, aloneAfter := newPod(t, cfg, nil), newMemory(t, memstore.Config{})
	for _, a := range first.attempts {
		again.use(after.tiered, a.proof)
		control.use(aloneAfter, a.proof)
	}
	if got := count(again.attempts); !got.only(dpop.ErrProofReplayed) {
		t.Errorf("C01: used proofs at a pod that was started anew are answered %s; want all refused as replays", got)
	}
	if stats := after.tiered.Stats(); stats.SharedReplays != proofs {
		t.Errorf("control: the new pod itself knew %d of %d proofs, so this test shows little", stats.LocalReplays, proofs)
	}
	if n := control.repeated(time.Time{}); n != proofs {
		t.Errorf("control: a pod that shares nothing and was started anew accepts %d of %d proofs again, so this test shows nothing",
			n, proofs)
	}
}

func newMemory(t *testing.T, cfg memstore.Config) *memstore.Store {
	t.Helper()
	m, err := memstore.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

// C14: of two processes whose clocks are four seconds apart, the first to see a proof is the only one to accept it, at
// whatever moment of the time in which either would.
func TestClocksThatDiffer(t *testing.T) {
	const maxAge, leeway, clockSkew = 3 * time.Second, time.Second, 2 * time.Second
	const step = 100 * time.Millisecond
	redis := startRedis(t)
	cfg := unhurried(redis.addr)
	cfg.Leeway, cfg.ClockSkew = leeway, clockSkew
	age(t, cfg)
	var sites, controls []site
	for _, off := range []time.Duration{-clockSkew, clockSkew} {
		clock := func() time.Time { return time.Now().Add(off) }
		cfg.Now = clock
		verify := dpop.Config{MaxAge: maxAge, Leeway: leeway, ClockSkew: clockSkew, Now: clock, Replay: newPod(t, cfg, nil).shared}
		sites = append(sites, newSite(t, verify))
		verify.Replay = untilTooOld{redis, clock, 2 * clockSkew}
		controls = append(controls, newSite(t, verify))
	}

	// A proof is sent to both processes from a moment on that is its own, first to one or first to the other.
	type walk struct {
		proof    string
		from     time.Time
		order    [2]int
		accepted [2]int // by the sites, and by the control's
	}
	iat := time.Now().Add(leeway + clockSkew).Truncate(time.Second) // one process has begun to accept it
	end := iat.Add(maxAge + clockSkew)                              // when the other one ceases to
	var walks []*walk
	for from := time.Now(); from.Before(end); from = from.Add(step) {
		for _, order := range [][2]int{{0, 1}, {1, 0}} {
			proof := dpoptest.Forge(siteKey(), dpopclient.Claims{Method: "GET", URI: siteURL, AccessToken: "token"},
				func(_, claims map[string]any) { claims["iat"] = iat.Unix() })
			walks = append(walks, &walk{proof: proof, from: from, order: order})
		}
	}
	for now := time.Now(); now.Before(end.Add(step)); now = time.Now() {
		each(walks, 4, func(w *walk) {
			if now.Before(w.from) {
				return
			}
			for _, i := range w.order {
				for kind, all := range [][]site{sites, controls} {
					switch h := all[i].send(t, w.proof); h.status {
					case http.StatusOK:
						w.accepted[kind]++
					case http.StatusUnauthorized:
					default:
						t.Errorf("C14: a proof is answered %v; want 200 or 401", h)
					}
				}
			}
		})
		time.Sleep(time.Until(now.Add(step)))
	}
	var accepted, twice, control int
	for _, w := range walks {
		accepted += min(w.accepted[0], 1)
		twice += max(w.accepted[0]-1, 0)
		control += max(w.accepted[1]-1, 0)
	}
	if twice > 0 {
		t.Errorf("C14: with clocks %v apart, %d of %d proofs are accepted again; want none", 2*clockSkew, twice, len(walks))
	}
	if accepted < len(walks)/2 {
		t.Errorf("of %d proofs, only %d are accepted at all, so this test shows little", len(walks), accepted)
	}
	if control == 0 {
		t.Error("control: where a proof is remembered until it is too old by one clock, none passes twice, so this test shows nothing")
	}
	t.Logf("%d of %d proofs were accepted, and %d again by the control", accepted, len(walks), control)
}

// untilTooOld remembers a proof until it is too old, by its own clock and no longer: for iat + MaxAge - now.
type untilTooOld struct {
	redis  *redisServer
	now    func() time.Time
	spared time.Duration
}

func (s untilTooOld) FirstUse(_ context.Context, key string, _, expires time.Time) (bool, error) {
	ttl := expires.Add(-s.spared).Sub(s.now()).Milliseconds()
	if ttl <= 0 {
		return false, nil // it is too old in a moment
	}
	answer, err := s.redis.try("SET", "control:"+key, "used", "NX", "PX", strconv.FormatInt(ttl, 10))
	return answer == "OK", err
}

// C07: a store without room refuses, be it Redis, a process or a client's share of it, and forgets nothing. The client is
// told 503, and so is a replay where the store cannot even read.
func TestFullStores(t *testing.T) {
	const few = 200 // proofs that were accepted before
	cfg := unhurried(startRedis(t).addr)
	age(t, cfg)
	verifier := func(store replay.Store) site { return newSite(t, dpop.Config{Replay: store}) }
	use := func(s site) (used []string) {
		for range few {
			used = append(used, prove())
			require.Equal(t, heard{200, -1}, s.send(t, used[len(used)-1]))
		}
		return used
	}
	expect := func(t *testing.T, s site, proofs []string, want heard, rule string) {
		t.Helper()
		for _, proof := range proofs {
			if got := s.send(t, proof); got != want {
				t.Errorf("C07: %s: the answer is %v, want %v", rule, got, want)
				return
			}
		}
	}
	fresh := func() []string { return []string{prove(), prove(), prove()} }
	full, replayed := heard{503, -1}, heard{401, -1}

	t.Run("Redis", func(t *testing.T) {
		redis := startRedis(t, "--maxmemory", "3mb")
		cfg := unhurried(redis.addr)
		age(t, cfg)
		here, there := newPod(t, cfg, nil), newPod(t, cfg, nil)
		used := use(verifier(here.tiered))
		n := fillUp(t, there.shared)
		require.Equal(t, "OK", redis.cli(t, "CONFIG", "SET", "maxmemory", "1mb")) // what connections need of it comes and goes
		expect(t, verifier(here.tiered), fresh(), full, "a new proof, and Redis is full")
		expect(t, verifier(here.tiered), used, replayed, "a used proof, and Redis is full, and the pod knows it")
		expect(t, verifier(there.tiered), used, full, "a used proof, and Redis is full, and another pod had it")
		if evicted := redis.info("stats", "evicted_keys"); evicted != "0" {
			t.Errorf("C07: a full Redis has evicted %s keys, want 0", evicted)
		}
		require.Equal(t, "OK", redis.cli(t, "CONFIG", "SET", "maxmemory", "0"))
		later := newPod(t, cfg, nil)
		expect(t, verifier(later.tiered), used, replayed, "a used proof, and Redis was full")
		expect(t, verifier(later.tiered), fresh(), heard{200, -1}, "a new proof, and Redis was full")
		t.Logf("Redis was full of %d proofs", n)
	})

	t.Run("Redis that evicts", func(t *testing.T) {
		redis := startRedis(t, "--maxmemory", "3mb", "--maxmemory-policy", "volatile-ttl")
		cfg := unhurried(redis.addr)
		cfg.InsecureSkipChecks = true
		careless := newPod(t, cfg, nil)
		used := use(verifier(careless.shared))
		var filler history
		each(make([]struct{}, 30_000), 16, func(struct{}) {
			filler.use(careless.shared, newProof(time.Now(), dpop.DefaultClockSkew))
		})
		require.Len(t, filler.accepted(), len(filler.attempts), "a Redis that evicts is never full")
		passed := 0
		for _, proof := range used {
			if verifier(careless.shared).send(t, proof).status == 200 {
				passed++
			}
		}
		if passed < few/2 {
			t.Errorf("control: a Redis that evicts lets %d of %d used proofs pass again, so this test shows nothing", passed, few)
		}
	})

	t.Run("process", func(t *testing.T) {
		s := verifier(newTiers(t, newMemory(t, memstore.Config{MaxEntries: few, MaxPerClient: few}), newPod(t, cfg, nil).shared))
		used := use(s)
		expect(t, s, fresh(), full, "a new proof, and the process is full")
		expect(t, s, used, replayed, "a used proof, and the process is full")
	})

	t.Run("client", func(t *testing.T) {
		tiers := newTiers(t, newMemory(t, memstore.Config{MaxPerClient: few}), newPod(t, cfg, nil).shared)
		s := verifier(tiers)
		used := use(s)
		expect(t, s, fresh(), full, "a new proof of a client that is over its quota")
		expect(t, s, used, replayed, "a used proof of a client that is over its quota")
		var others history
		for range 2 * few {
			others.use(tiers, newProof(time.Now(), dpop.DefaultClockSkew))
		}
		if got := count(others.attempts); !got.only("") {
			t.Errorf("C07: one client is over its quota, and the others are answered %s; want all accepted", got)
		}
	})
}

// newTiers returns a tieredstore of these two.
func newTiers(t *testing.T, local *memstore.Store, shared replay.Store) *tieredstore.Store {
	t.Helper()
	s, err := tieredstore.New(tieredstore.Config{Local: local, Shared: shared})
	require.NoError(t, err)
	return s
}

// fillUp uses new proofs until there is no room for a while. It returns how many there was room for.
func fillUp(t *testing.T, store replay.Store) int {
	t.Helper()
	var h history
	for refused := 0; refused < 100; {
		switch a := h.use(store, newProof(time.Now(), dpop.DefaultClockSkew)); a.reason {
		case dpop.ErrReplayFull:
			refused++
		case "":
			require.Less(t, len(h.attempts), 100_000, "there is no end of the room")
		default:
			t.Fatalf("a store that fills up says %v", a.err)
		}
	}
	return len(h.accepted())
}

// C15: a Redis that is too slow, or a network that cuts connections, makes no store accept anything twice, and not for long
// refuse what is new.
func TestSlowRedis(t *testing.T) {
	const deadline, interval = 50 * time.Millisecond, 200 * time.Millisecond
	redis := startRedis(t)
	link := startProxy(t, redis.addr)
	cfg := redisstore.Config{Addresses: []string{link.addr}, Timeout: deadline}
	age(t, cfg)
	strict := newPod(t, cfg, func(c *tieredstore.Config) { c.ProbeInterval = interval })
	lax := newPod(t, cfg, func(c *tieredstore.Config) { c.ProbeInterval, c.OnSharedFailure = interval, tieredstore.LocalOnly })
	other := newPod(t, unhurried(redis.addr), nil)
	use := func(store replay.Store, n int) *history {
		var h history
		each(make([]struct{}, n), 4, func(struct{}) { h.use(store, newProof(time.Now(), dpop.DefaultClockSkew)) })
		return &h
	}
	var all history // what was accepted, used again elsewhere
	again := func(h *history) {
		for _, a := range h.accepted() {
			all.use(other.shared, a.proof)
		}
	}

	link.delay(5 * time.Millisecond)
	var slow *tally
	for range 5 { // on a machine that has much else to do, a deadline of 50 ms may pass without any fault
		h := use(strict.tiered, 200)
		again(h)
		if slow = count(h.attempts); slow.only("") {
			break
		}
		time.Sleep(interval)
	}
	if !slow.only("") {
		t.Errorf("C15: Redis answers 5 ms later, the deadline is %v, and new proofs are answered %s; want all accepted", deadline, slow)
	}

	const late = 60 * time.Millisecond
	link.delay(late)
	tooSlow := use(strict.tiered, 2000)
	if got := count(tooSlow.attempts); !got.only(dpop.ErrReplayUnavailable) {
		t.Errorf("C15: Redis answers %v later, the deadline is %v, and new proofs are answered %s; want all unavailable", late, deadline, got)
	}
	took := func(a attempt) time.Duration { return a.ended.Sub(a.began) }
	slices.SortFunc(tooSlow.attempts, func(a, b attempt) int { return int(took(a) - took(b)) })
	if median := took(tooSlow.attempts[len(tooSlow.attempts)/2]); median > deadline/10 {
		t.Errorf("C15: Redis is too slow, and the median answer takes %v; want at most a tenth of the deadline, %v", median, deadline)
	}
	if control := count(use(lax.tiered, 50).attempts); !control.only("") {
		t.Errorf("control: with LocalOnly and a Redis that is too slow, proofs are answered %s, so this test shows nothing", control)
	}
	if control := use(plainSetNX(link.addr), 1).attempts[0]; control.reason != "" || took(control) < late {
		t.Errorf("control: a client without a deadline is answered %q after %v, so this test shows nothing", control.reason, took(control))
	}

	link.delay(0)
	recovers := func(after string) {
		t.Helper()
		require.Eventually(t, func() bool { return len(use(strict.tiered, 1).accepted()) == 1 }, patience, tick/10,
			"C15: nothing is accepted after %s", after)
	}
	recovers("Redis was slow")

	// Connections are cut again and again while requests come in, and each proof is sent to a second pod as well.
	cutting := redisstore.Config{Addresses: []string{link.addr}}
	pods := []*pod{newPod(t, cutting, nil), newPod(t, cutting, nil)}
	var both history
	connections := link.passed("HELLO")
	stop := load(t, 5*time.Millisecond, link.cut)
	each(make([]struct{}, 2000), 8, func(struct{}) {
		p := newProof(time.Now(), dpop.DefaultClockSkew)
		both.use(pods[0].tiered, p)
		both.use(pods[1].tiered, p)
	})
	stop()
	if n := both.repeated(time.Time{}); n > 0 {
		t.Errorf("C15: connections are cut, and %d proofs are accepted by two pods; want none", n)
	}
	if n := link.passed("HELLO") - connections; n < 20 {
		t.Errorf("control: connections were made anew %d times, so this test shows nothing", n)
	}
	if got := count(both.attempts); got.counts[""]+got.counts[dpop.ErrReplayUnavailable] < 2000 {
		t.Errorf("C15: connections are cut, and of 2000 proofs that are sent to two pods some are accepted by none: %s", got)
	}
	t.Logf("while connections were cut, each of 2000 proofs was sent to two pods: %s", count(both.attempts))
	again(&both)

	link.refuse(true)
	link.cut()
	began := time.Now()
	refused := use(strict.tiered, 200)
	if got := count(refused.attempts); !got.only(dpop.ErrReplayUnavailable) {
		t.Errorf("C15: Redis refuses connections, and new proofs are answered %s; want all unavailable", got)
	}
	if took := time.Since(began); took > patience/10 {
		t.Errorf("C15: Redis refuses connections, and %d answers take %v", len(refused.attempts), took)
	}
	link.refuse(false)
	recovers("Redis refused connections")

	if got := count(all.attempts); !got.only(dpop.ErrProofReplayed) {
		t.Errorf("C15: what was accepted through a bad network is answered %s elsewhere; want all refused as replays", got)
	}
}

// C16: whatever a jti holds, keys on the server have one form, and no proof meets a mark.
func TestOddJTIsInRedis(t *testing.T) {
	redis := startRedis(t)
	cfg := unhurried(redis.addr)
	age(t, cfg)
	mark := redis.cli(t, "GET", "dpop:epoch")
	p := newPod(t, cfg, nil)
	s := newSite(t, dpop.Config{Replay: p.shared})
	const injected = "SET dpop:epoch injected"
	odd := []string{
		"epoch", "jti:", "dpop:epoch", "*", "dpop:*", "[a-z]?\\", "a\nb", "a\r\n" + injected + "\r\n", "\u00e9\u4e16\U0001f511", "{0}",
		"%s%d", "$3\r\nGET\r\n$10\r\ndpop:epoch\r\n", strings.Repeat("x", 200),
	}
	keys := 1 // the mark
	for _, jti := range odd {
		proof := dpoptest.Forge(siteKey(), dpopclient.Claims{Method: "GET", URI: siteURL, AccessToken: "token"},
			func(_, claims map[string]any) { claims["jti"] = jti })
		for _, want := range []int{200, 401} {
			if h := s.send(t, proof); h.status != want {
				t.Errorf("C16: a proof with the jti %q is answered %d, want %d", jti, h.status, want)
			}
		}
		keys++
	}
	// A Verifier takes none of these.
	var h history
	long := strings.Repeat("x", 1<<20)
	for _, jti := range []string{"", " ", "a\x00b", long, long[1:] + "y", strings.Repeat("\r\n"+injected, 1<<10)} {
		proof := newProof(time.Now(), dpop.DefaultClockSkew)
		proof.key = replay.Key("client", jti)
		h.use(p.shared, proof)
		keys++
	}
	if got := count(h.attempts); !got.only("") {
		t.Errorf("C16: jtis of no length, of a megabyte and with a NUL are answered %s, want all accepted", got)
	}
	form := regexp.MustCompile(`^dpop:(epoch|jti:[A-Za-z0-9_-]{48})$`)
	names := strings.Split(redis.cli(t, "KEYS", "*"), "\n")
	for _, name := range names {
		if !form.MatchString(name) {
			t.Errorf("C16: a key on the server is called %.100q", name)
		}
	}
	if len(names) != keys {
		t.Errorf("C16: there are %d keys on the server, want %d", len(names), keys)
	}
	if now := redis.cli(t, "GET", "dpop:epoch"); now != mark {
		t.Errorf("C16: the mark is %q, and was %q", now, mark)
	}

	// The control writes commands as text, as RESP lets it.
	conn := dial(t, redis.addr)
	_, err := fmt.Fprintf(conn, "SET dpop:%s used NX\r\n", "a b\r\n"+injected+"\r\n")
	require.NoError(t, err)
	receive(t, conn)
	receive(t, conn)
	if now := redis.cli(t, "GET", "dpop:epoch"); now != "injected" {
		t.Errorf("control: a jti that is written as it is changes nothing, so this test shows nothing: %q", now)
	}
}

// Close may come at any time and more than once. It ends all that belongs to the store.
func testCloseUnderLoad(t *testing.T, cluster *redisCluster, group *sentinelGroup) {
	for name, cfg := range map[string]redisstore.Config{
		"single":   {Addresses: []string{startRedis(t).addr}},
		"Cluster":  {Addresses: cluster.addrs(), Cluster: true},
		"Sentinel": {Addresses: group.addrs(), SentinelMaster: masterName},
	} {
		t.Run(name, func(t *testing.T) {
			age(t, cfg)
			for range 3 {
				s, err := redisstore.New(t.Context(), cfg)
				require.NoError(t, err)
				var h history
				var users, closers sync.WaitGroup
				ended := make(chan struct{})
				for range 32 {
					users.Go(func() {
						for closed := false; ; {
							a := h.use(s, newProof(time.Now(), dpop.DefaultClockSkew))
							if closed {
								if a.err == nil {
									t.Error("a store that is closed accepts a proof")
								}
								return
							}
							select {
							case <-ended:
								closed = true
							default:
							}
						}
					})
				}
				require.Eventually(t, func() bool { return len(h.accepted()) > 500 }, patience, time.Millisecond)
				if belongings() == 0 {
					t.Error("control: a store that is used has no goroutine, so this test shows nothing")
				}
				began := time.Now()
				for range 2 {
					closers.Go(func() {
						if err := s.Close(); err != nil {
							t.Errorf("Close: %v", err)
						}
					})
				}
				closers.Wait()
				close(ended)
				users.Wait()
				if took := time.Since(began); took > patience/4 {
					t.Errorf("Close and what was under way took %v", took)
				}
				require.NoError(t, s.Close())
				for _, a := range h.that(func(a attempt) bool { return a.reason != "" }) {
					if a.err == nil {
						t.Error("a new proof is refused as a replay")
					}
				}
			}
		})
	}
}

// belongings returns how many goroutines belong to redisstore or to the library that it uses.
func belongings() (n int) {
	stacks := make([]byte, 8<<20)
	for stack := range bytes.SplitSeq(stacks[:runtime.Stack(stacks, true)], []byte("\n\n")) {
		if bytes.Contains(stack, []byte("redis/rueidis.")) || bytes.Contains(stack, []byte("replay/redisstore.")) {
			n++
		}
	}
	return n
}

// A mistake is a way to connect that New refuses, with a sentence in which these words are.
type mistake struct {
	cfg   redisstore.Config
	words words
}

type words []string

// Whoever names a wrong server, or a right one wrongly, is told what to change.
func testWrongServers(t *testing.T, cluster *redisCluster, group *sentinelGroup) {
	plain, locked := startRedis(t), startRedis(t, "--requirepass", "the-password")
	encrypted, tlsConfig := startTLS(t)
	require.Equal(t, "OK", locked.cli(t, "ACL", "SETUSER", "noinfo", "on", ">the-password", "~dpop:*", "+@all", "-info"))
	require.Equal(t, "OK", locked.cli(t, "ACL", "SETUSER", "elsewhere", "on", ">the-password", "~other:*", "+@all"))
	hole, err := net.Listen("tcp", "127.0.0.1:0") // which takes connections, and says nothing
	require.NoError(t, err)
	t.Cleanup(func() { hole.Close() })
	port, err := serverPort()
	require.NoError(t, err)
	nobody, silent := loopback(port), hole.Addr().String()
	node, master, sentinel := infinispan(t), cluster.masters[0].addr, group.sentinels[0].addr
	replayAddr, web := node.respAddr(replayCache), loopback(node.ports["default"])

	asRedis := func(addrs ...string) redisstore.Config { return redisstore.Config{Addresses: addrs} }
	asCluster := func(addrs ...string) redisstore.Config { return redisstore.Config{Addresses: addrs, Cluster: true} }
	asSentinels := func(addrs ...string) redisstore.Config {
		return redisstore.Config{Addresses: addrs, SentinelMaster: masterName}
	}
	asGrid := func(minNodes int, addrs ...string) redisstore.Config {
		return redisstore.Config{Addresses: addrs, Infinispan: true, MinNodes: minNodes}
	}
	with := func(name, password string, cfg redisstore.Config) redisstore.Config {
		cfg.Username, cfg.Password = name, password
		return cfg
	}
	api := func(cfg redisstore.Config) redisstore.Config { return with(infinispanUser, infinispanPassword, cfg) }
	withTLS := func(cfg redisstore.Config) redisstore.Config {
		cfg.TLS = tlsConfig.TLS
		return cfg
	}
	sentinelUser, otherName, otherRoots := asSentinels(replayAddr), asSentinels(group.addrs()...), tlsConfig
	sentinelUser.SentinelUsername, sentinelUser.SentinelPassword = infinispanUser, infinispanPassword
	otherName.SentinelMaster = "other"
	otherRoots.TLS = &tls.Config{}

	for name, test := range map[string]mistake{
		"nobody there":              {asRedis(nobody), words{nobody, "connection refused"}},
		"nobody there, Cluster":     {asCluster(nobody, nobody), words{nobody, "connection refused"}},
		"nobody there, Sentinels":   {asSentinels(nobody, nobody), words{nobody, "connection refused"}},
		"nobody there, Infinispan":  {asGrid(0, nobody, nobody), words{nobody, "connection refused"}},
		"black hole":                {asRedis(silent), words{silent, "no answer", "Config.Timeout"}},
		"black hole, Cluster":       {asCluster(silent), words{silent, "no answer", "Config.Timeout"}},
		"black hole, Sentinel":      {asSentinels(silent), words{silent, "no answer", "Config.Timeout"}},
		"black hole, Infinispan":    {asGrid(0, silent), words{silent, "no answer", "Config.Timeout"}},
		"black hole, TLS":           {withTLS(asRedis(silent)), words{silent, "no answer", "Config.Timeout"}},
		"no password":               {asRedis(locked.addr), words{locked.addr, "asks for a password", "Config.Password"}},
		"wrong password":            {with("", "wrong", asRedis(locked.addr)), words{locked.addr, "Config.Username and Config.Password"}},
		"unknown user":              {with("nobody", "the-password", asRedis(locked.addr)), words{"Config.Username and Config.Password"}},
		"user without INFO":         {with("noinfo", "the-password", asRedis(locked.addr)), words{"INFO", "ACL", "InsecureSkipChecks"}},
		"user of other keys":        {with("elsewhere", "the-password", asRedis(locked.addr)), words{locked.addr, "NOPERM"}},
		"Cluster as one server":     {asRedis(master), words{master, "node of a Redis Cluster", "Config.Cluster"}},
		"one server as Cluster":     {asCluster(plain.addr), words{"not a node of a Redis Cluster", "without Config.Cluster"}},
		"two servers as Cluster":    {asCluster(plain.addr, encrypted.addr), words{"not a node of a Redis Cluster"}},
		"two servers":               {asRedis(plain.addr, encrypted.addr), words{"names 2 servers", "Cluster or SentinelMaster"}},
		"replica":                   {asRedis(group.replica.addr), words{group.replica.addr, "replica", "name the primary"}},
		"Sentinel as Redis":         {asRedis(sentinel), words{sentinel, "this is a Sentinel", "Config.SentinelMaster"}},
		"Sentinel as Cluster":       {asCluster(sentinel), words{sentinel, "this is a Sentinel", "Config.SentinelMaster"}},
		"Sentinel as Infinispan":    {asGrid(0, sentinel), words{sentinel, "not Infinispan", "Config.Infinispan"}},
		"Redis as Sentinel":         {asSentinels(plain.addr), words{plain.addr, "not a Sentinel", "Config.SentinelMaster"}},
		"Infinispan as Sentinel":    {asSentinels(replayAddr), words{replayAddr, "Config.SentinelPassword"}},
		"its user, too":             {sentinelUser, words{replayAddr, "not a Sentinel", "Config.SentinelMaster"}},
		"unknown primary":           {otherName, words{sentinel, `no primary "other"`, "Config.SentinelMaster"}},
		"TLS to a plain server":     {withTLS(asRedis(plain.addr)), words{"no answer", "no TLS", "does the server expect it"}},
		"TLS to a plain Sentinel":   {withTLS(asSentinels(sentinel)), words{"no answer", "no TLS", "does the server expect it"}},
		"TLS to a plain Infinispan": {withTLS(asGrid(1, replayAddr)), words{"no TLS", "does the server expect it"}},
		"no TLS to one that has it": {asRedis(tlsConfig.Addresses[0]), words{tlsConfig.Addresses[0], "TLS", "rediss://"}},
		"another's certificate":     {otherRoots, words{tlsConfig.Addresses[0], "do the certificates fit"}},
		"Infinispan as Redis":       {api(asRedis(replayAddr)), words{"this is Infinispan", "Config.Infinispan", "docs/replay.md"}},
		"Infinispan as Cluster":     {api(asCluster(replayAddr)), words{"this is Infinispan", "Config.Infinispan", "docs/replay.md"}},
		"Redis as Infinispan":       {asGrid(0, plain.addr), words{"not Infinispan", `"redis"`, "Config.Infinispan"}},
		"Infinispan's web port":     {asGrid(0, web), words{web, "not RESP"}},
		"Infinispan, no password":   {asGrid(1, replayAddr), words{replayAddr, "asks for a password", "Config.Password"}},
		"Infinispan, wrong one":     {with(infinispanUser, "wrong", asGrid(1, replayAddr)), words{"Config.Username and Config.Password"}},
		"Infinispan, clustered":     {api(asGrid(0, replayAddr)), words{"is clustered", "Config.MinNodes", "more than half"}},
		"Infinispan, too few nodes": {api(asGrid(2, replayAddr)), words{"1 nodes", "Config.MinNodes, 2"}},
	} {
		t.Run(name, func(t *testing.T) { test.check(t) })
	}
	for _, policy := range []string{
		"allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl",
	} {
		t.Run(policy, func(t *testing.T) {
			require.Equal(t, "OK", plain.cli(t, "CONFIG", "SET", "maxmemory-policy", policy))
			mistake{asRedis(plain.addr), words{plain.addr, strconv.Quote(policy), "drop used proofs", "noeviction"}}.check(t)
		})
	}
	for url, words := range map[string]words{
		"redis:/host":                     {"of no kind that is known", "redis://"},
		"rediss//host":                    {"of no kind that is known", "redis://"},
		"redi://host":                     {"of no kind that is known", "redis://"},
		"memcached://host":                {"of no kind that is known", "redis://"},
		"redis://host:port":               {"host or host:port"},
		"redis://":                        {"host or host:port"},
		"redis://host/2":                  {"path", "database 0"},
		"redis://host?db=2":               {"parameters", "leave them out"},
		"redis+sentinel://host":           {"names no primary", "host/mymaster"},
		"redis://api:the-secret@host":     {"user name or a password", "Password"},
		"redi://:the-secret@host":         {"user name or a password", "Password"},
		"infinispan://api:the-secret@h,i": {"user name or a password", "Password"},
	} {
		t.Run(url, func(t *testing.T) {
			_, err := redisstore.ParseURL(url)
			isSentence(t, err, words)
			if strings.Contains(fmt.Sprint(err), "the-secret") {
				t.Errorf("the error has the secret in it: %v", err)
			}
		})
	}
}

// check checks that New says what to change, within the deadline for each address.
func (m mistake) check(t *testing.T) {
	t.Helper()
	m.cfg.Timeout = 5 * time.Second
	if slices.Contains(m.words, "no answer") {
		m.cfg.Timeout = 500 * time.Millisecond // for that is how long it takes
	}
	began := time.Now()
	s, err := redisstore.New(t.Context(), m.cfg)
	if err == nil {
		s.Close()
	}
	if took, most := time.Since(began), 2*m.cfg.Timeout*time.Duration(len(m.cfg.Addresses)); took > most {
		t.Errorf("New took %v, want at most %v", took, most)
	}
	isSentence(t, err, m.words)
}

func isSentence(t *testing.T, err error, words words) {
	t.Helper()
	if err == nil {
		t.Errorf("there is no error, want one with %q", words)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not have %q: %v", word, err)
		}
	}
	if strings.Contains(err.Error(), "the-password") || strings.Contains(err.Error(), infinispanPassword) {
		t.Errorf("the error has a password in it: %v", err)
	}
}

// twins are two processes of the resource server that answer for one origin.
type twins struct {
	apis  []*api
	key   *dpopclient.Key
	token string
}

const twinsURL = "https://api.example.com/orders"

// startTwins starts one after the other, with these flags.
func startTwins(t *testing.T, flags ...string) *twins {
	t.Helper()
	issuer := dpoptest.NewIssuer()
	t.Cleanup(issuer.Close)
	w := &twins{key: dpoptest.NewKey()}
	w.token = issuer.Token(audience, w.key.JKT(), nil)
	flags = append([]string{"-issuer", issuer.URL, "-audience", audience, "-origin", "https://api.example.com"}, flags...)
	for range 2 {
		a, err := runAPI(fmt.Sprintf("twin-%d", serverCount.Add(1)), flags...)
		if a != nil {
			a.endWith(t)
		}
		require.NoError(t, err)
		w.apis = append(w.apis, a)
	}
	return w
}

func (w *twins) prove() string {
	return dpoptest.Proof(w.key, dpopclient.Claims{Method: "GET", URI: twinsURL, AccessToken: w.token})
}

// send sends a request with a proof to one of them.
func (w *twins) send(t *testing.T, i int, proof string) verdict {
	t.Helper()
	req, err := http.NewRequest("GET", w.apis[i].url+"/orders", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "DPoP "+w.token)
	req.Header.Set("DPoP", proof)
	v, _, err := w.apis[i].send(req)
	require.NoError(t, err)
	return v
}

var refusedAsReplay = verdict{401, "invalid_dpop_proof", "proof_replayed"}

// shareAMemory checks that a proof which one process has accepted is refused by both.
func (w *twins) shareAMemory(t *testing.T) {
	t.Helper()
	for i := range w.apis {
		proof := w.prove()
		if v := w.send(t, i, proof); v != accepted {
			t.Errorf("C01: a new proof is answered %+v, want %+v", v, accepted)
		}
		for j := range w.apis {
			if v := w.send(t, j, proof); v != refusedAsReplay {
				t.Errorf("C01: a proof that process %d has accepted is answered %+v by process %d, want %+v", i, v, j, refusedAsReplay)
			}
		}
	}
}

// The resource server remembers proofs in whatever -replay says, and its processes have one memory.
func testResourceServer(t *testing.T, cluster *redisCluster, group *sentinelGroup) {
	redis := startRedis(t, "--requirepass", "the-password")
	t.Setenv("REPLAY_PASSWORD", "the-password") // which a server without passwords takes, too
	for name, test := range map[string]struct {
		cfg redisstore.Config
		url string
	}{
		"Redis":            {redisstore.Config{Addresses: []string{redis.addr}}, "redis://" + redis.addr},
		"tiers over Redis": {redisstore.Config{Addresses: []string{redis.addr}}, "tiered+redis://" + redis.addr},
		"Cluster": {redisstore.Config{Addresses: cluster.addrs(), Cluster: true},
			"redis://" + strings.Join(cluster.addrs(), ",")},
		"Sentinel": {redisstore.Config{Addresses: group.addrs(), SentinelMaster: masterName},
			"redis+sentinel://" + strings.Join(group.addrs(), ",") + "/" + masterName},
	} {
		t.Run(name, func(t *testing.T) {
			test.cfg.Password = "the-password"
			age(t, test.cfg)
			startTwins(t, "-replay", test.url).shareAMemory(t)
		})
	}
	w := startTwins(t, "-replay", "memory")
	proof := w.prove()
	if v := w.send(t, 0, proof); v != accepted {
		t.Errorf("a new proof is answered %+v, want %+v", v, accepted)
	}
	if v := w.send(t, 0, proof); v != refusedAsReplay {
		t.Errorf("C01: a used proof is answered %+v, want %+v", v, refusedAsReplay)
	}
	if v := w.send(t, 1, proof); v != accepted {
		t.Errorf("control: one that shares nothing answers %+v to a proof that another has accepted, so this test shows nothing", v)
	}
}

// With an empty Redis the resource server says that it waits, and listens when it can accept. The next one need not wait.
func TestResourceServerWaits(t *testing.T) {
	redis := startRedis(t)
	w := startTwins(t, "-replay", "redis://"+redis.addr, "-leeway", "1s", "-clock-skew", "500ms")
	if v := w.send(t, 0, w.prove()); v != accepted {
		t.Errorf("a resource server says that it listens, and its first answer is %+v, want %+v", v, accepted)
	}
	for i, waits := range []bool{true, false} {
		text, err := w.apis[i].log(0)
		require.NoError(t, err)
		listens := bytes.Index(text, []byte("listening on "))
		why := bytes.Index(text, []byte("begun to remember only now, and a proof could have been used before"))
		if (why >= 0 && why < listens) != waits {
			t.Errorf("server %d says before it listens why it waits: %t, want %t; it says\n%s", i, !waits, waits, text[:listens])
		}
	}

	store := newPod(t, redisstore.Config{Addresses: []string{startRedis(t).addr}}, nil).shared
	if h := newSite(t, dpop.Config{Replay: store}).send(t, prove()); h.status != 503 {
		t.Errorf("control: with an empty Redis, one that does not wait answers %v, so this test shows nothing", h)
	}
}

// The resource server ends with a sentence where its -replay cannot be used.
func TestResourceServerRefuses(t *testing.T) {
	locked, evicting := startRedis(t, "--requirepass", "the-password"), startRedis(t, "--maxmemory-policy", "allkeys-lru")
	port, err := serverPort()
	require.NoError(t, err)
	for name, test := range map[string]struct {
		replay, password string
		words            words
	}{
		"nobody there":   {"redis://" + loopback(port), "", words{loopback(port), "connection refused"}},
		"wrong password": {"redis://" + locked.addr, "the-secret", words{locked.addr, "correct", "Password"}},
		"evicts":         {"tiered+redis://" + evicting.addr, "", words{evicting.addr, "allkeys-lru", "noeviction"}},
		"a secret":       {"redis://api:the-secret@" + locked.addr, "", words{"leave it out", "REPLAY_PASSWORD"}},
		"a typo":         {"rediss//" + locked.addr, "", words{"of no kind that is known", "redis://"}},
		"unknown":        {"disk", "", words{"of no kind that is known", "redis://"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("REPLAY_PASSWORD", test.password)
			a, err := runAPI(fmt.Sprintf("refuses-%d", serverCount.Add(1)),
				"-issuer", "https://id.example.com", "-audience", "api", "-replay", test.replay)
			require.Error(t, err)
			a.endWith(t)
			text, err := a.log(0)
			require.NoError(t, err)
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			if last := lines[len(lines)-1]; !strings.HasPrefix(last, "resource-server: -replay: ") {
				t.Errorf("the last line is not about -replay: %s", last)
			}
			isSentence(t, errors.New(lines[len(lines)-1]), test.words)
			if bytes.Contains(text, []byte("the-secret")) {
				t.Errorf("a secret is in what it prints:\n%s", text)
			}
			if a.runs() || a.cmd.ProcessState.ExitCode() != 2 {
				t.Errorf("its exit status is %d, want 2", a.cmd.ProcessState.ExitCode())
			}
		})
	}
}
