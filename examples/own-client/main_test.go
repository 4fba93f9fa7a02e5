package main

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWithoutServer tries an address at which nobody listens, and one at which nobody answers.
func TestWithoutServer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	deserted, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, deserted.Close())
	for _, library := range []string{"go-redis", "valkey-go"} {
		for name, listener := range map[string]net.Listener{"silent": silent, "deserted": deserted} {
			t.Run(library+"/"+name, func(t *testing.T) {
				address := listener.Addr().String()
				start := time.Now()
				var out strings.Builder
				err := run(t.Context(), &out, library, address, "")
				require.Error(t, err)
				if !strings.Contains(err.Error(), address) {
					t.Errorf("the error does not name the address %s: %v", address, err)
				}
				if took := time.Since(start); took > 4*timeout { // a busy machine has time to spare
					t.Errorf("the error came after %v, want it within about %v", took, timeout)
				}
				if out.Len() > 0 {
					t.Errorf("nothing was granted or refused, but it prints %q", out.String())
				}
			})
		}
	}
}

func TestUnknownClient(t *testing.T) {
	err := run(t.Context(), t.Output(), "redigo", "127.0.0.1:1", "")
	require.EqualError(t, err, `-client is "redigo": set go-redis or valkey-go`)
}
