//go:build unix && !race

package dpop_test

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

const roundSize = 100

// ratio returns how much processor time a request takes, in units of the floor, in one round. The two halves follow each
// other, so that a busy machine slows both alike.
func ratio(b *bench, floor func()) float64 {
	b.prepare(roundSize)
	start := cpuTime(b.tb)
	for range roundSize {
		floor()
	}
	middle := cpuTime(b.tb)
	for i := range roundSize {
		b.verify(i)
	}
	return float64(cpuTime(b.tb)-middle) / float64(middle-start)
}

// median returns the median ratio of many rounds.
func median(b *bench, rounds int) float64 {
	floor := newFloor(b)
	ratios := make([]float64, rounds)
	for i := range ratios {
		ratios[i] = ratio(b, floor)
	}
	slices.Sort(ratios)
	return ratios[rounds/2]
}

// allocations returns how many heap allocations a request makes beyond those of the floor.
func allocations(b *bench) float64 {
	b.prepare(roundSize + 1) // AllocsPerRun runs once more, to warm up
	i := -1
	return testing.AllocsPerRun(roundSize, func() { i++; b.verify(i) }) - testing.AllocsPerRun(roundSize, newFloor(newBench(b.tb, "ES256", true)))
}

// TestCost holds what docs/performance.md promises: one signature is what a request costs.
func TestCost(t *testing.T) {
	if testing.Short() {
		t.Skip("measures for seconds")
	}
	warm := newBench(t, "ES256", true)
	if got := median(warm, 101); got > 1.10 {
		t.Errorf("a request with a known token costs %.3f floors, want at most 1.10", got)
	}
	if got := allocations(warm); got > 9 {
		t.Errorf("a request with a known token makes %.0f allocations beyond the floor's, want at most 9", got)
	}
	if got := median(newBench(t, "ES256", false), 51); got > 2*1.5 {
		t.Errorf("a request with an unknown token costs %.3f floors, want at most 1.5 for each of its two signatures", got)
	}
}

// BenchmarkVerifyRatio prints the costs that TestCost limits, and those of other proofs, all in floors of ES256.
func BenchmarkVerifyRatio(b *testing.B) {
	for _, alg := range []string{"ES256", "EdDSA", "PS256"} {
		for _, name := range []string{"warm", "cold"} {
			b.Run(alg+"/"+name, func(b *testing.B) {
				bench := newBench(b, alg, name == "warm")
				floor := newFloor(newBench(b, "ES256", true))
				var ratios []float64
				for b.Loop() {
					ratios = append(ratios, ratio(bench, floor))
				}
				slices.Sort(ratios)
				b.ReportMetric(ratios[len(ratios)/2], "floors")
				b.ReportMetric(allocations(bench), "allocs-beyond")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
