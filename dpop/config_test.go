package dpop_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/replay"
)

func TestNewVerifierNamesEveryMistake(t *testing.T) {
	_, err := dpop.NewVerifier(dpop.Config{
		Algorithms: []string{"ES256", "none", "HS256"}, MaxAge: -1, Leeway: -2, ClockSkew: -3, Realm: "a\nb", ResourceMetadata: "/relative",
	})
	require.Error(t, err)
	for _, want := range []string{
		"Config.Resolver is nil", "Config.Replay is nil", `Config.Algorithms has "none"`, `Config.Algorithms has "HS256"`,
		"Config.MaxAge", "Config.Leeway", "Config.ClockSkew", `Config.Realm is "a\nb"`, `Config.ResourceMetadata is "/relative"`,
	} {
		if strings.Count(err.Error(), want) != 1 {
			t.Errorf("the error does not say %q exactly once:\n%v", want, err)
		}
	}
	if got := len(strings.Split(err.Error(), "\n")); got != 9 {
		t.Errorf("the error has %d lines, want one for each of 9 mistakes:\n%v", got, err)
	}
}

func TestNewVerifierRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*dpop.Config)
		want   string
	}{
		"no resolver":                              {func(c *dpop.Config) { c.Resolver = nil }, "Resolver"},
		"a resolver that is a nil function":        {func(c *dpop.Config) { c.Resolver = dpop.TokenResolverFunc(nil) }, "Resolver"},
		"a store that is a nil function":           {func(c *dpop.Config) { c.Replay = replay.SetNXFunc(nil) }, "Replay"},
		"no store":                                 {func(c *dpop.Config) { c.Replay = nil }, "Replay"},
		"R002 none":                                {func(c *dpop.Config) { c.Algorithms = []string{"none"} }, "Algorithms"},
		"R002 HS256":                               {func(c *dpop.Config) { c.Algorithms = []string{"HS256"} }, "Algorithms"},
		"an empty algorithm":                       {func(c *dpop.Config) { c.Algorithms = []string{""} }, "Algorithms"},
		"MaxAge negative":                          {maxAge(-time.Second), "MaxAge"},
		"C09 MaxAge so long that sums overflow":    {maxAge(math.MaxInt64), "MaxAge"},
		"C09 ClockSkew so long that sums overflow": {func(c *dpop.Config) { c.ClockSkew = math.MaxInt64 / 2 }, "ClockSkew"},
		"R175 Leeway of 61 s":                      {leeway(61 * time.Second), "Leeway"},
		"Realm with CR and LF":                     {func(c *dpop.Config) { c.Realm = "x\r\nSet-Cookie: a" }, "Realm"},
		"Realm in another script":                  {func(c *dpop.Config) { c.Realm = "é" }, "Realm"},
		"metadata, relative":                       {func(c *dpop.Config) { c.ResourceMetadata = "metadata" }, "ResourceMetadata"},
		"metadata with CR and LF":                  {func(c *dpop.Config) { c.ResourceMetadata = "https://a.example/?\r\nx" }, "ResourceMetadata"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := dpop.Config{Resolver: &registry{}, Replay: new(memory)}
			tt.change(&cfg)
			v, err := dpop.NewVerifier(cfg)
			if err == nil || v != nil {
				t.Fatalf("NewVerifier returned %v and %v", v, err)
			}
			if !strings.Contains(err.Error(), "Config."+tt.want+" ") {
				t.Errorf("the error does not name Config.%s: %v", tt.want, err)
			}
			if strings.ContainsAny(err.Error(), "\r") {
				t.Errorf("the error holds control characters: %q", err)
			}
		})
	}
}

// A windowed store remembers proofs for so long and no longer.
type windowed struct {
	replay.Store
	window time.Duration
}

func (w windowed) MaxWindow() time.Duration { return w.window }

// C09: a store that forgets while a proof can still be accepted is a mistake at start, not a hole in production.
func TestC09TheStoresWindowIsCompared(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*dpop.Config)
		window time.Duration
		fits   bool
	}{
		"defaults need 60 + 10 + 2·5 + 1 s": {nil, 81 * time.Second, true},
		"a second less":                     {nil, 80 * time.Second, false},
		"a longer MaxAge":                   {maxAge(120 * time.Second), 81 * time.Second, false},
		"a longer leeway":                   {leeway(11 * time.Second), 81 * time.Second, false},
		"a longer skew":                     {func(c *dpop.Config) { c.ClockSkew = 6 * time.Second }, 82 * time.Second, false},
		"shorter ones":                      {func(c *dpop.Config) { c.MaxAge, c.Leeway, c.ClockSkew = 5*time.Second, time.Second, time.Second }, 9 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			for wrapping, wrap := range map[string]func(replay.Store) replay.Store{
				"bare": func(s replay.Store) replay.Store { return s }, "namespaced": func(s replay.Store) replay.Store { return replay.Namespace(s, "x") },
			} {
				cfg := dpop.Config{Resolver: &registry{}, Replay: wrap(windowed{new(memory), tt.window})}
				if tt.change != nil {
					tt.change(&cfg)
				}
				_, err := dpop.NewVerifier(cfg)
				if (err == nil) != tt.fits {
					t.Errorf("%s: a window of %v: %v", wrapping, tt.window, err)
				}
				if err != nil && !strings.Contains(err.Error(), "Config.Replay") {
					t.Errorf("the error does not name Config.Replay: %v", err)
				}
			}
		})
	}
	_, err := dpop.NewVerifier(dpop.Config{Replay: windowed{new(memory), time.Second}, Realm: "\n"})
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("the window is not reported beside other mistakes: %v", err)
	}
}

// What the store is asked to remember never exceeds the window that NewVerifier compared.
func TestC09NoProofNeedsALongerWindow(t *testing.T) {
	w := newWorld(t, func(c *dpop.Config) { c.MaxAge, c.Leeway = 59500*time.Millisecond, 10*time.Second })
	wantReason(t, w.verify(request(w.proof(set("iat", float64(now.Unix())+10)))), "")
	cfg := w.verifier.Config()
	if needs := w.store.expires.Sub(now); needs > cfg.Window() {
		t.Errorf("a proof is remembered for %v, the window is %v", needs, cfg.Window())
	}
}

func TestConfigIsACopyWithDefaults(t *testing.T) {
	algorithms := []string{"ES256"}
	v, err := dpop.NewVerifier(dpop.Config{Resolver: &registry{}, Replay: new(memory), Algorithms: algorithms})
	require.NoError(t, err)
	algorithms[0] = "RS256"
	cfg := v.Config()
	if cfg.Algorithms[0] != "ES256" {
		t.Error("changing the Config that was given changed the verifier")
	}
	cfg.Algorithms[0] = "RS256"
	if v.Config().Algorithms[0] != "ES256" {
		t.Error("changing the Config that was returned changed the verifier")
	}
	if cfg.MaxAge != 60*time.Second || cfg.Leeway != 10*time.Second || cfg.ClockSkew != 5*time.Second || cfg.Now == nil {
		t.Errorf("the defaults are not filled in: %+v", cfg)
	}
	v, err = dpop.NewVerifier(dpop.Config{Resolver: &registry{}, Replay: new(memory)})
	require.NoError(t, err)
	if got := strings.Join(v.Config().Algorithms, " "); got != "ES256 EdDSA PS256" {
		t.Errorf("R174: the default algorithms are %s", got)
	}
}

// R013, R174: only what is named is accepted, whatever else could be verified.
func TestAlgorithmsAreAnAllowList(t *testing.T) {
	all := []string{"ES256", "ES384", "ES512", "EdDSA", "PS256"}
	for _, allowed := range all {
		w := newWorld(t, func(c *dpop.Config) { c.Algorithms = []string{allowed} })
		for _, used := range all {
			w.key = keys()[used]
			w.registry.tokens[token] = w.token()
			want := dpop.ErrProofAlgorithm
			if used == allowed {
				want = ""
			}
			if got := reasonOf(w.verify(request(w.proof()))); got != want {
				t.Errorf("with %s allowed, %s gets %q", allowed, used, got)
			}
		}
	}
	for _, pair := range [][2]string{{"EdDSA", "Ed25519"}, {"Ed25519", "EdDSA"}, {"Ed25519", "Ed25519"}} {
		w := newWorld(t, func(c *dpop.Config) { c.Algorithms = []string{pair[0]} })
		w.key = keys()["EdDSA"]
		w.registry.tokens[token] = w.token()
		if e := w.verify(request(w.proof(setHeader("alg", pair[1])))); e != nil {
			t.Errorf("A23: with %s allowed, %s is refused: %v", pair[0], pair[1], e)
		}
	}
}
