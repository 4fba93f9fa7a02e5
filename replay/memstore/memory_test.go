//go:build linux

package memstore_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/memstore"
)

// TestMemory measures what a million live keys add to the resident memory of a process of their own. The bar is 90
// bytes a key, whether they are of few clients or each of its own. A process has three tries, as the moments at which
// the collector runs move the figure by some bytes.
func TestMemory(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("a million keys take too long with -short, and too much memory under the race detector")
	}
	const keys, bar = 1_000_000, 90.0
	for _, clients := range []int{100, keys} {
		bytes := bytesPerKey(t, keys, clients)
		for try := 1; bytes > bar && try < 3; try++ {
			bytes = bytesPerKey(t, keys, clients)
		}
		t.Logf("%.1f bytes a key with %d clients", bytes, clients)
		if bytes > bar {
			t.Errorf("a live key of %d clients takes %.1f bytes of resident memory, more than %v", clients, bytes, bar)
		}
	}
}

func bytesPerKey(t *testing.T, keys, clients int) (bytes float64) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryOfOneProcess$", "-test.v")
	cmd.Env = append(os.Environ(), fmt.Sprintf("MEMSTORE_KEYS=%d", keys), fmt.Sprintf("MEMSTORE_CLIENTS=%d", clients))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, figure, ok := strings.Cut(string(out), "bytes per key: ")
	require.True(t, ok, "%s", out)
	_, err = fmt.Sscan(figure, &bytes)
	require.NoError(t, err, "%s", out)
	return bytes
}

// TestMemoryOfOneProcess is the process that TestMemory starts.
func TestMemoryOfOneProcess(t *testing.T) {
	keys, err := strconv.Atoi(os.Getenv("MEMSTORE_KEYS"))
	if err != nil {
		t.Skip("only for TestMemory")
	}
	clients, err := strconv.Atoi(os.Getenv("MEMSTORE_CLIENTS"))
	require.NoError(t, err)
	before := resident(t)
	store := open(t, memstore.Config{MaxEntries: keys})
	expires := in(time.Minute)
	for i := range keys {
		requireFirst(t, store, replay.Key(strconv.Itoa(i%clients), strconv.Itoa(i)), expires)
	}
	fmt.Printf("bytes per key: %.1f\n", float64(resident(t)-before)/float64(keys))
}

// resident returns the resident memory of this process after what is garbage has been given back.
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	statm, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	var size, pages int
	_, err = fmt.Sscan(string(statm), &size, &pages)
	require.NoError(t, err)
	return pages * os.Getpagesize()
}
