package redisstore_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/replay/redisstore"
)

// TestConfigMistakes: the error names every mistake at once, each in a sentence of its own that names the field.
func TestConfigMistakes(t *testing.T) {
	const address = "redis.internal:6379"
	for name, tt := range map[string]struct {
		cfg  redisstore.Config
		want []string
	}{
		"no address": {redisstore.Config{}, []string{"Addresses is empty: name the server, such as redis.internal:6379"}},
		"two single servers": {redisstore.Config{Addresses: []string{address, address}},
			[]string{"Addresses names 2 servers: set Cluster or SentinelMaster, or name one; two single servers do not share a memory"}},
		"no port": {redisstore.Config{Addresses: []string{"redis.internal"}},
			[]string{"Addresses[0] is no address: give host and port alone, such as redis.internal:6379"}},
		"two kinds": {redisstore.Config{Addresses: []string{address}, Cluster: true, SentinelMaster: "m"},
			[]string{"Cluster, SentinelMaster and Infinispan exclude each other: set one of them"}},
		"a user without a password": {redisstore.Config{Addresses: []string{address}, Username: "hunter2"},
			[]string{"Password is empty, but Username is not: set both, or only Password"}},
		"the password of no Sentinel": {redisstore.Config{Addresses: []string{address}, SentinelPassword: "hunter2"},
			[]string{"SentinelPassword belongs with SentinelMaster, and SentinelUsername with SentinelPassword"}},
		"nodes of a single server": {redisstore.Config{Addresses: []string{address}, MinNodes: 2},
			[]string{"MinNodes is 2: set how many nodes of an Infinispan cluster must be there, and leave it 0 for others"}},
		"braces": {redisstore.Config{Addresses: []string{address}, Prefix: "{dpop}:"},
			[]string{`Prefix is "{dpop}:": leave braces out, which would put all keys into one slot of a Cluster`}},
		"a short secret": {redisstore.Config{Addresses: []string{address}, Secret: []byte("hunter2")},
			[]string{"Secret has 7 bytes: set at least 32 random ones, or none"}},
		"times": {redisstore.Config{Addresses: []string{address}, Timeout: -1, CheckInterval: 2 * time.Minute, Leeway: -1, ClockSkew: 25 * time.Hour},
			[]string{
				"Timeout is -1ns: set a positive duration of at most 1m0s, or 0 for 500ms",
				"CheckInterval is 2m0s: set a positive duration of at most 1m0s, or 0 for 1s",
				"Leeway is -1ns: ", "ClockSkew is 25h0m0s: ",
			}},
		"all at once": {redisstore.Config{
			Addresses: []string{"redis://app:hunter2@redis.internal:6379", address, ":6379", "host:0", "host:http", "a b:1", ":password:hunter2@h"},
			Cluster:   true, Infinispan: true, MinNodes: -1, Prefix: "}", Secret: make([]byte, 31), Username: "u", Timeout: time.Hour,
		}, []string{
			"Cluster, SentinelMaster and Infinispan exclude", "Addresses[0] is", "Addresses[2] is", "Addresses[3] is", "Addresses[4] is",
			"Addresses[5] is", "Addresses[6] is", "MinNodes is -1", "Password is empty", `Prefix is "}"`, "Secret has 31 bytes", "Timeout is 1h0m0s",
		}},
	} {
		_, err := redisstore.New(t.Context(), tt.cfg)
		checkMistakes(t, name, err, tt.want)
	}
	for name, cfg := range map[string]redisstore.Config{
		"an address": {Addresses: []string{address}}, "a kind": {Cluster: true}, "a primary": {SentinelMaster: "m"},
		"Infinispan": {Infinispan: true}, "nodes": {MinNodes: 2}, "a user": {Username: "u"}, "a password": {Password: "hunter2"},
		"a Sentinel's": {SentinelPassword: "hunter2"}, "TLS": {TLS: &tls.Config{}},
	} {
		_, err := redisstore.Adapt(t.Context(), newLink().command, cfg)
		checkMistakes(t, "Adapt with "+name, err, []string{"Addresses, and what says how to connect to them, are for New"})
	}
	_, err := redisstore.Adapt(t.Context(), newLink().command, redisstore.Config{Leeway: -1, Secret: make([]byte, 1)})
	checkMistakes(t, "Adapt with two", err, []string{"Secret has 1 bytes", "Leeway is -1ns"})
	_, err = redisstore.Adapt(t.Context(), nil, redisstore.Config{})
	require.EqualError(t, err, "redisstore: Command is nil: give a function that sends a command through your client")
}

func checkMistakes(t *testing.T, name string, err error, want []string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error, want %q", name, want)
		return
	}
	lines := strings.Split(strings.ReplaceAll(err.Error(), "\nClockSkew", "\nredisstore: Config.ClockSkew"), "\n")
	if len(lines) != len(want) {
		t.Errorf("%s: %d mistakes, want %d:\n%v", name, len(lines), len(want), err)
		return
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, "redisstore: Config."+want[i]) {
			t.Errorf("%s: %q does not begin with Config.%s", name, line, want[i])
		}
	}
	if mentions(err, "hunter2") {
		t.Errorf("%s: the error shows what may be a password: %v", name, err)
	}
}

func newLink() *link { return &link{server: newServer()} }

// TestDefaults sees them in what the store does: the keys that it sets, and when it can be used.
func TestDefaults(t *testing.T) {
	l := newLink()
	store := adapt(t, l.command, redisstore.Config{InsecureSkipChecks: true})
	if _, _, ok := store.Allowance(); ok {
		t.Error("with InsecureSkipChecks nothing is refused by when it was made, but Allowance says so")
	}
	store = adapt(t, l.command, redisstore.Config{})
	if l, c, ok := store.Allowance(); l != leeway || c != clockSkew || !ok {
		t.Errorf("Allowance is (%v, %v, %t), want the Verifier's defaults", l, c, ok)
	}
	store = adapt(t, l.command, redisstore.Config{Leeway: time.Second, ClockSkew: 2 * time.Second})
	if l, c, ok := store.Allowance(); l != time.Second || c != 2*time.Second || !ok {
		t.Errorf("Allowance is (%v, %v, %t), want Config's", l, c, ok)
	}
	if l.server.get(markKey) == "" {
		t.Errorf("the mark is not %s: the default of Prefix is not dpop:", markKey)
	}
}

// TestConfigIsCopied: what the caller does with its slices later does not change a store.
func TestConfigIsCopied(t *testing.T) {
	l := newLink()
	secret := []byte("0123456789abcdef0123456789abcdef")
	store := adapt(t, l.command, redisstore.Config{InsecureSkipChecks: true, Secret: secret})
	requireFirst(t, store, proof(1))
	clear(secret)
	if first, err := use(store, proof(1)); first || err != nil {
		t.Errorf("after the caller cleared its secret a used key got (%t, %v), want (false, nil)", first, err)
	}
}

func TestParseURL(t *testing.T) {
	for url, want := range map[string]redisstore.Config{
		"redis://redis.internal":                           {Addresses: []string{"redis.internal:6379"}},
		"redis://redis.internal/":                          {Addresses: []string{"redis.internal:6379"}},
		"redis://10.0.0.1:7000":                            {Addresses: []string{"10.0.0.1:7000"}},
		"redis://[::1]":                                    {Addresses: []string{"[::1]:6379"}},
		"redis://[fe80::1%eth0]:7000":                      {Addresses: []string{"[fe80::1%eth0]:7000"}},
		"redis://a,b:1,[::1]":                              {Addresses: []string{"a:6379", "b:1", "[::1]:6379"}, Cluster: true},
		"redis+cluster://all.internal":                     {Addresses: []string{"all.internal:6379"}, Cluster: true},
		"redis+sentinel://a,b:1/mymaster":                  {Addresses: []string{"a:26379", "b:1"}, SentinelMaster: "mymaster"},
		"infinispan://a,b?min-nodes=2":                     {Addresses: []string{"a:11222", "b:11222"}, Infinispan: true, MinNodes: 2},
		"infinispan://a,b":                                 {Addresses: []string{"a:11222", "b:11222"}, Infinispan: true},
		"rediss://my_host-1.example":                       {Addresses: []string{"my_host-1.example:6379"}, TLS: &tls.Config{}},
		"rediss+cluster://a":                               {Addresses: []string{"a:6379"}, Cluster: true, TLS: &tls.Config{}},
		"rediss+sentinel://a/m":                            {Addresses: []string{"a:26379"}, SentinelMaster: "m", TLS: &tls.Config{}},
		"infinispans://a:1":                                {Addresses: []string{"a:1"}, Infinispan: true, TLS: &tls.Config{}},
		"rediss://" + strings.Repeat("a,", 99) + "a:65535": {Addresses: append(repeat("a:6379", 99), "a:65535"), Cluster: true, TLS: &tls.Config{}},
	} {
		got, err := redisstore.ParseURL(url)
		require.NoError(t, err, "%s", url)
		if want.TLS != nil {
			if got.TLS == nil || got.TLS.MinVersion < tls.VersionTLS12 || got.TLS.InsecureSkipVerify {
				t.Errorf("%s: TLS is %+v, want at least 1.2, verified", url, got.TLS)
			}
			want.TLS = got.TLS
		}
		require.Equal(t, want, got, "%s", url)
	}
}

func repeat(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

// TestParseURLShowsNothing: what people write by mistake often has a password in it.
func TestParseURLShowsNothing(t *testing.T) {
	const user = "has a user name or a password: leave it out, and set it as Username and Password"
	const host = "has something else than a host in place 1: give host or host:port, and an IPv6 address in brackets"
	const kind = "is of no kind that is known: begin it with redis://, rediss://, redis+cluster://, redis+sentinel:// or infinispan://"
	const path = "has a path: leave it out; proofs are kept in database 0"
	const primary = "names no primary: put its name, and nothing else, after the hosts, as in redis+sentinel://host/mymaster"
	const parameters = "has parameters: leave them out; only hosts and ports, and the ?min-nodes=2 of Infinispan, can be said in it"
	for url, want := range map[string]string{
		"redis://:hunter2@host":                user,
		"redis://app:hunter2@host:6379":        user,
		"redis://hunter2%40host@host":          user,
		"app:hunter2@host":                     user,
		"hunter2@":                             user,
		"hunter2":                              kind,
		"":                                     kind,
		"redis.internal:6379,password=hunter2": kind,
		"REDIS://hunter2":                      kind,
		"http://hunter2":                       kind,
		"unix:///run/redis.sock?password=hunter2":  kind,
		" redis://hunter2":                         kind,
		"redis://host:6379?password=hunter2":       parameters,
		"redis://host/0?password=hunter2":          parameters,
		"redis://host?min-nodes=2":                 parameters,
		"infinispan://host?min-nodes=hunter2":      parameters,
		"infinispan://host?min-nodes=":             parameters,
		"infinispan://host?min-nodes=0":            parameters,
		"infinispan://host?min-nodes=-1":           parameters,
		"infinispan://host?min-nodes=2&x=hunter2":  parameters,
		"infinispan://host?password=hunter2":       parameters,
		"redis://host#hunter2":                     parameters,
		"redis://host/hunter2":                     path,
		"redis://host/0":                           path,
		"infinispan://host/hunter2":                path,
		"redis+sentinel://host":                    primary,
		"redis+sentinel://host/":                   primary,
		"redis+sentinel://host/mymaster/hunter2":   primary,
		"redis+sentinel":                           primary,
		"redis":                                    host,
		"redis://":                                 host,
		"redis:///":                                host,
		"redis://app:hunter2":                      host,
		"redis://:hunter2":                         host,
		"redis://app:hunter2%40host":               host,
		"redis://host:hunter2:6379":                host,
		"redis://password=hunter2":                 host,
		"redis://[hunter2":                         host,
		"redis://hunter2]":                         host,
		"redis://[[hunter2]]":                      host,
		"redis://::1":                              host,
		"redis://host hunter2":                     host,
		"redis://host\thunter2":                    host,
		"redis://host\nhunter2":                    host,
		"redis://hünter2":                          host,
		"redis://host:":                            host,
		"redis://host:0":                           host,
		"redis://host:65536":                       host,
		"redis://host:+1":                          host,
		"redis://host:http":                        host,
		"redis://host,hunter2=,b":                  strings.Replace(host, "place 1", "place 2", 1),
		"redis://host,":                            strings.Replace(host, "place 1", "place 2", 1),
		"redis://host:6379,password=hunter2,ssl=y": strings.Replace(host, "place 1", "place 2", 1),
	} {
		got, err := redisstore.ParseURL(url)
		if err == nil || err.Error() != "redisstore: the URL "+want {
			t.Errorf("%q: got (%+v, %v), want the error that it %s", url, got, err, want)
		}
		if mentions(err, "hunter2") {
			t.Errorf("%q: the error shows the password: %v", url, err)
		}
	}
}

// FuzzParseURL: an error shows nothing of the URL but a scheme, and what is taken passes New's own checks.
func FuzzParseURL(f *testing.F) {
	for _, url := range []string{
		"redis://host", "rediss://a,b:1", "redis+cluster://[::1]:7", "redis+sentinel://a/m", "infinispans://h:1", "redis://u:p@h",
		"redis://h?x=y", "redis://h/1", "infinispan://h?min-nodes=2", "redis://host:port", "://", "redis://[fe80::1%25eth0]",
	} {
		f.Add(url)
	}
	shown := map[string]bool{} // what an error may say: no more than is said of URLs without anything of one's own
	for _, url := range []string{"@", "", "redis://?", "redis://", "redis:///x", "redis+sentinel://", "rediss+sentinel://"} {
		_, err := redisstore.ParseURL(url)
		shown[err.Error()] = true
	}
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	f.Fuzz(func(t *testing.T, url string) {
		cfg, err := redisstore.ParseURL(url)
		if err != nil {
			text := err.Error()
			if _, after, ok := strings.Cut(text, "in place "); ok {
				var place int
				_, scanErr := fmt.Sscan(after, &place)
				require.NoError(t, scanErr)
				text = strings.Replace(text, fmt.Sprintf("in place %d:", place), "in place 1:", 1)
			}
			if !shown[text] {
				t.Errorf("%q: the error may show something of the URL: %v", url, err)
			}
			return
		}
		// New looks at the whole Config before it sees that ctx has ended.
		if _, err := redisstore.New(ctx, cfg); err != context.Canceled {
			t.Errorf("%q: is taken, but as a Config it gets %v", url, err)
		}
	})
}
