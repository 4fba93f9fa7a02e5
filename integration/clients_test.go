//go:build integration

package integration

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Clients that others wrote get a token and call the API, in a script each: see clients.
func TestForeignClients(t *testing.T) {
	w := setUp(t)
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS("clients")))
	modules, err := need("CLIENTS_NODE_MODULES")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(modules, filepath.Join(dir, "node_modules"))) // where Node looks for them
	python, err := need("CLIENTS_PYTHON")
	require.NoError(t, err)

	for _, script := range [][]string{
		{"node", "dpop.mjs"},
		{"node", "oauth4webapi.mjs"},
		{python, "requests-oauth2client.py"},
	} {
		t.Run(script[1], func(t *testing.T) {
			before, err := w.orders.log(0)
			require.NoError(t, err)
			cmd := exec.CommandContext(t.Context(), script[0], script[1:]...)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(),
				"ISSUER="+w.keycloak.issuer(realm), "TOKEN_ENDPOINT="+w.keycloak.tokenEndpoint(realm),
				"CLIENT_ID=orders-service", "CLIENT_SECRET=orders-service-secret",
				"API="+w.orders.url+"/orders?page=2")
			output, err := cmd.Output()
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				t.Fatalf("%s: %v\n%s", script[1], err, exit.Stderr)
			}
			require.NoError(t, err)

			var got struct {
				Status int
				Body   caller
				JKT    string // of the client's key, as the client computes it
				Again  int    // the status for the same proof once more
			}
			require.NoError(t, json.Unmarshal(output, &got), "%s", output)
			want := caller{
				Subject: ordersServiceID, ClientID: "orders-service", Scope: "orders:read",
				JKT: got.JKT, SenderConstrained: true,
			}
			if got.Status != http.StatusOK || got.Body != want {
				t.Errorf("the API answers %d and takes the client for %+v, want 200 and %+v", got.Status, got.Body, want)
			}
			reason, err := w.orders.refusal(len(before))
			require.NoError(t, err)
			if got.Again != http.StatusUnauthorized || reason != "proof_replayed" {
				t.Errorf("the same proof again: %d and the reason %q, want 401 and proof_replayed", got.Again, reason)
			}
		})
	}
}
