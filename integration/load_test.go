//go:build integration

package integration

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLoad holds the bars of docs/performance.md for what shared stores cost, as the command measures them in its short form.
// It has three tries, as other work on the machine moves the figures, and takes its time for the last.
func TestLoad(t *testing.T) {
	_, err := need(redis7) // the command would be content with one in PATH
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), "load")
	built, err := exec.Command("go", "build", "-o", program, "./load").CombinedOutput()
	require.NoError(t, err, "%s", built)

	var out string
	held := false
	for try, flag := range []string{"-short", "-short", "-short=false"} {
		p, err := newProcess(fmt.Sprintf("load-%d", try+1))
		require.NoError(t, err)
		require.NoError(t, p.start(exec.Command(program, flag)))
		<-p.ended
		text, err := p.log(0)
		require.NoError(t, err)
		out, held = string(text), p.cmd.ProcessState.Success()
		if held || !strings.Contains(out, "a bar is missed") {
			break
		}
	}
	t.Logf("\n%s", out)
	if !held {
		t.Error("the command fails, or says three times that a bar is missed")
	}
	for _, what := range []string{"a request with memstore", "a request with tieredstore", "redisstore", "a replay"} {
		if !strings.Contains(out, "\n"+what+" ") {
			t.Errorf("the table says nothing of %s", what)
		}
	}
}
