// Load measures what shared replay stores cost: a request, and the store by itself.
//
//	go run ./integration/load
//
// It starts a Redis on loopback, ends it, and prints ratios of processor time, each with the bar that it is held to, if any.
// The status is 1 if a bar is missed. The Redis is the one that REDIS_SERVER names, or redis-server in PATH. With
// -redis redis://host:port it is one that is there already and that nothing else uses meanwhile; its user and password, if it
// has any, are REPLAY_USER and REPLAY_PASSWORD in the environment. A few keys that begin with load: stay there.
//
// # What the figures are
//
// All is measured in rounds, in which the ways to be compared follow each other in an order that changes. A ratio is the
// median over the rounds; beside it stands what half of the rounds lie between. It is processor time of this process, garbage
// collection included, or of the server where that is said. How long a call takes is not measured: on a machine that does
// other things, too, it says little, and nothing about a network.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

func main() {
	var o options
	flag.StringVar(&o.redis, "redis", "", "URL of a Redis that nothing else uses meanwhile, redis://host:port; without it, one is started")
	flag.IntVar(&o.rounds, "rounds", 0, "how often all is measured; 0 is 40, or 8 with -short")
	flag.BoolVar(&o.short, "short", false, "measure for a quarter of a minute instead of one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "load: %v\n", err)
		os.Exit(1)
	}
}

type options struct {
	redis  string
	rounds int
	short  bool
}

var errMissed = errors.New("a bar is missed")

func run(ctx context.Context, o options, stdout io.Writer, stderr *os.File) error {
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("%q is no flag: all that can be said is said with flags, see -help", flag.Arg(0))
	case o.rounds < 0:
		return fmt.Errorf("-rounds is %d: set at least 1, or 0 for the default", o.rounds)
	case o.rounds == 0 && o.short:
		o.rounds = 8
	case o.rounds == 0:
		o.rounds = 40
	}
	server, err := openServer(ctx, o.redis)
	if err != nil {
		return err
	}
	defer server.close()
	stores, err := openStores(ctx, server)
	if err != nil {
		return err
	}
	defer stores.close()
	requests, err := newRequests(ctx, stores)
	if err != nil {
		return err
	}
	defer requests.close()

	verify, first, repeated := requests.compare(), compareStores(stores), compareReplays(stores)
	if err := measureAll(ctx, slices.Concat(verify, first, []*contest{repeated}), o.rounds, server, newProgress(stderr)); err != nil {
		return err
	}
	var t table
	t.requests(verify)
	t.firstUses(first)
	if err := t.replays(repeated); err != nil {
		return err
	}
	missed, err := t.print(stdout, o.rounds)
	if err == nil && missed {
		err = errMissed
	}
	return err
}

// measureAll holds all contests in each round, so that a machine that is slow for a while is so for all.
func measureAll(ctx context.Context, contests []*contest, rounds int, server *server, line progress) error {
	defer line.end()
	for n := range rounds {
		line.say("round %d of %d", n+1, rounds)
		for _, c := range contests {
			if err := c.round(n, server); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
		}
	}
	return nil
}

// A progress is a line that is rewritten on a terminal. Elsewhere it is many lines.
type progress struct {
	out      *os.File
	terminal bool
}

func newProgress(out *os.File) progress {
	info, err := out.Stat()
	return progress{out, err == nil && info.Mode()&os.ModeCharDevice != 0}
}

const clearLine = "\r\x1b[K"

func (p progress) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if p.terminal {
		fmt.Fprint(p.out, clearLine, text)
	} else {
		fmt.Fprintln(p.out, text)
	}
}

func (p progress) end() {
	if p.terminal {
		fmt.Fprint(p.out, clearLine)
	}
}
