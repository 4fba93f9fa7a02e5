// Package storetest holds the law of replay.Store as a test that any store can run, whoever wrote it:
//
//	func TestLaw(t *testing.T) {
//		storetest.Run(t, storetest.Config{Open: func(t *testing.T) []replay.Store {
//			store := mystore.New()
//			t.Cleanup(store.Close)
//			return []replay.Store{store}
//		}})
//	}
//
// Run it with the race detector too. It works in real time, because real servers do, and needs about three seconds
// beside the store's own. Its keys are random, so a store need not be empty and several runs may share a server.
//
// A store that is a replay.Windower, a replay.Floorer or a replay.Statser is held to that, too. Where handles are several,
// each counts what it was asked itself.
//
// What it cannot show: that the store keeps the law across a crash, a failover or a partition, that a floor lies where it
// must, and that its clock is right. Those need tests of the store's own.
package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/senderbound/senderbound/replay"
)

// Config says how to reach the store under test.
type Config struct {
	// Open returns one or more handles on one memory: one for a store of a single process, several for a store that
	// pods share, as each pod would open it. It is called once per law. The memory must have room for 20,000 keys and
	// for 100 of one client, and must be able to remember a key for at least two seconds.
	Open func(t *testing.T) []replay.Store

	// OpenSmall does the same for a memory that has room for fewer than 20,000 keys, so that the test can fill it. Nil
	// leaves out the law about full stores.
	OpenSmall func(t *testing.T) []replay.Store

	// Made returns the time at which the proofs of the test were made; default time.Now. A store whose floor is raised
	// when it is opened (see replay.Floor) needs a later one, such as a minute from now.
	Made func() time.Time
}

// Run tests the store against every law, each in a subtest of its own. A failure's first line is the rule that was
// broken.
func Run(t *testing.T, cfg Config) {
	t.Helper()
	if cfg.Open == nil {
		t.Fatal("storetest: Config.Open is nil: give a function that opens the store under test")
	}
	for _, l := range laws {
		t.Run(l.name, func(t *testing.T) {
			open := cfg.Open
			if l.small {
				open = cfg.OpenSmall
			}
			if open == nil {
				t.Skip("Config.OpenSmall is nil: the store is never full")
			}
			if err := l.test(open(t), cfg.Made); err != nil {
				t.Error(err)
			}
		})
	}
}

// A law is a rule and a check of it. The checks return errors instead of failing a *testing.T, so that the tests of this
// package can show that each of them does fail.
type law struct {
	name  string
	rule  string
	check func(*subject) error
	small bool // to be checked against Config.OpenSmall
}

var laws = []law{
	{name: "FirstThenRepeated", check: firstThenRepeated,
		rule: "the first use of a key is (true, nil) and every later one, through any handle, is (false, nil)"},
	{name: "KeysDoNotMeet", check: keysDoNotMeet,
		rule: "keys that differ anywhere, be it in one character or in its case, are different keys"},
	{name: "OneOfManyIsFirst", check: oneOfManyIsFirst,
		rule: "of any number of concurrent calls with one key, over all handles, exactly one is first"},
	{name: "RemembersEveryKey", check: remembersEveryKey,
		rule: "a key is remembered however many other keys follow it"},
	{name: "LivesUntilExpires", check: livesUntilExpires,
		rule: "a key is remembered at least until expires, to the fraction of a second"},
	{name: "PastIsRefused", check: pastIsRefused,
		rule: "an expires that is not in the future is an error and records nothing"},
	{name: "WindowIsKept", check: windowIsKept,
		rule: "a Windower remembers up to MaxWindow, and an expires further away is an error"},
	{name: "MadeOpensNothing", check: madeOpensNothing,
		rule: "no key is first twice, whatever made is, and only a Floorer refuses for it, with ErrStale or an *Unavailable"},
	{name: "ReplaysAreCounted", check: replaysAreCounted,
		rule: "a Statser counts each repeated key once, as a local or as a shared replay"},
	{name: "CancelledIsNotFirstTwice", check: cancelledIsNotFirstTwice,
		rule: "a call whose context is cancelled gives an error or a right answer, and no key is first twice"},
	{name: "FullForgetsNothing", check: fullForgetsNothing, small: true,
		rule: "a full store returns replay.ErrFull, counts it if it is a Statser, and does not forget a key to make room"},
}

// test checks the law over the handles of one memory. The error starts with the rule.
func (l law) test(handles []replay.Store, made func() time.Time) error {
	if len(handles) == 0 {
		return errors.New("storetest: Config.Open returned no handle")
	}
	if made == nil {
		made = time.Now
	}
	if err := l.check(&subject{handles, made}); err != nil {
		return fmt.Errorf("%s\n\tbut %w", l.rule, err)
	}
	return nil
}

func firstThenRepeated(s *subject) error {
	for range 10 {
		key, expires := newKey(), s.later()
		if err := s.wantFirst(0, key, expires); err != nil {
			return err
		}
		for i := range 3 * len(s.handles) {
			if err := s.wantRepeated(i, key, expires.Add(time.Duration(-i)*time.Millisecond)); err != nil {
				return err
			}
		}
	}
	return nil
}

func keysDoNotMeet(s *subject) error {
	jkt, jti := rand.Text(), rand.Text()
	keys := []string{replay.Key(jkt, jti), replay.Key(jkt, rand.Text()), replay.Key(rand.Text(), jti)}
	keys = append(keys, neighbours(newKey())...)
	for i, key := range keys {
		if err := s.wantFirst(i, key, s.later()); err != nil {
			return err
		}
	}
	for i, key := range keys {
		if err := s.wantRepeated(i, key, s.later()); err != nil {
			return err
		}
	}
	return nil
}

// neighbours returns key and all that differ from it in one place: by another character, and by the other case of a
// letter, which a database may hold for the same text.
func neighbours(key string) []string {
	keys := []string{key}
	for i := range len(key) {
		for _, c := range []byte{'-', '_', key[i] ^ 0x20} {
			isLetter := c|0x20 >= 'a' && c|0x20 <= 'z'
			if c != key[i] && (isLetter || c == '-' || c == '_') {
				keys = append(keys, key[:i]+string(c)+key[i+1:])
			}
		}
	}
	return keys
}

func oneOfManyIsFirst(s *subject) error {
	// A store in memory needs thousands of races to be caught, which take it no time. One behind a network is slowed down by
	// the waiting callers, but its calls take so long that hundreds will do.
	const batch, fewest, most, enough = 250, 500, 4000, 2 * time.Second
	start := time.Now()
	for n := 0; n < most && (n < fewest || time.Since(start) < enough); n += batch {
		if err := s.race(newKeys(batch), max(8, 2*len(s.handles))); err != nil {
			return err
		}
	}
	return nil
}

// race uses each key from so many callers at once.
func (s *subject) race(keys []string, callers int) error {
	expires := s.later()
	firsts := make([]atomic.Int64, len(keys))
	var failed atomic.Pointer[answer]
	var arrived atomic.Int64
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i, key := range keys {
				// All callers meet before each key: without that they spread out and hardly ever race.
				arrived.Add(1)
				for turn := 0; arrived.Load() < int64((i+1)*callers); turn++ {
					if turn < 100 {
						runtime.Gosched()
					} else { // or the network would not get its turn
						time.Sleep(time.Microsecond)
					}
				}
				got := s.use(context.Background(), caller, key, expires)
				if got.first {
					firsts[i].Add(1)
				}
				if got.err != nil {
					failed.Store(&got)
				}
			}
		})
	}
	wg.Wait()
	wrong, worst := 0, int64(1)
	for i := range firsts {
		if n := firsts[i].Load(); n != 1 {
			wrong, worst = wrong+1, n
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d keys were not first exactly once: one of them %d times", wrong, len(keys), worst)
	}
	if got := failed.Load(); got != nil {
		return fmt.Errorf("one of %d concurrent calls with one key got %v", callers, *got)
	}
	return nil
}

func remembersEveryKey(s *subject) error {
	keys := newKeys(10_000)
	for i, key := range keys {
		if err := s.wantFirst(i, key, s.later()); err != nil {
			return err
		}
	}
	for i, key := range keys {
		if err := s.wantRepeated(i+1, key, s.later()); err != nil {
			return fmt.Errorf("key %d of %d: %w", i+1, len(keys), err)
		}
	}
	return nil
}

func livesUntilExpires(s *subject) error {
	long := newKey()
	if err := s.wantFirst(0, long, s.later()); err != nil {
		return err
	}
	// Keys at ten places of the second: a store that counts whole seconds is wrong in some of them only.
	keys := newKeys(10)
	expires := make([]time.Time, len(keys))
	for i, key := range keys {
		expires[i] = time.Now().Add(1500 * time.Millisecond)
		if err := s.wantFirst(i, key, expires[i]); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	end := expires[len(expires)-1].Add(200 * time.Millisecond)
	for round := 0; time.Now().Before(end); round++ {
		for i, key := range keys {
			if err := s.wantRemembered(round, key, expires[i]); err != nil {
				return err
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return s.wantRepeated(0, long, s.later())
}

// wantRemembered checks a key that was recorded until expires: it is repeated until then, and after that an error.
func (s *subject) wantRemembered(handle int, key string, expires time.Time) error {
	got := s.use(context.Background(), handle, key, expires)
	early := time.Until(expires).Round(time.Millisecond)
	switch {
	case got.first && early > 0:
		return fmt.Errorf("a key was first again %v before it expired", early)
	case got.first:
		return fmt.Errorf("a key was first again with an expires that had passed")
	case got.err != nil && early > 0:
		return fmt.Errorf("a repeated key got %v %v before it expired", got, early)
	}
	return nil
}

func pastIsRefused(s *subject) error {
	past := []time.Time{time.Now().Add(-time.Second), time.Now().Add(-time.Hour), {}}
	for i, expires := range past {
		key := newKey()
		if got := s.use(context.Background(), i, key, expires); got.first || got.err == nil {
			return fmt.Errorf("a key that expired at %v got %v, want (false, an error)", expires, got)
		}
		if err := s.wantFirst(i, key, s.later()); err != nil {
			return fmt.Errorf("after a call with a past expires %w", err)
		}
	}
	return nil
}

func windowIsKept(s *subject) error {
	for i, handle := range s.handles {
		w, ok := handle.(replay.Windower)
		if !ok {
			continue
		}
		window := w.MaxWindow()
		if window <= 0 {
			return fmt.Errorf("MaxWindow is %v", window)
		}
		if err := s.wantFirst(i, newKey(), time.Now().Add(window)); err != nil {
			return fmt.Errorf("with an expires one MaxWindow (%v) away %w", window, err)
		}
		got := s.use(context.Background(), i, newKey(), time.Now().Add(window+time.Minute))
		if got.first || got.err == nil {
			return fmt.Errorf("a key that expires a minute after MaxWindow (%v) got %v, want (false, an error)", window, got)
		}
	}
	return nil
}

// madeOpensNothing tries the times that one client may write into two proofs with one jti. It does not know where a floor
// lies: a store that has remembered for years may take what is a day old.
func madeOpensNothing(s *subject) error {
	for i, away := range []time.Duration{time.Second, -24 * time.Hour, -100 * 365 * 24 * time.Hour} {
		other := &subject{s.handles, func() time.Time { return s.made().Add(away) }}
		used, fresh := newKey(), newKey()
		if err := s.wantFirst(i, used, s.later()); err != nil {
			return err
		}
		got := other.use(context.Background(), i+1, used, s.later())
		if err := s.wantUnlessStale(i+1, got, answer{false, nil}); err != nil {
			return fmt.Errorf("a key that was used, with a made %v away, %w", away, err)
		}
		got = other.use(context.Background(), i, fresh, s.later())
		if err := s.wantUnlessStale(i, got, answer{true, nil}); err != nil {
			return fmt.Errorf("a key that was never used, with a made %v away, %w", away, err)
		}
		if got.first {
			if err := s.wantRepeated(i+1, fresh, s.later()); err != nil {
				return fmt.Errorf("after a first use with a made %v away, %w", away, err)
			}
		}
	}
	return nil
}

// wantUnlessStale allows a Floorer to refuse instead.
func (s *subject) wantUnlessStale(handle int, got, want answer) error {
	var unavailable *replay.Unavailable
	f, isFloorer := s.handles[handle%len(s.handles)].(replay.Floorer)
	if isFloorer {
		_, _, isFloorer = f.Allowance()
	}
	switch {
	case got == want:
		return nil
	case got.first || !errors.Is(got.err, replay.ErrStale) && !errors.As(got.err, &unavailable):
		return fmt.Errorf("got %v, want %v", got, want)
	case !isFloorer:
		return fmt.Errorf("got %v, but the store has no Allowance, as one that refuses so must", got)
	}
	return nil
}

func replaysAreCounted(s *subject) error {
	for i, handle := range s.handles {
		counter, ok := handle.(replay.Statser)
		if !ok {
			continue
		}
		replays := func() int64 { stats := counter.Stats(); return stats.LocalReplays + stats.SharedReplays }
		before := replays()
		keys := newKeys(2) // one is first here, one through another handle
		for j, key := range keys {
			if err := s.wantFirst(i+j, key, s.later()); err != nil {
				return err
			}
		}
		for j := range 6 {
			if err := s.wantRepeated(i, keys[j%2], s.later()); err != nil {
				return err
			}
		}
		if n := replays() - before; n != 6 {
			return fmt.Errorf("after two first uses and 6 replays LocalReplays and SharedReplays have grown by %d", n)
		}
	}
	return nil
}

func cancelledIsNotFirstTwice(s *subject) error {
	for i := range 300 {
		ctx, cancel := context.WithCancel(context.Background())
		if i%2 == 0 {
			cancel()
		} else {
			go cancel() // while the call is under way
		}
		key, expires := newKey(), s.later()
		during := s.use(ctx, i, key, expires)
		cancel()
		after := s.use(context.Background(), i+1, key, expires)
		switch {
		case during.first && during.err != nil, during == answer{false, nil}:
			return fmt.Errorf("a cancelled call with a new key got %v, want (true, nil) or (false, an error)", during)
		case after.err != nil:
			return fmt.Errorf("the call after a cancelled one got %v", after)
		case during.first && after.first:
			return errors.New("a key was first in a cancelled call and again in the next")
		}
		if err := s.wantRepeated(i, key, expires); err != nil {
			return err
		}
	}
	return nil
}

func fullForgetsNothing(s *subject) error {
	const tooMany = 20_000
	var admitted []string
	refused := 0
	for i := 0; refused < 1000; i++ { // go on after the first refusal: some stores forget only under pressure
		key := newKey()
		got := s.use(context.Background(), i, key, s.later())
		switch {
		case got == answer{true, nil}:
			admitted = append(admitted, key)
		case !got.first && errors.Is(got.err, replay.ErrFull):
			refused++
		default:
			return fmt.Errorf("a new key got %v after %d keys, want (true, nil) or (false, replay.ErrFull)", got, len(admitted))
		}
		if len(admitted) >= tooMany {
			return fmt.Errorf("it took %d keys without replay.ErrFull", tooMany)
		}
	}
	if counter, ok := s.handles[0].(replay.Statser); ok {
		before := counter.Stats().Full
		got := s.use(context.Background(), 0, newKey(), s.later())
		if n := counter.Stats().Full - before; errors.Is(got.err, replay.ErrFull) && n != 1 {
			return fmt.Errorf("a refusal with ErrFull raised Full by %d", n)
		}
	}
	for i, key := range admitted {
		// A full store may be unable to say more than that it is full, even of a key that it holds.
		got := s.use(context.Background(), i, key, s.later())
		if got.first || got.err != nil && !errors.Is(got.err, replay.ErrFull) {
			return fmt.Errorf("key %d of %d, used before the store was full, got %v", i+1, len(admitted), got)
		}
	}
	return nil
}

// A subject is the memory under test.
type subject struct {
	handles []replay.Store
	made    func() time.Time
}

// An answer is what FirstUse returned.
type answer struct {
	first bool
	err   error
}

func (a answer) String() string {
	if a.err == nil {
		return fmt.Sprintf("(%t, nil)", a.first)
	}
	return fmt.Sprintf("(%t, error %q)", a.first, a.err)
}

// use calls FirstUse through a handle; any number selects one.
func (s *subject) use(ctx context.Context, handle int, key string, expires time.Time) answer {
	first, err := s.handles[handle%len(s.handles)].FirstUse(ctx, key, s.made(), expires)
	return answer{first, err}
}

func (s *subject) wantFirst(handle int, key string, expires time.Time) error {
	if got := s.use(context.Background(), handle, key, expires); got != (answer{true, nil}) {
		return fmt.Errorf("a key that was never used got %v, want (true, nil)", got)
	}
	return nil
}

func (s *subject) wantRepeated(handle int, key string, expires time.Time) error {
	if got := s.use(context.Background(), handle, key, expires); got != (answer{false, nil}) {
		return fmt.Errorf("a key that was used got %v, want (false, nil)", got)
	}
	return nil
}

// later returns an expires that no test lives to see, as long as the store can remember that far.
func (s *subject) later() time.Time {
	life := time.Minute
	if w, ok := s.handles[0].(replay.Windower); ok {
		life = min(life, w.MaxWindow())
	}
	return time.Now().Add(life)
}

// newKey returns the key of a new proof of a new client, so that no quota per client is met.
func newKey() string { return replay.Key(rand.Text(), rand.Text()) }

func newKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = newKey()
	}
	return keys
}
