// The tests of this package are internal: they need the laws as functions that return errors, to show that each of
// them fails for a store that breaks it.
package storetest

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/senderbound/senderbound/replay"
)

// model is a store that keeps the law, with a switch for each way to break it.
type model struct {
	mu   sync.Mutex
	used map[string]time.Time // key → expires
	keys []string             // in the order of their first use

	shape   func(key string) string                       // what is looked up; default: the key
	life    func(ttl time.Duration) time.Duration         // how long it is kept; default: ttl
	spoil   func(m *model, first bool) (bool, error)      // what is answered; default: the truth
	onCtx   func(ctx context.Context) (bool, error, bool) // an answer to a cancelled call
	racy    bool
	past    string // "allowed", "recorded"
	room    int
	full    func(m *model) error // what a store without room does; default: ErrFull
	forgets int                  // how many keys it remembers at most
}

func (m *model) FirstUse(ctx context.Context, key string, _, expires time.Time) (bool, error) {
	if m.onCtx != nil && ctx.Err() != nil {
		if first, err, answered := m.onCtx(ctx); answered {
			return first, err
		}
	}
	if m.shape != nil {
		key = m.shape(key)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if !expires.After(now) {
		if m.past == "recorded" {
			m.used[key] = now.Add(time.Minute)
		}
		if m.past == "" || m.past == "recorded" {
			return false, errors.New("past")
		}
	}
	until, known := m.used[key]
	first := !known || !until.After(now)
	if m.racy {
		m.mu.Unlock()
		runtime.Gosched()
		m.mu.Lock()
	}
	if first && m.room > 0 && len(m.used) >= m.room {
		if err := m.full(m); err != nil {
			return false, err
		}
	}
	if first {
		m.record(key, now, expires)
	}
	if m.spoil != nil {
		return m.spoil(m, first)
	}
	return first, nil
}

func (m *model) record(key string, now, expires time.Time) {
	if m.life != nil {
		expires = now.Add(m.life(expires.Sub(now)))
	}
	m.used[key] = expires
	m.keys = append(m.keys, key)
	if m.forgets > 0 && len(m.keys) > m.forgets {
		m.evict()
	}
}

// evict forgets the oldest key.
func (m *model) evict() {
	delete(m.used, m.keys[0])
	m.keys = m.keys[1:]
}

func answerFull(*model) error { return replay.ErrFull }

// windowed claims a window and may or may not keep it.
type windowed struct {
	*model
	claims, keeps time.Duration
}

func (w windowed) MaxWindow() time.Duration { return w.claims }

func (w windowed) FirstUse(ctx context.Context, key string, made, expires time.Time) (bool, error) {
	if time.Until(expires) > w.keeps {
		return false, errors.New("too far away")
	}
	return w.model.FirstUse(ctx, key, made, expires)
}

// floored refuses what was made more than an hour ago with an answer of its own, and may or may not say so.
type floored struct {
	*model
	old  answer
	says bool
}

func (f floored) Allowance() (leeway, clockSkew time.Duration, ok bool) {
	return time.Second, time.Second, f.says
}

func (f floored) FirstUse(ctx context.Context, key string, made, expires time.Time) (bool, error) {
	first, err := f.model.FirstUse(ctx, key, made, expires)
	if time.Since(made) > time.Hour {
		return f.old.first, f.old.err
	}
	return first, err
}

// perMade takes one key with another made for another key.
type perMade struct{ *model }

func (p perMade) FirstUse(ctx context.Context, key string, made, expires time.Time) (bool, error) {
	return p.model.FirstUse(ctx, key+made.Truncate(time.Second).String(), made, expires)
}

// unrecorded does not record what is old.
type unrecorded struct{ *model }

func (u unrecorded) FirstUse(ctx context.Context, key string, made, expires time.Time) (bool, error) {
	first, err := u.model.FirstUse(ctx, key, made, expires)
	if first && time.Since(made) > time.Hour {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.used, key)
	}
	return first, err
}

// counting counts its answers in some way.
type counting struct {
	*model
	count func(*replay.Stats, answer)
	stats *replay.Stats
}

func (c counting) Stats() replay.Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.stats
}

func (c counting) FirstUse(ctx context.Context, key string, made, expires time.Time) (bool, error) {
	first, err := c.model.FirstUse(ctx, key, made, expires)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count(c.stats, answer{first, err})
	return first, err
}

// countRight counts as the law says.
func countRight(stats *replay.Stats, a answer) {
	switch {
	case errors.Is(a.err, replay.ErrFull):
		stats.Full++
	case !a.first && a.err == nil:
		stats.SharedReplays++
	}
}

// with returns a function that opens the model as f has changed it, with two handles on one memory.
func with(f func(*model)) func() []replay.Store {
	return func() []replay.Store {
		m := &model{used: map[string]time.Time{}, full: answerFull}
		f(m)
		return []replay.Store{m, m}
	}
}

func withWindow(claims, keeps time.Duration) func() []replay.Store {
	return func() []replay.Store {
		m := &model{used: map[string]time.Time{}, full: answerFull}
		return []replay.Store{windowed{m, claims, keeps}}
	}
}

func withFloor(says bool, old answer) func() []replay.Store {
	return func() []replay.Store {
		return []replay.Store{floored{&model{used: map[string]time.Time{}, full: answerFull}, old, says}}
	}
}

// withStats opens two handles on one memory with counters of their own.
func withStats(room int, count func(*replay.Stats, answer)) func() []replay.Store {
	return func() []replay.Store {
		m := &model{used: map[string]time.Time{}, full: answerFull, room: room}
		return []replay.Store{counting{m, count, new(replay.Stats)}, counting{m, count, new(replay.Stats)}}
	}
}

// TestEveryLawCanFail shows each law a store that breaks it: without these controls a law proves nothing.
func TestEveryLawCanFail(t *testing.T) {
	type control struct {
		law, does string
		open      func() []replay.Store
	}
	controls := []control{
		{"FirstThenRepeated", "never says first", with(func(m *model) {
			m.spoil = func(*model, bool) (bool, error) { return false, nil }
		})},
		{"FirstThenRepeated", "always says first", with(func(m *model) {
			m.spoil = func(*model, bool) (bool, error) { return true, nil }
		})},
		{"FirstThenRepeated", "never records", with(func(m *model) { m.life = func(time.Duration) time.Duration { return 0 } })},
		{"FirstThenRepeated", "makes a repeated key an error", with(func(m *model) {
			m.spoil = func(_ *model, first bool) (bool, error) {
				if !first {
					return false, errors.New("replayed")
				}
				return true, nil
			}
		})},
		{"FirstThenRepeated", "says first together with an error", with(func(m *model) {
			m.spoil = func(_ *model, first bool) (bool, error) { return first, errors.New("warning") }
		})},
		{"FirstThenRepeated", "has a memory per handle", func() []replay.Store {
			return []replay.Store{with(func(*model) {})()[0], with(func(*model) {})()[0]}
		}},
		{"KeysDoNotMeet", "looks at the client only", with(func(m *model) { m.shape = replay.Client })},
		{"KeysDoNotMeet", "looks at the end of the key only", with(func(m *model) {
			m.shape = func(key string) string { return key[len(replay.Client(key)):] }
		})},
		{"KeysDoNotMeet", "cuts the last character", with(func(m *model) {
			m.shape = func(key string) string { return key[:len(key)-1] }
		})},
		{"KeysDoNotMeet", "ignores the case of letters", with(func(m *model) { m.shape = strings.ToLower })},
		{"OneOfManyIsFirst", "reads, then writes", with(func(m *model) { m.racy = true })},
		{"OneOfManyIsFirst", "fails under load", with(func(m *model) {
			m.spoil = func(m *model, first bool) (bool, error) {
				if !first && len(m.keys) == 2000 {
					return false, errors.New("busy")
				}
				return first, nil
			}
		})},
		{"RemembersEveryKey", "keeps the last 9,999 keys", with(func(m *model) { m.forgets = 9_999 })},
		{"LivesUntilExpires", "cuts to whole seconds", with(func(m *model) {
			m.life = func(ttl time.Duration) time.Duration { return ttl.Truncate(time.Second) }
		})},
		{"LivesUntilExpires", "forgets 30 ms early", with(func(m *model) {
			m.life = func(ttl time.Duration) time.Duration { return ttl - 30*time.Millisecond }
		})},
		{"LivesUntilExpires", "forgets after two seconds", with(func(m *model) {
			m.life = func(ttl time.Duration) time.Duration { return min(ttl, 2*time.Second) }
		})},
		{"LivesUntilExpires", "takes an expires that has passed", with(func(m *model) { m.past = "allowed" })},
		{"PastIsRefused", "takes an expires that has passed", with(func(m *model) { m.past = "allowed" })},
		{"PastIsRefused", "records a key that it refuses", with(func(m *model) { m.past = "recorded" })},
		{"WindowIsKept", "takes what it cannot remember", withWindow(time.Minute, time.Hour)},
		{"WindowIsKept", "refuses what it claims to remember", withWindow(time.Minute, 50*time.Second)},
		{"WindowIsKept", "has no window", withWindow(0, time.Minute)},
		{"MadeOpensNothing", "remembers a key for each made", func() []replay.Store {
			return []replay.Store{perMade{&model{used: map[string]time.Time{}}}}
		}},
		{"MadeOpensNothing", "does not record what is old", func() []replay.Store {
			return []replay.Store{unrecorded{&model{used: map[string]time.Time{}}}}
		}},
		{"MadeOpensNothing", "says first of whatever is old", withFloor(true, answer{true, nil})},
		{"MadeOpensNothing", "calls repeated whatever is old", withFloor(true, answer{false, nil})},
		{"MadeOpensNothing", "refuses what is old with an error of its own", withFloor(true, answer{false, errors.New("old")})},
		{"MadeOpensNothing", "says first together with ErrStale", withFloor(true, answer{true, replay.ErrStale})},
		{"MadeOpensNothing", "refuses what is old and says that it does not", withFloor(false, answer{false, replay.ErrStale})},
		{"MadeOpensNothing", "refuses what is old and is no Floorer", func() []replay.Store {
			return []replay.Store{struct{ replay.Store }{withFloor(true, answer{false, replay.ErrStale})()[0]}}
		}},
		{"ReplaysAreCounted", "counts nothing", withStats(0, func(*replay.Stats, answer) {})},
		{"ReplaysAreCounted", "counts first uses, too", withStats(0, func(s *replay.Stats, _ answer) { s.LocalReplays++ })},
		{"ReplaysAreCounted", "counts a replay in both places", withStats(0, func(s *replay.Stats, a answer) {
			countRight(s, a)
			s.LocalReplays = s.SharedReplays
		})},
		{"CancelledIsNotFirstTwice", "says first without recording", with(func(m *model) {
			m.onCtx = func(context.Context) (bool, error, bool) { return true, nil, true }
		})},
		{"CancelledIsNotFirstTwice", "says first together with an error", with(func(m *model) {
			m.onCtx = func(ctx context.Context) (bool, error, bool) { return true, ctx.Err(), true }
		})},
		{"CancelledIsNotFirstTwice", "calls a new key repeated", with(func(m *model) {
			m.onCtx = func(context.Context) (bool, error, bool) { return false, nil, true }
		})},
		{"CancelledIsNotFirstTwice", "stays broken", with(func(m *model) {
			m.onCtx = func(ctx context.Context) (bool, error, bool) {
				m.spoil = func(*model, bool) (bool, error) { return false, ctx.Err() }
				return false, ctx.Err(), true
			}
		})},
		{"FullForgetsNothing", "forgets the oldest key to make room", with(func(m *model) {
			m.room, m.full = 500, func(m *model) error { m.evict(); return nil }
		})},
		{"FullForgetsNothing", "forgets the oldest key although it says that it is full", with(func(m *model) {
			m.room, m.full = 500, func(m *model) error { m.evict(); return replay.ErrFull }
		})},
		{"FullForgetsNothing", "does not say that it is full", with(func(m *model) {
			m.room, m.full = 500, func(*model) error { return errors.New("out of memory") }
		})},
		{"FullForgetsNothing", "is never full", with(func(m *model) {})},
		{"FullForgetsNothing", "does not count that it is full", withStats(500, func(*replay.Stats, answer) {})},
		{"FullForgetsNothing", "counts that it is full twice", withStats(500, func(s *replay.Stats, a answer) {
			countRight(s, a)
			countRight(s, a)
		})},
	}
	controlled := map[string]bool{}
	for _, c := range controls {
		controlled[c.law] = true
		t.Run(c.law+"/"+c.does, func(t *testing.T) {
			t.Parallel()
			l := lawNamed(t, c.law)
			err := l.test(c.open(), nil)
			if err == nil {
				t.Fatalf("the law holds for a store that %s", c.does)
			}
			if !strings.HasPrefix(err.Error(), l.rule) {
				t.Errorf("the failure does not name its rule: %v", err)
			}
			t.Log(err)
		})
	}
	for _, l := range laws {
		if !controlled[l.name] {
			t.Errorf("no control shows that law %s can fail", l.name)
		}
	}
}

// TestLawfulStorePasses is the other half: a store that keeps the law passes, whatever else it is.
func TestLawfulStorePasses(t *testing.T) {
	open := func(f func() []replay.Store) func(*testing.T) []replay.Store {
		return func(*testing.T) []replay.Store { return f() }
	}
	small := open(with(func(m *model) { m.room = 500 }))
	t.Run("plain", func(t *testing.T) {
		t.Parallel()
		Run(t, Config{Open: open(with(func(*model) {})), OpenSmall: small})
	})
	t.Run("windowed", func(t *testing.T) {
		t.Parallel()
		Run(t, Config{Open: open(withWindow(10*time.Second, 10*time.Second)), OpenSmall: small})
	})
	booting := &replay.Unavailable{Err: errors.New("booting")}
	for name, old := range map[string]error{"floored": replay.ErrStale, "just booted": booting} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Run(t, Config{Open: open(withFloor(true, answer{false, old}))})
		})
	}
	t.Run("counting", func(t *testing.T) {
		t.Parallel()
		Run(t, Config{Open: open(withStats(0, countRight)), OpenSmall: open(withStats(500, countRight))})
	})
	t.Run("refuses what is cancelled", func(t *testing.T) {
		t.Parallel()
		Run(t, Config{Open: open(with(func(m *model) {
			m.onCtx = func(ctx context.Context) (bool, error, bool) { return false, ctx.Err(), true }
		}))})
	})
}

// TestMadeIsPassedOn keeps Config.Made in use: a store with an epoch refuses older proofs.
func TestMadeIsPassedOn(t *testing.T) {
	made := time.Now().Add(time.Hour)
	var got time.Time
	store := storeFunc(func(m time.Time) { got = m })
	if err := lawNamed(t, "FirstThenRepeated").test([]replay.Store{store}, func() time.Time { return made }); err == nil {
		t.Error("the law holds for a store that always says first")
	}
	if !got.Equal(made) {
		t.Errorf("made is %v, want what Config.Made returns, %v", got, made)
	}
}

type storeFunc func(made time.Time)

func (f storeFunc) FirstUse(_ context.Context, _ string, made, _ time.Time) (bool, error) {
	f(made)
	return true, nil
}

func lawNamed(t *testing.T, name string) law {
	t.Helper()
	for _, l := range laws {
		if l.name == name {
			return l
		}
	}
	t.Fatalf("no law is named %s", name)
	return law{}
}
