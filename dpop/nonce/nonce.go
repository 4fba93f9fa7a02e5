// Package nonce makes server nonces for DPoP (RFC 9449 §8 and §9) without storing any: a nonce is the time at which it was
// made, how long it lives, and a MAC over both.
//
//	nonces, err := nonce.New(nonce.Config{}, secret)
//	verifier, err := dpop.NewVerifier(dpop.Config{Nonces: nonces, …})
//
// With nonces on, every proof must carry one of ours, and lives as long as that: the client's clock does not matter any
// more, and nobody can make a proof for later. Every process that has the same secrets takes the nonces of all others. The
// price is one more request at the beginning, and whenever a client has been silent for longer than a nonce lives.
//
// A nonce may be used for many requests and is no secret: anyone may have one. What keeps a proof from being used twice is the
// replay store, as always, which remembers it for the nonce's life.
//
// A Verifier asks for nonces always or never. Where only some routes are to ask, take two Verifiers with one Replay; see the
// example. The routes must differ in method or path, since a proof covers nothing else of a request.
package nonce

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// A Config says how long nonces live. The zero Config is good for most.
type Config struct {
	// Life is how long a nonce is good, in whole seconds; default 90 s, at most 1 h. A shorter one costs clients that are
	// seldom heard of more second requests, a longer one makes the replay store hold proofs for longer. It may be changed in
	// one process after another: each nonce lives as long as the process that made it said.
	Life time.Duration

	// Renew is how old a nonce becomes until its client is given a newer one with an answer; default a third of Life, at most
	// half. A client that sends something at least once in Life - Renew goes on without a second request.
	Renew time.Duration

	// ClockSkew is how far the clocks of the processes that share the secrets may differ from true time, as in dpop.Config; 0
	// means the default, 5 s. At most 1 h. A process whose clock is further off does not take the nonces of the others.
	ClockSkew time.Duration

	// BindToKey makes nonces good for one client key only: what one client is told is of no use to another. It costs a MAC
	// for each nonce that is made. It may be turned on in one process after another, since those in which it is off take
	// bound nonces, too.
	BindToKey bool
}

const (
	defaultLife      = 90 * time.Second
	defaultClockSkew = 5 * time.Second
	longest          = time.Hour

	// minSecret is as many bytes as SHA-256 gives.
	minSecret = 32
)

// The parts of a nonce, in bytes: the second in which it was made, the seconds that it lives, and the MAC, which is 16
// bytes and one that fills them up, so that base64 has one spelling only.
const (
	timeLen = 8
	lifeLen = 2
	bodyLen = timeLen + lifeLen
	macLen  = 17
	rawLen  = bodyLen + macLen
	textLen = rawLen / 3 * 4
)

// A Source makes and checks nonces. It is a dpop.NonceSource. Its methods may be called by any number of goroutines.
type Source struct {
	cfg     Config
	secrets atomic.Pointer[[][]byte] // the newest first
	latest  atomic.Pointer[issued]   // what this second's nonce is, if it is not bound to a key
}

type issued struct {
	made    int64
	secrets *[][]byte
	text    string
}

// New returns a Source for secrets, the newest first: it makes nonces with that one and takes those of all. A secret has
// 32 random bytes or more. The error names every mistake and no secret.
func New(cfg Config, secrets ...[]byte) (*Source, error) {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf("nonce: Config."+format, args...)) }
	cfg.Life, cfg.ClockSkew = cmp.Or(cfg.Life, defaultLife), cmp.Or(cfg.ClockSkew, defaultClockSkew)
	cfg.Renew = cmp.Or(cfg.Renew, cfg.Life/3)
	if cfg.Life < 3*time.Second || cfg.Life > longest || cfg.Life%time.Second != 0 {
		wrong("Life is %v: set whole seconds from 3 s to %v, or 0 for %v", cfg.Life, longest, defaultLife)
	} else if cfg.Renew < time.Second || cfg.Renew > cfg.Life/2 {
		wrong("Renew is %v: set 1 s to half of Life, which is %v, or 0 for a third of it", cfg.Renew, cfg.Life)
	}
	if cfg.ClockSkew < 0 || cfg.ClockSkew > longest {
		wrong("ClockSkew is %v: set a positive duration of at most %v, or 0 for %v", cfg.ClockSkew, longest, defaultClockSkew)
	}
	s := &Source{cfg: cfg}
	if err := s.Rotate(secrets...); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return s, nil
}

// Rotate replaces the secrets, the newest first. Processes cannot all do so at one moment. So that no client is refused, add the
// new secret behind the old one in every process; when all have it, put it first; and when all have done that, drop the old
// one MaxLife later. One that others may know is dropped at once, at the price of a second request from each client.
//
// After an error nothing has changed.
func (s *Source) Rotate(secrets ...[]byte) error {
	if len(secrets) == 0 {
		return errors.New("nonce: no secret is given: give one of 32 random bytes or more, the same to all processes")
	}
	ring := make([][]byte, len(secrets))
	for i, secret := range secrets {
		if len(secret) < minSecret {
			return fmt.Errorf("nonce: a secret has %d bytes: give %d random ones or more", len(secret), minSecret)
		}
		if bytes.Count(secret, secret[:1]) == len(secret) {
			return errors.New("nonce: a secret is one byte repeated, as if it was never filled: give random ones")
		}
		ring[i] = bytes.Clone(secret)
	}
	s.secrets.Store(&ring)
	return nil
}

// Issue returns a nonce that was made now, for the client whose proof key has thumbprint jkt: 36 characters of base64url.
// Without BindToKey all clients get the same for a second, and only the first of them costs a MAC.
func (s *Source) Issue(jkt string, now time.Time) string {
	made, secrets := now.Unix(), s.secrets.Load()
	if s.cfg.BindToKey {
		return s.text(made, (*secrets)[0], jkt)
	}
	if last := s.latest.Load(); last != nil && last.secrets == secrets && last.made == made {
		return last.text
	}
	text := s.text(made, (*secrets)[0], "")
	s.latest.Store(&issued{made, secrets, text})
	return text
}

// text writes a nonce. Its time is when it was made, not the beginning of a longer step: after a store has lost its memory a
// nonce from before is stale, and one that is given out afterwards must not be.
func (s *Source) text(made int64, secret []byte, jkt string) string {
	raw := binary.BigEndian.AppendUint64(make([]byte, 0, rawLen), uint64(made))
	raw = binary.BigEndian.AppendUint16(raw, uint16(s.cfg.Life/time.Second))
	sum := mac(secret, raw, jkt)
	return base64.RawURLEncoding.EncodeToString(append(raw, sum[:]...))
}

// Check reports whether nonce was made with one of the secrets, for this client if nonces are bound, and is good now. made and
// expires are the ends of its life; next is a newer nonce if Renew is over, else "".
func (s *Source) Check(nonce, jkt string, now time.Time) (made, expires time.Time, next string, ok bool) {
	if len(nonce) != textLen {
		return made, expires, "", false
	}
	var raw [rawLen]byte
	if n, err := base64.RawURLEncoding.Decode(raw[:], []byte(nonce)); err != nil || n != rawLen { // it skips line breaks
		return made, expires, "", false
	}
	from := time.Unix(int64(binary.BigEndian.Uint64(raw[:])), 0)
	to := from.Add(time.Duration(binary.BigEndian.Uint16(raw[timeLen:])) * time.Second)
	if !now.Before(to) || from.After(now.Add(2*s.cfg.ClockSkew)) || to.After(now.Add(s.MaxLife())) || !s.isOurs(&raw, jkt) {
		return made, expires, "", false
	}
	if now.Sub(from) >= s.cfg.Renew {
		next = s.Issue(jkt, now)
	}
	return from, to, next, true
}

// isOurs reports whether one of the secrets made a nonce, for this client or, unless they are bound here, for any.
func (s *Source) isOurs(raw *[rawLen]byte, jkt string) bool {
	made := func(secret []byte, jkt string) bool {
		sum := mac(secret, raw[:bodyLen], jkt)
		return hmac.Equal(sum[:], raw[bodyLen:])
	}
	for _, secret := range *s.secrets.Load() {
		if !s.cfg.BindToKey && made(secret, "") || made(secret, jkt) {
			return true
		}
	}
	return false
}

// MaxLife returns the longest time from when a nonce is taken to its end: Life, and what another process's clock may be
// ahead. dpop.Config.Window asks for it. A nonce that another process made to live for longer is refused until no more
// than that is left.
func (s *Source) MaxLife() time.Duration {
	if s == nil { // which NewVerifier can say better than a panic
		return 0
	}
	return s.cfg.Life + 2*s.cfg.ClockSkew
}

// label keeps a secret that is used elsewhere, too, from making nonces there.
const label = "DPoP-Nonce\x00"

// mac returns the MAC of a nonce. A client's thumbprint has no other place in it than the end, and "" is no thumbprint.
func mac(secret, body []byte, jkt string) (sum [macLen]byte) {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(label))
	h.Write(body)
	h.Write([]byte(jkt))
	copy(sum[:], h.Sum(nil))
	return sum
}
