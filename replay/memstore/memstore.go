// Package memstore remembers used DPoP proofs in the memory of one process.
//
//	store, err := memstore.New(memstore.Config{})
//	defer store.Close()
//
// It is exact while the process runs: a key is first once, is kept until it expires, and is never dropped to make room.
// When there is no room, new keys are refused with replay.ErrFull and the old ones stay used.
//
// What it cannot do: it shares nothing with other processes, so behind a load balancer a proof passes once in each of
// them. Where that matters, use a store outside the process.
//
// # Restarts
//
// A new store is empty, so a proof that was used shortly before a restart passes once more. With Config.BootFloor it does
// not: the store refuses what was made, by the client's clock, up to Leeway + 2·ClockSkew after New, 20 s by default.
// That is nearly every proof for so long and up to a second, with a *replay.Unavailable that says how long; afterwards
// the few old ones, with replay.ErrStale. See replay.Floor.
//
// Set it where that price is lower than that of a request which is made twice: an API that moves money, with one process
// that seldom starts. It is off by default because a first start, which has lost nothing, would pay, too. It holds if the
// process before has answered its last request when New is called, so not while two run side by side during a release,
// and if the clock is within ClockSkew of true time by then. A process that is put back to an earlier snapshot forgets
// without noticing.
//
// # Memory
//
// A key takes about 85 bytes, whosever it is: a full store of the default size, one million keys, takes 85 MB. The garbage
// collector's headroom (GOGC) comes on top, as for all memory of the process; in a process that does nothing else it
// was a third more. Memory grows with use, and what was once used stays reserved.
//
// Once its memory has stopped growing, the store holds a key for Window and three to four seconds; before that, up to about
// twice as long. A process that admits r proofs a second therefore comes to hold about r·(Window + 3 s) keys, and the
// defaults suffice for about 8,000 proofs a second, 800 of them with one client key.
//
// # Clocks
//
// Whether a key has expired is asked of Config.Now; when it may be forgotten is measured on the wall clock in whole
// seconds, rounded up. A wall clock that is set back keeps keys for longer, by as much as it was set. One that is set
// ahead drops the keys that have expired by the new time; the store remembers the latest expiry that it dropped and
// refuses whatever expires no later with replay.ErrStale. So no step of a clock lets a used proof pass again. The price:
// when a clock that ran ahead for long is set right, proofs are refused until it has caught up or the process restarts.
package memstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/allegro/bigcache/v3"

	"github.com/senderbound/senderbound/replay"
)

// Config limits a [Store]. The zero Config is good for a single process with up to about 8,000 requests a second.
type Config struct {
	// MaxEntries is how many keys the store holds at most, of all clients; default 1,000,000, which take about 85 MB.
	// Beyond it FirstUse returns replay.ErrFull.
	MaxEntries int

	// MaxPerClient is how many keys of one client (see replay.Client) it holds at most, so that one client with one key
	// cannot fill the store for all; default a tenth of MaxEntries. Beyond it FirstUse returns replay.ErrFull to that
	// client. The same as MaxEntries means no limit.
	//
	// No client gets more. By accident, and with the defaults less often than one in ten million, a client gets less,
	// because the counters that it shares with others are used up; below about ten that becomes more likely. A client
	// with many keys counts as many clients: who may obtain tokens for how many keys is the issuer's decision.
	MaxPerClient int

	// Window is how far in the future expires may lie, at most 24 h; default 2 minutes. A verifier needs its MaxAge, Leeway, twice its
	// ClockSkew and a second of rounding, 81 s by default, and refuses to be made with a store whose Window is shorter.
	Window time.Duration

	// BootFloor makes the store refuse proofs that may have been used before it was made, so that a restart lets none
	// pass again. For about 20 s after New nearly every proof is refused; see Restarts in the package documentation.
	BootFloor bool

	// Leeway and ClockSkew are what BootFloor reckons with: at least the Verifier's, which refuses to be made with a
	// store whose own are smaller. 0 means 10 s and 5 s, the Verifier's defaults. They mean nothing without BootFloor.
	Leeway, ClockSkew time.Duration

	// Now tells the time by which expires is judged, and that of New for BootFloor; default time.Now.
	Now func() time.Time
}

const (
	defaultMaxEntries = 1_000_000
	defaultWindow     = 2 * time.Minute
	maxMaxEntries     = 1 << 30 // bigcache counts the bytes of a shard in 32 bits
	maxWindow         = 24 * time.Hour

	// The memory has parts with a lock of their own, as many as keep some thousand entries each. Entries are spread over
	// them by a secret hash, so no client can choose the part that its proofs go to.
	maxShards    = 256
	shardEntries = 4096
)

var (
	errFull       = fmt.Errorf("memstore: MaxEntries keys are in use: %w", replay.ErrFull)
	errClientFull = fmt.Errorf("memstore: MaxPerClient keys of this client are in use: %w", replay.ErrFull)
	errClockStep  = fmt.Errorf("memstore: keys that expired as late as this one were forgotten, so the clock was set back: %w",
		replay.ErrStale)
	errExpired = errors.New("memstore: expires is not in the future")
	errClosed  = errors.New("memstore: the store is closed")
)

// A Store is a replay.Store in memory. Its methods may be called by any number of goroutines.
type Store struct {
	cache  *bigcache.BigCache
	seed   maphash.Seed
	shards []shard // as many as bigcache has, a power of two
	quota  quota
	live   atomic.Int64
	closed atomic.Bool

	maxEntries int64
	window     time.Duration
	floor      *replay.Floor // nil without BootFloor
	now        func() time.Time

	// What was refused. A first use counts nothing but live.
	replays, full, stale, unavailable atomic.Int64
}

var (
	_ replay.Store    = (*Store)(nil)
	_ replay.Windower = (*Store)(nil)
	_ replay.Floorer  = (*Store)(nil)
	_ replay.Statser  = (*Store)(nil)
)

// A shard is the lock around one shard of bigcache and what belongs to its entries. bigcache can look up and it can
// set, but not both in one step; this lock makes one step of them. It is held for less than a microsecond.
type shard struct {
	mu sync.Mutex
	// entry is where a key and its value are put together for bigcache, which copies them.
	entry struct{ key, value [8]byte }
	// forgotten is the latest expires that was ever removed, in seconds as the value holds it. It is written under
	// bigcache's lock and read under mu.
	forgotten atomic.Uint32
	_         [36]byte // a cache line for each, so that neighbours do not slow each other down
}

// New returns an empty store. The error names every mistake in cfg at once. The store has a goroutine that forgets
// expired keys; Close ends it.
func New(cfg Config) (*Store, error) {
	floor, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	s := &Store{
		seed:       maphash.MakeSeed(),
		shards:     make([]shard, shardsFor(cfg.MaxEntries)),
		quota:      newQuota(cfg.MaxEntries, cfg.MaxPerClient),
		maxEntries: int64(cfg.MaxEntries),
		window:     cfg.Window,
		floor:      floor,
		now:        cfg.Now,
	}
	// The context is one that never ends: bigcache would write to standard output when it did.
	s.cache, err = bigcache.New(context.Background(), bigcache.Config{
		Shards: len(s.shards),
		Hasher: identity{},
		// bigcache cuts to whole seconds. Two more absorb what a wall clock is adjusted by in ordinary operation.
		LifeWindow:  (cfg.Window + time.Second - 1).Truncate(time.Second) + 2*time.Second,
		CleanWindow: time.Second,
		// No HardMaxCacheSize: at that limit bigcache drops the oldest entry, live or not. reserve is the limit.
		MaxEntrySize: startSize(cfg.MaxEntries / len(s.shards)),
		OnRemove:     s.removed,
	})
	if err != nil {
		return nil, fmt.Errorf("memstore: %w", err)
	}
	if floor != nil {
		floor.Raise(cfg.Now())
	}
	return s, nil
}

// shardsFor returns the number of shards that fit the capacity, a power of two.
func shardsFor(maxEntries int) int {
	return min(1<<bits.Len(uint(maxEntries/shardEntries)), maxShards)
}

// startSize returns the MaxEntrySize for which bigcache's buffers begin small and, doubling, come to hold mean entries a
// shard without a large rest. bigcache uses it for nothing else than the first size, which is ten times that.
func startSize(mean int) int {
	const entry = 1 + 8 + 8 + 2 + 8 + 8        // length, time stamp, hash, length of the key, key, value
	deviation := int(math.Sqrt(float64(mean))) // of a shard's share from the mean
	size := entry * (mean + 6*deviation + 10)
	for size > 4096 {
		size = size/2 + 1
	}
	return size/10 + 1
}

// complete puts the defaults in and reports every mistake. The floor is nil without BootFloor.
func (c *Config) complete() (floor *replay.Floor, err error) {
	var wrong []error
	mistake := func(format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("memstore: Config."+format, args...))
	}
	if c.MaxEntries == 0 {
		c.MaxEntries = defaultMaxEntries
	}
	if c.MaxEntries < 0 || c.MaxEntries > maxMaxEntries {
		mistake("MaxEntries is %d: set 1 to %d, or 0 for %d", c.MaxEntries, maxMaxEntries, defaultMaxEntries)
	}
	if c.MaxPerClient == 0 {
		c.MaxPerClient = max(1, c.MaxEntries/10)
	}
	if c.MaxPerClient < 0 || c.MaxEntries > 0 && c.MaxPerClient > c.MaxEntries {
		mistake("MaxPerClient is %d: set 1 to MaxEntries, or 0 for a tenth of MaxEntries", c.MaxPerClient)
	}
	if c.Window == 0 {
		c.Window = defaultWindow
	}
	if c.Window < 0 || c.Window > maxWindow {
		mistake("Window is %v: set how long a proof lives, at most %v, or 0 for %v", c.Window, maxWindow, defaultWindow)
	}
	if c.BootFloor {
		if floor, err = replay.NewFloor(c.Leeway, c.ClockSkew); err != nil {
			mistake("%w", err)
		}
	} else if c.Leeway != 0 || c.ClockSkew != 0 {
		mistake("Leeway is %v and ClockSkew is %v, but they are for BootFloor alone: set it, too, or leave them 0",
			c.Leeway, c.ClockSkew)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return floor, errors.Join(wrong...)
}

// FirstUse implements replay.Store. It does not wait, so it does not look at the context; made matters with BootFloor
// only, as the store loses its memory only together with the process.
//
// An error is replay.ErrFull if there is no room for a new key; replay.ErrStale after a step of the clock, and with
// BootFloor for a proof that may have been used before New; a *replay.Unavailable as long as that goes for every new
// proof; and one without a name if expires is not in the future or further away than Window, or if the store is closed.
// After an error the key is not recorded.
func (s *Store) FirstUse(_ context.Context, key string, made, expires time.Time) (bool, error) {
	now := s.now()
	switch left := expires.Sub(now); {
	case left <= 0:
		return false, errExpired
	case left > s.window:
		return false, fmt.Errorf("memstore: a key that expires in %v cannot be remembered, as Config.Window is %v", left, s.window)
	}
	first, err := s.use(key, made, expires, now)
	switch {
	case first:
	case err == nil:
		s.replays.Add(1)
	case errors.Is(err, replay.ErrFull):
		s.full.Add(1)
	case errors.Is(err, replay.ErrStale):
		s.stale.Add(1)
	default:
		s.unavailable.Add(1)
	}
	return first, err
}

// use is FirstUse for an expires that can be remembered.
func (s *Store) use(key string, made, expires, now time.Time) (bool, error) {
	if s.closed.Load() {
		return false, errClosed
	}
	if s.floor != nil {
		if err := s.floor.Check(made, now); err != nil {
			return false, err
		}
	}
	// bigcache does not tell keys with equal hashes apart: it drops the older one. Hence the hash itself is the key.
	// Two proofs that meet in it refuse the later one, which no one can bring about without the seed and which among
	// a million keys happens by chance once in 10¹³ proofs. bigcache needs 0 for itself.
	hash := max(1, maphash.String(s.seed, key))
	client := uint32(maphash.String(s.seed, replay.Client(key)))

	sh := s.shard(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	binary.LittleEndian.PutUint64(sh.entry.key[:], hash)
	// A string without a copy: bigcache does not keep it, and mu guards the bytes. A copy would be garbage per request.
	k := unsafe.String(&sh.entry.key[0], len(sh.entry.key))
	switch _, err := s.cache.Get(k); {
	case err == nil:
		return false, nil
	case !errors.Is(err, bigcache.ErrEntryNotFound):
		return false, fmt.Errorf("memstore: %w", err)
	}
	// Only now: what was removed until Get has told forgotten.
	until := seconds(expires)
	if until <= sh.forgotten.Load() {
		return false, errClockStep
	}
	if err := s.reserve(client); err != nil {
		return false, err
	}
	binary.LittleEndian.PutUint32(sh.entry.value[:4], client)
	binary.LittleEndian.PutUint32(sh.entry.value[4:], until)
	if err := s.cache.Set(k, sh.entry.value[:]); err != nil {
		s.release(client)
		return false, fmt.Errorf("memstore: %w", err)
	}
	return true, nil
}

// MaxWindow returns Config.Window: the longest time from now to expires that the store takes.
func (s *Store) MaxWindow() time.Duration { return s.window }

// Allowance returns Config.Leeway and Config.ClockSkew, with their defaults, and whether BootFloor is set.
func (s *Store) Allowance() (leeway, clockSkew time.Duration, ok bool) {
	if s.floor == nil {
		return 0, 0, false
	}
	return s.floor.Allowance()
}

// Stats returns how many keys are held, among them those that expired in the last seconds, and what was refused since
// New. Unavailable counts refusals by BootFloor for which no new proof would do, and by a closed store.
func (s *Store) Stats() replay.Stats {
	return replay.Stats{
		Live: s.live.Load(), Capacity: s.maxEntries,
		LocalReplays: s.replays.Load(), Full: s.full.Load(), Stale: s.stale.Load(), Unavailable: s.unavailable.Load(),
	}
}

// Close ends the store's goroutine. FirstUse is an error from then on; calls that are under way end in order. The
// memory is free when nothing refers to the store. Closing again does nothing. The error is always nil.
func (s *Store) Close() error {
	if s.closed.CompareAndSwap(false, true) { // a second Close of bigcache would panic
		return s.cache.Close()
	}
	return nil
}

// reserve counts one more key of the client, or returns the error that says that there is no room. One counter for the
// whole store keeps MaxEntries exact; next to the signature that every request costs, it is not felt.
func (s *Store) reserve(client uint32) error {
	if !s.quota.add(client) {
		return errClientFull
	}
	if s.live.Add(1) > s.maxEntries {
		s.release(client)
		return errFull
	}
	return nil
}

// release takes back what reserve counted.
func (s *Store) release(client uint32) {
	s.live.Add(-1)
	s.quota.remove(client)
}

// removed is called by bigcache, with the lock of the entry's shard held, after an entry has been removed.
func (s *Store) removed(key string, value []byte) {
	client, until := binary.LittleEndian.Uint32(value), binary.LittleEndian.Uint32(value[4:])
	if sh := s.shard(identity{}.Sum64(key)); until > sh.forgotten.Load() {
		sh.forgotten.Store(until)
	}
	s.release(client)
}

// shard returns the lock of the shard of bigcache in which hash is.
func (s *Store) shard(hash uint64) *shard { return &s.shards[hash&uint64(len(s.shards)-1)] }

// seconds returns t in whole seconds since 1970, rounded up and cut to 32 bits, which last until 2106.
func seconds(t time.Time) uint32 {
	return uint32(min(max(t.Add(time.Second-1).Unix(), 0), math.MaxUint32))
}

// identity is bigcache's hasher for keys that are hashes already.
type identity struct{}

func (identity) Sum64(key string) uint64 { return binary.LittleEndian.Uint64([]byte(key)) }
