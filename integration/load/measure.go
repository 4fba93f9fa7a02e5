package main

import (
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A contest compares ways of doing the same, with so many calls under way at once.
type contest struct {
	inFlight int
	size     int          // calls of each way in a round
	prepare  func() error // a round; it is not measured
	ways     []*way
}

// A way does call i of a round, which may not be done before or after by the same way.
type way struct {
	do    func(i int) error
	costs []cost // by round
}

// A cost is processor time.
type cost struct {
	client, server time.Duration
	commands       int // to record a key, as the server counts them
}

// round measures each way once. The order rotates, so that none is always the one that follows a certain other.
func (c *contest) round(n int, server *server) error {
	if err := c.prepare(); err != nil {
		return err
	}
	for i := range c.ways {
		w := c.ways[(i+n)%len(c.ways)]
		before, err := measure(server)
		if err != nil {
			return err
		}
		if err := c.all(w.do); err != nil {
			return err
		}
		client := cpuTime()
		after, err := measure(server)
		if err != nil {
			return err
		}
		w.costs = append(w.costs, cost{client - before.client, after.server - before.server, after.commands - before.commands})
	}
	return nil
}

// measure asks the server before it looks at the clock of this process, so that to ask costs the client nothing.
func measure(server *server) (now cost, err error) {
	now.server, now.commands, err = server.cost()
	now.client = cpuTime()
	return now, err
}

// cpuTime returns the processor time that this process has used, garbage collection included.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // it has no error to return for these arguments
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// all makes all calls of a round.
func (c *contest) all(do func(i int) error) error {
	var next atomic.Int64
	var once sync.Once
	var failed error
	var wg sync.WaitGroup
	for range c.inFlight {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < c.size; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					once.Do(func() { failed = err })
					return
				}
			}
		})
	}
	wg.Wait()
	return failed
}

// A spread is the median of a figure over the rounds, and the quartiles.
type spread struct{ low, median, high float64 }

func newSpread(figures []float64) spread {
	slices.Sort(figures)
	n := len(figures)
	return spread{figures[n/4], figures[n/2], figures[n-1-n/4]}
}

func client(c cost) float64 { return float64(c.client) }
func remote(c cost) float64 { return float64(c.server) }

// ratio returns what a way costs in units of another, measured in the same round.
func ratio(a, b *way, of func(cost) float64) spread {
	ratios := make([]float64, len(a.costs))
	for i := range ratios {
		ratios[i] = of(a.costs[i]) / of(b.costs[i])
	}
	return newSpread(ratios)
}

// trips returns how many commands that set a key the server has counted for each call.
func trips(w *way, calls int) spread {
	counts := make([]float64, len(w.costs))
	for i, c := range w.costs {
		counts[i] = float64(c.commands) / float64(calls)
	}
	return newSpread(counts)
}
