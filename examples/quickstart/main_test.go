package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQuickstart(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 11 {
		t.Errorf("the table has %d lines, want a header and ten requests:\n%s", len(lines), out.String())
	}
	if got := strings.Count(out.String(), "would have served it"); got != 10 {
		t.Errorf("the bearer API would have served %d of ten requests, want all:\n%s", got, out.String())
	}
	if got := strings.Count(out.String(), "200 accepted"); got != 2 {
		t.Errorf("%d requests were accepted, want 2:\n%s", got, out.String())
	}
}
