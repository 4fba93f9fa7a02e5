//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	valkeygo "github.com/valkey-io/valkey-go"

	"github.com/senderbound/senderbound/replay"
	"github.com/senderbound/senderbound/replay/redisstore"
	"github.com/senderbound/senderbound/replay/storetest"
)

// ownClients connect as examples/own-client does.
var ownClients = map[string]func(t *testing.T, address string) redisstore.Command{
	"go-redis": func(t *testing.T, address string) redisstore.Command {
		client := redis.NewClient(&redis.Options{
			Addr: address, ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1,
		})
		t.Cleanup(func() { client.Close() })
		return goRedis(client)
	},
	"valkey-go": func(t *testing.T, address string) redisstore.Command {
		client, err := valkeygo.NewClient(valkeygo.ClientOption{
			InitAddress: []string{address}, ForceSingleClient: true, DisableCache: true,
			Dialer: net.Dialer{Timeout: ownTimeout}, ConnWriteTimeout: ownTimeout, DisableRetry: true,
		})
		require.NoError(t, err)
		t.Cleanup(client.Close)
		return valkeyGo(client)
	},
}

// goRedis sends commands through go-redis.
func goRedis(client *redis.Client) redisstore.Command {
	return func(ctx context.Context, args ...string) (any, error) {
		words := make([]any, len(args))
		for i, arg := range args {
			words[i] = arg
		}
		reply, err := client.Do(ctx, words...).Result()
		if errors.Is(err, redis.Nil) {
			return nil, nil
		}
		return reply, err
	}
}

// valkeyGo sends commands through valkey-go.
func valkeyGo(client valkeygo.Client) redisstore.Command {
	return func(ctx context.Context, args ...string) (any, error) {
		reply, err := client.Do(ctx, client.B().Arbitrary(args...).Build()).ToAny()
		if valkeygo.IsValkeyNil(err) {
			return nil, nil
		}
		return reply, err
	}
}

// TestOwnClientsAreThoseOfTheExample compares the adapters here, which are tested, with those in the example, which are
// read. A program cannot be imported.
func TestOwnClientsAreThoseOfTheExample(t *testing.T) {
	adapter := regexp.MustCompile(`(?ms)^func (goRedis|valkeyGo)\(.*?^}$`)
	var shown [2]string
	for i, file := range []string{"own_client_test.go", "../examples/own-client/main.go"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		found := adapter.FindAllString(strings.ReplaceAll(string(text), "valkeygo.", "valkey."), -1) // a name that is taken here
		require.Len(t, found, 2, file)
		shown[i] = strings.Join(found, "\n")
	}
	require.Equal(t, shown[0], shown[1], "the example's adapters are not those that are tested")
}

// TestOwnClientExample runs the example against a server with a password.
func TestOwnClientExample(t *testing.T) {
	const password = "right"
	server := startRedis(t, "--requirepass", password)
	age(t, redisstore.Config{Addresses: []string{server.addr}, Password: password})
	program := filepath.Join(t.TempDir(), "own-client")
	build := exec.Command("go", "build", "-o", program, "./own-client")
	build.Dir = "../examples"
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for library := range ownClients {
		cmd := exec.CommandContext(t.Context(), program, "-client", library, "-redis", server.addr)
		cmd.Env = append(os.Environ(), "REDIS_PASSWORD="+password)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", library, out)
		require.Equal(t, "granted: the proof was not used before\nrefused: the proof is a replay\n", string(out), library)
	}
}

const ownTimeout = 5 * time.Second // what is tested is not how busy the machine is

// adapt opens a store through a client of its own. Its allowances are small, so that one need not wait long after a loss.
func adapt(t *testing.T, library, address string, change func(*redisstore.Config)) *redisstore.Store {
	t.Helper()
	cfg := redisstore.Config{Timeout: ownTimeout, Leeway: time.Second, ClockSkew: 10 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	store, err := redisstore.Adapt(t.Context(), ownClients[library](t, address), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { store.Close() })
	return store
}

func TestOwnClientsKeepTheLaw(t *testing.T) {
	for library := range ownClients {
		t.Run(library, func(t *testing.T) {
			open := func(settings ...string) func(t *testing.T) []replay.Store {
				server := startRedis(t, settings...)
				age(t, redisstore.Config{Addresses: []string{server.addr}})
				return func(t *testing.T) []replay.Store {
					return []replay.Store{adapt(t, library, server.addr, nil), adapt(t, library, server.addr, nil)}
				}
			}
			storetest.Run(t, storetest.Config{Open: open(), OpenSmall: open("--maxmemory", "3mb")})
		})
	}
}

// TestOwnClientSeesAnEmptyServer kills the server, lets it come back with nothing, and tries what was used before: at the
// process that used it, and at one that began afterwards.
func TestOwnClientSeesAnEmptyServer(t *testing.T) {
	for library := range ownClients {
		for _, calls := range []bool{true, false} {
			name := fmt.Sprintf("%s, calls in the outage: %t", library, calls)
			t.Run(name, func(t *testing.T) {
				granted, fresh := replaysAfterLoss(t, library, calls, nil)
				if granted != 0 {
					t.Errorf("%d used proofs were granted again after the server had lost its memory, want none", granted)
				}
				if !fresh {
					t.Error("a proof that was made after Ready is refused")
				}
			})
		}
	}
	t.Run("control", func(t *testing.T) {
		granted, _ := replaysAfterLoss(t, "go-redis", true, func(cfg *redisstore.Config) { cfg.InsecureSkipChecks = true })
		if granted == 0 {
			t.Error("without the checks no used proof was granted again: this test shows nothing")
		}
	})
}

// replaysAfterLoss returns how many used proofs are granted after a loss of memory, and whether a new one is, later. Where no
// call fails during the outage, the store has CheckInterval to notice.
func replaysAfterLoss(t *testing.T, library string, callsInOutage bool, change func(*redisstore.Config)) (granted int, fresh bool) {
	t.Helper()
	const proofs, interval = 200, 200 * time.Millisecond
	server := startRedis(t)
	age(t, redisstore.Config{Addresses: []string{server.addr}})
	set := func(cfg *redisstore.Config) {
		cfg.CheckInterval = interval
		if change != nil {
			change(cfg)
		}
	}
	old := adapt(t, library, server.addr, set)
	made, expires := time.Now(), time.Now().Add(time.Minute)
	use := func(store replay.Store, i int) (bool, error) {
		return store.FirstUse(t.Context(), replay.Key("client", fmt.Sprint(i)), made, expires)
	}
	for i := range proofs {
		first, err := use(old, i)
		require.NoError(t, err)
		require.True(t, first)
	}

	server.kill()
	if callsInOutage {
		_, err := use(old, proofs)
		require.Error(t, err)
	}
	server.restart(t)
	if !callsInOutage {
		time.Sleep(interval + 500*time.Millisecond) // and to look, on a machine that is busy
	}
	for _, store := range []replay.Store{old, adapt(t, library, server.addr, set)} {
		for i := range proofs {
			if first, _ := use(store, i); first {
				granted++
			}
		}
	}
	time.Sleep(time.Until(old.Ready()))
	fresh, _ = old.FirstUse(t.Context(), replay.Key("client", "fresh"), time.Now(), expires)
	return granted, fresh
}
