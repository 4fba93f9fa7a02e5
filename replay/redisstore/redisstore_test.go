package redisstore_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/redisstore"
	"github.com/senderbound/senderbound/replay/storetest"
)

func TestLaw(t *testing.T) {
	open := func(cfg redisstore.Config, f func(*server)) func(*testing.T) []replay.Store {
		return func(t *testing.T) []replay.Store {
			srv := newServer()
			f(srv)
			var handles []replay.Store
			for range 3 {
				handles = append(handles, adapt(t, (&link{server: srv}).command, cfg))
			}
			return handles
		}
	}
	for name, tt := range map[string]struct {
		cfg redisstore.Config
		old bool
	}{
		"Redis 7":                {},
		"Redis 6, with a secret": {cfg: redisstore.Config{Secret: make([]byte, 32)}, old: true},
	} {
		tt.cfg.Timeout = 10 * time.Second // of a machine that is busy
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			storetest.Run(t, storetest.Config{
				Open:      open(tt.cfg, func(s *server) { s.old = tt.old }),
				OpenSmall: open(tt.cfg, func(s *server) { s.old, s.room = tt.old, 5000 }),
				Made:      func() time.Time { return in(time.Minute) }, // above the floor
			})
		})
	}
}

// TestLostReplies loses every third reply about a proof. The control is a SET NX without a nonce that the client repeats.
func TestLostReplies(t *testing.T) {
	const proofs = 300
	losing := func() func([]string) bool {
		n := 0
		return func(args []string) bool {
			if strings.HasPrefix(args[1], "dpop:jti:") {
				n++
			}
			return strings.HasPrefix(args[1], "dpop:jti:") && n%3 == 0
		}
	}
	// refused returns how many of the proofs were refused when they were fresh.
	refused := func(t *testing.T, store replay.Store) (n int) {
		for i := range proofs {
			first, err := use(store, proof(i))
			require.NoError(t, err)
			if !first {
				n++
			}
			if again, err := use(store, proof(i)); again || err != nil {
				t.Errorf("proof %d got (%t, %v) when it was used again, want (false, nil)", i, again, err)
			}
		}
		return n
	}
	for _, old := range []bool{false, true} {
		for name, tries := range map[string]int{"the store repeats": 1, "the client repeats by itself": 5} {
			synctest.Test(t, func(t *testing.T) {
				l := newLink()
				l.server.old, l.tries = old, tries
				store := ready(t, l.command, redisstore.Config{})
				l.change(func(l *link) { l.loses = losing() })
				n := refused(t, store)
				own := store.Stats().OwnRetries
				if n > 0 || l.lost == 0 || own != int64(l.lost) {
					t.Errorf("%s, Redis 6 %t: of %d fresh proofs, %d of them with a reply that was lost, %d were refused and %d recognised as own",
						name, old, proofs, l.lost, n, own)
				}
			})
		}
	}
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		l.tries, l.loses = 5, losing()
		plain := replay.SetNXFunc(func(ctx context.Context, key string, ttl time.Duration) (bool, error) {
			reply, err := l.command(ctx, "SET", "dpop:jti:"+key, "1", "NX", "PX", strconv.FormatInt(ttl.Milliseconds(), 10))
			return reply == "OK", err
		})
		if n := refused(t, plain); n == 0 {
			t.Error("control: without a nonce no fresh proof is refused when replies are lost, so this test shows nothing")
		}
	})
}

// TestNoncesDiffer: the same nonce in two calls would make one of them take the other's proof for its own. So no two have
// one, not even those of a process and a copy of it, which go on from the same state.
func TestNoncesDiffer(t *testing.T) {
	l := newLink()
	seen := map[string]bool{}
	l.server.did = func(args []string, _ any) {
		if args[0] == "SET" && args[1] != markKey {
			if seen[args[2]] {
				t.Errorf("a nonce comes twice")
			}
			if len(args[2]) != 16 {
				t.Errorf("a nonce has %d bytes, want 16: each takes the server's memory", len(args[2]))
			}
			seen[args[2]] = true
		}
	}
	for range 20 { // of processes that have done nothing yet
		store := adapt(t, l.command, redisstore.Config{InsecureSkipChecks: true})
		for i := range 20 {
			_, err := use(store, proof(i))
			require.NoError(t, err)
		}
	}
	require.Len(t, seen, 400)
}

// TestC15Loss plays what makes a server forget, for three processes whose clocks are as wrong as they may be and two that
// start after it, each with a client of its own. A thief then sends every proof that was used before to every process, for
// as long as any of them takes it. The control is a store that does not look.
func TestC15Loss(t *testing.T) {
	for name, lose := range map[string]func(links []*link){
		"a restart with an empty memory": func(links []*link) {
			links[0].server.restart()
			for _, l := range links {
				l.lead(l.server)
			}
		},
		"a promotion of an empty replica": func(links []*link) {
			replica := newServer()
			for _, l := range links {
				l.lead(replica)
			}
		},
		"a promotion of a replica that lags": func(links []*link) {
			replica := links[0].server.promote(100)
			for _, l := range links {
				l.lead(replica)
			}
		},
	} {
		for first := range 3 { // who finds out
			synctest.Test(t, func(t *testing.T) {
				if n := playLoss(t, lose, first, redisstore.Config{}); n > 0 {
					t.Errorf("C15: %d used proofs pass after %s", n, name)
				}
			})
		}
		synctest.Test(t, func(t *testing.T) {
			if n := playLoss(t, lose, 0, redisstore.Config{InsecureSkipChecks: true}); n == 0 {
				t.Errorf("control: with InsecureSkipChecks no used proof passes after %s, so this test shows nothing", name)
			}
		})
	}
}

// playLoss returns how many proofs pass twice.
func playLoss(t *testing.T, lose func([]*link), discoverer int, cfg redisstore.Config) (twice int) {
	const step = 500 * time.Millisecond
	type pod struct {
		*redisstore.Store
		ahead time.Duration
	}
	type spent struct {
		key  string
		made time.Time
	}
	srv := newServer()
	var pods []pod
	var links []*link
	start := func(ahead time.Duration, srv *server) {
		l := &link{server: srv}
		cfg.Now = func() time.Time { return time.Now().Add(ahead) }
		links, pods = append(links, l), append(pods, pod{adapt(t, l.command, cfg), ahead})
	}
	for _, by := range []time.Duration{-clockSkew, 1300 * time.Millisecond, clockSkew} {
		start(by, srv)
	}
	time.Sleep(2 * time.Minute)
	expires := func(made time.Time) time.Time { return made.Add(maxAge + 2*clockSkew + time.Second) }
	var used []spent
	for i, p := range pods {
		for back := time.Duration(0); back <= leeway+maxAge; back += 700 * time.Millisecond {
			made := time.Now().Add(p.ahead + leeway - back).Truncate(time.Second)
			key := replay.Key(strconv.Itoa(i), back.String())
			first, err := p.FirstUse(t.Context(), key, made, expires(made))
			require.NoError(t, err)
			require.True(t, first)
			used = append(used, spent{key, made})
		}
	}
	lose(links)
	pods = append(pods[discoverer:], pods[:discoverer]...)
	lost := time.Now()
	for round := 0; time.Since(lost) < leeway+maxAge+2*clockSkew; round++ {
		switch time.Since(lost) {
		case 0:
			start(-clockSkew, links[0].server)
		case 5 * time.Second:
			start(0, links[0].server)
		}
		for i, p := range pods {
			clock := time.Now().Add(p.ahead)
			for _, u := range used {
				if u.made.After(clock.Add(leeway)) || clock.After(u.made.Add(maxAge)) { // as a Verifier decides
					continue
				}
				if first, _ := p.FirstUse(t.Context(), u.key, u.made, expires(u.made)); first {
					twice++
				}
			}
			made := clock.Truncate(time.Second)
			first, err := p.FirstUse(t.Context(), replay.Key("fresh", fmt.Sprint(i, round)), made, expires(made))
			if ready := !clock.Before(p.Ready()); !cfg.InsecureSkipChecks && first != ready {
				t.Errorf("%v after the loss a new proof got (%t, %v) from a process that says it is ready: %t", time.Since(lost), first, err, ready)
			}
		}
		time.Sleep(step)
	}
	for _, p := range pods {
		if wait := p.Ready().Sub(lost); !cfg.InsecureSkipChecks && wait > allowance+clockSkew+time.Second {
			t.Errorf("a process is ready %v after the loss, want at most %v", wait, allowance+clockSkew+time.Second)
		}
	}
	return twice
}

// TestFloor: whoever waits as long as it is told gets in with a new proof, and nobody earlier; what was made before is stale
// from then on. It is no different for the first use of an empty server, and for a process that starts later.
func TestFloor(t *testing.T) {
	for _, phase := range []time.Duration{0, 1, 300 * time.Millisecond, time.Second - 1} {
		for _, restart := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(phase)
				l := newLink()
				store := adapt(t, l.command, redisstore.Config{})
				if restart {
					time.Sleep(time.Hour + time.Second/2) // not while it looks, which could meet the error in the call's place
					l.server.restart()
					l.lead(l.server)
					_, err := use(store, proof(0))
					require.Error(t, err)
				}
				start := time.Now()
				old := start.Truncate(time.Second)
				wait := refusedFor(t, store, old)
				if wait <= allowance || wait > allowance+time.Second+time.Millisecond {
					t.Errorf("RetryAfter is %v, want more than %v by a second at most", wait, allowance)
				}
				if got := store.Ready(); !got.Equal(start.Add(wait)) {
					t.Errorf("Ready is %v, which is not RetryAfter from now", got)
				}
				time.Sleep(5 * time.Second)
				later := adapt(t, (&link{server: l.server}).command, redisstore.Config{})
				if !later.Ready().Equal(store.Ready()) {
					t.Errorf("a process that starts later is ready at %v, the first at %v: they do not read one mark", later.Ready(), store.Ready())
				}
				time.Sleep(wait - 5*time.Second - 1)
				for _, s := range []*redisstore.Store{store, later} {
					if left := refusedFor(t, s, time.Now().Truncate(time.Second)); left != 1 {
						t.Errorf("RetryAfter a nanosecond before is %v", left)
					}
				}
				time.Sleep(time.Nanosecond)
				for i, s := range []*redisstore.Store{store, later} {
					first, err := s.FirstUse(t.Context(), proof(10+i), time.Now().Truncate(time.Second), in(maxAge))
					if !first || err != nil {
						t.Errorf("a new proof at RetryAfter got (%t, %v), want (true, nil)", first, err)
					}
					if first, err := s.FirstUse(t.Context(), proof(20+i), old, in(maxAge)); first || !errors.Is(err, replay.ErrStale) {
						t.Errorf("a proof from before got (%t, %v) when new ones pass, want ErrStale", first, err)
					}
				}
				if again := adapt(t, (&link{server: l.server}).command, redisstore.Config{}); again.Ready().After(time.Now()) {
					t.Errorf("a process that starts now, at a server that has remembered for %v, is ready at %v only", time.Since(start), again.Ready())
				}
			})
		}
	}
}

// refusedFor uses a new key that was made then, and returns the RetryAfter of the error.
func refusedFor(t *testing.T, store *redisstore.Store, made time.Time) time.Duration {
	t.Helper()
	first, err := store.FirstUse(t.Context(), proof(-1), made, in(maxAge))
	var unavailable *replay.Unavailable
	if first || !errors.As(err, &unavailable) {
		t.Fatalf("a proof got (%t, %v), want Unavailable", first, err)
	}
	return unavailable.RetryAfter
}

// TestFlushIsNoticed: what befalls a server without an error is noticed at the next check, and not before.
func TestFlushIsNoticed(t *testing.T) {
	for name, befalls := range map[string]func(*server){
		"FLUSHALL":                          func(s *server) { s.keys = map[string]entry{} },
		"a restart that the client hides":   func(s *server) { s.keys, s.id = map[string]entry{}, "another" },
		"a promotion that the client hides": func(s *server) { delete(s.keys, "dpop:jti:"+proof(1)); s.id = "another" },
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLink()
			store := ready(t, l.command, redisstore.Config{})
			time.Sleep(checkInterval / 2)
			requireFirst(t, store, proof(1))
			l.server.change(befalls)
			time.Sleep(checkInterval/2 - 1)
			if first, _ := use(store, proof(1)); !first {
				t.Errorf("%s: noticed before a check, so this test shows nothing", name)
			}
			l.server.change(befalls) // once more, as that use was recorded
			time.Sleep(checkInterval)
			if first, err := use(store, proof(1)); first || err == nil {
				t.Errorf("%s: a used proof got (%t, %v) after a check, want an error", name, first, err)
			}
		})
	}
}

// TestMarks: a mark that does not say that this server has remembered since then is replaced, and the floor rises.
func TestMarks(t *testing.T) {
	for name, tt := range map[string]struct {
		mark func(now time.Time) string // for the id "id"
		kept bool
	}{
		"long ago":                      {func(now time.Time) string { return millis(now.Add(-time.Hour)) + "/id" }, true},
		"1970":                          {func(time.Time) string { return "1/id" }, true},
		"a clock that is ahead":         {func(now time.Time) string { return millis(now.Add(2*clockSkew-1)) + "/id" }, true},
		"the future":                    {func(now time.Time) string { return millis(now.Add(2*clockSkew+time.Second)) + "/id" }, false},
		"the far future":                {func(time.Time) string { return strconv.FormatInt(math.MaxInt64, 10) + "/id" }, false},
		"another server":                {func(now time.Time) string { return millis(now.Add(-time.Hour)) + "/other" }, false},
		"no server":                     {func(now time.Time) string { return millis(now.Add(-time.Hour)) + "/" }, false},
		"no slash":                      {func(now time.Time) string { return millis(now.Add(-time.Hour)) }, false},
		"something after it":            {func(now time.Time) string { return millis(now.Add(-time.Hour)) + "/id " }, false},
		"something before it":           {func(now time.Time) string { return " " + millis(now.Add(-time.Hour)) + "/id" }, false},
		"0":                             {func(time.Time) string { return "0/id" }, false},
		"negative":                      {func(time.Time) string { return "-1/id" }, false},
		"more than a number":            {func(time.Time) string { return "99999999999999999999/id" }, false},
		"a fraction":                    {func(time.Time) string { return "1.5/id" }, false},
		"empty":                         {func(time.Time) string { return "" }, false},
		"newlines":                      {func(time.Time) string { return "\r\n" }, false},
		"an id with a slash in its end": {func(now time.Time) string { return millis(now.Add(-time.Hour)) + "/id/id" }, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(123456789)
			l := newLink()
			l.server.id = "id"
			mark := tt.mark(time.Now())
			l.server.keys[markKey] = entry{value: mark}
			store := adapt(t, l.command, redisstore.Config{})
			now := l.server.get(markKey)
			if tt.kept && now != mark {
				t.Errorf("%s: the mark %q became %q", name, mark, now)
			}
			if want := millis(time.Now().Add(time.Millisecond-1)) + "/id"; !tt.kept && now != want {
				t.Errorf("%s: the mark %q became %q, want %q", name, mark, now, want)
			}
			if wait := time.Until(store.Ready()); !tt.kept && wait <= allowance {
				t.Errorf("%s: the store is ready in %v, want more than %v", name, wait, allowance)
			}
		})
	}
}

func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

// TestTwoWriteTheMark: two processes that find no mark at the same moment each write one. Whichever stays, both are right.
func TestTwoWriteTheMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer()
		var stores [2]*redisstore.Store
		var wg sync.WaitGroup
		for i, by := range []time.Duration{-clockSkew, clockSkew} {
			wg.Go(func() {
				l := &link{server: srv, delay: 10 * time.Millisecond} // both read before one writes
				stores[i] = adapt(t, l.command, redisstore.Config{Now: ahead(by)})
			})
		}
		wg.Wait()
		third := adapt(t, (&link{server: srv}).command, redisstore.Config{})
		for i, s := range append(stores[:], third) {
			if wait := time.Until(s.Ready()); wait <= allowance-clockSkew-time.Second {
				t.Errorf("process %d is ready in %v: its mark is older than the loss by more than a clock may be wrong", i, wait)
			}
		}
	})
}

// TestC14ClockAhead: a process whose clock runs far ahead takes a new proof for an old one, and is set right. Another must
// know the proof for as long as it takes it.
func TestC14ClockAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		var ahead atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		hurried := ready(t, l.command, redisstore.Config{Now: now})
		other := adapt(t, (&link{server: l.server}).command, redisstore.Config{})
		ahead.Store(int64(maxAge))
		made := time.Now()
		expires := made.Add(maxAge + 2*clockSkew)
		asked := expires.Sub(now()) + 2*clockSkew
		first, err := hurried.FirstUse(t.Context(), proof(1), made, expires)
		require.NoError(t, err)
		require.True(t, first)
		ahead.Store(0)
		time.Sleep(maxAge)
		if time.Since(made) <= asked {
			t.Errorf("control: the key would be there still if it were kept for as long as the clock said, %v", asked)
		}
		for _, s := range []*redisstore.Store{other, hurried} {
			if first, err := s.FirstUse(t.Context(), proof(1), made, expires); first || err != nil {
				t.Errorf("C14: a used proof got (%t, %v) after a clock that was ahead was set right, want (false, nil)", first, err)
			}
		}
	})
}

// TestC14Late: a process is stopped while it waits for the answer, which is worth nothing when the proof has expired.
func TestC14Late(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		store := ready(t, l.command, redisstore.Config{})
		var granted atomic.Bool
		l.server.change(func(s *server) {
			s.did = func(args []string, got any) {
				if args[0] == "SET" && got == nil {
					granted.Store(true)
				}
			}
		})
		l.change(func(l *link) { l.delay = timeout / 4 })
		first, err := store.FirstUse(t.Context(), proof(1), time.Now(), in(timeout/2))
		if !granted.Load() {
			t.Error("control: the server did not grant, so this test shows nothing")
		}
		if first || err == nil {
			t.Errorf("a grant that came when the proof had expired got (%t, %v), want an error", first, err)
		}
	})
}

// TestLife: what the server is asked to keep a key for is never less than until expires, and is a number that it takes.
func TestLife(t *testing.T) {
	for name, tt := range map[string]struct {
		made, expires time.Duration // from now
		want          time.Duration
	}{
		"a new proof":                        {0, 71 * time.Second, 81 * time.Second},
		"a proof that is old":                {-60 * time.Second, 11 * time.Second, 81 * time.Second},
		"a proof from ahead":                 {leeway, 81 * time.Second, 91 * time.Second},
		"a nanosecond":                       {0, 1, 10*time.Second + time.Millisecond},
		"a fraction of a millisecond":        {0, 1500 * time.Microsecond, 10*time.Second + 2*time.Millisecond},
		"made is not known":                  {math.MinInt64, time.Minute, 24*time.Hour + 10*time.Second},
		"for ever":                           {0, math.MaxInt64, math.MaxInt64/2 + 10*time.Second},
		"for ever, and made is not known":    {math.MinInt64, math.MaxInt64, math.MaxInt64/2 + 10*time.Second},
		"made when it expires":               {time.Minute, time.Minute, 70 * time.Second},
		"made after it expires, far from it": {math.MaxInt64, time.Minute, 70 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLink()
			store := adapt(t, l.command, redisstore.Config{InsecureSkipChecks: true})
			var px string
			l.server.change(func(s *server) { s.did = func(args []string, _ any) { px = args[len(args)-1] } })
			first, err := store.FirstUse(t.Context(), proof(1), in(tt.made), in(tt.expires))
			require.NoError(t, err)
			require.True(t, first)
			want := strconv.FormatInt((tt.want + time.Millisecond - 1).Milliseconds(), 10)
			if px != want {
				t.Errorf("%s: the key is kept for %s ms, want %s", name, px, want)
			}
		})
	}
}

// TestRefusedServers: a server that would forget used proofs is refused with a sentence that says what to change, and taken
// as it is with InsecureSkipChecks.
func TestRefusedServers(t *testing.T) {
	const noeviction = `which may drop used proofs to make room: set it to noeviction (CONFIG SET maxmemory-policy noeviction)`
	const info = "the server does not answer INFO: let its user (ACL) do that, so that eviction and loss of memory are seen, or set " +
		"Config.InsecureSkipChecks (NOPERM this user has no permissions to run the)"
	const untold = "the server does not tell its maxmemory-policy or its replication id (INFO memory, INFO replication): use Redis 6 or " +
		"later, or Valkey, or set Config.InsecureSkipChecks"
	const cluster = "this is a Redis Cluster: use redisstore.New, or set Config.InsecureSkipChecks"
	deny := func(command, text string) func(*server) {
		return func(s *server) {
			s.denies = func(args []string) string {
				if strings.HasPrefix(strings.Join(args, " "), command) {
					return text
				}
				return ""
			}
		}
	}
	type refusal struct {
		change func(*server)
		want   string
	}
	tests := map[string]refusal{
		"a replica": {func(s *server) { s.role = "slave" },
			"this is a replica, which forgets what its primary did not send: name the primary, or use Sentinel (redis+sentinel://)"},
		"no policy":           {func(s *server) { s.policy = "" }, untold},
		"no id":               {func(s *server) { s.id = "" }, untold},
		"a Cluster of Redis":  {func(s *server) { s.mode = "redis_mode:cluster" }, cluster},
		"a Cluster of Valkey": {func(s *server) { s.mode = "server_mode:cluster" }, cluster},
		"no INFO":             {deny("INFO", "NOPERM this user has no permissions to run the 'info' command"), info},
		"no INFO memory":      {deny("INFO memory", "NOPERM this user has no permissions to run the 'info' command"), info},
		"no INFO replication": {deny("INFO replication", "NOPERM this user has no permissions to run the 'info' command"), info},
		"the mark is not given": {deny("GET dpop:epoch", "NOPERM No permissions to access a key"), `the server's user may not read and write ` +
			`the key "dpop:epoch": let it (ACL), as it says since when the server remembers (NOPERM No permissions to access a key)`},
		"the mark is not taken": {deny("SET dpop:epoch", "NOPERM No permissions to access a key"), `the server's user may not read and write ` +
			`the key "dpop:epoch": let it (ACL), as it says since when the server remembers (NOPERM No permissions to access a key)`},
		"the mark is something else": {deny("GET dpop:epoch", "WRONGTYPE Operation against a key holding the wrong kind of value"),
			`the key "dpop:epoch" is used for something else: leave the keys under Config.Prefix to this store, or set another one ` +
				`(WRONGTYPE Operation against a key holding the wrong kind of value)`},
		"loading": {deny("GET", "LOADING Redis is loading the dataset in memory"), "LOADING Redis is loading the dataset in memory"},
	}
	for _, policy := range []string{"allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"} {
		tests[policy] = refusal{func(s *server) { s.policy = policy }, fmt.Sprintf("the server's maxmemory-policy is %q, %s", policy, noeviction)}
	}
	for name, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			l := newLink()
			tt.change(l.server)
			if _, err := redisstore.Adapt(t.Context(), l.command, redisstore.Config{}); err == nil || err.Error() != "redisstore: "+tt.want {
				t.Errorf("%s: Adapt got %v, want %q", name, err, tt.want)
			}
			store := adapt(t, l.command, redisstore.Config{InsecureSkipChecks: true})
			if first, err := use(store, proof(1)); (!first || err != nil) && l.server.role == "master" && name != "loading" {
				t.Errorf("%s: with InsecureSkipChecks a new proof got (%t, %v), want (true, nil)", name, first, err)
			}
			// The same befalls a server that was good. It is seen at the next check, and so is that it was put right.
			l = newLink()
			store = ready(t, l.command, redisstore.Config{CheckInterval: 10 * time.Second})
			requireFirst(t, store, proof(1))
			good := struct{ id, role, policy, mode string }{l.server.id, l.server.role, l.server.policy, l.server.mode}
			l.server.change(tt.change)
			time.Sleep(10 * time.Second)
			first, err := use(store, proof(2))
			var unavailable *replay.Unavailable
			if name != "the mark is not taken" && (first || !errors.As(err, &unavailable)) { // which is there already
				t.Errorf("%s, later: a new proof got (%t, %v), want Unavailable", name, first, err)
			}
			l.server.change(func(s *server) {
				s.id, s.role, s.policy, s.mode, s.denies = good.id, good.role, good.policy, good.mode, nil
			})
			if first, err := use(store, proof(3)); !first || err != nil {
				t.Errorf("%s, put right: a new proof got (%t, %v), want (true, nil)", name, first, err)
			}
		})
	}
}

// TestUnreachable: the error of Adapt, and of a call, comes in time and says what is the matter.
func TestUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := func(ctx context.Context, _ ...string) (any, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("client: %w", ctx.Err())
		}
		start := time.Now()
		_, err := redisstore.Adapt(t.Context(), silent, redisstore.Config{})
		if took := time.Since(start); took > timeout {
			t.Errorf("Adapt takes %v where nobody answers, want at most Config.Timeout, %v", took, timeout)
		}
		require.EqualError(t, err, "redisstore: no answer within 500ms: correct the client's address, or set a longer Config.Timeout "+
			"(INFO: context deadline exceeded)")
		l := newLink()
		store := ready(t, l.command, redisstore.Config{})
		l.change(func(l *link) { l.other = silent })
		start = time.Now()
		first, err := use(store, proof(1))
		if took := time.Since(start); took > timeout {
			t.Errorf("a call takes %v where nobody answers, want at most %v", took, timeout)
		}
		if first || err == nil || err.Error() != "replay: store unavailable: redisstore: no answer within 500ms" {
			t.Errorf("a call got (%t, %v) where nobody answers", first, err)
		}
	})
}

// TestManyWaitForOneLook: after an error every call looks before it grants, but they do not queue for that: one look that
// begins late enough serves all.
func TestManyWaitForOneLook(t *testing.T) {
	const callers = 200
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		store := ready(t, l.command, redisstore.Config{CheckInterval: time.Minute})
		time.Sleep(time.Second) // away from the check
		var looks atomic.Int64
		l.server.change(func(s *server) {
			s.did = func(args []string, _ any) {
				if slices.Equal(args, []string{"INFO", "server"}) {
					looks.Add(1)
				}
			}
		})
		l.change(func(l *link) { l.delay, l.broken = 20*time.Millisecond, true })
		start := time.Now()
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				if first, err := use(store, proof(i)); !first || err != nil {
					t.Errorf("call %d got (%t, %v), want (true, nil)", i, first, err)
				}
			})
		}
		wg.Wait()
		if looks.Load() == 0 {
			t.Error("control: nobody looked, so this test shows nothing")
		}
		if took := time.Since(start); looks.Load() > 3 || took > timeout {
			t.Errorf("%d calls looked %d times in %v, want at most 3 times in %v", callers, looks.Load(), took, timeout)
		}
	})
}

// TestErrorDuringALook: what happens while a look is under way is not covered by it.
func TestErrorDuringALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		store := ready(t, l.command, redisstore.Config{})
		time.Sleep(checkInterval / 2)
		requireFirst(t, store, proof(1))
		lost := false
		l.server.change(func(s *server) {
			s.did = func(args []string, _ any) {
				if lost || !slices.Equal(args, []string{"INFO", "replication"}) { // the last that a look asks
					return
				}
				lost, s.keys, s.id = true, map[string]entry{}, "another"
				go func() { // another call has an error, before the look has its answer
					l.change(func(l *link) {
						l.delay = 0
						l.other = func(context.Context, ...string) (any, error) { return nil, failure("LOADING it starts") }
					})
					_, _ = use(store, proof(2))
					l.change(func(l *link) { l.other = nil })
				}()
			}
		})
		l.change(func(l *link) { l.delay = 10 * time.Millisecond })
		time.Sleep(checkInterval)
		synctest.Wait()
		require.True(t, lost)
		if first, err := use(store, proof(1)); first || err == nil {
			t.Errorf("a used proof got (%t, %v) after a loss while another look was under way, want an error", first, err)
		}
	})
}

// TestTakeoverDuringALook: a replica takes over between two commands of a look, and the client hides it. A look that has
// read the mark of one server and the id of another must not believe either.
func TestTakeoverDuringALook(t *testing.T) {
	for _, last := range []string{"INFO server", "GET " + markKey, "INFO memory"} { // of what the old server is asked
		synctest.Test(t, func(t *testing.T) {
			l := newLink()
			store := ready(t, l.command, redisstore.Config{})
			time.Sleep(checkInterval / 2)
			requireFirst(t, store, proof(1))
			replica, gone := l.server.promote(1), false
			l.server.change(func(s *server) {
				s.did = func(args []string, _ any) {
					if strings.Join(args, " ") == last {
						l.server, gone = replica, true // this is a command of the link, so it may
					}
				}
			})
			time.Sleep(checkInterval)
			synctest.Wait()
			require.True(t, gone, "control: the old server was not asked %s", last)
			if first, err := use(store, proof(1)); first || err == nil {
				t.Errorf("a used proof got (%t, %v) after a replica took over behind %s, want an error", first, err, last)
			}
		})
	}
}

// TestKeys holds the forms on the server, which other releases share.
func TestKeys(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	key := replay.Key("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", "-BwC3ESc6acc2lTc")
	for name, tt := range map[string]struct {
		cfg  redisstore.Config
		want string
	}{
		"default":  {redisstore.Config{}, "dpop:jti:" + key},
		"a prefix": {redisstore.Config{Prefix: "api:"}, "api:jti:" + key},
		"a secret": {redisstore.Config{Secret: secret}, "dpop:jti:67XCykprUMJawDevLrNRCtyu"},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLink()
			requireFirst(t, ready(t, l.command, tt.cfg), key)
			names := slices.DeleteFunc(l.server.names(), func(name string) bool { return name == "api:epoch" })
			require.Equal(t, []string{tt.want}, names, name)
			if nonce := l.server.get(tt.want); !regexp.MustCompile(`^[A-Z2-7]{16}$`).MatchString(nonce) {
				t.Errorf("%s: the value of a key is %q, want 16 characters of base32", name, nonce)
			}
			mark := l.server.get(strings.SplitAfter(tt.want, ":")[0] + "epoch")
			if !regexp.MustCompile(`^[0-9]{12,13}/` + l.server.id + `$`).MatchString(mark) {
				t.Errorf("%s: the mark is %q, want milliseconds, a slash and the replication id", name, mark)
			}
		})
	}
}

// TestC16OddKeys gives keys to FirstUse that no Verifier makes. They meet neither each other nor the mark, and with a Secret
// their names say nothing of them.
func TestC16OddKeys(t *testing.T) {
	odd := []string{
		"", "epoch", "../epoch", "dpop:epoch", ":epoch", "jti:", "*", "[a-z]*", "?", "\r\nSET dpop:epoch 1/x\r\n", "a\r\nFLUSHALL\r\n", "\x00", "{0}", "}{",
		"$48\r\n", "ключ", "\xff\xfe", strings.Repeat("x", 1<<20), strings.Repeat("x", 1<<20-1),
	}
	names := map[string][]string{}
	for i, secret := range [][]byte{nil, make([]byte, 32), append(make([]byte, 31), 1)} {
		synctest.Test(t, func(t *testing.T) {
			l := newLink()
			store := ready(t, l.command, redisstore.Config{Secret: secret})
			mark := l.server.get(markKey)
			for _, key := range odd {
				requireFirst(t, store, key)
			}
			for _, key := range odd {
				if first, err := use(store, key); first || err != nil {
					t.Errorf("the used key %.20q got (%t, %v)", key, first, err)
				}
			}
			if now := l.server.get(markKey); now != mark {
				t.Errorf("a key met the mark: %q became %q", mark, now)
			}
			names[strconv.Itoa(i)] = l.server.names()
		})
	}
	for _, name := range slices.Concat(names["1"], names["2"]) {
		id := strings.TrimPrefix(name, "dpop:jti:")
		if raw, err := base64.RawURLEncoding.DecodeString(id); err != nil || len(raw) != 18 {
			t.Errorf("with a secret the name of a key is %.40q, want 24 characters of base64url", id)
		}
	}
	all := slices.Sorted(slices.Values(slices.Concat(names["0"], names["1"], names["2"])))
	if unique := slices.Compact(slices.Clone(all)); len(unique) != 3*len(odd) {
		t.Errorf("%d keys with and without secrets have %d names, want each its own", 3*len(odd), len(unique))
	}
}

// TestErrorsShowNothing: servers and clients repeat in an error what they were sent. The store does not.
func TestErrorsShowNothing(t *testing.T) {
	for name, echo := range map[string]string{
		"Redis 7":            "ERR unknown command 'SET', with args beginning with: 'KEY' 'NONCE' 'NX' 'GET' 'PX' '81000' ",
		"Redis 5":            "ERR unknown command `SET`, with args beginning with: `KEY`, `NONCE`, `NX`, ",
		"a list":             "ERR bad command [SET KEY NONCE NX]",
		"an object":          `ERR {"command": ["SET", "KEY", "NONCE"]}`,
		"bare":               "ERR cannot set KEY to NONCE",
		"in front":           "KEY cannot be set",
		"nothing else":       "KEY",
		"both":               "KEY=NONCE",
		"lines":              "ERR no\r\nKEY",
		"a client's words":   "client: SET KEY NONCE: connection reset",
		"more than fits":     "ERR " + strings.Repeat("no ", 200) + "KEY",
		"Infinispan's bytes": "ERR ISPN000299: Unable to acquire lock after 10 seconds for key WrappedByteArray[KEY] and requestor",
		"syntax":             "ERR syntax error near 'KEY' 'NONCE'",
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLink()
			var log buffer
			store := ready(t, l.command, redisstore.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			var secrets []string
			l.change(func(l *link) {
				l.other = func(_ context.Context, args ...string) (any, error) {
					if args[0] == "SET" {
						secrets = append(secrets, proof(1), args[2])
						text := strings.NewReplacer("KEY", args[1], "NONCE", args[2]).Replace(echo)
						return nil, fmt.Errorf("%w", failure(text))
					}
					return nil, errReset
				}
			})
			_, err := use(store, proof(1))
			if err == nil || len(secrets) == 0 {
				t.Errorf("%s: control: no error, or nothing that it could show", name)
			}
			time.Sleep(checkInterval)
			if mentions(err, secrets...) || mentions(errors.New(log.String()), secrets...) {
				t.Errorf("%s: the error or the log shows a key or a nonce: %v\n%s", name, err, log.String())
			}
			if len(err.Error()) > 300 {
				t.Errorf("%s: the error is %d bytes long", name, len(err.Error()))
			}
		})
	}
}

// TestFinalAnswers: what a server answers is not asked for again, and lost connections are.
func TestFinalAnswers(t *testing.T) {
	for text, tt := range map[string]struct {
		sent int
		full bool
	}{
		"OOM command not allowed when used memory > 'maxmemory'.":                               {1, true},
		"ERR ISPN000514: Container eviction limit 1 reached, write operation(s) is blocked":     {1, true},
		"READONLY You can't write against a read only replica.":                                 {1, false},
		"NOPERM No permissions to access a key":                                                 {1, false},
		"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to do so": {1, false},
		"LOADING Redis is loading the dataset in memory":                                        {1, false},
		"read tcp: connection reset by peer":                                                    {8, false},
		"EOF":                                                                                   {8, false},
		"redis: connection pool timeout":                                                        {8, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLink()
			store := ready(t, l.command, redisstore.Config{})
			sent := 0
			l.change(func(l *link) {
				l.other = func(_ context.Context, args ...string) (any, error) {
					if args[0] == "SET" {
						sent++
					}
					return nil, errors.New(text)
				}
			})
			first, err := use(store, proof(1))
			if first || err == nil || errors.Is(err, replay.ErrFull) != tt.full {
				t.Errorf("%s: a new proof got (%t, %v), want ErrFull: %t", text, first, err, tt.full)
			}
			if sent != tt.sent {
				t.Errorf("%s: the command was sent %d times, want %d", text, sent, tt.sent)
			}
		})
	}
}

// TestReplyTypes: a client that represents null as something else gets an error and no grant. The control takes whatever is
// not nil for a text.
func TestReplyTypes(t *testing.T) {
	admitted := 0
	for name, null := range map[string]any{"empty bytes": []byte(nil), "an empty text": "", "false": false, "0": 0, "a struct": struct{}{}} {
		for _, old := range []bool{false, true} {
			l := newLink()
			l.server.old = old
			store := adapt(t, l.command, redisstore.Config{InsecureSkipChecks: true})
			requireFirst(t, store, proof(1))
			l.change(func(l *link) {
				l.shape = func(reply any) any {
					if reply == nil {
						return null
					}
					return reply
				}
			})
			for i := range 3 {
				if first, err := use(store, proof(1)); first {
					t.Errorf("%s, Redis 6 %t: a used proof got (%t, %v) in call %d", name, old, first, err, i)
				}
			}
			if reply, err := l.command(t.Context(), "SET", l.server.names()[0], "x", "NX", "PX", "1000"); err == nil && reply != nil {
				admitted++
			}
			_, err := use(store, proof(2))
			if _, isText := null.(string); !isText && !old && (err == nil || !strings.Contains(err.Error(), "return nil for null")) {
				t.Errorf("%s: the error does not say what the Command must return: %v", name, err)
			}
		}
	}
	if admitted == 0 {
		t.Error("control: what is not nil was never a refusal, so this test shows nothing")
	}
	l := newLink()
	l.shape = func(reply any) any {
		if text, ok := reply.(string); ok {
			return []byte(text)
		}
		return reply
	}
	store := adapt(t, l.command, redisstore.Config{InsecureSkipChecks: true})
	requireFirst(t, store, proof(1))
	if first, err := use(store, proof(1)); first || err != nil {
		t.Errorf("with texts as []byte a used proof got (%t, %v), want (false, nil)", first, err)
	}
}

// TestStats counts each answer once.
func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		store := ready(t, l.command, redisstore.Config{})
		require.Zero(t, store.Stats())
		requireFirst(t, store, proof(1))
		for range 2 {
			_, _ = use(store, proof(1))
		}
		l.change(func(l *link) {
			l.loses = func(args []string) bool { return args[0] == "SET" && l.lost == 0 }
		})
		requireFirst(t, store, proof(2))
		_, err := store.FirstUse(t.Context(), proof(3), time.Now().Add(-24*time.Hour), in(maxAge))
		require.ErrorIs(t, err, replay.ErrStale)
		l.server.change(func(s *server) { s.room = 1 })
		for range 3 {
			_, err = use(store, proof(4))
			require.ErrorIs(t, err, replay.ErrFull)
		}
		l.server.change(func(s *server) { s.room, s.role = 0, "slave" })
		for range 4 {
			_, err = use(store, proof(5))
			require.Error(t, err)
		}
		// What the caller is the cause of does not count.
		_, err = store.FirstUse(t.Context(), proof(6), time.Now(), time.Now())
		require.EqualError(t, err, "redisstore: expires is not in the future")
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = store.FirstUse(cancelled, proof(6), time.Now(), in(maxAge))
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, store.Close())
		_, err = use(store, proof(6))
		require.EqualError(t, err, "redisstore: the store is closed")
		require.Equal(t, replay.Stats{SharedReplays: 2, OwnRetries: 1, Full: 3, Stale: 1, Unavailable: 4}, store.Stats())
	})
}

// TestLog: a record when the floor rises, and none while nothing happens.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log buffer
		l := newLink()
		cfg := redisstore.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}
		store := ready(t, l.command, cfg)
		for i := range 10 {
			time.Sleep(checkInterval)
			requireFirst(t, store, proof(i))
		}
		adapt(t, l.command, cfg) // at a server that has remembered for long enough
		if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "has begun to remember only now") {
			t.Errorf("%d records, want one at the start:\n%s", n, log.String())
		}
		l.server.restart()
		time.Sleep(10 * checkInterval)
		synctest.Wait()
		if n := strings.Count(log.String(), "\n"); n != 3 { // one for each store
			t.Errorf("%d records after a loss, want two more:\n%s", n, log.String())
		}
	})
}

// A buffer is one for several goroutines.
type buffer struct {
	mu   sync.Mutex
	text []byte
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	return len(p), nil
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// TestClose: it ends what is under way and every goroutine, may be called again and by many, and leaves the client alone.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which waits for all goroutines to end
		l := newLink()
		store := ready(t, l.command, redisstore.Config{Timeout: time.Minute})
		l.change(func(l *link) { l.delay = time.Hour })
		var calls, ended atomic.Int64
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				calls.Add(1)
				if first, err := use(store, proof(i)); first || err == nil || err.Error() != "redisstore: the store is closed" {
					t.Errorf("a call that Close ends got (%t, %v), want an error", first, err)
				}
				ended.Add(1)
			})
		}
		synctest.Wait()
		require.Equal(t, []int64{50, 0}, []int64{calls.Load(), ended.Load()})
		time.Sleep(checkInterval * 3 / 2) // a look is under way, too
		start := time.Now()
		for range 3 {
			wg.Go(func() {
				if err := store.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
		}
		wg.Wait()
		require.NoError(t, store.Close())
		if took := time.Since(start); took > 0 {
			t.Errorf("Close takes %v", took)
		}
		if first, err := use(store, proof(100)); first || err == nil {
			t.Errorf("a closed store says (%t, %v), want an error", first, err)
		}
		l.change(func(l *link) { l.delay = 0 })
		if _, err := l.command(t.Context(), "GET", "x"); err != nil {
			t.Errorf("the caller's client is closed: %v", err)
		}
	})
}

// TestContextIsNotLookedAt: one caller that leaves does not cost the others their connection, and gets a right answer.
func TestContextIsNotLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		store := ready(t, l.command, redisstore.Config{})
		l.change(func(l *link) { l.delay = 50 * time.Millisecond })
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if first, err := store.FirstUse(ctx, proof(1), time.Now(), in(maxAge)); !first || err != nil {
			t.Errorf("a call whose caller left got (%t, %v), want (true, nil)", first, err)
		}
	})
}
