package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCustomTransport(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	if want := "done: \"START drill for alice\", error: \"\"\ndone: \"\", error: \"invalid_dpop_proof\"\n"; out.String() != want {
		t.Errorf("the two answers are\n%swant\n%s", out.String(), want)
	}
}
