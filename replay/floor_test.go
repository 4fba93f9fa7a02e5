package replay_test

import (
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/replay"
)

// The Verifier's defaults, and the floor's: a test of dpop compares them.
const (
	leeway    = 10 * time.Second
	clockSkew = 5 * time.Second
	maxAge    = 60 * time.Second
)

var loss = time.Unix(1_764_000_000, 0)

// TestFloorAfterALoss plays a minute and a half before a loss of memory and after it. Three pods, whose clocks are as wrong
// as they may be, share a store and date the loss each for itself. Clients make proofs, some as far ahead as a pod accepts,
// and a thief sends each of them to each pod every second. No proof may pass twice. The controls are floors that are
// lower, by however little.
func TestFloorAfterALoss(t *testing.T) {
	for name, lower := range map[string]time.Duration{ // than Leeway + 2·ClockSkew above the loss
		"no floor":                                        1000 * time.Hour,
		"a floor at the time of the loss":                 leeway + 2*clockSkew,
		"the loss and Leeway":                             2 * clockSkew,
		"the loss, Leeway and ClockSkew":                  clockSkew,
		"the loss and twice ClockSkew":                    leeway,
		"the rule, but what was made at the floor passes": 1,
	} {
		twice, all := playLoss(t, lower)
		if twice == 0 {
			t.Errorf("control: with %s, none of %d proofs passed twice, so this shows nothing", name, all)
		}
		t.Logf("with %s, %d of %d proofs passed twice", name, twice, all)
	}
	if twice, all := playLoss(t, 0); twice > 0 {
		t.Errorf("C15: %d of %d proofs passed twice across a loss of memory", twice, all)
	}
}

// playLoss returns how many proofs were made, and how many of them passed more than once.
func playLoss(t *testing.T, lower time.Duration) (twice, all int) {
	t.Helper()
	type pod struct {
		ahead time.Duration // of true time
		floor *replay.Floor
	}
	type proof struct {
		made         time.Time
		used, passed bool
	}
	pods := []pod{{-clockSkew, newFloor(t)}, {1300 * time.Millisecond, newFloor(t)}, {clockSkew, newFloor(t)}}
	var proofs []*proof
	send := func(p *proof, to pod, now time.Time) (first bool) {
		clock := now.Add(to.ahead)
		switch {
		case p.made.After(clock.Add(leeway)) || clock.After(p.made.Add(maxAge)): // as a Verifier decides
			return false
		case p.used || to.floor.Check(p.made, clock) != nil: // as a store does
			return false
		}
		p.used = true
		if p.passed {
			twice++
		}
		p.passed = true
		return true
	}
	for after := -90; after <= 90; after++ {
		now := loss.Add(time.Duration(after) * time.Second)
		for _, to := range pods {
			clock := now.Add(to.ahead)
			for _, ahead := range []time.Duration{-20 * time.Second, 0, 3700 * time.Millisecond, leeway} {
				p := &proof{made: clock.Add(ahead).Truncate(time.Second)}
				proofs = append(proofs, p)
				ready := !clock.Before(to.floor.Ready())
				if first := send(p, to, now); ahead == 0 && first != ready {
					t.Errorf("%d s after the loss a new proof got %t from a pod that says it is ready: %t", after, first, ready)
				}
			}
			for _, p := range proofs {
				send(p, to, now)
			}
		}
		if after == 0 {
			for _, p := range proofs {
				p.used = false
			}
			for _, p := range pods {
				p.floor.Raise(now.Add(p.ahead - lower))
			}
		}
	}
	return twice, len(proofs)
}

// TestFloorBoundaries counts from the time of the loss, in a whole second or not, to what is refused last and when a new
// proof passes first.
func TestFloorBoundaries(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	for name, tt := range map[string]struct {
		lost, made, now time.Duration // after a whole second
		wait            time.Duration // 0 for ErrStale, below for nil
	}{
		"on the floor, at the loss":                                  {0, 20 * s, 0, 21 * s},
		"on the floor, at that time":                                 {0, 20 * s, 20 * s, 1 * s},
		"a nanosecond before a new one passes":                       {0, 20 * s, 21*s - 1, 1},
		"when a new one passes":                                      {0, 20 * s, 21 * s, 0},
		"much later":                                                 {0, 20 * s, 80 * s, 0},
		"above the floor":                                            {0, 20*s + 1, 0, -1},
		"above the floor, a whole second":                            {0, 21 * s, 21 * s, -1},
		"long before the loss":                                       {0, -24 * time.Hour, 21 * s, 0},
		"by a clock that was set back":                               {0, 20 * s, -3600 * s, 3621 * s},
		"a fraction, on the floor":                                   {300 * ms, 20300 * ms, 20300 * ms, 700 * ms},
		"a fraction, above the floor":                                {300 * ms, 20300*ms + 1, 20300 * ms, -1},
		"a fraction, made in the second of the floor, which is over": {300 * ms, 20 * s, 21 * s, 0},
		"just before a second, on the floor":                         {-1, 20*s - 1, 20*s - 1, 1},
		"just before a second, above the floor":                      {-1, 20 * s, 20 * s, -1},
		"just before a second, when it is over":                      {-1, 20*s - 1, 20 * s, 0},
	} {
		floor := newFloor(t)
		floor.Raise(loss.Add(tt.lost))
		made, now := loss.Add(tt.made), loss.Add(tt.now)
		err := floor.Check(made, now)
		var unavailable *replay.Unavailable
		switch {
		case tt.wait < 0 && err != nil:
			t.Errorf("%s: got %v, want nil", name, err)
		case tt.wait == 0 && err != replay.ErrStale:
			t.Errorf("%s: got %v, want ErrStale, since a new proof would pass", name, err)
		case tt.wait > 0 && (!errors.As(err, &unavailable) || errors.Is(err, replay.ErrStale)):
			t.Errorf("%s: got %v, want Unavailable and not ErrStale, since no new proof would pass", name, err)
		case tt.wait > 0 && unavailable.RetryAfter != tt.wait:
			t.Errorf("%s: RetryAfter is %v, want %v", name, unavailable.RetryAfter, tt.wait)
		}
		// A client that waits until then, and no less, is let in with a proof whose iat is cut to the second.
		ready := floor.Ready()
		if tt.wait > 0 && !now.Add(tt.wait).Equal(ready) {
			t.Errorf("%s: Ready is %v, which is not RetryAfter from now", name, ready)
		}
		if err := floor.Check(ready.Truncate(time.Second), ready); err != nil {
			t.Errorf("%s: a proof made at Ready got %v", name, err)
		}
		if floor.Check(time.Time{}, ready) != replay.ErrStale {
			t.Errorf("%s: a proof of which it is not known when it was made passes", name)
		}
		if sooner := ready.Add(-1); floor.Check(sooner.Truncate(time.Second), sooner) == nil {
			t.Errorf("%s: a proof made a nanosecond before Ready passes", name)
		}
	}
}

// TestNoFloorRefusesNothing: a store that never lost anything judges every proof, whatever its clock shows.
func TestNoFloorRefusesNothing(t *testing.T) {
	floor := newFloor(t)
	times := []time.Time{{}, time.Unix(-1e9, 0), time.Unix(0, 0), loss, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}
	for _, made := range times {
		for _, now := range times {
			if err := floor.Check(made, now); err != nil {
				t.Errorf("without a floor, a proof made at %v got %v at %v", made, err, now)
			}
		}
	}
	if ready := floor.Ready(); !ready.IsZero() {
		t.Errorf("Ready is %v without a floor, want the zero time", ready)
	}
}

// TestFloorNeverSinks raises it to moments before the last one, and to such as a clock that was never set shows.
func TestFloorNeverSinks(t *testing.T) {
	floor := newFloor(t)
	ready := floor.Ready()
	for _, lost := range []time.Time{
		{}, time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), // twice the same
		time.Unix(-20, 0), // which puts the floor to 1970, and that is not none
		time.Unix(0, 0), loss, loss.Add(-1), time.Unix(0, 0), {},
		time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC), loss, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), // beyond UnixNano
	} {
		floor.Raise(lost)
		if floor.Ready().Before(ready) {
			t.Errorf("Raise(%v) lowered Ready from %v to %v", lost, ready, floor.Ready())
		}
		ready = floor.Ready()
		if made := lost.Add(leeway + 2*clockSkew); floor.Check(made, made) == nil {
			t.Errorf("after Raise(%v) a proof made at %v passes", lost, made)
		}
	}
}

// TestFloorIsRaisedByMany: of losses that are seen at the same moment, the latest counts.
func TestFloorIsRaisedByMany(t *testing.T) {
	const raisers = 4
	floors := make([]*replay.Floor, 20_000)
	for i := range floors {
		floors[i] = newFloor(t)
	}
	var arrived atomic.Int64
	var wg sync.WaitGroup
	for raiser := range raisers {
		wg.Go(func() {
			for i, floor := range floors {
				for arrived.Add(1); arrived.Load() < int64((i+1)*raisers); {
					runtime.Gosched()
				}
				floor.Raise(loss.Add(time.Duration(raiser) * time.Second))
			}
		})
	}
	wg.Wait()
	latest := loss.Add((raisers - 1) * time.Second)
	for i, floor := range floors {
		if want := latest.Add(leeway + 2*clockSkew + time.Second); !floor.Ready().Equal(want) {
			t.Fatalf("floor %d: Ready is %v, want that of the latest loss, %v", i, floor.Ready(), want)
		}
	}
}

func TestNewFloor(t *testing.T) {
	for name, tt := range map[string]struct {
		leeway, clockSkew time.Duration
		wrong             []string
	}{
		"negative":                   {-1, -2, []string{"Leeway is -1ns", "ClockSkew is -2ns"}},
		"so long that sums overflow": {1 << 62, 1 << 62, []string{"Leeway is ", "ClockSkew is "}},
		"Leeway of more than a day":  {25 * time.Hour, 0, []string{"Leeway is 25h0m0s: set the Verifier's, at most 24h0m0s, or 0 for 10s"}},
		"a negative ClockSkew":       {0, -1, []string{"ClockSkew is -1ns: set the Verifier's, at most 24h0m0s, or 0 for 5s"}},
		"defaults":                   {0, 0, nil},
		"the shortest":               {1, 1, nil},
		"the longest":                {24 * time.Hour, 24 * time.Hour, nil},
	} {
		floor, err := replay.NewFloor(tt.leeway, tt.clockSkew)
		if len(tt.wrong) == 0 {
			if err != nil {
				t.Errorf("%s: %v, want a floor", name, err)
			}
			continue
		}
		if err == nil || floor != nil {
			t.Errorf("%s: got (%v, %v), want an error alone", name, floor, err)
			continue
		}
		lines := strings.Split(err.Error(), "\n")
		require.Len(t, lines, len(tt.wrong), "%s: %v", name, err)
		for i, want := range tt.wrong {
			if !strings.HasPrefix(lines[i], want) {
				t.Errorf("%s: the error %q does not begin with %q", name, lines[i], want)
			}
		}
	}
}

// TestAllowance: what is compared with a Verifier's is what the floor is reckoned with.
func TestAllowance(t *testing.T) {
	for _, want := range [][2]time.Duration{{leeway, clockSkew}, {3 * time.Second, 7 * time.Second}} {
		given := want
		if want[0] == leeway {
			given = [2]time.Duration{} // the defaults
		}
		floor, err := replay.NewFloor(given[0], given[1])
		require.NoError(t, err)
		if l, c, ok := floor.Allowance(); l != want[0] || c != want[1] || !ok {
			t.Errorf("Allowance of a floor for %v is (%v, %v, %t)", given, l, c, ok)
		}
		floor.Raise(loss)
		if on := loss.Add(want[0] + 2*want[1]); floor.Check(on, on) == nil || floor.Check(on.Add(1), on) != nil {
			t.Errorf("the floor for %v does not lie %v above the loss", given, on.Sub(loss))
		}
	}
}

func newFloor(t *testing.T) *replay.Floor {
	t.Helper()
	floor, err := replay.NewFloor(0, 0)
	require.NoError(t, err)
	return floor
}
