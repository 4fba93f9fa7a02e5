//go:build unix && !race

package introspect_test

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// cpuTime returns the processor time that this process has used, garbage collection included.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var usage syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// ratio returns the median of how much processor time f takes, in units of the floor. In each round the two follow each
// other, so that a busy machine slows both alike; f runs more times as often, if it is short.
func ratio(tb testing.TB, f, floor func(), more int) float64 {
	const rounds, floors = 51, 50
	ratios := make([]float64, rounds)
	for i := range ratios {
		start := cpuTime(tb)
		for range floors {
			floor()
		}
		middle := cpuTime(tb)
		for range floors * more {
			f()
		}
		ratios[i] = float64(cpuTime(tb)-middle) / float64(middle-start) / float64(more)
	}
	slices.Sort(ratios)
	return ratios[rounds/2]
}

// TestCost holds that a token that is known costs next to nothing beside the one signature that a request must cost.
func TestCost(t *testing.T) {
	if testing.Short() {
		t.Skip("measures for seconds")
	}
	floor := floor(t)
	for name, f := range map[string]func(){"Cached": hit(t), "ResolveToken of a known token": resolve(t)} {
		got := ratio(t, f, floor, 20)
		t.Logf("%s costs %.4f floors", name, got)
		if got > 0.03 {
			t.Errorf("%s costs %.3f floors, want at most 0.03", name, got)
		}
	}
	if got := ratio(t, floor, floor, 1); got < 0.9 || got > 1.1 {
		t.Errorf("the control: the floor costs %.2f floors", got)
	}
}
