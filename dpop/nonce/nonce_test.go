package nonce_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/nonce"
)

var _ dpop.NonceSource = (*nonce.Source)(nil)

var start = time.Unix(1_764_000_000, 0)

const (
	alice = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" // thumbprints
	bob   = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"

	life, renew, skew = 90 * time.Second, 30 * time.Second, 5 * time.Second // the defaults
)

// secret returns a secret that is the same for each n, and another for another.
func secret(n int) []byte {
	sum := sha256.Sum256([]byte{byte(n), byte(n >> 8)})
	return sum[:]
}

func open(t testing.TB, cfg nonce.Config, secrets ...[]byte) *nonce.Source {
	t.Helper()
	s, err := nonce.New(cfg, secrets...)
	require.NoError(t, err)
	return s
}

func isGood(s *nonce.Source, text, jkt string, now time.Time) bool {
	_, _, _, ok := s.Check(text, jkt, now)
	return ok
}

// R044, R046: a nonce has the characters of NQCHAR that need no escape anywhere, always as many, and is not known before
// it is given out.
func TestWhatANonceIs(t *testing.T) {
	for name, cfg := range map[string]nonce.Config{"the zero Config": {}, "BindToKey": {BindToKey: true}} {
		s, other := open(t, cfg, secret(1)), open(t, cfg, secret(2))
		seen := map[string]bool{}
		for second := range 1000 {
			now := start.Add(time.Duration(second) * time.Second)
			text := s.Issue(alice, now)
			if len(text) != 36 || strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
				t.Fatalf("R046 %s: the nonce %q is not 36 characters of base64url", name, text)
			}
			if seen[text] || text == other.Issue(alice, now) {
				t.Fatalf("R044 %s: a nonce came twice, or from another secret", name)
			}
			seen[text] = true
			if text != s.Issue(alice, now.Add(time.Second-1)) {
				t.Errorf("%s: within a second there are two nonces", name)
			}
			if (text == s.Issue(bob, now)) == cfg.BindToKey {
				t.Errorf("%s: whether two clients get the same nonce does not go by BindToKey", name)
			}
		}
	}
}

// E02, R045: what is not a nonce of ours, or no longer, or not yet, is refused.
func TestCheck(t *testing.T) {
	s := open(t, nonce.Config{}, secret(1), secret(2))
	good := s.Issue(alice, start)
	raw, err := base64.RawURLEncoding.DecodeString(good)
	require.NoError(t, err)
	random := make([]byte, len(raw))
	_, _ = rand.Read(random)
	encode := base64.RawURLEncoding.EncodeToString
	for name, tt := range map[string]struct {
		text string
		at   time.Duration // from when it was made
		want bool
	}{
		"at once":                             {good, 0, true},
		"after Renew":                         {good, renew, true},
		"a nanosecond before its end":         {good, life - 1, true},
		"E02 at its end":                      {good, life, false},
		"E02 a day old":                       {good, 24 * time.Hour, false},
		"E03 from a clock that is ahead":      {good, -2 * skew, true},
		"E02 from one too far ahead":          {good, -2*skew - 1, false},
		"E02 from one, and of a shorter Life": {open(t, nonce.Config{Life: 30 * time.Second}, secret(1)).Issue(alice, start), -2*skew - 1, false},
		"E02 from tomorrow":                   {good, -24 * time.Hour, false},
		"E04 of the secret before":            {open(t, nonce.Config{}, secret(2)).Issue(alice, start), 0, true},
		"E02 of another server":               {open(t, nonce.Config{}, secret(3)).Issue(alice, start), 0, false},
		"E02 empty":                           {"", 0, false},
		"E02 random":                          {encode(random), 0, false},
		"E02 its time with a random MAC":      {encode(append(raw[:10:10], random[10:]...)), 0, false},
		"E02 its time alone":                  {encode(raw[:10]), 0, false},
		"E02 a MAC of zeros":                  {encode(append(raw[:10:10], make([]byte, 17)...)), 0, false},
		"E02 cut by a character":              {good[:35], 0, false},
		"E02 cut by a byte":                   {encode(raw[:26]), 0, false},
		"E02 one byte more":                   {encode(append(raw[:27:27], 0)), 0, false},
		"E02 twice":                           {good + good, 0, false},
		"E02 with a line break at the end":    {good + "\n", 0, false},
		"E02 with a space in front":           {" " + good, 0, false},
		"E02 padded":                          {good[:35] + "=", 0, false},
		"E02 a megabyte":                      {strings.Repeat("A", 1<<20), 0, false},
		"E02 in the wrong case":               {swapCase(good), 0, false},
		"E02 with bytes that are no text":     {"\xff\xfe" + good[2:], 0, false},
		"E02 with characters that are quoted": {"\"\\" + good[2:], 0, false},
	} {
		_, _, _, ok := s.Check(tt.text, alice, start.Add(tt.at))
		if ok != tt.want {
			t.Errorf("%s: Check says %t", name, ok)
		}
	}
	for i := range 8 * len(raw) {
		raw[i/8] ^= 1 << (i % 8)
		if isGood(s, encode(raw), alice, start) {
			t.Errorf("E02 with bit %d of its %d bytes changed a nonce is still good", i, len(raw))
		}
		raw[i/8] ^= 1 << (i % 8)
	}
	if !isGood(s, encode(raw), alice, start) {
		t.Error("control: the nonce is not good although nothing is changed")
	}
}

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyz", r) {
			return r - 'a' + 'A'
		}
		return r + ('a'-'A')*map[bool]rune{true: 1}[r >= 'A' && r <= 'Z']
	}, s)
}

// E02: the decoder of base64 skips line breaks, so a nonce that ends in a zero byte could be written in another way.
func TestANonceHasOneSpelling(t *testing.T) {
	s := open(t, nonce.Config{}, secret(1))
	for second := range 10_000 {
		now := start.Add(time.Duration(second) * time.Second)
		text := s.Issue(alice, now)
		raw, err := base64.RawURLEncoding.DecodeString(text)
		require.NoError(t, err)
		if raw[len(raw)-1] != 0 {
			continue
		}
		other := text[:35] + "\n"
		var again [27]byte
		if _, err := base64.RawURLEncoding.Strict().Decode(again[:], []byte(other)); err != nil || !bytes.Equal(again[:], raw) {
			t.Fatalf("control: decoded carelessly, %q is not %q (%v), so this test shows nothing", other, text, err)
		}
		if isGood(s, other, alice, now) {
			t.Errorf("%q is taken for %q", other, text)
		}
		return
	}
	t.Fatal("no nonce ends in a zero byte")
}

// What Check says of a nonce's life is what the proof's is judged by and the store remembers.
func TestLife(t *testing.T) {
	s := open(t, nonce.Config{Life: 60 * time.Second, Renew: 20 * time.Second}, secret(1))
	text := s.Issue(alice, start.Add(900*time.Millisecond))
	for _, at := range []time.Duration{0, 30 * time.Second, 59 * time.Second} {
		made, expires, _, ok := s.Check(text, alice, start.Add(at))
		if !ok || !made.Equal(start) || !expires.Equal(start.Add(time.Minute)) {
			t.Errorf("after %v Check says %v to %v, %t, want a minute from %v", at, made, expires, ok, start)
		}
	}
	if made, expires, next, ok := s.Check("no nonce", alice, start); ok || !made.IsZero() || !expires.IsZero() || next != "" {
		t.Errorf("of what is no nonce Check says %v, %v, %q, %t", made, expires, next, ok)
	}
}

// R047: a client hears of a newer nonce before its own ends, and one that sends something every Life - Renew is never
// refused. The control gives out newer ones only at the end.
func TestRenew(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg         nonce.Config
		life, renew time.Duration
	}{
		"the defaults": {nonce.Config{}, life, renew},
		"one's own":    {nonce.Config{Life: 10 * time.Second, Renew: 1500 * time.Millisecond}, 10 * time.Second, 1500 * time.Millisecond},
		"bound":        {nonce.Config{BindToKey: true}, life, renew},
	} {
		s := open(t, tt.cfg, secret(1))
		text := s.Issue(alice, start)
		for at, want := range map[time.Duration]bool{0: false, tt.renew - 1: false, tt.renew: true, tt.life - 1: true} {
			now := start.Add(at)
			_, _, next, ok := s.Check(text, alice, now)
			if !ok || (next != "") != want || want && (next == text || next != s.Issue(alice, now) || !isGood(s, next, alice, now)) {
				t.Errorf("%s: after %v Check says %q, %t, want a newer nonce: %t", name, at, next, ok, want)
			}
		}
		walk := func(renews bool) (refused int) {
			text := s.Issue(alice, start)
			for i := range 100 {
				now := start.Add(time.Duration(i+1) * (tt.life - tt.renew - time.Second))
				_, _, next, ok := s.Check(text, alice, now)
				switch {
				case !ok:
					refused++
					text = s.Issue(alice, now)
				case next != "" && renews:
					text = next
				}
			}
			return refused
		}
		if n := walk(true); n > 0 {
			t.Errorf("%s: a client that sends something often enough was refused %d times", name, n)
		}
		if walk(false) == 0 {
			t.Errorf("%s: control: one that never hears of newer nonces is not refused, so this test shows nothing", name)
		}
	}
}

// E03: every process that has the secrets takes the nonces of all, whatever else differs, with clocks as far off as may be.
func TestE03OtherProcesses(t *testing.T) {
	makers := map[string]*nonce.Source{
		"the same":       open(t, nonce.Config{}, secret(1)),
		"a shorter Life": open(t, nonce.Config{Life: 30 * time.Second}, secret(1)),
		"another Renew":  open(t, nonce.Config{Renew: 7 * time.Second}, secret(1)),
		"bound":          open(t, nonce.Config{BindToKey: true}, secret(1)),
	}
	s := open(t, nonce.Config{}, secret(1))
	for name, maker := range makers {
		for _, ahead := range []time.Duration{-2 * skew, 0, 2 * skew} {
			if !isGood(s, maker.Issue(alice, start.Add(ahead)), alice, start) {
				t.Errorf("E03 a nonce of a process with %s, whose clock is %v ahead, is refused", name, ahead)
			}
		}
	}
}

// E04: secrets are changed as documented while a client is sent to any of three processes, and is never refused. The
// controls leave out a step.
func TestE04Rotation(t *testing.T) {
	// Each round sets the secrets of all processes, one by one; step is what comes after each of them, wait after all.
	rotate := func(step, wait time.Duration, rounds ...[]int) (refused int) {
		var pods []*nonce.Source
		for range 3 {
			pods = append(pods, open(t, nonce.Config{}, secret(1)))
		}
		now, text := start, pods[0].Issue(alice, start)
		send := func(for_ time.Duration) {
			for end := now.Add(for_); now.Before(end); now = now.Add(100 * time.Millisecond) {
				pod := pods[int(now.UnixMilli()/100)%len(pods)]
				_, _, next, ok := pod.Check(text, alice, now)
				if !ok {
					refused++
					next = pod.Issue(alice, now)
				}
				if next != "" {
					text = next
				}
			}
		}
		for _, round := range rounds {
			for _, pod := range pods {
				var ring [][]byte
				for _, n := range round {
					ring = append(ring, secret(n))
				}
				require.NoError(t, pod.Rotate(ring...))
				send(step)
			}
			send(wait)
		}
		return refused
	}
	const quick, slow, maxLife = time.Second, 35 * time.Second, life + 2*skew
	for _, step := range []time.Duration{quick, slow} {
		if n := rotate(step, maxLife, []int{1, 2}, []int{2, 1}, []int{2}); n > 0 {
			t.Errorf("a rotation as documented, with %v between two processes, refused a client %d times", step, n)
		}
	}
	for name, n := range map[string]int{
		"in one step":                   rotate(quick, maxLife, []int{2}),
		"which makes before all check":  rotate(slow, maxLife, []int{2, 1}, []int{2}),
		"which drops the old one early": rotate(quick, 0, []int{1, 2}, []int{2, 1}, []int{2}),
	} {
		if n == 0 {
			t.Errorf("control: a rotation %s refuses no one, so this test shows nothing", name)
		}
	}
}

// C09: Life is changed in one process after another. A proof is remembered for as long as the process that took it said
// that its nonce lives, so the other must not say something longer. The control judges a nonce by each process's own Life.
func TestLifeIsChangedWhileProcessesRun(t *testing.T) {
	long, short := open(t, nonce.Config{Life: 90 * time.Second}, secret(1)), open(t, nonce.Config{Life: 60 * time.Second}, secret(1))
	passesTwice := func(ends func(s *nonce.Source, text string, now time.Time) (time.Time, bool)) (twice int) {
		for _, maker := range []*nonce.Source{long, short} {
			text := maker.Issue(alice, start)
			for _, pair := range [][2]*nonce.Source{{long, short}, {short, long}} {
				for used := range 100 {
					forgotten, ok := ends(pair[0], text, start.Add(time.Duration(used)*time.Second))
					if !ok {
						continue
					}
					forgotten = forgotten.Add(2 * skew)
					for again := start; again.Before(start.Add(100 * time.Second)); again = again.Add(time.Second) {
						if _, ok := ends(pair[1], text, again); ok && !again.Before(forgotten) {
							twice++
						}
					}
				}
			}
		}
		return twice
	}
	if n := passesTwice(func(s *nonce.Source, text string, now time.Time) (time.Time, bool) {
		_, expires, _, ok := s.Check(text, alice, now)
		if ok && expires.Sub(now) > s.MaxLife() {
			t.Errorf("a nonce is taken that lives %v more, and MaxLife is %v", expires.Sub(now), s.MaxLife())
		}
		return expires, ok
	}); n > 0 {
		t.Errorf("a proof passes a second time, %d times", n)
	}
	if passesTwice(func(s *nonce.Source, text string, now time.Time) (time.Time, bool) {
		expires := start.Add(s.MaxLife() - 2*skew)
		return expires, now.Before(expires)
	}) == 0 {
		t.Error("control: with each process's own Life no proof passes twice, so this test shows nothing")
	}

	// Nor is a client sent to and fro: what one refuses it replaces by a nonce that all take.
	now := start
	if text := long.Issue(alice, now); isGood(short, text, alice, now) {
		t.Error("a nonce is taken that lives longer than the store of this process was compared with")
	} else if text = short.Issue(alice, now); !isGood(long, text, alice, now) || !isGood(short, text, alice, now) {
		t.Error("the nonce that replaces it is refused somewhere")
	}
}

// BindToKey: a nonce is good for its client only, also where binding is turned on in one process after another.
func TestBindToKey(t *testing.T) {
	bound, another := open(t, nonce.Config{BindToKey: true}, secret(1)), open(t, nonce.Config{BindToKey: true}, secret(2), secret(1))
	free := open(t, nonce.Config{}, secret(1))
	text := bound.Issue(alice, start)
	for name, tt := range map[string]struct {
		s         *nonce.Source
		text, jkt string
		want      bool
	}{
		"the client's own":                           {bound, text, alice, true},
		"E03 the client's own, at another process":   {another, text, alice, true},
		"E02 another client's":                       {bound, text, bob, false},
		"E02 for no client":                          {bound, text, "", false},
		"E02 for any client":                         {bound, free.Issue(alice, start), alice, false},
		"bound, where binding is off":                {free, text, alice, true},
		"E02 another client's, where binding is off": {free, text, bob, false},
		"for any client, where binding is off":       {free, free.Issue(alice, start), bob, true},
	} {
		if got := isGood(tt.s, tt.text, tt.jkt, start); got != tt.want {
			t.Errorf("%s: Check says %t", name, got)
		}
	}
	if _, _, next, ok := bound.Check(text, alice, start.Add(renew)); !ok || !isGood(bound, next, alice, start.Add(renew)) {
		t.Error("the newer nonce of a client is not good for it")
	}
}

// What a nonce is a MAC over is fixed: with another form, processes of two releases would refuse each other's clients.
func TestTheFormIsFixed(t *testing.T) {
	raw, err := base64.RawURLEncoding.DecodeString(open(t, nonce.Config{BindToKey: true}, secret(1)).Issue(alice, start))
	require.NoError(t, err)
	body := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64(nil, uint64(start.Unix())), 90)
	mac := hmac.New(sha256.New, secret(1))
	mac.Write([]byte("DPoP-Nonce\x00" + string(body) + alice))
	if want := append(body, mac.Sum(nil)[:17]...); !bytes.Equal(raw, want) {
		t.Errorf("a nonce is %x, want %x", raw, want)
	}
}

// Clocks: only the wall clock counts, in whatever zone, and none of its values is dangerous.
func TestClocks(t *testing.T) {
	s := open(t, nonce.Config{}, secret(1))
	monotonic := time.Now()
	if s.Issue(alice, monotonic) != s.Issue(alice, monotonic.Round(0)) {
		t.Error("a monotonic reading changes a nonce")
	}
	for _, zone := range []*time.Location{time.UTC, time.FixedZone("half", 5*3600+1800), time.FixedZone("odd", -1234567), time.FixedZone("s", 7)} {
		if s.Issue(alice, start) != s.Issue(alice, start.In(zone)) || !isGood(s, s.Issue(alice, start.In(zone)), alice, start) {
			t.Errorf("the zone %v changes a nonce", zone)
		}
	}
	// A clock that was never set, and the ends of what a time.Time can hold.
	clocks := []time.Time{
		{}, time.Unix(0, 0), time.Unix(-1, 0), time.Unix(1, 0), time.Unix(1<<40-1, 0), time.Unix(1<<40, 0), time.Unix(1<<62, 0),
		time.Unix(math.MaxInt64, 0), time.Unix(math.MinInt64, 0), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), start,
	}
	for _, made := range clocks {
		text := s.Issue(alice, made)
		for _, now := range clocks {
			from, to, next, ok := s.Check(text, alice, now)
			if ok && (now.Before(from.Add(-2*skew)) || !now.Before(to) || to.Sub(from) != life || len(next) != 0 && len(next) != 36) {
				t.Errorf("at %v a nonce made at %v is good, from %v to %v", now, made, from, to)
			}
			if ok && !made.Truncate(time.Second).Equal(from) {
				t.Errorf("a nonce made at %v is good at %v as one of %v", made, now, from)
			}
		}
	}
	// One that is set back gives nonces of its time at once.
	if ahead := s.Issue(alice, start.Add(time.Hour)); !isGood(s, s.Issue(alice, start), alice, start) || isGood(s, ahead, alice, start) {
		t.Error("after the clock was set back the nonces are still those of the time before")
	}
}

// TestNewRefuses: every mistake is a sentence at start that names what to change.
func TestNewRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg     nonce.Config
		secrets [][]byte
		want    string // "" if it is none
	}{
		"the zero Config":                {nonce.Config{}, [][]byte{secret(1)}, ""},
		"the shortest Life":              {nonce.Config{Life: 3 * time.Second}, [][]byte{secret(1)}, ""},
		"the longest Life":               {nonce.Config{Life: time.Hour, ClockSkew: time.Hour}, [][]byte{secret(1)}, ""},
		"a Renew of half of Life":        {nonce.Config{Life: 5 * time.Second, Renew: 2500 * time.Millisecond}, [][]byte{secret(1)}, ""},
		"a long secret":                  {nonce.Config{}, [][]byte{make([]byte, 999), secret(1)}[1:], ""},
		"no secret":                      {nonce.Config{}, nil, "no secret is given: give one of 32 random bytes"},
		"a nil secret":                   {nonce.Config{}, [][]byte{nil}, "a secret has 0 bytes: give 32 random ones"},
		"a short secret":                 {nonce.Config{}, [][]byte{secret(1)[:31]}, "a secret has 31 bytes: give 32 random ones"},
		"a short secret behind another":  {nonce.Config{}, [][]byte{secret(1), secret(2)[:31]}, "a secret has 31 bytes"},
		"a secret that was never filled": {nonce.Config{}, [][]byte{make([]byte, 32)}, "a secret is one byte repeated"},
		"a Life of 2 s":                  {nonce.Config{Life: 2 * time.Second}, [][]byte{secret(1)}, "Config.Life is 2s: set whole seconds from 3 s"},
		"a negative Life":                {nonce.Config{Life: -time.Minute}, [][]byte{secret(1)}, "Config.Life is -1m0s"},
		"a Life of more than an hour":    {nonce.Config{Life: time.Hour + time.Second}, [][]byte{secret(1)}, "Config.Life is 1h0m1s"},
		"a Life in fractions":            {nonce.Config{Life: 90*time.Second + 1}, [][]byte{secret(1)}, "Config.Life is 1m30.000000001s"},
		"the longest of all durations":   {nonce.Config{Life: math.MaxInt64}, [][]byte{secret(1)}, "Config.Life is"},
		"a negative Renew":               {nonce.Config{Renew: -1}, [][]byte{secret(1)}, "Config.Renew is -1ns: set 1 s to half of Life"},
		"a Renew under a second":         {nonce.Config{Renew: time.Second - 1}, [][]byte{secret(1)}, "Config.Renew is"},
		"a Renew of more than half":      {nonce.Config{Renew: 46 * time.Second}, [][]byte{secret(1)}, "Config.Renew is 46s"},
		"a negative ClockSkew":           {nonce.Config{ClockSkew: -1}, [][]byte{secret(1)}, "Config.ClockSkew is -1ns: set a positive duration"},
		"a ClockSkew beyond an hour":     {nonce.Config{ClockSkew: time.Hour + 1}, [][]byte{secret(1)}, "Config.ClockSkew is 1h0m0.000000001s"},
	} {
		s, err := nonce.New(tt.cfg, tt.secrets...)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v, want a Source", name, err)
		case tt.want != "" && (err == nil || s != nil || !strings.Contains(err.Error(), "nonce: "+strings.TrimPrefix(tt.want, "nonce: "))):
			t.Errorf("%s: %v and %v, want no Source and %q", name, s, err, tt.want)
		case tt.want != "" && strings.Contains(err.Error(), "\n"):
			t.Errorf("%s: %v, want one mistake", name, err)
		}
	}
	_, err := nonce.New(nonce.Config{Life: 1, ClockSkew: -1}, nil)
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("all mistakes are to be reported at once, not %v", err)
	}
}

// F02: no error and no way of printing shows a secret.
func TestF02NoSecretIsPrinted(t *testing.T) {
	text := "correct horse battery staple and some more of it"
	s := open(t, nonce.Config{}, []byte(text), secret(1))
	s.Issue(alice, start)
	_, short := nonce.New(nonce.Config{}, []byte(text[:31]))
	require.Error(t, short)
	asJSON, err := json.Marshal(map[string]any{"nonces": s})
	require.NoError(t, err)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("started", "nonces", s)
	var said strings.Builder
	for _, v := range []any{s, short, dpop.Config{Nonces: s}, struct{ Inner any }{s}, asJSON, log.String()} {
		fmt.Fprintf(&said, "%v %+v %#v %s %x %d %q\n", v, v, v, v, v, v, v)
	}
	var numbers []string // as %d prints bytes
	for _, b := range []byte(text[:6]) {
		numbers = append(numbers, fmt.Sprint(b))
	}
	for _, part := range []string{text[:6], hex.EncodeToString([]byte(text[:6])), base64.StdEncoding.EncodeToString([]byte(text[:6])),
		strings.Join(numbers, " "), hex.EncodeToString(secret(1)[:6])} {
		if strings.Contains(said.String(), part) {
			t.Errorf("what is printed holds %q of a secret:\n%s", part, said.String())
		}
	}
	if control := fmt.Sprintf("%v", [][]byte{[]byte(text)}); !strings.Contains(control, strings.Join(numbers, " ")) {
		t.Error("control: a secret that is printed is not found")
	}
}

// Rotate takes effect as a whole or not at all, and keeps no slice of the caller's.
func TestRotate(t *testing.T) {
	mine := secret(1)
	s := open(t, nonce.Config{}, mine)
	text := s.Issue(alice, start)
	clear(mine) // as a careful caller does
	if got := s.Issue(alice, start.Add(time.Second)); !isGood(open(t, nonce.Config{}, secret(1)), got, alice, start.Add(time.Second)) {
		t.Error("a secret that the caller has overwritten since is used")
	}
	for name, ring := range map[string][][]byte{"none": {}, "a short one": {secret(2), secret(3)[:16]}, "nil": nil} {
		if err := s.Rotate(ring...); err == nil || !isGood(s, text, alice, start) || s.Issue(alice, start) != text {
			t.Errorf("%s: Rotate says %v, and nothing is to change by an error", name, err)
		}
	}
	require.NoError(t, s.Rotate(secret(2)))
	if isGood(s, text, alice, start) || s.Issue(alice, start) == text {
		t.Error("a secret that was dropped still counts, in the second in which it was")
	}
}

func TestConcurrency(t *testing.T) {
	s := open(t, nonce.Config{}, secret(1), secret(2))
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				now := start.Add(time.Duration(i) * 100 * time.Millisecond)
				if worker == 0 {
					if err := s.Rotate(secret(1+i%2), secret(2-i%2)); err != nil {
						t.Error(err)
					}
				}
				if !isGood(s, s.Issue(alice, now), alice, now) {
					t.Error("a nonce that was made is not good while secrets change places")
				}
			}
		})
	}
	wg.Wait()
}

// TestCost compares Check and Issue with the one ES256 verification that a request must cost. The bar is 3 %.
func TestCost(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("times mean nothing with -short or under the race detector")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	sum := sha256.Sum256([]byte("proof"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	require.NoError(t, err)
	// The fastest of many short rounds is the one that nothing else disturbed.
	fastest := func(f func(i int)) time.Duration {
		best := time.Hour
		for range 40 {
			begin := time.Now()
			for i := range 100 {
				f(i)
			}
			best = min(best, time.Since(begin)/100)
		}
		return best
	}
	verify := fastest(func(int) { ecdsa.VerifyASN1(&key.PublicKey, sum[:], sig) })
	for name, cfg := range map[string]nonce.Config{"the zero Config": {}, "bound": {BindToKey: true}} {
		s := open(t, cfg, secret(1), secret(2))
		text := s.Issue(alice, start)
		for what, f := range map[string]func(int){
			"Check":                   func(int) { isGood(s, text, alice, start) },
			"Check and a newer nonce": func(int) { isGood(s, text, alice, start.Add(renew)) },
			"Issue":                   func(int) { s.Issue(alice, start) },
		} {
			cost := fastest(f)
			t.Logf("%s, %s: %v, ES256 %v: %.2f %%", name, what, cost, verify, 100*float64(cost)/float64(verify))
			if cost > verify*3/100 {
				t.Errorf("%s: %s takes %v, more than 3 %% of an ES256 verification, %v", name, what, cost, verify)
			}
		}
	}
}

// FuzzCheck: what is taken is what Issue makes of the time that stands in it, to the last character, and is within its life.
func FuzzCheck(f *testing.F) {
	cfg := nonce.Config{Life: 60 * time.Second}
	s, old, bound := open(f, cfg, secret(1), secret(2)), open(f, cfg, secret(2)), open(f, nonce.Config{BindToKey: true}, secret(1))
	for _, text := range []string{
		s.Issue(alice, start), old.Issue(alice, start), bound.Issue(alice, start), s.Issue(alice, start.Add(-time.Minute)), "",
		strings.Repeat("A", 36), strings.Repeat("_", 36), strings.Repeat("\n", 36), s.Issue(alice, start)[:32] + "====",
		open(f, nonce.Config{}, secret(3)).Issue(alice, start),
	} {
		for _, at := range []int64{0, 30, 59, 60, -10, -11, math.MaxInt64, math.MinInt64} {
			f.Add(text, alice, start.Unix()+at)
		}
	}
	f.Fuzz(func(t *testing.T, text, jkt string, unix int64) {
		now := time.Unix(unix, 0)
		made, expires, next, ok := s.Check(text, jkt, now)
		if !ok {
			if !made.IsZero() || !expires.IsZero() || next != "" {
				t.Errorf("of %q, which is refused, Check says more: %v, %v, %q", text, made, expires, next)
			}
			return
		}
		if now.Before(made.Add(-2*skew)) || !now.Before(expires) || expires.Sub(now) > s.MaxLife() {
			t.Errorf("%q is good at %v, and lives from %v to %v", text, now, made, expires)
		}
		raw, err := base64.RawURLEncoding.DecodeString(text)
		require.NoError(t, err)
		lives := nonce.Config{Life: time.Duration(binary.BigEndian.Uint16(raw[8:])) * time.Second}
		again := []string{s.Issue(jkt, made), old.Issue(jkt, made), open(t, lives, secret(1)).Issue(jkt, made)}
		lives.BindToKey = true
		again = append(again, open(t, lives, secret(1)).Issue(jkt, made), open(t, lives, secret(2)).Issue(jkt, made))
		for _, one := range again {
			if one == text {
				return
			}
		}
		t.Errorf("%q is good, and nobody made it", text)
	})
}
