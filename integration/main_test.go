//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop/dpoptest"
)

// TestMain ends what the tests started, also when the run is interrupted.
func TestMain(m *testing.M) {
	interrupted, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(interrupted, func() { os.Exit(end(1)) })
	var err error
	if runDir, err = os.MkdirTemp("", "senderbound-"); err != nil {
		panic(err)
	}
	os.Exit(end(m.Run()))
}

// end stops every process and returns the exit status of the run.
func end(status int) int {
	if status != 0 {
		fmt.Print(logTails())
	}
	stopAll()
	if err := os.RemoveAll(runDir); err != nil {
		fmt.Println(err)
		return 1
	}
	return status
}

// A world is what the tests share: one Keycloak, and APIs that trust it.
type world struct {
	keycloak *keycloak

	orders   *api // takes tokens for the orders API, bound by DPoP
	tolerant *api // the same, and unbound tokens under Bearer
	billing  *api // takes tokens for another audience
	foreign  *api // takes tokens of another realm

	early    *api    // as orders, but started before Keycloak was
	tooEarly verdict // of early, then
}

func newWorld() (*world, error) {
	var w world
	var err error
	if w.keycloak, err = newKeycloak(); err != nil {
		return nil, err
	}
	if w.early, err = startAPI("early", w.keycloak.issuer(realm), audience); err != nil {
		return nil, err
	}
	if w.tooEarly, err = w.callTooEarly(); err != nil {
		return nil, err
	}
	if err := w.keycloak.start(); err != nil {
		return nil, err
	}
	for _, server := range []struct {
		api             **api
		name            string
		realm, audience string
		flags           []string
	}{
		{&w.orders, "orders", realm, audience, nil},
		{&w.tolerant, "tolerant", realm, audience, []string{"-allow-bearer"}},
		{&w.billing, "billing", realm, "billing-api", nil},
		{&w.foreign, "foreign", elsewhere, audience, nil},
	} {
		*server.api, err = startAPI(server.name, w.keycloak.issuer(server.realm), server.audience, server.flags...)
		if err != nil {
			return nil, err
		}
	}
	return &w, nil
}

// callTooEarly calls an API whose issuer is not there yet, with a token that looks like one of this issuer's and a
// proof that is right: only the issuer's keys could tell that the token is not genuine.
func (w *world) callTooEarly() (verdict, error) {
	stranger := dpoptest.NewIssuer()
	defer stranger.Close()
	key := dpoptest.NewKey()
	token := stranger.Token(audience, key.JKT(), map[string]any{"iss": w.keycloak.issuer(realm), "typ": "DPoP", "azp": "orders-service"})
	v, _, err := w.early.call(newCall(token, key))
	return v, err
}

var theWorld = sync.OnceValues(newWorld)

// setUp returns the world of the run, which the first test that asks for it makes.
func setUp(t *testing.T) *world {
	t.Helper()
	w, err := theWorld()
	require.NoError(t, err)
	return w
}
