// Package replay says what a memory of used DPoP proofs must do, so that a proof works once: for one process, for many
// pods, and across a store's failures.
//
// The package holds the contract ([Store]), the key under which a proof is remembered ([Key]) and small adapters. Beside it
// lives memstore, for one process; a store that several share is one method, or [SetNXFunc] around a client. A store
// written elsewhere needs no import of this package unless it returns one of its errors, since only standard-library types
// appear in FirstUse; replay/storetest holds the law as a test.
//
// A replay store knows nothing of DPoP: it sees fixed-length keys, never a token, a proof or a jti (RFC 9449 §11.1
// permits to store a hash).
package replay

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// A Store remembers which proofs were used.
//
// FirstUse records key as used until expires and reports whether this call was the first to do so. Check and record
// are one atomic step over all processes that share the store: of any number of concurrent calls with one key, at most
// one gets true. A repeated key is (false, nil).
//
// An error means that the store does not know; the caller must refuse. [ErrStale] and [ErrFull] and [*Unavailable] say
// more; any other error is an unknown failure. After an error the key may or may not be recorded. When ctx ends early,
// the answer is an error or a right one.
//
// A store may remember a key longer than until expires, never shorter: a full store returns an error, be it for a known
// key, and does not forget one to make room. An expires that is not in the future is an error and records nothing, and
// so is one further away than the store can remember.
//
// made is when the proof was made, by the client's clock or by the nonce it carries. A store that may have lost its
// memory since then returns ErrStale, because the proof may have been used before the loss, or, while a new proof would be
// refused as well, an *Unavailable. A [Floor] decides that.
//
// FirstUse may be called by any number of goroutines.
type Store interface {
	FirstUse(ctx context.Context, key string, made, expires time.Time) (first bool, err error)
}

// A Windower is a [Store] that must know how long proofs live. MaxWindow is the longest time from now to expires that
// it can remember. dpop.NewVerifier compares and refuses a store whose window is too short; a wrapper of stores
// forwards MaxWindow.
type Windower interface{ MaxWindow() time.Duration }

// A Floorer is a [Store] that may refuse proofs by when they were made, because it may have lost its memory since then.
// Allowance returns the Leeway and the ClockSkew that it reckons with (see [Floor]), and false if it never refuses so.
// dpop.NewVerifier compares and refuses a store whose allowance is smaller than its own; a wrapper of stores forwards
// Allowance.
type Floorer interface {
	Allowance() (leeway, clockSkew time.Duration, ok bool)
}

var (
	// ErrStale says that the store may have lost its memory since the proof was made and that a new proof will do.
	ErrStale = errors.New("replay: the store may have lost its memory since the proof was made")
	// ErrFull says that the store has no room, for this client or at all.
	ErrFull = errors.New("replay: the store is full")
)

// Unavailable says that a store cannot tell, or that no new proof would do yet. RetryAfter is when asking again makes
// sense; 0 means unknown.
type Unavailable struct {
	Err        error
	RetryAfter time.Duration
}

func (e *Unavailable) Error() string { return fmt.Sprintf("replay: store unavailable: %v", e.Err) }

// Unwrap returns the cause.
func (e *Unavailable) Unwrap() error { return e.Err }

// SetNXFunc makes a [Store] of any client that can set a key if it does not exist, with a time to live: one command of
// Redis or memcached, one INSERT … ON CONFLICT DO NOTHING. It reports whether the key was set by this call. ttl is
// positive and in whole milliseconds, rounded up.
//
// The set and the check must be one atomic step of the server. The client behind it must not repeat a command whose
// reply was lost, or a fresh proof is refused as a replay. ttl is counted from the machine's clock, so the Verifier's must
// be that, too.
type SetNXFunc func(ctx context.Context, key string, ttl time.Duration) (bool, error)

// FirstUse calls f with the time that is left until expires. An answer that comes later than that is an error: what was
// set before may be forgotten by then, and the key set anew.
func (f SetNXFunc) FirstUse(ctx context.Context, key string, _, expires time.Time) (bool, error) {
	ttl := min(time.Until(expires), math.MaxInt64-time.Millisecond) // leaves room to round up
	if ttl <= 0 {
		return false, errExpired
	}
	first, err := f(ctx, key, (ttl + time.Millisecond - 1).Truncate(time.Millisecond))
	if first && time.Until(expires) <= 0 {
		return false, errLate
	}
	return first, err
}

var (
	errExpired = errors.New("replay: expires is not in the future")
	errLate    = errors.New("replay: expires passed while the store was asked")
)

// clientLen and keyLen are the lengths of a key's client part and of a key: 144 bits of SHA-256 each, in base64url.
const (
	hashLen   = 18
	clientLen = hashLen / 3 * 4
	keyLen    = 2 * clientLen
)

// Key returns the key under which the proof with this jti, made with the key of thumbprint jkt, is remembered: 48
// characters of the base64url alphabet, whatever the lengths of jkt and jti.
//
// The jkt is part of it, so no client can use up another client's jti. The first half depends on jkt alone; see
// [Client].
func Key(jkt, jti string) string {
	var buf [512]byte
	in := binary.AppendUvarint(buf[:0], uint64(len(jkt)))
	in = append(in, jkt...)
	client := sha256.Sum256(in[len(in)-len(jkt):])
	in = append(in, jti...)
	proof := sha256.Sum256(in)
	var out [keyLen]byte
	base64.RawURLEncoding.Encode(out[:clientLen], client[:hashLen])
	base64.RawURLEncoding.Encode(out[clientLen:], proof[:hashLen])
	return string(out[:])
}

// Client returns the part of a key made by [Key] that is the same for all proofs of one client key, so that a store
// can hold a quota per client. Of any other key it returns at most as many leading characters.
func Client(key string) string { return key[:min(len(key), clientLen)] }

// Namespace returns a view of s in which keys do not meet those of any other name: where two places that share a store,
// such as a gateway and the service behind it, each check the same proof. Keys keep their length and their client part,
// so a quota per client counts across namespaces.
//
// The view is a [Windower], a [Floorer] and a [Statser] as s is. Its Stats are those of s, of all names together.
func Namespace(s Store, name string) Store {
	n := namespace{s, sha256.Sum256([]byte(name))}
	w, isWindower := s.(Windower)
	c, isStatser := s.(Statser)
	switch { // a view must not claim what its store does not have
	case isWindower && isStatser:
		return struct {
			namespace
			Windower
			Statser
		}{n, w, c}
	case isWindower:
		return struct {
			namespace
			Windower
		}{n, w}
	case isStatser:
		return struct {
			namespace
			Statser
		}{n, c}
	}
	return n
}

type namespace struct {
	store Store
	name  [sha256.Size]byte
}

// Allowance implements [Floorer]: false for a store that is none.
func (n namespace) Allowance() (leeway, clockSkew time.Duration, ok bool) {
	if f, isFloorer := n.store.(Floorer); isFloorer {
		return f.Allowance()
	}
	return 0, 0, false
}

func (n namespace) FirstUse(ctx context.Context, key string, made, expires time.Time) (bool, error) {
	client := Client(key)
	sum := sha256.Sum256(append(n.name[:], key...))
	return n.store.FirstUse(ctx, client+base64.RawURLEncoding.EncodeToString(sum[:hashLen]), made, expires)
}
