package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// The bars: what a ratio may be at most.
const (
	barMemory = 1.05 // a request with memstore, in units of one without a store
	barTiered = 1.35 // one with tieredstore and a Redis on this machine
	barReplay = 2.00 // a replay that is refused without a trip, in units of memstore's first use
	barTrips  = 0.00 // of such a replay
	noBar     = -1
)

// everywhere holds a bar whatever is under way.
func everywhere(bar float64) func(int) float64 { return func(int) float64 { return bar } }

// shared holds a bar from some calls under way on: one by itself has no one to share a write with.
func shared(bar float64) func(int) float64 {
	return func(inFlight int) float64 {
		if inFlight < 16 {
			return noBar
		}
		return bar
	}
}

// firstUse is the bar of a first use, in units of go-redis with a command of its own for each. The more are under way the more
// of them share a write. With 16 the ratio moves a lot with what else the machine does, so it must only not be worse.
func firstUse(inFlight int) float64 {
	if inFlight < 64 {
		return shared(1.00)(inFlight)
	}
	return 0.55
}

// A table is what was measured.
type table []row

type row struct {
	what     string
	inFlight int
	spread
	bar float64
}

func (t *table) add(what string, c *contest, s spread, bar float64) {
	*t = append(*t, row{what, c.inFlight, s, bar})
}

// compare adds a row for each contest.
func (t *table) compare(what string, contests []*contest, a, b int, of func(cost) float64, bar func(inFlight int) float64) {
	for _, c := range contests {
		t.add(what, c, ratio(c.ways[a], c.ways[b], of), bar(c.inFlight))
	}
}

// requests adds contests of requests.
func (t *table) requests(contests []*contest) {
	const alone = " / without a store"
	t.compare("a request with memstore"+alone, contests, verifyMemory, verifyAlone, client, everywhere(barMemory))
	t.compare("a request with tieredstore"+alone, contests, verifyTiered, verifyAlone, client, shared(barTiered))
	t.compare("a request with redisstore"+alone, contests, verifyRedis, verifyAlone, client, everywhere(noBar))
}

// firstUses adds contests of first uses.
func (t *table) firstUses(contests []*contest) {
	const plain, pooled = " / go-redis SetNX", " / the same, a connection for each call"
	t.compare("redisstore"+plain, contests, firstRedis, firstPlain, client, firstUse)
	t.compare("redisstore"+pooled, contests, firstRedis, firstPlainPooled, client, firstUse)
	t.compare("tieredstore over redisstore / over go-redis SetNX", contests, firstTiered, firstTieredPlain, client, firstUse)
	t.compare("the server: redisstore"+plain, contests, firstRedis, firstPlain, remote, everywhere(noBar))
	t.compare("the server: redisstore"+pooled, contests, firstRedis, firstPlainPooled, remote, everywhere(noBar))
}

// replays adds the contest of replays that tieredstore refuses by itself. It is an error if trips cannot be counted.
func (t *table) replays(c *contest) error {
	local, first := c.ways[replayLocal], c.ways[replayFirstTiered]
	if n := trips(first, c.size); n != (spread{1, 1, 1}) {
		return fmt.Errorf("the server counts %v commands for each first use, not 1: let nothing else use it", n)
	}
	t.add("a replay that tieredstore refuses alone / a first use of memstore", c, ratio(local, c.ways[replayFirstMemory], client), barReplay)
	t.add("the same / a first use of tieredstore", c, ratio(local, first, client), noBar)
	t.add("the same, trips to the server", c, trips(local, c.size), barTrips)
	return nil
}

// print prints the table, and reports whether a bar is missed.
func (t table) print(out io.Writer, rounds int) (missed bool, err error) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tIN FLIGHT\tRATIO\tHALF OF THE ROUNDS\tBAR\tHELD")
	for _, r := range t {
		bar, held := "-", "-"
		if r.bar != noBar {
			bar, held = fmt.Sprintf("%.2f", r.bar), "yes"
		}
		if r.bar != noBar && r.median > r.bar {
			held, missed = "NO", true
		}
		fmt.Fprintf(w, "%s\t%d\t%.3f\t%.3f to %.3f\t%s\t%s\n", r.what, r.inFlight, r.median, r.low, r.high, bar, held)
	}
	fmt.Fprintf(w, "medians of %d rounds of processor time; of this process unless it says server\n", rounds)
	return missed, w.Flush()
}
