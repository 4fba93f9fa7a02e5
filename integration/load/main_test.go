package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMistakes tries what cannot be measured. None of it starts a server.
func TestMistakes(t *testing.T) {
	t.Setenv("REDIS_SERVER", "/nowhere/redis-server")
	for name, tt := range map[string]struct {
		options options
		want    string
	}{
		"no server":          {options{}, "install Redis, set REDIS_SERVER to its program, or name a Redis with -redis"},
		"negative rounds":    {options{rounds: -1}, "-rounds is -1: set at least 1"},
		"no URL":             {options{redis: "127.0.0.1:6379"}, "begin it with redis://"},
		"a password":         {options{redis: "redis://user:secret@127.0.0.1"}, "leave it out"},
		"a Cluster":          {options{redis: "redis://127.0.0.1:1,127.0.0.1:2"}, "name a single Redis or Valkey"},
		"nobody who listens": {options{redis: "redis://127.0.0.1:1"}, "no Redis answers at 127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			err := run(t.Context(), tt.options, &out, nil)
			require.ErrorContains(t, err, tt.want)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error has the password in it: %v", err)
			}
			require.Empty(t, out.String())
		})
	}
}

// TestMissedBar makes a table of ways that cost what it says, in three rounds.
func TestMissedBar(t *testing.T) {
	ways := func(costs ...time.Duration) (ways []*way) {
		for _, c := range costs {
			w := new(way)
			for n := range 3 { // a machine that becomes slower changes no ratio
				slow := time.Duration(n + 1)
				w.costs = append(w.costs, cost{client: c * slow, server: c * slow})
			}
			ways = append(ways, w)
		}
		return ways
	}
	for name, tt := range map[string]struct {
		inFlight       int
		memory, tiered time.Duration
		missed         bool
	}{
		"all are held":            {16, 105, 135, false},
		"memstore costs too much": {16, 106, 135, true},
		"tieredstore does":        {16, 105, 136, true},
		"but one call by itself":  {1, 105, 136, false},
	} {
		t.Run(name, func(t *testing.T) {
			var table table
			table.requests([]*contest{{inFlight: tt.inFlight, ways: ways(100, tt.memory, tt.tiered, 300)}})
			var out strings.Builder
			missed, err := table.print(&out, 3)
			require.NoError(t, err)
			if missed != tt.missed || strings.Contains(out.String(), "NO\n") != tt.missed {
				t.Errorf("a bar is missed: %t, want %t:\n%s", missed, tt.missed, out.String())
			}
		})
	}
}

// TestTripsAreCounted: no trip of a replay means something only if those of first uses are seen.
func TestTripsAreCounted(t *testing.T) {
	for name, tt := range map[string]struct {
		replays, firsts int
		err, missed     bool
	}{
		"as it should be":         {replays: 0, firsts: 8},
		"one replay makes a trip": {replays: 1, firsts: 8, missed: true},
		"the server counts none":  {replays: 0, firsts: 0, err: true},
		"someone else uses it":    {replays: 0, firsts: 9, err: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := &contest{inFlight: 16, size: 8, ways: []*way{
				replayLocal:       {costs: []cost{{client: 1, commands: tt.replays}}},
				replayFirstMemory: {costs: []cost{{client: 1}}},
				replayFirstTiered: {costs: []cost{{client: 1, commands: tt.firsts}}},
			}}
			var table table
			err := table.replays(c)
			require.Equal(t, tt.err, err != nil, "%v", err)
			missed, err := table.print(new(strings.Builder), 1)
			require.NoError(t, err)
			if missed != tt.missed {
				t.Errorf("a bar is missed: %t, want %t", missed, tt.missed)
			}
		})
	}
}
