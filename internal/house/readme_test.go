package house

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReadmeHandler compares the README's handler with the Example that compiles.
func TestReadmeHandler(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(readme), "```go\n")
	require.True(t, ok, "the README has no Go code")
	shown, _, _ := strings.Cut(rest, "```")

	example, err := os.ReadFile("../../middleware/dpophttp/example_test.go")
	require.NoError(t, err)
	_, rest, ok = strings.Cut(string(example), "func Example() {\n")
	require.True(t, ok, "there is no Example")
	body, _, _ := strings.Cut(rest, "\n}\n")

	var compiled strings.Builder
	for line := range strings.SplitSeq(body, "\n") {
		compiled.WriteString(strings.TrimPrefix(line, "\t") + "\n")
	}
	if shown != compiled.String() {
		t.Errorf("the README shows\n%s\nand the Example is\n%s", shown, compiled.String())
	}
}
